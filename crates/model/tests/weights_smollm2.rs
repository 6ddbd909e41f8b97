//! SmolLM2-135M in both layouts: all tensors equal, bit for bit.
//!
//! Runs where the variable UNBRAID_SMOLLM2 names a directory that holds a `.gguf` file and `hf/`,
//! the same weights dequantised by the Python package `gguf` in Hugging Face layout.

use std::path::PathBuf;

use unbraid_model::config::ModelConfig;
use unbraid_model::weights::Weights;

#[test]
fn smollm2_is_the_same_model_in_both_layouts() {
    let Some(root) = std::env::var_os("UNBRAID_SMOLLM2").map(PathBuf::from) else {
        println!("skipped: UNBRAID_SMOLLM2 names no directory");
        return;
    };
    let entries = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let gguf = entries
        .into_iter()
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .expect("a .gguf file in the directory");
    let [gguf, directory] = [gguf, root.join("hf")].map(|path| Weights::open(&path).unwrap());
    assert!(gguf.names().eq(directory.names()));
    for name in directory.names() {
        let shape = directory.shape(name).unwrap();
        let [a, b] = [&gguf, &directory].map(|w| w.read_f32(name, shape).unwrap());
        let differs = a
            .iter()
            .zip(&b)
            .position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(differs, None, "{name}");
    }

    let [a, b] = [&gguf, &directory].map(|w| match ModelConfig::for_weights(w).unwrap() {
        ModelConfig::Llama(config) => config,
        other => panic!("{other:?}"),
    });
    for (key, value) in &b.raw {
        assert_eq!(a.raw.get(key), Some(value), "{key}");
    }
    assert_eq!(gguf.gguf_tokenizer().unwrap().tokens.len(), a.vocab_size);
}
