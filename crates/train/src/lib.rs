//! Training: optimizers, schedules, samplers, the preference and fine-tuning tasks, the loop, checkpoints.
//!
//! [`run`] drives a [`Task`] (what one optimizer step minimises) through steps, logging, evaluation and saving.
//! [`PreferenceTask`] is every margin objective on pairs with in-run geometry; [`SftTask`] is maximum
//! likelihood. Scoring without training is [`score_pairs`]. Draws nothing on the screen: callers pass an
//! [`Observer`].

mod attribution;
mod checkpoint;
mod error;
mod metrics;
mod optimizer;
mod pack;
mod preference;
mod record;
mod reference;
mod resume;
mod run;
mod sampler;
mod schedule;
mod score;
mod sft_task;
mod snapshot;
mod state;
mod step_rows;
mod trainer;
mod unpaired_task;

pub use attribution::{AttributionPlan, Parts, ProbeSource, Probes, Push, SideParts};
pub use checkpoint::{Files, clear_leftovers, is_leftover_file};
pub use error::TrainError;
pub use metrics::{Averages, MetricsFile};
pub use optimizer::{Optimizer, OptimizerKind};
pub use pack::{ROWS_AT_ONCE, pack_pairs, pack_sequences};
pub use preference::{
    ChangeSplit, Decode, MaskSettings, MovingReference, PreferenceSettings, PreferenceTask,
    ReferenceLogps, ReferencedPairs, Remedy, TokenMask, split_changes,
};
pub use record::PairRecord;
pub use reference::{ReferenceCache, SequenceKey, score_reference};
pub use resume::{Checkpoint, RunIdentity};
pub use run::{clip_factor, run};
pub use sampler::{Sampler, SamplingOrder};
pub use schedule::{Ramp, Schedule, ScheduleKind};
pub use score::{ScoredPair, score_pairs, score_pairs_into};
pub use sft_task::SftTask;
pub use snapshot::{Snapshot, effects};
pub use trainer::{
    BestModel, Cadence, Observer, Outcome, Settings, StepRecord, Task, TrainingPlan,
};
pub use unpaired_task::{ReferencedExamples, UnpairedTask};
