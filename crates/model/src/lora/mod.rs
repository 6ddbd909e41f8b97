//! Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) as PEFT defines them.
//!
//! A linear map with an adapter computes y = x Wᵀ + b + s·drop(x) Aᵀ Bᵀ, A `[r, d_in]`, B `[d_out, r]`, s = α/r, or
//! α/√r with rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732). A starts uniform in ±1/√d_in (PyTorch's
//! Kaiming start with a = √5, as in PEFT), B at zero, so a fresh adapter changes nothing. The base is frozen: its
//! weights get no gradient and no optimizer state. With the adapter off the model is its base again: that is the
//! reference policy.
//!
//! Adapters belong to [`Parameters`](crate::Parameters), found by the weight that they adapt, so a family's code
//! never mentions them. Left out: DoRA, trained biases, adapters of embeddings and of the head. Files: `file.rs`.
//! Tested against PEFT in `tests/lora.rs`.

mod file;

use crate::decoder::LanguageModel;
use crate::error::ModelError;
use crate::parameters::{Init, ParamId, ParamKind, ParamSpec};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regex::Regex;
use std::collections::BTreeMap;
use unbraid_tensor::{Backend, Gemm, Mat, MatMut};

pub(crate) use file::remove_adapter;
pub use file::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};

/// Which linear maps get an adapter.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetModules {
    /// PEFT's choice for the model's type.
    Default,
    /// Every linear map but the head.
    AllLinear,
    /// Modules whose path is, or ends in `.` and, one of these.
    Names(Vec<String>),
    /// Modules whose whole path matches this regular expression.
    Pattern(String),
}

/// Settings of a low-rank adapter, in PEFT's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The base model, as a path or hub id.
    pub base_model: String,
    /// Rank r.
    pub r: usize,
    /// α: the product is scaled by α/r.
    pub alpha: f64,
    /// Share of an adapter's inputs that are dropped in training.
    pub dropout: f64,
    /// Which linear maps.
    pub target_modules: TargetModules,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Vec<String>,
    /// Scale α/√r instead of α/r.
    pub use_rslora: bool,
    /// Other ranks for modules whose path ends in a match of the key.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other α likewise.
    pub alpha_pattern: BTreeMap<String, f64>,
}

/// The adapter of one linear map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    /// A, `[r, d_in]`.
    pub a: ParamId,
    /// B, `[d_out, r]`.
    pub b: ParamId,
    /// r.
    pub rank: usize,
    /// s, the factor on the product.
    pub scale: f64,
    /// Share of the inputs dropped in training.
    pub dropout: f64,
}

/// PEFT 0.21's targets where the user names none, by `model_type`.
const DEFAULT_TARGETS: &[(&str, &[&str])] = &[
    ("gpt2", &["c_attn"]),
    ("gpt_neox", &["query_key_value"]),
    ("llama", &["q_proj", "v_proj"]),
    ("mistral", &["q_proj", "v_proj"]),
    ("gemma2", &["q_proj", "v_proj"]),
    ("qwen2", &["q_proj", "v_proj"]),
    ("qwen3", &["q_proj", "v_proj"]),
];

fn refused(what: String) -> ModelError {
    ModelError::Adapter {
        origin: "LoRA".into(),
        detail: what,
    }
}

/// The module of a weight: its checkpoint name without `.weight`.
fn module(spec: &ParamSpec) -> &str {
    spec.name.strip_suffix(".weight").unwrap_or(&spec.name)
}

/// Whether a module's path is `name` or ends in `.name`.
fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn pattern(text: &str) -> Result<Regex, ModelError> {
    Regex::new(text).map_err(|e| {
        // The last line says what is wrong, those before draw an arrow.
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim();
        refused(format!("{text:?} is no regular expression: {reason}"))
    })
}

/// The value of the first pattern that the path ends in, else `default` (PEFT's `get_pattern_key`).
fn by_pattern<T: Copy>(
    patterns: &BTreeMap<String, T>,
    path: &str,
    default: T,
) -> Result<T, ModelError> {
    for (key, &value) in patterns {
        if pattern(&format!(r"^(?:.*\.)?(?:{key})$"))?.is_match(path) {
            return Ok(value);
        }
    }
    Ok(default)
}

