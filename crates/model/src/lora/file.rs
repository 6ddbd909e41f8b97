//! Adapters in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! Tensors are named `base_model.model.<module>.lora_A.weight` and `….lora_B.weight`; modules trained whole go by
//! their own names behind the same prefix. Which modules an adapter touches is read from the tensors, so
//! `layers_to_transform` and the like need no rules here; α comes from the configuration. What would change the
//! arithmetic and is not implemented (DoRA, trained biases, …) is refused by name.

use super::{LoraConfig, TargetModules, module};
use crate::decoder::LanguageModel;
use crate::error::ModelError;
use crate::parameters::{ParamId, ParamKind};
use crate::weights::{
    StoredDtype, Weights, read_text_capped, save_safetensors_file, write_file_atomic,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use unbraid_tensor::Backend;

/// File of an adapter's settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// File of an adapter's weights.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// File of what a run trains beside the model.
const EXTRAS: &str = "token_mask.safetensors";
const PREFIX: &str = "base_model.model.";
/// Longest settings file that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Settings that change the arithmetic, with the values under which they do not.
#[rustfmt::skip]
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("use_dora", &["false"]),
    ("lora_bias", &["false"]),
    ("bias", &["\"none\""]),
    ("layer_replication", &[]),
    ("trainable_token_indices", &[]),
    ("target_parameters", &["[]"]),
    ("alora_invocation_tokens", &[]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["false"]),
    ("arrow_config", &[]),
    ("kasa_config", &[]),
    ("monteclora_config", &[]),
    ("velora_config", &[]),
];

/// Removes an adapter's files from a directory that now holds a whole model: readers would prefer the adapter.
pub(crate) fn remove_adapter(dir: &Path) -> Result<(), ModelError> {
    for name in [ADAPTER_CONFIG, ADAPTER_WEIGHTS] {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(ModelError::Io {
                    action: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

impl LoraConfig {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] naming file and key.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(ADAPTER_CONFIG);
        let origin = path.display().to_string();
        let fail = |detail: String| ModelError::Adapter {
            origin: origin.clone(),
            detail,
        };
        let text = read_text_capped(&path, MAX_CONFIG_BYTES)?;
        let json: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| fail(format!("not a valid JSON object: {e}")))?;
        let wrong = |key: &str, expected: &str| {
            let found = json.get(key).cloned().unwrap_or_default();
            fail(format!("\"{key}\" is {found}, expected {expected}"))
        };
        let kind = json.get("peft_type").and_then(Value::as_str);
        if kind != Some("LORA") {
            return Err(wrong("peft_type", "\"LORA\""));
        }
        for (key, neutral) in UNSUPPORTED {
            match json.get(*key) {
                None | Some(Value::Null) => {}
                Some(value) if neutral.contains(&value.to_string().as_str()) => {}
                Some(value) => return Err(fail(format!("\"{key}\" = {value} is not supported"))),
            }
        }
        let number = |key: &str, default: f64| match json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| wrong(key, "a number")),
        };
        let strings = |key: &str| match json.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) => values
                .iter()
                .map(|v| v.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| wrong(key, "a list of names")),
            Some(_) => Err(wrong(key, "a list of names")),
        };
        let r = number("r", 8.0)?;
        if r < 1.0 || r.fract() != 0.0 {
            return Err(wrong("r", "a whole number of at least 1"));
        }
        let pattern = |key: &str| -> Result<BTreeMap<String, f64>, ModelError> {
            let map = match json.get(key) {
                Some(Value::Object(map)) => map.clone(),
                _ => Map::new(),
            };
            map.into_iter()
                .map(|(k, v)| Ok((k, v.as_f64().ok_or_else(|| wrong(key, "numbers"))?)))
                .collect()
        };
        let ranks = pattern("rank_pattern")?;
        Ok(LoraConfig {
            base_model: json
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            r: r as usize,
            alpha: number("lora_alpha", 8.0)?,
            dropout: number("lora_dropout", 0.0)?,
            target_modules: match json.get("target_modules") {
                Some(Value::String(all)) if all == "all-linear" => TargetModules::AllLinear,
                Some(Value::String(text)) => TargetModules::Pattern(text.clone()),
                _ => TargetModules::Names(strings("target_modules")?),
            },
            modules_to_save: strings("modules_to_save")?,
            use_rslora: json.get("use_rslora") == Some(&Value::Bool(true)),
            rank_pattern: ranks.into_iter().map(|(k, v)| (k, v as usize)).collect(),
            alpha_pattern: pattern("alpha_pattern")?,
        })
    }

    /// As PEFT writes it. `transposed`: the base stores its weights `[in, out]` (GPT-2's `Conv1D`).
    fn to_json(&self, transposed: bool) -> Value {
        let targets = match &self.target_modules {
            TargetModules::AllLinear => json!("all-linear"),
            TargetModules::Pattern(text) => json!(text),
            TargetModules::Names(names) => json!(names),
            TargetModules::Default => Value::Null,
        };
        let saved = (!self.modules_to_save.is_empty()).then_some(&self.modules_to_save);
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model,
            "inference_mode": true,
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": targets,
            "modules_to_save": saved,
            "use_rslora": self.use_rslora,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": transposed,
            "init_lora_weights": true,
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
        })
    }
}

