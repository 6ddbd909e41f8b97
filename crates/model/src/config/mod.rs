//! Model configurations: Hugging Face `config.json` to checked settings, and back.
//!
//! Read are both generations: transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and
//! transformers 5 (`rope_parameters`, `dtype`). One file per family; a new family is a new file, an
//! arm in [`ModelConfig`] and an entry in [`SUPPORTED_ARCHITECTURES`]. The original JSON is kept,
//! so that writing a model back preserves keys this program knows nothing of. Keys that
//! transformers' model code ignores are ignored here; settings that would change the arithmetic
//! and are not implemented are errors. Sizes are capped (constants below) before anything is
//! multiplied or allocated. Tested in `tests/weights_config.rs`.

mod gpt2;
mod keys;
mod llama;
mod rope;

use std::path::Path;

use serde_json::{Map, Value};

pub use gpt2::{Activation, Gpt2Config};
pub use llama::LlamaConfig;
pub use rope::{RopeConfig, RopeKind};

use crate::error::ModelError;
use crate::weights::{StoredDtype, Weights};
use keys::Keys;

/// Every `model_type` that can be read, with its class name in transformers.
pub const SUPPORTED_ARCHITECTURES: &[&str] =
    &["gpt2 (GPT2LMHeadModel)", "llama (LlamaForCausalLM)"];

// Caps on sizes, each several times the largest published model of its kind: Llama 3.1 405B has
// 126 layers, width 16,384, feed-forward 53,248, 128 heads; Gemma's vocabulary has 262,144 tokens;
// Llama 4 Scout claims 10,485,760 positions.
pub(crate) const MAX_LAYERS: usize = 1024;
pub(crate) const MAX_WIDTH: usize = 1 << 20;
pub(crate) const MAX_HEADS: usize = 4096;
pub(crate) const MAX_VOCAB: usize = 1 << 22;
pub(crate) const MAX_POSITIONS: usize = 1 << 25;
/// 2⁴⁰ parameters are 4 TiB in f32.
const MAX_PARAMETERS: u128 = 1 << 40;
/// Longest `config.json` that is read, bytes; published ones are below 100 kB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Checked settings of a model of any supported family.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// GPT-2.
    Gpt2(Gpt2Config),
    /// Llama 2 and 3, SmolLM2, TinyLlama.
    Llama(LlamaConfig),
}

impl ModelConfig {
    /// Reads `config.json` of the directory `path`.
    ///
    /// # Errors
    /// [`ModelError`] naming the file: it cannot be read, is no JSON object, names an unsupported
    /// architecture or setting, or a key is missing or out of range.
    pub fn from_dir(path: &Path) -> Result<Self, ModelError> {
        let file = path.join("config.json");
        let text = crate::weights::read_text_capped(&file, MAX_CONFIG_BYTES)?;
        Self::from_json_str(&text, &file.display().to_string())
    }

    /// The configuration that goes with opened weights: synthesised from a GGUF file's metadata,
    /// else `config.json` beside them.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`].
    pub fn for_weights(weights: &Weights) -> Result<Self, ModelError> {
        match weights.gguf_config() {
            Some(map) => Self::from_map(map.clone(), &weights.path().display().to_string()),
            None => Self::from_dir(weights.dir()),
        }
    }

    /// Reads the text of a `config.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`].
    pub fn from_json_str(text: &str, origin: &str) -> Result<Self, ModelError> {
        let map = serde_json::from_str(text).map_err(|error| ModelError::ConfigJson {
            origin: origin.to_owned(),
            detail: error.to_string(),
        })?;
        Self::from_map(map, origin)
    }

    /// Reads a parsed configuration; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`].
    pub fn from_map(map: Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        let keys = Keys { map: &map, origin };
        if let Some(method) = keys.object("quantization_config")? {
            let name = method.text("quant_method")?.unwrap_or("unnamed");
            let supported = "unquantised weights, or a GGUF file";
            return Err(keys.unsupported("quantization_config", format!("{name:?}"), supported));
        }
        match family(&keys)? {
            "gpt2" | "GPT2LMHeadModel" => Ok(Self::Gpt2(Gpt2Config::from_map(map, origin)?)),
            "llama" | "LlamaForCausalLM" => Ok(Self::Llama(LlamaConfig::from_map(map, origin)?)),
            other => Err(ModelError::UnsupportedArchitecture {
                origin: origin.to_owned(),
                found: other.to_owned(),
                supported: SUPPORTED_ARCHITECTURES,
            }),
        }
    }

