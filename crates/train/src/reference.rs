//! Reference log-probs, each distinct sequence scored once and kept on disk by content.
//!
//! A record is found by the SHA-256 of its ids and prompt length, so it survives any reordering of the data set. Its
//! values are f64 exactly as they were computed: a run that reads them ends with the same bits as the run that wrote
//! them. One file holds the records of one model on one backend:
//!
//! ```text
//! "UNBRAIDR"  format: u32  length: u32  header: JSON {model, backend}  records: u64
//! records × ( key: 32 bytes  tokens: u32  tokens × f64 )     SHA-256 of all bytes before     (little-endian)
//! ```
//!
//! A file that is damaged, cut short, or of another model, backend or format is not used: [`ReferenceCache::note`]
//! says why, and the next save writes it anew. A directory that cannot be read or written costs the cache, never the
//! run, and is one note. Saving merges with what another run has written meanwhile (under a
//! lock beside the file), then renames a whole file into place.
//!
//! On the f32 backend a token's log-prob depends in its last bits on the batch (up to 2e-6 nats seen: the head's
//! blocks of the vocabulary go by the number of scored rows). So the first value of a sequence stays, in a run and in
//! the file, and batches are cut without regard to what is known (see [`score_reference`]).
//!
//! Left out: forgetting old records, and reading a part of a file (8 bytes a token are in memory).
//! Tested in `tests/reference.rs`.

use crate::error::TrainError;
use crate::score::{ROWS_PER_BATCH, ScoredPair};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use unbraid_model::weights::write_file_atomic;
use unbraid_model::{Batch, Cancel, Forest, LanguageModel, Sequence};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::Backend;

const MAGIC: &[u8; 8] = b"UNBRAIDR";
const FORMAT: u32 = 1;
const DIGEST: usize = 32;
/// How long a pass scores before it saves what it has; a killed run loses no more than this.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// What a sequence is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceKey([u8; DIGEST]);

impl From<&TokenizedSequence> for SequenceKey {
    fn from(sequence: &TokenizedSequence) -> Self {
        let mut hash = Sha256::new();
        hash.update((sequence.prompt_len as u64).to_le_bytes());
        for id in &sequence.ids {
            hash.update(id.to_le_bytes());
        }
        SequenceKey(hash.finalize().into())
    }
}

#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Header {
    model: String,
    backend: String,
}

/// Records by key; the values of all lie end to end.
#[derive(Default)]
struct Records {
    places: HashMap<SequenceKey, Range<usize>>,
    values: Vec<f64>,
}

impl Records {
    fn get(&self, key: &SequenceKey) -> Option<&[f64]> {
        self.places
            .get(key)
            .map(|place| &self.values[place.clone()])
    }

    /// Adds a record unless its key has one.
    fn insert(&mut self, key: SequenceKey, values: impl IntoIterator<Item = f64>) -> bool {
        if self.places.contains_key(&key) {
            return false;
        }
        let start = self.values.len();
        self.values.extend(values);
        self.places.insert(key, start..self.values.len());
        true
    }
}

/// Token log-probs of completions under one model.
pub struct ReferenceCache {
    file: Option<(PathBuf, Header)>,
    records: Records,
    unsaved: usize,
    note: Option<String>,
}

impl ReferenceCache {
    /// A cache that ends with the run.
    pub fn in_memory() -> Self {
        ReferenceCache {
            file: None,
            records: Records::default(),
            unsaved: 0,
            note: None,
        }
    }

    /// The cache of one model in `dir`, which need not exist yet.
    ///
    /// `model_fingerprint` stands for everything that the log-probs depend on in the weights (an adapter too),
    /// `backend` for the arithmetic (processor features, precision). A file that cannot be used leaves an empty
    /// cache and a [`ReferenceCache::note`].
    pub fn open(dir: &Path, model_fingerprint: &str, backend: &str) -> Self {
        let header = Header {
            model: model_fingerprint.to_owned(),
            backend: backend.to_owned(),
        };
        let named = Sha256::digest(format!("{model_fingerprint}\n{backend}"));
        let name: String = named[..16].iter().map(|b| format!("{b:02x}")).collect();
        let path = dir.join(format!("{name}.logps"));
        let mut cache = ReferenceCache {
            file: None,
            records: Records::default(),
            unsaved: 0,
            note: None,
        };
        match read(&path, &header) {
            Ok(records) => cache.records = records.unwrap_or_default(),
            Err(Unread::Damaged(reason)) => {
                cache.note = Some(format!(
                    "the reference cache {} is not used and will be written anew: {reason}",
                    path.display()
                ));
            }
            Err(Unread::Refused(error)) => {
                cache.give_up(dir, &error);
                return cache;
            }
        }
        cache.file = Some((path, header));
        cache
    }

    /// Goes on in memory.
    fn give_up(&mut self, dir: &Path, error: &dyn std::fmt::Display) {
        self.file = None;
        self.note = Some(format!(
            "the reference's log-probs cannot be kept in {}: {error}",
            dir.display()
        ));
    }

