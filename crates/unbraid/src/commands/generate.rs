//! `unbraid generate`: completions of prompts, streamed as they come.

use super::{End, Interrupt, load};
use crate::cli::GenerateConfig;
use crate::commands::device::Machine;
use crate::stdout::{Reader, print_foreign, stream};
use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use unbraid_cuda::Precision;
use unbraid_model::{LanguageModel, Sampling};
use unbraid_preference::{Content, DatasetSource, Row, RowKind, encode_text, load_rows};
use unbraid_text::{TemplateInputs, Tokenizer};

/// A prompt with its ids.
struct Prompt {
    text: String,
    ids: Vec<u32>,
}

impl Prompt {
    fn of_text(text: String, tokenizer: &Tokenizer) -> Result<Self> {
        let ids = encode_text(tokenizer, &text)?;
        Ok(Prompt { text, ids })
    }

    /// A conversation goes through the chat template, which writes BOS itself where the model wants one.
    fn of(content: Content, inputs: &TemplateInputs, tokenizer: &Tokenizer) -> Result<Self> {
        match content {
            Content::Text(text) => Self::of_text(text, tokenizer),
            Content::Conversation(messages) => {
                let text = tokenizer.render_row(&messages, inputs, true)?;
                let ids = tokenizer.encode(&text, false)?;
                Ok(Prompt { text, ids })
            }
        }
    }
}

fn prompts(config: &GenerateConfig, tokenizer: &Tokenizer) -> Result<Vec<Prompt>> {
    let Some(name) = &config.dataset_name else {
        let texts = config.prompt.iter().cloned();
        return texts.map(|text| Prompt::of_text(text, tokenizer)).collect();
    };
    let rows = load_rows(&DatasetSource {
        name: name.clone(),
        config: None,
        split: config.dataset_train_split.clone(),
        max_samples: config.max_samples,
        text_field: None,
    })?;
    let prompt = |row: Row| match row.kind {
        RowKind::Preference { prompt, .. }
        | RowKind::Unpaired { prompt, .. }
        | RowKind::PromptCompletion { prompt, .. } => Prompt::of(prompt, &row.inputs, tokenizer),
        RowKind::Text(text) => Prompt::of_text(text, tokenizer),
        RowKind::Messages(mut messages) => {
            // The answer at the end of a conversation is what is to be generated.
            if messages.len() > 1 && messages.last().is_some_and(|m| m.role() == "assistant") {
                messages.pop();
            }
            Prompt::of(Content::Conversation(messages), &row.inputs, tokenizer)
        }
    };
    let located = |row: Row| {
        let location = row.location.clone();
        prompt(row).with_context(|| location.to_string())
    };
    rows.into_iter().map(located).collect()
}

/// Continues one prompt; without `--json` the text appears on stdout as it is made.
fn complete(
    config: &GenerateConfig,
    model: &LanguageModel<Machine>,
    tokenizer: &Tokenizer,
    (index, prompt): (usize, &Prompt),
    stop: &[u32],
    rng: &mut ChaCha8Rng,
    interrupt: &Interrupt,
) -> Result<Reader> {
    let mut ids = prompt.ids.clone();
    if let Some(limit) = config.max_length.0 {
        let excess = ids.len().saturating_sub(limit);
        ids.drain(..excess); // the end of a prompt is what a completion continues
    }
    if ids.is_empty() {
        bail!(
            "the prompt has no tokens\nhint: give at least one word, or a tokenizer that adds a BOS token"
        );
    }
    load::check_fits(&model.config, std::iter::once((index, &ids[..])))?;
    let positions = model.config.max_positions();
    if ids.len() > positions {
        bail!(
            "prompt {index} fills the model's {positions} positions\nhint: --max-length cuts its start"
        );
    }
    let room = positions + 1 - ids.len();
    if room < config.max_new_tokens {
        note!("only {room} tokens fit after the prompt; --max-length cuts its start");
    }
    let sampling = Sampling {
        do_sample: config.do_sample,
        temperature: config.temperature,
        top_p: config.top_p,
    };
    let (mut shown, mut out, mut reader) = (String::new(), Vec::new(), Ok(Reader::There));
    let max_new_tokens = config.max_new_tokens.min(room);
    model.generate(&ids, max_new_tokens, stop, sampling, rng, |token| {
        out.push(token);
        if !config.json
            && let Ok(text) = tokenizer.decode(&out, true)
            && !text.ends_with('\u{fffd}')
            && let Some(new) = text.strip_prefix(&shown)
        {
            reader = print_foreign(new);
            shown = text;
        }
        matches!(reader, Ok(Reader::There)) && !interrupt.pressed()
    });
    if !matches!(reader, Ok(Reader::There)) {
        return reader;
    }
    let completion = tokenizer.decode(&out, true)?;
    if config.json {
        let row = json!({ "prompt": prompt.text, "completion": completion, "tokens": out });
        stream(&format!("{row}\n"))
    } else {
        let rest = completion.strip_prefix(&shown).unwrap_or("");
        print_foreign(&format!("{rest}\n"))
    }
}

/// Generates as `config` says.
pub(super) fn run(config: &GenerateConfig, interrupt: &Interrupt) -> Result<End> {
    load::check_machine(&config.model, Precision::Float32)?;
    let source = load::open(
        &config.model.model_name_or_path,
        config.model.base_model.as_deref(),
    )?;
    let tokenizer = load::source_tokenizer(&source)?;
    let prompts = prompts(config, &tokenizer)?;
    let model = load::model(&source)?;
    let mut stop = model.config.eos_token_ids().to_vec();
    stop.extend(tokenizer.eos_id());
    stop.extend(source.stop_tokens());
    let mut rng = ChaCha8Rng::seed_from_u64(config.model.seed);
    let _stops = interrupt.stops_itself();
    for numbered in prompts.iter().enumerate() {
        if prompts.len() > 1 && !config.json {
            print_foreign(&format!("── {}\n", numbered.1.text))?;
        }
        let (model, tokenizer) = (&model, &tokenizer);
        let reader = complete(
            config, model, tokenizer, numbered, &stop, &mut rng, interrupt,
        )?;
        if reader == Reader::Gone {
            break;
        }
        if interrupt.pressed() {
            return Ok(End::Interrupted);
        }
    }
    Ok(End::Done)
}
