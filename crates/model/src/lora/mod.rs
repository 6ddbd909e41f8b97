//! Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) as PEFT defines them.
//!
//! A linear map with an adapter computes y = x Wᵀ + b + s·drop(x) Aᵀ Bᵀ, A `[r, d_in]`, B `[d_out, r]`, s = α/r, or
//! α/√r with rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732). A starts uniform in ±1/√d_in (PyTorch's
//! Kaiming start with a = √5, as in PEFT), B at zero, so a fresh adapter changes nothing. Of a token embedding A `[r, V]` is
//! looked up like the table, starts at zero, and B at random. The base is frozen: its
//! weights get no gradient and no optimizer state. With the adapter off the model is its base again: that is the
//! reference policy.
//!
//! Adapters belong to [`Parameters`](crate::Parameters), found by the weight that they adapt, so a family's code
//! never mentions them. A matrix that is embedding and head may have one adapter as each; a module of it that is trained
//! whole unties the two, as in PEFT. Left out: DoRA, trained biases, adapters of learned positions. Names: `targets.rs`, files:
//! `file.rs`, bases that the adapter's start changed: `initial.rs`, the head: `../head.rs`. Tested against PEFT in
//! `crates/geometry/tests`.

mod file;
mod initial;
mod targets;

use crate::decoder::LanguageModel;
use crate::error::ModelError;
use crate::parameters::{Init, ParamId, ParamKind, ParamSpec};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};
use targets::{Pattern, by_pattern, ends_in, kept_whole, module, saved_as};
use unbraid_tensor::{Backend, Gemm, Mat, MatMut};

pub(crate) use file::remove_adapter;
pub use file::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
pub use initial::InitialBase;

/// The head's module in every family, as transformers 5 names it.
const HEAD: &str = "lm_head";

/// Which linear maps get an adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TargetModules {
    /// PEFT's choice for the model's type.
    #[default]
    Default,
    /// Every linear map but the head.
    AllLinear,
    /// Modules whose path is, or ends in `.` and, one of these.
    Names(Vec<String>),
    /// Modules whose whole path matches this regular expression; if none does, those that [`TargetModules::Names`] would
    /// mean by it.
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
    /// Modules trained whole and saved with the adapter, by the ends of their paths.
    pub modules_to_save: Vec<String>,
    /// Scale α/√r instead of α/r.
    pub use_rslora: bool,
    /// Other ranks for modules whose path ends in a match of the key; the first match counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other α likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether a tied matrix in `modules_to_save` stays tied.
    pub ensure_weight_tying: bool,
    /// What the adapter's start did to the base.
    pub initial_base: InitialBase,
    /// The settings file as read, for the keys that are written back unchanged.
    pub raw: Map<String, Value>,
}

impl Default for LoraConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        LoraConfig {
            base_model: String::new(),
            r: 8,
            alpha: 8.0,
            dropout: 0.0,
            target_modules: TargetModules::Default,
            modules_to_save: Vec::new(),
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            ensure_weight_tying: false,
            initial_base: InitialBase::Kept,
            raw: Map::new(),
        }
    }
}

/// The adapter of one linear map, or of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    /// A, `[r, d_in]`; of a table `[r, V]`, held turned.
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

impl Adapter {
    /// A seed of its own for every linear map; none where nothing is dropped.
    pub(crate) fn dropout_seed(&self, weight: ParamId, seed: Option<u64>) -> Option<u64> {
        let own = (weight.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        seed.filter(|_| self.dropout > 0.0).map(|s| s ^ own)
    }
}

/// What can have an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Site {
    /// A linear map inside a block.
    Linear(ParamId),
    /// The token embedding.
    Table,
    /// The head.
    Head,
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

impl LoraConfig {
    /// The adapter's factor s for a module of rank `rank`.
    fn scale(&self, path: &str, rank: usize) -> Result<f64, ModelError> {
        let alpha = by_pattern(&self.alpha_pattern, path, self.alpha)?;
        let rank = rank as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }

