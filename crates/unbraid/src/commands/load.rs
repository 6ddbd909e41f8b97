//! Finding and opening models, tokenizers and data.

use super::device;
use crate::cli::{DataArgs, Dtype, ModelArgs};
use crate::commands::device::Machine;
use crate::interrupt;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use unbraid_cuda::Precision;
use unbraid_model::weights::{StoredDtype, Weights};
use unbraid_model::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, InitialBase, LanguageModel, LoraConfig, ModelConfig, Storage,
};
use unbraid_preference::{
    DatasetSource, RowReader, TokenizedDataset, TokenizedPair, hub, stream_pairs, stream_rows,
};
use unbraid_text::{GgufVocabulary, Tokenizer};

/// A model's files, located.
pub(crate) struct Source {
    /// A directory or a GGUF file; of an adapter, its base's.
    pub path: PathBuf,
    /// Its weights, opened but not read; of an adapter, its base's.
    pub weights: Weights,
    /// A PEFT adapter directory on top.
    pub adapter: Option<PathBuf>,
    /// The name under which an adapter's file should know the base.
    pub base_name: String,
}

/// The path of a model given as a path or a hub id.
pub(crate) fn locate(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    if hub::is_hub_id(name) {
        return Ok(hub::fetch_model_repo(name)?);
    }
    bail!(
        "{name}: no such file or directory\n\
         hint: give a directory with config.json and *.safetensors, a .gguf file, or a hub id (org/name)"
    )
}

/// Whether a directory holds a PEFT adapter.
fn is_adapter(path: &Path) -> bool {
    path.join(ADAPTER_CONFIG).is_file()
}

/// The base model of an adapter directory: the one the user names, else the one its settings name.
fn locate_base(adapter: &Path, base_model: Option<&str>) -> Result<(String, PathBuf)> {
    let name = match base_model {
        Some(name) => name.to_owned(),
        None => LoraConfig::read(adapter)?.base_model,
    };
    let settings = adapter.join(ADAPTER_CONFIG);
    if name.is_empty() {
        bail!(
            "{}: names no base model\nhint: give it with --base-model",
            settings.display()
        );
    }
    let path = locate(&name).with_context(|| match base_model {
        Some(_) => "--base-model".to_owned(),
        None => format!(
            "the base model that {} names (--base-model gives another)",
            settings.display()
        ),
    })?;
    if is_adapter(&path) {
        bail!(
            "{name}: the base model of an adapter is itself an adapter\nhint: merge it first (unbraid merge)"
        );
    }
    Ok((name, path))
}

/// The file beside a model that says how it likes to generate.
pub(crate) use unbraid_model::GENERATION_CONFIG;

impl Source {
    /// The model's `generation_config.json`, if it has one.
    pub(crate) fn generation_config(&self) -> Option<Vec<u8>> {
        unbraid_input::read(&self.weights.dir().join(GENERATION_CONFIG)).ok()
    }

    /// What a trained model's `generation_config.json` should say: the model's own, with the tokenizer's end token first
    /// among its ends where it was none of them, as transformers' trainer aligns it. `None` where there is nothing to say.
    pub(crate) fn trained_generation_config(&self, tokenizer: &Tokenizer) -> Option<Vec<u8>> {
        let file = self.generation_config();
        let Some(eos) = tokenizer.eos_id() else {
            return file;
        };
        let mut map: Map<String, Value> = match &file {
            // What is no JSON object is kept as it is.
            Some(bytes) => match serde_json::from_slice(bytes) {
                Ok(map) => map,
                Err(_) => return file,
            },
            None => {
                let config = ModelConfig::for_weights(&self.weights).ok()?;
                let ends = config
                    .raw()
                    .get("eos_token_id")
                    .filter(|ends| !ends.is_null());
                Map::from_iter(ends.map(|ends| ("eos_token_id".to_owned(), ends.clone())))
            }
        };
        let mut ends = match map.get("eos_token_id") {
            Some(Value::Array(ends)) => ends.clone(),
            None | Some(Value::Null) => Vec::new(),
            Some(one) => vec![one.clone()],
        };
        if ends.contains(&eos.into()) {
            return file;
        }
        ends.insert(0, eos.into());
        map.insert("eos_token_id".to_owned(), Value::Array(ends));
        let mut text = serde_json::to_string_pretty(&map).ok()?;
        text.push('\n');
        Some(text.into_bytes())
    }
}

