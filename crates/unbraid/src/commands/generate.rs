//! `unbraid generate`: completions of prompts, streamed as they come.

use super::load;
use super::{End, Interrupt};
use crate::cli::GenerateConfig;
use anyhow::{Result, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::io::Write;
use unbraid_model::{LanguageModel, Sampling};
use unbraid_preference::{Content, DatasetSource, RowKind, load_rows};
use unbraid_text::Tokenizer;

/// A prompt as text; a conversation goes through the chat template.
fn prompt_text(content: Content, tokenizer: &Tokenizer) -> Result<String> {
    match content {
        Content::Text(text) => Ok(text),
        Content::Conversation(messages) => Ok(tokenizer.apply_chat_template(&messages, true)?),
    }
}

fn prompts(config: &GenerateConfig, tokenizer: &Tokenizer) -> Result<Vec<String>> {
    let Some(name) = &config.dataset_name else {
        return Ok(config.prompt.clone());
    };
    let rows = load_rows(&DatasetSource {
        name: name.clone(),
        split: config.dataset_train_split.clone(),
        max_samples: config.max_samples,
    })?;
    let prompt = |kind: RowKind| match kind {
        RowKind::Preference { prompt, .. }
        | RowKind::Unpaired { prompt, .. }
        | RowKind::PromptCompletion { prompt, .. } => prompt_text(prompt, tokenizer),
        RowKind::Text(text) => Ok(text),
        RowKind::Messages(messages) => prompt_text(Content::Conversation(messages), tokenizer),
    };
    rows.into_iter().map(|row| prompt(row.kind)).collect()
}

/// Continues one prompt; without `--json` the text appears on stdout as it is made.
fn complete(
    config: &GenerateConfig,
    model: &LanguageModel<load::Cpu>,
    tokenizer: &Tokenizer,
    (text, stop): (&str, &[u32]),
    rng: &mut ChaCha8Rng,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut ids = tokenizer.encode(text, true)?;
    if let Some(limit) = config.max_length.0 {
        let excess = ids.len().saturating_sub(limit);
        ids.drain(..excess); // the end of a prompt is what a completion continues
    }
    if ids.is_empty() {
        bail!(
            "the prompt has no tokens\nhint: give at least one word, or a tokenizer that adds a BOS token"
        );
    }
    let room = (model.config.max_positions() + 1).saturating_sub(ids.len());
    load::check_fits(&model.config, std::iter::once(&ids[..]))?;
    let sampling = Sampling {
        do_sample: config.do_sample,
        temperature: config.temperature,
        top_p: config.top_p,
    };
    let (mut shown, mut out) = (String::new(), Vec::new());
    let mut stdout = std::io::stdout();
    let max_new_tokens = config.max_new_tokens.min(room);
    model.generate(&ids, max_new_tokens, stop, sampling, rng, |token| {
        out.push(token);
        if !config.json
            && let Ok(text) = tokenizer.decode(&out, true)
            && !text.ends_with('\u{fffd}')
            && let Some(new) = text.strip_prefix(&shown)
        {
            let _ = write!(stdout, "{new}").and_then(|()| stdout.flush());
            shown = text;
        }
        !interrupt.pressed()
    });
    let completion = tokenizer.decode(&out, true)?;
    if config.json {
        let row = json!({ "prompt": text, "completion": completion, "tokens": out });
        writeln!(stdout, "{row}")?;
    } else {
        writeln!(stdout, "{}", completion.strip_prefix(&shown).unwrap_or(""))?;
    }
    Ok(())
}

/// Generates as `config` says.
pub(super) fn run(config: &GenerateConfig, interrupt: &Interrupt) -> Result<End> {
    load::check_machine(&config.model, false)?;
    let source = load::open(&config.model.model_name_or_path)?;
    let tokenizer = load::tokenizer(&source.path, Some(&source.weights))?;
    let prompts = prompts(config, &tokenizer)?;
    let model = load::model(&source)?;
    let mut stop = model.config.eos_token_ids().to_vec();
    stop.extend(tokenizer.eos_id());
    let mut rng = ChaCha8Rng::seed_from_u64(config.model.seed);
    for prompt in &prompts {
        if prompts.len() > 1 && !config.json {
            println!("── {prompt}");
        }
        complete(
            config,
            &model,
            &tokenizer,
            (prompt, &stop),
            &mut rng,
            interrupt,
        )?;
        if interrupt.pressed() {
            return Ok(End::Interrupted);
        }
    }
    Ok(End::Done)
}
