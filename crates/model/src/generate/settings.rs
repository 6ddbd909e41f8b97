//! `generation_config.json`: how a model likes to generate, as transformers 5.23 reads it.
//!
//! Every key of its `GenerationConfig` is in one of three classes: a field of [`GenerationConfig`]; a key that changes
//! nothing of one continuation (caches, outputs, settings of beams without beams); or one that would change it and is
//! not built, which is an error unless it is set to what happens anyway. Keys that transformers does not know have no
//! effect there either and are handed back by name.

use serde_json::{Map, Value};

use crate::config::Keys;
use crate::error::ModelError;

/// Name of the file beside a model's weights.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// Largest number of tokens that a length may ask for.
const MAX_TOKENS: usize = crate::config::MAX_POSITIONS;

/// Sequences of token ids with what is added to the score of their last token.
pub type Biases = Vec<(Vec<u32>, f64)>;

/// Settings of a generation; `None` where nothing is said. Names are transformers'.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Longest sequence, prompt included; `max_new_tokens` goes before it.
    pub max_length: Option<usize>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// Length, prompt included, below which no end is taken; `min_new_tokens` goes before it.
    pub min_length: Option<usize>,
    /// New tokens below which no end is taken.
    pub min_new_tokens: Option<usize>,
    /// Sample instead of taking the most likely token.
    pub do_sample: Option<bool>,
    /// Divides the logits when sampling; above 0.
    pub temperature: Option<f64>,
    /// Tokens kept when sampling; 0: all. Default: 50.
    pub top_k: Option<usize>,
    /// Probability kept when sampling, in [0, 1].
    pub top_p: Option<f64>,
    /// Smallest probability kept when sampling, as a share of the largest.
    pub min_p: Option<f64>,
    /// Share of the entropy kept when sampling, in (0, 1].
    pub top_h: Option<f64>,
    /// Probability of the locally typical tokens kept when sampling, in (0, 1].
    pub typical_p: Option<f64>,
    /// Smallest probability kept when sampling.
    pub epsilon_cutoff: Option<f64>,
    /// As `epsilon_cutoff`, lowered where the entropy is high.
    pub eta_cutoff: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens that are there already; above 0.
    pub repetition_penalty: Option<f64>,
    /// The inverse of it, for the prompt's tokens.
    pub encoder_repetition_penalty: Option<f64>,
    /// No n-gram of this size comes twice; 0: off.
    pub no_repeat_ngram_size: Option<usize>,
    /// No n-gram of the prompt comes again; 0: off.
    pub encoder_no_repeat_ngram_size: Option<usize>,
    /// Sequences that never come.
    pub bad_words_ids: Option<Vec<Vec<u32>>>,
    /// What is added to the last token of a sequence that its others precede.
    pub sequence_bias: Option<Biases>,
    /// The token after a prompt of one token.
    pub forced_bos_token_id: Option<u32>,
    /// Tokens, one of which comes last when the length runs out.
    pub forced_eos_token_id: Option<Vec<u32>>,
    /// Make NaN and infinite logits finite.
    pub remove_invalid_values: Option<bool>,
    /// From how many new tokens on, and by which factor a token, the end becomes likelier.
    pub exponential_decay_length_penalty: Option<(usize, f64)>,
    /// Tokens that never come.
    pub suppress_tokens: Option<Vec<u32>>,
    /// Tokens that do not come first.
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// Log-softmax of what is left; changes no choice.
    pub renormalize_logits: Option<bool>,
    /// Tokens that end a continuation.
    pub eos_token_id: Option<Vec<u32>>,
}

/// Keys without effect on one continuation: how the work is done, what else is returned, and settings of modes that are
/// refused where they are turned on.
#[rustfmt::skip]
const WITHOUT_EFFECT: &[&str] = &[
    "_commit_hash", "_from_model_config", "assistant_confidence_threshold", "assistant_ensemble_weight",
    "assistant_lookbehind", "bos_token_id", "cache_config", "compile_config", "continuous_batching_config",
    "decoder_start_token_id", "disable_compile", "diversity_penalty", "early_stopping", "length_penalty", "low_memory",
    "max_cache_len", "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "output_attentions", "output_hidden_states", "output_logits", "output_scores", "pad_token_id", "prefill_chunk_size",
    "return_dict_in_generate", "speculation_type", "target_lookbehind", "transformers_version", "use_cache",
];

