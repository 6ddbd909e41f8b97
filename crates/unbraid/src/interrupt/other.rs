//! Ctrl-C where there are no Unix signals.

use std::io;

/// Starts to listen.
pub(super) fn listen() -> io::Result<()> {
    ctrlc::set_handler(super::on_signal).map_err(io::Error::other)
}

/// Ends the process.
pub(super) fn exit(code: u8) -> ! {
    std::process::exit(i32::from(code))
}