    /// The names that the configuration gives or means, as names of their ends.
    fn names(&self, model_type: &str) -> Result<Vec<String>, ModelError> {
        match &self.target_modules {
            TargetModules::Names(names) => Ok(names.clone()),
            TargetModules::Pattern(one) => Ok(vec![one.clone()]),
            TargetModules::AllLinear => Ok(Vec::new()),
            TargetModules::Default => DEFAULT_TARGETS
                .iter()
                .find(|(kind, _)| *kind == model_type)
                .map(|(_, names)| names.iter().map(|&n| n.to_owned()).collect())
                .ok_or_else(|| {
                    refused(format!(
                        "no default target modules are known for model type {model_type:?}\n\
                         hint: name them in lora_target_modules, or say all-linear"
                    ))
                }),
        }
    }

    /// The modules that the configuration names, in the model's order.
    fn targets(
        &self,
        model_type: &str,
        specs: &[ParamSpec],
        all: &[(Site, &str)],
    ) -> Result<Vec<Site>, ModelError> {
        let whole = |path: &str| {
            self.modules_to_save
                .iter()
                .any(|name| kept_whole(path, name))
        };
        let mut found = Vec::new();
        if let TargetModules::Pattern(text) = &self.target_modules {
            let pattern = Pattern::whole(text)?;
            for (site, path) in all {
                if pattern.matches(path)? {
                    found.push((*site, *path));
                }
            }
            let candidates: Vec<&str> = all.iter().map(|(_, path)| *path).collect();
            if let Some(other) = targets::hits_other_modules(&pattern, specs, &candidates)? {
                return Err(refused(format!(
                    "target pattern {text:?} matches {other}, which is no linear map and no token embedding\n\
                     hint: let it end in the names of linear maps, as in '.*\\.(q|v)_proj'"
                )));
            }
        }
        if found.is_empty() {
            let names = self.names(model_type)?;
            let unknown = names
                .iter()
                .find(|name| !all.iter().any(|(_, path)| ends_in(path, name)));
            if let Some(name) = unknown {
                return Err(unknown_target(name, all));
            }
            let linear = |site: &Site| {
                self.target_modules == TargetModules::AllLinear && matches!(site, Site::Linear(_))
            };
            let named = |path: &str| names.iter().any(|name| ends_in(path, name));
            found = all
                .iter()
                .filter(|(site, path)| linear(site) || named(path))
                .copied()
                .collect();
        }
        found.retain(|(_, path)| !whole(path));
        if found.is_empty() {
            return Err(refused(
                "modules_to_save keeps whole whatever the target modules name".into(),
            ));
        }
        Ok(found.into_iter().map(|(site, _)| site).collect())
    }
}

fn unknown_target(name: &str, all: &[(Site, &str)]) -> ModelError {
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

impl<B: Backend> LanguageModel<B> {
    /// Everything that can have an adapter, with its module's path.
    fn sites(&self) -> Vec<(Site, String)> {
        let specs = &self.params.specs;
        let mut all = vec![(
            Site::Table,
            module(&specs[self.family().table().0]).to_owned(),
        )];
        let linear = specs.iter().enumerate().filter(|(_, s)| s.adaptable());
        all.extend(linear.map(|(i, s)| (Site::Linear(ParamId(i)), module(s).to_owned())));
        all.push((Site::Head, HEAD.to_owned()));
        all
    }

    /// Freezes the model and gives it a fresh adapter drawn from `seed`.
    ///
    /// # Errors
    /// [`ModelError::Adapter`]: a name that matches nothing, a rank of 0, a module that would be both adapted and trained
    /// whole, an adapter that is there already.
    pub fn attach_lora(&mut self, mut config: LoraConfig, seed: u64) -> Result<(), ModelError> {
        if self.lora.is_some() {
            return Err(refused(
                "the model has an adapter already\nhint: merge it first (unbraid merge)".into(),
            ));
        }
        self.today_s_names(&mut config);
        let sites = self.sites();
        let all: Vec<(Site, &str)> = sites.iter().map(|(s, path)| (*s, &**path)).collect();
        let targets = config.targets(self.config.model_type(), &self.params.specs, &all)?;
        self.name_targets(&mut config, &targets, &all)?;
        self.train_whole(&config)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for site in targets {
            let path = self.path(site);
            self.refuse_both(&path, site)?;
            let rank = by_pattern(&config.rank_pattern, &path, config.r)?;
            if rank == 0 {
                return Err(refused(format!(
                    "{path}: the rank is 0, expected at least 1"
                )));
            }
            let (a, b) = self.fresh(site, rank, &mut rng);
            let scale = config.scale(&path, rank)?;
            self.add_adapter(site, rank, scale, config.dropout, (&a, &b));
        }
        self.lora = Some(config);
        Ok(())
    }

    /// The module's path.
    fn path(&self, site: Site) -> String {
        match site {
            Site::Head => HEAD.to_owned(),
            _ => module(&self.params.specs[self.weight(site).0]).to_owned(),
        }
    }

    /// The matrix that is adapted.
    fn weight(&self, site: Site) -> ParamId {
        match site {
            Site::Linear(weight) => weight,
            Site::Table => self.family().table(),
            Site::Head => self.head(),
        }
    }

    /// (d_out, d_in): of a table, which is looked up, (D, V).
    fn out_in(&self, site: Site) -> (usize, usize) {
        let (d_out, d_in) = self.params.specs[self.weight(site).0].out_in();
        match site {
            Site::Table => (d_in, d_out),
            _ => (d_out, d_in),
        }
    }

    /// Names of modules that checkpoints and older programs have, as transformers 5 has them.
    fn today_s_names(&self, config: &mut LoraConfig) {
        let rename = |name: &mut String| *name = targets::head_alias(name).to_owned();
        if let TargetModules::Names(names) = &mut config.target_modules {
            names.iter_mut().for_each(rename);
        }
        config.modules_to_save.iter_mut().for_each(rename);
    }

    /// Lets the settings name what was adapted, as PEFT does: readers know neither our defaults nor our shorthand.
    fn name_targets(
        &self,
        config: &mut LoraConfig,
        targets: &[Site],
        all: &[(Site, &str)],
    ) -> Result<(), ModelError> {
        if let TargetModules::Pattern(text) = &config.target_modules {
            let pattern = Pattern::whole(text)?;
            for (_, path) in all {
                if pattern.matches(path)? {
                    return Ok(());
                }
            }
            config.target_modules = TargetModules::Names(vec![text.clone()]);
        }
        if let TargetModules::Default | TargetModules::AllLinear = config.target_modules {
            let mut names: Vec<String> = Vec::new();
            for &site in targets {
                let path = self.path(site);
                let last = path.rsplit('.').next().unwrap_or(&path).to_owned();
                if !names.contains(&last) {
                    names.push(last);
                }
            }
            config.target_modules = TargetModules::Names(names);
        }
        Ok(())
    }

    /// Values that a fresh adapter starts from, A and B in the files' orientation.
    fn fresh(&self, site: Site, rank: usize, rng: &mut ChaCha8Rng) -> (Vec<f32>, Vec<f32>) {
        let (d_out, d_in) = self.out_in(site);
        if site == Site::Table {
            let mut normal = || {
                // Box-Muller: two uniforms make one normal.
                let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
            };
            let b = (0..d_out * rank).map(|_| normal() as f32).collect();
            return (vec![0.0; rank * d_in], b);
        }
        let bound = 1.0 / (d_in as f64).sqrt();
        let a = (0..rank * d_in)
            .map(|_| ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32)
            .collect();
        (a, vec![0.0; d_out * rank])
    }

    /// Adds A and B of one module as parameters.
    fn add_adapter(
        &mut self,
        site: Site,
        rank: usize,
        scale: f64,
        dropout: f64,
        (a, b): (&[f32], &[f32]),
    ) {
        let (path, weight) = (self.path(site), self.weight(site));
        let (d_out, d_in) = self.out_in(site);
        let group = match site {
            Site::Head => "head".to_owned(),
            _ => self.params.specs[weight.0].group.clone(),
        };
        let (a_name, b_name) = match site {
            Site::Table => ("lora_embedding_A", "lora_embedding_B"),
            _ => ("lora_A.weight", "lora_B.weight"),
        };
        let mut add = |part: &str, shape: Vec<usize>, data: &[f32], transposed: bool| {
            let spec = ParamSpec {
                name: format!("{path}.{part}"),
                shape,
                transposed,
                group: group.clone(),
                decay: true,
                init: Init::Zeros,
                kind: ParamKind::Adapter,
                learning_rate_factor: 1.0,
            };
            let value = self.backend.upload(data);
            let id = self.params.push(spec, value);
            if transposed {
                self.params.import(&self.backend, id, data);
            }
            id
        };
        let adapter = Adapter {
            a: add(a_name, vec![rank, d_in], a, site == Site::Table),
            b: add(b_name, vec![d_out, rank], b, false),
            rank,
            scale,
            dropout,
        };
        match site {
            Site::Table => self.params.set_lookup_adapter(weight, adapter),
            _ => self.params.set_adapter(weight, adapter),
        }
        if site == Site::Head {
            self.params.widen(&self.backend, weight); // it is joined to B
        }
    }

    /// An error where a module that is to be adapted is trained whole as well.
    fn refuse_both(&self, path: &str, site: Site) -> Result<(), ModelError> {
        match self.params.is_trainable(self.weight(site)) {
            true => Err(refused(format!(
                "{path} is named by the target modules and, by its end, by modules_to_save\n\
                 hint: adapt it or train it whole"
            ))),
            false => Ok(()),
        }
    }

    /// Freezes the base but for the modules that `modules_to_save` names, of which the untrained values are kept for the
    /// reference. A tied matrix named as one of its two modules is untied, unless `ensure_weight_tying`.
    fn train_whole(&mut self, config: &LoraConfig) -> Result<(), ModelError> {
        self.params.freeze_base();
        let table_path = self.path(Site::Table);
        let names_head = |name: &String| saved_as(HEAD, name);
        let names_table = |name: &String| saved_as(&table_path, name);
        let saved = &config.modules_to_save;
        let (head, table) = (saved.iter().any(names_head), saved.iter().any(names_table));
        let mut trained = Vec::new();
        if self.tied() && (head || table) {
            if config.ensure_weight_tying {
                trained.push(self.head());
            } else {
                self.untie();
            }
        }
        for name in saved {
            let before = trained.len();
            for (i, spec) in self.params.specs.iter().enumerate() {
                let own = spec.kind == ParamKind::Base && saved_as(module(spec), name);
                if own && (!self.tied() || ParamId(i) != self.head()) {
                    trained.push(ParamId(i));
                }
            }
            let tied = self.tied() && (names_head(name) || names_table(name));
            if trained.len() == before && !tied {
                return Err(refused(format!(
                    "modules_to_save: {name:?} names no module of the model"
                )));
            }
        }
        for id in trained {
            self.params.train_copy(&self.backend, id);
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

    /// Adds every adapter's product to the weight it adapts, W ← W + s·B A, and drops the adapter. Where embedding and head
    /// were one matrix and only one of them is changed, they are two afterwards.
    pub fn merge_adapter(&mut self) {
        self.params.switch_adapters(true);
        let (head, table) = (self.head(), self.family().table());
        let lookup = self.params.take_lookup_adapter();
        if self.tied() && (lookup.is_some() || self.params.adapter(head).is_some()) {
            self.untie();
        }
        let as_head = self.params.take_adapters();
        for (weight, adapter) in as_head {
            let factors = (adapter.b, adapter.a);
            self.merge_product(weight, adapter, factors);
        }
        if let Some((_, adapter)) = lookup {
            self.merge_product(table, adapter, (adapter.a, adapter.b));
        }
        self.lora = None;
    }

    /// W ← W + s·X Y of a matrix `[rows, columns]`, X `[rows, r]`; Y is A `[r, columns]` or, of a table, B `[columns, r]`.
    fn merge_product(&mut self, weight: ParamId, adapter: Adapter, (x, y): (ParamId, ParamId)) {
        let (rows, columns) = self.params.specs[weight.0].out_in();
        let b = &*self.backend;
        // Frozen weights may be held in bfloat16.
        let mut merged = b.upload(&b.download(self.params.get(weight)));
        let shape = Gemm {
            alpha: adapter.scale,
            ..Gemm::add(rows, columns, adapter.rank)
        };
        let y = match y == adapter.a {
            true => Mat::rows(self.params.get(y), 0, columns),
            false => Mat::rows(self.params.get(y), 0, adapter.rank).t(),
        };
        b.gemm(
            shape,
            Mat::rows(self.params.get(x), 0, adapter.rank),
            y,
            MatMut::rows(&mut merged, 0, columns),
        );
        self.params.values[weight.0] = merged;
    }
}