/// Keys that would change a continuation and are not built, with the value that does not.
#[rustfmt::skip]
const NOT_BUILT: &[(&str, Option<f64>, &str)] = &[
    ("num_beams", Some(1.0), "1 (no beam search)"),
    ("num_beam_groups", Some(1.0), "1 (no beam search)"),
    ("constraints", None, "none"),
    ("force_words_ids", None, "none"),
    ("guidance_scale", Some(1.0), "1 (no classifier-free guidance)"),
    ("dola_layers", None, "none (no DoLa)"),
    ("watermarking_config", None, "none"),
    ("prompt_lookup_num_tokens", None, "none (no assisted generation)"),
    ("assistant_early_exit", None, "none (no assisted generation)"),
    ("max_time", None, "none: the same prompt gives the same text"),
    ("stop_strings", None, "none: ends are tokens, eos_token_id"),
    ("num_return_sequences", Some(1.0), "1"),
];

/// Switches that would change a continuation and are not built.
const NOT_BUILT_SWITCHES: &[&str] = &["use_mtp", "token_healing", "is_assistant"];

/// Arguments of `generate` that transformers refuses in the file.
#[rustfmt::skip]
const ARGUMENTS: &[&str] = &[
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus", "assistant_model", "streamer",
    "negative_prompt_ids", "negative_prompt_attention_mask",
];

