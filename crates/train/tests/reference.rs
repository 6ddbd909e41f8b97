//! The reference cache: exact values, files that are damaged or of another model, two runs at once, stopping half-way.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_model::LanguageModel;
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::CpuBackend;
use unbraid_train::{ReferenceCache, ScoredPair, SequenceKey, score_pairs, score_reference};

fn model() -> LanguageModel<CpuBackend> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models/llama");
    LanguageModel::load(Arc::new(CpuBackend::new()), &dir).unwrap()
}

fn sequence(ids: impl IntoIterator<Item = u32>, prompt_len: usize) -> TokenizedSequence {
    TokenizedSequence {
        ids: ids.into_iter().collect(),
        prompt_len,
    }
}

fn key(n: u32) -> SequenceKey {
    SequenceKey::from(&sequence([n, n + 1], 1))
}

/// Pairs of about 40 rows, enough for several batches, with a few repeated.
fn pairs() -> Vec<TokenizedPair> {
    let pair = |index: usize| {
        let n = (index % 150) as u32;
        let prompt: Vec<u32> = (0..20).map(|i| (i * 7 + n) % 101).collect();
        let side = |k: u32| {
            let own = (0..8 + n % 5).map(|i| (i * k + n) % 101);
            sequence(prompt.iter().copied().chain(own), prompt.len())
        };
        TokenizedPair {
            index,
            chosen: side(3),
            rejected: side(5),
            weight: 1.0,
            text: None,
        }
    };
    (0..160).map(pair).collect()
}

fn both(pairs: &[TokenizedPair]) -> Vec<&TokenizedSequence> {
    pairs
        .iter()
        .flat_map(|pair| [&pair.chosen, &pair.rejected])
        .collect()
}

fn of_all(cache: &ReferenceCache, pairs: &[TokenizedPair]) -> Vec<ScoredPair> {
    pairs.iter().map(|pair| cache.pair(pair).unwrap()).collect()
}

#[test]
fn values_come_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let values = [
        -0.1,
        -1e-300,
        f64::MIN_POSITIVE / 3.0,
        -0.0,
        f64::NAN,
        f64::NEG_INFINITY,
    ];
    let mut cache = ReferenceCache::open(&dir.path().join("new/dir"), "model", "cpu");
    assert!(cache.is_empty() && cache.note().is_none());
    cache.insert(key(1), &values);
    cache.insert(key(2), &[]);
    cache.insert(key(1), &[9.0]);
    cache.save().unwrap();
    let again = ReferenceCache::open(&dir.path().join("new/dir"), "model", "cpu");
    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(
        bits(again.get(&key(1)).unwrap()),
        bits(&values),
        "the first value stays"
    );
    assert_eq!(again.get(&key(2)), Some(&[][..]));
    assert_eq!(
        (again.get(&key(3)), again.len(), again.note()),
        (None, 2, None)
    );
}

#[test]
fn keys_tell_prompts_and_completions_apart() {
    let of =
        |ids: &[u32], prompt_len| SequenceKey::from(&sequence(ids.iter().copied(), prompt_len));
    assert_eq!(of(&[1, 2, 3], 1), of(&[1, 2, 3], 1));
    assert_ne!(of(&[1, 2, 3], 1), of(&[1, 2, 3], 2));
    assert_ne!(of(&[1, 2, 3], 1), of(&[1, 2, 4], 1));
}

/// A cache file with one record, and its path.
fn saved(dir: &Path) -> PathBuf {
    let mut cache = ReferenceCache::open(dir, "model", "cpu");
    cache.insert(key(1), &[-1.0, -2.0]);
    cache.save().unwrap();
    cache.path().unwrap().to_owned()
}

#[test]
fn a_damaged_or_cut_file_is_refused_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path());
    let good = fs::read(&path).unwrap();
    let note = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let cache = ReferenceCache::open(dir.path(), "model", "cpu");
        assert!(cache.is_empty());
        cache.note().unwrap().to_owned()
    };
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        let note = note(&damaged);
        assert!(
            note.contains("is not used and will be written anew"),
            "{at}: {note}"
        );
        assert!(!note.contains("model model"), "{at}: {note}");
    }
    for cut in 0..good.len() {
        note(&good[..cut]);
    }
    let longer = [&good[..], b"x"].concat();
    assert!(note(&longer).ends_with("its checksum does not fit: it is damaged or cut short"));
    let mut newer = good.clone();
    newer[8] = 2;
    assert!(note(&newer).ends_with("it has format 2, this program 1"));

    assert_eq!(saved(dir.path()), path);
    assert_eq!(fs::read(&path).unwrap(), good, "rebuilt");
}

