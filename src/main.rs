//! The `fused-lstm` program: parses, runs, prints the error, gives the exit code.

mod cli;
mod commands;

use clap::{Parser, error::ErrorKind};
use cli::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(run(&parse()).unwrap_or_else(tell))
}

/// The command line. A value that cannot be used is told in one line, as this program's own errors are.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| match error.kind() {
        ErrorKind::ValueValidation => {
            let text = error.to_string();
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{}", text.lines().next().unwrap_or_default());
            std::process::exit(2)
        }
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let written = error.print().and_then(|()| std::io::stdout().flush());
            std::process::exit(commands::written(written).map_or_else(tell, |()| 0).into())
        }
        _ => error.exit(),
    })
}

/// Prints an error; returns its exit code.
fn tell(error: fused_lstm::Error) -> u8 {
    commands::complain(&error);
    error.exit_code()
}

/// Runs the command; returns the exit code.
fn run(cli: &Cli) -> fused_lstm::Result<u8> {
    match &cli.command {
        None => commands::train::run(&cli.train)?,
        Some(Command::Train(args)) => commands::train::run(args)?,
        Some(Command::Eval(args)) => commands::eval::run(args)?,
        Some(Command::Predict(args)) => return commands::predict::run(args),
        Some(Command::Export(args)) => commands::export::run(args)?,
        Some(Command::Import(args)) => commands::import::run(args)?,
        Some(Command::Sweep(args)) => commands::sweep::run(args)?,
        Some(Command::Report(args)) => commands::report::run(args)?,
        Some(Command::Data(args)) => commands::data::run(args)?,
        Some(Command::Verify(args)) => return Ok(commands::verify::run(args)),
        Some(Command::Bench(args)) => commands::bench::run(args)?,
        Some(Command::Profile(args)) => commands::profile::run(args)?,
        Some(Command::Kernels(args)) => commands::kernels::run(args)?,
        Some(Command::Doctor(args)) => commands::doctor::run(args)?,
        Some(Command::Completions { shell }) => commands::help::completions(*shell)?,
        Some(Command::Man { dir }) => commands::help::man(dir.as_deref())?,
    }
    Ok(0)
}
