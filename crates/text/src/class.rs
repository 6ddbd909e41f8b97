//! Which tokenizer class `transformers` 5 opens a directory with, and what that class makes of `tokenizer.json`.
//!
//! `AutoTokenizer` weighs `tokenizer_class` against the `model_type` of `config.json`. `TokenizersBackend` (formerly
//! `PreTrainedTokenizerFast`) takes `tokenizer.json` as it stands. The classes of single families take from it the
//! vocabulary, the merges and the post-processor only, and build normalizer, pre-tokenizer and decoder themselves:
//! a Llama 2 file with `Prepend` and `Replace` becomes a `Metaspace` that prefixes the text's start alone. The models
//! were trained with one of the two; what is counted here is what `transformers` does.
//!
//! Rebuilt here: the classes of decoders in [`REBUILT`]. A class in [`ELSEWHERE`] is rebuilt by `transformers` but not
//! here: its file is taken as it stands, and a note says so.
//! Source: `transformers` 5.23, `models/auto/tokenization_auto.py` and `models/*/tokenization_*.py`.
//! Tested in `tests/classes.rs` against recorded ids.

use serde_json::{Map, Value, json};

use crate::settings::Settings;
use crate::source::{byte_level, byte_level_bpe};

/// What a tokenizer is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Class {
    /// `tokenizer.json` as it stands.
    File,
    /// The vocabulary and merges of `tokenizer.json` under the parts of a class.
    Rebuilt(Rebuilt),
    /// `tokenizer.json` as it stands, although `transformers` has a class of this name.
    Elsewhere(String),
}

/// The classes that are rebuilt here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebuilt {
    Llama,
    CodeLlama,
    Gemma,
    Gpt2,
    GptNeoX,
    Qwen2,
    Qwen35,
    Cohere,
}

const REBUILT: [(&str, Rebuilt); 8] = [
    ("LlamaTokenizer", Rebuilt::Llama),
    ("CodeLlamaTokenizer", Rebuilt::CodeLlama),
    ("GemmaTokenizer", Rebuilt::Gemma),
    ("GPT2Tokenizer", Rebuilt::Gpt2),
    ("GPTNeoXTokenizer", Rebuilt::GptNeoX),
    ("Qwen2Tokenizer", Rebuilt::Qwen2),
    ("Qwen3_5Tokenizer", Rebuilt::Qwen35),
    ("CohereTokenizer", Rebuilt::Cohere),
];

/// Further classes that do not take the file as it stands: encoders', translators' and speech models'.
#[rustfmt::skip]
const ELSEWHERE: &[&str] = &[
    "AlbertTokenizer", "BartTokenizer", "BarthezTokenizer", "BartphoTokenizer", "BertGenerationTokenizer",
    "BertJapaneseTokenizer", "BertTokenizer", "BertweetTokenizer", "BigBirdTokenizer", "BioGptTokenizer",
    "BlenderbotSmallTokenizer", "BlenderbotTokenizer", "ByT5Tokenizer", "CLIPTokenizer", "CTRLTokenizer",
    "CamembertTokenizer", "CanineTokenizer", "ClvpTokenizer", "CodeGenTokenizer", "CpmAntTokenizer", "CpmTokenizer",
    "DPRQuestionEncoderTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer", "DiaTokenizer", "DistilBertTokenizer",
    "ElectraTokenizer", "EsmTokenizer", "EsmcTokenizer", "FSMTTokenizer", "FlaubertTokenizer", "FunnelTokenizer",
    "GPTNeoXJapaneseTokenizer", "GPTSw3Tokenizer", "HerbertTokenizer", "LEDTokenizer", "LasrTokenizer",
    "LayoutLMv2Tokenizer", "LayoutLMv3Tokenizer", "LayoutXLMTokenizer", "LukeTokenizer", "LxmertTokenizer",
    "M2M100Tokenizer", "MBart50Tokenizer", "MBartTokenizer", "MLukeTokenizer", "MPNetTokenizer", "MarianTokenizer",
    "MarkupLMTokenizer", "MgpstrTokenizer", "MobileBertTokenizer", "MvpTokenizer", "MyT5Tokenizer", "NllbTokenizer",
    "NougatTokenizer", "OpenAIGPTTokenizer", "PLBartTokenizer", "PegasusTokenizer", "PerceiverTokenizer",
    "PhobertTokenizer", "ProphetNetTokenizer", "RagTokenizer", "ReformerTokenizer", "RemBertTokenizer",
    "RoCBertTokenizer", "RoFormerTokenizer", "RobertaTokenizer", "SeamlessM4TTokenizer", "Siglip2Tokenizer",
    "SiglipTokenizer", "Speech2TextTokenizer", "SpeechT5Tokenizer", "SplinterTokenizer", "T5Tokenizer",
    "TapasTokenizer", "Tipsv2Tokenizer", "UdopTokenizer", "VideoPrismTokenizer", "VitsTokenizer",
    "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer", "WhisperTokenizer", "XGLMTokenizer",
    "XLMRobertaTokenizer", "XLMTokenizer", "XLNetTokenizer",
];

