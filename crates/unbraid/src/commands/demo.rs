//! `unbraid demo`: the main job with nothing to download.
//!
//! The binary carries a tiny model and a small preference set (made by the recipes in `demo/`). They are laid
//! out as a user would have them, and then `unbraid train` runs on them with the recipe that is laid out too.

use super::{End, Interrupt, output};
use crate::cli::{self, Command, DemoConfig};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// The embedded files and where they go.
const FILES: [(&str, &[u8]); 7] = [
    (
        "model/config.json",
        include_bytes!("../../../../demo/model/config.json"),
    ),
    (
        "model/model.safetensors",
        include_bytes!("../../../../demo/model/model.safetensors"),
    ),
    (
        "model/tokenizer.json",
        include_bytes!("../../../../demo/model/tokenizer.json"),
    ),
    (
        "model/tokenizer_config.json",
        include_bytes!("../../../../demo/model/tokenizer_config.json"),
    ),
    (
        "data/train.jsonl",
        include_bytes!("../../../../demo/preferences.jsonl"),
    ),
    (
        "data/test.jsonl",
        include_bytes!("../../../../demo/preferences-test.jsonl"),
    ),
    ("recipe.yaml", include_bytes!("../../../../demo/dpo.yaml")),
];

/// Lays out the material and trains on it.
pub(super) fn run(config: &DemoConfig, interrupt: &Interrupt) -> Result<End> {
    let dir = &config.output_dir;
    output::prepare_dir(dir, config.overwrite_output_dir)?;
    lay_out(dir)?;
    train(config, interrupt)
}

/// Writes the embedded files into a directory.
pub(super) fn lay_out(dir: &Path) -> Result<()> {
    for (name, bytes) in FILES {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Runs `unbraid train` on what was laid out.
fn train(config: &DemoConfig, interrupt: &Interrupt) -> Result<End> {
    let dir = &config.output_dir;
    let words = ["unbraid", "train"].map(OsString::from);
    let options = [
        ("--model-name-or-path", dir.join("model")),
        ("--dataset-name", dir.join("data")),
        ("--output-dir", dir.join("run")),
        ("--seed", config.seed.to_string().into()),
        ("--overwrite-output-dir", "true".into()),
    ];
    let mut arguments = words.to_vec();
    arguments.push(dir.join("recipe.yaml").into());
    arguments.extend(
        options
            .into_iter()
            .flat_map(|(k, v)| [OsString::from(k), v.into()]),
    );
    let shown: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    say!(
        "the demo is this command on files in {}:\n  {}",
        dir.display(),
        shown.join(" ")
    );
    let Command::Train(train) = cli::parse(arguments)?.command else {
        bail!("the demo's recipe is not a training recipe");
    };
    super::train::run(&train, interrupt)
}
