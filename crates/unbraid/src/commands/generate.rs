//! `unbraid generate`: completions of prompts, streamed as they come.

use super::{End, Interrupt, load};
use crate::cli::{GenerateConfig, SamplingArgs};
use crate::commands::device::Machine;
use crate::stdout::{Reader, print_foreign, stream};
use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::path::Path;
use unbraid_cuda::Precision;
use unbraid_model::{GenerationConfig, LanguageModel};
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
        mixture: None,
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

/// Longest `generation_config.json` that is read, bytes; published ones are below 10 kB.
const MAX_GENERATION_CONFIG: u64 = 1 << 20;

/// Tokens generated where neither option nor file names a length.
const NEW_TOKENS: usize = 64;

/// What the options say.
fn asked(args: &SamplingArgs) -> GenerationConfig {
    // The options' parsers keep ids within u32.
    let ids =
        |list: &[usize]| (!list.is_empty()).then(|| list.iter().map(|id| *id as u32).collect());
    GenerationConfig {
        max_new_tokens: args.max_new_tokens,
        min_new_tokens: args.min_new_tokens,
        do_sample: args.do_sample,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        top_h: args.top_h,
        typical_p: args.typical_p,
        epsilon_cutoff: args.epsilon_cutoff,
        eta_cutoff: args.eta_cutoff,
        repetition_penalty: args.repetition_penalty,
        no_repeat_ngram_size: args.no_repeat_ngram_size,
        suppress_tokens: ids(&args.suppress_tokens),
        begin_suppress_tokens: ids(&args.begin_suppress_tokens),
        bad_words_ids: args.bad_words_ids.as_ref().map(|lists| lists.0.clone()),
        eos_token_id: ids(&args.eos_token_id),
        forced_eos_token_id: ids(&args.forced_eos_token_id),
        ..GenerationConfig::default()
    }
}

/// What the model's files say of generation: its `generation_config.json`, or the one named in its place; without one, what
/// `config.json` says, as in transformers.
fn file_settings(
    args: &SamplingArgs,
    source: &load::Source,
    model: &LanguageModel<Machine>,
) -> Result<GenerationConfig> {
    let named = args.generation_config.as_deref();
    let file = match named {
        Some(file) if file == Path::new("none") => return Ok(GenerationConfig::default()),
        Some(file) => file.to_owned(),
        None => source.weights.dir().join(load::GENERATION_CONFIG),
    };
    if named.is_none() && !file.is_file() {
        let origin = source
            .weights
            .dir()
            .join("config.json")
            .display()
            .to_string();
        return Ok(GenerationConfig::from_model_config(
            model.config.raw(),
            &origin,
        )?);
    }
    let origin = file.display().to_string();
    let unread = || format!("cannot read {origin}");
    let bytes = std::fs::metadata(&file).with_context(unread)?.len();
    if bytes > MAX_GENERATION_CONFIG {
        bail!("{origin}: {bytes} bytes, more than the {MAX_GENERATION_CONFIG} that are read");
    }
    let text = std::fs::read_to_string(&file).with_context(unread)?;
    let map: Result<serde_json::Map<String, Value>, _> = serde_json::from_str(&text);
    // The option answers the file's: its value is 1.
    let text = match map {
        Ok(mut map) if args.num_beams.is_some() => {
            map.remove("num_beams");
            Value::Object(map).to_string()
        }
        _ => text,
    };
    let (config, unknown) = GenerationConfig::from_json_str(&text, &origin)
        .context("--generation-config none leaves the file unread, another FILE replaces it")?;
    if !unknown.is_empty() {
        note!("{origin}: keys without effect: {}", unknown.join(", "));
    }
    if named.is_none() && config.do_sample == Some(true) && args.do_sample.is_none() {
        note!("{origin}: do_sample is true; --do-sample false takes the most likely token");
    }
    Ok(config)
}

