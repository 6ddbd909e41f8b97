//! The comparison of objectives (paper §3.3, appendix C; Figures 1 and 2): its recipes and its claims.
//!
//! Authors' recipe: TL;DR, Mistral-7B and Llama-3-8B with LoRA (rank 64, α 128, dropout 0.05 on the q, k, v
//! projections), learning rate 5e-6, 16 pairs a step, one epoch (thousands of steps), one run for each objective.

use crate::claims::{Expected, directions, judge};
use crate::extent::Extent;
use crate::recipe::{REMEDIES, Recipe, remedy};
use crate::results::{ArmResult, Claim};
use crate::sentiment::remedy_source;
use crate::statistic::over_seeds;
use serde::Serialize;

/// The objectives of Table 2, by their names here.
pub const TABLE_2: [&str; 10] = [
    "sigmoid", "rdpo", "simpo", "ipo", "rrhf", "slic", "cpo", "dpop", "kto", "sppo",
];

/// Factor on the authors' learning rate, fixed before any result was seen: there are hundreds of times fewer pairs.
const RATE_FACTOR: f64 = 10.0;
/// Authors' learning rate.
const RATE: f64 = 5e-6;

/// How much is run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectivesPlan {
    /// What both experiments choose alike.
    #[serde(flatten)]
    pub extent: Extent,
    /// Longest sequence in tokens, as the option spells it.
    pub max_length: String,
    /// Linear maps that get an adapter.
    pub target_modules: String,
}

impl ObjectivesPlan {
    /// About an hour on 2 cores for all arms with a model of 135 M parameters.
    pub fn standard() -> Self {
        ObjectivesPlan {
            extent: Extent {
                seeds: vec![42],
                steps: 80,
                batch: 4,
                rate: RATE * RATE_FACTOR,
                eval_steps: 20,
                held_out: 48,
                measured: 8,
            },
            max_length: "512".into(),
            target_modules: "q_proj,k_proj,v_proj".into(),
        }
    }

    /// A minute or two on the demo's model.
    pub fn quick() -> Self {
        let standard = ObjectivesPlan::standard();
        ObjectivesPlan {
            extent: Extent {
                steps: 12,
                eval_steps: 6,
                held_out: 24,
                measured: 8,
                ..standard.extent
            },
            ..standard
        }
    }

    /// What all arms have in common.
    pub fn recipe(&self) -> Recipe {
        self.extent
            .recipe()
            .with("max_length", &self.max_length)
            .with("use_peft", true)
            .with("lora_r", 64)
            .with("lora_alpha", 128)
            .with("lora_dropout", 0.05)
            .with("disable_dropout", false)
            .with("lora_target_modules", &self.target_modules)
            .with("logging_steps", 5)
            .with("geometry", 10)
    }

    /// Where the authors' recipe is left.
    pub fn deviations(&self, model: &str) -> Vec<String> {
        vec![
            format!("Model and data are {model}, not Mistral-7B or Llama-3-8B on TL;DR."),
            format!(
                "{} steps of {} pairs instead of one epoch of 16 pairs a step.",
                self.extent.steps, self.extent.batch
            ),
            format!(
                "The learning rate is {:.0e} instead of {RATE:.0e}; with the default, the factor of {RATE_FACTOR} for so many \
                 fewer pairs was fixed before any result was seen.",
                self.extent.rate
            ),
            "Arithmetic is in float32 instead of bfloat16.".into(),
        ]
    }
}

/// Type of a model in `config.json` → the linear maps that are the q, k and v projections.
pub fn qkv_modules(model_type: &str) -> &'static str {
    match model_type {
        "gpt2" => "c_attn",
        "gpt_neox" => "query_key_value",
        _ => "q_proj,k_proj,v_proj",
    }
}

/// An arm: its objective and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// Its name: an objective's, or `sigmoid+` a remedy's.
    pub name: String,
    /// The objective's name.
    pub objective: String,
    /// The remedy's, or `none`.
    pub remedy: String,
}

