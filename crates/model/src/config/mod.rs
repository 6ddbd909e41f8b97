//! Model configurations: Hugging Face `config.json` to checked settings, and back.
//!
//! Read are both generations: transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and
//! transformers 5 (`rope_parameters`, `dtype`). One file per family; a new family is a new file, an
//! arm in [`ModelConfig`] and an entry in [`SUPPORTED_ARCHITECTURES`]. The original JSON is kept,
//! so that writing a model back preserves keys this program knows nothing of. Keys that
//! transformers' model code ignores are ignored here; settings that would change the arithmetic
//! and are not implemented are errors. Sizes are capped (constants below) before anything is
//! multiplied or allocated. Tested in `tests/weights_config.rs` and `tests/config_families.rs`.

mod dropout;
mod gemma2;
mod gpt2;
mod gpt_neox;
mod keys;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;
mod window;

use std::path::Path;

use serde_json::{Map, Value};

pub use dropout::Dropout;
pub use gemma2::Gemma2Config;
pub use gpt_neox::GptNeoxConfig;
pub use gpt2::{Activation, Gpt2Config};
pub use llama::LlamaConfig;
pub use rope::{RopeConfig, RopeKind};

use crate::error::ModelError;
use crate::weights::{StoredDtype, Weights};
pub(crate) use keys::Keys;

/// Every `model_type` that can be read, with its class name in transformers.
pub const SUPPORTED_ARCHITECTURES: &[&str] = &[
    "gpt2 (GPT2LMHeadModel)",
    "llama (LlamaForCausalLM)",
    "mistral (MistralForCausalLM)",
    "qwen2 (Qwen2ForCausalLM)",
    "qwen3 (Qwen3ForCausalLM)",
    "gemma2 (Gemma2ForCausalLM)",
    "gpt_neox (GPTNeoXForCausalLM)",
];

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
    /// Mistral: Llama with a sliding window.
    Mistral(LlamaConfig),
    /// Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.
    Qwen2(LlamaConfig),
    /// Qwen3: Llama with norms over each head's query and key.
    Qwen3(LlamaConfig),
    /// Gemma 2.
    Gemma2(Gemma2Config),
    /// GPT-NeoX, Pythia.
    GptNeox(GptNeoxConfig),
}

/// What every family's settings have, under one name.
struct Common<'a> {
    model_type: &'static str,
    class: &'static str,
    vocab_size: usize,
    hidden_size: usize,
    n_layers: usize,
    max_positions: usize,
    tie_word_embeddings: bool,
    dropout: Dropout,
    eos_token_ids: &'a [u32],
    parameter_count: u128,
    raw: &'a Map<String, Value>,
}

impl<'a> Common<'a> {
    fn of_llama(c: &'a LlamaConfig, model_type: &'static str, class: &'static str) -> Self {
        Common {
            model_type,
            class,
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            n_layers: c.num_hidden_layers,
            max_positions: c.max_position_embeddings,
            tie_word_embeddings: c.tie_word_embeddings,
            dropout: c.dropout,
            eos_token_ids: &c.eos_token_ids,
            parameter_count: c.parameter_count(),
            raw: &c.raw,
        }
    }
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
    /// else `config.json` beside them. Where that ties the head to the embedding but the file holds
    /// both and they differ, the head is a matrix of its own, as in transformers 5.
    ///
    /// # Errors
    /// What reading the two matrices may give; else as [`ModelConfig::from_dir`].
    pub fn for_weights(weights: &Weights) -> Result<Self, ModelError> {
        let mut config = match weights.gguf_config() {
            Some(map) => Self::from_map(map.clone(), &weights.path().display().to_string()),
            None => Self::from_dir(weights.dir()),
        }?;
        if config.tie_word_embeddings()
            && weights.differ(config.table_name(), config.head_name())?
        {
            config.untie();
        }
        Ok(config)
    }

    /// Says that the head is a matrix of its own.
    pub(crate) fn untie(&mut self) {
        let (tied, raw) = match self {
            Self::Gpt2(c) => (&mut c.tie_word_embeddings, &mut c.raw),
            Self::Llama(c) | Self::Mistral(c) | Self::Qwen2(c) | Self::Qwen3(c) => {
                (&mut c.tie_word_embeddings, &mut c.raw)
            }
            Self::Gemma2(c) => (&mut c.tie_word_embeddings, &mut c.raw),
            Self::GptNeox(c) => (&mut c.tie_word_embeddings, &mut c.raw),
        };
        *tied = false;
        raw.insert("tie_word_embeddings".to_owned(), Value::from(false));
    }

