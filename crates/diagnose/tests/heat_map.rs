//! Token heat maps against PyTorch (`parity/models`, token by token), and that blocks of walks change nothing.
//!
//! Tolerances as in `crates/geometry/tests/parity.rs`: 1e-9 of ‖g_i‖‖g_j‖ in f64, 1e-4 in f32.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_diagnose::{HeatMap, HeatMapSettings, heat_map, heat_map_in_walks, measure_pairs};
use unbraid_model::LanguageModel;
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};

const CASES: [&str; 9] = [
    "gpt2",
    "llama",
    "llama_tied",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt_neox",
    "gpt_neox_sequential",
];

const ALL: HeatMapSettings = HeatMapSettings {
    max_tokens: usize::MAX,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models")
}

fn golden(case: &str) -> Value {
    serde_json::from_slice(&std::fs::read(root().join(case).join("golden.json")).unwrap()).unwrap()
}

fn model<B: Backend>(backend: B, case: &str) -> LanguageModel<B> {
    LanguageModel::load(Arc::new(backend), &root().join(case)).unwrap()
}

fn pair(golden: &Value, i: usize) -> TokenizedPair {
    let pair = &golden["pairs"][i];
    let ids = |key: &str| -> Vec<u32> {
        let list = pair[key].as_array().unwrap().iter();
        list.map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let prompt = ids("prompt");
    let sequence = |key| TokenizedSequence {
        ids: [prompt.clone(), ids(key)].concat(),
        prompt_len: prompt.len(),
    };
    TokenizedPair {
        index: i,
        chosen: sequence("chosen"),
        rejected: sequence("rejected"),
        weight: 1.0,
        text: None,
    }
}

/// ⟨g_i, g_j⟩ over all groups.
fn inner(map: &HeatMap, i: usize, j: usize) -> f64 {
    let n = map.chosen + map.rejected;
    map.groups.iter().map(|g| g[i * n + j]).sum()
}

fn against_pytorch<B: Backend>(backend: B, case: &str, tolerance: f64) {
    let (model, golden) = (model(backend, case), golden(case));
    let map = heat_map(&model, &pair(&golden, 0), &ALL, || true).unwrap();
    let want = golden["token_inner"].as_array().unwrap();
    let n = map.chosen + map.rejected;
    assert_eq!(want.len(), n);
    let want = |i: usize, j: usize| want[i][j].as_f64().unwrap();
    for i in 0..n {
        for j in 0..n {
            let scale = (want(i, i) * want(j, j)).sqrt();
            let error = (inner(&map, i, j) - want(i, j)).abs();
            assert!(
                error <= tolerance * scale,
                "{case} [{i}, {j}]: {} against {}",
                inner(&map, i, j),
                want(i, j)
            );
        }
    }
}

#[test]
fn token_gradients_agree_with_pytorch() {
    for case in CASES {
        against_pytorch(NaiveBackend, case, 1e-9);
        against_pytorch(CpuBackend::new(), case, 1e-4);
    }
}

#[test]
fn walks_of_a_few_tokens_give_the_same_matrix() {
    for case in ["gpt2", "llama_tied"] {
        let (model, golden) = (model(NaiveBackend, case), golden(case));
        let pair = pair(&golden, 0);
        let whole = heat_map(&model, &pair, &ALL, || true).unwrap();
        for rows in [1, 40, 60] {
            let parts = heat_map_in_walks(&model, &pair, &ALL, rows, || true).unwrap();
            let both = whole
                .groups
                .iter()
                .flatten()
                .zip(parts.groups.iter().flatten());
            for (a, b) in both {
                assert!((a - b).abs() <= 1e-12 * a.abs().max(1.0), "{a} against {b}");
            }
        }
    }
}

#[test]
fn a_map_of_many_walks_can_be_stopped_between_them() {
    let (model, golden) = (model(NaiveBackend, "gpt2"), golden("gpt2"));
    let mut walks = 0;
    let stopped = heat_map_in_walks(&model, &pair(&golden, 0), &ALL, 40, || {
        walks += 1;
        walks < 2
    });
    assert_eq!((stopped, walks), (None, 2));
}

/// Σ_i g_i = g_w: the blocks of the map add up to the pair's own numbers, group by group.
#[test]
fn tokens_add_up_to_the_pair() {
    for case in CASES {
        let (model, golden) = (model(NaiveBackend, case), golden(case));
        let pair = pair(&golden, 1);
        let map = heat_map(&model, &pair, &ALL, || true).unwrap();
        let measured = measure_pairs(&model, &[&pair]);
        let n = map.chosen + map.rejected;
        for (g, want) in measured.pairs[0].groups.iter().enumerate() {
            let sum = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| -> f64 {
                rows.flat_map(|i| columns.clone().map(move |j| (i, j)))
                    .map(|(i, j)| map.groups[g][i * n + j])
                    .sum()
            };
            let (w, l) = (0..map.chosen, map.chosen..n);
            let scale = measured.pairs[0].gram.ww + measured.pairs[0].gram.ll;
            for (got, want) in [
                (sum(w.clone(), w.clone()), want.ww),
                (sum(l.clone(), l.clone()), want.ll),
                (sum(w, l), want.wl),
            ] {
                assert!(
                    (got - want).abs() < 1e-10 * scale,
                    "{case}: {got} against {want}"
                );
            }
        }
    }
}

#[test]
fn the_first_tokens_of_a_cut_map_are_those_of_the_whole() {
    let (model, golden) = (model(NaiveBackend, "llama"), golden("llama"));
    let pair = pair(&golden, 0);
    let cosines = |settings| {
        heat_map(&model, &pair, settings, || true)
            .unwrap()
            .cosines(|_| true)
    };
    let whole = cosines(&ALL);
    let cut = cosines(&HeatMapSettings { max_tokens: 2 });
    assert_eq!((cut.cosine.len(), cut.cosine[0].len()), (2, 2));
    for i in 0..2 {
        for j in 0..2 {
            assert!((cut.cosine[i][j] - whole.cosine[i][j]).abs() < 1e-12);
        }
    }
}
