//! The `fused-lstm` program: parses, runs, prints the error, gives the exit code.

mod cli;
mod commands;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let code = run(&Cli::parse()).unwrap_or_else(|error| {
        commands::complain(&error);
        error.exit_code()
    });
    ExitCode::from(code)
}

/// Runs the command; returns the exit code.
fn run(cli: &Cli) -> fused_lstm::Result<u8> {
    match &cli.command {
        None => commands::train::run(&cli.train)?,
        Some(Command::Train(args)) => commands::train::run(args)?,
        Some(Command::Eval(args)) => commands::eval::run(args)?,
        Some(Command::Predict(args)) => return commands::predict::run(args),
        Some(Command::Data(args)) => commands::data::run(args)?,
        Some(Command::Verify(args)) => return Ok(commands::verify::run(args)),
        Some(Command::Bench(args)) => commands::bench::run(args)?,
        Some(Command::Completions { shell }) => commands::help::completions(*shell)?,
        Some(Command::Man { dir }) => commands::help::man(dir.as_deref())?,
    }
    Ok(0)
}
