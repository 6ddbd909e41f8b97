//! Learnable logits (the setting of Theorem 3) as an exact limit of the engine's own head.
//!
//! Every position has logits of its own, θ_i, which both responses share; behind the differing token each response adds a
//! fixed offset, its context. As a head: W = (θ, B/δ) `[V, D]` and hidden states h = (e_position, δ·e_context), so that
//! W h = θ_i + B_context, while the gradient (e_y − s) hᵀ lies in θ but for a part of order δ in B/δ, whose effect on the
//! logits is of order δ². So forward, backward, inner products and the step are the backend's, unaltered.

use crate::dpo::{Changes, Dpo};
use std::ops::Range;
use unbraid_tensor::{Backend, HeadBackward};
use unbraid_train::ScoredPair;

/// One token of a completion behind the differing one, with its prediction in either context.
#[derive(Clone, Debug, PartialEq)]
pub struct SuffixToken {
    /// The token y.
    pub token: usize,
    /// log s_w: the prediction behind the chosen token.
    pub chosen: Vec<f64>,
    /// log s_l: behind the rejected one.
    pub rejected: Vec<f64>,
    /// θ, the learnable part of both.
    pub theta: Vec<f64>,
}

/// A pair of completions: a shared prefix, one differing token, a shared suffix.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitPair {
    /// Vocabulary V.
    pub vocab: usize,
    /// Prefix tokens with the logits that predict each.
    pub prefix: Vec<(usize, Vec<f64>)>,
    /// Logits of the differing position.
    pub differing: Vec<f64>,
    /// Chosen token j and rejected token k there.
    pub tokens: (usize, usize),
    /// Suffix tokens.
    pub suffix: Vec<SuffixToken>,
    /// The loss.
    pub dpo: Dpo,
}

/// A pair on a backend, with the log-probs of the start.
pub struct Table<'a, B: Backend> {
    backend: &'a B,
    h: B::Buffer,
    w: B::Buffer,
    targets: B::Index,
    lse: B::Buffer,
    before: Vec<f64>,
    len: usize,
    width: usize,
    vocab: usize,
    coefficients: (f64, f64),
    weight: f64,
}

impl<'a, B: Backend> Table<'a, B> {
    /// `delta` is δ, a power of two.
    pub fn new(backend: &'a B, pair: &LogitPair, delta: f64) -> Self {
        let (m, s, v) = (pair.prefix.len(), pair.suffix.len(), pair.vocab);
        let (len, width) = (m + 1 + s, m + 1 + 3 * s);
        let mut w = vec![0.0; v * width];
        let mut column = |c: usize, values: &dyn Fn(usize) -> f64| {
            (0..v).for_each(|t| w[t * width + c] = values(t));
        };
        pair.prefix
            .iter()
            .enumerate()
            .for_each(|(i, (_, z))| column(i, &|t| z[t]));
        column(m, &|t| pair.differing[t]);
        for (i, x) in pair.suffix.iter().enumerate() {
            column(m + 1 + i, &|t| x.theta[t]);
            column(len + 2 * i, &|t| (x.chosen[t] - x.theta[t]) / delta);
            column(len + 2 * i + 1, &|t| (x.rejected[t] - x.theta[t]) / delta);
        }
        let (mut h, mut targets) = (vec![0.0; 2 * len * width], Vec::new());
        for side in 0..2 {
            for i in 0..len {
                let row = &mut h[(side * len + i) * width..][..width];
                row[i] = 1.0;
                if i > m {
                    row[len + 2 * (i - m - 1) + side] = delta;
                }
            }
            targets.extend(pair.prefix.iter().map(|(y, _)| *y as u32));
            targets.push([pair.tokens.0, pair.tokens.1][side] as u32);
            targets.extend(pair.suffix.iter().map(|x| x.token as u32));
        }
        let (h, w, targets) = (
            backend.upload_f64(&h),
            backend.upload_f64(&w),
            backend.index(&targets),
        );
        let (logps, lse) = backend.head_logps(&h, &w, &targets, None, 2 * len, width, v);
        let before = backend.download_f64(&logps);
        let scored = ScoredPair {
            chosen_token_logps: before[..len].to_vec(),
            rejected_token_logps: before[len..].to_vec(),
        };
        let coefficients = pair.dpo.coefficients(&scored);
        let weight = pair.dpo.weight();
        Table {
            backend,
            h,
            w,
            targets,
            lse,
            before,
            len,
            width,
            vocab: v,
            coefficients,
            weight,
        }
    }

    fn backward(
        &self,
        seeds: &B::Buffer,
        dw: Option<&mut B::Buffer>,
        inner: &[(Range<usize>, Range<usize>)],
    ) -> Vec<f64> {
        self.backend.head_backward(&mut HeadBackward {
            h: &self.h,
            w: &self.w,
            lse: &self.lse,
            softcap: None,
            logits: None,
            targets: &self.targets,
            seeds,
            coefficients: None,
            dh: None,
            dw,
            inner,
            m: 2 * self.len,
            d: self.width,
            v: self.vocab,
        })
    }

    /// First-order change of every token's log-prob per ηβc: d_w ⟨g_i, g_w⟩ − d_l ⟨g_i, g_l⟩ over βc.
    pub fn first_order(&self) -> Changes {
        let n = self.len;
        let wanted: Vec<_> = (0..2 * n)
            .flat_map(|i| [(i..i + 1, 0..n), (i..i + 1, n..2 * n)])
            .collect();
        let ones = self.backend.upload_f64(&vec![1.0; 2 * n]);
        let inner = self.backward(&ones, None, &wanted);
        let (d_w, d_l) = self.coefficients;
        let change = |x: &[f64]| (d_w * x[0] - d_l * x[1]) / self.weight;
        let mut chosen: Vec<f64> = inner.chunks_exact(2).map(change).collect();
        let rejected = chosen.split_off(n);
        Changes { chosen, rejected }
    }

    /// What a real step of gradient descent at `rate` changes.
    pub fn step(&self, rate: f64) -> Changes {
        let (b, n) = (self.backend, self.len);
        let (d_w, d_l) = self.coefficients;
        let seeds: Vec<f64> = (0..2 * n).map(|i| if i < n { -d_w } else { d_l }).collect();
        let size = self.vocab * self.width;
        let mut dw = b.zeros(size);
        self.backward(&b.upload_f64(&seeds), Some(&mut dw), &[]);
        let mut w = b.empty(size);
        b.copy_2d(&self.w, 0, size, &mut w, 0, size, 1, size);
        b.sgd(rate, 0.0, 1.0, &mut w, &dw, None);
        let (after, _) = b.head_logps(
            &self.h,
            &w,
            &self.targets,
            None,
            2 * n,
            self.width,
            self.vocab,
        );
        let after = b.download_f64(&after);
        let mut chosen: Vec<f64> = after.iter().zip(&self.before).map(|(a, b)| a - b).collect();
        let rejected = chosen.split_off(n);
        Changes { chosen, rejected }
    }
}