impl Arm {
    /// All arms: Table 2, then the remedies on DPO.
    pub fn all() -> Vec<Arm> {
        let names = TABLE_2.iter().chain(&REMEDIES);
        names.filter_map(|name| Arm::named(name)).collect()
    }

    /// The arm of an objective of Table 2 or of a remedy.
    pub fn named(name: &str) -> Option<Arm> {
        let name = name.strip_prefix("sigmoid+").unwrap_or(name);
        let name = if name == "dpo" { "sigmoid" } else { name };
        if TABLE_2.contains(&name) {
            return Some(Arm {
                name: name.to_owned(),
                objective: name.to_owned(),
                remedy: "none".to_owned(),
            });
        }
        REMEDIES.contains(&name).then(|| Arm {
            name: format!("sigmoid+{name}"),
            objective: "sigmoid".to_owned(),
            remedy: name.to_owned(),
        })
    }

    /// What it adds to the common recipe.
    pub fn recipe(&self) -> Recipe {
        let own = Recipe::new().with("loss_type", &self.objective);
        own.and(&remedy(&self.remedy).unwrap_or_default())
    }
}

const FIGURES: &str = "paper §3.3, Figures 1, 2";

/// What the paper says of an objective: whether chosen and rejected rise, and whether log-probs are per token there.
fn expectation(objective: &str) -> ((Option<bool>, Option<bool>), bool) {
    match objective {
        "sigmoid" | "rdpo" => ((Some(false), Some(false)), false),
        "simpo" | "ipo" => ((Some(false), Some(false)), true),
        "sppo" => ((Some(true), Some(false)), false),
        "cpo" | "dpop" | "rrhf" | "slic" => ((Some(true), None), false),
        _ => ((None, None), false),
    }
}

/// The paper's claims on the objectives, those on the remedies, and whether Condition 2 told the direction.
pub fn claims(arms: &[ArmResult]) -> Vec<Claim> {
    let mut all = Vec::new();
    for arm in arms.iter().filter(|arm| arm.remedy == "none") {
        let (sides, per_token) = expectation(&arm.objective);
        all.extend(directions(arm, FIGURES, sides, per_token));
    }
    for arm in arms.iter().filter(|arm| arm.remedy != "none") {
        let source = remedy_source(&arm.remedy);
        all.extend(directions(arm, source, (Some(true), Some(false)), false));
    }
    let steps: Vec<f64> = arms.iter().flat_map(signs).collect();
    if !steps.is_empty() {
        all.push(judge(
            "Condition 2, with plain gradient descent's first order, tells in which direction a step moves its own pairs",
            "paper §3.2, eq. 9, 10",
            "share of measured steps whose predicted sign is the realised one, chosen and rejected",
            Expected::Above(0.5),
            over_seeds(&[steps], "signs in all arms"),
        ));
    }
    all
}

/// 1 for every measured step and side whose sign was predicted, else 0.
fn signs(arm: &ArmResult) -> Vec<f64> {
    let predictions = arm.runs.iter().flat_map(|run| &run.predictions);
    let of = |same: bool| f64::from(u8::from(same));
    predictions
        .flat_map(|p| {
            [
                of(p.predicted_chosen * p.realised_chosen > 0.0),
                of(p.predicted_rejected * p.realised_rejected > 0.0),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_have_one_name_each() {
        let all = Arm::all();
        assert_eq!(all.len(), 15);
        assert_eq!(Arm::named("dpo"), Arm::named("sigmoid"));
        assert_eq!(Arm::named("sigmoid+guarded"), Arm::named("guarded"));
        assert_eq!(Arm::named("magic"), None);
        let words: Vec<String> = all[14].recipe().words().collect();
        assert_eq!(words, ["--loss_type=sigmoid", "--token_mask=head"]);
    }
}
