//! Random tiny language models, and the head rewritten so that one hidden state gets the logits that a theorem asks for.
//!
//! The same draws go to every backend, so that the f32 model is the f64 one rounded. The head is a parameter of its own: with
//! a tied one, rewriting it would move the hidden state. Biases and norm weights are random too, otherwise ‖h‖ of a GPT-2
//! would be √D in every instance.

use crate::closed::dot;
use crate::random::{generator, normal};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use unbraid_model::{Init, LanguageModel, ModelConfig, ParamId};
use unbraid_tensor::Backend;

/// Architecture of a tiny model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Learnt positions, layer norm, GELU.
    Gpt2,
    /// Rotary positions, RMS norm, SwiGLU, grouped queries.
    Llama,
}

/// A random model, described.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiny {
    /// Architecture.
    pub shape: Shape,
    /// Model width D, a multiple of 4.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Vocabulary V.
    pub vocab: usize,
    /// Standard deviation of the matrices.
    pub std: f64,
    /// Factor on the final norm's weights: the size of the hidden states.
    pub h_scale: f64,
    /// Seed of the parameters.
    pub seed: u64,
}

/// Longest sequence of a tiny model.
const POSITIONS: usize = 128;

impl Tiny {
    /// A random one over `vocab` tokens: width 4 to 16, one or two blocks.
    pub fn draw(rng: &mut ChaCha8Rng, vocab: usize) -> Self {
        Tiny {
            shape: if rng.random() {
                Shape::Gpt2
            } else {
                Shape::Llama
            },
            width: [4, 8, 12, 16][rng.random_range(0..4)],
            layers: rng.random_range(1..3),
            vocab,
            std: [0.1, 0.3, 0.6][rng.random_range(0..3)],
            h_scale: 1.0,
            seed: rng.random(),
        }
    }

    fn config(&self) -> ModelConfig {
        let (v, d, l, std) = (self.vocab, self.width, self.layers, self.std);
        let text = match self.shape {
            Shape::Gpt2 => format!(
                r#"{{"model_type": "gpt2", "vocab_size": {v}, "n_positions": {POSITIONS}, "n_embd": {d}, "n_head": 2,
                "n_inner": {f}, "n_layer": {l}, "tie_word_embeddings": false, "initializer_range": {std}}}"#,
                f = 2 * d
            ),
            Shape::Llama => format!(
                r#"{{"model_type": "llama", "vocab_size": {v}, "hidden_size": {d}, "intermediate_size": {f},
                "num_hidden_layers": {l}, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
                "max_position_embeddings": {POSITIONS}, "tie_word_embeddings": false, "initializer_range": {std}}}"#,
                f = 2 * d
            ),
        };
        ModelConfig::from_json_str(&text, "tiny model").expect("its sizes are valid")
    }

    /// The model on a backend.
    pub fn build<B: Backend>(&self, backend: &Arc<B>) -> LanguageModel<B> {
        let mut model = LanguageModel::random(Arc::clone(backend), self.config(), self.seed);
        let mut rng = generator(self.seed, 0, 0);
        let head = model.head();
        let final_norm = [
            "transformer.ln_f.weight",
            "transformer.ln_f.bias",
            "model.norm.weight",
        ];
        for i in 0..model.params.specs.len() {
            let spec = &model.params.specs[i];
            let (mean, spread) = match spec.init {
                Init::Ones => (1.0, 0.3),
                Init::Zeros => (0.0, 0.1),
                // Where hidden states are huge the head is small: the logits stay a model's.
                Init::Normal(_) if ParamId(i) == head && self.h_scale > 1.0 => {
                    backend.scale(1.0 / self.h_scale, &mut model.params.values[i]);
                    continue;
                }
                Init::Normal(_) => continue,
            };
            let factor = if final_norm.contains(&&*spec.name) {
                self.h_scale
            } else {
                1.0
            };
            let value: Vec<f64> = (0..spec.len())
                .map(|_| factor * (mean + spread * normal(&mut rng)))
                .collect();
            model.params.values[i] = backend.upload_f64(&value);
        }
        model
    }
}

/// Rewrites every row of the head by a multiple of `h` so that W h = `logits`.
pub fn set_logits<B: Backend>(model: &mut LanguageModel<B>, h: &[f64], logits: &[f64]) {
    let (b, head) = (Arc::clone(&model.backend), model.head());
    let mut w = b.download_f64(model.params.get(head));
    let h2 = dot(h, h);
    for (row, z) in w.chunks_exact_mut(h.len()).zip(logits) {
        // Twice: the second removes what the first left by rounding.
        for _ in 0..2 {
            let factor = (z - dot(row, h)) / h2;
            row.iter_mut().zip(h).for_each(|(w, h)| *w += factor * h);
        }
    }
    model.params.values[head.0] = b.upload_f64(&w);
}

#[cfg(test)]
mod tests {
    use super::*;
    use unbraid_tensor::{CpuBackend, NaiveBackend};

    #[test]
    fn both_backends_get_the_same_model() {
        for index in 0..6 {
            let mut tiny = Tiny::draw(&mut generator(5, 1, index), 7);
            tiny.h_scale = [1.0, 100.0][index % 2];
            let exact = tiny.build(&Arc::new(NaiveBackend));
            let fast = tiny.build(&Arc::new(CpuBackend::new()));
            for (a, b) in exact.params.values.iter().zip(&fast.params.values) {
                let (a, b) = (exact.backend.download(a), fast.backend.download(b));
                assert!(
                    a.iter()
                        .zip(&b)
                        .all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs())
                );
            }
        }
    }

    #[test]
    fn one_hidden_state_gets_the_wanted_logits() {
        let tiny = Tiny::draw(&mut generator(5, 1, 0), 3);
        let mut model = tiny.build(&Arc::new(NaiveBackend));
        let h: Vec<f64> = (0..tiny.width).map(|i| 1.0 - 0.3 * i as f64).collect();
        set_logits(&mut model, &h, &[1.0, -2.0, -60.0]);
        let w = model.params.get(model.head());
        for (row, z) in w.chunks_exact(h.len()).zip([1.0, -2.0, -60.0]) {
            assert!((dot(row, &h) - z).abs() < 1e-13);
        }
    }
}
