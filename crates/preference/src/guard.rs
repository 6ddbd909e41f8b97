//! Turns a panic of a file reader into an error.
//!
//! The Arrow and Parquet readers trust offsets and lengths inside a file and panic on some damaged ones (out-of-range
//! slices, negative positions). Checking every such field here would repeat the formats; so their call is fenced
//! instead, and the panic's message, which would alarm a user, is not printed. The panic hook is wrapped once and
//! behaves as before outside the fence. Tested in `tests/bad_input.rs` by damaging every byte of a file.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static FENCED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `read`; a panic becomes its message. What `read` was changing is left as it was at the panic, so the caller
/// must not use it afterwards.
pub(crate) fn fenced<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    static WRAP: Once = Once::new();
    WRAP.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !FENCED.get() {
                previous(info);
            }
        }));
    });
    FENCED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    FENCED.set(false);
    outcome.map_err(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        format!(
            "it is damaged ({})",
            message
                .unwrap_or("the reader gave up")
                .lines()
                .next()
                .unwrap_or_default()
        )
    })
}
