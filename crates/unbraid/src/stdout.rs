//! Everything that other programs read: data on stdout, byte for byte.
//!
//! This is the one place that writes there. A reader that has gone away (`| head`) is no error; a full disk is.

use crate::say;
use anyhow::{Context, Result};
use std::io::{ErrorKind, IsTerminal, Write};

/// Whether anybody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    Gone,
}

/// Prints data.
///
/// # Errors
/// What the system refuses, but for a reader that has gone away.
pub(crate) fn print(text: &str) -> Result<()> {
    stream(text).map(|_| ())
}

/// As [`print`]; tells whether it is worth to go on.
pub(crate) fn stream(text: &str) -> Result<Reader> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that writes to stdout"
    )]
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Prints text that a model or a file made: as it is, but escaped where it would go to a terminal.
pub(crate) fn print_foreign(text: &str) -> Result<Reader> {
    match is_terminal() {
        true => stream(&say::shown(text)),
        false => stream(text),
    }
}

/// Whether a person sees it at once.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that looks at stdout"
)]
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
