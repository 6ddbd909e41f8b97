//! What a model's gradients say of preference pairs, before a training run is spent.
//!
//! [`measure_pairs`] takes each pair's exact Gram numbers over all trainable parameters from one forward and one
//! backward pass; [`measure_proxies`] what a forward pass alone gives.
//!
//! Knows nothing of files.

mod gram;
mod heat_map;
mod measure;

pub use gram::gram_matrix;
pub use heat_map::{HeatMap, HeatMapSettings, TokenCosines, heat_map, heat_map_in_walks};
pub use measure::{Hidden, Measured, PairMeasurement, measure_pairs, measure_proxies};
