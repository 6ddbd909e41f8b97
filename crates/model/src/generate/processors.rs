//! Logits to scores: transformers' logits processors and warpers, in its order (`generation/utils.py` of 5.23).
//!
//! Processors act in greedy decoding and sampling alike; warpers (temperature to eta) only in sampling. −∞ is a token
//! that cannot come. Tested against transformers' own list in `tests/generation.rs`.

use super::settings::GenerationConfig;

const NEVER: f32 = f32::NEG_INFINITY;

/// transformers' default of `top_k`.
const TOP_K: usize = 50;

/// Tokens that `top_h` looks at.
const TOP_H_TOKENS: usize = 100;

/// The processing of one continuation's logits.
pub struct LogitsProcessors<'a> {
    config: &'a GenerationConfig,
    prompt: &'a [u32],
    max_length: usize,
}

impl<'a> LogitsProcessors<'a> {
    /// Processing after `prompt`, in a sequence of at most `max_length` tokens, the prompt's included.
    pub fn new(config: &'a GenerationConfig, prompt: &'a [u32], max_length: usize) -> Self {
        LogitsProcessors {
            config,
            prompt,
            max_length,
        }
    }

    /// Turns the logits `[V]` after `ids` (the prompt and what followed) into scores.
    pub fn apply(&self, ids: &[u32], scores: &mut [f32]) {
        self.process(ids, scores);
        if self.config.do_sample == Some(true) {
            self.warp(scores);
        }
        if self.config.renormalize_logits == Some(true) {
            let norm = log_sum_exp(scores);
            scores.iter_mut().for_each(|z| *z -= norm as f32);
        }
    }

    fn process(&self, ids: &[u32], scores: &mut [f32]) {
        let c = self.config;
        let eos = c.eos_token_id.as_deref().unwrap_or_default();
        let (length, new) = (ids.len(), ids.len() - self.prompt.len());
        if let Some(biases) = &c.sequence_bias {
            let biases: Vec<_> = biases
                .iter()
                .map(|(word, bias)| (&**word, *bias as f32))
                .collect();
            add_biases(&biases, ids, scores);
        }
        if let Some(penalty) = c.encoder_repetition_penalty.filter(|p| *p != 1.0) {
            penalise(self.prompt, (1.0 / penalty) as f32, scores);
        }
        if let Some(penalty) = c.repetition_penalty.filter(|p| *p != 1.0) {
            penalise(ids, penalty as f32, scores);
        }
        if let Some(size) = c.no_repeat_ngram_size.filter(|n| *n > 0) {
            ban_repeats(ids, ids, size, scores);
        }
        if let Some(size) = c.encoder_no_repeat_ngram_size.filter(|n| *n > 0) {
            ban_repeats(self.prompt, ids, size, scores);
        }
        if let Some(words) = &c.bad_words_ids {
            let ends = |word: &&Vec<u32>| word.len() == 1 && eos.contains(&word[0]);
            let banned: Vec<_> = words
                .iter()
                .filter(|w| !ends(w))
                .map(|w| (&**w, NEVER))
                .collect();
            add_biases(&banned, ids, scores);
        }
        let too_short = match c.min_new_tokens {
            Some(least) => new < least,
            None => length < c.min_length.unwrap_or(0),
        };
        if too_short {
            ban(eos, scores);
        }
        if let Some(bos) = c.forced_bos_token_id.filter(|_| length == 1) {
            force(&[bos], scores);
        }
        if let Some(last) = &c.forced_eos_token_id
            && length + 1 == self.max_length
        {
            force(last, scores);
        }
        if c.remove_invalid_values == Some(true) {
            for z in scores.iter_mut() {
                *z = if z.is_nan() {
                    0.0
                } else {
                    z.clamp(f32::MIN, f32::MAX)
                };
            }
        }
        if let Some((start, factor)) = c.exponential_decay_length_penalty
            && new > start
        {
            let growth = (factor.powf((new - start) as f64) - 1.0) as f32;
            for &id in eos {
                if let Some(z) = scores.get_mut(id as usize).filter(|z| z.is_finite()) {
                    *z += z.abs() * growth;
                }
            }
        }
        if let Some(tokens) = &c.suppress_tokens {
            ban(tokens, scores);
        }
        let delayed = self.prompt.len() <= 1 && c.forced_bos_token_id.is_some();
        if let Some(tokens) = &c.begin_suppress_tokens
            && new == usize::from(delayed)
        {
            ban(tokens, scores);
        }
    }

