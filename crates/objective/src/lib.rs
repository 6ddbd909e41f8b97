//! Preference objectives as pure maths on log-probabilities.
//!
//! An objective sees, for each preference pair, four summed log-probs and two lengths ([`PairLogps`]) and returns
//! the loss with its two coefficients ([`PairLoss`]), nothing else: no tensor, no model, no file. So every formula
//! can be read, tested and plotted by itself, and the trainer's backward needs only two numbers a pair to start.
//!
//! One sign convention everywhere (arXiv:2410.13828, eq. 7 and 8): `d_w = −∂ℓ/∂a_w` and `d_l = +∂ℓ/∂a_l`, so that
//! `∇ℓ = −d_w g_w + d_l g_l` with `g_w`, `g_l` the gradients of the two log-probs, and both coefficients are positive
//! for an objective that pulls the chosen completion up and pushes the rejected one down.
//!
//! - [`Objective`]: which objective, with its hyper-parameters; [`Objective::from_name`] builds one by name.
//! - [`losses`]: one file for each objective: formula, derivatives, defaults, stability, source.
//! - [`condition`]: what one gradient step does to the two log-probs, and the case a pair is in.
//! - [`remedy`]: coefficient rules under which every pair is ideal.
//! - [`describe()`]: the same facts as data, for `unbraid objectives NAME` and the documentation.
//!
//! Left out on purpose: reduction over the batch (the trainer takes the mean over pairs), token-level weights (the
//! trainer applies [`length_desensitized`] weights before summing), and any state (it is passed in and handed back).
//!
//! Tested by hand-worked cases in each file, by central differences and properties in `tests/`, and against TRL's own
//! code in `tests/parity/`.

mod batch;
pub mod condition;
pub mod describe;
mod divergence;
mod error;
pub mod length_desensitized;
pub mod losses;
mod margin;
mod nll;
mod numeric;
mod objective;
mod options;
mod registry;
pub mod remedy;
pub mod weighting;

pub use batch::{PairLogps, PairLoss};
pub use condition::{Case, Gram};
pub use describe::{Description, describe};
pub use divergence::Divergence;
pub use error::ObjectiveError;
pub use nll::{Nll, NllAverage};
pub use objective::Objective;
pub use options::{ObjectiveOptions, Semantics};
