//! safetensors: round trips, shards, names, and each message.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is a failed test"
)]

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Value, json};
use unbraid_model::ModelError;
use unbraid_model::weights::{StoredDtype, Weights, save_safetensors, write_file_atomic};

/// A safetensors file from a header and data.
fn file(header: &Value, data: &[u8]) -> Vec<u8> {
    raw_file(&header.to_string(), data)
}

fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

fn open_bytes(bytes: &[u8]) -> Result<Weights, ModelError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    Weights::open(dir.path())
}

fn message(bytes: &[u8]) -> String {
    open_bytes(bytes).unwrap_err().to_string()
}

fn entry(dtype: &str, shape: &[usize], range: [usize; 2]) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": range})
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    [
        ("a", vec![2, 3]),
        ("b", vec![]),
        ("c", vec![0, 4]),
        ("d", vec![70_000]),
        ("e", vec![5]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .to_vec()
}

/// Values that bf16 cannot all hold.
fn values(tensors: &[(String, Vec<usize>)], i: usize) -> Vec<f32> {
    let count: usize = tensors[i].1.iter().product();
    (0..count)
        .map(|k| (k as f32 + 1.0) * (i as f32 + 0.1))
        .collect()
}

fn save(dir: &Path, dtype: StoredDtype, shard: u64) -> Vec<(String, Vec<usize>)> {
    let tensors = tensors();
    save_safetensors(dir, &tensors, |i| Ok(values(&tensors, i)), dtype, shard).unwrap();
    tensors
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read_back() {
    for (dtype, name) in [(StoredDtype::F32, "F32"), (StoredDtype::Bf16, "BF16")] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/er");
        let tensors = save(&out, dtype, u64::MAX);
        assert_eq!(files(&out), ["model.safetensors"]);
        let weights = Weights::open(&out).unwrap();
        assert!(
            weights
                .names()
                .eq(tensors.iter().map(|(name, _)| name.as_str()))
        );
        for (i, (tensor, shape)) in tensors.iter().enumerate() {
            let mut expected = values(&tensors, i);
            if dtype == StoredDtype::Bf16 {
                expected
                    .iter_mut()
                    .for_each(|x| *x = bf16::from_f32(*x).to_f32());
            }
            assert_eq!(
                weights.read_f32(tensor, shape).unwrap(),
                expected,
                "{tensor}"
            );
            assert_eq!(weights.stored_dtype(tensor), Some(name));
        }
    }
}

/// Ties go to the even neighbour: 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷, 1 + 3·2⁻⁸ between 1 + 2⁻⁷
/// and 1 + 2⁻⁶.
#[test]
fn bf16_is_rounded_to_nearest_even() {
    let dir = tempfile::tempdir().unwrap();
    let step = 2.0_f32.powi(-8);
    let given = vec![1.0 + step, 1.0 + 3.0 * step, 1.0 + 1.01 * step, -0.0];
    let tensors = [("x".to_owned(), vec![4])];
    let fetch = |_| Ok(given.clone());
    save_safetensors(dir.path(), &tensors, fetch, StoredDtype::Bf16, 100).unwrap();
    let got = Weights::open(dir.path())
        .unwrap()
        .read_f32("x", &[4])
        .unwrap();
    assert_eq!(got, [1.0, 1.0 + 4.0 * step, 1.0 + 2.0 * step, 0.0]);
    assert!(got[3].is_sign_negative());
}

#[test]
fn f16_and_bf16_files_are_read() {
    let numbers = [1.5_f32, -2.0, 65504.0, 6e-8];
    let mut data: Vec<u8> = numbers
        .iter()
        .flat_map(|x| f16::from_f32(*x).to_le_bytes())
        .collect();
    data.extend(
        numbers
            .iter()
            .flat_map(|x| bf16::from_f32(*x).to_le_bytes()),
    );
    let header = json!({"h": entry("F16", &[4], [0, 8]), "b": entry("BF16", &[4], [8, 16])});
    let weights = open_bytes(&file(&header, &data)).unwrap();
    let half = numbers.map(|x| f16::from_f32(x).to_f32());
    let brain = numbers.map(|x| bf16::from_f32(x).to_f32());
    assert_eq!(weights.read_f32("h", &[4]).unwrap(), half);
    assert_eq!(weights.read_f32("b", &[4]).unwrap(), brain);
}

#[test]
fn shards_hold_the_same_model() {
    let [one, many] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    save(one.path(), StoredDtype::F32, u64::MAX);
    // a, b, c take 24 + 4 + 0 bytes, d 280,000, e 20.
    let tensors = save(many.path(), StoredDtype::F32, 28);
    let shard = |n| format!("model-0000{n}-of-00003.safetensors");
    let index = "model.safetensors.index.json".to_owned();
    assert_eq!(
        files(many.path()),
        [shard(1), shard(2), shard(3), index.clone()]
    );
    let text = fs::read_to_string(many.path().join(&index)).unwrap();
    let parsed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed["metadata"]["total_size"], 280_048);
    assert_eq!(parsed["weight_map"]["d"], json!(shard(2)));
    let [a, b] = [one.path(), many.path()].map(|path| Weights::open(path).unwrap());
    for (name, shape) in &tensors {
        assert_eq!(
            a.read_f32(name, shape).unwrap(),
            b.read_f32(name, shape).unwrap()
        );
    }
    assert_eq!(a.fingerprint().unwrap(), b.fingerprint().unwrap());

    // Saving again in one file leaves nothing of the shards, and the other way round.
    save(many.path(), StoredDtype::F32, u64::MAX);
    assert_eq!(files(many.path()), ["model.safetensors"]);
    save(many.path(), StoredDtype::F32, 28);
    assert_eq!(files(many.path()).len(), 4);

    fs::remove_file(many.path().join(shard(2))).unwrap();
    let got = Weights::open(many.path()).unwrap_err().to_string();
    let expected =
        "shard \"model-00002-of-00003.safetensors\" is missing (1 tensors, among them d)";
    assert!(got.contains(expected), "{got}");
}