#[test]
fn another_models_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path());
    let other = ReferenceCache::open(dir.path(), "other", "cpu");
    assert!(
        other.is_empty() && other.note().is_none(),
        "it has a file of its own"
    );
    fs::copy(&path, other.path().unwrap()).unwrap();
    let other = ReferenceCache::open(dir.path(), "other", "cpu");
    assert!(other.is_empty());
    let note = other.note().unwrap();
    assert!(
        note.ends_with("it belongs to model model on cpu, this is model other on cpu"),
        "{note}"
    );
    let backend = ReferenceCache::open(dir.path(), "model", "gpu");
    assert!(backend.is_empty(), "other arithmetic, other numbers");
}

#[test]
fn two_runs_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for run in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                let mut cache = ReferenceCache::open(dir, "model", "cpu");
                for n in 0..20 {
                    cache.insert(key(100 * run + n), &[f64::from(n)]);
                    cache.save().unwrap();
                }
            });
        }
    });
    let all = ReferenceCache::open(dir.path(), "model", "cpu");
    assert_eq!((all.len(), all.note()), (80, None));
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "the file and its lock, no temporary names");
}

#[test]
fn scores_are_those_of_the_pairs_and_each_is_computed_once() {
    let (model, pairs) = (model(), pairs());
    let mut cache = ReferenceCache::in_memory();
    let mut heard = Vec::new();
    let complete = score_reference(&model, both(&pairs), &mut cache, |done| {
        heard.push(done);
        true
    });
    assert!(complete);
    assert_eq!(cache.len(), 300, "150 distinct pairs");
    assert_eq!(heard.last(), Some(&320));
    assert!(heard.len() > 2 && heard.is_sorted(), "{heard:?}");
    let all: Vec<&TokenizedPair> = pairs.iter().collect();
    let direct = score_pairs(&model, &all, |_| true);
    for (cached, direct) in of_all(&cache, &pairs).iter().zip(&direct) {
        let tokens =
            |s: &ScoredPair| [&s.chosen_token_logps[..], &s.rejected_token_logps[..]].concat();
        for (a, b) in tokens(cached).iter().zip(tokens(direct)) {
            // Batches differ after the repeated pairs.
            assert!((a - b).abs() < 2e-5, "{a} {b}");
        }
    }
}

#[test]
fn a_pass_that_was_stopped_ends_with_the_same_bits() {
    let (model, pairs) = (model(), pairs());
    let mut whole = ReferenceCache::in_memory();
    score_reference(&model, both(&pairs), &mut whole, |_| true);

    let dir = tempfile::tempdir().unwrap();
    let open = || ReferenceCache::open(dir.path(), "model", "cpu");
    let stopped = score_reference(&model, both(&pairs), &mut open(), |_| false);
    assert!(!stopped);
    let known = open().len();
    assert!(known > 0 && known < 300, "{known}");
    let mut resumed = open();
    assert!(score_reference(&model, both(&pairs), &mut resumed, |_| {
        true
    }));
    assert_eq!(of_all(&resumed, &pairs), of_all(&whole, &pairs));

    // From the file alone: nothing is scored, so another model's weights would not matter.
    let mut full = open();
    assert!(score_reference(&model, both(&pairs), &mut full, |_| true));
    assert_eq!(of_all(&full, &pairs), of_all(&whole, &pairs));
}

#[test]
fn known_values_are_not_computed_again() {
    let (model, pairs) = (model(), pairs());
    let mut cache = ReferenceCache::in_memory();
    let planted = vec![-123.0; pairs[0].chosen.completion().len()];
    cache.insert(SequenceKey::from(&pairs[0].chosen), &planted);
    score_reference(&model, both(&pairs), &mut cache, |_| true);
    assert_eq!(cache.pair(&pairs[0]).unwrap().chosen_token_logps, planted);
}
