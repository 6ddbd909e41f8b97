//! The few scalar functions that the losses share, each finite wherever its value is.

/// Largest exponent that exponential scores are given (e^80 ≈ 5.5e34), TRL's bound for its α-divergence: beyond it the
/// score stays at its bound with slope 0 instead of overflowing.
pub(crate) const MAX_EXPONENT: f64 = 80.0;

/// σ(x) = 1/(1+e^−x), with full relative accuracy in the left tail (never 1 − something).
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// σ'(x) = σ(x)σ(−x).
pub(crate) fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// log(1+e^x), which is −log σ(−x); grows like x, never overflows.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// log σ(x).
pub(crate) fn log_sigmoid(x: f64) -> f64 {
    -softplus(-x)
}

/// Logistic loss with flip probability ε: ((1−ε)·−log σ(u) + ε·−log σ(−u), c) with c = −∂/∂u = σ(−u) − ε.
///
/// With ε = 0 the second value keeps its relative accuracy in both tails.
pub(crate) fn logistic(margin: f64, smoothing: f64) -> (f64, f64) {
    let clean = softplus(-margin);
    if smoothing == 0.0 {
        return (clean, sigmoid(-margin));
    }
    let loss = (1.0 - smoothing) * clean + smoothing * softplus(margin);
    (
        loss,
        (1.0 - smoothing) * sigmoid(-margin) - smoothing * sigmoid(margin),
    )
}

/// log(1 − e^x) for x < 0, without cancellation at either end.
pub(crate) fn log_1m_exp(x: f64) -> f64 {
    if x < -std::f64::consts::LN_2 {
        (-x.exp()).ln_1p()
    } else {
        (-x.exp_m1()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_keep_their_relative_accuracy() {
        // σ(−500) = e^−500 to the last bit or two; 1 − σ(500) would be 0.
        let want = (-500.0f64).exp();
        assert!((sigmoid(-500.0) / want - 1.0).abs() < 1e-15);
        assert!((softplus(-500.0) / want - 1.0).abs() < 1e-15);
        assert_eq!(softplus(500.0), 500.0);
        assert_eq!(log_sigmoid(-5000.0), -5000.0);
        // log(1 − e^−1e−10) ≈ log(1e−10) = −23.0258509299…, where 1 − e^x would keep six digits.
        assert!((log_1m_exp(-1e-10) + 23.025_850_93).abs() < 1e-8);
        assert!((log_1m_exp(-2.0) - (1.0 - (-2.0f64).exp()).ln()).abs() < 1e-15);
    }

    #[test]
    fn logistic_at_zero_is_log_two() {
        // u = 0: both branches log 2; slope ½ − ε.
        let (loss, c) = logistic(0.0, 0.1);
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((c - 0.4).abs() < 1e-15);
    }
}