#[test]
fn an_index_must_be_true_and_stay_in_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let index = |map: Value| {
        let text = json!({"weight_map": map}).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        Weights::open(dir.path())
    };
    let whole = file(&json!({"a": entry("F32", &[1], [0, 4])}), &[0; 4]);
    fs::write(dir.path().join("s1"), &whole).unwrap();
    fs::write(dir.path().join("s2"), &whole).unwrap();
    assert!(index(json!({"a": "s1"})).is_ok());
    let absent = index(json!({"a": "s1", "b": "s1"}))
        .unwrap_err()
        .to_string();
    assert!(
        absent.contains("tensor b should be in \"s1\" and is not"),
        "{absent}"
    );
    let twice = index(json!({"a": "s1", "b": "s2"}))
        .unwrap_err()
        .to_string();
    assert!(
        twice.contains("s2: tensor a appears twice, also in "),
        "{twice}"
    );
    for outside in ["../s1", "/etc/passwd", "x/s1", "..", "", "a\\b"] {
        let got = index(json!({"a": outside})).unwrap_err().to_string();
        assert!(
            got.contains("is not a plain file name"),
            "{outside:?}: {got}"
        );
    }
    let got = index(json!([1])).unwrap_err().to_string();
    assert!(got.contains("invalid shard index file"), "{got}");
}

#[test]
fn the_fingerprint_sees_names_shapes_types_and_values() {
    let base = |name: &str, dtype: &str, shape: &[usize], data: &[u8]| {
        let header = json!({name: entry(dtype, shape, [0, data.len()])});
        open_bytes(&file(&header, data))
            .unwrap()
            .fingerprint()
            .unwrap()
    };
    let prints = [
        base("a", "F32", &[2], &[0; 8]),
        base("b", "F32", &[2], &[0; 8]),
        base("a", "F32", &[2, 1], &[0; 8]),
        base("a", "F16", &[4], &[0; 8]),
        base("a", "BF16", &[4], &[0; 8]),
        base("a", "F32", &[2], &[0, 0, 0, 0, 0, 0, 0, 1]),
    ];
    for (i, a) in prints.iter().enumerate() {
        assert_eq!(a.len(), 64);
        assert!(prints[..i].iter().all(|b| a != b), "{i}");
    }
}

