//! Which rows attend to which: the packed forest that attention walks.
//!
//! Rows of all sequences lie end to end. A *segment* is a run of rows that belong together (a prompt, or one
//! completion under it). A row sees the rows of its own segment up to itself and every row of its segment's
//! ancestors. Nothing is padded.
//!
//! A row's *path position* is the number of rows before it on its path: the lengths of its segment's ancestors plus
//! its index in the segment. Sliding windows count in it, so ancestors must name the whole path from the root; where
//! the rows lie (a batch, a key cache) does not matter.
//!
//! In the backward pass gradient rows may outnumber activation rows: when each response's own gradient is
//! wanted, the shared prompt's rows appear once per response (one *stream* each). A [`Span`] therefore names
//! both the activation rows and the gradient rows of a run; without streams the two are equal.

/// A run of `len` rows: `act` is its first activation row, `grad` its first gradient row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row among the activation (key/value) rows.
    pub act: usize,
    /// First row among the gradient rows.
    pub grad: usize,
    /// Number of rows.
    pub len: usize,
}

/// One run of query rows with the keys it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionSegment {
    /// First query row. Equal to `own.act` except when keys come from a cache.
    pub query: usize,
    /// The segment's own keys, seen causally: query row `i` sees own keys `0..=i`.
    pub own: Span,
    /// Earlier runs on the path from the root, seen whole, root first.
    pub ancestors: Vec<Span>,
    /// Segments with different groups share no gradient row, so they may be processed in parallel.
    pub group: usize,
}

/// The segments of a packed batch, those of one group next to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionLayout {
    /// All segments.
    pub segments: Vec<AttentionSegment>,
}

impl AttentionLayout {
    /// Segments split into runs of equal group.
    pub fn groups(&self) -> Vec<&[AttentionSegment]> {
        self.segments.chunk_by(|a, b| a.group == b.group).collect()
    }
}

/// Which probabilities of an attention operation are dropped (Vaswani et al. 2017, as transformers applies it: behind the
/// softmax, so the rest of a row is not normalised again).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDropout {
    /// Whether an entry is kept is a function of this, the query's activation row, the head and the key's activation row
    /// alone: the mask of [`crate::Backend::dropout`] with row (query row · heads + head) and column key row.
    pub seed: u64,
    /// Probability that an entry is dropped, 0 ≤ p < 1; the rest is divided by 1 − p.
    pub p: f64,
}

/// Head counts and widths of an attention operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Factor on the scores, usually `head_dim^-1/2`.
    pub scale: f64,
    /// A query sees the last `window` (≥ 1) positions of its path only, its own included: p − key's position <
    /// window, as in Mistral's sliding window. `None`: the whole path.
    pub window: Option<usize>,
    /// Scaled scores become cap·tanh(score/cap) before the softmax (Gemma 2). `None`: they stay.
    pub softcap: Option<f64>,
    /// Dropout on the probabilities, in training. `None`: all are kept.
    pub dropout: Option<AttentionDropout>,
}

impl AttentionShape {
    /// Plain causal attention: scale `head_dim^-1/2`, no window, no cap, no dropout.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            window: None,
            softcap: None,
            dropout: None,
        }
    }

    /// The first path position that a query at path position `p` sees.
    pub(crate) fn first_seen(&self, p: usize) -> usize {
        let window = self.window.unwrap_or(usize::MAX);
        assert!(window > 0, "a window of 0 hides a query from itself");
        (p + 1).saturating_sub(window)
    }

    /// Width of a row of queries: `heads · head_dim`.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a row of keys or values: `kv_heads · head_dim`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
