//! Shared by the test programs: seeded values, packed forests, and a comparison that prints what is wrong.

#![allow(dead_code, reason = "each test program uses its own part")]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unbraid_tensor::{
    AttentionDropout, AttentionLayout, AttentionSegment, AttentionShape, Backend, Span,
};

/// Named results of one operation.
pub type Outputs = Vec<(&'static str, Vec<f64>)>;

/// Seeded values.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    /// `n` values of [−1, 1), each exact in f32, so that both precisions start from the same numbers.
    pub fn values(&mut self, n: usize) -> Vec<f64> {
        (0..n)
            .map(|_| f64::from(self.0.random_range(-1f32..1.0)))
            .collect()
    }

    /// `n` numbers below `limit`.
    pub fn below(&mut self, n: usize, limit: usize) -> Vec<u32> {
        (0..n)
            .map(|_| self.0.random_range(0..limit as u32))
            .collect()
    }
}

/// A buffer of `n` NaN: an operation that says it replaces its output must not read it.
pub fn poison<B: Backend>(b: &B, n: usize) -> B::Buffer {
    b.upload(&vec![f32::NAN; n])
}

/// Cos and sin of the angles p·10000^(−2i/head_dim), as [`Backend::rope`] wants them.
pub fn rope_table(positions: usize, head_dim: usize) -> Vec<f64> {
    let half = head_dim / 2;
    let mut table = vec![0.0; positions * head_dim];
    for p in 0..positions {
        for i in 0..half {
            let angle = p as f64 * 10000f64.powf(-2.0 * i as f64 / head_dim as f64);
            table[p * head_dim + i] = f64::from(angle.cos() as f32);
            table[p * head_dim + half + i] = f64::from(angle.sin() as f32);
        }
    }
    table
}

/// Head counts with the usual scale, rounded to f32 so that both precisions use the same factor.
pub fn attention_shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape {
        scale: f64::from((head_dim as f32).powf(-0.5)),
        ..AttentionShape::new(heads, kv_heads, head_dim)
    }
}

/// (window, cap): neither, each alone, and both; windows of one row, a few, and more than a block of the fast code.
pub const NARROWINGS: [(Option<usize>, Option<f64>); 6] = [
    (None, None),
    (Some(1), None),
    (Some(3), None),
    (Some(70), None),
    (None, Some(0.75)),
    (Some(20), Some(1.5)),
];

/// `shape` with dropout on three tenths of the probabilities.
pub fn dropped(shape: AttentionShape) -> AttentionShape {
    AttentionShape {
        dropout: Some(AttentionDropout { seed: 77, p: 0.3 }),
        ..shape
    }
}

/// `shape` with a window and a cap.
pub fn narrowed(
    shape: AttentionShape,
    (window, softcap): (Option<usize>, Option<f64>),
) -> AttentionShape {
    AttentionShape {
        window,
        softcap,
        ..shape
    }
}

