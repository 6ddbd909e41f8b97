//! Generating text: one sequence at a time with a key/value cache.
//!
//! The first pass reads the whole prompt; each later pass one token. Between logits and choice stand transformers'
//! processors ([`LogitsProcessors`]), as a [`GenerationConfig`] asks for them.

mod processors;
mod settings;

pub use processors::LogitsProcessors;
pub use settings::{GENERATION_CONFIG, GenerationConfig};

use crate::decoder::{ForwardPass, LanguageModel, LayerCache};
use processors::{first_largest, softmax};
use rand::{Rng, RngExt};
use unbraid_tensor::{AttentionLayout, AttentionSegment, Backend, Span};

/// The next token by scores `[V]`: the most likely one, of several the first, or one drawn from softmax(scores). `None`
/// where sampling finds no token left.
fn choose(scores: &[f32], do_sample: bool, rng: &mut impl Rng) -> Option<u32> {
    if !do_sample {
        return Some(first_largest(scores) as u32);
    }
    let p = softmax(scores);
    let total: f64 = p.iter().filter(|p| p.is_finite()).sum();
    let mut at = rng.random::<f64>() * total;
    let mut last = None;
    for (token, p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        last = Some(token as u32);
        at -= p;
        if at <= 0.0 {
            break;
        }
    }
    last
}

/// A sequence being continued.
pub struct Session<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    caches: Vec<LayerCache<B>>,
    capacity: usize,
    /// Tokens that the caches hold now.
    room: usize,
    len: usize,
}

impl<'a, B: Backend> Session<'a, B> {
    /// A session for at most `capacity` tokens. Memory is taken as tokens come.
    pub fn new(model: &'a LanguageModel<B>, capacity: usize) -> Self {
        let b = &*model.backend;
        let caches = (0..model.family().n_blocks())
            .map(|_| LayerCache {
                k: b.empty(0),
                v: b.empty(0),
                len: 0,
            })
            .collect();
        Session {
            model,
            caches,
            capacity,
            room: 0,
            len: 0,
        }
    }

    /// Makes the caches hold `tokens`, and twice what they held.
    fn make_room(&mut self, tokens: usize) {
        if tokens <= self.room {
            return;
        }
        let (b, width) = (&*self.model.backend, self.model.family().kv_width());
        let room = tokens.max(self.room.saturating_mul(2)).min(self.capacity);
        for cache in &mut self.caches {
            for buffer in [&mut cache.k, &mut cache.v] {
                let mut larger = b.empty(room * width);
                if self.len > 0 {
                    b.copy_2d(buffer, 0, width, &mut larger, 0, width, self.len, width);
                }
                *buffer = larger;
            }
        }
        self.room = room;
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
        self.make_room(self.len + n);
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
    /// Continues `prompt` by at most `max_new_tokens`, as `config` says (of lengths, only the lower ones are read from it),
    /// stopping after a token of its `eos_token_id`; `on_token` sees each new token and may end early by returning false.
    /// The token at which it stops is included in the result, which is shorter where sampling finds no token left.
    pub fn generate(
        &self,
        prompt: &[u32],
        max_new_tokens: usize,
        config: &GenerationConfig,
        rng: &mut impl Rng,
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Vec<u32> {
        if prompt.is_empty() || max_new_tokens == 0 {
            return Vec::new();
        }
        let capacity = prompt.len().saturating_add(max_new_tokens);
        let processors = LogitsProcessors::new(config, prompt, capacity);
        let stop = config.eos_token_id.as_deref().unwrap_or_default();
        let sample = config.do_sample == Some(true);
        let mut ids = prompt.to_vec();
        let mut session = Session::new(self, capacity);
        let mut scores = session.read(prompt);
        loop {
            processors.apply(&ids, &mut scores);
            let Some(token) = choose(&scores, sample, rng) else {
                break;
            };
            ids.push(token);
            if !on_token(token) || stop.contains(&token) || ids.len() == capacity {
                break;
            }
            scores = session.read(&[token]);
        }
        ids.split_off(prompt.len())
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
        assert_eq!(choose(&[0.0, 2.0, 2.0, 1.0], false, &mut rng), Some(1));
        // As torch.argmax: also where nothing is left.
        assert_eq!(choose(&[f32::NEG_INFINITY; 3], false, &mut rng), Some(0));
        assert_eq!(choose(&[f32::NEG_INFINITY; 3], true, &mut rng), None);
    }

    #[test]
    fn tokens_are_drawn_by_their_probability_and_never_where_they_have_none() {
        let scores = [0.6f32.ln(), f32::NEG_INFINITY, 0.3f32.ln()];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 3];
        for _ in 0..3000 {
            counts[choose(&scores, true, &mut rng).unwrap() as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        let share = f64::from(counts[0]) / 3000.0;
        assert!((share - 2.0 / 3.0).abs() < 0.03, "{counts:?}");
    }
}
