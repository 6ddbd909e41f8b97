//! `unbraid train` on judged completions (`prompt`, `completion`, `label`): KTO in its own form.

use super::load::{self, Source};
use super::{End, Interrupt, adapt, train, training};
use crate::cli::{self, Geometry, ObjectiveArgs, SamplingStrategy, TrainConfig};
use anyhow::Result;
use clap::ValueEnum as _;
use unbraid_objective::losses::Kto;
use unbraid_objective::{Objective, describe};
use unbraid_preference::{
    DatasetSource, RowKind, UnpairedDataset, load_rows, tokenize_unpaired, unpaired_fingerprint,
};
use unbraid_text::Tokenizer;
use unbraid_train::{Probes, ReferencedExamples, SamplingOrder, UnpairedTask};

/// Whether the training rows are judged completions and no pairs: the first row says.
pub(super) fn rows_are_unpaired(config: &TrainConfig) -> Result<bool> {
    let (name, split) = (&config.data.dataset_name, &config.data.dataset_train_split);
    let first = load_rows(&DatasetSource {
        max_samples: Some(1),
        ..load::split_of(name, split, &config.data)
    })?;
    Ok(matches!(
        first.first().map(|row| &row.kind),
        Some(RowKind::Unpaired { .. })
    ))
}

/// KTO's settings, where the options name it alone and nothing that needs pairs.
fn kto(config: &TrainConfig, objective: &Objective) -> Result<Kto> {
    let args = &config.objective;
    let data = &config.data.dataset_name;
    let kto = match objective {
        Objective::KtoPair(kto) => kto,
        Objective::ReferenceFree(inner) if matches!(**inner, Objective::KtoPair(_)) => bail_usage!(
            "{data}: on single completions kto estimates a KL divergence from the reference, and reference_free leaves \
             none to estimate\n\
             hint: leave reference_free out"
        ),
        Objective::Weighted(_) if names_kto(args) => bail_usage!(
            "{data}: on single completions kto is the only loss and has weight 1, and the options ask for {}\n\
             hint: say --loss-type kto alone, without loss_weights and rpo_alpha",
            objective.name()
        ),
        _ => bail_usage!(
            "{data}: rows of prompt, completion and label are for kto, and {} needs pairs\n\
             hint: say --loss-type kto, or give rows with chosen and rejected",
            objective.name()
        ),
    };
    let pairs_only = [
        ("remedy", args.remedy != cli::Remedy::None),
        ("token_mask", args.token_mask != cli::TokenMask::None),
        ("ld_alpha", args.ld_alpha.is_some()),
        ("use_weighting", args.use_weighting),
        ("sync_ref_model", args.sync_ref_model),
        ("log_pairs", config.log_pairs),
    ];
    if let Some((option, _)) = pairs_only.iter().find(|(_, given)| *given) {
        bail_usage!("{option} needs pairs, and {data} holds single completions with labels");
    }
    Ok(*kto)
}

/// The order of the rows, and what else the KL estimate asks of the batches.
fn order(config: &TrainConfig) -> Result<SamplingOrder> {
    let options = &config.trainer;
    let other = match options.train_sampling_strategy {
        None | Some(SamplingStrategy::Sequential) => None,
        Some(other) => other.to_possible_value(),
    };
    if let Some(other) = other {
        let strategy = other.get_name();
        bail_usage!(
            "train_sampling_strategy {strategy}: on single completions kto estimates a KL divergence from each row's \
             mismatched completion, that of its neighbour in the file's batch; in another order a batch would be judged by \
             completions of other batches (TRL refuses it too)\n\
             hint: leave train_sampling_strategy out, or say sequential; shuffle the data set itself if its order matters"
        );
    }
    if options.per_device_train_batch_size < 2 {
        bail_usage!(
            "per_device_train_batch_size 1: on single completions kto takes a row's mismatched completion from another row \
             of its batch, and a batch of one has none, so that the KL estimate would be the row's own log-ratio (TRL \
             refuses it too)\n\
             hint: --per-device-train-batch-size 2 or more; gradient_accumulation_steps does not count"
        );
    }
    Ok(SamplingOrder::Sequential)
}

fn names_kto(args: &ObjectiveArgs) -> bool {
    let is_kto = |name: &String| describe(name).is_some_and(|d| d.name == "kto");
    args.loss_type.iter().any(is_kto)
}

