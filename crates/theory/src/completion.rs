//! Instances of Theorem 1 and Corollary 2: completions of a real model that share a prefix (none: Theorem 1) and differ in
//! their last token, whose prediction is whatever the theorem asks for.

use crate::closed::{self, SharedPrefix};
use crate::dpo::{self, Dpo};
use crate::random::{generator, log_uniform, normals, support, tokens, two_tokens};
use crate::tiny::{Tiny, set_logits};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::sync::Arc;
use unbraid_diagnose::measure_pairs;
use unbraid_model::{Batch, LanguageModel};
use unbraid_objective::Gram;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::{Backend, HeadBackward};
use unbraid_train::pack_pairs;

/// Logits of tokens outside the M lie so far below: e⁻⁶⁰ ≈ 9·10⁻²⁷ of the others' probability.
pub const GAP: f64 = 60.0;

/// One instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// For messages.
    pub name: String,
    /// The model before its head is rewritten.
    pub tiny: Tiny,
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// What both completions begin with.
    pub prefix: Vec<u32>,
    /// Last token of the chosen completion.
    pub chosen: u32,
    /// Last token of the rejected completion.
    pub rejected: u32,
    /// Logits of the last position.
    pub logits: Vec<f64>,
    /// The loss.
    pub dpo: Dpo,
}

impl Completion {
    /// Random, under the theorem's assumptions; up to `longest` prefix tokens.
    pub fn draw(rng: &mut ChaCha8Rng, name: String, longest: usize) -> Self {
        let vocab = rng.random_range(3..33);
        let size = rng.random_range(2..=vocab);
        Self::draw_sized(rng, name, (vocab, size), longest)
    }

    /// The same with V and M given.
    pub fn draw_sized(
        rng: &mut ChaCha8Rng,
        name: String,
        (vocab, size): (usize, usize),
        longest: usize,
    ) -> Self {
        let tiny = Tiny::draw(rng, vocab);
        let (chosen, rejected) = two_tokens(rng, vocab);
        let inside = support(rng, vocab, size, &[chosen, rejected]);
        let prompt = rng.random_range(1..9);
        let prefix = if longest == 0 {
            0
        } else {
            rng.random_range(1..=longest)
        };
        Completion {
            name,
            tiny,
            prompt: tokens(rng, prompt, vocab),
            prefix: tokens(rng, prefix, vocab),
            chosen,
            rejected,
            logits: uniform(&inside),
            dpo: Dpo::draw(rng),
        }
    }

    /// `n` random ones.
    pub fn random(seed: u64, family: u32, n: usize, longest: usize) -> Vec<Self> {
        let one = |i| {
            Self::draw(
                &mut generator(seed, family, i),
                format!("random {i}"),
                longest,
            )
        };
        (0..n).map(one).collect()
    }

    /// The same pair under a prediction that is not uniform: normal logits of a random spread up to near-certainty.
    pub fn peaked(mut self, rng: &mut ChaCha8Rng) -> Self {
        let spread = log_uniform(rng, 0.5, 20.0);
        self.logits = normals(rng, self.tiny.vocab, spread);
        self
    }

    /// Number of tokens M on which the last prediction is uniform.
    pub fn support(&self) -> usize {
        self.logits.iter().filter(|z| **z == 0.0).count()
    }

    /// s of the last position.
    pub fn prediction(&self) -> Vec<f64> {
        closed::softmax(&self.logits)
    }

    /// Chosen and rejected last token as indices.
    pub fn last(&self) -> (usize, usize) {
        (self.chosen as usize, self.rejected as usize)
    }

    /// The pair.
    pub fn pair(&self) -> TokenizedPair {
        let with = |last: u32| [&self.prefix[..], &[last]].concat();
        dpo::pair(&self.prompt, &with(self.chosen), &with(self.rejected))
    }

    /// The model whose head gives the wanted logits, and the final hidden states `[K, D]` of the rows that predict the
    /// completion.
    pub fn build<B: Backend>(&self, backend: &Arc<B>) -> (LanguageModel<B>, Vec<f64>) {
        let mut model = self.tiny.build(backend);
        let batch = Batch::new(&**backend, pack_pairs([&self.pair()], true));
        let d = self.tiny.width;
        let mut h = backend.download_f64(&model.score(&batch).h);
        h.truncate((self.prefix.len() + 1) * d);
        set_logits(&mut model, &h[self.prefix.len() * d..], &self.logits);
        (model, h)
    }

    /// The corollary's parts, from the head and the hidden states of a built model alone.
    pub fn closed<B: Backend>(&self, model: &LanguageModel<B>, h: &[f64]) -> SharedPrefix {
        let w = model.backend.download_f64(model.params.get(model.head()));
        SharedPrefix::new(
            &w,
            h,
            self.tiny.width,
            &self.prefix,
            self.last(),
            self.support(),
        )
    }
}

/// Logits of a uniform prediction on the tokens that are inside.
pub fn uniform(inside: &[bool]) -> Vec<f64> {
    inside.iter().map(|&x| if x { 0.0 } else { -GAP }).collect()
}

/// What the engine measures of an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Inner products of the head's gradients: the theorem's setting.
    pub head: Gram,
    /// Over all parameters.
    pub all: Gram,
    /// The objective's d_w and d_l.
    pub coefficients: (f64, f64),
    /// First-order change of the last token's log-prob per unit of rate, chosen and rejected; the head alone learns.
    pub last: (f64, f64),
}

/// Measures as training does: unit seeds, one walk, the sink's inner products; the last tokens' from the head's backward.
pub fn measure<B: Backend>(model: &LanguageModel<B>, pair: &TokenizedPair, dpo: &Dpo) -> Measured {
    let measured = measure_pairs(model, &[pair]);
    let head = measured
        .group_names
        .iter()
        .position(|name| name == "head")
        .expect("an untied head");
    let pair_measured = &measured.pairs[0];
    let (d_w, d_l) = dpo.coefficients(&pair_measured.scored);
    let len = pair.chosen.completion().len();
    let (chosen, rejected) = (0..len, len..2 * len);
    let last = |i: usize| [(i..i + 1, chosen.clone()), (i..i + 1, rejected.clone())];
    let wanted: Vec<_> = [last(len - 1), last(2 * len - 1)]
        .into_iter()
        .flatten()
        .collect();
    let inner = head_inner(model, pair, &wanted);
    Measured {
        head: pair_measured.groups[head],
        all: pair_measured.gram,
        coefficients: (d_w, d_l),
        last: (
            d_w * inner[0] - d_l * inner[1],
            d_w * inner[2] - d_l * inner[3],
        ),
    }
}

/// Inner products of the head's gradients of runs of targets, from the backward that training calls.
fn head_inner<B: Backend>(
    model: &LanguageModel<B>,
    pair: &TokenizedPair,
    wanted: &[(Range<usize>, Range<usize>)],
) -> Vec<f64> {
    let b = &*model.backend;
    let batch = Batch::new(b, pack_pairs([pair], true));
    let forward = model.score(&batch);
    let seeds = b.upload_f64(&vec![1.0; batch.targets()]);
    b.head_backward(&mut HeadBackward {
        h: &forward.h,
        w: model.params.get(model.head()),
        lse: &forward.lse,
        softcap: None,
        logits: None,
        targets: &batch.target_ids,
        seeds: &seeds,
        coefficients: None,
        dh: None,
        dw: None,
        inner: wanted,
        m: batch.targets(),
        d: model.config.hidden_size(),
        v: model.config.vocab_size(),
    })
}
