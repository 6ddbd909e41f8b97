//! Writing weights as safetensors, one tensor in memory at a time.
//!
//! Layout as `save_pretrained` writes it: `model.safetensors`, or `model-00001-of-0000N.safetensors`
//! and an index when the total exceeds the shard size, metadata `{"format": "pt"}`. Files get their
//! names when complete and flushed; the index is renamed last, and weight files of an earlier save
//! that the new one does not use are removed after that, since readers would prefer them. The crate
//! `safetensors` wants all tensors at once to serialise, so the header is written here.

use std::fs;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

use super::atomic::{AtomicFile, write_file_atomic};
use super::shards::{INDEX, SINGLE};
use crate::error::ModelError;

/// Type that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredDtype {
    /// 32-bit floats, as held in memory.
    F32,
    /// bfloat16, rounded to nearest, ties to even.
    Bf16,
}

impl StoredDtype {
    /// PyTorch's name of the type, as `config.json` has it.
    #[must_use]
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Writes `tensors` (name and shape, in this order) into the directory `dir`, which is created.
///
/// `fetch(i)` gives the values of tensor `i`, row-major; it is called once for each, in order, and
/// its result is dropped before the next call. A shard holds at most `max_shard_bytes` of data, or
/// one tensor that is larger. Values are not checked to be finite.
///
/// # Errors
/// What `fetch` returns; [`ModelError::SaveLength`] where it gives another number of values than
/// the shape has; [`ModelError::DuplicateTensor`]; [`ModelError::Io`] naming the file.
pub fn save_safetensors<V: AsRef<[f32]>>(
    dir: &Path,
    tensors: &[(String, Vec<usize>)],
    mut fetch: impl FnMut(usize) -> Result<V, ModelError>,
    dtype: StoredDtype,
    max_shard_bytes: u64,
) -> Result<(), ModelError> {
    refuse_duplicates(dir, tensors)?;
    fs::create_dir_all(dir).map_err(|source| ModelError::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })?;
    let shards = plan(tensors, dtype, max_shard_bytes);
    let names: Vec<_> = (1..=shards.len())
        .map(|number| match shards.len() {
            1 => SINGLE.to_owned(),
            total => format!("model-{number:05}-of-{total:05}.safetensors"),
        })
        .collect();
    let mut complete = Vec::with_capacity(shards.len());
    for (range, name) in shards.iter().zip(&names) {
        let path = dir.join(name);
        let mut file = AtomicFile::create(&path)?;
        let mut out = BufWriter::with_capacity(1 << 20, file.file());
        write_shard(&mut out, &path, tensors, range.clone(), &mut fetch, dtype)?;
        drop(out);
        complete.push(file);
    }
    for file in complete {
        file.commit()?;
    }
    if shards.len() > 1 {
        write_index(dir, tensors, &shards, &names, dtype)?;
    }
    remove_stale(dir, &names)
}

/// Writes `tensors` into the one safetensors file `path`, otherwise as [`save_safetensors`].
///
/// # Errors
/// As [`save_safetensors`].
pub fn save_safetensors_file<V: AsRef<[f32]>>(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    mut fetch: impl FnMut(usize) -> Result<V, ModelError>,
    dtype: StoredDtype,
) -> Result<(), ModelError> {
    refuse_duplicates(path, tensors)?;
    let mut file = AtomicFile::create(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file.file());
    let all = 0..tensors.len();
    write_shard(&mut out, path, tensors, all, &mut fetch, dtype)?;
    drop(out);
    file.commit()
}

fn refuse_duplicates(dir: &Path, tensors: &[(String, Vec<usize>)]) -> Result<(), ModelError> {
    let mut names: Vec<_> = tensors.iter().map(|(name, _)| name).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(ModelError::DuplicateTensor {
            path: dir.to_owned(),
            name: pair[0].clone(),
            other: None,
        }),
    }
}

fn size(shape: &[usize], dtype: StoredDtype) -> u64 {
    shape.iter().map(|&n| n as u64).product::<u64>() * dtype.bytes() as u64
}

/// Ranges of tensors that go into one file each; at least one range.
fn plan(tensors: &[(String, Vec<usize>)], dtype: StoredDtype, cap: u64) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut filled) = (Vec::new(), 0, 0);
    for (i, (_, shape)) in tensors.iter().enumerate() {
        let bytes = size(shape, dtype);
        if i > start && filled + bytes > cap {
            shards.push(start..i);
            (start, filled) = (i, 0);
        }
        filled += bytes;
    }
    shards.push(start..tensors.len());
    shards
}

