//! `unbraid train`: preference training.

use super::load::{self, Source};
use super::{End, Interrupt, adapt, cache, objective, output, progress, training, unpaired};
use crate::cli::{self, Strategy, TrainConfig};
use crate::commands::device::Machine;
use crate::say;
use anyhow::{Context, Result};
use unbraid_model::{LanguageModel, ParamKind};
use unbraid_objective::Objective;
use unbraid_preference::{TokenizedPair, TokenizedSequence, data_fingerprint};
use unbraid_tensor::Backend;
use unbraid_text::Tokenizer;
use unbraid_train::{
    MovingReference, PreferenceSettings, PreferenceTask, Probes, ReferenceCache, ReferencedPairs,
    Remedy, TokenMask, score_reference,
};

/// Trains as `config` says.
pub(super) fn run(config: &TrainConfig, interrupt: &Interrupt) -> Result<End> {
    load::check_machine(&config.model, config.trainer.precision())?;
    let objective = objective::objective(&config.objective)?;
    objective::note_reference(config, &objective);
    let source = open(config)?;
    let tokenizer = load::source_tokenizer(&source)?;
    if unpaired::rows_are_unpaired(config)? {
        return unpaired::run(config, &objective, &source, &tokenizer, interrupt);
    }
    paired(config, objective, source, &tokenizer, interrupt)
}

fn open(config: &TrainConfig) -> Result<Source> {
    load::open(
        &config.model.model_name_or_path,
        config.model.base_model.as_deref(),
    )
}

/// The held-out split's name, if the run evaluates.
pub(super) fn eval_name(config: &TrainConfig) -> Option<&str> {
    let options = &config.trainer;
    let name = options.eval_dataset.as_ref();
    (options.eval_strategy != Strategy::No)
        .then(|| name.unwrap_or(&config.data.dataset_name).as_str())
}

fn paired(
    config: &TrainConfig,
    objective: Objective,
    source: Source,
    tokenizer: &Tokenizer,
    interrupt: &Interrupt,
) -> Result<End> {
    let (options, data) = (&config.trainer, &config.data);
    let remedy = objective::remedy(&config.objective, &objective)?;
    objective::check_mask(&config.objective, &objective)?;
    let split = &data.dataset_train_split;
    let train = load::pairs(&data.dataset_name, split, data, tokenizer)?;
    let held_out = eval_name(config)
        .map(|name| load::pairs(name, &data.dataset_test_split, data, tokenizer))
        .transpose()?;
    let eval = held_out.as_ref().map_or(&[][..], |e| &e.pairs);
    let mut model = adapt::base(&source, &config.model, &config.lora)?;
    adapt::attach(&mut model, &source, &config.lora, config.model.seed)?;
    let moving = moving_reference(config, &objective, &source, &model)?;
    load::check_fits(
        &model.config,
        load::pair_ids(train.pairs.iter().chain(eval)),
    )?;

    let lengths = train
        .pairs
        .iter()
        .map(|p| p.chosen.ids.len().max(p.rejected.ids.len()));
    let order = training::order(options);
    let plan = training::plan(options, config.model.seed, order, lengths.collect());
    let mut facts = resume_facts(config, &source, data_fingerprint(&train))?;
    let start = training::start(config, options, &plan, &facts)?;
    let tokens = train.pairs.iter().map(pair_tokens).sum::<usize>() as f64;
    let per_step = plan.sampler.per_step().min(train.pairs.len());
    let step_tokens = per_step as f64 * tokens / train.pairs.len().max(1) as f64;
    let attribution = training::attribution(config, &plan, step_tokens, |count| {
        Probes::of_pairs(eval, &train.pairs, &plan, count)
    });
    let start = start
        .explaining_updates(config.update_every)
        .attributing(attribution);
    let reads_reference = objective.logs_reference();
    let mut settings = task_settings(config, objective, remedy);

    let mut known = ReferenceCache::in_memory();
    if reads_reference && moving.is_none() {
        let touched = match config.objective.precompute_ref_log_probs {
            true => (0..train.pairs.len()).collect(),
            false => plan.sampler.touched(plan.total),
        };
        let pairs = touched.iter().map(|&i| &train.pairs[i]).chain(eval);
        let sequences: Vec<_> = pairs
            .flat_map(|p| [(p.index, &p.chosen), (p.index, &p.rejected)])
            .collect();
        let fingerprint = reference_fingerprint(&facts);
        match reference(
            config,
            fingerprint,
            &source,
            &mut model,
            &sequences,
            interrupt,
        )? {
            Some(cache) => known = cache,
            None => {
                say!("interrupted before the first step");
                return Ok(End::Interrupted);
            }
        }
    }
    let generation = source.trained_generation_config(tokenizer);
    drop(source); // its files need not stay open
    settings.dropout_seed = adapt::training_dropout(&model, config);
    settings.mask = token_mask(config, &mut model, &train.pairs);
    facts.push(("pairs", train.pairs.len().to_string()));
    write_run_yaml(config, &facts, &model)?;

    let referenced = |pairs| referenced(pairs, &known, &settings);
    let (train_side, eval_side) = (referenced(&train.pairs), referenced(eval));
    drop(known);
    let mut task = PreferenceTask::new(train_side, eval_side, settings, moving);
    let text = |id: &u32| tokenizer.decode(&[*id], false).unwrap_or_default();
    task.decode = Some(Box::new(move |ids| ids.iter().map(text).collect()));
    let common = (options, &config.model);
    let beside = (tokenizer, generation.as_deref());
    training::run(
        &mut model, &mut task, &plan, start, common, beside, interrupt,
    )
}

