//! Turns a panic of somebody else's reader into an error.
//!
//! The Arrow and Parquet readers and the `tokenizers` crate trust lengths and references inside a file and panic on
//! some damaged ones. Checking every such field here would repeat the formats; so their call is fenced instead, and
//! the panic's message, which would alarm a user, is not printed. The panic hook is wrapped once and behaves as
//! before outside the fence. A failed allocation and an overflowed stack are no panics: what can lead there is
//! checked before (`validate.rs`). Tested in `tests/bad_tokenizer.rs`, and in `unbraid-preference`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static FENCED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `read`; a panic becomes the first line of its message. What `read` was changing is left as it was at the
/// panic, so the caller must not use it afterwards. Fences may be nested.
///
/// # Errors
/// The panic's message.
pub fn fenced<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    static WRAP: Once = Once::new();
    WRAP.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !FENCED.get() {
                previous(info);
            }
        }));
    });
    let outer = FENCED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    FENCED.set(outer);
    outcome.map_err(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        message
            .unwrap_or("the reader gave up")
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    })
}