impl LoraConfig {
    /// The adapter's factor s for a module of rank `rank`.
    fn scale(&self, path: &str, rank: usize) -> Result<f64, ModelError> {
        let alpha = by_pattern(&self.alpha_pattern, path, self.alpha)?;
        let rank = rank as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }

    /// The linear maps that the configuration names, in the model's order.
    fn targets(&self, model_type: &str, specs: &[ParamSpec]) -> Result<Vec<ParamId>, ModelError> {
        let linear = specs.iter().enumerate().filter(|(_, s)| s.adaptable());
        let all: Vec<(ParamId, &str)> = linear.map(|(i, s)| (ParamId(i), module(s))).collect();
        let names = match &self.target_modules {
            TargetModules::AllLinear => return Ok(all.iter().map(|(id, _)| *id).collect()),
            TargetModules::Pattern(text) => {
                let pattern = pattern(&format!("^(?:{text})$"))?;
                let matching = all.iter().filter(|(_, path)| pattern.is_match(path));
                let found: Vec<ParamId> = matching.map(|(id, _)| *id).collect();
                if found.is_empty() {
                    return Err(self.unknown(text, &all));
                }
                return Ok(found);
            }
            TargetModules::Names(names) => names.clone(),
            TargetModules::Default => DEFAULT_TARGETS
                .iter()
                .find(|(kind, _)| *kind == model_type)
                .map(|(_, names)| names.iter().map(|&n| n.to_owned()).collect())
                .ok_or_else(|| {
                    refused(format!(
                        "no default target modules are known for model type {model_type:?}\n\
                         hint: name them in lora_target_modules, or say all-linear"
                    ))
                })?,
        };
        if let Some(name) = names
            .iter()
            .find(|name| !all.iter().any(|(_, path)| ends_in(path, name)))
        {
            return Err(self.unknown(name, &all));
        }
        let named = |path: &str| names.iter().any(|name| ends_in(path, name));
        let found = all.iter().filter(|(_, path)| named(path));
        Ok(found.map(|(id, _)| *id).collect())
    }

    fn unknown(&self, name: &str, all: &[(ParamId, &str)]) -> ModelError {
        let mut short: Vec<&str> = Vec::new();
        for (_, path) in all {
            let last = path.rsplit('.').next().unwrap_or(path);
            if !short.contains(&last) {
                short.push(last);
            }
        }
        refused(format!(
            "target module {name:?} names no linear map that can be adapted\n\
             hint: the model has {}; or say all-linear",
            short.join(", ")
        ))
    }
}

impl<B: Backend> LanguageModel<B> {
    /// Freezes the model and gives it a fresh adapter drawn from `seed`.
    ///
    /// # Errors
    /// [`ModelError::Adapter`]: a name that matches nothing, a rank of 0, a tied matrix in `modules_to_save`, an adapter
    /// that is there already.
    pub fn attach_lora(&mut self, mut config: LoraConfig, seed: u64) -> Result<(), ModelError> {
        if self.lora.is_some() {
            return Err(refused(
                "the model has an adapter already\nhint: merge it first (unbraid merge)".into(),
            ));
        }
        let targets = config.targets(self.config.model_type(), &self.params.specs)?;
        if let TargetModules::Default | TargetModules::AllLinear = config.target_modules {
            // As PEFT: the file names what was adapted.
            let mut names: Vec<String> = Vec::new();
            for &id in &targets {
                let path = module(&self.params.specs[id.0]);
                let last = path.rsplit('.').next().unwrap_or(path).to_owned();
                if !names.contains(&last) {
                    names.push(last);
                }
            }
            config.target_modules = TargetModules::Names(names);
        }
        self.train_whole(&config.modules_to_save)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for id in targets {
            let path = module(&self.params.specs[id.0]).to_owned();
            let rank = by_pattern(&config.rank_pattern, &path, config.r)?;
            if rank == 0 {
                return Err(refused(format!(
                    "{path}: the rank is 0, expected at least 1"
                )));
            }
            let (d_out, d_in) = self.params.specs[id.0].out_in();
            let bound = 1.0 / (d_in as f64).sqrt();
            let a: Vec<f32> = (0..rank * d_in)
                .map(|_| ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32)
                .collect();
            let b = vec![0.0; d_out * rank];
            let scale = config.scale(&path, rank)?;
            self.add_adapter(id, rank, scale, config.dropout, (&a, &b));
        }
        self.lora = Some(config);
        Ok(())
    }

