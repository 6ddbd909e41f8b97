//! Properties of the geometry on random pairs: the sink's Gram is that of gradients computed alone, one response at a
//! time; it is symmetric and obeys Cauchy–Schwarz; token gradients add up; micro-batching changes nothing.
//!
//! On the naive f64 backend, so the tolerance (1e-10, relative) is for the order of sums alone.

use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::{
    Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel, Sequence,
};
use unbraid_tensor::NaiveBackend;

type Model = LanguageModel<NaiveBackend>;

static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    ["gpt2", "llama", "llama_tied"]
        .iter()
        .map(|case| {
            let model = LanguageModel::load(Arc::new(NaiveBackend), &models.join(case));
            model.expect("the parity models are in the repository")
        })
        .collect()
});

/// A prompt and two completions.
#[derive(Clone, Debug)]
struct Pair {
    prompt: Vec<u32>,
    completions: [Vec<u32>; 2],
}

impl Pair {
    fn sequences(&self) -> [Vec<u32>; 2] {
        self.completions
            .each_ref()
            .map(|c| [&self.prompt[..], c].concat())
    }
}

fn pair() -> impl Strategy<Value = Pair> {
    let ids = |len| prop::collection::vec(0u32..101, len);
    (ids(1..6), ids(1..5), ids(1..5)).prop_map(|(prompt, chosen, rejected)| Pair {
        prompt,
        completions: [chosen, rejected],
    })
}

/// Gradient of Σ seeds·token log-probs of one sequence, all parameters end to end.
fn alone(model: &Model, ids: &[u32], prompt: usize, seeds: &[f64]) -> Vec<f64> {
    let mut forest = Forest::new();
    let scored_from = prompt;
    forest.add_tree(&[Sequence { ids, scored_from }], true);
    let batch = Batch::new(&NaiveBackend, forest);
    let plan = GradientPlan::summed(&NaiveBackend, &batch.forest);
    let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |_| true);
    let forward = model.forward(&batch, Keep::All);
    model.backward(
        &batch,
        &plan,
        forward,
        seeds,
        &mut Accumulate(&mut gradients),
    );
    gradients.values.into_iter().flatten().flatten().collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_gram_is_that_of_gradients_computed_alone(
        pairs in prop::collection::vec(pair(), 1..4),
        which in 0usize..3,
    ) {
        let model = &MODELS[which];
        let mut forest = Forest::new();
        for pair in &pairs {
            let sequences = pair.sequences();
            let scored_from = pair.prompt.len();
            forest.add_tree(&sequences.each_ref().map(|ids| Sequence { ids, scored_from }), true);
        }
        let batch = Batch::new(&NaiveBackend, forest);
        let n = 2 * pairs.len();
        let clusters = [Cluster { responses: (0..n).collect(), coefficients: vec![0.0; n] }];
        let plan = GradientPlan::per_response(&NaiveBackend, &batch.forest);
        let mut sink = GramSink::new(&model.params, |_| true, &clusters, None);
        let forward = model.forward(&batch, Keep::All);
        model.backward(&batch, &plan, forward, &vec![1.0; batch.targets()], &mut sink);
        let gram = &sink.grams[0];

        let own: Vec<Vec<f64>> = pairs
            .iter()
            .flat_map(|pair| {
                let completions = pair.completions.iter().zip(pair.sequences());
                let gradients = completions.map(|(c, ids)| {
                    alone(model, &ids, pair.prompt.len(), &vec![1.0; c.len()])
                });
                gradients.collect::<Vec<_>>()
            })
            .collect();
        for i in 0..n {
            for j in 0..n {
                let scale = (dot(&own[i], &own[i]) * dot(&own[j], &own[j])).sqrt();
                let error = (gram.total(i, j) - dot(&own[i], &own[j])).abs();
                prop_assert!(error <= 1e-10 * scale, "({}, {}): {:e} of {:e}", i, j, error, scale);
                prop_assert_eq!(gram.total(i, j), gram.total(j, i));
                let bound = (gram.total(i, i) * gram.total(j, j)).sqrt();
                prop_assert!(gram.total(i, j).abs() <= bound * (1.0 + 1e-12));
            }
        }
    }

    #[test]
    fn token_gradients_add_up_to_the_sequences(pair in pair(), which in 0usize..3) {
        let (model, prompt) = (&MODELS[which], pair.prompt.len());
        let ids = &pair.sequences()[0];
        let tokens = ids.len() - prompt;
        let whole = alone(model, ids, prompt, &vec![1.0; tokens]);
        let mut sum = vec![0.0; whole.len()];
        for t in 0..tokens {
            let mut one = vec![0.0; tokens];
            one[t] = 1.0;
            let g = alone(model, ids, prompt, &one);
            sum.iter_mut().zip(g).for_each(|(s, g)| *s += g);
        }
        let error: Vec<f64> = whole.iter().zip(&sum).map(|(a, b)| a - b).collect();
        prop_assert!(dot(&error, &error) <= 1e-20 * dot(&whole, &whole));
    }
}
