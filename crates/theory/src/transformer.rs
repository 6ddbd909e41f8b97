//! Beside Theorem 3: the same shape of pairs in a real tiny transformer, every parameter learning.
//!
//! Nothing is proved there: one hidden state serves all tokens, so what is learnt at one position moves all others. This counts
//! how often the theorem's pattern is seen all the same, in a model as it is drawn and after supervised steps on the chosen
//! completion, as the paper's experiments have behind them.

use crate::closed;
use crate::dpo::{Changes, Descent, Dpo, NATS, pair};
use crate::random::{generator, tokens, two_tokens};
use crate::record::{Claim, Relaxed, SuffixRow};
use crate::theorem3;
use crate::tiny::{Shape, Tiny};
use crate::{Backends, broken, share};
use rand::RngExt;
use rayon::prelude::*;
use std::sync::Arc;
use unbraid_diagnose::measure_pairs;
use unbraid_model::{Accumulate, Batch, GradientPlan, Gradients, Keep, LanguageModel};
use unbraid_objective::condition::predicted_change;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::{Backend, NaiveBackend};
use unbraid_train::{Optimizer, OptimizerKind, pack_pairs, score_pairs};

const THEOREM: &str = "Theorem 3";
/// Stream of the random instances.
const FAMILY: u32 = 4;
/// Suffix lengths of the curve.
const LENGTHS: [usize; 6] = [0, 1, 2, 4, 8, 16];
/// Supervised steps on the chosen completion and their AdamW rate.
const TUNING_STEPS: usize = 30;
const TUNING_RATE: f64 = 5e-3;

/// A transformer with a pair: a prompt, two shared tokens, the differing one, a shared suffix.
struct Instance {
    tiny: Tiny,
    pair: TokenizedPair,
    /// Place of the differing token in the completion.
    differing: usize,
    dpo: Dpo,
}

fn draw(seed: u64, index: usize, suffix: usize) -> Instance {
    let rng = &mut generator(seed, FAMILY, index);
    let vocab = 24;
    let tiny = Tiny {
        shape: if rng.random() {
            Shape::Gpt2
        } else {
            Shape::Llama
        },
        width: 16,
        layers: 2,
        vocab,
        std: 0.3,
        h_scale: 1.0,
        seed: rng.random(),
    };
    let (chosen, rejected) = two_tokens(rng, vocab);
    let (dpo, prompt, prefix) = (Dpo::draw(rng), tokens(rng, 4, vocab), tokens(rng, 2, vocab));
    let suffix = tokens(rng, suffix, vocab);
    let with = |token: u32| [&prefix[..], &[token], &suffix[..]].concat();
    Instance {
        tiny,
        pair: pair(&prompt, &with(chosen), &with(rejected)),
        differing: prefix.len(),
        dpo,
    }
}

/// Supervised steps on the chosen completion, through the trainer's sink and optimizer.
fn tune<B: Backend>(model: &mut LanguageModel<B>, pair: &TokenizedPair) {
    let b = Arc::clone(&model.backend);
    let batch = Batch::new(&*b, pack_pairs([pair], true));
    let plan = GradientPlan::summed(&*b, &batch.forest);
    let len = batch.forest.responses[0].targets.len();
    let mut seeds = vec![0.0; batch.targets()];
    seeds[..len].fill(-1.0 / len as f64);
    let mut gradients = Gradients::zeros(&*b, &model.params, |_| true);
    let kind = OptimizerKind::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
    };
    let mut optimizer = Optimizer::new(&*b, kind, 0.0, &model.params, &gradients);
    for _ in 0..TUNING_STEPS {
        gradients.clear(&b);
        let forward = model.forward(&batch, Keep::All);
        model.backward(
            &batch,
            &plan,
            forward,
            &seeds,
            &mut Accumulate(&mut gradients),
        );
        optimizer.step(&b, &mut model.params, &gradients, TUNING_RATE, 1.0);
    }
}

/// First-order and realised changes of the chosen response of one instance.
struct Seen {
    first: Vec<f64>,
    realised: Vec<f64>,
    differing: usize,
    /// For each suffix token: whether s_w[y] ≥ s_l[y], and whether the whole condition holds.
    condition: Vec<(bool, bool)>,
}

impl Seen {
    fn pairs(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = (f64, f64)> + '_ {
        range.map(|i| (self.first[i], self.realised[i]))
    }

    fn sum(&self, range: std::ops::Range<usize>) -> (f64, f64) {
        self.pairs(range)
            .fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1))
    }

    fn suffix(&self) -> std::ops::Range<usize> {
        self.differing + 1..self.first.len()
    }
}