    /// Saves; where that is refused, the cache goes on in memory.
    fn keep(&mut self) {
        let dir = self.path().and_then(Path::parent).map(Path::to_owned);
        if let (Err(error), Some(dir)) = (self.save(), dir) {
            self.give_up(&dir, &error);
        }
    }

    /// Why the file that was there is not used, or nothing is kept, if so; one line for the user.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The file; `None` in memory.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.records.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.places.is_empty()
    }

    /// Log-probs of the completion's tokens, in nats.
    pub fn get(&self, key: &SequenceKey) -> Option<&[f64]> {
        self.records.get(key)
    }

    /// Remembers a completion's token log-probs. A key that is known keeps its values.
    pub fn insert(&mut self, key: SequenceKey, token_logps: &[f64]) {
        let new = self.records.insert(key, token_logps.iter().copied());
        self.unsaved += usize::from(new);
    }

    /// Both completions of a pair, when both are known.
    pub fn pair(&self, pair: &TokenizedPair) -> Option<ScoredPair> {
        let of = |sequence| Some(self.get(&SequenceKey::from(sequence))?.to_vec());
        Some(ScoredPair {
            chosen_token_logps: of(&pair.chosen)?,
            rejected_token_logps: of(&pair.rejected)?,
        })
    }

    /// Writes what is new, together with what another run has written meanwhile.
    ///
    /// # Errors
    /// What the file system refuses; the old file is then still there.
    pub fn save(&mut self) -> Result<(), TrainError> {
        let Some((path, header)) = self.file.as_ref().filter(|_| self.unsaved > 0) else {
            return Ok(());
        };
        let dir = path.parent().unwrap_or(path);
        fs::create_dir_all(dir).map_err(|e| TrainError::io("create", dir, e))?;
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(|e| TrainError::io("create", &lock_path, e))?;
        // A file system without locks costs at worst the records of one of two runs, never a whole file.
        let _ = lock.lock();
        if let Ok(Some(others)) = read(path, header) {
            for (key, place) in others.places {
                let values = others.values[place].iter().copied();
                self.records.insert(key, values);
            }
        }
        write_file_atomic(path, &image(header, &self.records))?;
        self.unsaved = 0;
        Ok(())
    }
}

/// The bytes of a file.
fn image(header: &Header, records: &Records) -> Vec<u8> {
    let header = serde_json::to_vec(header).expect("two strings serialise");
    let size = records.values.len() * 8 + records.places.len() * (DIGEST + 4);
    let mut out = Vec::with_capacity(size + header.len() + 128);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(header.len() as u32).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&(records.places.len() as u64).to_le_bytes());
    let mut places: Vec<_> = records.places.iter().collect();
    places.sort_by_key(|(_, place)| place.start); // the same records always give the same bytes
    for (key, place) in places {
        out.extend_from_slice(&key.0);
        out.extend_from_slice(&(place.len() as u32).to_le_bytes());
        for value in &records.values[place.clone()] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    let digest = Sha256::digest(&out);
    out.extend_from_slice(&digest);
    out
}

/// Why a file is not used.
enum Unread {
    /// Its content; a new one can take its place.
    Damaged(String),
    /// The file system does not let it be read, and would hardly let it be written.
    Refused(std::io::Error),
}

/// The records of a file; nothing when there is no file; the reason when it is not to be used.
fn read(path: &Path, expected: &Header) -> Result<Option<Records>, Unread> {
    match unbraid_input::read(path) {
        Ok(bytes) => parse(&bytes, expected).map(Some).map_err(Unread::Damaged),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unread::Refused(error)),
    }
}

/// The records of a file's bytes.
fn parse(bytes: &[u8], expected: &Header) -> Result<Records, String> {
    let mut rest = bytes;
    if take(&mut rest, MAGIC.len())? != MAGIC {
        return Err("it is no reference cache".into());
    }
    let format = number(&mut rest)?;
    if format != FORMAT {
        return Err(format!("it has format {format}, this program {FORMAT}"));
    }
    let body = bytes.len().checked_sub(DIGEST).ok_or(CUT)?;
    if Sha256::digest(&bytes[..body])[..] != bytes[body..] {
        return Err("its checksum does not fit: it is damaged or cut short".into());
    }
    let length = number(&mut rest)? as usize;
    let header: Header =
        serde_json::from_slice(take(&mut rest, length)?).map_err(|e| format!("its header: {e}"))?;
    if header != *expected {
        return Err(format!(
            "it belongs to model {} on {}, this is model {} on {}",
            header.model, header.backend, expected.model, expected.backend
        ));
    }
    let count = take(&mut rest, 8)?;
    let count = u64::from_le_bytes(count.try_into().expect("8 bytes were taken"));
    let mut records = Records::default();
    for _ in 0..count {
        let key = take(&mut rest, DIGEST)?;
        let key = SequenceKey(key.try_into().expect("32 bytes were taken"));
        let tokens = number(&mut rest)? as usize;
        let values = take(&mut rest, tokens.checked_mul(8).ok_or(CUT)?)?;
        let (values, _) = values.as_chunks::<8>();
        records.insert(key, values.iter().map(|&v| f64::from_le_bytes(v)));
    }
    if rest.len() != DIGEST {
        return Err("it has bytes behind its last record".into());
    }
    Ok(records)
}

