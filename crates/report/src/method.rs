//! How a run was trained, in a few words: objective, remedy, token mask, adapter, and how much of the model learnt.
//!
//! Everything comes from `run.yaml`, which may be of another version or absent: what is not written there is not
//! said, and neither is what stands at "none".

use crate::page::four_digits;
use crate::settings::Settings;

/// The method of one run; empty fields were not recorded or are off.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Method {
    /// The objective, or a weighted sum of several.
    objective: Option<String>,
    remedy: Option<String>,
    /// How the normalized remedy scales its two unit vectors.
    npo_scale: Option<String>,
    mask: Option<String>,
    lora: Option<String>,
    lora_modules: Option<String>,
    trainable: Option<(u64, u64)>,
    /// Where the reference is not the frozen policy of the start, and the checkpoint that the run went on from.
    more: Vec<String>,
}

impl Method {
    /// Reads it from the settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        let on = |key: &str| settings.get(key).is_some_and(|value| value == "true");
        let named = |key: &str| {
            settings
                .get(key)
                .filter(|value| value != "none" && !value.is_empty())
        };
        let count = |key: &str| settings.get(key)?.parse().ok();
        let remedy = named("remedy");
        let lora = on("use_peft").then(|| settings.get("lora_r")).flatten();
        let mut more = Vec::new();
        if on("reference_free") {
            more.push("no reference".to_string());
        }
        if on("sync_ref_model") {
            let every = settings.get("ref_model_sync_steps");
            let every = every.map(|steps| format!(" every {steps} steps"));
            more.push(format!("reference moved{}", every.unwrap_or_default()));
        }
        // `true` means the newest checkpoint if there is one: whether there was, the settings do not tell.
        let resumed = settings.get("resume_from_checkpoint");
        if let Some(from) = resumed.filter(|from| from != "false" && from != "true") {
            more.push(format!("went on from {from}"));
        }
        Self {
            objective: objective(settings),
            npo_scale: named("npo_scale").filter(|_| remedy.as_deref() == Some("normalized")),
            remedy,
            mask: named("token_mask"),
            lora_modules: lora.as_ref().and_then(|_| named("lora_target_modules")),
            lora,
            trainable: count("trainable_parameters").zip(count("parameters")),
            more,
        }
    }

    /// A label for a legend or a heading, empty when nothing is known: `sigmoid + normalized + mask head + LoRA 16`. Of
    /// the two scales only the one that is not the paper's is named.
    pub(crate) fn label(&self) -> String {
        let mask = self.mask.as_ref().map(|mask| format!("mask {mask}"));
        let lora = self.lora.as_ref().map(|rank| format!("LoRA {rank}"));
        let geometric = self.npo_scale.as_deref() == Some("geometric");
        let remedy = self.remedy.as_ref().map(|remedy| match geometric {
            true => format!("{remedy} (geometric)"),
            false => remedy.clone(),
        });
        let words = [self.objective.clone(), remedy, mask, lora];
        words.into_iter().flatten().collect::<Vec<_>>().join(" + ")
    }

    /// The same as the facts below a heading.
    pub(crate) fn facts(&self) -> Vec<String> {
        let fact = |label: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{label} {value}"))
        };
        let modules = self.lora_modules.as_ref();
        let lora = self.lora.as_ref().map(|rank| match modules {
            Some(modules) => format!("LoRA rank {rank} on {modules}"),
            None => format!("LoRA rank {rank}"),
        });
        let scale = self
            .npo_scale
            .as_ref()
            .map(|scale| format!(" ({scale} scale)"));
        let remedy = fact("remedy", &self.remedy);
        let known = [
            fact("objective", &self.objective),
            remedy.map(|remedy| remedy + &scale.unwrap_or_default()),
            fact("token mask", &self.mask),
            lora,
            self.trained().map(|words| format!("trains {words}")),
        ];
        known
            .into_iter()
            .flatten()
            .chain(self.more.clone())
            .collect()
    }

    /// How many parameters learn: `7,168 of 696,448 parameters (1.0 %)`.
    pub(crate) fn trained(&self) -> Option<String> {
        let (trained, all) = self.trainable?;
        Some(if trained == all {
            format!("all {} parameters", grouped(all))
        } else {
            format!(
                "{} of {} parameters ({})",
                grouped(trained),
                grouped(all),
                share(trained as f64 / all as f64)
            )
        })
    }
}

/// One name, or the terms of a sum with their weights.
fn objective(settings: &Settings) -> Option<String> {
    let names = settings.list("loss_type");
    let weights = settings.list("loss_weights");
    if names.is_empty() {
        return None;
    }
    let weighted = names.len() == weights.len();
    let terms = names
        .iter()
        .enumerate()
        .map(|(at, name)| match weights.get(at) {
            Some(weight) if weighted && weight.parse() != Ok(1.0) => format!("{weight} {name}"),
            _ => name.clone(),
        });
    Some(terms.collect::<Vec<_>>().join(" + "))
}

