//! Gradient geometry: inner products of responses' own gradients, exact over all trainable parameters.
//!
//! [`GramSink`] watches one backward pass with unit seeds on a per-response plan and, layer by layer, forms each
//! response's own gradient, takes the inner products, adds the objective's combination into the training
//! gradient if there is one, and drops it. So g_w and g_l (SPEC: ∇_θ of the chosen and rejected log-prob) are
//! never held whole, and training with geometry still needs one backward pass only.
//!
//! [`DirectionSink`] takes the first-order effect of one change of the parameters on every response instead.
//!
//! Knows nothing of files, objectives or preferences: it sees responses and coefficients.

mod direction;
mod gram;

pub use direction::DirectionSink;
pub use gram::{Cluster, GramSink, GroupedGram, OwnGradients, row_coefficients};
