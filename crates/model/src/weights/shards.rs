//! A model directory: one safetensors file, or shards named by an index.
//!
//! The index (`model.safetensors.index.json`) maps each tensor to a file. It comes with the
//! download, so a shard must be a plain file name: nothing outside the directory is opened.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::source::SourceFile;
use super::{Weights, names, safetensors};
use crate::error::ModelError;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read; that of Llama 3.1 405B is below 200 kB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn open_directory(path: &Path) -> Result<Weights, ModelError> {
    if path.join(SINGLE).exists() {
        let mut weights = Weights::empty(path);
        safetensors::add_file(&mut weights, SourceFile::open(&path.join(SINGLE))?)?;
        return Ok(weights);
    }
    if path.join(INDEX).exists() {
        return open_shards(path);
    }
    Err(ModelError::NoWeights {
        path: path.to_owned(),
        hint: hint_for(path),
    })
}

fn open_shards(path: &Path) -> Result<Weights, ModelError> {
    let index_path = path.join(INDEX);
    let invalid = |detail: String| ModelError::Format {
        path: index_path.clone(),
        format: "shard index",
        detail,
    };
    let text = super::read_text_capped(&index_path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    let mut weights = Weights::empty(path);
    for (shard, tensors) in &shards {
        let plain = Path::new(shard)
            .file_name()
            .is_some_and(|name| name == *shard);
        if !plain || shard.contains(['/', '\\']) {
            return Err(invalid(format!("{shard:?} is not a plain file name")));
        }
        if !path.join(shard).exists() {
            return Err(ModelError::MissingShard {
                index: index_path.clone(),
                shard: (*shard).to_owned(),
                tensors: tensors.len(),
                example: tensors[0].to_owned(),
            });
        }
        safetensors::add_file(&mut weights, SourceFile::open(&path.join(shard))?)?;
    }
    for (tensor, shard) in &index.weight_map {
        if !names::is_buffer(tensor) && weights.get(tensor).is_none() {
            return Err(invalid(format!(
                "tensor {tensor} should be in {shard:?} and is not"
            )));
        }
    }
    Ok(weights)
}

/// What to do about a directory without safetensors, from what it does hold.
fn hint_for(path: &Path) -> String {
    let found = |wanted: fn(&str) -> bool| {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| wanted(name))
            .collect();
        names.sort();
        names.into_iter().next()
    };
    if let Some(name) = found(|n| n.starts_with("pytorch_model") && n.contains(".bin")) {
        return format!(
            "{name} is a PyTorch pickle, which is not read; convert it: in Python, \
             AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, safe_serialization=True)"
        );
    }
    if let Some(name) = found(|n| n.ends_with(".gguf")) {
        return format!("to use {name}, give its path instead of the directory's");
    }
    format!("expected {SINGLE} or {INDEX} in the directory")
}
