//! One batch of pairs: token log-probs, hidden-state proxies, and the gradients' inner products.
//!
//! The batch is packed (no padding, prompts shared) and walked back once with unit seeds on a per-response plan, so that
//! each response's own gradient passes by (`unbraid_geometry::GramSink`). Nothing depends on how pairs are batched but
//! the last bits of f32.

use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::{Batch, Forward, GradientPlan, Keep, LanguageModel, Response};
use unbraid_objective::Gram;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;
use unbraid_train::{ScoredPair, pack_pairs};

/// What the final hidden states of a pair's completions say; no gradient is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hidden {
    /// CHES score ⟨H_w, H_l⟩ − ‖H_w‖² with H the sum of the final hidden states over the rows that predict the
    /// completion (Razin et al. 2024, arXiv 2410.08847).
    pub ches: f64,
    /// The length-normalised form ⟨H_w, H_l⟩/(L_w L_l) − ‖H_w‖²/L_w².
    pub ches_normalized: f64,
    /// Inner products of the head's own gradients (the look-up's share of a tied matrix left out).
    pub head: Gram,
}

/// What was measured of one pair.
#[derive(Clone, Debug, PartialEq)]
pub struct PairMeasurement {
    /// Token log-probs of both completions.
    pub scored: ScoredPair,
    /// From the final hidden states.
    pub hidden: Hidden,
    /// Inner products over all trainable parameters, in f64.
    pub gram: Gram,
    /// The same by parameter group, in the order of [`Measured::group_names`].
    pub groups: Vec<Gram>,
}

/// What was measured of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Names of the parameter groups: `embedding`, `layers.0.attention`, `layers.0.mlp`, …, `norms`, `head`.
    pub group_names: Vec<String>,
    /// One entry a pair, in order.
    pub pairs: Vec<PairMeasurement>,
}

/// Measures one batch of pairs (the caller bounds its size; see `unbraid_train`'s scoring for a rule).
pub fn measure_pairs<B: Backend>(model: &LanguageModel<B>, pairs: &[&TokenizedPair]) -> Measured {
    let b = &*model.backend;
    let batch = Batch::new(b, pack_pairs(pairs.iter().copied(), true));
    let forward = model.forward(&batch, Keep::All);
    let scored = ScoredPair::of_batch(&batch.forest, &forward.token_logps);
    let sums = hidden_sums(model, &batch, &forward);
    let head = model.params.is_trainable(model.head());
    let frozen = (!head).then(|| model.head_grams(&batch, &forward));
    let clusters: Vec<Cluster> = (0..pairs.len())
        .map(|i| Cluster::measured(vec![2 * i, 2 * i + 1]))
        .collect();
    let (plan, ones) = unit_plan(b, &batch);
    let params = &model.params;
    let mut sink = GramSink::new(params, |p| params.is_trainable(p), &clusters, None);
    model.backward(&batch, &plan, forward, &ones, &mut sink);
    let heads = frozen.unwrap_or_else(|| {
        let of_pair = |x: &Vec<f64>| [x[0], x[1], x[3]];
        sink.heads.iter().map(of_pair).collect()
    });
    let hidden = sums.into_iter().zip(heads).map(Hidden::new);
    let of_pair = |((gram, scored), hidden): ((&unbraid_geometry::GroupedGram, _), _)| {
        let groups: Vec<Gram> = gram.groups.iter().map(|g| pair_gram(g)).collect();
        PairMeasurement {
            scored,
            hidden,
            gram: groups.iter().fold(Gram::default(), |sum, g| sum.plus(*g)),
            groups,
        }
    };
    let measured = sink.grams.iter().zip(scored).zip(hidden).map(of_pair);
    Measured {
        pairs: measured.collect(),
        group_names: sink.group_names.clone(),
    }
}

/// A plan and seeds under which every response's own gradient passes by.
pub(crate) fn unit_plan<B: Backend>(b: &B, batch: &Batch<B>) -> (GradientPlan<B>, Vec<f64>) {
    let plan = GradientPlan::per_response(b, &batch.forest);
    (plan, vec![1.0; batch.targets()])
}

/// Log-probs and hidden-state proxies of one batch of pairs, from a forward pass.
pub fn measure_proxies<B: Backend>(
    model: &LanguageModel<B>,
    pairs: &[&TokenizedPair],
) -> Vec<(ScoredPair, Hidden)> {
    let batch = Batch::new(&*model.backend, pack_pairs(pairs.iter().copied(), true));
    let forward = model.score(&batch);
    let sums = hidden_sums(model, &batch, &forward).into_iter();
    let heads = model.head_grams(&batch, &forward);
    let hidden = sums.zip(heads).map(Hidden::new);
    let scored = ScoredPair::of_batch(&batch.forest, &forward.token_logps);
    scored.into_iter().zip(hidden).collect()
}

/// The 2 × 2 matrix of a pair.
fn pair_gram(matrix: &[f64]) -> Gram {
    Gram {
        ww: matrix[0],
        ll: matrix[3],
        wl: matrix[1],
    }
}

/// Inner products of a pair's summed final hidden states, with the lengths of the completions.
struct HiddenSums {
    ww: f64,
    wl: f64,
    chosen_len: f64,
    rejected_len: f64,
}

impl Hidden {
    fn new((sums, [ww, wl, ll]): (HiddenSums, [f64; 3])) -> Self {
        let (n_w, n_l) = (sums.chosen_len, sums.rejected_len);
        Hidden {
            ches: sums.wl - sums.ww,
            ches_normalized: sums.wl / (n_w * n_l) - sums.ww / (n_w * n_w),
            head: Gram { ww, ll, wl },
        }
    }
}

fn hidden_sums<B: Backend>(
    model: &LanguageModel<B>,
    batch: &Batch<B>,
    forward: &Forward<B>,
) -> Vec<HiddenSums> {
    let (b, d) = (&*model.backend, model.config.hidden_size());
    let sum = |response: &Response| {
        let mut sum = b.zeros(d);
        b.column_sum(1.0, &forward.h, response.targets.clone(), d, &mut sum);
        sum
    };
    let of_pair = |pair: &[Response]| {
        let (w, l) = (sum(&pair[0]), sum(&pair[1]));
        HiddenSums {
            ww: b.dot(&w, 0, &w, 0, d),
            wl: b.dot(&w, 0, &l, 0, d),
            chosen_len: pair[0].targets.len() as f64,
            rejected_len: pair[1].targets.len() as f64,
        }
    };
    let pairs = batch.forest.responses.chunks_exact(2);
    pairs.map(of_pair).collect()
}
