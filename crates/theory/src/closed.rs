//! The closed forms of the paper (arXiv 2410.13828, section 4.1 and appendix B): pure arithmetic, no engine.
//!
//! Changes of log-probs are per ηβc, c = σ(−βh) the DPO coefficient: what one gradient-descent step of rate η on the DPO loss
//! does to first order, over ηβc.
//!
//! Everything rests on one derivative: with logits z = W h, ∂ log softmax(z)_j / ∂W = (e_j − s) hᵀ, s = softmax(z). With
//! learnable logits it is e_j − s itself.

/// softmax(z).
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|z| (z - top).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|x| x / sum).collect()
}

/// Σ aᵢbᵢ.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What Theorem 1 says of one token pair under a prediction that is uniform on M tokens: (⟨g_w, g_l⟩, ‖g_w‖² = ‖g_l‖²,
/// Δa_w = −Δa_l per ηβc). `h2` is ‖h‖².
pub fn theorem1(h2: f64, support: usize) -> (f64, f64, f64) {
    let m = support as f64;
    let (inner, norm) = (-h2 / m, (m - 1.0) / m * h2);
    (inner, norm, norm - inner)
}

/// ⟨e_j − s, e_k − s⟩ for two different tokens: ‖s‖² − s_j − s_k. Theorem 1 without uniformity, over ‖h‖².
pub fn token_inner(s: &[f64], j: usize, k: usize) -> f64 {
    dot(s, s) - s[j] - s[k]
}

/// (13): change of log s_j per ηβc (and ‖h‖²) where the two responses differ, j chosen and k rejected: 1 − s_j + s_k.
pub fn differing(s: &[f64], j: usize, k: usize) -> f64 {
    1.0 - s[j] + s[k]
}

/// (14): change per ηβc of the chosen response's log-prob of `y` behind the differing token,
/// `(1 − s_w[y])(s_l[y] − s_w[y]) − Σ_{v≠y} s_w[v](s_l[v] − s_w[v])`.
pub fn suffix(s_w: &[f64], s_l: &[f64], y: usize) -> f64 {
    let others = s_w.iter().zip(s_l).enumerate().filter(|(v, _)| *v != y);
    let others: f64 = others.map(|(_, (w, l))| w * (l - w)).sum();
    (1.0 - s_w[y]) * (s_l[y] - s_w[y]) - others
}

/// The same of the rejected response's log-prob of `y`, whose own prediction is s_l: the roles exchanged, and with them the
/// sign of the step.
pub fn suffix_rejected(s_w: &[f64], s_l: &[f64], y: usize) -> f64 {
    -suffix(s_l, s_w, y)
}

/// Theorem 3's condition at one suffix token: the chosen context makes `y` no less and every other token no more likely.
pub fn suffix_condition(s_w: &[f64], s_l: &[f64], y: usize) -> bool {
    let pairs = s_w.iter().zip(s_l).enumerate();
    pairs
        .into_iter()
        .all(|(v, (w, l))| if v == y { w >= l } else { w <= l })
}

/// Corollary 2's parts for responses with a shared prefix whose last tokens are j (chosen) and k (rejected).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedPrefix {
    /// ‖P‖², P = Σ_{i<K} (e_{y_i} − s_i) h_iᵀ.
    pub prefix: f64,
    /// ⟨P, (e_j − s_K) h_Kᵀ⟩.
    pub cross_w: f64,
    /// ⟨P, (e_k − s_K) h_Kᵀ⟩.
    pub cross_l: f64,
    /// ‖h_K‖².
    pub h2: f64,
    /// Tokens M on which the last prediction is uniform.
    pub support: usize,
}

impl SharedPrefix {
    /// From the head `w` `[V, D]`, hidden states `h` `[K, D]` of the predicting rows, and the prefix's K − 1 tokens.
    pub fn new(
        w: &[f64],
        h: &[f64],
        d: usize,
        prefix: &[u32],
        (j, k): (usize, usize),
        support: usize,
    ) -> Self {
        let v = w.len() / d;
        let row = |i: usize| &h[i * d..][..d];
        let prediction = |i: usize| -> Vec<f64> {
            let z: Vec<f64> = (0..v).map(|t| dot(&w[t * d..][..d], row(i))).collect();
            softmax(&z)
        };
        let mut p = vec![0.0; v * d];
        for (i, &y) in prefix.iter().enumerate() {
            for (t, s) in prediction(i).into_iter().enumerate() {
                let g = if t == y as usize { 1.0 - s } else { -s };
                p[t * d..][..d]
                    .iter_mut()
                    .zip(row(i))
                    .for_each(|(p, h)| *p += g * h);
            }
        }
        let last = row(prefix.len());
        let s = prediction(prefix.len());
        let ph: Vec<f64> = (0..v).map(|t| dot(&p[t * d..][..d], last)).collect();
        let mean = dot(&s, &ph);
        SharedPrefix {
            prefix: dot(&p, &p),
            cross_w: ph[j] - mean,
            cross_l: ph[k] - mean,
            h2: dot(last, last),
            support,
        }
    }