/// Locates and opens a model, or an adapter with its base, without reading its weights.
pub(crate) fn open(name: &str, base_model: Option<&str>) -> Result<Source> {
    let found = locate(name)?;
    let (adapter, base_name, path) = if is_adapter(&found) {
        let (base_name, base) = locate_base(&found, base_model)?;
        (Some(found), base_name, base)
    } else {
        if base_model.is_some() {
            note!("--base-model has no effect: {name} is no adapter");
        }
        (None, name.to_owned(), found)
    };
    let weights = Weights::open(&path)?;
    Ok(Source {
        path,
        weights,
        adapter,
        base_name,
    })
}

/// The tokenizer of a model: an adapter's own where it has one, else its base's.
pub(crate) fn source_tokenizer(source: &Source) -> Result<Tokenizer> {
    match &source.adapter {
        Some(dir) if dir.join("tokenizer.json").is_file() => tokenizer(dir, None),
        _ => tokenizer(&source.path, Some(&source.weights)),
    }
}

/// The tokenizer that belongs to a model's files.
pub(crate) fn tokenizer(path: &Path, weights: Option<&Weights>) -> Result<Tokenizer> {
    if let Some(gguf) = weights.and_then(Weights::gguf_tokenizer) {
        let g = gguf.clone();
        return Ok(Tokenizer::from_gguf(GgufVocabulary {
            model: g.model.unwrap_or_default(),
            pre: g.pre,
            tokens: g.tokens,
            scores: g.scores,
            token_types: g.token_types,
            merges: g.merges.unwrap_or_default(),
            bos: g.bos,
            eos: g.eos,
            pad: g.pad,
            add_bos: g.add_bos,
            add_space_prefix: g.add_space_prefix,
            chat_template: g.chat_template,
        })?);
    }
    let dir = if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(path)
    };
    let tokenizer = Tokenizer::from_dir(dir)?;
    for note in tokenizer.notes() {
        note!("{note}");
    }
    Ok(tokenizer)
}

/// Chooses the machine and says once what becomes of number formats.
pub(crate) fn check_machine(args: &ModelArgs, precision: Precision) -> Result<()> {
    let gpu = device::choose(args.device, precision)?;
    if args.dtype == Dtype::Bfloat16 {
        note!(
            "dtype bfloat16: arithmetic is in float32; weights are rounded when written, and in memory where they are frozen"
        );
    }
    let bf16 = precision == Precision::Bf16;
    if device::use_bf16(bf16 && !gpu) {
        note!("bf16: products in bfloat16, sums and stored numbers in float32");
    } else if bf16 && !gpu {
        note!(
            "bf16: this processor has no AVX512-BF16 and computes in float32; results are at least as precise"
        );
    }
    if precision == Precision::Tf32 && !gpu {
        note!("tf32: the CPU computes in float32; results are at least as precise");
    }
    Ok(())
}

/// Number format of written weights.
pub(crate) fn stored_dtype(args: &ModelArgs) -> StoredDtype {
    match args.dtype {
        Dtype::Bfloat16 => StoredDtype::Bf16,
        Dtype::Auto | Dtype::Float32 => StoredDtype::F32,
    }
}

/// Reads a model's weights, and its adapter if it has one.
pub(crate) fn model(source: &Source) -> Result<LanguageModel<Machine>> {
    let mut model = base(source, Storage::Float32)?;
    if let Some(adapter) = &source.adapter {
        model.load_adapter(adapter)?;
    }
    Ok(model)
}

/// Reads the weights of a model, or of an adapter's base, holding matrices as `storage` says.
pub(crate) fn base(source: &Source, storage: Storage) -> Result<LanguageModel<Machine>> {
    let config = ModelConfig::for_weights(&source.weights)?;
    let backend = device::backend();
    let weights = &source.weights;
    let mut model = LanguageModel::from_weights(backend, config, weights, storage)?;
    model.cancel = interrupt::cancel();
    Ok(model)
}

/// What identifies the numbers that a model gives: its weights and its adapter's.
pub(crate) fn fingerprint(source: &Source) -> Result<String> {
    let mut text = source.weights.fingerprint()?;
    if let Some(adapter) = &source.adapter {
        text = format!("{text}+{}", adapter_fingerprint(adapter)?);
    }
    Ok(text)
}

/// What identifies the numbers that a model gives with its adapter off: its weights, and the adapter's where that changes them.
pub(crate) fn base_fingerprint(source: &Source) -> Result<String> {
    let Some(adapter) = &source.adapter else {
        return Ok(source.weights.fingerprint()?);
    };
    let weights = Weights::open(&adapter.join(ADAPTER_WEIGHTS))?;
    let changed = LoraConfig::read(adapter)?.initial_base != InitialBase::Kept;
    match changed || weights.names().any(|name| !name.contains(".lora_")) {
        true => fingerprint(source),
        false => Ok(source.weights.fingerprint()?),
    }
}

