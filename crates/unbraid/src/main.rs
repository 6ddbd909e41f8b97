//! The `unbraid` binary: parse, set up threads and Ctrl-C, run, report errors.

use std::process::ExitCode;

fn main() -> ExitCode {
    let parsed = match unbraid::cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return error.print(),
    };
    for note in &parsed.notes {
        eprintln!("note: {note}");
    }
    match unbraid::commands::run(parsed.command) {
        Ok(unbraid::commands::End::Done) => ExitCode::SUCCESS,
        Ok(unbraid::commands::End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