impl GenerationConfig {
    /// Reads the text of a `generation_config.json`; `origin` names it in errors. The second part names the keys that
    /// nothing knows, which have no effect.
    ///
    /// # Errors
    /// [`ModelError`] naming the key: wrong type, out of range, or a setting that is not built.
    pub fn from_json_str(text: &str, origin: &str) -> Result<(Self, Vec<String>), ModelError> {
        let map: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| ModelError::ConfigJson {
                origin: origin.to_owned(),
                detail: error.to_string(),
            })?;
        let config = Self::from_map(&map, origin)?;
        let unknown = map.iter().filter(|(key, value)| {
            !value.is_null() && !FIELDS.contains(&&***key) && !is_listed(key)
        });
        let unknown = unknown.map(|(key, _)| key.clone()).collect();
        Ok((config, unknown))
    }

    /// Reads what a `config.json` says of generation, as transformers does of a model without a file of its own.
    ///
    /// # Errors
    /// As [`GenerationConfig::from_json_str`].
    pub fn from_model_config(raw: &Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        Self::from_map(raw, origin)
    }

    fn from_map(map: &Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        let keys = Keys { map, origin };
        let config = GenerationConfig {
            max_length: keys.count("max_length")?,
            max_new_tokens: keys.optional_size("max_new_tokens", MAX_TOKENS)?,
            min_length: keys.count("min_length")?,
            min_new_tokens: keys.count("min_new_tokens")?,
            do_sample: keys.flag("do_sample")?,
            temperature: keys.optional_positive("temperature")?,
            top_k: keys.count("top_k")?,
            top_p: keys.share("top_p", true)?,
            min_p: keys.share("min_p", true)?,
            top_h: keys.share("top_h", false)?,
            typical_p: keys.share("typical_p", false)?,
            epsilon_cutoff: keys.share("epsilon_cutoff", true)?,
            eta_cutoff: keys.share("eta_cutoff", true)?,
            repetition_penalty: keys.optional_positive("repetition_penalty")?,
            encoder_repetition_penalty: keys.optional_positive("encoder_repetition_penalty")?,
            no_repeat_ngram_size: keys.count("no_repeat_ngram_size")?,
            encoder_no_repeat_ngram_size: keys.count("encoder_no_repeat_ngram_size")?,
            bad_words_ids: keys.sequences("bad_words_ids")?,
            sequence_bias: keys.biases("sequence_bias")?,
            forced_bos_token_id: keys
                .ids("forced_bos_token_id")?
                .and_then(|ids| ids.first().copied()),
            forced_eos_token_id: keys.ids("forced_eos_token_id")?,
            remove_invalid_values: keys.flag("remove_invalid_values")?,
            exponential_decay_length_penalty: keys.decay("exponential_decay_length_penalty")?,
            suppress_tokens: keys.ids("suppress_tokens")?,
            begin_suppress_tokens: keys.ids("begin_suppress_tokens")?,
            renormalize_logits: keys.flag("renormalize_logits")?,
            eos_token_id: match keys.get("eos_token_id") {
                None => None,
                Some(_) => Some(keys.eos_token_ids(None)?),
            },
        };
        refuse_what_is_not_built(&keys, &config)?;
        Ok(config)
    }

    /// This configuration, with what it leaves open taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        GenerationConfig {
            max_length: self.max_length.or(other.max_length),
            max_new_tokens: self.max_new_tokens.or(other.max_new_tokens),
            min_length: self.min_length.or(other.min_length),
            min_new_tokens: self.min_new_tokens.or(other.min_new_tokens),
            do_sample: self.do_sample.or(other.do_sample),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            top_h: self.top_h.or(other.top_h),
            typical_p: self.typical_p.or(other.typical_p),
            epsilon_cutoff: self.epsilon_cutoff.or(other.epsilon_cutoff),
            eta_cutoff: self.eta_cutoff.or(other.eta_cutoff),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            encoder_repetition_penalty: self
                .encoder_repetition_penalty
                .or(other.encoder_repetition_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.or(other.no_repeat_ngram_size),
            encoder_no_repeat_ngram_size: self
                .encoder_no_repeat_ngram_size
                .or(other.encoder_no_repeat_ngram_size),
            bad_words_ids: self.bad_words_ids.or(other.bad_words_ids),
            sequence_bias: self.sequence_bias.or(other.sequence_bias),
            forced_bos_token_id: self.forced_bos_token_id.or(other.forced_bos_token_id),
            forced_eos_token_id: self.forced_eos_token_id.or(other.forced_eos_token_id),
            remove_invalid_values: self.remove_invalid_values.or(other.remove_invalid_values),
            exponential_decay_length_penalty: self
                .exponential_decay_length_penalty
                .or(other.exponential_decay_length_penalty),
            suppress_tokens: self.suppress_tokens.or(other.suppress_tokens),
            begin_suppress_tokens: self.begin_suppress_tokens.or(other.begin_suppress_tokens),
            renormalize_logits: self.renormalize_logits.or(other.renormalize_logits),
            eos_token_id: self.eos_token_id.or(other.eos_token_id),
        }
    }

    /// Most new tokens after a prompt of `prompt` tokens; `None` where no length is set. May be 0.
    #[must_use]
    pub fn new_tokens(&self, prompt: usize) -> Option<usize> {
        let by_length = self.max_length.map(|length| length.saturating_sub(prompt));
        self.max_new_tokens.or(by_length)
    }

    /// Checks against the model's vocabulary what cannot be checked key by key.
    ///
    /// # Errors
    /// [`ModelError::ConfigValue`] naming the key: a token outside the vocabulary, or a forced token that is also suppressed.
    pub fn check(&self, vocabulary: usize, origin: &str) -> Result<(), ModelError> {
        let wrong = |key: &str, found: String, expected: &str| {
            Err(ModelError::ConfigValue {
                origin: origin.to_owned(),
                key: key.to_owned(),
                found,
                expected: expected.to_owned(),
            })
        };
        let words = self
            .bad_words_ids
            .iter()
            .flatten()
            .map(|word| ("bad_words_ids", word));
        let biased = self
            .sequence_bias
            .iter()
            .flatten()
            .map(|(word, _)| ("sequence_bias", word));
        let forced = self
            .forced_eos_token_id
            .iter()
            .map(|ids| ("forced_eos_token_id", ids));
        let bos: Vec<u32> = self.forced_bos_token_id.into_iter().collect();
        let bos = std::iter::once(("forced_bos_token_id", &bos));
        for (key, ids) in words.chain(biased).chain(forced).chain(bos) {
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
                return wrong(
                    key,
                    format!("token {id}"),
                    &format!("tokens below {vocabulary}"),
                );
            }
        }
        let suppressed = self.suppress_tokens.as_deref().unwrap_or_default();
        let all = |ids: &[u32]| !ids.is_empty() && ids.iter().all(|id| suppressed.contains(id));
        let eos = self.forced_eos_token_id.as_deref().unwrap_or_default();
        let bos = self.forced_bos_token_id.as_slice();
        for (key, ids) in [("forced_eos_token_id", eos), ("forced_bos_token_id", bos)] {
            if all(ids) {
                return wrong(
                    key,
                    format!("{ids:?}"),
                    "a token that suppress_tokens leaves",
                );
            }
        }
        if self.exponential_decay_length_penalty.is_some()
            && self.eos_token_id.as_deref().unwrap_or_default().is_empty()
        {
            return wrong(
                "exponential_decay_length_penalty",
                "set".into(),
                "an eos_token_id, which it makes likelier",
            );
        }
        Ok(())
    }
}

/// Names of the fields of [`GenerationConfig`].
#[rustfmt::skip]
const FIELDS: &[&str] = &[
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p",
    "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "encoder_repetition_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "renormalize_logits", "eos_token_id",
];

