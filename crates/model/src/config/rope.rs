//! Rotary position embedding: which frequency each pair of head dimensions turns at.
//!
//! Plain RoPE (Su et al. 2021, arXiv:2104.09864, §3.2.2): f_i = θ^(−2i/D), i = 0 … D/2−1, radians
//! per position. Two ways of stretching it to longer contexts are read:
//! - `linear` (Chen et al. 2023, arXiv:2306.15595): every f_i divided by `factor`;
//! - `llama3` (Llama 3.1): with wavelength λ = 2π/f and original context L, f is kept where
//!   λ < L/high, divided by `factor` where λ > L/low, and in between interpolated:
//!   (1−s)·f/factor + s·f, s = (L/λ − low)/(high − low).
//!
//! Left out, refused by name: `dynamic`, `yarn`, `longrope` (they depend on the sequence's length
//! or scale the attention as well). Computed in f64; transformers computes the same formulas in
//! f32, so its values differ from these by a few units of 2⁻²⁴. Tested in
//! `tests/weights_config.rs` against values printed by transformers.

use std::f64::consts::TAU;

use crate::config::keys::Keys;
use crate::error::ModelError;

const SUPPORTED: &str = "rope types default, linear, llama3";

/// Base and scaling of a rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base θ of the geometric series of frequencies (`rope_theta`).
    pub theta: f64,
    /// How the frequencies are stretched.
    pub kind: RopeKind,
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeKind {
    /// Not at all.
    Default,
    /// Every frequency is divided by `factor`.
    Linear {
        /// Divisor, positive.
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of the low frequencies, positive.
        factor: f64,
        /// Wavelengths above original context / this are divided.
        low_freq_factor: f64,
        /// Wavelengths below original context / this are kept; above `low_freq_factor`.
        high_freq_factor: f64,
        /// Context length of the pretraining, tokens.
        original_max_positions: usize,
    },
}

impl RopeConfig {
    /// Frequencies in radians per position, one for each of the P = ⌈`rotary_dim` / 2⌉ pairs of
    /// dimensions (i, i + P) that transformers rotates together; `rotary_dim` is the width of a
    /// head, or of the part of it that is rotated.
    #[must_use]
    pub fn inverse_frequencies(&self, rotary_dim: usize) -> Vec<f64> {
        (0..rotary_dim.div_ceil(2))
            .map(|i| self.theta.powf(-2.0 * i as f64 / rotary_dim as f64))
            .map(|plain| self.stretch(plain))
            .collect()
    }

    fn stretch(&self, plain: f64) -> f64 {
        match self.kind {
            RopeKind::Default => plain,
            RopeKind::Linear { factor } => plain / factor,
            RopeKind::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions,
            } => {
                let turns = original_max_positions as f64 * plain / TAU; // L / λ
                if turns > high {
                    plain
                } else if turns < low {
                    plain / factor
                } else {
                    let share = (turns - low) / (high - low);
                    (1.0 - share) * plain / factor + share * plain
                }
            }
        }
    }

    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4).
    ///
    /// Precedence as in transformers 5: a non-empty `rope_scaling` replaces `rope_parameters`, and
    /// a `rope_theta` inside either object comes before the one at the top level.
    pub(crate) fn read(keys: &Keys<'_>, max_positions: usize) -> Result<Self, ModelError> {
        let nested = Self::nested(keys)?;
        for source in [Some(*keys), nested].into_iter().flatten() {
            let key = "partial_rotary_factor";
            if let Some(share) = source.optional_positive(key)?.filter(|share| *share != 1.0) {
                return Err(source.unsupported(key, share, "1.0"));
            }
        }
        Self::read_with_theta(keys, "rope_theta", max_positions)
    }

    /// The same where the base stands under `theta_key` at the top level.
    pub(crate) fn read_with_theta(
        keys: &Keys<'_>,
        theta_key: &str,
        max_positions: usize,
    ) -> Result<Self, ModelError> {
        let nested = Self::nested(keys)?;
        let theta = match nested
            .map(|n| n.optional_positive("rope_theta"))
            .transpose()?
        {
            Some(Some(theta)) => theta,
            _ => keys.optional_positive(theta_key)?.unwrap_or(10_000.0),
        };
        let kind = match nested {
            Some(nested) => Self::read_kind(keys, &nested, max_positions)?,
            None => RopeKind::Default,
        };
        Ok(Self { theta, kind })
    }

    /// The object that holds rotary settings, where there is one.
    pub(crate) fn nested<'a>(keys: &Keys<'a>) -> Result<Option<Keys<'a>>, ModelError> {
        let scaling = keys
            .object("rope_scaling")?
            .filter(|object| !object.map.is_empty());
        match scaling {
            Some(object) => Ok(Some(object)),
            None => keys.object("rope_parameters"),
        }
    }

    fn read_kind(
        top: &Keys<'_>,
        nested: &Keys<'_>,
        max_positions: usize,
    ) -> Result<RopeKind, ModelError> {
        let name = match nested.text("rope_type")? {
            Some(name) => name,
            None => nested.text("type")?.unwrap_or("default"),
        };
        match name {
            "default" => Ok(RopeKind::Default),
            "linear" => Ok(RopeKind::Linear {
                factor: nested.positive("factor")?,
            }),
            "llama3" => Self::read_llama3(top, nested, max_positions),
            other => Err(nested.unsupported("rope_type", format!("{other:?}"), SUPPORTED)),
        }
    }

    fn read_llama3(
        top: &Keys<'_>,
        nested: &Keys<'_>,
        max_positions: usize,
    ) -> Result<RopeKind, ModelError> {
        const ORIGINAL: &str = "original_max_position_embeddings";
        let low_freq_factor = nested.positive("low_freq_factor")?;
        let high_freq_factor = nested.positive("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            let expected = format!("a number above low_freq_factor ({low_freq_factor})");
            return Err(nested.bad("high_freq_factor", high_freq_factor, &expected));
        }
        let original_max_positions = match top.optional_size(ORIGINAL, super::MAX_POSITIONS)? {
            Some(length) => length,
            None => nested
                .optional_size(ORIGINAL, super::MAX_POSITIONS)?
                .unwrap_or(max_positions),
        };
        Ok(RopeKind::Llama3 {
            factor: nested.positive("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        })
    }
}