/// A share in per cent with one decimal, or two digits where that would be zero.
fn share(share: f64) -> String {
    let percent = 100.0 * share;
    if percent == 0.0 || percent >= 0.1 {
        format!("{percent:.1} %")
    } else {
        format!("{} %", four_digits(percent))
    }
}

/// Digits in groups of three.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Labels that tell runs apart: the given name where it is the only one, otherwise with the method, and with the
/// directory where methods agree too. A number is the last resort.
pub(crate) fn distinct_names(runs: &[(String, Method, String)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (index, (name, method, dir)) in runs.iter().enumerate() {
        let namesakes = runs.iter().filter(|other| other.0 == *name);
        let alike = namesakes
            .clone()
            .filter(|other| other.1.label() == method.label());
        let (label, shared) = (method.label(), namesakes.count() > 1);
        let mut candidate = match (shared, alike.count() > 1) {
            (false, _) => name.clone(),
            (true, false) if !label.is_empty() => format!("{name}: {label}"),
            (true, true) if !label.is_empty() => format!("{name}: {label}, {dir}"),
            (true, _) => dir.clone(),
        };
        if names.contains(&candidate) {
            candidate = format!("{candidate} ({})", index + 1);
        }
        names.push(candidate);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(yaml: &str) -> Method {
        Method::of(&Settings::of_text(yaml))
    }

    #[test]
    fn a_plain_run_says_its_objective_and_no_more() {
        let plain = method(
            "loss_type: [sigmoid]\nremedy: none\nnpo_scale: unit\ntoken_mask: none\nuse_peft: false\nlora_r: 16\n\
             sync_ref_model: false\nref_model_sync_steps: 512\nresume_from_checkpoint: false\n\
             unbraid:\n  parameters: \"1234567\"\n  trainable_parameters: \"1234567\"\n",
        );
        assert_eq!(plain.label(), "sigmoid");
        assert_eq!(
            plain.facts(),
            ["objective sigmoid", "trains all 1,234,567 parameters"]
        );
        assert_eq!(method("").facts(), [""; 0]);
        assert_eq!(method("").label(), "");
    }

    #[test]
    fn everything_that_is_on_is_said() {
        let full = method(
            "loss_type: [sigmoid, sft]\nloss_weights: [1.0, 0.2]\nremedy: normalized\nnpo_scale: geometric\ntoken_mask: head\n\
             use_peft: true\nlora_r: 16\nlora_target_modules: [q_proj, v_proj]\nsync_ref_model: true\n\
             ref_model_sync_steps: 64\nresume_from_checkpoint: out/checkpoint-40\n\
             unbraid:\n  parameters: 136284864\n  trainable_parameters: 1769472\n",
        );
        assert_eq!(
            full.label(),
            "sigmoid + 0.2 sft + normalized (geometric) + mask head + LoRA 16"
        );
        assert_eq!(
            full.facts(),
            [
                "objective sigmoid + 0.2 sft",
                "remedy normalized (geometric scale)",
                "token mask head",
                "LoRA rank 16 on q_proj v_proj",
                "trains 1,769,472 of 136,284,864 parameters (1.3 %)",
                "reference moved every 64 steps",
                "went on from out/checkpoint-40",
            ]
        );
    }

    #[test]
    fn few_of_many_parameters_are_not_none() {
        let yaml = "parameters: 1000000\ntrainable_parameters: 42\n";
        assert_eq!(
            method(yaml).trained().unwrap(),
            "42 of 1,000,000 parameters (0.004200 %)"
        );
    }

    #[test]
    fn names_are_told_apart_by_method_then_directory_then_number() {
        let run =
            |name: &str, yaml: &str, dir: &str| (name.to_string(), method(yaml), dir.to_string());
        let (dpo, guarded) = ("loss_type: sigmoid", "loss_type: sigmoid\nremedy: guarded");
        let runs = [
            run("out", dpo, "a/out"),
            run("out", guarded, "b/out"),
            run("out", guarded, "c/out"),
            run("out", guarded, "c/out"),
            run("other", dpo, "d"),
            run("bare", "", "e/bare"),
            run("bare", "", "f/bare"),
        ];
        assert_eq!(
            distinct_names(&runs),
            [
                "out: sigmoid",
                "out: sigmoid + guarded, b/out",
                "out: sigmoid + guarded, c/out",
                "out: sigmoid + guarded, c/out (4)",
                "other",
                "e/bare",
                "f/bare",
            ]
        );
    }
}