fn see(backend: &Arc<NaiveBackend>, x: &Instance, tuned: bool) -> Seen {
    let mut model = x.tiny.build(backend);
    if tuned {
        tune(&mut model, &x.pair);
    }
    let scored = score_pairs(&model, &[&x.pair], |_| true).swap_remove(0);
    let (d_w, d_l) = x.dpo.coefficients(&scored);
    let mut descent = Descent::new(&model, &x.pair, (d_w, d_l), |_| true);
    let Changes { chosen, rejected } = descent.first_order(&model, &x.pair);
    let margin: f64 = chosen.iter().sum::<f64>() - rejected.iter().sum::<f64>();
    let taken = descent.step(&mut model, &x.pair, NATS[NATS.len() - 1] / margin);
    Seen {
        condition: conditions(&model, x),
        first: chosen,
        realised: taken.chosen,
        differing: x.differing,
    }
}

/// The two predictions of every suffix token, compared.
fn conditions(model: &LanguageModel<NaiveBackend>, x: &Instance) -> Vec<(bool, bool)> {
    let batch = Batch::new(&*model.backend, pack_pairs([&x.pair], true));
    let (h, w, d) = (
        model.score(&batch).h,
        model.params.get(model.head()),
        x.tiny.width,
    );
    let prediction = |row: usize| {
        let z: Vec<f64> = w
            .chunks_exact(d)
            .map(|w| closed::dot(w, &h[row * d..][..d]))
            .collect();
        closed::softmax(&z)
    };
    let completion = x.pair.chosen.completion();
    let of = |i: usize| {
        let (w, l, y) = (
            prediction(i),
            prediction(completion.len() + i),
            completion[i] as usize,
        );
        (w[y] >= l[y], closed::suffix_condition(&w, &l, y))
    };
    (x.differing + 1..completion.len()).map(of).collect()
}

fn all(backends: &Backends, seed: u64, n: usize, suffix: usize, tuned: bool) -> Vec<Seen> {
    let one = |i| see(&backends.exact, &draw(seed, i, suffix), tuned);
    (0..n).into_par_iter().map(one).collect()
}

fn claims(found: &[Seen]) -> Vec<Claim> {
    let tokens: Vec<(f64, f64)> = found.iter().flat_map(|x| x.pairs(x.suffix())).collect();
    let sums: Vec<(f64, f64)> = found.iter().map(|x| x.sum(x.suffix())).collect();
    let wholes: Vec<(f64, f64)> = found.iter().map(|x| x.sum(0..x.first.len())).collect();
    let at_m: Vec<(f64, f64)> = found
        .iter()
        .map(|x| x.sum(x.differing..x.differing + 1))
        .collect();
    let conditions: Vec<(bool, bool)> = found
        .iter()
        .flat_map(|x| x.condition.iter().copied())
        .collect();
    let rises = Claim {
        broken_realised: Some(broken("", &at_m, |x| x.1 > 0.0).broken),
        ..broken("the chosen token at m rises", &at_m, |x| x.0 > 0.0)
    };
    let mut claims = vec![
        broken("s_w[y] ≥ s_l[y] at a suffix token", &conditions, |x| x.0),
        broken("the whole condition holds there", &conditions, |x| x.1),
        rises,
    ];
    claims.extend(theorem3::suffix_claims(&tokens, &sums, &wholes));
    claims
}

/// How often the pattern is seen in a transformer, with eight suffix tokens.
pub fn relaxed(backends: &Backends, seed: u64, n: usize) -> Vec<Relaxed> {
    let row = |id, instead, tuned| Relaxed {
        id,
        theorem: THEOREM,
        assumption: "learnable logits",
        instead,
        instances: n,
        closed_form: None,
        worst_error: None,
        claims: claims(&all(backends, seed, n, 8, tuned)),
    };
    vec![
        row(
            "theorem3.transformer",
            "a random transformer, every parameter learns, 8 suffix tokens",
            false,
        ),
        row(
            "theorem3.transformer_tuned",
            "the same after 30 supervised steps on the chosen completion",
            true,
        ),
    ]
}

/// Whether a step would lower the chosen log-prob, to first order.
fn chosen_falls(backend: &Arc<NaiveBackend>, x: &Instance, tuned: bool) -> bool {
    let mut model = x.tiny.build(backend);
    if tuned {
        tune(&mut model, &x.pair);
    }
    let measured = measure_pairs(&model, &[&x.pair]).pairs.swap_remove(0);
    let (d_w, d_l) = x.dpo.coefficients(&measured.scored);
    predicted_change(measured.gram, d_w, d_l).0 < 0.0
}

/// Theorem 3 against the length of the suffix, learnable logits and transformers.
pub fn curve(backends: &Backends, seed: u64, n: usize) -> Vec<SuffixRow> {
    let falls = |suffix, tuned| {
        let one = |i| chosen_falls(&backends.exact, &draw(seed, i, suffix), tuned);
        let found: Vec<bool> = (0..n).into_par_iter().map(one).collect();
        share(&found, |falls| *falls)
    };
    let row = |suffix: usize| {
        let (predicted, computed, chosen_falls) = theorem3::curve_row(backends, seed, n, suffix);
        SuffixRow {
            suffix,
            instances: n,
            predicted,
            computed,
            chosen_falls,
            fresh_falls: falls(suffix, false),
            tuned_falls: falls(suffix, true),
        }
    };
    LENGTHS.into_iter().map(row).collect()
}