/// What identifies an adapter: its settings and weights.
fn adapter_fingerprint(dir: &Path) -> Result<String> {
    let weights = Weights::open(&dir.join(ADAPTER_WEIGHTS))?.fingerprint()?;
    let lora = LoraConfig::read(dir)?;
    let scale = (lora.alpha, lora.r, lora.use_rslora, &lora.alpha_pattern);
    Ok(match lora.initial_base {
        InitialBase::Kept => format!("{weights}{scale:?}"),
        other => format!("{weights}{scale:?}{other:?}"),
    })
}

/// How the frozen base of an adapter is held: as the user says, else as the checkpoint stores it, which loses nothing.
pub(crate) fn frozen_storage(source: &Source, dtype: Dtype) -> Storage {
    let weights = &source.weights;
    let stored = |name: &str| weights.stored_dtype(name) == Some("BF16");
    match dtype {
        Dtype::Float32 => Storage::Float32,
        Dtype::Bfloat16 => Storage::Bfloat16,
        Dtype::Auto if weights.names().all(stored) => Storage::Bfloat16,
        Dtype::Auto => Storage::Float32,
    }
}

/// One split of a data set.
pub(crate) fn split_of(name: &str, split: &str, data: &DataArgs) -> DatasetSource {
    DatasetSource {
        name: name.to_owned(),
        config: data.dataset_config.clone(),
        split: split.to_owned(),
        max_samples: data.max_samples,
        text_field: None,
        mixture: (name == data.dataset_name)
            .then(|| data.datasets.clone().map(Arc::new))
            .flatten(),
    }
}

/// The rows of one split, read as they are asked for.
pub(crate) fn stream(name: &str, split: &str, data: &DataArgs) -> Result<RowReader> {
    Ok(stream_rows(&split_of(name, split, data))?)
}

/// Tokenised pairs of one split, without their text, with what happened to them said on stderr.
pub(crate) fn pairs(
    name: &str,
    split: &str,
    data: &DataArgs,
    tokenizer: &Tokenizer,
) -> Result<TokenizedDataset> {
    let rows = stream(name, split, data)?;
    let dataset = stream_pairs(rows, tokenizer, data.max_length.0, false)?;
    for warning in dataset.report.warnings() {
        note!("{name}: {warning}");
    }
    Ok(dataset)
}

/// Refuses sequences that the model cannot read: ids beyond its vocabulary, more tokens than it has learned positions
/// (the last one is only predicted). Positions that turn go on beyond the configuration's limit, with a note, as in
/// transformers. Sequences come with their row's number.
pub(crate) fn check_fits<'a>(
    config: &ModelConfig,
    sequences: impl Iterator<Item = (usize, &'a [u32])>,
) -> Result<()> {
    let (vocabulary, positions) = (config.vocab_size(), config.max_positions());
    let (mut beyond, mut longest) = (0, 0);
    for (row, ids) in sequences {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!(
                "row {row}: the tokenizer produced token id {id}, but the model's vocab_size is {vocabulary}\n\
                 hint: tokenizer.json and config.json do not belong together"
            );
        }
        if ids.len() > positions + 1 && config.learned_positions() {
            bail!(
                "row {row}: a sequence of {} tokens is longer than the model's {positions} positions\n\
                 hint: set --max-length {positions} or less",
                ids.len()
            );
        }
        beyond += usize::from(ids.len() > positions + 1);
        longest = longest.max(ids.len());
    }
    if beyond > 0 && !LENGTH_NOTED.swap(true, Ordering::Relaxed) {
        note!(
            "{beyond} sequences of up to {longest} tokens are longer than the model's max_position_embeddings \
             ({positions}), which it was not trained for; --max-length {positions} cuts them"
        );
    }
    Ok(())
}

/// Whether the note about long sequences was given: once a run is enough.
static LENGTH_NOTED: AtomicBool = AtomicBool::new(false);

/// Both sequences of every pair, with its row's number.
pub(crate) fn pair_ids<'a>(
    pairs: impl IntoIterator<Item = &'a TokenizedPair>,
) -> impl Iterator<Item = (usize, &'a [u32])> {
    pairs
        .into_iter()
        .flat_map(|p| [(p.index, &p.chosen.ids[..]), (p.index, &p.rejected.ids[..])])
}
