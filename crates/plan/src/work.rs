//! What a run computes: floating-point operations and bytes moved, by kind.
//!
//! A multiply-add counts as two operations. Attention counts pairs of rows that see each other, whatever rectangle a
//! kernel computes to get them; rates are measured in the same unit.

use serde::Serialize;
use std::ops::AddAssign;
use unbraid_tensor::cpu::rules::{ProbeSizes, Way};
use unbraid_tensor::{AttentionLayout, AttentionShape, Span};

/// What kind of work an operation is: kinds differ in the rate at which a machine does them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// y = x Wᵀ of linear maps.
    Forward,
    /// dx = G W of linear maps.
    InputGradient,
    /// dW = Gᵀ x of linear maps.
    WeightGradient,
    /// Products with a side of at most [`NARROW`]: adapters.
    Narrow,
    /// The head with its softmax, forward and backward.
    Head,
    /// Scores and weighted values, forward and backward.
    Attention,
    /// Inner products of gradients: the geometry.
    Grams,
    /// Norms, activations, rotations, sums, look-ups: limited by memory. Bytes, not operations.
    Elementwise,
    /// Sweeps over parameters, gradients and optimizer state. Bytes, not operations.
    Sweep,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Kind; 9] = [
        Kind::Forward,
        Kind::InputGradient,
        Kind::WeightGradient,
        Kind::Narrow,
        Kind::Head,
        Kind::Attention,
        Kind::Grams,
        Kind::Elementwise,
        Kind::Sweep,
    ];

    /// Whether its amount is bytes rather than operations.
    #[must_use]
    pub fn is_bytes(self) -> bool {
        matches!(self, Kind::Elementwise | Kind::Sweep)
    }

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Forward => "linear maps, forward",
            Kind::InputGradient => "linear maps, gradient of inputs",
            Kind::WeightGradient => "linear maps, gradient of weights",
            Kind::Narrow => "narrow products (adapters)",
            Kind::Head => "head and softmax",
            Kind::Attention => "attention",
            Kind::Grams => "geometry",
            Kind::Elementwise => "elementwise",
            Kind::Sweep => "optimizer and sweeps",
        }
    }
}

/// Products with a side of at most this many are of [`Kind::Narrow`].
pub const NARROW: usize = 64;

/// An amount of work by kind: operations, or bytes where [`Kind::is_bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work([f64; Kind::ALL.len()]);

impl Work {
    /// Adds an amount.
    pub fn add(&mut self, kind: Kind, amount: f64) {
        self.0[kind as usize] += amount;
    }

    /// The amount of a kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> f64 {
        self.0[kind as usize]
    }

    /// All floating-point operations.
    #[must_use]
    pub fn flops(&self) -> f64 {
        let kinds = Kind::ALL.into_iter().filter(|kind| !kind.is_bytes());
        kinds.map(|kind| self.of(kind)).sum()
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.of(Kind::Elementwise) + self.of(Kind::Sweep)
    }

    /// So many times this.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        Work(self.0.map(|amount| amount * factor))
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        for (own, more) in self.0.iter_mut().zip(other.0) {
            *own += more;
        }
    }
}

/// Pairs (query row, key row) of a layout that see each other, for one head.
#[must_use]
pub fn visible_pairs(layout: &AttentionLayout, shape: AttentionShape) -> f64 {
    let window = shape.window.unwrap_or(usize::MAX);
    let of_row = |position: usize| (position + 1).min(window) as f64;
    let segments = layout.segments.iter();
    segments
        .map(|s| {
            let before: usize = s.ancestors.iter().map(|a| a.len).sum();
            (before..before + s.own.len).map(of_row).sum::<f64>()
        })
        .sum()
}

/// What one cluster of probes of a linear map costs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GramCost {
    pub(crate) way: Way,
    pub(crate) flops: f64,
    /// Floats of the buffers that are held together.
    pub(crate) buffers: Vec<usize>,
}

/// Cost of one cluster, in the way that the CPU backend chooses.
pub(crate) fn gram_cost(probes: &[&[Span]], d_in: usize, d_out: usize) -> GramCost {
    let sizes = ProbeSizes::of(probes);
    let (n, rows) = (sizes.n, sizes.rows.len());
    let way = sizes.way(d_in, d_out);
    let buffers = match way {
        Way::Ghost => {
            let longest = sizes.lens.iter().max().copied().unwrap_or(0);
            vec![rows * rows, longest * longest]
        }
        Way::Projected => {
            let side = rows * n * sizes.projected_slice(d_out);
            vec![rows * rows, side, side]
        }
        Way::Formed => vec![n * sizes.formed_slice(d_in, d_out) * d_in],
    };
    GramCost {
        way,
        flops: 2.0 * sizes.cost(way, d_in, d_out).0 as f64,
        buffers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unbraid_tensor::AttentionSegment;

    fn span(act: usize, len: usize) -> Span {
        Span {
            act,
            grad: act,
            len,
        }
    }

    #[test]
    fn visible_pairs_by_hand() {
        // A prompt of 3 rows and two completions of 2 and 1 rows: 1 + 2 + 3, 4 + 5, 4.
        let segment = |own: Span, ancestors: Vec<Span>| AttentionSegment {
            query: own.act,
            own,
            ancestors,
            group: 0,
        };
        let layout = AttentionLayout {
            segments: vec![
                segment(span(0, 3), vec![]),
                segment(span(3, 2), vec![span(0, 3)]),
                segment(span(5, 1), vec![span(0, 3)]),
            ],
        };
        let plain = AttentionShape::new(2, 1, 4);
        assert_eq!(visible_pairs(&layout, plain), 19.0);
        // A window of 2: 1 + 2 + 2, 2 + 2, 2.
        let narrow = AttentionShape {
            window: Some(2),
            ..plain
        };
        assert_eq!(visible_pairs(&layout, narrow), 11.0);
    }

    #[test]
    fn a_short_pair_is_measured_without_forming_gradients() {
        let (a, b) = ([span(0, 10), span(10, 5)], [span(0, 10), span(15, 6)]);
        let cost = gram_cost(&[&a, &b], 576, 1536);
        assert_eq!(cost.way, Way::Ghost);
        // K over 21 rows, and 15·15, 15·16, 16·16 products of output gradients.
        let by_hand = 2 * (21 * 21 * 576 + (225 + 240 + 256) * 1536);
        assert_eq!(cost.flops, f64::from(by_hand));
        assert_eq!(cost.buffers, [441, 256]);
        // An adapter's narrow map is cheaper formed.
        assert_eq!(gram_cost(&[&a, &b], 576, 4).way, Way::Formed);
    }
}
