//! Activations with their derivatives.

use crate::arguments::Gate;

/// erf by its Taylor series for small arguments and a continued fraction of erfc for large ones; error below 1e-14.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        let mut n = 0.0;
        while term.abs() > 1e-18 * sum.abs().max(1e-300) {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let mut fraction = 0.0;
        for k in (1..=60).rev() {
            fraction = (k as f64 / 2.0) / (a + fraction);
        }
        1.0 - (-a * a).exp() / ((a + fraction) * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

/// gelu(x) and its derivative.
pub(super) fn gelu_with_slope(x: f64, exact: bool) -> (f64, f64) {
    if exact {
        let cdf = 0.5 * (1.0 + erf(x / 2f64.sqrt()));
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (x * cdf, cdf + x * density)
    } else {
        let c = (2.0 / std::f64::consts::PI).sqrt();
        let t = (c * (x + 0.044715 * x.powi(3))).tanh();
        let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x);
        (0.5 * x * (1.0 + t), slope)
    }
}

/// A gate's activation of z and its derivative.
pub(super) fn gate_with_slope(kind: Gate, z: f64) -> (f64, f64) {
    match kind {
        Gate::Silu => {
            let s = 1.0 / (1.0 + (-z).exp());
            (z * s, s * (1.0 + z * (1.0 - s)))
        }
        Gate::GeluTanh => gelu_with_slope(z, false),
        Gate::Gelu => gelu_with_slope(z, true),
    }
}
