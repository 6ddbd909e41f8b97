//! Stopping in the middle of a pass.
//!
//! A long row or a large model makes a single pass last minutes, and who wants to stop will not wait for it. So every pass asks
//! between two blocks whether it was cancelled ([`Cancel::check`]) and, if so, unwinds with [`Cancelled`]; whoever started the
//! work takes that up with [`Cancel::catch`]. A pass only reads its model, so what is abandoned are buffers. An unwinding, not
//! an error, because a pass has no other way to fail and several hundred signatures would carry one.
//!
//! Work that changes the model, or must end once it has begun, takes a [`Cancel::hold`]: meanwhile nothing unwinds.
//! A model's own token never cancels unless it is replaced by one that somebody holds ([`crate::LanguageModel::cancel`]).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Tells passes to stop; clones are one token.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: AtomicBool,
    holds: AtomicUsize,
}

/// What a cancelled pass unwinds with.
#[derive(Clone, Copy, Debug)]
pub struct Cancelled;

/// While it lives no pass unwinds.
#[derive(Debug)]
pub struct Hold(Arc<State>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Cancel {
    /// Asks all passes that hold this token to stop.
    pub fn cancel(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
    }

    /// Whether [`Cancel::cancel`] was called, held or not.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Keeps passes from stopping until the result is dropped.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.0.holds.fetch_add(1, Ordering::SeqCst);
        Hold(Arc::clone(&self.0))
    }

    /// Unwinds with [`Cancelled`] when cancelled and not held.
    pub fn check(&self) {
        if self.is_cancelled() && self.0.holds.load(Ordering::SeqCst) == 0 {
            // Past the panic hook: this is no fault to print.
            resume_unwind(Box::new(Cancelled));
        }
    }

    /// Runs `work`; `None` when a pass in it was cancelled. Every other panic goes on.
    pub fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => Some(done),
            Err(payload) if payload.is::<Cancelled>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_check_unwinds_unless_it_is_held() {
        let cancel = Cancel::default();
        let work = || {
            cancel.check();
            1
        };
        assert_eq!(Cancel::catch(work), Some(1));
        cancel.clone().cancel();
        assert_eq!(Cancel::catch(work), None);
        let (outer, inner) = (cancel.hold(), cancel.hold());
        drop(outer);
        assert_eq!(Cancel::catch(work), Some(1));
        drop(inner);
        assert_eq!(Cancel::catch(work), None);
    }

    #[test]
    #[should_panic(expected = "a mistake")]
    fn other_panics_go_on() {
        Cancel::catch(|| panic!("a mistake"));
    }
}
