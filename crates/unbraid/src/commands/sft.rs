//! `unbraid sft`: supervised fine-tuning, and pre-training of small models from a configuration.

use super::{End, Interrupt, adapt, output, training};
use super::{device, load};
use crate::cli::{SftConfig, Strategy};
use crate::commands::device::Machine;
use crate::interrupt;
use anyhow::{Context, Result};
use std::path::Path;
use unbraid_model::{LanguageModel, ModelConfig};
use unbraid_preference::{
    DatasetSource, SftDataset, SftOptions, sft_fingerprint, stream_rows, stream_sft,
};
use unbraid_tensor::Backend;
use unbraid_text::Tokenizer;
use unbraid_train::SftTask;

fn sequences(
    config: &SftConfig,
    name: &str,
    split: &str,
    tokenizer: &Tokenizer,
) -> Result<SftDataset> {
    let rows = stream_rows(&DatasetSource {
        text_field: Some(config.dataset_text_field.clone()),
        ..load::split_of(name, split, &config.data)
    })?;
    let options = SftOptions {
        completion_only: config.completion_only_loss.unwrap_or(true),
        packing: config.packing,
    };
    let dataset = stream_sft(rows, tokenizer, config.data.max_length.0, options)?;
    for warning in dataset.report.warnings() {
        note!("{name}: {warning}");
    }
    Ok(dataset)
}

/// What training starts from.
struct Base {
    model: LanguageModel<Machine>,
    tokenizer: Tokenizer,
    /// The model's `generation_config.json`.
    generation: Option<Vec<u8>>,
    fingerprint: String,
}

fn base(config: &SftConfig) -> Result<Base> {
    let name = &config.model.model_name_or_path;
    if let Some(path) = &config.init_config {
        if config.lora.use_peft {
            bail_usage!(
                "use_peft trains an adapter on a frozen model, and init_config starts from random weights"
            );
        }
        let text = unbraid_input::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let model_config = ModelConfig::from_json_str(&text, &path.display().to_string())?;
        let backend = device::backend();
        let mut model = LanguageModel::random(backend, model_config, config.model.seed);
        model.cancel = interrupt::cancel();
        return Ok(Base {
            model,
            tokenizer: load::tokenizer(Path::new(name), None)?,
            generation: None,
            fingerprint: text,
        });
    }
    let source = load::open(name, config.model.base_model.as_deref())?;
    let mut model = adapt::base(&source, &config.model, &config.lora)?;
    adapt::attach(&mut model, &source, &config.lora, config.model.seed)?;
    let tokenizer = load::source_tokenizer(&source)?;
    Ok(Base {
        model,
        generation: source.trained_generation_config(&tokenizer),
        tokenizer,
        fingerprint: load::fingerprint(&source)?,
    })
}

/// Fine-tunes as `config` says.
pub(super) fn run(config: &SftConfig, interrupt: &Interrupt) -> Result<End> {
    let options = &config.trainer;
    load::check_machine(&config.model, options.precision())?;
    let Base {
        mut model,
        tokenizer,
        generation,
        fingerprint: base_fingerprint,
    } = base(config)?;
    let data = &config.data;
    let train = sequences(
        config,
        &data.dataset_name,
        &data.dataset_train_split,
        &tokenizer,
    )?;
    let eval = if options.eval_strategy == Strategy::No {
        None
    } else {
        let name = options.eval_dataset.as_ref().unwrap_or(&data.dataset_name);
        Some(sequences(
            config,
            name,
            &data.dataset_test_split,
            &tokenizer,
        )?)
    };
    let all = train
        .sequences
        .iter()
        .chain(eval.iter().flat_map(|e| &e.sequences));
    load::check_fits(&model.config, all.map(|s| (s.index, &s.ids[..])))?;
    let mut task = SftTask {
        train: &train,
        eval: eval.as_ref(),
        keep: training::keep(options),
        eval_batch: options.per_device_eval_batch_size,
        dropout_seed: model.drops().then_some(config.model.seed),
    };
    let lengths = (0..task.examples()).map(|i| task.length(i)).collect();
    let order = training::order(options);
    let plan = training::plan(options, config.model.seed, order, lengths);
    let mut resumed = vec![
        ("model_fingerprint", base_fingerprint),
        ("data_fingerprint", sft_fingerprint(&train)),
    ];
    let dropout = model.config.dropout();
    if dropout.any() {
        // A checkpoint of a version that did not read these keys is no beginning of this run.
        resumed.push(("model_dropout", format!("{dropout:?}")));
    }
    let start = training::start(config, options, &plan, &resumed)?;
    let facts = [
        ("machine", model.backend.describe()),
        ("parameters", model.params.count().to_string()),
        (
            "trainable_parameters",
            model.params.trainable_count().to_string(),
        ),
        ("sequences", train.sequences.len().to_string()),
    ];
    output::write_run_yaml(&options.output_dir, config, &facts)?;
    let common = (options, &config.model);
    let beside = (&tokenizer, generation.as_deref());
    training::run(
        &mut model, &mut task, &plan, start, common, beside, interrupt,
    )
}