/// The class that `transformers` registers for the decoders' `model_type`s, and whether a file's own
/// `tokenizer_class` is overruled by it. A type that is not here has none (`llama`).
#[rustfmt::skip]
const REGISTERED: &[(&str, &str, bool)] = &[
    ("code_llama", "CodeLlamaTokenizer", false), ("codegen", "GPT2Tokenizer", false),
    ("cohere", "CohereTokenizer", false), ("cohere2", "CohereTokenizer", false),
    ("dbrx", "GPT2Tokenizer", false), ("falcon_mamba", "GPTNeoXTokenizer", false),
    ("flex_olmo", BACKEND, false), ("gemma", "GemmaTokenizer", false), ("gemma2", "GemmaTokenizer", false),
    ("gemma3", "GemmaTokenizer", false), ("gemma3_text", "GemmaTokenizer", false),
    ("gemma3n", "GemmaTokenizer", false), ("gemma3n_text", "GemmaTokenizer", false), ("glm", BACKEND, false),
    ("glm4", BACKEND, false), ("glm4_moe", BACKEND, false), ("gpt2", "GPT2Tokenizer", false),
    ("gpt_bigcode", BACKEND, false), ("gpt_neo", "GPT2Tokenizer", false),
    ("gpt_neox", "GPTNeoXTokenizer", false), ("gptj", "GPT2Tokenizer", false), ("granite", BACKEND, false),
    ("granitemoe", BACKEND, false), ("internlm2", BACKEND, true), ("internlm3", BACKEND, true),
    ("jais2", "GPT2Tokenizer", false), ("jamba", BACKEND, true), ("mamba", "GPTNeoXTokenizer", false),
    ("mamba2", "GPTNeoXTokenizer", false), ("minicpm3", BACKEND, true), ("ministral", BACKEND, false),
    ("ministral3", BACKEND, false), ("mistral", BACKEND, false), ("mistral3", BACKEND, false),
    ("mixtral", BACKEND, false), ("mpt", "GPTNeoXTokenizer", false), ("nemotron", BACKEND, true),
    ("olmo", "GPTNeoXTokenizer", false), ("olmo2", BACKEND, false), ("olmo3", BACKEND, false),
    ("olmoe", "GPTNeoXTokenizer", false), ("opt", "GPT2Tokenizer", false), ("persimmon", BACKEND, false),
    ("phi", "GPT2Tokenizer", false), ("phi3", BACKEND, true), ("phimoe", BACKEND, true),
    ("qwen2", "Qwen2Tokenizer", true), ("qwen2_moe", "Qwen2Tokenizer", false), ("qwen3", "Qwen2Tokenizer", false),
    ("qwen3_5", "Qwen3_5Tokenizer", true), ("qwen3_5_text", "Qwen3_5Tokenizer", false),
    ("qwen3_moe", "Qwen2Tokenizer", false), ("qwen3_next", "Qwen2Tokenizer", false),
    ("recurrent_gemma", "GemmaTokenizer", false), ("rwkv", "GPTNeoXTokenizer", false), ("stablelm", BACKEND, false),
    ("starcoder2", "GPT2Tokenizer", false), ("t5gemma", "GemmaTokenizer", false),
];

