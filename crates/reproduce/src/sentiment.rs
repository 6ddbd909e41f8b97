//! The sentiment experiment (paper §4.2, appendix C.4; Figures 3 and 4): its recipes and its claims.
//!
//! Authors' recipe: GPT-2 small; SFT on the chosen judgements (learning rate 1.41e-5, batch 16, 128 steps, packed),
//! then DPO (5e-6, batch 32, one epoch, warm-up 0.1, an evaluation every 10 steps). What is done differently here is
//! listed by [`SentimentPlan::deviations`] and shown with the results.

use crate::claims::{Expected, directions, judge, of_pairs};
use crate::extent::Extent;
use crate::recipe::Recipe;
use crate::results::{ArmResult, Claim, Outcome};
use crate::statistic::over_seeds;
use crate::style::Style;
use serde::Serialize;

/// Authors' learning rate of supervised fine-tuning.
const SFT_RATE: f64 = 1.41e-5;
/// Authors' learning rate of DPO.
const DPO_RATE: f64 = 5e-6;
/// Factor on both for a small model from random weights: fixed before any result was seen, because such a model hardly
/// moves at rates made for a pretrained one ten times as wide.
const SMALL_MODEL_FACTOR: f64 = 20.0;

/// Styles on which the remedies are judged: those with a suffix of several tokens.
pub const REMEDY_STYLES: [Style; 2] = [Style::LongSuffix, Style::PrefixSuffix];

/// Shape of the GPT-2 that the experiment pretrains itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SmallModel {
    /// Tokens of the byte-level BPE that is trained on the tweets.
    pub vocab_size: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Width.
    pub n_embd: usize,
    /// Heads.
    pub n_head: usize,
    /// Optimizer steps of pretraining, each of 32 packs of 128 tokens.
    pub steps: usize,
}

impl SmallModel {
    /// Its `config.json`: without dropout, with which it has never been measured.
    pub fn config(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_positions": 512,
            "n_embd": self.n_embd,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "tie_word_embeddings": true,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "float32",
        })
    }

    /// How it is pretrained on the tweets.
    pub fn recipe(&self) -> Recipe {
        Recipe::new()
            .with("max_steps", self.steps)
            .with("per_device_train_batch_size", 32)
            .with("packing", true)
            .with("max_length", 128)
            .with("learning_rate", 1e-3)
            .with("weight_decay", 0.1)
            .with("warmup_ratio", 0.1)
            .with("lr_scheduler_type", "cosine")
            .with("logging_steps", 50)
    }
}

/// How much is run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SentimentPlan {
    /// The model that is pretrained, or none where one is given.
    pub small: Option<SmallModel>,
    /// Steps of SFT, 16 examples or packs each.
    pub sft_steps: usize,
    /// Tokens of a pack of examples in SFT; none: an example a row.
    pub sft_pack: Option<usize>,
    /// Whether SFT learns the judgement alone, or the tweet too (as the authors do).
    pub sft_completion_only: bool,
    /// Learning rate of SFT.
    pub sft_rate: f64,
    /// Preference training; all seeds start from one SFT of their style.
    #[serde(flatten)]
    pub extent: Extent,
    /// Pairs with a token heat map.
    pub heat_maps: usize,
}

impl SentimentPlan {
    /// On a small GPT-2 of our own: within half an hour on 2 cores.
    pub fn small() -> Self {
        SentimentPlan {
            small: Some(SmallModel {
                vocab_size: 4096,
                n_layer: 4,
                n_embd: 192,
                n_head: 4,
                steps: 500,
            }),
            sft_steps: 128,
            sft_pack: Some(512),
            sft_completion_only: false,
            sft_rate: SFT_RATE * SMALL_MODEL_FACTOR,
            extent: Extent {
                seeds: vec![42, 43, 44],
                steps: 120,
                batch: 32,
                rate: DPO_RATE * SMALL_MODEL_FACTOR,
                eval_steps: 20,
                held_out: 256,
                measured: 48,
            },
            heat_maps: 8,
        }
    }

    /// On a smaller one, in a minute or two.
    pub fn quick() -> Self {
        let small = SentimentPlan::small();
        SentimentPlan {
            small: Some(SmallModel {
                vocab_size: 1024,
                n_layer: 2,
                n_embd: 96,
                n_head: 2,
                steps: 150,
            }),
            sft_pack: Some(256),
            extent: Extent {
                seeds: vec![42, 43],
                ..SentimentPlan::quick_extent(small.extent.rate)
            },
            heat_maps: 3,
            ..small
        }
    }

    fn quick_extent(rate: f64) -> Extent {
        Extent {
            seeds: vec![42],
            steps: 30,
            batch: 16,
            rate,
            eval_steps: 10,
            held_out: 48,
            measured: 16,
        }
    }

    /// On a pretrained model that the user gives.
    pub fn given(quick: bool) -> Self {
        let small = SentimentPlan::small();
        SentimentPlan {
            small: None,
            sft_pack: None,
            sft_rate: SFT_RATE,
            extent: match quick {
                true => SentimentPlan::quick_extent(DPO_RATE),
                false => Extent {
                    seeds: vec![42],
                    rate: DPO_RATE,
                    steps: 100,
                    held_out: 64,
                    measured: 16,
                    ..small.extent
                },
            },
            heat_maps: if quick { 3 } else { 8 },
            ..small
        }
    }