/// Says that geometry was asked for in vain; its default is not worth a word.
fn note_geometry(config: &TrainConfig) {
    let silent = |given: Geometry, default| given == Geometry::Off || given == default;
    let options = &config.trainer;
    if !silent(options.geometry, Geometry::EachNth(10))
        || !silent(config.update_every, Geometry::EachNth(50))
        || options.gram_every != Geometry::Off
        || config.eval_geometry > 0
    {
        note!("geometry is not measured: it relates the two completions of a pair");
    }
}

fn examples(
    config: &TrainConfig,
    name: &str,
    split: &str,
    block: usize,
    tokenizer: &Tokenizer,
) -> Result<UnpairedDataset> {
    let rows = load::stream(name, split, &config.data)?;
    let limit = config.data.max_length.0;
    let dataset = tokenize_unpaired(rows, tokenizer, limit, block, false)?;
    for warning in dataset.report.warnings() {
        note!("{name}: {warning}");
    }
    Ok(dataset)
}

/// Trains as `config` says.
pub(super) fn run(
    config: &TrainConfig,
    objective: &Objective,
    source: &Source,
    tokenizer: &Tokenizer,
    interrupt: &Interrupt,
) -> Result<End> {
    let (options, data) = (&config.trainer, &config.data);
    let kto = kto(config, objective)?;
    let order = order(config)?;
    note_geometry(config);
    // TRL takes the mismatched completions of held-out rows from blocks of the training batch's size too.
    let batch = options.per_device_train_batch_size;
    let training_rows = examples(
        config,
        &data.dataset_name,
        &data.dataset_train_split,
        batch,
        tokenizer,
    )?;
    let held_out = train::eval_name(config)
        .map(|name| examples(config, name, &data.dataset_test_split, batch, tokenizer))
        .transpose()?;
    let eval = held_out.as_ref().map_or(&[][..], |e| &e.examples);
    let mut model = adapt::base(source, &config.model, &config.lora)?;
    adapt::attach(&mut model, source, &config.lora, config.model.seed)?;
    let all: Vec<_> = training_rows.examples.iter().chain(eval).collect();
    load::check_fits(
        &model.config,
        all.iter().flat_map(|e| {
            [
                (e.index, &e.sequence.ids[..]),
                (e.index, &e.mismatched.ids[..]),
            ]
        }),
    )?;
    let lengths = training_rows.examples.iter().map(|e| e.sequence.ids.len());
    let plan = training::plan(options, config.model.seed, order, lengths.collect());
    let facts = train::resume_facts(config, source, unpaired_fingerprint(&training_rows))?;
    let examples = &training_rows.examples;
    let tokens = examples.iter().map(|e| e.sequence.ids.len()).sum::<usize>() as f64;
    let per_step = plan.sampler.per_step().min(examples.len());
    let step_tokens = per_step as f64 * tokens / examples.len().max(1) as f64;
    let attribution = training::attribution(config, &plan, step_tokens, |count| {
        Probes::of_examples(eval, examples, &plan, count)
    });
    let start = training::start(config, options, &plan, &facts)?.attributing(attribution);

    let sequences: Vec<_> = all
        .iter()
        .flat_map(|e| [(e.index, &e.sequence), (e.index, &e.mismatched)])
        .collect();
    let fingerprint = train::reference_fingerprint(&facts);
    let known = train::reference(
        config,
        fingerprint,
        source,
        &mut model,
        &sequences,
        interrupt,
    )?;
    let Some(known) = known else {
        say!("interrupted before the first step");
        return Ok(End::Interrupted);
    };
    train::write_run_yaml(config, &facts, &model)?;
    let mut task = UnpairedTask {
        train: ReferencedExamples::new(&training_rows.examples, &known),
        eval: ReferencedExamples::new(eval, &known),
        kto,
        keep: training::keep(options),
        eval_batch: options.per_device_eval_batch_size,
        dropout_seed: adapt::training_dropout(&model, config),
        stepped: Vec::new(),
    };
    drop(known);
    let generation = source.trained_generation_config(tokenizer);
    let common = (options, &config.model);
    let beside = (tokenizer, generation.as_deref());
    training::run(
        &mut model, &mut task, &plan, start, common, beside, interrupt,
    )
}