    /// Name of the token embedding in a checkpoint.
    #[must_use]
    pub fn table_name(&self) -> &'static str {
        match self {
            Self::Gpt2(_) => "transformer.wte.weight",
            Self::GptNeox(_) => "gpt_neox.embed_in.weight",
            _ => "model.embed_tokens.weight",
        }
    }

    /// Name of the head's matrix in a checkpoint, where it is no copy of the embedding.
    #[must_use]
    pub fn head_name(&self) -> &'static str {
        match self {
            Self::GptNeox(_) => "embed_out.weight",
            _ => "lm_head.weight",
        }
    }

    /// Whether positions are learned, so that there is none beyond [`ModelConfig::max_positions`]; others turn on.
    #[must_use]
    pub fn learned_positions(&self) -> bool {
        matches!(self, Self::Gpt2(_))
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
            "mistral" | "MistralForCausalLM" => Ok(Self::Mistral(mistral::read(map, origin)?)),
            "qwen2" | "Qwen2ForCausalLM" => Ok(Self::Qwen2(qwen2::read(map, origin)?)),
            "qwen3" | "Qwen3ForCausalLM" => Ok(Self::Qwen3(qwen3::read(map, origin)?)),
            "gemma2" | "Gemma2ForCausalLM" => {
                Ok(Self::Gemma2(Gemma2Config::from_map(map, origin)?))
            }
            "gpt_neox" | "GPTNeoXForCausalLM" => {
                Ok(Self::GptNeox(GptNeoxConfig::from_map(map, origin)?))
            }
            other => Err(ModelError::UnsupportedArchitecture {
                origin: origin.to_owned(),
                found: other.to_owned(),
                supported: SUPPORTED_ARCHITECTURES,
            }),
        }
    }

    /// What every family has.
    fn common(&self) -> Common<'_> {
        match self {
            Self::Gpt2(c) => Common {
                model_type: "gpt2",
                class: "GPT2LMHeadModel",
                vocab_size: c.vocab_size,
                hidden_size: c.n_embd,
                n_layers: c.n_layer,
                max_positions: c.n_positions,
                tie_word_embeddings: c.tie_word_embeddings,
                dropout: c.dropout,
                eos_token_ids: &c.eos_token_ids,
                parameter_count: c.parameter_count(),
                raw: &c.raw,
            },
            Self::Llama(c) => Common::of_llama(c, "llama", "LlamaForCausalLM"),
            Self::Mistral(c) => Common::of_llama(c, "mistral", "MistralForCausalLM"),
            Self::Qwen2(c) => Common::of_llama(c, "qwen2", "Qwen2ForCausalLM"),
            Self::Qwen3(c) => Common::of_llama(c, "qwen3", "Qwen3ForCausalLM"),
            Self::Gemma2(c) => Common {
                model_type: "gemma2",
                class: "Gemma2ForCausalLM",
                vocab_size: c.vocab_size,
                hidden_size: c.hidden_size,
                n_layers: c.num_hidden_layers,
                max_positions: c.max_position_embeddings,
                tie_word_embeddings: c.tie_word_embeddings,
                dropout: c.dropout,
                eos_token_ids: &c.eos_token_ids,
                parameter_count: c.parameter_count(),
                raw: &c.raw,
            },
            Self::GptNeox(c) => Common {
                model_type: "gpt_neox",
                class: "GPTNeoXForCausalLM",
                vocab_size: c.vocab_size,
                hidden_size: c.hidden_size,
                n_layers: c.num_hidden_layers,
                max_positions: c.max_position_embeddings,
                tie_word_embeddings: c.tie_word_embeddings,
                dropout: c.dropout,
                eos_token_ids: &c.eos_token_ids,
                parameter_count: c.parameter_count(),
                raw: &c.raw,
            },
        }
    }

    /// `model_type` of the family.
    #[must_use]
    pub fn model_type(&self) -> &'static str {
        self.common().model_type
    }

    /// Number of token ids.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.common().vocab_size
    }

    /// Model width.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.common().hidden_size
    }

    /// Number of blocks.
    #[must_use]
    pub fn n_layers(&self) -> usize {
        self.common().n_layers
    }

    /// Longest sequence, tokens.
    #[must_use]
    pub fn max_positions(&self) -> usize {
        self.common().max_positions
    }

    /// Whether the output head is the token embedding.
    #[must_use]
    pub fn tie_word_embeddings(&self) -> bool {
        self.common().tie_word_embeddings
    }

    /// What training drops.
    #[must_use]
    pub fn dropout(&self) -> Dropout {
        self.common().dropout
    }

    /// Tokens that end a text. An id may lie outside the vocabulary: small test models keep the
    /// default of their family.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[u32] {
        self.common().eos_token_ids
    }

    /// Number of parameters, a tied head counted once.
    #[must_use]
    pub fn parameter_count(&self) -> u64 {
        // reading has capped it at 2⁴⁰
        u64::try_from(self.common().parameter_count).unwrap_or(u64::MAX)
    }

    /// The whole configuration as it was read.
    #[must_use]
    pub fn raw(&self) -> &Map<String, Value> {
        self.common().raw
    }

    /// The text of a `config.json` for weights stored as `stored`: the keys as read, in their
    /// order, with `model_type`, `architectures` and the stored type set. The type goes under the
    /// key the file already uses (`dtype` since transformers 5, `torch_dtype` before), under
    /// `torch_dtype`, which both generations read, if it has neither.
    #[must_use]
    pub fn to_json_pretty(&self, stored: StoredDtype) -> String {
        let common = self.common();
        let mut map = common.raw.clone();
        map.insert("architectures".to_owned(), Value::from(vec![common.class]));
        map.insert("model_type".to_owned(), Value::from(common.model_type));
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

/// `initializer_range`: the standard deviation of fresh weights.
fn initializer_range(raw: &Map<String, Value>) -> f64 {
    let given = raw.get("initializer_range").and_then(Value::as_f64);
    given.unwrap_or(0.02)
}