/// Whether a key is one that is looked at, or known to have no effect.
fn is_listed(key: &str) -> bool {
    WITHOUT_EFFECT.contains(&key)
        || NOT_BUILT.iter().any(|(known, ..)| *known == key)
        || NOT_BUILT_SWITCHES.contains(&key)
        || matches!(key, "penalty_alpha" | "cache_implementation")
}

fn refuse_what_is_not_built(keys: &Keys<'_>, config: &GenerationConfig) -> Result<(), ModelError> {
    for (key, harmless, supported) in NOT_BUILT {
        if let Some(value) = keys.get(key)
            && (harmless.is_none() || value.as_f64() != *harmless)
        {
            return Err(keys.unsupported(key, value, supported));
        }
    }
    for key in NOT_BUILT_SWITCHES {
        if keys.flag_or(key, false)? {
            return Err(keys.unsupported(key, true, "false"));
        }
    }
    for key in ARGUMENTS {
        if let Some(value) = keys.get(key) {
            return Err(keys.unsupported(key, value, "none: transformers refuses it in this file"));
        }
    }
    if let Some("quantized") = keys.text("cache_implementation")? {
        return Err(keys.unsupported(
            "cache_implementation",
            "quantized",
            "a cache that rounds nothing",
        ));
    }
    // Contrastive search, where nothing is sampled and more than one token competes.
    let alpha = keys
        .get("penalty_alpha")
        .and_then(Value::as_f64)
        .unwrap_or(0.0);
    if alpha > 0.0 && config.do_sample != Some(true) && config.top_k.unwrap_or(50) > 1 {
        return Err(keys.unsupported(
            "penalty_alpha",
            alpha,
            "0 (no contrastive search), or do_sample true",
        ));
    }
    Ok(())
}

impl Keys<'_> {
    /// A number of tokens.
    fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(_) => self.count_or(key, MAX_TOKENS, 0).map(Some),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(_) => self.flag_or(key, false).map(Some),
        }
    }

    /// A number from 0 to 1; 0 itself only where it is allowed.
    fn share(&self, key: &str, zero: bool) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let share = value
            .as_f64()
            .filter(|x| (0.0..=1.0).contains(x) && (zero || *x > 0.0));
        let expected = if zero {
            "a number from 0 to 1"
        } else {
            "a number above 0, at most 1"
        };
        share
            .map(Some)
            .ok_or_else(|| self.bad(key, value, expected))
    }

    /// One token id or a list of them.
    fn ids(&self, key: &str) -> Result<Option<Vec<u32>>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let listed = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let ids: Option<Vec<u32>> = listed.iter().map(token).collect();
        ids.map(Some)
            .ok_or_else(|| self.bad(key, value, "a token id or a list of token ids"))
    }

    fn sequences(&self, key: &str) -> Result<Option<Vec<Vec<u32>>>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let all: Option<Vec<_>> = value
            .as_array()
            .and_then(|list| list.iter().map(sequence).collect());
        all.filter(|all: &Vec<_>| !all.is_empty())
            .map(Some)
            .ok_or_else(|| {
                self.bad(
                    key,
                    value,
                    "a list of lists of token ids, none of them empty",
                )
            })
    }

    fn biases(&self, key: &str) -> Result<Option<Biases>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let entry = |entry: &Value| {
            let [ids, bias] = entry.as_array()?.as_slice() else {
                return None;
            };
            Some((sequence(ids)?, bias.as_f64()?))
        };
        let all: Option<Vec<_>> = value
            .as_array()
            .and_then(|list| list.iter().map(entry).collect());
        all.filter(|all: &Vec<_>| !all.is_empty())
            .map(Some)
            .ok_or_else(|| self.bad(key, value, "a list of [token ids, number]"))
    }

    fn decay(&self, key: &str) -> Result<Option<(usize, f64)>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let pair = match value.as_array().map(Vec::as_slice) {
            Some([start, factor]) => start.as_u64().zip(factor.as_f64()),
            _ => None,
        };
        let pair = pair.and_then(|(start, factor)| Some((usize::try_from(start).ok()?, factor)));
        pair.map(Some)
            .ok_or_else(|| self.bad(key, value, "[first token, factor]"))
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn sequence(value: &Value) -> Option<Vec<u32>> {
    let ids: Vec<u32> = value.as_array()?.iter().map(token).collect::<Option<_>>()?;
    (!ids.is_empty()).then_some(ids)
}