    /// Supervised fine-tuning on the chosen judgements.
    pub fn sft_recipe(&self) -> Recipe {
        Recipe::new()
            .with("max_steps", self.sft_steps)
            .with("per_device_train_batch_size", 16)
            .with("learning_rate", self.sft_rate)
            .with("warmup_ratio", 0.1)
            .with("completion_only_loss", self.sft_completion_only)
            .with("packing", self.sft_pack.is_some())
            .with("max_length", self.sft_pack.unwrap_or(128))
            .with("logging_steps", 16)
    }

    /// Preference training.
    pub fn dpo_recipe(&self) -> Recipe {
        let every = self.extent.eval_steps.min(self.extent.steps);
        self.extent
            .recipe()
            .with("loss_type", "sigmoid")
            .with("max_length", 128)
            .with("logging_steps", every)
            .with("geometry", every)
    }

    /// Where the authors' recipe is left.
    pub fn deviations(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(small) = self.small {
            all.push(format!(
                "The model is a GPT-2 of {} blocks of width {} that was pretrained on the tweets alone, not GPT-2 small.",
                small.n_layer, small.n_embd
            ));
            all.push(format!(
                "Learning rates are {SMALL_MODEL_FACTOR} times the authors' for the model from random weights, SFT {:.3e} and \
                 DPO {:.1e}; the factor was fixed before any result was seen.",
                self.sft_rate, self.extent.rate
            ));
        } else {
            all.push("The model is not GPT-2 small.".into());
            let rates = [
                (self.sft_rate, SFT_RATE, "SFT"),
                (self.extent.rate, DPO_RATE, "DPO"),
            ];
            for (rate, authors, name) in rates
                .into_iter()
                .filter(|(rate, authors, _)| rate != authors)
            {
                all.push(format!(
                    "The learning rate of {name} is {rate:e}; the authors' is {authors:e}."
                ));
            }
        }
        all.push(format!(
            "DPO takes {} steps of {} pairs, less than one epoch; evaluations every {} steps.",
            self.extent.steps, self.extent.batch, self.extent.eval_steps
        ));
        all.push(match self.sft_pack {
            Some(tokens) => format!("SFT packs examples to {tokens} tokens instead of 1,024."),
            None => "SFT takes one example a row instead of packing them to 1,024 tokens.".into(),
        });
        if self.sft_completion_only {
            all.push(
                "SFT learns the judgement alone; the authors' learns the tweet before it too."
                    .into(),
            );
        }
        if self.sft_steps != 128 {
            all.push(format!(
                "SFT takes {} steps instead of 128.",
                self.sft_steps
            ));
        }
        all.push("The style single-token has no full stop, so that nothing follows the differing token but EOS.".into());
        all.push("Arithmetic is in float32 instead of bfloat16.".into());
        all
    }
}

/// Diagonal of a token heat map whose two completions have the same length: the cosine at the one token that differs,
/// and the cosines at identical tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagonal {
    /// At the differing token.
    pub differing: f64,
    /// At each identical token.
    pub identical: Vec<f64>,
}

impl Diagonal {
    /// From a heat map as `unbraid diagnose` writes it; `None` where not exactly one token differs.
    pub fn from_json(map: &serde_json::Value) -> Option<Self> {
        let (chosen, rejected) = (
            map["chosen_tokens"].as_array()?,
            map["rejected_tokens"].as_array()?,
        );
        if chosen.len() != rejected.len() {
            return None;
        }
        let (mut differing, mut identical) = (Vec::new(), Vec::new());
        for (i, (w, l)) in chosen.iter().zip(rejected).enumerate() {
            let cosine = map["cosine"][i][i].as_f64()?;
            match w == l {
                true => identical.push(cosine),
                false => differing.push(cosine),
            }
        }
        let [differing] = differing[..] else {
            return None;
        };
        Some(Diagonal {
            differing,
            identical,
        })
    }
}

/// What an identical token's cosine must exceed to be *clearly positive* (our reading of the paper's words).
const CLEARLY: f64 = 0.5;

const FIGURE_3: &str = "paper §4.2, Figure 3";
const FIGURE_4A: &str = "paper §4.2, Figure 4(a)";
const FIGURE_4B: &str = "paper §4.2, Figure 4(b)";

