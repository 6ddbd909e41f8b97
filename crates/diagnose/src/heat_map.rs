//! Token heat maps: cosines between the gradients of single tokens' log-probs (SPEC §4; paper §4.2, Figure 4b).
//!
//! g_i = ∇_θ log π(y_i | x, y_<i) for every completion token of a pair, chosen and rejected; Σ_i g_i = g_w. All tokens
//! share one forward pass. One walk back carries a block of one-hot probes, each with gradient rows up to its token, and
//! per layer the block's Gram matrix is taken and the rows dropped. When a pair has too many tokens for one walk, blocks
//! are walked two by two, so that memory stays bounded and the matrix exact.
//!
//! Tested against PyTorch autograd in `tests/heat_map.rs`.

use std::ops::Range;
use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::{Batch, GradientPlan, Keep, LanguageModel};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::Backend;
use unbraid_train::pack_pairs;

/// A walk's gradient rows times the model's widest layer stay below this many floats (128 MiB a buffer).
const WALK_FLOATS: usize = 1 << 25;

/// What a heat map shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeatMapSettings {
    /// The first so many tokens of each completion.
    pub max_tokens: usize,
}

/// Inner products of the gradients of a pair's tokens, by parameter group.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// Chosen tokens, n_w; they come first.
    pub chosen: usize,
    /// Rejected tokens, n_l.
    pub rejected: usize,
    /// Names of the parameter groups.
    pub group_names: Vec<String>,
    /// For each group the matrix ⟨g_i, g_j⟩, `[n, n]` row-major, n = n_w + n_l.
    pub groups: Vec<Vec<f64>>,
}

/// Cosines between tokens' gradients, over all parameters or some groups.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenCosines {
    /// `[chosen][rejected]`.
    pub cosine: Vec<Vec<f64>>,
    /// `[chosen][chosen]`.
    pub chosen_self: Vec<Vec<f64>>,
    /// `[rejected][rejected]`.
    pub rejected_self: Vec<Vec<f64>>,
    /// ‖g_i‖ of each chosen token.
    pub chosen_norms: Vec<f64>,
    /// ‖g_i‖ of each rejected token.
    pub rejected_norms: Vec<f64>,
}

impl HeatMap {
    /// Cosines over the groups that `wanted` names; 0 where a gradient vanishes there.
    pub fn cosines(&self, wanted: impl Fn(&str) -> bool) -> TokenCosines {
        let n = self.chosen + self.rejected;
        let mut inner = vec![0.0; n * n];
        let named = self.group_names.iter().zip(&self.groups);
        for (_, group) in named.filter(|(name, _)| wanted(name)) {
            inner.iter_mut().zip(group).for_each(|(sum, x)| *sum += x);
        }
        let norm = |i: usize| inner[i * n + i].max(0.0).sqrt();
        let cosine = |i: usize, j: usize| {
            let norms = norm(i) * norm(j);
            match norms > 0.0 {
                true => (inner[i * n + j] / norms).clamp(-1.0, 1.0),
                false => 0.0,
            }
        };
        let block = |rows: Range<usize>, columns: Range<usize>| -> Vec<Vec<f64>> {
            let row = |i| columns.clone().map(|j| cosine(i, j)).collect();
            rows.map(row).collect()
        };
        let (w, l) = (0..self.chosen, self.chosen..n);
        TokenCosines {
            cosine: block(w.clone(), l.clone()),
            chosen_self: block(w.clone(), w.clone()),
            rejected_self: block(l.clone(), l.clone()),
            chosen_norms: w.map(norm).collect(),
            rejected_norms: l.map(norm).collect(),
        }
    }
}

/// Measures one pair's tokens. `on_walk` is called after each of the [`walks`]; `None` when it says to stop before the end.
pub fn heat_map<B: Backend>(
    model: &LanguageModel<B>,
    pair: &TokenizedPair,
    settings: &HeatMapSettings,
    on_walk: impl FnMut() -> bool,
) -> Option<HeatMap> {
    heat_map_in_walks(model, pair, settings, rows_a_walk(model), on_walk)
}

/// How many walks over the model a pair's map takes.
pub fn walks<B: Backend>(
    model: &LanguageModel<B>,
    pair: &TokenizedPair,
    settings: &HeatMapSettings,
) -> usize {
    let len = |s: &TokenizedSequence| s.completion().len().min(settings.max_tokens);
    let lens = [len(&pair.chosen), len(&pair.rejected)];
    match blocks(pair.chosen.prompt_len, lens, rows_a_walk(model)).len() {
        1 => 1,
        n => n * (n - 1) / 2,
    }
}