/// Tokens that a pair's forward pass computes: its prompt once.
fn pair_tokens(pair: &TokenizedPair) -> usize {
    pair.chosen.ids.len() + pair.rejected.completion().len()
}

/// What is minimised, and how; dropout and a token mask come with the model.
pub(super) fn task_settings(
    config: &TrainConfig,
    objective: Objective,
    remedy: Remedy,
) -> PreferenceSettings {
    let reward_beta = objective::reward_beta(&config.objective);
    let mut settings = PreferenceSettings::new(objective, reward_beta);
    settings.remedy = remedy;
    settings.ld_alpha = config.objective.ld_alpha;
    settings.use_weighting = config.objective.use_weighting;
    settings.keep = training::keep(&config.trainer);
    settings.log_pairs = config.log_pairs;
    settings.eval_geometry = config.eval_geometry;
    settings.eval_batch = config.trainer.per_device_eval_batch_size;
    settings
}

/// Pairs with the reference's log-probs; those that no step touches have none.
fn referenced<'a>(
    pairs: &'a [TokenizedPair],
    known: &ReferenceCache,
    settings: &PreferenceSettings,
) -> ReferencedPairs<'a> {
    if known.is_empty() {
        return ReferencedPairs::without_reference(pairs);
    }
    let scored = pairs.iter().map(|p| known.pair(p).unwrap_or_default());
    ReferencedPairs::new(pairs, scored.collect(), settings)
}

/// Adds the parameters of a learnt token mask to the model.
fn token_mask(
    config: &TrainConfig,
    model: &mut LanguageModel<Machine>,
    pairs: &[TokenizedPair],
) -> TokenMask {
    let settings = objective::mask_settings(&config.objective, config.trainer.learning_rate);
    match config.objective.token_mask {
        cli::TokenMask::None => TokenMask::None,
        cli::TokenMask::Diff => TokenMask::Diff,
        cli::TokenMask::Head => TokenMask::head(model, settings),
        cli::TokenMask::Free => TokenMask::free(model, settings, pairs),
    }
}

/// The reference of a TR-DPO run: a second model that is moved towards the policy.
fn moving_reference(
    config: &TrainConfig,
    objective: &Objective,
    source: &Source,
    policy: &LanguageModel<Machine>,
) -> Result<Option<MovingReference<Machine>>> {
    let args = &config.objective;
    if !args.sync_ref_model {
        return Ok(None);
    }
    if !objective.needs_reference() || args.reference_free {
        bail_usage!(
            "sync_ref_model moves the reference, and {} reads none",
            objective.name()
        );
    }
    if config.lora.use_peft || source.adapter.is_some() {
        bail_usage!(
            "sync_ref_model needs a reference with weights of its own; under an adapter the reference is the base\n\
             hint: leave out one of sync_ref_model and use_peft"
        );
    }
    let mut model = match &config.ref_model {
        Some(name) => reference_model(name)?,
        None => load::model(source)?,
    };
    model.merge_adapter();
    let shapes = |model: &LanguageModel<Machine>| -> Vec<_> {
        let specs = model
            .params
            .specs
            .iter()
            .filter(|s| s.kind == ParamKind::Base);
        specs.map(|s| (s.name.clone(), s.shape.clone())).collect()
    };
    if shapes(&model) != shapes(policy) {
        bail_usage!(
            "sync_ref_model moves the reference towards the policy, and --ref-model has other parameters or shapes\n\
             hint: give a reference of the policy's own architecture and size"
        );
    }
    Ok(Some(MovingReference {
        model,
        alpha: args.ref_model_mixup_alpha,
        every: args.ref_model_sync_steps as u64,
    }))
}

