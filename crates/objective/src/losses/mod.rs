//! One file for each objective (or close pair of objectives): formula, loss, d_w and d_l, defaults, stability, source.
//!
//! Every file holds a parameter struct whose fields are public, its `Default`, its reading of the options, one function
//! with the formula, and a [`Description`] from which `unbraid objectives` and the documentation are printed.

use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::ObjectiveError;
use crate::nll::{Nll, NllAverage};

mod alphapo;
mod aot;
mod apo;
mod bco;
mod cdpo;
mod cpo;
mod discopop;
mod dpo;
mod dpop;
mod exo;
mod hinge;
mod ipo;
mod kto;
mod nca;
mod orpo;
mod rdpo;
mod robust;
mod rpo;
mod rrhf;
mod sft;
mod sigmoid_norm;
mod simpo;
mod slic;
mod sppo;

pub use alphapo::AlphaPo;
pub use aot::{Aot, AotUnpaired};
pub use apo::{ApoDown, ApoZero};
pub use bco::{BcoPair, RewardShift, RunningMean};
pub use cdpo::Cdpo;
pub use cpo::Cpo;
pub use discopop::DiscoPop;
pub use dpo::Dpo;
pub use dpop::Dpop;
pub use exo::ExoPair;
pub use hinge::Hinge;
pub use ipo::Ipo;
pub use kto::{KlEstimate, Kto};
pub use nca::NcaPair;
pub use orpo::Orpo;
pub use rdpo::RDpo;
pub use robust::Robust;
pub use rpo::Rpo;
pub use rrhf::Rrhf;
pub use sft::Sft;
pub use sigmoid_norm::SigmoidNorm;
pub use simpo::SimPo;
pub use slic::Slic;
pub use sppo::Sppo;

/// What every objective can do.
pub(crate) trait Loss {
    /// What it is.
    fn description(&self) -> &'static Description;

    /// Whether its hyper-parameters are in range.
    fn validate(&self) -> Result<(), ObjectiveError>;

    /// Whether it divides by the chosen and by the rejected completion's length.
    fn divides_by_length(&self) -> (bool, bool) {
        (false, false)
    }

    /// Its likelihood term, which [`Loss::evaluate`] has added.
    fn likelihood(&self) -> Nll {
        Nll::OFF
    }

    /// Whether a pair's loss depends on the batch's other pairs.
    fn reads_batch(&self) -> bool {
        let nll = self.likelihood();
        nll.weight != 0.0 && nll.average == NllAverage::BatchTokens
    }

    /// Losses and coefficients, one for each pair, of a batch whose fields have been checked.
    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss>;
}
