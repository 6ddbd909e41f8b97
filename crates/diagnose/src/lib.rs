//! What a model's gradients say of preference pairs, before a training run is spent.
//!
//! [`measure_pairs`] takes each pair's exact Gram numbers over all trainable parameters from one forward and one
//! backward pass; [`measure_proxies`] what a forward pass alone gives.
//!
//! [`WhatIf`] turns them into what every objective would do to the pair, [`Sweep`] into what its hyper-parameters would
//! change, [`SummaryBuilder`] into a data set's diagnosis; [`PairRow`] is a pair as files hold it.
//!
//! Knows nothing of files.

mod gram;
mod heat_map;
mod measure;
mod record;
mod similarity;
mod statistics;
mod step;
mod summary;
mod sweep;
mod what_if;

pub use gram::gram_matrix;
pub use heat_map::{HeatMap, HeatMapSettings, TokenCosines, heat_map, heat_map_in_walks, walks};
pub use measure::{Hidden, Measured, PairMeasurement, measure_pairs, measure_proxies};
pub use record::{FIELDS, GRADIENT_FIELDS, Gradients, GroupRow, Named, Outcome, PairRow};
pub use similarity::{edit_distance, shared_tokens};
pub use statistics::{mean, median, pearson, quantile, sorted, spearman};
pub use step::{SingleStep, StepEffect, StepSettings};
pub use summary::{
    Agreement, Cases, Facts, GroupSummary, ObjectiveSummary, PROXIES, PointSummary, ProxySummary,
    StepSummary, Summary, SummaryBuilder, SweepSummary,
};
pub use sweep::{Sweep, SweepError, SweepSpec, Swept, Tally};
pub use what_if::{WhatIf, WhatIfSettings};
