//! How the program is told to end, and how long it takes.
//!
//! One SIGINT, SIGTERM or SIGHUP ends every command within two seconds, whatever it is at, with exit code 130:
//!
//! | what the command does | what becomes of it |
//! |---|---|
//! | it has nothing to save (reads rows, plans, merges, waits for the hub) | ends at once |
//! | it looks at `Interrupt::pressed`, or passes cancel it (`Interrupt::stops_itself`) | ends by itself, else after `GRACE` |
//! | it trains (`Interrupt::saves`) | abandons the step in flight and saves the last finished one, however long that takes |
//!
//! What ends from outside is cleaned up after (`traces.rs`). A second signal ends everything at once. A signal that was ignored
//! when the program started (`nohup`, a shell's background) stays ignored. The state is the process's, as signals are.

#[cfg(not(unix))]
mod other;
pub(crate) mod traces;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
use other as system;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use unbraid_model::Cancel;
#[cfg(unix)]
use unix as system;

/// How long a command that stops itself may take.
const GRACE: Duration = Duration::from_millis(1500);
/// How long a command that is on its way out may take.
const LEAVE: Duration = Duration::from_millis(150);
/// Exit code of a command that was told to end.
pub const EXIT_CODE: u8 = 130;

/// Tells whether the program was told to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(());

/// What the command is at.
#[derive(Debug, Default)]
struct Phase {
    stopping_itself: usize,
    saving: usize,
    /// When something of these ended last.
    released: Option<Instant>,
    /// When the first signal came.
    pressed: Option<Instant>,
}

static PHASE: Mutex<Phase> = Mutex::new(Phase {
    stopping_itself: 0,
    saving: 0,
    released: None,
    pressed: None,
});

fn phase() -> MutexGuard<'static, Phase> {
    PHASE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Phase {
    /// Whether a command that was told to end has had its time.
    fn is_over(&self, now: Instant) -> bool {
        let Some(pressed) = self.pressed.filter(|_| self.saving == 0) else {
            return false;
        };
        let since = self
            .released
            .map_or(pressed, |released| released.max(pressed));
        let allowed = match self.stopping_itself {
            0 => LEAVE,
            _ => GRACE,
        };
        now.saturating_duration_since(since) >= allowed
    }
}

/// The token that the process's models are given.
pub(crate) fn cancel() -> Cancel {
    static CANCEL: OnceLock<Cancel> = OnceLock::new();
    CANCEL.get_or_init(Cancel::default).clone()
}

/// Whether the program was told to end.
pub(crate) fn pressed() -> bool {
    cancel().is_cancelled()
}

/// Listens to signals from now on; to be called once, first of all.
pub fn install() {
    if let Err(error) = system::listen() {
        note!("Ctrl-C will stop without saving: {error}");
    }
}

/// Kinds of work that a signal does not end at once.
#[derive(Clone, Copy, Debug)]
enum Kind {
    StopsItself,
    Saves,
}

/// Such work, until it is dropped.
#[derive(Debug)]
pub(crate) struct Work(Kind);

impl Work {
    fn begin(kind: Kind) -> Self {
        *kind.count(&mut phase()) += 1;
        Work(kind)
    }
}

impl Kind {
    fn count(self, phase: &mut Phase) -> &mut usize {
        match self {
            Kind::StopsItself => &mut phase.stopping_itself,
            Kind::Saves => &mut phase.saving,
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut phase = phase();
        *self.0.count(&mut phase) -= 1;
        phase.released = Some(Instant::now());
    }
}

impl Interrupt {
    /// The process's.
    pub(crate) fn of_process() -> Self {
        Interrupt(())
    }

    /// Whether the user wants to stop.
    pub(crate) fn pressed(&self) -> bool {
        pressed()
    }

    /// From now on the command looks at `Interrupt::pressed`, keeps what it has, and needs no longer than [`GRACE`].
    #[must_use]
    pub(crate) fn stops_itself(&self) -> Work {
        Work::begin(Kind::StopsItself)
    }

    /// From now on the command stops by itself and saves what would be lost; nobody ends it meanwhile but a second signal.
    #[must_use]
    pub(crate) fn saves(&self) -> Work {
        Work::begin(Kind::Saves)
    }
}

/// A signal came. Runs on a thread of its own and never waits for anything that the command could hold.
fn on_signal() {
    let mut phase = phase();
    if phase.pressed.is_some() {
        drop(phase);
        leave();
    }
    phase.pressed = Some(Instant::now());
    let text = match *phase {
        Phase { saving: 1.., .. } => {
            "stopping; the last finished step will be saved (a second signal stops at once)"
        }
        Phase {
            stopping_itself: 1..,
            ..
        } => "stopping (a second signal stops at once)",
        _ => "interrupted",
    };
    drop(phase);
    cancel().cancel();
    let started = thread::Builder::new().spawn(|| {
        while !self::phase().is_over(Instant::now()) {
            thread::sleep(Duration::from_millis(10));
        }
        leave();
    });
    if started.is_err() {
        leave(); // no thread to wait with
    }
    // Stderr may be a pipe that nobody reads: who writes there may wait, this thread not.
    let _ = thread::Builder::new().spawn(move || say!("{text}"));
}

/// Ends the process from outside the command.
fn leave() -> ! {
    traces::remove();
    system::exit(EXIT_CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_saves_has_all_time_and_the_rest_a_little() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut phase = Phase::default();
        assert!(!phase.is_over(after(5000)), "nobody asked");
        phase.pressed = Some(start);
        assert!(!phase.is_over(after(100)) && phase.is_over(after(150)));
        phase.stopping_itself = 1;
        assert!(!phase.is_over(after(1400)) && phase.is_over(after(1500)));
        phase.saving = 1;
        assert!(!phase.is_over(after(60_000)));
        phase.saving = 0;
        phase.released = Some(after(60_000));
        assert!(!phase.is_over(after(61_400)) && phase.is_over(after(61_500)));
    }
}
