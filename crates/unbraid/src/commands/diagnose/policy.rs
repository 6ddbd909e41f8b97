//! The model whose gradients are taken, and the reference's log-probs.

use super::data::{Data, Survey};
use crate::cli::{DiagnoseConfig, LoraArgs, Parameters};
use crate::commands::device::Machine;
use crate::commands::load::{self, Source};
use crate::commands::{Interrupt, adapt, cache, progress, train, usage};
use anyhow::{Context, Result};
use unbraid_model::{LanguageModel, Storage};
use unbraid_preference::TokenizedSequence;
use unbraid_tensor::Backend as _;
use unbraid_train::{ReferenceCache, score_reference};

/// The parameters to measure over, where the options leave it open.
pub(super) fn parameters(config: &DiagnoseConfig, source: &Source) -> Parameters {
    let adapted = source.adapter.is_some() || config.lora.use_peft;
    let default = match adapted {
        true => Parameters::Lora,
        false => Parameters::All,
    };
    config.parameters.unwrap_or(default)
}

/// Reads the model with the adapter it has or is to get; a merged one is merged by [`prepare`].
pub(super) fn load(
    config: &DiagnoseConfig,
    source: &Source,
    parameters: Parameters,
) -> Result<LanguageModel<Machine>> {
    match (parameters, &source.adapter) {
        (Parameters::All, None) => load::model(source),
        (Parameters::All, Some(adapter)) => {
            let mut model = load::base(source, Storage::Float32)?;
            model.load_adapter(adapter)?;
            Ok(model)
        }
        (Parameters::Lora, adapter) => {
            let lora = LoraArgs {
                use_peft: adapter.is_none() || config.lora.use_peft,
                ..config.lora.clone()
            };
            let mut model = adapt::base(source, &config.model, &lora)?;
            adapt::attach(&mut model, source, &lora, config.model.seed)?;
            Ok(model)
        }
    }
}

/// Merges an adapter where all parameters are measured.
pub(super) fn prepare(model: &mut LanguageModel<Machine>, source: &Source, parameters: Parameters) {
    if let (Parameters::All, Some(adapter)) = (parameters, &source.adapter) {
        note!(
            "{} is merged into its base, and the merged model's parameters are measured",
            adapter.display()
        );
        model.merge_adapter();
    }
}

/// Refuses heat maps of parameter groups that the model does not have.
pub(super) fn check_groups(model: &LanguageModel<Machine>, wanted: &[String]) -> Result<()> {
    let mut known: Vec<&str> = Vec::new();
    for id in model.params.trainable() {
        let group = model.params.specs[id.0].group.as_str();
        if !known.contains(&group) {
            known.push(group);
        }
    }
    let missing = wanted
        .iter()
        .find(|name| !known.iter().any(|group| in_group(name, group)));
    match missing {
        None => Ok(()),
        Some(name) => Err(usage(format!(
            "--heatmap-group {name}: no trainable parameter is in that group\nhint: the model has {}",
            known.join(", ")
        ))),
    }
}

/// Whether `group` is what the user calls `name`: itself, or a part of it.
pub(super) fn in_group(name: &str, group: &str) -> bool {
    let rest = group.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Where the reference's log-probs come from.
pub(super) enum Reference {
    /// There is none (`reference_free`).
    None,
    /// The policy as it is measured.
    Policy,
    /// Of each pair in order: chosen, rejected.
    Known(Vec<[f64; 2]>),
}

impl Reference {
    /// Of the pair at a place in the data, given the policy's.
    pub(super) fn of(&self, place: usize, policy: [f64; 2]) -> Option<[f64; 2]> {
        match self {
            Reference::None => None,
            Reference::Policy => Some(policy),
            Reference::Known(sums) => sums.get(place).copied(),
        }
    }
}

/// Scores the pairs under another model than the policy; `None` when the user stopped it.
pub(super) fn score_with(
    name: &str,
    data: &Data<'_>,
    survey: &Survey,
    interrupt: &Interrupt,
) -> Result<Option<Reference>> {
    let source = load::open(name, None)?;
    let model = load::model(&source)?;
    score(
        &model,
        &load::fingerprint(&source)?,
        data,
        survey,
        interrupt,
    )
}

/// Scores the pairs under the base of an adapter: the adapter is off meanwhile.
pub(super) fn score_base(
    model: &mut LanguageModel<Machine>,
    source: &Source,
    data: &Data<'_>,
    survey: &Survey,
    interrupt: &Interrupt,
) -> Result<Option<Reference>> {
    let fingerprint = load::base_fingerprint(source)?;
    model.set_adapter_enabled(false);
    let scored = score(model, &fingerprint, data, survey, interrupt);
    model.set_adapter_enabled(true);
    scored
}

/// Up to so many pairs their token log-probs are kept on disk, which takes them all into memory.
const CACHED_PAIRS: usize = 20_000;

fn score(
    model: &LanguageModel<Machine>,
    fingerprint: &str,
    data: &Data<'_>,
    survey: &Survey,
    interrupt: &Interrupt,
) -> Result<Option<Reference>> {
    let arithmetic = format!("{}; {:?}", model.backend.describe(), model.params.storage());
    let on_disk = cache::reference_dir().filter(|_| survey.pairs <= CACHED_PAIRS);
    let mut known = match &on_disk {
        Some(dir) => ReferenceCache::open(dir, fingerprint, &arithmetic),
        None => ReferenceCache::in_memory(),
    };
    let _stops = interrupt.stops_itself();
    train::say_note(&known);
    let mut bar = progress::PairsProgress::new("reference", survey.pairs, 0);
    let (mut blocks, mut sums) = (data.blocks(false)?, Vec::new());
    while let Some(block) = blocks.next_block()? {
        load::check_fits(&model.config, load::pair_ids(&block))?;
        let sequences: Vec<&TokenizedSequence> = block
            .iter()
            .flat_map(|pair| [&pair.chosen, &pair.rejected])
            .collect();
        let before = sums.len();
        let complete = score_reference(model, sequences, &mut known, |done| {
            bar.done(before + done / 2);
            !interrupt.pressed()
        });
        train::say_note(&known);
        if !complete {
            bar.finish();
            return Ok(None);
        }
        for pair in &block {
            let scored = known.pair(pair).context("a scored pair is known")?;
            sums.push([scored.chosen(), scored.rejected()]);
        }
        if on_disk.is_none() {
            known = ReferenceCache::in_memory();
        }
    }
    bar.finish();
    Ok(Some(Reference::Known(sums)))
}