/// The settings of the run, with the tokens that end a text.
fn settings(
    args: &SamplingArgs,
    source: &load::Source,
    model: &LanguageModel<Machine>,
    tokenizer: &Tokenizer,
) -> Result<GenerationConfig> {
    let file = file_settings(args, source, model)?;
    let mut config = asked(args).or(file);
    let none = Vec::new();
    let named = config.eos_token_id.as_ref().unwrap_or(&none);
    match tokenizer.eos_id() {
        _ if named.is_empty() => {
            let mut ends = model.config.eos_token_ids().to_vec();
            ends.extend(tokenizer.eos_id());
            if source.weights.gguf_config().is_none() && !ends.is_empty() {
                note!(
                    "no eos_token_id in generation_config.json or config.json: the tokenizer's and the family's end \
                     a text (transformers would go on)"
                );
            }
            config.eos_token_id = Some(ends);
        }
        Some(eos) if !named.contains(&eos) && source.weights.gguf_config().is_some() => {
            config.eos_token_id.get_or_insert_default().push(eos);
        }
        Some(eos) if !named.contains(&eos) => note!(
            "the tokenizer's end token {eos} is not in eos_token_id ({named:?}): as in transformers, a text goes on \
             after it; --eos-token-id names others"
        ),
        _ => {}
    }
    let unread = without_effect(args);
    if config.do_sample != Some(true) && !unread.is_empty() {
        note!("{}: no effect without do_sample", unread.join(", "));
    }
    config.check(model.config.vocab_size(), "generation settings")?;
    Ok(config)
}

/// Options that only sampling reads, where they are given.
fn without_effect(args: &SamplingArgs) -> Vec<&'static str> {
    let given = [
        ("temperature", args.temperature.is_some_and(|t| t != 1.0)),
        ("top_k", args.top_k.is_some()),
        ("top_p", args.top_p.is_some_and(|p| p != 1.0)),
        ("min_p", args.min_p.is_some()),
        ("top_h", args.top_h.is_some()),
        ("typical_p", args.typical_p.is_some()),
        ("epsilon_cutoff", args.epsilon_cutoff.is_some()),
        ("eta_cutoff", args.eta_cutoff.is_some()),
    ];
    given
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| name)
        .collect()
}

/// New tokens beyond the positions that a model was trained for.
const BEYOND: usize = 4096;

/// Continues one prompt; without `--json` the text appears on stdout as it is made.
fn complete(
    config: &GenerateConfig,
    settings: &GenerationConfig,
    model: &LanguageModel<Machine>,
    tokenizer: &Tokenizer,
    (index, prompt): (usize, &Prompt),
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
    let positions = match model.config.learned_positions() {
        true => model.config.max_positions(),
        // Positions that turn have no end; the cache is allocated in advance.
        false => model.config.max_positions().max(ids.len() + BEYOND),
    };
    if ids.len() > positions {
        bail!(
            "prompt {index} fills the model's {positions} positions\nhint: --max-length cuts its start"
        );
    }
    let wanted = settings.new_tokens(ids.len()).unwrap_or(NEW_TOKENS);
    if wanted == 0 {
        bail!(
            "prompt {index} has {} tokens, and max_length in generation_config.json is {}\n\
             hint: --max-new-tokens says how many to generate",
            ids.len(),
            settings.max_length.unwrap_or(0)
        );
    }
    let room = positions + 1 - ids.len();
    if room < wanted {
        note!("only {room} tokens fit after the prompt; --max-length cuts its start");
    }
    let (mut shown, mut out, mut reader) = (String::new(), Vec::new(), Ok(Reader::There));
    model.generate(&ids, wanted.min(room), settings, rng, |token| {
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
    if out.is_empty() && !interrupt.pressed() {
        bail!("prompt {index}: every token is suppressed, so none can be drawn");
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
    let settings = settings(&config.sampling, &source, &model, &tokenizer)?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.model.seed);
    let _stops = interrupt.stops_itself();
    for numbered in prompts.iter().enumerate() {
        if prompts.len() > 1 && !config.json {
            print_foreign(&format!("── {}\n", numbered.1.text))?;
        }
        let (model, tokenizer) = (&model, &tokenizer);
        let reader = complete(
            config, &settings, model, tokenizer, numbered, &mut rng, interrupt,
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
