//! Adapters in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! Tensors are named `base_model.model.<module>.lora_A.weight` and `….lora_B.weight`, of a token embedding
//! `….lora_embedding_A` and `….lora_embedding_B`; modules trained whole go by their own names behind the same prefix.
//! Embeddings that PEFT stores beside the adapter (`….base_layer.weight`, or their own names) replace the base's. Which
//! modules an adapter touches is read from the tensors, so `layers_to_transform`, `exclude_modules` and the like need no rules
//! here and are written back as read; α comes from the configuration. What would change the arithmetic and is not
//! implemented (DoRA, trained biases, …) is refused by name. Base weights that the adapter's start changed are changed again
//! (`initial.rs`).

use super::initial::InitialBase;
use super::targets::{head_alias, module};
use super::{HEAD, LoraConfig, Site, TargetModules};
use crate::decoder::LanguageModel;
use crate::error::ModelError;
use crate::parameters::{ParamId, ParamKind, ParamSpec};
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
        let pattern = |key: &str| -> Result<Vec<(String, f64)>, ModelError> {
            let map = match json.get(key) {
                Some(Value::Object(map)) => map.clone(),
                _ => Map::new(),
            };
            map.into_iter()
                .map(|(k, v)| Ok((k, v.as_f64().ok_or_else(|| wrong(key, "numbers"))?)))
                .collect()
        };
        let ranks = pattern("rank_pattern")?;
        if let Some((module, rank)) = ranks.iter().find(|(_, r)| *r < 1.0 || r.fract() != 0.0) {
            return Err(fail(format!(
                "\"rank_pattern\" gives {module:?} the rank {rank}, expected a whole number of at least 1"
            )));
        }
        let flag = |key: &str| json.get(key) == Some(&Value::Bool(true));
        let initial_base = InitialBase::read(json.get("init_lora_weights")).map_err(|reason| {
            let found = json.get("init_lora_weights").cloned().unwrap_or_default();
            fail(format!(
                "\"init_lora_weights\" = {found} is refused: {reason}"
            ))
        })?;
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
            use_rslora: flag("use_rslora"),
            rank_pattern: ranks.into_iter().map(|(k, v)| (k, v as usize)).collect(),
            alpha_pattern: pattern("alpha_pattern")?,
            ensure_weight_tying: flag("ensure_weight_tying"),
            initial_base,
            raw: json.clone(),
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
        let ranks: Map<String, Value> = self.rank_pattern.iter().map(pair).collect();
        let alphas: Map<String, Value> = self.alpha_pattern.iter().map(pair).collect();
        let own = json!({
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
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "ensure_weight_tying": self.ensure_weight_tying,
        });
        let mut all = self.raw.clone();
        all.entry("init_lora_weights").or_insert(Value::Bool(true));
        if let Value::Object(own) = own {
            all.extend(own);
        }
        Value::Object(all)
    }
}

/// An entry of a pattern as JSON.
fn pair<T: Clone + Into<Value>>((key, value): &(String, T)) -> (String, Value) {
    (key.clone(), value.clone().into())
}

/// The name of a parameter in an adapter's file.
fn stored_name(spec: &ParamSpec) -> String {
    let part = &spec.name[module_len(spec)..];
    format!("{PREFIX}{}{part}", module(spec))
}

/// Length of the module's path in the parameter's own name.
fn module_len(spec: &ParamSpec) -> usize {
    let ends = [".weight", ".bias"].iter();
    let end = ends
        .filter(|end| spec.name.ends_with(**end))
        .map(|e| e.len());
    spec.name.len() - end.max().unwrap_or(0)
}

/// What a tensor of an adapter's file is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stored {
    /// A and B of a linear map.
    Product,
    /// A and B of a table.
    Lookup,
    /// A weight of the base, stored beside its adapter.
    Beneath,
    /// Any other parameter.
    Whole,
}