/// Gradient rows that one walk may carry.
fn rows_a_walk<B: Backend>(model: &LanguageModel<B>) -> usize {
    let width = model.params.specs.iter().flat_map(|s| {
        // The vocabulary is no layer's width: embeddings and head are looked up or streamed.
        let vocabulary = model.config.vocab_size();
        s.shape.iter().copied().filter(move |&d| d != vocabulary)
    });
    WALK_FLOATS / width.max().unwrap_or(1)
}

/// As [`heat_map`], with at most about `rows` gradient rows a walk.
pub fn heat_map_in_walks<B: Backend>(
    model: &LanguageModel<B>,
    pair: &TokenizedPair,
    settings: &HeatMapSettings,
    rows: usize,
    mut on_walk: impl FnMut() -> bool,
) -> Option<HeatMap> {
    let b = &*model.backend;
    let shown = shown(pair, settings);
    let batch = Batch::new(b, pack_pairs([&shown], true));
    let forward = model.forward(&batch, Keep::All);
    let n = batch.targets();
    let lens = [0, 1].map(|r| batch.forest.responses[r].targets.len());
    let blocks = blocks(shown.chosen.prompt_len, lens, rows);
    let mut map = HeatMap {
        chosen: lens[0],
        rejected: lens[1],
        group_names: Vec::new(),
        groups: Vec::new(),
    };
    let mut walks = two_by_two(&blocks).into_iter().peekable();
    while let Some(walk) = walks.next() {
        let mut seeds = vec![0.0; n];
        walk.iter().for_each(|&t| seeds[t] = 1.0);
        let plan = GradientPlan::per_token(b, &batch.forest, &walk);
        let cluster = [Cluster::measured((0..walk.len()).collect())];
        let params = &model.params;
        let mut sink = GramSink::new(params, |p| params.is_trainable(p), &cluster, None);
        model.backward_again(&batch, &plan, &forward, &seeds, &mut sink);
        if map.groups.is_empty() {
            map.group_names.clone_from(&sink.group_names);
            map.groups = vec![vec![0.0; n * n]; map.group_names.len()];
        }
        for (whole, part) in map.groups.iter_mut().zip(&sink.grams[0].groups) {
            for (i, &s) in walk.iter().enumerate() {
                for (j, &t) in walk.iter().enumerate() {
                    whole[s * n + t] = part[i * walk.len() + j];
                }
            }
        }
        if !on_walk() && walks.peek().is_some() {
            return None;
        }
    }
    Some(map)
}

/// The pair with the first tokens of its completions.
fn shown(pair: &TokenizedPair, settings: &HeatMapSettings) -> TokenizedPair {
    TokenizedPair {
        chosen: cut(&pair.chosen, settings.max_tokens),
        rejected: cut(&pair.rejected, settings.max_tokens),
        ..pair.clone()
    }
}

/// The prompt and the first `n` tokens of a completion.
fn cut(sequence: &TokenizedSequence, n: usize) -> TokenizedSequence {
    let len = sequence
        .ids
        .len()
        .min(sequence.prompt_len.saturating_add(n));
    TokenizedSequence {
        ids: sequence.ids[..len].to_vec(),
        prompt_len: sequence.prompt_len,
    }
}

/// Targets (w chosen, then l rejected ones) in blocks of which any two have at most about `rows` gradient rows; one block if
/// all fit together.
fn blocks(prompt: usize, [w, l]: [usize; 2], rows: usize) -> Vec<Vec<usize>> {
    let cost = |t: usize| prompt + if t < w { t } else { t - w };
    let all: usize = (0..w + l).map(cost).sum();
    let limit = if all <= rows { all } else { rows / 2 };
    let (mut blocks, mut total) = (vec![Vec::new()], 0);
    for t in 0..w + l {
        let last = blocks.len() - 1;
        if total + cost(t) > limit && !blocks[last].is_empty() {
            blocks.push(vec![t]);
            total = cost(t);
        } else {
            blocks[last].push(t);
            total += cost(t);
        }
    }
    blocks
}

/// Every two blocks together once; a single block alone.
fn two_by_two(blocks: &[Vec<usize>]) -> Vec<Vec<usize>> {
    if let [one] = blocks {
        return vec![one.clone()];
    }
    let pairs = (0..blocks.len()).flat_map(|i| (i + 1..blocks.len()).map(move |j| (i, j)));
    pairs
        .map(|(i, j)| [&blocks[i][..], &blocks[j][..]].concat())
        .collect()
}
