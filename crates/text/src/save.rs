//! Writing a tokenizer so that `transformers.AutoTokenizer` opens it.
//!
//! The files of a tokenizer that came from a directory are written back byte for byte; one that came from parts or
//! from a GGUF file gets `tokenizer.json`, `tokenizer_config.json` and, where it has one, `chat_template.jinja`.
//! One thing may change: `tokenizer_class`. Which class opens the files depends on the `model_type` of `config.json`,
//! and an adapter's directory has none; so where the class would be another without it, the one that was used is
//! written.
//! Each file is written under a temporary name beside its place, synchronised and renamed.
//! Tested in `tests/save.rs`.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::class::Class;
use crate::error::{Result, TextError};
use crate::source::{Files, file, parse};
use crate::tokenizer::{Tokenizer, names_byte_level, pretty};

const CONFIG: &str = "tokenizer_config.json";

impl Tokenizer {
    /// Writes the tokenizer's files into `dir`, which is made if need be; files of the same names are replaced.
    ///
    /// # Errors
    /// [`TextError::Write`] with the file that could not be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|source| TextError::Write {
            path: dir.to_owned(),
            source,
        })?;
        for (name, bytes) in self.files_to_save()?.iter() {
            let path = dir.join(name);
            // Named chat templates have a folder of their own.
            path.parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| write_whole(&path, bytes))
                .map_err(|source| TextError::Write { path, source })?;
        }
        Ok(())
    }
}

impl Tokenizer {
    /// The files, with the class that opens them to the same ids.
    fn files_to_save(&self) -> Result<Cow<'_, Files>> {
        let config = match file(&self.files, CONFIG) {
            Some(bytes) => parse(CONFIG, bytes)?,
            None => json!({}),
        };
        let json = file(&self.files, "tokenizer.json").unwrap_or_default();
        let named = config["tokenizer_class"].as_str();
        let own_code = config.get("auto_map").is_some();
        let alone = Class::choose(named, None, own_code, names_byte_level(json));
        if alone == *self.class() {
            return Ok(Cow::Borrowed(&self.files));
        }
        let mut config = config;
        config["tokenizer_class"] = json!(self.class().name());
        let mut files = self.files.clone();
        files.retain(|(name, _)| name != CONFIG);
        files.push((CONFIG.to_owned(), pretty(&config)));
        Ok(Cow::Owned(files))
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path
        .file_name()
        .expect("a file name was joined to the directory")
        .to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The failure that matters is the one above; a left-over that cannot be removed changes nothing.
        let _ = fs::remove_file(&temporary);
    }
    written
}