/// The class that takes the file as it stands.
const BACKEND: &str = "TokenizersBackend";

/// The types whose tokenizer may come from the library of Mistral AI, which is not looked for here.
const MISTRAL: [&str; 5] = ["ministral", "ministral3", "mistral", "mistral3", "mixtral"];

/// A class's name without its former ending.
fn bare(name: &str) -> &str {
    name.strip_suffix("Fast").unwrap_or(name)
}

impl Class {
    /// The class of this name; a name that `transformers` does not know stands for the file.
    fn named(name: &str) -> Self {
        let name = bare(name);
        let rebuilt = REBUILT.iter().find(|(known, _)| *known == name);
        match rebuilt {
            Some((_, class)) => Self::Rebuilt(*class),
            None if ELSEWHERE.contains(&name) => Self::Elsewhere(name.to_owned()),
            None => Self::File,
        }
    }

    /// The class that `AutoTokenizer` opens the files with. `byte_level`: the text of `tokenizer.json` names
    /// `ByteLevel`.
    pub(crate) fn choose(
        class: Option<&str>,
        model_type: Option<&str>,
        has_own_code: bool,
        byte_level: bool,
    ) -> Self {
        let registered = model_type.and_then(|kind| {
            let entry = REGISTERED.iter().find(|(known, ..)| *known == kind);
            entry.map(|(_, class, overrules)| (*class, *overrules))
        });
        let overrules = registered.is_some_and(|(_, overrules)| overrules);
        let Some(class) = class else {
            return registered.map_or(Self::File, |(class, _)| Self::named(class));
        };
        let mistral = model_type.is_some_and(|kind| MISTRAL.contains(&kind));
        let llama = bare(class) == "LlamaTokenizer";
        if !has_own_code && llama && byte_level && !mistral && !overrules {
            return Self::File;
        }
        match registered {
            Some((registered, _)) if !has_own_code && registered != bare(class) => {
                if registered == BACKEND {
                    return Self::File;
                }
                Self::named(if overrules { registered } else { class })
            }
            _ => Self::named(class),
        }
    }

    /// A name under which `AutoTokenizer` finds this class again.
    pub(crate) fn name(&self) -> &str {
        match self {
            // The older name of the class: `transformers` 4 knows it too.
            Self::File => "PreTrainedTokenizerFast",
            Self::Elsewhere(name) => name,
            Self::Rebuilt(class) => REBUILT
                .iter()
                .find(|(_, known)| known == class)
                .map_or("PreTrainedTokenizerFast", |(name, _)| name),
        }
    }
}

impl Rebuilt {
    /// The special tokens that the class has where the configuration does not name them.
    pub(crate) fn default_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Llama | Self::CodeLlama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
            ],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Gpt2 => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
            ],
            Self::GptNeoX => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|padding|>"),
            ],
            Self::Qwen2 | Self::Qwen35 => &[
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::Cohere => &[
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("unk_token", "<UNK>"),
                ("sep_token", "<SEP>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
        }
    }

    /// Code Llama's tokens for a gap in a text; they have names, but are none of the standard ones.
    pub(crate) fn own_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::CodeLlama => &[
                ("prefix_token", "▁<PRE>"),
                ("middle_token", "▁<MID>"),
                ("suffix_token", "▁<SUF>"),
                ("eot_token", "▁<EOT>"),
                ("fill_token", FILL),
            ],
            _ => &[],
        }
    }

    /// The description that the class makes of a file's.
    pub(crate) fn rebuild(self, mut file: Value, settings: &Settings) -> Value {
        let (vocab, merges) = vocabulary(&mut file["model"]);
        let prefix = settings.add_prefix_space;
        let nfc = json!({"type": "NFC"});
        let words = |regex: bool| {
            let mut part = byte_level(regex);
            part["add_prefix_space"] = json!(prefix.unwrap_or(false));
            part
        };
        let bytes = |pre_tokenizer, normalizer| {
            byte_level_bpe(
                vocab.clone(),
                merges.clone(),
                Vec::new(),
                pre_tokenizer,
                normalizer,
                false,
            )
        };
        let unknown = settings.text("unk_token");
        let mut json = match self {
            Self::Llama => {
                let scheme = match (prefix.unwrap_or(true), settings.legacy) {
                    (false, _) => "never",
                    (true, true) => "always",
                    (true, false) => "first",
                };
                let strip = prefix.unwrap_or(true);
                pieces(vocab, merges, None, Value::Null, metaspace(scheme), strip)
            }
            Self::CodeLlama => {
                let scheme = if prefix.unwrap_or(true) {
                    "first"
                } else {
                    "never"
                };
                pieces(vocab, merges, unknown, Value::Null, metaspace(scheme), true)
            }
            Self::Gemma => {
                let underscores =
                    json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
                let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                                   "invert": false});
                pieces(vocab, merges, unknown, underscores, split, false)
            }
            Self::Gpt2 => bytes(words(true), Value::Null),
            Self::GptNeoX => bytes(words(true), nfc),
            Self::Qwen2 => bytes(split_then(QWEN2, words(false)), nfc),
            Self::Qwen35 => bytes(split_then(QWEN35, words(false)), nfc),
            Self::Cohere => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                let both = json!({"type": "Sequence", "pretokenizers": [digits, words(true)]});
                bytes(both, nfc)
            }
        };
        json["post_processor"] = file["post_processor"].take();
        json
    }
}

