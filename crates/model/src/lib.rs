//! model

pub mod config;
pub mod error;
pub mod weights;

pub use error::ModelError;