    /// Adds A and B of one linear map as parameters; freezes the base on the first call.
    fn add_adapter(
        &mut self,
        weight: ParamId,
        rank: usize,
        scale: f64,
        dropout: f64,
        (a, b): (&[f32], &[f32]),
    ) {
        let spec = self.params.specs[weight.0].clone();
        let (d_out, d_in) = spec.out_in();
        let path = module(&spec);
        let mut add = |part: &str, shape: Vec<usize>, data: &[f32]| {
            let spec = ParamSpec {
                name: format!("{path}.{part}.weight"),
                shape,
                transposed: false,
                group: spec.group.clone(),
                decay: true,
                init: Init::Zeros,
                kind: ParamKind::Adapter,
                learning_rate_factor: 1.0,
            };
            let value = self.backend.upload(data);
            self.params.push(spec, value)
        };
        let adapter = Adapter {
            a: add("lora_A", vec![rank, d_in], a),
            b: add("lora_B", vec![d_out, rank], b),
            rank,
            scale,
            dropout,
        };
        self.params.set_adapter(weight, adapter);
    }

    /// Freezes the base but for the modules named, of which the untrained values are kept for the reference.
    fn train_whole(&mut self, modules: &[String]) -> Result<(), ModelError> {
        self.params.freeze_base();
        let head = self.family().head();
        let tied = self.params.specs[head.0].group == "embedding";
        for name in modules {
            let matching: Vec<usize> = (0..self.params.specs.len())
                .filter(|&i| {
                    let spec = &self.params.specs[i];
                    let path = module(spec).strip_suffix(".bias").unwrap_or(module(spec));
                    spec.kind == ParamKind::Base && ends_in(path, name)
                })
                .collect();
            if tied && (name == "lm_head" || matching.contains(&head.0)) {
                return Err(refused(format!(
                    "modules_to_save: {name:?} shares its weight between embedding and head, and PEFT would untie them\n\
                     hint: leave it out"
                )));
            }
            if matching.is_empty() {
                return Err(refused(format!(
                    "modules_to_save: {name:?} names no module of the model"
                )));
            }
            for i in matching {
                self.params.train_copy(&self.backend, ParamId(i));
            }
        }
        Ok(())
    }

    /// The adapter's settings, if there is one.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// Says by which name the adapter's settings file should know the base.
    pub fn set_lora_base(&mut self, base_model: String) {
        if let Some(lora) = &mut self.lora {
            lora.base_model = base_model;
        }
    }

    /// Switches the adapter (with its `modules_to_save`) on or off; off, the model is its base.
    pub fn set_adapter_enabled(&mut self, on: bool) {
        self.params.switch_adapters(on);
    }

    /// Adds every adapter's product to the weight it adapts, W ← W + s·B A, and drops the adapter.
    pub fn merge_adapter(&mut self) {
        self.params.switch_adapters(true);
        for (weight, adapter) in self.params.take_adapters() {
            let (d_out, d_in) = self.params.specs[weight.0].out_in();
            let b = &*self.backend;
            // Frozen weights may be held in bfloat16.
            let mut merged = b.upload(&b.download(self.params.get(weight)));
            let shape = Gemm {
                alpha: adapter.scale,
                ..Gemm::add(d_out, d_in, adapter.rank)
            };
            b.gemm(
                shape,
                Mat::rows(self.params.get(adapter.b), 0, adapter.rank),
                Mat::rows(self.params.get(adapter.a), 0, d_in),
                MatMut::rows(&mut merged, 0, d_in),
            );
            self.params.values[weight.0] = merged;
        }
        self.lora = None;
    }
}
