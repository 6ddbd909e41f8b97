//! The `unbraid` binary: parse, run, report errors.

use std::process::ExitCode;
use unbraid::commands::{self, End};

fn main() -> ExitCode {
    let parsed = match unbraid::cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return error.print(),
    };
    for note in &parsed.notes {
        eprintln!("note: {note}");
    }
    match commands::run(parsed.command) {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", commands::message(&error));
            ExitCode::from(commands::exit_code(&error))
        }
    }
}
