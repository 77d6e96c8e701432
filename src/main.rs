//! The `fused-lstm` program: parses, runs, prints the error, gives the exit code.

mod cli;
mod commands;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => commands::train::run(&cli.train),
        Some(Command::Train(args)) => commands::train::run(&args),
        Some(Command::Eval(args)) => commands::eval::run(&args),
        Some(Command::Predict(args)) => commands::predict::run(&args),
        Some(Command::Data(args)) => commands::data::run(&args),
        Some(Command::Verify(args)) => commands::verify::run(&args),
        Some(Command::Bench(args)) => commands::bench::run(&args),
        Some(Command::Completions { shell }) => commands::help::completions(shell),
        Some(Command::Man { dir }) => commands::help::man(dir.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
