//! What must not matter does not: batch size, order in the batch, packing, prefix sharing.
//!
//! Tolerance 2e-5 nats per token: the f32 backend sums the same terms in another order (blocked products of other
//! shapes); token log-probs of these models are a few nats.

use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use unbraid_model::{Batch, Gradients, LanguageModel};
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::{Backend, CpuBackend};
use unbraid_train::{
    PreferenceSettings, PreferenceTask, ROWS_AT_ONCE, ReferencedPairs, ScoredPair, Task,
    pack_pairs, score_pairs,
};

static MODELS: LazyLock<Vec<LanguageModel<CpuBackend>>> = LazyLock::new(|| {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    let load = |case: &str| LanguageModel::load(Arc::new(CpuBackend::new()), &models.join(case));
    ["gpt2", "llama", "llama_tied"]
        .map(|case| load(case).expect("the parity models are in the repository"))
        .into()
});

fn pair() -> impl Strategy<Value = TokenizedPair> {
    let ids = |len| prop::collection::vec(0u32..101, len);
    // A prompt, a part both completions begin with, and their own ends (never both empty).
    (ids(1..12), ids(0..4), ids(1..10), ids(1..10)).prop_map(|(prompt, same, chosen, rejected)| {
        let side = |own: Vec<u32>| TokenizedSequence {
            ids: [prompt.clone(), same.clone(), own].concat(),
            prompt_len: prompt.len(),
        };
        TokenizedPair {
            index: 0,
            chosen: side(chosen),
            rejected: side(rejected),
            weight: 1.0,
            text: None,
        }
    })
}

fn score(
    model: &LanguageModel<CpuBackend>,
    pairs: &[&TokenizedPair],
    share: bool,
) -> Vec<ScoredPair> {
    let batch = Batch::new(&*model.backend, pack_pairs(pairs.iter().copied(), share));
    let logps = model.token_logps(&batch);
    let side = |r: &unbraid_model::Response| logps[r.targets.clone()].to_vec();
    let responses = batch.forest.responses.chunks_exact(2);
    responses
        .map(|p| ScoredPair {
            chosen_token_logps: side(&p[0]),
            rejected_token_logps: side(&p[1]),
        })
        .collect()
}