/// Kind and module (of a whole parameter, the name) of a tensor.
fn kind_of(inner: &str) -> (Stored, String) {
    let ends = [
        (".lora_A.weight", Stored::Product),
        (".lora_B.weight", Stored::Product),
        (".lora_embedding_A", Stored::Lookup),
        (".lora_embedding_B", Stored::Lookup),
        (".base_layer.weight", Stored::Beneath),
    ];
    let found = ends.into_iter().find_map(|(end, kind)| {
        let path = inner.strip_suffix(end)?;
        Some((kind, head_alias(path).to_owned()))
    });
    found.unwrap_or_else(|| {
        let whole = match inner.strip_prefix("embed_out.") {
            Some(part) => format!("{HEAD}.{part}"),
            None => inner.to_owned(),
        };
        (Stored::Whole, whole)
    })
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
            (stored_name(spec), spec.shape.clone())
        };
        let mut tensors: Vec<_> = trained.iter().map(describe).collect();
        if self.tied() && self.params.is_trainable(self.head()) {
            // PEFT looks for both of the tied modules.
            tensors.push((
                format!("{PREFIX}{HEAD}.weight"),
                self.params.specs[self.head().0].shape.clone(),
            ));
        }
        let fetch = |i: usize| {
            let id = trained.get(i).copied().unwrap_or(self.head());
            Ok(self.params.export(&self.backend, id))
        };
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
        // Kind and module, with the tensor's name or, of A and B, the part before theirs.
        let mut stored: BTreeMap<(Stored, String), String> = BTreeMap::new();
        for name in weights.names() {
            let inner = name.strip_prefix(PREFIX).unwrap_or(name);
            let key = kind_of(inner);
            let short = match key.0 {
                Stored::Product | Stored::Lookup => name.rfind(".lora_").unwrap_or(name.len()),
                Stored::Beneath | Stored::Whole => name.len(),
            };
            stored.insert(key, name[..short].to_owned());
        }
        self.train_whole(&config)?;
        let mut missing = self.whole_names();
        // Weights of the base come first: some adapters change them once more.
        let base = |kind: &Stored| matches!(kind, Stored::Beneath | Stored::Whole);
        for ((kind, module), name) in stored.iter().filter(|((kind, _), _)| base(kind)) {
            let spec_name = match kind {
                Stored::Beneath => format!("{module}.weight"),
                _ => module.clone(),
            };
            missing.remove(&spec_name);
            let id = self.stored_parameter(&spec_name).ok_or_else(|| {
                fail(format!(
                    "tensor {name} belongs to no module that modules_to_save names"
                ))
            })?;
            let shape = self.params.specs[id.0].shape.clone();
            let data = weights.read_f32(name, &shape)?;
            self.params.import(&self.backend, id, &data);
        }
        if let Some(name) = missing.first() {
            return Err(fail(format!(
                "tensor {PREFIX}{name} is missing, of a module that modules_to_save names"
            )));
        }
        for ((kind, module), stem) in stored.iter().filter(|((kind, _), _)| !base(kind)) {
            self.load_product(&config, &weights, *kind == Stored::Lookup, module, stem)
                .map_err(|error| match error {
                    ModelError::Adapter { detail, .. } => fail(detail),
                    other => other,
                })?;
        }
        self.lora = Some(config);
        Ok(())
    }

    /// Names of the parameters that are trained whole, as the file has them.
    fn whole_names(&self) -> BTreeSet<String> {
        let trained = self.params.trainable().map(|id| &self.params.specs[id.0]);
        let own = trained.filter(|spec| spec.kind == ParamKind::Base);
        own.map(|spec| stored_name(spec)[PREFIX.len()..].to_owned())
            .collect()
    }

    /// The parameter that a stored tensor of the base replaces: one that is trained whole, the embedding or the head.
    fn stored_parameter(&self, name: &str) -> Option<ParamId> {
        if name.strip_suffix(".weight") == Some(HEAD) {
            return Some(self.head());
        }
        let specs = self.params.specs.iter();
        let id = specs
            .map(stored_name)
            .position(|own| own[PREFIX.len()..] == *name);
        let id = ParamId(id?);
        (self.params.is_trainable(id) || id == self.family().table()).then_some(id)
    }

    /// Reads A and B of one module and gives it its adapter.
    fn load_product(
        &mut self,
        config: &LoraConfig,
        weights: &Weights,
        lookup: bool,
        path: &str,
        stem: &str,
    ) -> Result<(), ModelError> {
        let fail = super::refused;
        let (a_name, b_name) = match lookup {
            true => (
                format!("{stem}.lora_embedding_A"),
                format!("{stem}.lora_embedding_B"),
            ),
            false => (
                format!("{stem}.lora_A.weight"),
                format!("{stem}.lora_B.weight"),
            ),
        };
        let sites = self.sites();
        let site = sites
            .iter()
            .find(|(site, own)| own == path && lookup == (*site == Site::Table));
        let Some(&(site, _)) = site else {
            return Err(fail(format!(
                "tensor {a_name} adapts a module that the base model does not have\n\
                 hint: adapter and base model do not belong together"
            )));
        };
        self.refuse_both(path, site)?;
        let (d_out, d_in) = self.out_in(site);
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
        let b = weights.read_f32(&b_name, &[d_out, rank])?;
        let scale = config.scale(path, rank)?;
        if !lookup {
            self.restore_base(config.initial_base, self.weight(site), rank, scale)?;
        }
        self.add_adapter(site, rank, scale, config.dropout, (&a, &b));
        Ok(())
    }

    /// Changes a weight of the base as the adapter's start did.
    fn restore_base(
        &mut self,
        initial: InitialBase,
        weight: ParamId,
        rank: usize,
        scale: f64,
    ) -> Result<(), ModelError> {
        let spec = &self.params.specs[weight.0];
        if initial == InitialBase::Olora && spec.transposed {
            return Err(super::refused(
                "\"init_lora_weights\" = \"olora\" on GPT-2's Conv1D, where PEFT mixes up the weight's two sides, is not supported"
                    .into(),
            ));
        }
        let (d_out, d_in) = spec.out_in();
        if initial != InitialBase::Kept {
            let own = self.backend.download(self.params.get(weight));
            if let Some(base) = initial.residual(&own, [d_out, d_in], rank, scale)? {
                self.params.values[weight.0] = self.backend.upload(&base);
            }
        }
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
                let name = match self.lora {
                    Some(_) => stored_name(spec),
                    None => spec.name.clone(),
                };
                weights.read_f32(&name, &spec.shape)?
            };
            self.params.import(&self.backend, id, &data);
        }
        Ok(())
    }
}