    /// `model_type` of the family.
    #[must_use]
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Gpt2(_) => "gpt2",
            Self::Llama(_) => "llama",
        }
    }

    /// Number of token ids.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.vocab_size,
            Self::Llama(config) => config.vocab_size,
        }
    }

    /// Model width.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.n_embd,
            Self::Llama(config) => config.hidden_size,
        }
    }

    /// Number of blocks.
    #[must_use]
    pub fn n_layers(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.n_layer,
            Self::Llama(config) => config.num_hidden_layers,
        }
    }

    /// Longest sequence, tokens.
    #[must_use]
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.n_positions,
            Self::Llama(config) => config.max_position_embeddings,
        }
    }

    /// Whether the output head is the token embedding.
    #[must_use]
    pub fn tie_word_embeddings(&self) -> bool {
        match self {
            Self::Gpt2(config) => config.tie_word_embeddings,
            Self::Llama(config) => config.tie_word_embeddings,
        }
    }

    /// Tokens that end a text. An id may lie outside the vocabulary: small test models keep the
    /// default of their family.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[u32] {
        match self {
            Self::Gpt2(config) => &config.eos_token_ids,
            Self::Llama(config) => &config.eos_token_ids,
        }
    }

    /// Number of parameters, a tied head counted once.
    #[must_use]
    pub fn parameter_count(&self) -> u64 {
        let count = match self {
            Self::Gpt2(config) => config.parameter_count(),
            Self::Llama(config) => config.parameter_count(),
        };
        u64::try_from(count).unwrap_or(u64::MAX) // reading has capped it at 2⁴⁰
    }

    /// The whole configuration as it was read.
    #[must_use]
    pub fn raw(&self) -> &Map<String, Value> {
        match self {
            Self::Gpt2(config) => &config.raw,
            Self::Llama(config) => &config.raw,
        }
    }

    /// The text of a `config.json` for weights stored as `stored`: the keys as read, in their
    /// order, with `model_type`, `architectures` and the stored type set. The type goes under the
    /// key the file already uses (`dtype` since transformers 5, `torch_dtype` before), under
    /// `torch_dtype`, which both generations read, if it has neither.
    #[must_use]
    pub fn to_json_pretty(&self, stored: StoredDtype) -> String {
        let class = match self {
            Self::Gpt2(_) => "GPT2LMHeadModel",
            Self::Llama(_) => "LlamaForCausalLM",
        };
        let mut map = self.raw().clone();
        map.insert("architectures".to_owned(), Value::from(vec![class]));
        map.insert("model_type".to_owned(), Value::from(self.model_type()));
        let mut seen = false;
        for key in ["dtype", "torch_dtype"] {
            if let Some(value) = map.get_mut(key) {
                *value = Value::from(stored.torch_name());
                seen = true;
            }
        }
        if !seen {
            map.insert("torch_dtype".to_owned(), Value::from(stored.torch_name()));
        }
        let mut text = serde_json::to_string_pretty(&map).expect("a JSON map has string keys");
        text.push('\n');
        text
    }
}

/// `model_type`, or the class name for files that lack it.
fn family<'a>(keys: &Keys<'a>) -> Result<&'a str, ModelError> {
    if let Some(name) = keys.text("model_type")? {
        return Ok(name);
    }
    keys.get("architectures")
        .and_then(|list| list.as_array()?.first()?.as_str())
        .ok_or_else(|| ModelError::ConfigMissing {
            origin: keys.origin.to_owned(),
            key: "model_type".to_owned(),
        })
}

fn check_parameters(count: u128, origin: &str) -> Result<(), ModelError> {
    if count <= MAX_PARAMETERS {
        return Ok(());
    }
    Err(ModelError::ConfigValue {
        origin: origin.to_owned(),
        key: "sizes taken together".to_owned(),
        found: format!("{count} parameters"),
        expected: format!("at most {MAX_PARAMETERS}"),
    })
}
