//! From a name to rows: a file, a directory of split files, a saved data set, or a hub id.
//! Tested in `tests/formats.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{PreferenceError, Result};
use crate::hub;
use crate::mixture::{self, Mixture};
use crate::read::{FileType, Rows, rows_of_file};
use crate::row::{Row, TextField};
use crate::split;

/// Which rows to load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DatasetSource {
    /// A file, a directory, or a hub id `org/name`.
    pub name: String,
    /// The configuration: a `config_name` of the data set's README, or a directory. A file has none.
    pub config: Option<String>,
    /// The split, for directories and hub data sets; a file is taken whole.
    pub split: String,
    /// At most so many rows, from the beginning.
    pub max_samples: Option<usize>,
    /// The column that holds plain text, where it is not `text`.
    pub text_field: Option<String>,
    /// Several data sets in the place of the one that `name` gives; its splits are `train` and `test`.
    pub mixture: Option<Arc<Mixture>>,
}

/// Reads the rows of a data set in their order, all into memory.
///
/// # Errors
/// As [`stream_rows`].
pub fn load_rows(source: &DatasetSource) -> Result<Vec<Row>> {
    stream_rows(source)?.collect()
}

/// The rows of a data set in their order, read as they are asked for: a line, record or batch is in memory at a time.
///
/// # Errors
/// [`PreferenceError`] when there is no such data set; the iterator's errors name the file and the line or row, and
/// a data set without rows yields [`PreferenceError::Empty`]. After an error the iterator ends.
pub fn stream_rows(source: &DatasetSource) -> Result<RowReader> {
    open(source, false)
}

/// As [`stream_rows`], with every [`Row::columns`]: also those that no shape needs. Of a table, a cell whose type has no
/// counterpart in JSON (a date, binary) is null there.
///
/// # Errors
/// As [`stream_rows`].
pub fn stream_whole_rows(source: &DatasetSource) -> Result<RowReader> {
    open(source, true)
}

fn open(source: &DatasetSource, whole: bool) -> Result<RowReader> {
    let text = TextField::new(source.text_field.as_deref(), whole);
    let Some(mixture) = &source.mixture else {
        return Ok(RowReader::over(files(source)?, text, source.clone()));
    };
    let rows = mixture::rows(mixture, source, whole)?;
    let mut reader = RowReader::over(Vec::new(), text, source.clone());
    reader.rows = Some(rows);
    Ok(reader)
}

/// Rows of a data set's files, one file after another; see [`stream_rows`].
pub struct RowReader {
    source: DatasetSource,
    /// Which columns are read.
    text: TextField,
    /// Files to come, the next one last.
    files: Vec<(PathBuf, FileType)>,
    rows: Option<Rows>,
    count: usize,
    ended: bool,
}

impl RowReader {
    /// The rows of these files; `source` is for messages and `max_samples`.
    pub(crate) fn over(
        mut files: Vec<(PathBuf, FileType)>,
        text: TextField,
        source: DatasetSource,
    ) -> Self {
        files.reverse();
        RowReader {
            source,
            text,
            files,
            rows: None,
            count: 0,
            ended: false,
        }
    }

    fn advance(&mut self) -> Option<Result<Row>> {
        while self.count < self.source.max_samples.unwrap_or(usize::MAX) {
            if let Some(row) = self.rows.as_mut().and_then(Iterator::next) {
                self.count += 1;
                return Some(row);
            }
            let Some((path, file_type)) = self.files.pop() else {
                break;
            };
            match rows_of_file(&path, file_type, &self.text) {
                Ok(rows) => self.rows = Some(rows),
                Err(error) => return Some(Err(error)),
            }
        }
        (self.count == 0).then(|| {
            Err(PreferenceError::Empty {
                name: self.source.name.clone(),
                split: self.source.split.clone(),
            })
        })
    }
}

impl Iterator for RowReader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.ended {
            return None;
        }
        let row = self.advance();
        if !matches!(row, Some(Ok(_))) {
            self.ended = true;
            self.rows = None;
        }
        row
    }
}

/// The files of a source with their types.
pub(crate) fn files(source: &DatasetSource) -> Result<Vec<(PathBuf, FileType)>> {
    let path = Path::new(&source.name);
    let (config, split) = (source.config.as_deref(), &source.split);
    let paths = if path.is_dir() {
        split::files_of_directory(path, config, split)?
    } else if path.exists() {
        vec![path.to_owned()]
    } else if hub::is_hub_id(&source.name) {
        hub::fetch_dataset_split(&source.name, config, split)?
    } else {
        return Err(PreferenceError::NotFound {
            name: source.name.clone(),
        });
    };
    let typed = |path: PathBuf| match FileType::of(&path) {
        Some(file_type) => Ok((path, file_type)),
        None => Err(PreferenceError::UnknownType { path }),
    };
    paths.into_iter().map(typed).collect()
}
