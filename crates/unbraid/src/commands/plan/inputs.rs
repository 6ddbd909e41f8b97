//! The model and the lengths of a plan: from files where they are, from a `config.json` and numbers where they are not.

use super::load;
use crate::cli::{Dtype, PlanConfig};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use unbraid_model::{LoraConfig, ModelConfig, Storage};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_text::Tokenizer;

/// Most tokens of pairs whose lengths are given, each side: 1 GiB of ids in all.
const MAX_SYNTHETIC: usize = 1 << 27;

/// Bytes of program, tokenizer and data where the system does not say.
pub(super) const PROGRAM: u64 = 60 << 20;

/// A model of which the weights need not be there.
pub(super) struct Planned {
    pub(super) config: ModelConfig,
    /// The adapter that the directory is.
    pub(super) adapter: Option<LoraConfig>,
    /// Whether all weights are stored as bf16.
    stored_bf16: bool,
    /// Where a tokenizer may be.
    tokenizer: Result<Tokenizer, String>,
    /// Whether there is more than a configuration.
    pub(super) has_weights: bool,
}

/// A file or directory that has a configuration but no weights: its `config.json`.
fn config_only(path: &Path) -> Option<PathBuf> {
    let is_json = path.extension().is_some_and(|e| e == "json");
    if path.is_file() && is_json {
        return Some(path.to_owned());
    }
    let config = path.join("config.json");
    let has_weights = || {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.path());
        names.any(|file| {
            let ending = file.extension().and_then(|e| e.to_str());
            matches!(ending, Some("safetensors" | "bin" | "gguf"))
        })
    };
    (config.is_file() && !has_weights()).then_some(config)
}

fn read_config(file: &Path) -> Result<ModelConfig> {
    let name = file.display().to_string();
    let text = unbraid_input::read_to_string(file).map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
    Ok(ModelConfig::from_json_str(&text, &name)?)
}

/// The configuration of a model by its name.
pub(super) fn config_of(name: &str) -> Result<ModelConfig> {
    match config_only(Path::new(name)) {
        Some(file) => read_config(&file),
        None => Ok(ModelConfig::for_weights(&load::open(name, None)?.weights)?),
    }
}

impl Planned {
    /// Opens what there is of the model.
    pub(super) fn open(config: &PlanConfig) -> Result<Self> {
        let args = &config.run.model;
        let name = &args.model_name_or_path;
        if let Some(file) = config_only(Path::new(name)) {
            let config = read_config(&file)?;
            let key = |key: &str| config.raw().get(key)?.as_str();
            let stored_bf16 = key("torch_dtype").or_else(|| key("dtype")) == Some("bfloat16");
            let dir = file.parent().unwrap_or(Path::new("."));
            return Ok(Planned {
                tokenizer: load::tokenizer(dir, None).map_err(|e| e.to_string()),
                adapter: None,
                stored_bf16,
                has_weights: false,
                config,
            });
        }
        let source = load::open(name, args.base_model.as_deref())?;
        let adapter = source.adapter.as_deref().map(LoraConfig::read);
        let frozen = load::frozen_storage(&source, Dtype::Auto);
        Ok(Planned {
            config: ModelConfig::for_weights(&source.weights)?,
            adapter: adapter.transpose()?,
            stored_bf16: frozen == Storage::Bfloat16,
            tokenizer: load::source_tokenizer(&source).map_err(|e| e.to_string()),
            has_weights: true,
        })
    }

    /// How `train` holds a frozen base.
    pub(super) fn frozen_storage(&self, dtype: Dtype) -> Storage {
        match dtype {
            Dtype::Bfloat16 => Storage::Bfloat16,
            Dtype::Auto if self.stored_bf16 => Storage::Bfloat16,
            Dtype::Auto | Dtype::Float32 => Storage::Float32,
        }
    }
}

/// The pairs of the run: the data set's, or as many of one length as the options say.
pub(super) fn pairs(config: &PlanConfig, planned: &Planned) -> Result<Vec<TokenizedPair>> {
    let data = &config.run.data;
    let Some(name) = config.dataset() else {
        return synthetic(config, planned.config.max_positions());
    };
    let tokenizer = match &planned.tokenizer {
        Ok(tokenizer) => tokenizer,
        Err(reason) => bail!(
            "{}: no tokenizer, which the lengths in {name} need: {reason}\n\
             hint: give the lengths instead: --pairs N --prompt-tokens P --completion-tokens C",
            config.run.model.model_name_or_path
        ),
    };
    let pairs = load::pairs(name, &data.dataset_train_split, data, tokenizer)?.pairs;
    if pairs.is_empty() {
        bail!("{name}: no pair is left to train on");
    }
    load::check_fits(&planned.config, load::pair_ids(&pairs))?;
    Ok(pairs)
}

/// Pairs of one length; prompts differ, as in most data.
fn synthetic(config: &PlanConfig, positions: usize) -> Result<Vec<TokenizedPair>> {
    let (prompt, completion) = (config.prompt_tokens, config.completion_tokens);
    let limit = config.run.data.max_length.0.unwrap_or(usize::MAX);
    if prompt >= limit {
        bail_usage!(
            "prompts of {prompt} tokens fill max_length {limit}: every pair would be dropped\n\
             hint: raise --max-length, or give shorter --prompt-tokens"
        );
    }
    let length = (prompt + completion).min(limit);
    if length > positions + 1 {
        bail_usage!(
            "--prompt-tokens {prompt} and --completion-tokens {completion}: a sequence of {length} tokens is longer than the \
             model's {positions} positions\nhint: set --max-length {positions} or less, or give shorter lengths"
        );
    }
    let tokens = length.saturating_mul(config.pairs.unwrap_or(1));
    if tokens > MAX_SYNTHETIC {
        bail_usage!(
            "--pairs and --prompt-tokens with --completion-tokens: {tokens} tokens, more than the {MAX_SYNTHETIC} that a \
             plan holds\nhint: plan fewer pairs: with max_steps as in the run, memory and time of a step stay the same"
        );
    }
    let sequence = |pair: usize, token: u32| {
        let mut ids = vec![token; length];
        ids[..prompt].fill(0);
        ids[0] = pair as u32;
        TokenizedSequence {
            ids,
            prompt_len: prompt,
        }
    };
    let pair = |index: usize| TokenizedPair {
        index,
        chosen: sequence(index, 1),
        rejected: sequence(index, 2),
        weight: 1.0,
        text: None,
    };
    Ok((0..config.pairs.unwrap_or(1)).map(pair).collect())
}