#[test]
fn prefixes_and_buffers() {
    let header = json!({
        "wte.weight": entry("F32", &[1], [0, 4]),
        "h.0.ln_1.weight": entry("F32", &[1], [4, 8]),
        "h.0.attn.bias": entry("BOOL", &[1, 4], [8, 12]),
        "h.0.attn.masked_bias": entry("F32", &[1], [12, 16]),
        "layers.3.self_attn.rotary_emb.inv_freq": entry("F32", &[1], [16, 20]),
        "layers.3.self_attn.q_proj.weight": entry("F32", &[1], [20, 24]),
        "lm_head.weight": entry("F32", &[1], [24, 28]),
    });
    let weights = open_bytes(&file(&header, &[0; 28])).unwrap();
    assert_eq!(
        weights.names().collect::<Vec<_>>(),
        [
            "lm_head.weight",
            "model.layers.3.self_attn.q_proj.weight",
            "transformer.h.0.ln_1.weight",
            "transformer.wte.weight",
        ]
    );
    for name in ["wte.weight", "transformer.wte.weight"] {
        assert_eq!(weights.read_f32(name, &[1]).unwrap(), [0.0]);
    }
    // The attention's own bias is a parameter.
    let header = json!({"transformer.h.0.attn.c_attn.bias": entry("F32", &[1], [0, 4])});
    assert_eq!(
        open_bytes(&file(&header, &[0; 4])).unwrap().names().count(),
        1
    );
    // With and without prefix are one tensor.
    let header = json!({
        "wte.weight": entry("F32", &[1], [0, 4]),
        "transformer.wte.weight": entry("F32", &[1], [4, 8]),
    });
    assert!(
        message(&file(&header, &[0; 8])).contains("tensor transformer.wte.weight appears twice")
    );
}

#[test]
fn reading_says_what_is_wrong_with_a_tensor() {
    let nan = [1.0_f32, f32::NAN, f32::INFINITY];
    let mut data: Vec<u8> = nan.iter().flat_map(|x| x.to_le_bytes()).collect();
    data.extend(f32::NEG_INFINITY.to_le_bytes());
    data.extend([0; 8]);
    let header = json!({
        "model.norm.weight": entry("F32", &[3], [0, 12]),
        "inf": entry("F32", &[1], [12, 16]),
        "whole": entry("I64", &[1], [16, 24]),
    });
    let weights = open_bytes(&file(&header, &data)).unwrap();
    let read = |name, shape: &[usize]| weights.read_f32(name, shape).unwrap_err().to_string();
    let got = read("model.norm.weight", &[3]);
    assert!(
        got.contains("tensor model.norm.weight holds NaN at index 1"),
        "{got}"
    );
    assert!(read("inf", &[1]).contains("tensor inf holds -inf at index 0"));
    let got = read("model.norm.weight", &[1, 3]);
    assert!(
        got.contains("model.norm.weight has shape [3], expected [1, 3]"),
        "{got}"
    );
    let got = read("whole", &[1]);
    let expected =
        "tensor whole is stored as I64, which is not supported\nhint: supported are F32, F16, BF16";
    assert!(got.contains(expected), "{got}");
    let got = read("model.norms.weight", &[3]);
    let expected = "tensor model.norms.weight is missing (3 tensors present, the nearest name is model.norm.weight)";
    assert!(got.contains(expected), "{got}");
}

#[test]
fn damaged_headers_are_described() {
    let good = json!({"a": entry("F32", &[2], [0, 8])});
    let whole = file(&good, &[0; 8]);
    assert!(open_bytes(&whole).is_ok());
    let header = whole.len() - 16;
    for (bytes, expected) in [
        (vec![], "truncated: the file is empty".to_owned()),
        (
            whole[..5].to_vec(),
            "truncated: 5 bytes, the header's length alone takes 8".to_owned(),
        ),
        (
            whole[..20].to_vec(),
            format!("the header takes {header} bytes, 12 are there"),
        ),
        (
            whole[..whole.len() - 1].to_vec(),
            "the tensors take 8 bytes, 7 are there".to_owned(),
        ),
        (
            u64::MAX.to_le_bytes().to_vec(),
            "declares a header of 18446744073709551615".to_owned(),
        ),
        (
            raw_file("[]", &[]),
            "invalid safetensors file: header: ".to_owned(),
        ),
        (
            raw_file("{\"a\": nonsense}", &[]),
            "invalid safetensors file: header: ".to_owned(),
        ),
        (
            raw_file(&format!("{{\"a\":{0},\"a\":{0}}}", good["a"]), &[0; 8]),
            "tensor a appears twice".to_owned(),
        ),
        (
            file(&json!({"a": entry("F32", &[2], [0, 4])}), &[0; 8]),
            "invalid safetensors file".to_owned(), // shape and range disagree
        ),
        (
            file(
                &json!({"a": entry("F32", &[1], [0, 4]), "b": entry("F32", &[1], [2, 6])}),
                &[0; 6],
            ),
            "invalid safetensors file".to_owned(), // overlap
        ),
        (
            file(
                &json!({"a": entry("F32", &[usize::MAX, 2], [0, 8])}),
                &[0; 8],
            ),
            "invalid safetensors file".to_owned(), // the product overflows
        ),
        (
            file(
                &json!({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, u64::MAX]}}),
                &[0; 8],
            ),
            "the tensors take 18446744073709551615 bytes".to_owned(),
        ),
        (file(&good, &[0; 9]), "invalid safetensors file".to_owned()), // a byte too many
    ] {
        let got = message(&bytes);
        assert!(got.contains(&expected), "{got}");
    }
}