impl<B: Backend> LanguageModel<B> {
    /// Writes the adapter into `dir`, in float32.
    pub(crate) fn save_adapter(&self, config: &LoraConfig, dir: &Path) -> Result<(), ModelError> {
        let trained: Vec<ParamId> = self
            .params
            .trainable()
            .filter(|id| self.params.specs[id.0].kind != ParamKind::Extra)
            .collect();
        let describe = |id: &ParamId| {
            let spec = &self.params.specs[id.0];
            (format!("{PREFIX}{}", spec.name), spec.shape.clone())
        };
        let tensors: Vec<_> = trained.iter().map(describe).collect();
        let fetch = |i: usize| Ok(self.params.export(&self.backend, trained[i]));
        let path = dir.join(ADAPTER_WEIGHTS);
        std::fs::create_dir_all(dir).map_err(|source| ModelError::Io {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        save_safetensors_file(&path, &tensors, fetch, StoredDtype::F32)?;
        let adapted = self.params.specs.iter().find(|s| s.adaptable());
        let json = config.to_json(adapted.is_some_and(|s| s.transposed));
        let text = format!("{json:#}\n");
        write_file_atomic(&dir.join(ADAPTER_CONFIG), text.as_bytes())
    }

    /// Gives the model the adapter in `dir`, which PEFT or this program wrote; the base is frozen.
    ///
    /// # Errors
    /// [`ModelError`]: settings that are not supported, tensors that do not fit the model.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<(), ModelError> {
        let config = LoraConfig::read(dir)?;
        let path = dir.join(ADAPTER_WEIGHTS);
        let fail = |detail: String| ModelError::Adapter {
            origin: path.display().to_string(),
            detail,
        };
        if !path.is_file() && dir.join("adapter_model.bin").is_file() {
            return Err(fail(
                "missing; adapter_model.bin is a pickle, which is a program, and is not read\n\
                 hint: save the adapter again with safe_serialization=True"
                    .into(),
            ));
        }
        if self.lora.is_some() {
            return Err(fail("the model has an adapter already".into()));
        }
        let weights = Weights::open(&path)?;
        let mut adapted = BTreeSet::new();
        let mut whole = BTreeSet::new();
        for name in weights.names() {
            let inner = name.strip_prefix(PREFIX).unwrap_or(name);
            let low_rank = [".lora_A.weight", ".lora_B.weight"];
            match low_rank.iter().find_map(|end| inner.strip_suffix(end)) {
                Some(path) => adapted.insert((path.to_owned(), name.len() - inner.len())),
                None => whole.insert((inner.to_owned(), name.len() - inner.len())),
            };
        }
        self.train_whole(&config.modules_to_save)?;
        for (path, prefix) in &adapted {
            let prefix = &PREFIX[..*prefix];
            let weight = (0..self.params.specs.len())
                .map(ParamId)
                .find(|id| {
                    let spec = &self.params.specs[id.0];
                    spec.adaptable() && module(spec) == path
                })
                .ok_or_else(|| {
                    fail(format!(
                        "tensor {prefix}{path}.lora_A.weight adapts a module that the base model does not have\n\
                         hint: adapter and base model do not belong together"
                    ))
                })?;
            let (d_out, d_in) = self.params.specs[weight.0].out_in();
            let a_name = format!("{prefix}{path}.lora_A.weight");
            let rank = match weights.shape(&a_name) {
                Some(&[rank, _]) if rank > 0 => rank,
                Some(shape) => {
                    let shape = shape.to_vec();
                    return Err(fail(format!(
                        "tensor {a_name} has shape {shape:?}, expected [r, {d_in}] with r at least 1"
                    )));
                }
                None => config.r,
            };
            let a = weights.read_f32(&a_name, &[rank, d_in])?;
            let b = weights.read_f32(&format!("{prefix}{path}.lora_B.weight"), &[d_out, rank])?;
            let scale = config.scale(path, rank)?;
            self.add_adapter(weight, rank, scale, config.dropout, (&a, &b));
        }
        for (name, prefix) in &whole {
            // Tied heads are listed by PEFT although nobody trains them.
            let own = self
                .params
                .find(name)
                .filter(|&id| self.params.is_trainable(id));
            let id = own.ok_or_else(|| {
                fail(format!(
                    "tensor {name} belongs to no module that modules_to_save names"
                ))
            })?;
            let shape = self.params.specs[id.0].shape.clone();
            let data = weights.read_f32(&format!("{}{name}", &PREFIX[..*prefix]), &shape)?;
            self.params.import(&self.backend, id, &data);
        }
        self.lora = Some(config);
        Ok(())
    }

    /// Writes what was trained beside the model, if anything.
    pub(crate) fn save_extras(&self, dir: &Path) -> Result<(), ModelError> {
        let extras: Vec<ParamId> = self.params.of_kind(ParamKind::Extra).collect();
        if extras.is_empty() {
            return Ok(());
        }
        let describe = |id: &ParamId| {
            let spec = &self.params.specs[id.0];
            (spec.name.clone(), spec.shape.clone())
        };
        let tensors: Vec<_> = extras.iter().map(describe).collect();
        let fetch = |i: usize| Ok(self.params.export(&self.backend, extras[i]));
        save_safetensors_file(&dir.join(EXTRAS), &tensors, fetch, StoredDtype::F32)
    }

    /// Reads the trainable parameters back from a directory that [`LanguageModel::save`] wrote for this same
    /// model: weights, adapter, and what is trained beside them.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape, with file and name.
    pub fn restore(&mut self, dir: &Path) -> Result<(), ModelError> {
        let main = match self.lora {
            Some(_) => dir.join(ADAPTER_WEIGHTS),
            None => dir.to_owned(),
        };
        let prefix = if self.lora.is_some() { PREFIX } else { "" };
        let weights = Weights::open(&main)?;
        let trained: Vec<ParamId> = self.params.trainable().collect();
        let mut extras = None;
        for id in trained {
            let spec = &self.params.specs[id.0];
            let data = if spec.kind == ParamKind::Extra {
                if extras.is_none() {
                    extras = Some(Weights::open(&dir.join(EXTRAS))?);
                }
                let opened = extras.as_ref().expect("opened just now");
                opened.read_f32(&spec.name, &spec.shape)?
            } else {
                weights.read_f32(&format!("{prefix}{}", spec.name), &spec.shape)?
            };
            self.params.import(&self.backend, id, &data);
        }
        Ok(())
    }
}
