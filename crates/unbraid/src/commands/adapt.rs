//! What `train` and `sft` share about low-rank adapters: how the base is held, and the adapter itself.

use super::load::{self, Source};
use super::usage;
use crate::cli::{LoraArgs, ModelArgs, TrainConfig};
use crate::commands::device::Machine;
use anyhow::Result;
use std::path::Path;
use unbraid_model::{LanguageModel, LoraConfig, Storage, TargetModules};

/// Reads the model that training starts from: whole, or the frozen base of an adapter.
pub(crate) fn base(
    source: &Source,
    args: &ModelArgs,
    lora: &LoraArgs,
) -> Result<LanguageModel<Machine>> {
    if let Some(adapter) = &source.adapter
        && lora.use_peft
    {
        bail_usage!(
            "{}: has an adapter already, and use_peft asks for a new one\n\
             hint: leave use_peft out to train this adapter on, or merge it first (unbraid merge)",
            adapter.display()
        );
    }
    let frozen = lora.use_peft || source.adapter.is_some();
    let storage = match frozen {
        true => load::frozen_storage(source, args.dtype),
        false => Storage::Float32,
    };
    load::base(source, storage)
}

/// Gives the model the adapter that it is to train: its own, or a fresh one.
pub(crate) fn attach(
    model: &mut LanguageModel<Machine>,
    source: &Source,
    lora: &LoraArgs,
    seed: u64,
) -> Result<()> {
    // A local base is named so that the adapter finds it from anywhere.
    let base_model = match Path::new(&source.base_name).canonicalize() {
        Ok(path) => path.display().to_string(),
        Err(_) => source.base_name.clone(),
    };
    if let Some(adapter) = &source.adapter {
        model.load_adapter(adapter)?;
        model.set_lora_base(base_model);
        return Ok(());
    }
    if !lora.use_peft {
        return Ok(());
    }
    let attached = model.attach_lora(config(lora, base_model), seed);
    attached.map_err(|error| usage(error.to_string())) // it can object only to what the options ask for
}

/// The fresh adapter that the options describe.
pub(crate) fn config(lora: &LoraArgs, base_model: String) -> LoraConfig {
    let target_modules = match &lora.lora_target_modules[..] {
        [] => TargetModules::Default,
        [one] if one == "all-linear" => TargetModules::AllLinear,
        // TRL makes a list of one a string, which PEFT takes for a pattern.
        [one] => TargetModules::Pattern(one.clone()),
        names => TargetModules::Names(names.to_vec()),
    };
    LoraConfig {
        base_model,
        r: lora.lora_r,
        alpha: lora.lora_alpha,
        dropout: lora.lora_dropout,
        target_modules,
        modules_to_save: lora.lora_modules_to_save.clone(),
        use_rslora: lora.use_rslora,
        ..LoraConfig::default()
    }
}

/// Seed of what preference training drops of the model and its adapter; `None` where that is nothing. Says where TRL's
/// `disable_dropout` does something else.
///
/// TRL sets p of every `torch.nn.Dropout` to 0, an adapter's among them. The attention of Llama and its relatives keeps its p as
/// a plain number, which TRL does not find, so there `disable_dropout` leaves attention dropout on.
pub(crate) fn training_dropout(
    model: &LanguageModel<Machine>,
    config: &TrainConfig,
) -> Option<u64> {
    if !config.disable_dropout {
        return model.drops().then_some(config.model.seed);
    }
    let attention = model.config.dropout().attention;
    if attention > 0.0 && model.config.model_type() != "gpt2" {
        note!(
            "attention_dropout {attention} of the model is off, as disable_dropout says; TRL's disable_dropout misses it"
        );
    }
    None
}