    fn warp(&self, scores: &mut [f32]) {
        let c = self.config;
        if let Some(temperature) = c.temperature.filter(|t| *t != 1.0) {
            scores.iter_mut().for_each(|z| *z /= temperature as f32);
        }
        if let Some(share) = c.top_h {
            top_h(share, scores);
        }
        match c.top_k.unwrap_or(TOP_K).min(scores.len()) {
            0 => {}
            k => {
                let least = kth_largest(scores, k);
                keep(scores, |z, _| !less(f64::from(z), f64::from(least)));
            }
        }
        if let Some(mass) = c.top_p.filter(|p| *p < 1.0) {
            top_p(mass, scores);
        }
        if let Some(share) = c.min_p {
            let p = softmax(scores);
            let top = largest(&p);
            let best = first_largest(scores);
            keep(scores, |_, i| i == best || !less(p[i], share * top));
        }
        if let Some(mass) = c.typical_p.filter(|p| *p < 1.0) {
            typical(mass, scores);
        }
        let cut = |x: &f64| 0.0 < *x && *x < 1.0;
        if let Some(epsilon) = c.epsilon_cutoff.filter(cut) {
            cut_off(epsilon, scores);
        }
        if let Some(epsilon) = c.eta_cutoff.filter(cut) {
            let eta = epsilon.sqrt() * (-entropy(&softmax(scores))).exp();
            cut_off(epsilon.min(eta), scores);
        }
    }
}

/// Adds each sequence's bias to its last token, where its others end `ids`.
fn add_biases(biases: &[(&[u32], f32)], ids: &[u32], scores: &mut [f32]) {
    for (i, (word, bias)) in biases.iter().enumerate() {
        let Some((last, before)) = word.split_last() else {
            continue;
        };
        // Of one sequence given twice, the last counts.
        let again = biases[i + 1..].iter().any(|(other, _)| other == word);
        if !again
            && ids.ends_with(before)
            && let Some(z) = scores.get_mut(*last as usize)
        {
            *z += bias;
        }
    }
}

fn penalise(tokens: &[u32], penalty: f32, scores: &mut [f32]) {
    let mut seen = vec![false; scores.len()];
    for &token in tokens {
        let Some(seen) = seen.get_mut(token as usize).filter(|seen| !**seen) else {
            continue;
        };
        *seen = true;
        let z = &mut scores[token as usize];
        *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
    }
}

/// Bans tokens that would end an n-gram of `source` again.
fn ban_repeats(source: &[u32], ids: &[u32], size: usize, scores: &mut [f32]) {
    if ids.len() + 1 < size {
        return;
    }
    let start = &ids[ids.len() + 1 - size..];
    for window in source
        .windows(size)
        .filter(|window| window[..size - 1] == *start)
    {
        ban(&window[size - 1..], scores);
    }
}

fn ban(tokens: &[u32], scores: &mut [f32]) {
    for &token in tokens {
        if let Some(z) = scores.get_mut(token as usize) {
            *z = NEVER;
        }
    }
}

/// Leaves these tokens alone, all alike.
fn force(tokens: &[u32], scores: &mut [f32]) {
    scores.fill(NEVER);
    for &token in tokens {
        if let Some(z) = scores.get_mut(token as usize) {
            *z = 0.0;
        }
    }
}

/// Makes −∞ of what `stays` does not want, given a token's score and id.
fn keep(scores: &mut [f32], stays: impl Fn(f32, usize) -> bool) {
    for (i, z) in scores.iter_mut().enumerate() {
        if !stays(*z, i) {
            *z = NEVER;
        }
    }
}