const CUT: &str = "it is cut short";

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest.split_at_checked(len).ok_or(CUT)?;
    *rest = left;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Result<u32, String> {
    let bytes = take(rest, 4)?;
    Ok(u32::from_le_bytes(
        bytes.try_into().expect("4 bytes were taken"),
    ))
}

/// Scores under `model` those of `sequences` that `cache` does not know, each distinct one once, and saves.
///
/// Neighbours with one prompt (the completions of a pair) go through the model as one tree. Batches are cut as if
/// nothing were known, and one that misses a sequence is scored whole: so a pass that was stopped half-way and taken
/// up again gives the same bits as one that was not. `on_batch` hears how many of `sequences` are done and may stop
/// by returning false, and the model's token may cancel it; what was scored until then is saved. Returns whether all
/// are known. A cache that cannot be saved has a [`ReferenceCache::note`] from then on.
pub fn score_reference<'a, B: Backend>(
    model: &LanguageModel<B>,
    sequences: impl IntoIterator<Item = &'a TokenizedSequence>,
    cache: &mut ReferenceCache,
    mut on_batch: impl FnMut(usize) -> bool,
) -> bool {
    let trees = trees(sequences);
    let (mut left, mut done, mut saved) = (trees.as_slice(), 0, Instant::now());
    while !left.is_empty() {
        let (batch, rest) = left.split_at(batch_len(left));
        if !is_known(batch, cache) && Cancel::catch(|| score(model, batch, cache)).is_none() {
            break;
        }
        left = rest;
        done += batch.iter().map(|tree| tree.repeats).sum::<usize>();
        if saved.elapsed() > SAVE_EVERY {
            cache.keep();
            saved = Instant::now();
        }
        if !on_batch(done) {
            break;
        }
    }
    cache.keep();
    is_known(left, cache)
}

fn is_known(trees: &[Tree<'_>], cache: &ReferenceCache) -> bool {
    let mut sequences = trees.iter().flat_map(|tree| &tree.sequences);
    sequences.all(|(key, _)| cache.get(key).is_some())
}

/// Scores one batch.
fn score<B: Backend>(model: &LanguageModel<B>, trees: &[Tree<'_>], cache: &mut ReferenceCache) {
    let mut forest = Forest::new();
    for tree in trees {
        let sequences = tree.sequences.iter().map(|(_, s)| Sequence {
            ids: &s.ids,
            scored_from: s.prompt_len,
        });
        let sequences: Vec<Sequence<'_>> = sequences.collect();
        forest.add_tree(&sequences, true);
    }
    let batch = Batch::new(&*model.backend, forest);
    let logps = model.token_logps(&batch);
    let keys = trees.iter().flat_map(|tree| &tree.sequences);
    for ((key, _), response) in keys.zip(&batch.forest.responses) {
        cache.insert(*key, &logps[response.targets.clone()]);
    }
}

/// Sequences with one prompt that go through the model together.
struct Tree<'a> {
    sequences: Vec<(SequenceKey, &'a TokenizedSequence)>,
    /// How many of the given sequences they stand for.
    repeats: usize,
}

impl<'a> Tree<'a> {
    fn prompt(&self) -> &'a [u32] {
        let (_, first) = self.sequences[0];
        &first.ids[..first.prompt_len]
    }
}

/// The distinct sequences, in the order of their first appearance.
fn trees<'a>(sequences: impl IntoIterator<Item = &'a TokenizedSequence>) -> Vec<Tree<'a>> {
    let mut trees: Vec<Tree<'a>> = Vec::new();
    let mut seen: HashMap<SequenceKey, usize> = HashMap::new();
    // Only direct neighbours are joined: a prompt that comes back later is computed again rather than searched for.
    let mut follows = false;
    for sequence in sequences {
        let key = SequenceKey::from(sequence);
        if let Some(&at) = seen.get(&key) {
            trees[at].repeats += 1;
            follows = false;
            continue;
        }
        let prompt = &sequence.ids[..sequence.prompt_len];
        if !(follows && trees.last().is_some_and(|tree| tree.prompt() == prompt)) {
            trees.push(Tree {
                sequences: Vec::new(),
                repeats: 0,
            });
        }
        let at = trees.len() - 1;
        trees[at].sequences.push((key, sequence));
        trees[at].repeats += 1;
        seen.insert(key, at);
        follows = true;
    }
    trees
}

/// How many trees make a batch of about [`ROWS_PER_BATCH`] rows; at least one.
fn batch_len(trees: &[Tree<'_>]) -> usize {
    let mut rows = 0;
    let fitting = trees.iter().take_while(|tree| {
        let sequences = tree.sequences.iter();
        rows += sequences.map(|(_, s)| s.ids.len()).sum::<usize>();
        rows <= ROWS_PER_BATCH
    });
    fitting.count().max(1)
}
