//! What goes into an objective and what comes out of it, for one pair.

/// The summed log-probs of one preference pair.
///
/// Sums run over the completion tokens (the end-of-sequence token included), in nats. An objective that needs no
/// reference ([`Objective::needs_reference`](crate::Objective::needs_reference)) reads neither reference field: they
/// may hold anything, NaN included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogps {
    /// `a_w`: log π(y_w|x) under the policy, nats.
    pub chosen: f64,
    /// `a_l`: log π(y_l|x) under the policy, nats.
    pub rejected: f64,
    /// `r_w`: log π_ref(y_w|x) under the frozen reference, nats.
    pub ref_chosen: f64,
    /// `r_l`: log π_ref(y_l|x) under the frozen reference, nats.
    pub ref_rejected: f64,
    /// `L_w`: how many tokens the chosen sum runs over.
    pub chosen_len: usize,
    /// `L_l`: how many tokens the rejected sum runs over.
    pub rejected_len: usize,
}

impl PairLogps {
    /// Chosen log-ratio `x_w = a_w − r_w`, nats.
    pub fn chosen_log_ratio(&self) -> f64 {
        self.chosen - self.ref_chosen
    }

    /// Rejected log-ratio `x_l = a_l − r_l`, nats.
    pub fn rejected_log_ratio(&self) -> f64 {
        self.rejected - self.ref_rejected
    }

    /// Margin `h = x_w − x_l`, nats; β·h is the reward margin.
    pub fn margin(&self) -> f64 {
        self.chosen_log_ratio() - self.rejected_log_ratio()
    }

    /// Mean chosen log-prob per token, `a_w / L_w`.
    pub fn chosen_mean(&self) -> f64 {
        self.chosen / self.chosen_len as f64
    }

    /// Mean rejected log-prob per token, `a_l / L_l`.
    pub fn rejected_mean(&self) -> f64 {
        self.rejected / self.rejected_len as f64
    }

    /// The same pair with both reference log-probs set to zero (`reference_free`).
    pub fn without_reference(&self) -> Self {
        Self {
            ref_chosen: 0.0,
            ref_rejected: 0.0,
            ..*self
        }
    }

    /// The pair with chosen and rejected exchanged.
    pub fn swapped(&self) -> Self {
        Self {
            chosen: self.rejected,
            rejected: self.chosen,
            ref_chosen: self.ref_rejected,
            ref_rejected: self.ref_chosen,
            chosen_len: self.rejected_len,
            rejected_len: self.chosen_len,
        }
    }
}

/// One pair's loss and its two coefficients, without reduction over the batch.
///
/// `∇ℓ = −d_w g_w + d_l g_l`. Where an objective looks across the batch, `d_w` and `d_l` hold the derivative of the
/// *sum* of the batch's losses with respect to this pair's log-probs, so the trainer's mean over pairs is right.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairLoss {
    /// ℓ, this pair's share of the loss, nats where the formula has a unit.
    pub loss: f64,
    /// `d_w = −∂ℓ/∂a_w`: positive where the objective pulls the chosen log-prob up.
    pub d_w: f64,
    /// `d_l = +∂ℓ/∂a_l`: positive where the objective pushes the rejected log-prob down.
    pub d_l: f64,
}

impl PairLoss {
    /// Loss and coefficients times `weight` (a row's `weight`, or
    /// [`weighting::pair_weight`](crate::weighting::pair_weight)).
    pub fn scaled(self, weight: f64) -> Self {
        Self {
            loss: weight * self.loss,
            d_w: weight * self.d_w,
            d_l: weight * self.d_l,
        }
    }

    /// Loss and coefficients of the sum of two objectives.
    pub fn plus(self, other: Self) -> Self {
        Self {
            loss: self.loss + other.loss,
            d_w: self.d_w + other.d_w,
            d_l: self.d_l + other.d_l,
        }
    }
}