/// The token at which Code Llama splits a text into what stands before and after a gap.
pub(crate) const FILL: &str = "<FILL_ME>";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn split_then(pattern: &str, last: Value) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, last]})
}

fn metaspace(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false})
}

/// A vocabulary whose pieces have `▁` for a space and fall back on bytes.
fn pieces(
    vocab: Value,
    merges: Value,
    unknown: Option<&str>,
    normalizer: Value,
    pre_tokenizer: Value,
    strip: bool,
) -> Value {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strip {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": merges},
    })
}

/// What a BPE class takes from a file's model, whatever that is: the ids of tokens, and merges where it has some.
fn vocabulary(model: &mut Value) -> (Value, Value) {
    let merges = match model.get_mut("merges") {
        Some(merges) => merges.take(),
        None => json!([]),
    };
    let vocab = match model.get_mut("vocab") {
        Some(vocab) => vocab.take(),
        None => Value::Null,
    };
    let Value::Array(scored) = vocab else {
        return (vocab, merges);
    };
    let mut ids = Map::with_capacity(scored.len());
    for (id, entry) in scored.into_iter().enumerate() {
        let token = entry.get(0).unwrap_or(&entry);
        ids.insert(token.as_str().unwrap_or_default().to_owned(), json!(id));
    }
    (Value::Object(ids), merges)
}

/// The parts of a file that a rebuilt tokenizer differs in, by their names; empty where they say the same.
pub(crate) fn changed_parts(file: &Value, rebuilt: &Value) -> Vec<&'static str> {
    let sentence_piece = |json: &Value| {
        let (normalizer, pre) = (
            json["normalizer"].to_string(),
            json["pre_tokenizer"].to_string(),
        );
        normalizer.contains('▁') || pre.contains('▁')
    };
    if sentence_piece(file) && sentence_piece(rebuilt) {
        return Vec::new();
    }
    let mut parts = Vec::new();
    for part in ["normalizer", "pre_tokenizer"] {
        if essence(&file[part]) != essence(&rebuilt[part]) {
            parts.push(part);
        }
    }
    if file["model"]["type"].is_string() && file["model"]["type"] != "BPE" {
        parts.push("model");
    } else if file["model"]["ignore_merges"] == true {
        parts.push("model.ignore_merges");
    }
    parts
}

/// A part without what changes no ids.
fn essence(part: &Value) -> Value {
    match part {
        Value::Array(parts) => parts.iter().map(essence).collect(),
        Value::Object(keys) => keys
            .iter()
            .filter(|(key, value)| {
                !value.is_null()
                    && *key != "trim_offsets"
                    && **value != json!(false)
                    && !(*key == "use_regex" && **value == json!(true))
            })
            .map(|(key, value)| (key.clone(), essence(value)))
            .collect(),
        other => other.clone(),
    }
}
