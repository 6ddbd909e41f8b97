//! What a preference-training run will take: memory by part, work by kind, time.
//!
//! ```text
//! RunShape (config, lengths, options) ── simulate ──► Simulation { footprint, phases, steps, work }
//!                                                        │
//! CPU (measure) or GPU (Profile) ──► Rates ──────────────┴──► seconds
//! ```
//!
//! Nothing is described twice: the model's forward and backward and the trainer's step run on a backend whose buffers
//! are sizes ([`MeterBackend`]) and which counts what it is asked to do. So a new family, another remedy or a leaner
//! backward is planned right without a change here; what must follow by hand are the pool's rules (`shelf.rs`) and the
//! constants of a few CPU operations (`meter.rs`). Knows configurations and lengths, no files. Checked against measured
//! runs by `bench/plan_check.py`, against counts by hand in `tests/by_hand.rs`.

mod meter;
mod profile;
mod rates;
mod shelf;
mod simulate;
mod work;

pub use meter::{MeterBackend, MeterBuffer};
pub use profile::{PROFILES, Profile, find};
pub use rates::{BANDWIDTH_SHARE, Probe, Rates, measure};
pub use simulate::{
    BatchSizes, Footprint, Phases, PlanError, RunShape, Simulation, Steps, simulate,
};
pub use work::{Kind, NARROW, Work, visible_pairs};
