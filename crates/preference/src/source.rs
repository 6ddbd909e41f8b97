//! From a name to rows: a file, a directory of split files, a saved data set, or a hub id.
//! Tested in `tests/formats.rs`.

use std::path::{Path, PathBuf};

use crate::error::{PreferenceError, Result};
use crate::hub;
use crate::read::{self, FileType};
use crate::row::Row;
use crate::split;

/// Which rows to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSource {
    /// A file, a directory, or a hub id `org/name`.
    pub name: String,
    /// The split, for directories and hub data sets; a file is taken whole.
    pub split: String,
    /// At most so many rows, from the beginning.
    pub max_samples: Option<usize>,
}

/// Reads the rows of a data set in their order.
///
/// # Errors
/// [`PreferenceError`] with the file and the line or row; [`PreferenceError::Empty`] when there is none.
pub fn load_rows(source: &DatasetSource) -> Result<Vec<Row>> {
    let limit = source.max_samples.unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    for (path, file_type) in files(source)? {
        if rows.len() < limit {
            read::read_file(&path, file_type, limit, &mut rows)?;
        }
    }
    if rows.is_empty() {
        return Err(PreferenceError::Empty {
            name: source.name.clone(),
            split: source.split.clone(),
        });
    }
    Ok(rows)
}

fn files(source: &DatasetSource) -> Result<Vec<(PathBuf, FileType)>> {
    let path = Path::new(&source.name);
    let typed = |path: PathBuf| match FileType::of(&path) {
        Some(file_type) => Ok((path, file_type)),
        None => Err(PreferenceError::UnknownType { path }),
    };
    if path.is_dir() {
        split::files_of_directory(path, &source.split)?
            .into_iter()
            .map(typed)
            .collect()
    } else if path.exists() {
        Ok(vec![typed(path.to_owned())?])
    } else if hub::is_hub_id(&source.name) {
        hub::fetch_dataset_split(&source.name, &source.split)?
            .into_iter()
            .map(typed)
            .collect()
    } else {
        Err(PreferenceError::NotFound {
            name: source.name.clone(),
        })
    }
}
