//! The `unbraid` binary: parse, run, report errors.

use std::process::ExitCode;
use unbraid::commands::{self, End};
use unbraid::{interrupt, say};

fn main() -> ExitCode {
    interrupt::install();
    let parsed = match unbraid::cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return error.print(),
    };
    parsed.notes.iter().for_each(|note| say::note(note));
    match commands::run(parsed.command) {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            say::error(&commands::message(&error));
            ExitCode::from(commands::exit_code(&error))
        }
    }
}
