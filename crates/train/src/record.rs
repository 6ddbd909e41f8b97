//! What a step did with each of its pairs, as a value that an [`Observer`](crate::Observer) may write down.
//!
//! A record holds numbers only, no text: `index` leads back to the row of the data set. The task makes the records
//! while it has the numbers at hand, the loop hands them on and keeps none.

use unbraid_objective::Case;

/// One pair in one optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairRecord {
    /// The row's place in the data set, counted from 0.
    pub index: usize,
    /// log π(y_w|x) in the step's forward pass, in nats: the sum over the chosen completion's tokens as the objective
    /// read it, weighted where tokens are weighted.
    pub chosen_logps: f64,
    /// log π(y_l|x) likewise.
    pub rejected_logps: f64,
    /// log π_ref(y_w|x) over the same tokens and weights, in nats; `None` without a reference.
    pub ref_chosen_logps: Option<f64>,
    /// log π_ref(y_l|x), in nats; `None` without a reference.
    pub ref_rejected_logps: Option<f64>,
    /// Tokens of the chosen completion.
    pub chosen_len: usize,
    /// Tokens of the rejected completion.
    pub rejected_len: usize,
    /// The pair's loss, without its weight.
    pub loss: f64,
    /// −∂ℓ/∂log π(y_w|x) as it was applied (after a remedy), without the pair's weight.
    pub d_w: f64,
    /// ∂ℓ/∂log π(y_l|x) as it was applied, without the pair's weight.
    pub d_l: f64,
    /// The case to first order; `None` where the geometry was not measured.
    pub case: Option<Case>,
    /// ‖g_w‖² over the trainable parameters; `None` where it was not measured.
    pub grad_sq_chosen: Option<f64>,
    /// ‖g_l‖²; `None` where it was not measured.
    pub grad_sq_rejected: Option<f64>,
    /// ⟨g_w, g_l⟩; `None` where it was not measured.
    pub grad_inner: Option<f64>,
}
