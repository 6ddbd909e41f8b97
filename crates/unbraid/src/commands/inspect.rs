//! `unbraid inspect`: one pair as the model sees it, coloured by mask.
//!
//! The best tool against wrong masks is to look at one: prompt dim, completion green, EOS marked, where the
//! completion begins, what was cut.

use super::{End, load, output};
use crate::cli::InspectConfig;
use crate::say::shown;
use crate::stdout;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use unbraid_model::weights::Weights;
use unbraid_preference::{TokenizedSequence, tokenize_pairs};
use unbraid_text::Tokenizer;

/// Escape sequences, empty where colour is unwelcome.
struct Colours {
    prompt: &'static str,
    completion: &'static str,
    eos: &'static str,
    off: &'static str,
}

fn colours() -> Colours {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    if no_color || !stdout::is_terminal() {
        return Colours {
            prompt: "",
            completion: "",
            eos: "",
            off: "",
        };
    }
    Colours {
        prompt: "\x1b[2m",
        completion: "\x1b[32m",
        eos: "\x1b[1;7;32m",
        off: "\x1b[0m",
    }
}

fn show(
    side: &str,
    s: &TokenizedSequence,
    tokenizer: &Tokenizer,
    max_length: Option<usize>,
) -> String {
    let c = colours();
    let mut out = format!(
        "{side}: {} prompt tokens (not scored) + {} completion tokens (scored)\n",
        s.prompt_len,
        s.completion().len()
    );
    let labels: Vec<String> = s
        .ids
        .iter()
        .enumerate()
        .map(|(i, &id)| {
            let colour = if i < s.prompt_len {
                c.prompt
            } else if Some(id) == tokenizer.eos_id() {
                c.eos
            } else {
                c.completion
            };
            let start = if i == s.prompt_len { "▶" } else { "" };
            format!(
                "{start}{colour}{}{}",
                shown(&tokenizer.token_label(id)),
                c.off
            )
        })
        .collect();
    out.push_str(&labels.join("│"));
    out.push('\n');
    let has_eos = s
        .completion()
        .iter()
        .any(|&id| Some(id) == tokenizer.eos_id());
    match max_length {
        _ if has_eos => {}
        Some(limit) if s.ids.len() == limit => {
            out.push_str(&format!(
                "  cut at max_length {limit}: the completion has no EOS\n"
            ));
        }
        _ => out.push_str("  the completion has no EOS\n"),
    }
    out
}

fn describe(s: &TokenizedSequence, tokenizer: &Tokenizer) -> Value {
    let tokens: Vec<String> = s.ids.iter().map(|&id| tokenizer.token_label(id)).collect();
    let mask: Vec<u8> = (0..s.ids.len())
        .map(|i| u8::from(i >= s.prompt_len))
        .collect();
    json!({ "ids": s.ids, "tokens": tokens, "completion_mask": mask, "prompt_len": s.prompt_len })
}

/// Shows the pair that `config` names.
pub(super) fn run(config: &InspectConfig) -> Result<End> {
    let path = load::locate(&config.model.model_name_or_path)?;
    let is_gguf = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let weights = if is_gguf {
        Some(Weights::open(&path)?)
    } else {
        None
    };
    let tokenizer = load::tokenizer(&path, weights.as_ref())?;
    let data = &config.data;
    let mut count = 0;
    let mut wanted = None;
    for row in load::stream(&data.dataset_name, &data.dataset_train_split, data)? {
        let row = row?;
        if count == config.index {
            wanted = Some(row);
            break;
        }
        count += 1;
    }
    let Some(row) = wanted else {
        bail!(
            "--index {}: {} has {count} rows, numbered from 0",
            config.index,
            data.dataset_name
        );
    };
    let max_length = data.max_length.0;
    let mut dataset = tokenize_pairs(std::slice::from_ref(&row), &tokenizer, max_length)?;
    if let Some(mismatch) = &mut dataset.report.first_mismatch {
        mismatch.index = config.index;
    }
    let Some(pair) = dataset.pairs.first() else {
        bail!(
            "row {} is dropped: {}",
            config.index,
            dataset.report.warnings().join("; ")
        );
    };
    if config.json {
        let pair = json!({
            "index": config.index,
            "chosen": describe(&pair.chosen, &tokenizer),
            "rejected": describe(&pair.rejected, &tokenizer),
            "warnings": dataset.report.warnings(),
        });
        output::print(&format!("{pair:#}\n"))?;
        return Ok(End::Done);
    }
    let (index, name) = (config.index, &data.dataset_name);
    let mut text = shown(&format!("row {index} of {name} ({})\n", row.location)).into_owned();
    text.push_str(&show("chosen", &pair.chosen, &tokenizer, max_length));
    text.push_str(&show("rejected", &pair.rejected, &tokenizer, max_length));
    for warning in dataset.report.warnings() {
        text.push_str(&format!("note: {}\n", shown(&warning)));
    }
    output::print(&text)?;
    Ok(End::Done)
}