fn reference_model(name: &str) -> Result<LanguageModel<Machine>> {
    let source = load::open(name, None).context("--ref-model")?;
    load::model(&source).context("--ref-model")
}

/// The reference's token log-probs of these sequences, each distinct one scored once in this machine's lifetime;
/// `None` when the user stopped it (what was scored is kept).
///
/// The reference is frozen, so this happens before the first step. It is the policy as loaded: with a fresh adapter
/// switched off, with the adapter that it came with (as TRL); or the reference model, which is then dropped.
pub(super) fn reference(
    config: &TrainConfig,
    fingerprint: &str,
    source: &Source,
    policy: &mut LanguageModel<Machine>,
    sequences: &[(usize, &TokenizedSequence)],
    interrupt: &Interrupt,
) -> Result<Option<ReferenceCache>> {
    let loaded = config
        .ref_model
        .as_deref()
        .map(reference_model)
        .transpose()?;
    policy.set_adapter_enabled(source.adapter.is_some());
    let model = loaded.as_ref().unwrap_or(policy);
    let rows = sequences.iter().map(|(row, s)| (*row, &s.ids[..]));
    load::check_fits(&model.config, rows)?;
    let arithmetic = format!("{}; {:?}", model.backend.describe(), model.params.storage());
    let mut known = match cache::reference_dir() {
        Some(dir) => ReferenceCache::open(&dir, fingerprint, &arithmetic),
        None => ReferenceCache::in_memory(),
    };
    let _stops = interrupt.stops_itself();
    say_note(&known);
    let bar = progress::bar("reference", sequences.len() as u64);
    let sequences = sequences.iter().map(|(_, sequence)| *sequence);
    let complete = score_reference(model, sequences, &mut known, |done| {
        bar.set_position(done as u64);
        !interrupt.pressed()
    });
    bar.finish_and_clear();
    say_note(&known);
    policy.set_adapter_enabled(true);
    Ok(complete.then_some(known))
}

/// Says what a cache has to say, once for all runs of a command.
pub(super) fn say_note(cache: &ReferenceCache) {
    if let Some(note) = cache.note() {
        say::note_once(note);
    }
}

/// What the names in the configuration stand for: a run is resumed only with the same models and data.
pub(super) fn resume_facts(
    config: &TrainConfig,
    source: &Source,
    data: String,
) -> Result<Vec<(&'static str, String)>> {
    let mut facts = vec![
        ("model_fingerprint", load::fingerprint(source)?),
        ("data_fingerprint", data),
    ];
    if let Some(name) = &config.ref_model {
        let reference = load::open(name, None).context("--ref-model")?;
        facts.push(("reference_fingerprint", load::fingerprint(&reference)?));
    }
    Ok(facts)
}

/// The reference's fingerprint among the facts: its own model's, else the policy's.
pub(super) fn reference_fingerprint<'f>(facts: &'f [(&'static str, String)]) -> &'f str {
    let fact = |name| facts.iter().find(|(key, _)| *key == name);
    let found = fact("reference_fingerprint").or_else(|| fact("model_fingerprint"));
    found.map_or("", |(_, value)| value)
}

/// Writes `run.yaml`: the resolved recipe and the facts of the run.
pub(super) fn write_run_yaml(
    config: &TrainConfig,
    facts: &[(&str, String)],
    model: &LanguageModel<Machine>,
) -> Result<()> {
    let mut all = vec![("machine", model.backend.describe())];
    all.extend_from_slice(facts);
    all.push(("parameters", model.params.count().to_string()));
    all.push((
        "trainable_parameters",
        model.params.trainable_count().to_string(),
    ));
    output::write_run_yaml(&config.trainer.output_dir, config, &all)
}
