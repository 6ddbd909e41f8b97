//! The f-divergence that holds the policy to its reference, as a transformation of the log-ratio.
//!
//! DPO's reward β·x is the reverse-KL case of β·f'(π/π_ref); another f replaces the score x by s(x) = f'(e^x), up to a
//! constant that the difference of two scores removes (Wang et al. 2023, arXiv:2309.16240, section 4). So only
//! losses that read the difference of the two scores can take one.

use crate::ObjectiveError;
use crate::error::check;
use crate::numeric::{MAX_EXPONENT, log_sigmoid, sigmoid};
use crate::options::{ObjectiveOptions, Semantics};

/// Which f-divergence; `score` gives s(x) and s'(x) for a log-ratio x.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Divergence {
    /// s = x: DPO as published.
    #[default]
    ReverseKl,
    /// s = 1 − e^−x. The exponent is held at 80 (policy e^80 times less likely than the reference): beyond, slope 0.
    ForwardKl,
    /// s = log 2 + log σ(x).
    JensenShannon,
    /// s = (e^{κx} − 1)/κ, with κ = α_TRL − 1, or −α in the paper's letter. κ = 0 is the reverse KL.
    Alpha {
        /// κ, no unit.
        exponent: f64,
    },
}

impl Divergence {
    /// Names of `f_divergence_type`, TRL's spelling.
    pub const NAMES: &'static str = "reverse_kl, forward_kl, js_divergence, alpha_divergence";

    /// Reads `f_divergence_type` and `f_alpha_divergence_coef`; nothing said is the reverse KL.
    ///
    /// TRL's coefficient is the order α in (t^{α−1} − 1)/(α−1), although its help text calls it the exponent
    /// of u^−α; the paper's is that exponent. The two agree only at their common default ½.
    ///
    /// # Errors
    /// [`ObjectiveError::UnknownChoice`] for another name, [`ObjectiveError::OutOfRange`] for a coefficient
    /// that is not finite.
    pub fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        match options.f_divergence_type.as_deref() {
            None | Some("reverse_kl") => Ok(Self::ReverseKl),
            Some("forward_kl") => Ok(Self::ForwardKl),
            Some("js_divergence") => Ok(Self::JensenShannon),
            Some("alpha_divergence") => {
                let coefficient = options.f_alpha_divergence_coef.unwrap_or(0.5);
                check(
                    "f_alpha_divergence_coef",
                    coefficient,
                    true,
                    "a finite number",
                )?;
                let exponent = match options.semantics {
                    Semantics::Trl => coefficient - 1.0,
                    Semantics::Paper => -coefficient,
                };
                Ok(Self::Alpha { exponent })
            }
            Some(other) => Err(ObjectiveError::UnknownChoice {
                option: "f_divergence_type",
                value: other.to_owned(),
                known: Self::NAMES,
            }),
        }
    }

    /// TRL's name of this divergence.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ReverseKl => "reverse_kl",
            Self::ForwardKl => "forward_kl",
            Self::JensenShannon => "js_divergence",
            Self::Alpha { .. } => "alpha_divergence",
        }
    }

    /// (s(x), s'(x)) for the log-ratio `x`, nats. Finite for every finite x; s' ≥ 0.
    pub fn score(&self, x: f64) -> (f64, f64) {
        match *self {
            Self::ReverseKl => (x, 1.0),
            Self::ForwardKl => {
                let (e, slope) = bounded_exp(-x);
                (1.0 - e, slope)
            }
            Self::JensenShannon => (std::f64::consts::LN_2 + log_sigmoid(x), sigmoid(-x)),
            // TRL takes the same limit within 1e-6 of κ = 0.
            Self::Alpha { exponent } if exponent.abs() < 1e-6 => (x, 1.0),
            Self::Alpha { exponent } => {
                let (e, slope) = bounded_exp(exponent * x);
                ((e - 1.0) / exponent, slope)
            }
        }
    }

    /// Whether the hyper-parameter is usable.
    pub(crate) fn validate(&self) -> Result<(), ObjectiveError> {
        match *self {
            Self::Alpha { exponent } => {
                check("f_alpha_divergence_coef", exponent, true, "a finite number")
            }
            _ => Ok(()),
        }
    }
}

/// (e^t, its slope), with the exponent held at [`MAX_EXPONENT`].
pub(crate) fn bounded_exp(t: f64) -> (f64, f64) {
    if t > MAX_EXPONENT {
        (MAX_EXPONENT.exp(), 0.0)
    } else {
        let e = t.exp();
        (e, e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Divergence; 4] = [
        Divergence::ReverseKl,
        Divergence::ForwardKl,
        Divergence::JensenShannon,
        Divergence::Alpha { exponent: -0.5 },
    ];

    #[test]
    fn every_score_is_zero_at_the_reference() {
        // x = 0: 1 − 1 = 0; log 2 + log ½ = 0; (1 − 1)/κ = 0. Slopes: f''(1) = 1, but ½ for Jensen–Shannon.
        for divergence in ALL {
            let (s, slope) = divergence.score(0.0);
            assert!(s.abs() < 1e-15, "{divergence:?}: {s}");
            let want = if divergence == Divergence::JensenShannon {
                0.5
            } else {
                1.0
            };
            assert!((slope - want).abs() < 1e-15, "{divergence:?}: {slope}");
        }
    }

    #[test]
    fn slopes_are_the_scores_derivatives() {
        for divergence in ALL {
            for x in [-30.0, -3.0, -0.1, 0.7, 12.0] {
                let h = 1e-5;
                let numeric = (divergence.score(x + h).0 - divergence.score(x - h).0) / (2.0 * h);
                let slope = divergence.score(x).1;
                let scale = slope.abs() + divergence.score(x).0.abs() * 1e-9 + 1e-9;
                assert!(
                    (numeric - slope).abs() < 1e-6 * scale + 1e-9,
                    "{divergence:?} at {x}: {numeric} {slope}"
                );
            }
        }
    }

    #[test]
    fn extreme_log_ratios_stay_finite() {
        for divergence in ALL {
            for x in [-5000.0, 5000.0] {
                let (s, slope) = divergence.score(x);
                assert!(
                    s.is_finite() && slope.is_finite() && slope >= 0.0,
                    "{divergence:?} at {x}"
                );
            }
        }
    }

    #[test]
    fn the_two_letters_alpha_agree_only_at_one_half() {
        let read = |semantics, coef| {
            Divergence::from_options(&ObjectiveOptions {
                f_divergence_type: Some("alpha_divergence".into()),
                f_alpha_divergence_coef: Some(coef),
                semantics,
                ..Default::default()
            })
            .unwrap()
        };
        assert_eq!(read(Semantics::Trl, 0.5), read(Semantics::Paper, 0.5));
        assert_eq!(
            read(Semantics::Trl, 0.2),
            Divergence::Alpha { exponent: -0.8 }
        );
        assert_eq!(
            read(Semantics::Paper, 0.2),
            Divergence::Alpha { exponent: -0.2 }
        );
    }
}