fn same(a: &ScoredPair, b: &ScoredPair) -> Result<(), TestCaseError> {
    let tokens = |s: &ScoredPair| [&s.chosen_token_logps[..], &s.rejected_token_logps[..]].concat();
    let (a, b) = (tokens(a), tokens(b));
    prop_assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(&b) {
        prop_assert!(
            (x - y).abs() <= 2e-5 * x.abs().max(1.0),
            "{} against {}",
            x,
            y
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn company_order_and_sharing_change_no_log_prob(
        pairs in prop::collection::vec(pair(), 1..7),
        which in 0usize..3,
        rotate in 0usize..7,
    ) {
        let model = &MODELS[which];
        let all: Vec<&TokenizedPair> = pairs.iter().collect();
        let alone: Vec<ScoredPair> =
            all.iter().flat_map(|p| score(model, &[p], false)).collect();
        for share in [true, false] {
            for (together, alone) in score(model, &all, share).iter().zip(&alone) {
                same(together, alone)?;
            }
        }
        let shift = rotate % all.len();
        let mut turned = all.clone();
        turned.rotate_left(shift);
        let mut scored = score(model, &turned, true);
        scored.rotate_right(shift);
        for (turned, alone) in scored.iter().zip(&alone) {
            same(turned, alone)?;
        }
        for (batched, alone) in score_pairs(model, &all, |_| true).iter().zip(&alone) {
            same(batched, alone)?;
        }
    }

    /// With the policy as its own reference every margin is 0: σ(0) = ½, so DPO's loss is ln 2 for every pair.
    #[test]
    fn dpo_starts_at_ln_2(pairs in prop::collection::vec(pair(), 1..5), which in 0usize..3) {
        let model = &MODELS[which];
        let all: Vec<&TokenizedPair> = pairs.iter().collect();
        let reference = score_pairs(model, &all, |_| true);
        let dpo = Objective::from_name("sigmoid", &ObjectiveOptions::default());
        let dpo = dpo.expect("sigmoid is an objective");
        let settings = PreferenceSettings::new(dpo, 0.1);
        let train = ReferencedPairs::new(&pairs, reference, &settings);
        let eval = ReferencedPairs::without_reference(&[]);
        let mut task = PreferenceTask::new(train, eval, settings, None);
        let mut gradients = Gradients::zeros(&*model.backend, &model.params, |_| true);
        let batches = [(0..pairs.len()).collect()];
        let metrics = task.accumulate(model, &mut gradients, 1, &batches, false);
        let loss = metrics.expect("a finite loss").get("loss").expect("is among the metrics");
        // 1e-5: rounding of log-probs of up to a hundred nats in f32, times β.
        prop_assert!((loss - 2f64.ln()).abs() < 1e-5, "{}", loss);
    }
}

/// A micro-batch with more rows than are computed at once has the loss and the gradient of its pairs one by one. Gradients: sums
/// of some thousand terms in another order, in f32.
#[test]
fn a_large_micro_batch_is_the_sum_of_its_pairs() {
    let model = &MODELS[1];
    let side = |i: u32, len: u32, step: u32| TokenizedSequence {
        ids: (0..9 + len)
            .map(|t| (i * 7 + t * if t < 9 { 3 } else { step }) % 101)
            .collect(),
        prompt_len: 9,
    };
    let pairs: Vec<TokenizedPair> = (0..55)
        .map(|i| TokenizedPair {
            index: i as usize,
            chosen: side(i, 6 + i % 5, 5),
            rejected: side(i, 8 + i % 3, 11),
            weight: 1.0 + f64::from(i % 2),
            text: None,
        })
        .collect();
    assert!(pack_pairs(&pairs, true).ids.len() > ROWS_AT_ONCE);
    let run = |name: &str, micro_batches: &[Vec<usize>]| {
        let objective = Objective::from_name(name, &ObjectiveOptions::default());
        let settings = PreferenceSettings::new(objective.expect("an objective"), 0.1);
        let all: Vec<usize> = (0..pairs.len()).collect();
        let runs = settings.runs(&pairs, &all).len();
        let reference = score_pairs(model, &pairs.iter().collect::<Vec<_>>(), |_| true);
        let train = ReferencedPairs::new(&pairs, reference, &settings);
        let eval = ReferencedPairs::without_reference(&[]);
        let mut task = PreferenceTask::new(train, eval, settings, None);
        let b = &*model.backend;
        let mut gradients = Gradients::zeros(b, &model.params, |_| true);
        let metrics = task.accumulate(model, &mut gradients, 1, micro_batches, false);
        let loss = metrics.expect("finite").get("loss");
        let values = gradients.values.iter().flatten();
        (
            runs,
            loss,
            values.flat_map(|g| b.download_f64(g)).collect::<Vec<_>>(),
        )
    };
    let alone: Vec<Vec<usize>> = (0..pairs.len()).map(|i| vec![i]).collect();
    let whole = [(0..pairs.len()).collect()];
    let (runs, loss, gradient) = run("sigmoid", &whole);
    let (_, loss_alone, gradient_alone) = run("sigmoid", &alone);
    assert_eq!(runs, 2, "more rows than at once");
    assert_eq!(run("aot", &whole).0, 1, "looks across pairs: not to be cut");
    assert!((loss.unwrap() - loss_alone.unwrap()).abs() < 1e-6);
    let norm = |f: &dyn Fn(usize) -> f64| {
        (0..gradient.len())
            .map(|i| f(i).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let difference = norm(&|i| gradient[i] - gradient_alone[i]);
    assert!(difference < 1e-5 * norm(&|i| gradient[i]), "{difference:e}");
}