fn write_shard<V: AsRef<[f32]>>(
    out: &mut impl Write,
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    range: Range<usize>,
    fetch: &mut impl FnMut(usize) -> Result<V, ModelError>,
    dtype: StoredDtype,
) -> Result<(), ModelError> {
    let io = |source| ModelError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let header = header(&tensors[range.clone()], dtype);
    out.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| out.write_all(header.as_bytes()))
        .map_err(io)?;
    for i in range {
        let (name, shape) = &tensors[i];
        let values = fetch(i)?;
        let values = values.as_ref();
        if values.len() != shape.iter().product::<usize>() {
            return Err(ModelError::SaveLength {
                name: name.clone(),
                shape: shape.clone(),
                got: values.len(),
            });
        }
        write_values(out, values, dtype).map_err(io)?;
    }
    out.flush().map_err(io)
}

/// The JSON header, padded with spaces so that the data starts at a multiple of 8 bytes.
fn header(tensors: &[(String, Vec<usize>)], dtype: StoredDtype) -> String {
    let mut map = Map::new();
    map.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + size(shape, dtype);
        let entry = json!({
            "dtype": dtype.safetensors_name(),
            "shape": shape,
            "data_offsets": [at, end],
        });
        map.insert(name.clone(), entry);
        at = end;
    }
    let mut text = Value::Object(map).to_string();
    let padded = text.len().next_multiple_of(8);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    text
}

fn write_values(out: &mut impl Write, values: &[f32], dtype: StoredDtype) -> std::io::Result<()> {
    // A stretch at a time: the values' bytes are never all in memory a second time.
    let mut bytes = Vec::with_capacity(1 << 16);
    for stretch in values.chunks(1 << 14) {
        bytes.clear();
        match dtype {
            StoredDtype::F32 => bytes.extend(stretch.iter().flat_map(|x| x.to_le_bytes())),
            StoredDtype::Bf16 => {
                bytes.extend(
                    stretch
                        .iter()
                        .flat_map(|x| bf16::from_f32(*x).to_le_bytes()),
                );
            }
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn write_index(
    dir: &Path,
    tensors: &[(String, Vec<usize>)],
    shards: &[Range<usize>],
    names: &[String],
    dtype: StoredDtype,
) -> Result<(), ModelError> {
    let mut map = Map::new();
    for (range, file) in shards.iter().zip(names) {
        for (name, _) in &tensors[range.clone()] {
            map.insert(name.clone(), Value::from(file.as_str()));
        }
    }
    let total: u64 = tensors.iter().map(|(_, shape)| size(shape, dtype)).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    let text = serde_json::to_string_pretty(&index).expect("a JSON map has string keys");
    write_file_atomic(&dir.join(INDEX), text.as_bytes())
}

/// Removes weight files of an earlier save that are not among `names`.
fn remove_stale(dir: &Path, names: &[String]) -> Result<(), ModelError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io {
            action,
            path,
            source,
        }
    };
    for entry in fs::read_dir(dir).map_err(io("read", dir))? {
        let entry = entry.map_err(io("read", dir))?;
        let file = entry.file_name();
        let Some(name) = file.to_str() else {
            continue;
        };
        let stale = name == SINGLE || is_shard(name) || (name == INDEX && names.len() == 1);
        if stale && !names.iter().any(|kept| kept == name) {
            fs::remove_file(entry.path()).map_err(io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Whether this is the name of a shard: `model-NNNNN-of-NNNNN.safetensors`.
fn is_shard(name: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"))
        .is_some_and(|(number, total)| digits(number) && digits(total))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// `/dev/full` refuses every write as a full disk does.
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
        let tensors = [("w".to_owned(), vec![2, 2])];
        let error = write_shard(
            &mut full,
            Path::new("out/model.safetensors"),
            &tensors,
            0..1,
            &mut |_| Ok(vec![0.0; 4]),
            StoredDtype::F32,
        )
        .unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("cannot write out/model.safetensors: "),
            "{message}"
        );
        assert!(message.contains("hint: free some space"), "{message}");
    }
}
