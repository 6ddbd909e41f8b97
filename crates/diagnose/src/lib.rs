//! What a model's gradients say of preference pairs, before a training run is spent.
//!
//! [`measure_pairs`] takes each pair's exact Gram numbers over all trainable parameters from one forward and one
//! backward pass; [`measure_proxies`] what a forward pass alone gives.
//!
//! Knows nothing of files.

mod measure;

pub use measure::{Hidden, Measured, PairMeasurement, measure_pairs, measure_proxies};
