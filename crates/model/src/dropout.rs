//! Dropout of a model's own: of the embedding, of attention probabilities, of what the halves of a block add.
//!
//! Masks are no state: a place's mask is a function of the pass's seed, a number of the place's own, row and column, so the
//! backward and a block that is computed again draw the forward's (as an adapter's dropout does, see `layers.rs`). A prompt that
//! two completions share is computed once and so dropped once for both. Without a seed (scoring, generation, `disable_dropout`)
//! nothing is dropped. Tested in `tests/dropout.rs` by finite differences.

use crate::decoder::ForwardPass;
use crate::sink::BackwardPass;
use unbraid_tensor::{AttentionDropout, AttentionShape, Backend};

/// Where something is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// What enters the first block.
    Embedding,
    /// The attention probabilities of a block.
    Attention(usize),
    /// What the attention of a block adds.
    AttentionOutput(usize),
    /// What the feed-forward layer of a block adds.
    FeedForward(usize),
}

/// One dropout of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutAt {
    p: f64,
    number: u64,
}

impl DropoutAt {
    /// Drops with probability `p` at a place.
    pub(crate) fn new(p: f64, place: Place) -> Self {
        let number = match place {
            Place::Embedding => 0,
            Place::Attention(i) => 3 * i as u64 + 1,
            Place::AttentionOutput(i) => 3 * i as u64 + 2,
            Place::FeedForward(i) => 3 * i as u64 + 3,
        };
        DropoutAt { p, number }
    }

    /// A seed of its own for every place, by another multiplier than those of adapters.
    fn seed(self, of_pass: Option<u64>) -> Option<u64> {
        let own = (self.number + 1).wrapping_mul(0xd134_2543_de82_ef95);
        of_pass.filter(|_| self.p > 0.0).map(|seed| seed ^ own)
    }

    /// x `[N, d]` with its share dropped and the rest divided by 1 − p; x itself where nothing is.
    pub(crate) fn forward<B: Backend>(
        self,
        pass: &ForwardPass<'_, B>,
        x: B::Buffer,
        d: usize,
    ) -> B::Buffer {
        let Some(seed) = self.seed(pass.dropout_seed) else {
            return x;
        };
        let (b, n) = (pass.backend, pass.rows);
        let mut y = b.empty(n * d);
        b.dropout(&x, None, seed, self.p, &mut y, n, d);
        y
    }

    /// From the gradient behind it `[R, d]` to the one before it; `None` where nothing is dropped and they are equal.
    pub(crate) fn backward<B: Backend>(
        self,
        pass: &BackwardPass<'_, B>,
        dy: &B::Buffer,
        d: usize,
    ) -> Option<B::Buffer> {
        let seed = self.seed(pass.forward.dropout_seed)?;
        let (b, r) = (pass.backend, pass.plan.rows);
        let mut dx = b.empty(r * d);
        let rows = pass.plan.activation_rows.as_ref();
        b.dropout(dy, rows, seed, self.p, &mut dx, r, d);
        Some(dx)
    }

    /// An attention operation that drops probabilities.
    pub(crate) fn attention<B: Backend>(
        self,
        pass: &ForwardPass<'_, B>,
        shape: AttentionShape,
    ) -> AttentionShape {
        let seed = self.seed(pass.dropout_seed);
        AttentionShape {
            dropout: seed.map(|seed| AttentionDropout { seed, p: self.p }),
            ..shape
        }
    }
}