#[test]
fn what_is_no_model_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Weights::open(dir.path()).unwrap_err().to_string();
    assert!(open().contains("hint: expected model.safetensors or model.safetensors.index.json"));
    fs::write(dir.path().join("x.gguf"), "GGUF").unwrap();
    assert!(open().contains("hint: to use x.gguf, give its path"));
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let got = open();
    assert!(
        got.contains("hint: pytorch_model.bin is a PyTorch pickle")
            && got.contains("save_pretrained")
    );
    let got = Weights::open(&dir.path().join("absent"))
        .unwrap_err()
        .to_string();
    assert!(
        got.starts_with("cannot open ") && got.contains("absent: "),
        "{got}"
    );
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    let got = Weights::open(&dir.path().join("notes.txt"))
        .unwrap_err()
        .to_string();
    assert!(
        got.contains("hint: expected a directory, a .safetensors file or a .gguf file"),
        "{got}"
    );
}

#[test]
fn a_single_file_is_opened_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), StoredDtype::F32, u64::MAX);
    let weights = Weights::open(&dir.path().join("model.safetensors")).unwrap();
    assert_eq!(weights.dir(), dir.path());
    assert_eq!(weights.read_f32("e", &[5]).unwrap().len(), 5);
    assert!(weights.gguf_config().is_none() && weights.gguf_tokenizer().is_none());
}

#[test]
fn a_file_that_shrinks_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), StoredDtype::F32, u64::MAX);
    let weights = Weights::open(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1000)
        .unwrap();
    let got = weights.read_f32("d", &[70_000]).unwrap_err().to_string();
    assert!(
        got.contains("changed while in use: 1000 bytes now"),
        "{got}"
    );
    assert!(weights.fingerprint().is_err());
}

#[test]
fn failed_saves_leave_the_old_model_and_no_rubbish() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), StoredDtype::F32, u64::MAX);
    let before = fs::read(dir.path().join("model.safetensors")).unwrap();
    let tensors = tensors();
    let short = |i| {
        Ok(vec![
            0.0;
            if i == 3 { 1 } else { values(&tensors, i).len() }
        ])
    };
    for shard in [28, u64::MAX] {
        let error =
            save_safetensors(dir.path(), &tensors, short, StoredDtype::F32, shard).unwrap_err();
        assert_eq!(error.to_string(), "saving d: 1 values for shape [70000]");
        assert_eq!(files(dir.path()), ["model.safetensors"]);
        assert_eq!(
            fs::read(dir.path().join("model.safetensors")).unwrap(),
            before
        );
    }
    let twice = vec![tensors[0].clone(), tensors[0].clone()];
    let fetch = |_| Ok(vec![0.0; 6]);
    let error = save_safetensors(dir.path(), &twice, fetch, StoredDtype::F32, 1).unwrap_err();
    assert!(error.to_string().contains("tensor a appears twice"));

    let in_the_way = dir.path().join("model.safetensors");
    let error = save_safetensors(&in_the_way, &tensors, short, StoredDtype::F32, 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot create {}: ", in_the_way.display()))
    );
}

#[test]
fn small_files_are_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    write_file_atomic(&path, b"first").unwrap();
    write_file_atomic(&path, b"2").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"2");
    assert_eq!(files(dir.path()), ["config.json"]);
    let nowhere = dir.path().join("no/config.json");
    let error = write_file_atomic(&nowhere, b"x").unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot create {}: ", nowhere.display())),
        "{error}"
    );
}