    /// ⟨g_w, g_l⟩ = ‖P‖² − ‖h_K‖²/M + both cross terms.
    pub fn inner(&self) -> f64 {
        let (inner, ..) = theorem1(self.h2, self.support);
        self.prefix + inner + self.cross_w + self.cross_l
    }

    /// (‖g_w‖², ‖g_l‖²) = ‖P‖² + (M−1)/M ‖h_K‖² + twice the cross term.
    pub fn norms(&self) -> (f64, f64) {
        let (_, norm, _) = theorem1(self.h2, self.support);
        let of = |cross: f64| self.prefix + norm + 2.0 * cross;
        (of(self.cross_w), of(self.cross_l))
    }

    /// (Δa_w, Δa_l) of the whole responses per ηβc: ±‖h_K‖² plus the difference of the cross terms. ‖P‖² cancels.
    pub fn changes(&self) -> (f64, f64) {
        let shift = self.cross_w - self.cross_l;
        (self.h2 + shift, -self.h2 + shift)
    }

    /// Sum of the parts' magnitudes: what rounding is relative to where the parts cancel.
    pub fn magnitude(&self) -> f64 {
        self.prefix + 2.0 * (self.cross_w.abs() + self.cross_l.abs()) + self.h2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-14, "{a} {b}");
    }

    #[test]
    fn theorem1_by_hand() {
        // V = 3, M = 2: s = (½, ½, 0), h = (3, 4). e_0 − s = (½, −½, 0), e_1 − s = (−½, ½, 0): inner −½, norms ½, times 25.
        let (inner, norm, change) = theorem1(25.0, 2);
        assert_eq!((inner, norm, change), (-12.5, 12.5, 25.0));
        let s = [0.5, 0.5, 0.0];
        close(25.0 * token_inner(&s, 0, 1), inner);
        close(25.0 * differing(&s, 0, 1), change);
        // The rejected token outside the M: ½ − ½ − 0 = 0; both outside (V = 4): +1/M.
        close(token_inner(&s, 0, 2), 0.0);
        close(token_inner(&[0.5, 0.5, 0.0, 0.0], 2, 3), 0.5);
        // A third token that is all but certain: ‖s‖² exceeds s_j + s_k, the inner product is positive.
        assert!(token_inner(&[0.05, 0.05, 0.9], 0, 1) > 0.7);
    }

    #[test]
    fn suffix_by_hand() {
        // s_w = (0.8, 0.2), s_l = (0.5, 0.5), y = 0: 0.2·(−0.3) − 0.2·0.3 = −0.12.
        let (s_w, s_l) = ([0.8, 0.2], [0.5, 0.5]);
        close(suffix(&s_w, &s_l, 0), -0.12);
        // As an inner product: ⟨e_y − s_w, s_l − s_w⟩ = 0.2·(−0.3) + (−0.2)·0.3.
        assert!(suffix_condition(&s_w, &s_l, 0) && !suffix_condition(&s_w, &s_l, 1));
        // Rejected: ⟨e_y − s_l, s_l − s_w⟩ = 0.5·(−0.3) + (−0.5)·0.3 = −0.3.
        close(suffix_rejected(&s_w, &s_l, 0), -0.3);
        // Turned round it rises.
        assert!(suffix(&s_l, &s_w, 0) > 0.0);
    }

    #[test]
    fn corollary2_by_hand() {
        // V = 3, D = 1, W = (0, 0, −60): s = (½, ½, 0) everywhere. h = (2, 3), prefix y = 0: P = 2(½, −½, 0), ‖P‖² = 2.
        // Last tokens 0, 1: P h_K = (3, −3, 0), mean 0, crosses 3 and −3; ‖h_K‖² = 9.
        let x = SharedPrefix::new(&[0.0, 0.0, -60.0], &[2.0, 3.0], 1, &[0], (0, 1), 2);
        close(x.prefix, 2.0);
        close(x.cross_w, 3.0);
        close(x.cross_l, -3.0);
        // g_w = (1 + 1.5)(1, −1, 0), g_l = (1 − 1.5)(1, −1, 0): ⟨⟩ = −2.5, norms 12.5 and 0.5.
        close(x.inner(), -2.5);
        close(x.norms().0, 12.5);
        close(x.norms().1, 0.5);
        // ⟨g_w, g_w − g_l⟩ = 2.5·3·2 = 15, ⟨g_l, g_w − g_l⟩ = −0.5·3·2 = −3.
        close(x.changes().0, 15.0);
        close(x.changes().1, -3.0);
    }

    #[test]
    fn softmax_by_hand() {
        assert_eq!(softmax(&[0.0, 0.0, -1000.0]), [0.5, 0.5, 0.0]);
        close(softmax(&[2f64.ln(), 0.0])[0], 2.0 / 3.0);
    }
}
