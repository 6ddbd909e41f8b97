//! Signals on Unix: a thread that waits for them.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

/// Starts to listen.
pub(super) fn listen() -> io::Result<()> {
    // A file that outgrows the limit is an error of the write then, not a death.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let mut signals = Signals::new(heard.filter(|&signal| !is_ignored(signal)))?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|_| super::on_signal()))?;
    Ok(())
}

/// Whether whoever started the program wants this signal ignored.
fn is_ignored(signal: i32) -> bool {
    let mut current = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null pointer for the new action nothing changes; the old one is written to `current`, which is large
    // enough for it.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) };
    if asked != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so it has written all of `current`.
    let current = unsafe { current.assume_init() };
    current.sa_sigaction == libc::SIG_IGN
}

/// Ends the process without running what other threads might hold up.
pub(super) fn exit(code: u8) -> ! {
    signal_hook::low_level::exit(i32::from(code))
}