/// Σ xᵢyᵢ.
pub fn inner(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Rows `rows` of a matrix of width `width`, one below the other.
pub fn take_rows(x: &[f64], rows: &[u32], width: usize) -> Vec<f64> {
    rows.iter()
        .flat_map(|&r| &x[r as usize * width..][..width])
        .copied()
        .collect()
}

/// Differences below this are none: f32 ends at 1e-38, and the fast exp at about that instead of zero.
const NEGLIGIBLE: f64 = 1e-30;

/// Fails unless every |fast − naive| ≤ tolerance·(|naive| + root mean square of the naive array): a sum's
/// rounding error follows the size of its terms, which an element near zero does not show.
pub fn compare(case: &str, naive: &Outputs, fast: &Outputs, tolerance: f64) {
    assert_eq!(naive.len(), fast.len(), "{case}");
    for ((name, naive), (_, fast)) in naive.iter().zip(fast) {
        assert_eq!(naive.len(), fast.len(), "{case}: length of {name}");
        let square = inner(naive, naive) / naive.len().max(1) as f64;
        let excess = |i: usize| {
            let allowed = tolerance * (naive[i].abs() + square.sqrt());
            let error = (fast[i] - naive[i]).abs();
            // A NaN on one side only is the worst disagreement.
            match (error <= NEGLIGIBLE, error.is_nan()) {
                (true, _) => 0.0,
                (_, true) => f64::INFINITY,
                _ => error / allowed,
            }
        };
        let Some(worst) = (0..naive.len()).max_by(|&i, &j| excess(i).total_cmp(&excess(j))) else {
            continue;
        };
        let ulp = f64::from(f32::EPSILON) * naive[worst].abs();
        assert!(
            excess(worst) <= 1.0,
            "{case}: {name}[{worst}] of {}: naive {:e}, fast {:e}, {:.1} ulps of f32, {:.2} times the tolerance {tolerance:e}",
            naive.len(),
            naive[worst],
            fast[worst],
            (fast[worst] - naive[worst]).abs() / ulp,
            excess(worst),
        );
    }
}

/// A prompt and the completions under it, by their lengths in rows.
#[derive(Clone, Debug)]
pub struct Tree {
    pub prompt: usize,
    pub completions: Vec<usize>,
}

impl Tree {
    pub fn new(prompt: usize, completions: &[usize]) -> Self {
        Tree {
            prompt,
            completions: completions.to_vec(),
        }
    }

    pub fn rows(&self) -> usize {
        self.prompt + self.completions.iter().sum::<usize>()
    }
}

/// Trees end to end: each prompt followed by its completions.
#[derive(Clone, Debug)]
pub struct Forest(pub Vec<Tree>);

/// A forest with one gradient stream per completion: gradient rows are (prompt, completion) after another.
pub struct Streams {
    pub layout: AttentionLayout,
    /// Activation row of each gradient row.
    pub rows: Vec<u32>,
    /// First gradient row and number of rows of each stream.
    pub spans: Vec<(usize, usize)>,
}

fn segment(own: Span, ancestors: Vec<Span>, group: usize) -> AttentionSegment {
    AttentionSegment {
        query: own.act,
        own,
        ancestors,
        group,
    }
}

/// A span whose gradient rows are its activation rows.
pub fn same(act: usize, len: usize) -> Span {
    Span {
        act,
        grad: act,
        len,
    }
}

impl Forest {
    pub fn rows(&self) -> usize {
        self.0.iter().map(Tree::rows).sum()
    }

    /// First row of each tree's prompt.
    pub fn starts(&self) -> Vec<usize> {
        let mut at = 0;
        let next = |tree: &Tree| {
            at += tree.rows();
            at - tree.rows()
        };
        self.0.iter().map(next).collect()
    }

    /// (prompt rows, completion rows) of every completion, as activation spans, with its tree's number.
    fn responses(&self) -> Vec<(usize, Span, Span)> {
        let mut out = Vec::new();
        for (t, (tree, start)) in self.0.iter().zip(self.starts()).enumerate() {
            let mut at = start + tree.prompt;
            for &len in &tree.completions {
                out.push((t, same(start, tree.prompt), same(at, len)));
                at += len;
            }
        }
        out
    }

    /// One gradient row per activation row; a group is a tree.
    pub fn layout(&self) -> AttentionLayout {
        let mut segments = Vec::new();
        let responses = self.responses();
        for (t, (tree, start)) in self.0.iter().zip(self.starts()).enumerate() {
            segments.push(segment(same(start, tree.prompt), vec![], t));
            for (_, prompt, completion) in responses.iter().filter(|r| r.0 == t) {
                segments.push(segment(*completion, vec![*prompt], t));
            }
        }
        AttentionLayout { segments }
    }

    /// One stream per completion, each with its own copy of the prompt's gradient rows; a group is a stream.
    pub fn streams(&self) -> Streams {
        let mut streams = Streams {
            layout: AttentionLayout::default(),
            rows: Vec::new(),
            spans: Vec::new(),
        };
        for (group, (_, mut prompt, mut completion)) in self.responses().into_iter().enumerate() {
            prompt.grad = streams.rows.len();
            completion.grad = prompt.grad + prompt.len;
            streams
                .spans
                .push((prompt.grad, prompt.len + completion.len));
            for span in [prompt, completion] {
                let acts = span.act..span.act + span.len;
                streams.rows.extend(acts.map(|r| r as u32));
            }
            let segments = &mut streams.layout.segments;
            segments.push(segment(prompt, vec![], group));
            segments.push(segment(completion, vec![prompt], group));
        }
        streams
    }
}
