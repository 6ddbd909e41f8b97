//! Turns a panic of the Arrow and Parquet readers, which trust offsets and lengths inside a file, into an error.
//! The fence itself is [`unbraid_text::fenced`]. Tested in `tests/bad_input.rs` by damaging every byte of a file.

/// Runs `read`; a panic becomes a reason. What `read` was changing is left as it was at the panic, so the caller
/// must not use it afterwards.
pub(crate) fn fenced<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    unbraid_text::fenced(read).map_err(|message| format!("it is damaged ({message})"))
}