/// The paper's claims on plain DPO and on the remedies, as far as the arms are there.
pub fn claims(arms: &[ArmResult], start: &[Diagonal], end: &[Diagonal]) -> Vec<Claim> {
    let plain = |style: Style| {
        let of_style = |arm: &&ArmResult| arm.style.as_deref() == Some(style.name());
        arms.iter()
            .filter(of_style)
            .find(|arm| arm.remedy == "none")
    };
    let mut all = Vec::new();
    for style in Style::ALL {
        if let Some(arm) = plain(style) {
            // The paper's words: chosen rises only for single-token.
            let rises = style == Style::SingleToken;
            all.extend(directions(arm, FIGURE_3, (Some(rises), None), false));
        }
    }
    let both = (plain(Style::LongSuffix), plain(Style::ShortSuffix));
    if let (Some(long), Some(short)) = both {
        all.extend(differences(long, short));
    }
    for style in Style::ALL {
        if let Some(arm) = plain(style) {
            let (word, expected) = match style {
                Style::SingleToken => ("negative", Expected::Below(0.0)),
                _ => ("positive", Expected::Above(0.0)),
            };
            let claim = format!("{style}: gradient cosine of a pair is {word}");
            let quantity = "cosine, mean of start and end, held-out pairs";
            all.push(judge(
                claim,
                FIGURE_4A,
                quantity,
                expected,
                of_pairs(arm, mean_cosine),
            ));
        }
    }
    all.extend(heat_claims(start, "start"));
    all.extend(heat_claims(end, "end"));
    for arm in arms.iter().filter(|arm| arm.remedy != "none") {
        all.extend(directions(
            arm,
            remedy_source(&arm.remedy),
            (Some(true), Some(false)),
            false,
        ));
    }
    all
}

/// Where a remedy promises that chosen rises and rejected falls.
pub(crate) fn remedy_source(remedy: &str) -> &'static str {
    match remedy {
        "normalized" => "paper §5.1",
        "diff" | "head" => "paper §5.2",
        "calibrated" => "arXiv 2604.18239",
        _ => "ours",
    }
}

/// A pair's cosine, mean of before and after.
fn mean_cosine(outcome: &Outcome) -> Vec<f64> {
    let (before, after) = &outcome.cosine;
    before
        .iter()
        .zip(after)
        .map(|(a, b)| 0.5 * (a + b))
        .collect()
}

/// What the longer suffix does beside the shorter one, pair by pair of the same tweets.
fn differences(long: &ArmResult, short: &ArmResult) -> [Claim; 2] {
    let by_seed = |values: &dyn Fn(&Outcome) -> Vec<f64>| -> Vec<Vec<f64>> {
        let same = |a: &&crate::RunResult| short.runs.iter().any(|b| b.seed == a.seed);
        let runs = long.runs.iter().filter(same);
        let difference = |run: &crate::RunResult| {
            let other = short.runs.iter().find(|b| b.seed == run.seed);
            let other = other.map_or(Vec::new(), |b| values(&b.outcome));
            let own = values(&run.outcome);
            own.iter().zip(other).map(|(a, b)| a - b).collect()
        };
        runs.map(difference).collect()
    };
    let falls = by_seed(&|o| o.chosen_change.clone());
    let cosines = by_seed(&mean_cosine);
    [
        judge(
            "chosen falls more with the long suffix than with the short one",
            FIGURE_3,
            "change of the chosen log-prob, long minus short, nats",
            Expected::Below(0.0),
            over_seeds(&falls, "pairs"),
        ),
        judge(
            "the gradient cosine grows with the suffix",
            FIGURE_4A,
            "cosine, long minus short",
            Expected::Above(0.0),
            over_seeds(&cosines, "pairs"),
        ),
    ]
}

fn heat_claims(maps: &[Diagonal], when: &str) -> Vec<Claim> {
    if maps.is_empty() {
        return Vec::new();
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let differing = maps.iter().map(|m| m.differing).collect();
    let identical = maps.iter().map(|m| mean(&m.identical)).collect();
    vec![
        judge(
            format!(
                "prefix-suffix, {when}: token gradients oppose each other at the token that differs"
            ),
            FIGURE_4B,
            "cosine on the diagonal, differing token",
            Expected::Below(0.0),
            over_seeds(&[differing], "pairs"),
        ),
        judge(
            format!("prefix-suffix, {when}: they are clearly aligned at identical tokens"),
            FIGURE_4B,
            "cosine on the diagonal, mean over identical tokens",
            Expected::Above(CLEARLY),
            over_seeds(&[identical], "pairs"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_diagonal_by_hand() {
        let map = json!({
            "chosen_tokens": [" a", " positive", "."],
            "rejected_tokens": [" a", " negative", "."],
            "cosine": [[0.9, 0.0, 0.0], [0.0, -0.4, 0.0], [0.0, 0.0, 0.7]],
        });
        let found = Diagonal::from_json(&map).expect("one token differs");
        assert_eq!((found.differing, found.identical), (-0.4, vec![0.9, 0.7]));
        let mut two = map.clone();
        two["rejected_tokens"][0] = json!(" the");
        assert_eq!(Diagonal::from_json(&two), None);
    }

    #[test]
    fn recipes_name_the_authors_rates_unless_said_otherwise() {
        let given = SentimentPlan::given(false);
        assert_eq!(given.dpo_recipe().get("learning_rate"), Some("0.000005"));
        assert_eq!(given.sft_recipe().get("learning_rate"), Some("0.0000141"));
        let small = SentimentPlan::small().deviations().join(" ");
        assert!(small.contains("20 times") && small.contains("pretrained on the tweets"));
    }
}
