//! Causal attention over a packed forest, one query row and one head at a time.
//!
//! out_i = Σ_j p_ij v_j, p_ij = exp(scale·q_i·k_j − lse_i), j over the keys that row i sees
//! (Vaswani et al. 2017, eq. 1; grouped heads as in Ainslie et al. 2023). With a window, keys further back on the path
//! are not seen (Beltagy et al. 2020); with a cap, scores are cap·tanh(scale·q·k/cap) (Gemma 2, arXiv 2408.00118). With
//! dropout, out_i = Σ_j m_ij p_ij v_j, m_ij being 0 or 1/(1 − p): p itself and lse stay as they are.

use crate::dropout::Mask;
use crate::layout::{AttentionLayout, AttentionSegment, AttentionShape};

/// (activation row, gradient row) of every key that query row `i` of the segment sees, by path position.
fn visible(segment: &AttentionSegment, i: usize, s: AttentionShape) -> Vec<(usize, usize)> {
    let mut keys = Vec::new();
    for span in &segment.ancestors {
        keys.extend((0..span.len).map(|j| (span.act + j, span.grad + j)));
    }
    keys.extend((0..=i).map(|j| (segment.own.act + j, segment.own.grad + j)));
    let position = keys.len() - 1;
    keys.split_off(s.first_seen(position))
}

/// The capped score of a query and a key, and its derivative with respect to their product.
fn score(s: AttentionShape, q: &[f64], k: &[f64]) -> (f64, f64) {
    let x = s.scale * dot(q, k);
    match s.softcap {
        None => (x, s.scale),
        Some(cap) => {
            let t = (x / cap).tanh();
            (cap * t, s.scale * (1.0 - t * t))
        }
    }
}

/// m_ij of each key of a query row and head.
fn kept(s: AttentionShape, row: usize, h: usize, keys: &[(usize, usize)]) -> Vec<f64> {
    let Some(dropout) = s.dropout else {
        return vec![1.0; keys.len()];
    };
    let mask = Mask::new(dropout.seed, dropout.p);
    let bits = mask.row(row * s.heads + h);
    let factor = |&(a, _): &(usize, usize)| match mask.keeps(bits, a) {
        true => 1.0 / (1.0 - dropout.p),
        false => 0.0,
    };
    keys.iter().map(factor).collect()
}

/// Offset of head `h` of row `row` in rows of `heads` heads.
fn at(row: usize, heads: usize, h: usize, head_dim: usize) -> usize {
    (row * heads + h) * head_dim
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// See [`crate::Backend::attention`].
pub(super) fn forward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    layout: &AttentionLayout,
    s: AttentionShape,
    out: &mut [f64],
) -> Vec<f64> {
    let (n, width) = (out.len() / s.q_width(), s.head_dim);
    let mut lse = vec![0.0; n * s.heads];
    for segment in &layout.segments {
        for i in 0..segment.own.len {
            let row = segment.query + i;
            let keys = visible(segment, i, s);
            for h in 0..s.heads {
                let kv = h * s.kv_heads / s.heads;
                let qi = &q[at(row, s.heads, h, width)..][..width];
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|&(a, _)| score(s, qi, &k[at(a, s.kv_heads, kv, width)..][..width]).0)
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|x| (x - top).exp()).sum();
                lse[row * s.heads + h] = top + total.ln();
                let o = &mut out[at(row, s.heads, h, width)..][..width];
                o.fill(0.0);
                let kept = kept(s, row, h, &keys);
                for ((score, &(a, _)), m) in scores.iter().zip(&keys).zip(kept) {
                    let p = m * (score - top).exp() / total;
                    for (j, o) in o.iter_mut().enumerate() {
                        *o += p * v[at(a, s.kv_heads, kv, width) + j];
                    }
                }
            }
        }
    }
    lse
}

/// See [`crate::Backend::attention_backward`]. With p_ij and m_ij as above: dv_j += m_ij p_ij dout_i,
/// ds_ij = c_ij p_ij (m_ij dout_i·v_j − Σ_l p_il m_il dout_i·v_l), dq_i += ds_ij k_j, dk_j += ds_ij q_i, where c_ij is the
/// derivative of the score: scale, or scale·(1 − tanh²) with a cap.
pub(super) fn backward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    lse: &[f64],
    layout: &AttentionLayout,
    s: AttentionShape,
    d_out: &[f64],
    dq: &mut [f64],
    dk: &mut [f64],
    dv: &mut [f64],
) {
    let width = s.head_dim;
    for segment in &layout.segments {
        for i in 0..segment.own.len {
            let (row, grad_row) = (segment.query + i, segment.own.grad + i);
            let keys = visible(segment, i, s);
            for h in 0..s.heads {
                let kv = h * s.kv_heads / s.heads;
                let qi = &q[at(row, s.heads, h, width)..][..width];
                let go = &d_out[at(grad_row, s.heads, h, width)..][..width];
                let (p, slopes): (Vec<f64>, Vec<f64>) = keys
                    .iter()
                    .map(|&(a, _)| {
                        let key = &k[at(a, s.kv_heads, kv, width)..][..width];
                        let (score, slope) = score(s, qi, key);
                        ((score - lse[row * s.heads + h]).exp(), slope)
                    })
                    .unzip();
                let kept = kept(s, row, h, &keys);
                let dp: Vec<f64> = keys
                    .iter()
                    .zip(&kept)
                    .map(|(&(a, _), m)| m * dot(go, &v[at(a, s.kv_heads, kv, width)..][..width]))
                    .collect();
                let mean = dot(&p, &dp);
                for (l, &(a, g)) in keys.iter().enumerate() {
                    let ds = slopes[l] * p[l] * (dp[l] - mean);
                    for j in 0..width {
                        let key = at(a, s.kv_heads, kv, width) + j;
                        let grad = at(g, s.kv_heads, kv, width) + j;
                        dq[at(grad_row, s.heads, h, width) + j] += ds * k[key];
                        dk[grad] += ds * qi[j];
                        dv[grad] += kept[l] * p[l] * go[j];
                    }
                }
            }
        }
    }
}
