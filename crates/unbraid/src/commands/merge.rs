//! `unbraid merge`: W ← W + s·B A for every adapted weight, written as an ordinary model.

use super::{End, load, output};
use crate::cli::MergeConfig;
use anyhow::{Result, bail};
use serde_json::json;
use unbraid_cuda::Precision;
use unbraid_model::weights::write_file_atomic;

/// Merges as `config` says.
pub(super) fn run(config: &MergeConfig) -> Result<End> {
    load::check_machine(&config.model, Precision::Float32)?;
    let name = &config.model.model_name_or_path;
    let source = load::open(name, config.model.base_model.as_deref())?;
    let Some(adapter) = &source.adapter else {
        bail!(
            "{name}: this is a whole model, there is nothing to merge\n\
             hint: give an adapter directory, one with adapter_config.json"
        );
    };
    let tokenizer = load::source_tokenizer(&source)?;
    let mut model = load::model(&source)?;
    output::prepare_dir(&config.output_dir, config.overwrite_output_dir)?;
    model.merge_adapter();
    model.save(&config.output_dir, load::stored_dtype(&config.model))?;
    tokenizer.save(&config.output_dir)?;
    if let Some(bytes) = source.generation_config() {
        write_file_atomic(&config.output_dir.join(load::GENERATION_CONFIG), &bytes)?;
    }
    say!("merged model: {}", config.output_dir.display());
    if config.json {
        let result = json!({
            "output_dir": config.output_dir.display().to_string(),
            "adapter": adapter.display().to_string(),
            "base": source.base_name,
        });
        output::print(&format!("{result:#}\n"))?;
    }
    Ok(End::Done)
}
