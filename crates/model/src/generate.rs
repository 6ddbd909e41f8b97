//! Sampling text: one sequence at a time with a key/value cache.
//!
//! Greedy, or from softmax(logits / temperature) restricted to the smallest set of tokens whose probability
//! reaches `top_p` (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751). The first pass reads the whole
//! prompt; each later pass one token.

use crate::decoder::{ForwardPass, LanguageModel, LayerCache};
use rand::{Rng, RngExt};
use unbraid_tensor::{AttentionLayout, AttentionSegment, Backend, Span};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Sample instead of taking the most likely token.
    pub do_sample: bool,
    /// Divides the logits; positive.
    pub temperature: f64,
    /// Probability mass kept, in (0, 1].
    pub top_p: f64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Sampling {
            do_sample: false,
            temperature: 1.0,
            top_p: 1.0,
        }
    }
}

impl Sampling {
    /// The next token from logits `[V]`.
    pub fn choose(&self, logits: &[f32], rng: &mut impl Rng) -> u32 {
        if !self.do_sample {
            let best = logits
                .iter()
                .enumerate()
                .rev()
                .max_by(|a, b| a.1.total_cmp(b.1));
            return best.map_or(0, |(i, _)| i as u32);
        }
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut weights: Vec<(u32, f64)> = logits
            .iter()
            .map(|&z| (f64::from(z - top) / self.temperature).exp())
            .enumerate()
            .map(|(i, w)| (i as u32, w))
            .collect();
        weights.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = weights.iter().map(|w| w.1).sum();
        let mut kept = 0.0;
        let nucleus = weights
            .iter()
            .position(|w| {
                kept += w.1;
                kept >= self.top_p * total
            })
            .map_or(weights.len(), |i| i + 1);
        let nucleus = &weights[..nucleus];
        let mut at = rng.random::<f64>() * nucleus.iter().map(|w| w.1).sum::<f64>();
        for &(token, weight) in nucleus {
            at -= weight;
            if at <= 0.0 {
                return token;
            }
        }
        nucleus[nucleus.len() - 1].0
    }
}

/// A sequence being continued.
pub struct Session<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    caches: Vec<LayerCache<B>>,
    capacity: usize,
    len: usize,
}

impl<'a, B: Backend> Session<'a, B> {
    /// A session for at most `capacity` tokens.
    pub fn new(model: &'a LanguageModel<B>, capacity: usize) -> Self {
        let b = &*model.backend;
        let floats = capacity * model.family().kv_width();
        let caches = (0..model.family().n_blocks())
            .map(|_| LayerCache {
                k: b.empty(floats),
                v: b.empty(floats),
                len: 0,
            })
            .collect();
        Session {
            model,
            caches,
            capacity,
            len: 0,
        }
    }

    /// Tokens read so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads `ids` and returns the logits after the last one, `[V]`.
    ///
    /// # Panics
    /// When `ids` is empty or the session's capacity is exceeded.
    pub fn read(&mut self, ids: &[u32]) -> Vec<f32> {
        let n = ids.len();
        assert!(n > 0 && self.len + n <= self.capacity, "session capacity");
        let model = self.model;
        let (b, family) = (&*model.backend, model.family());
        let span = |act, len| Span {
            act,
            grad: act,
            len,
        };
        let past = (self.len > 0).then(|| span(0, self.len));
        let layout = AttentionLayout {
            segments: vec![AttentionSegment {
                query: 0,
                own: span(self.len, n),
                ancestors: past.into_iter().collect(),
                group: 0,
            }],
        };
        let positions: Vec<u32> = (self.len..self.len + n).map(|p| p as u32).collect();
        let (ids, positions) = (b.index(ids), b.index(&positions));
        let pass = ForwardPass {
            backend: b,
            params: &model.params,
            ids: &ids,
            positions: &positions,
            context: self.len + n,
            layout: &layout,
            rows: n,
            dropout_seed: None,
        };
        let mut x = family.embed(&pass);
        for (i, cache) in self.caches.iter_mut().enumerate() {
            model.cancel.check();
            x = family.block(&pass, i, x, Some(cache)).0;
        }
        self.len += n;
        self.logits(&x, n)
    }

    /// Logits of the last of `n` rows.
    fn logits(&self, x: &B::Buffer, n: usize) -> Vec<f32> {
        let model = self.model;
        let (b, d) = (&*model.backend, model.config.hidden_size());
        let mut last = b.empty(d);
        b.copy_2d(x, (n - 1) * d, d, &mut last, 0, d, 1, d);
        let (h, _) = model
            .family()
            .final_norm()
            .forward(b, &model.params, &last, 1);
        model.logits_of(&h, 0..1)
    }
}

impl<B: Backend> LanguageModel<B> {
    /// Continues `prompt` by at most `max_new_tokens`, stopping after a token of `stop`; `on_token` sees each
    /// new token and may end early by returning false. The stop token is included in the result.
    pub fn generate(
        &self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &[u32],
        sampling: Sampling,
        rng: &mut impl Rng,
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Vec<u32> {
        let mut out = Vec::new();
        if prompt.is_empty() || max_new_tokens == 0 {
            return out;
        }
        let mut session = Session::new(self, prompt.len() + max_new_tokens);
        let mut logits = session.read(prompt);
        loop {
            let token = sampling.choose(&logits, rng);
            out.push(token);
            if !on_token(token) || stop.contains(&token) || out.len() == max_new_tokens {
                return out;
            }
            logits = session.read(&[token]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn greedy_takes_the_first_of_equal_maxima() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let token = Sampling::default().choose(&[0.0, 2.0, 2.0, 1.0], &mut rng);
        assert_eq!(token, 1);
    }

    #[test]
    fn top_p_keeps_the_nucleus_only() {
        // Probabilities 0.6, 0.3, 0.1: a mass of 0.8 needs the first two.
        let logits = [0.6f32.ln(), 0.1f32.ln(), 0.3f32.ln()];
        let sampling = Sampling {
            do_sample: true,
            temperature: 1.0,
            top_p: 0.8,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 3];
        for _ in 0..3000 {
            counts[sampling.choose(&logits, &mut rng) as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        let share = f64::from(counts[0]) / 3000.0;
        assert!((share - 2.0 / 3.0).abs() < 0.03, "{counts:?}");
    }
}