/// Probabilities of scores.
pub(super) fn softmax(scores: &[f32]) -> Vec<f64> {
    let top = f64::from(scores.iter().copied().fold(NEVER, f32::max));
    let weights: Vec<f64> = scores.iter().map(|z| (f64::from(*z) - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

fn log_sum_exp(scores: &[f32]) -> f64 {
    let top = f64::from(scores.iter().copied().fold(NEVER, f32::max));
    top + scores
        .iter()
        .map(|z| (f64::from(*z) - top).exp())
        .sum::<f64>()
        .ln()
}

/// In nats.
fn entropy(p: &[f64]) -> f64 {
    p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

fn largest(p: &[f64]) -> f64 {
    p.iter().copied().fold(0.0, f64::max)
}

/// The token of the largest score; of several, the first. Every choice without sampling is this one.
pub(super) fn first_largest(scores: &[f32]) -> usize {
    let all = scores.iter().enumerate().rev();
    all.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}

fn kth_largest(scores: &[f32], k: usize) -> f32 {
    let mut sorted = scores.to_vec();
    let (_, value, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *value
}

/// Ids by falling score; of equals, the later first, as an ascending stable sort read backwards.
fn descending(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order.reverse();
    order
}

/// The fewest most likely tokens that hold the mass (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751).
fn top_p(mass: f64, scores: &mut [f32]) {
    let p = softmax(scores);
    let order = descending(scores);
    let mut left = 0.0; // probability of a token and all less likely ones
    for (rank, &i) in order.iter().enumerate().rev() {
        left += p[i];
        if left <= 1.0 - mass && rank > 0 {
            scores[i] = NEVER;
        }
    }
}

/// Most likely tokens while their part of the entropy stays within a share of it (top-H, arXiv 2509.02510).
fn top_h(share: f64, scores: &mut [f32]) {
    let mut order = descending(scores);
    order.truncate(TOP_H_TOKENS);
    let top: Vec<f32> = order.iter().map(|&i| scores[i]).collect();
    let p = softmax(&top);
    let limit = entropy(&p) * share;
    let (mut sum, mut kept) = (0.0, vec![false; scores.len()]);
    for (rank, (&i, p)) in order.iter().zip(&p).enumerate() {
        // A token without probability has no entropy term there: 0 · −∞ ends the sum.
        sum += if *p > 0.0 { -p * p.ln() } else { f64::NAN };
        kept[i] = rank == 0 || sum <= limit;
    }
    keep(scores, |_, i| kept[i]);
}

/// The tokens whose surprise is nearest the expected one, up to a mass (Meister et al. 2022, arXiv 2202.00666).
fn typical(mass: f64, scores: &mut [f32]) {
    let p = softmax(scores);
    let expected = entropy(&p);
    let distance: Vec<f64> = p.iter().map(|p| (-p.ln() - expected).abs()).collect();
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| distance[a].total_cmp(&distance[b]));
    let (mut sum, mut last) = (0.0, order.len() - 1);
    for (rank, &i) in order.iter().enumerate() {
        sum += p[i];
        if sum >= mass {
            last = rank;
            break;
        }
    }
    let (limit, nearest) = (distance[order[last]], order[0]);
    keep(scores, |_, i| i == nearest || !less(limit, distance[i]));
}

/// a < b, false where one of them is no number: what is compared so stays, as under PyTorch's masks.
fn less(a: f64, b: f64) -> bool {
    a < b
}

/// Tokens of at least this probability, and in any case the most likely (Hewitt et al. 2022, arXiv 2210.15191).
fn cut_off(least: f64, scores: &mut [f32]) {
    let p = softmax(scores);
    let top = scores.iter().copied().fold(NEVER, f32::max);
    keep(scores, |z, i| {
        !less(p[i], least) || !less(f64::from(z), f64::from(top))
    });
}
