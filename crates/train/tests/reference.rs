//! x
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_model::{Batch, Forest, LanguageModel, Sequence};
use unbraid_tensor::CpuBackend;
#[test]
fn probe() {
    for (dir, v) in [("../../parity/models/gpt2", 100), ("../../parity/models/llama", 100), ("/tmp/peers/smol/hf", 40000)] {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(dir);
        let model = LanguageModel::load(Arc::new(CpuBackend::new()), &dir).unwrap();
        let mut x = 1u64;
        let mut next = || { x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); ((x >> 33) % v) as u32 };
        let trees: Vec<[Vec<u32>; 2]> = (0..12).map(|i| { let p: Vec<u32> = (0..5 + i).map(|_| next()).collect();
            let mut a = p.clone(); a.extend((0..7).map(|_| next())); let mut b = p; b.extend((0..3 + i).map(|_| next())); [a, b] }).collect();
        let run = |which: &[usize], share: bool| -> Vec<Vec<f64>> {
            let mut f = Forest::new();
            for &w in which { let s: Vec<Sequence> = trees[w].iter().map(|ids| Sequence { ids, scored_from: 5 + w }).collect(); f.add_tree(&s, share); }
            let b = Batch::new(&*model.backend, f);
            let l = model.token_logps(&b);
            b.forest.responses.chunks(2).map(|r| [&l[r[0].targets.clone()], &l[r[1].targets.clone()]].concat()).collect()
        };
        let all: Vec<usize> = (0..12).collect();
        let whole = run(&all, true);
        let apart = run(&all, false);
        let d = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        let mut alone = 0.0f64; let mut share = 0.0f64; let mut half = 0.0f64;
        for w in 0..12 { alone = alone.max(d(&run(&[w], true)[0], &whole[w])); share = share.max(d(&apart[w], &whole[w])); }
        for (i, r) in run(&all[3..9], true).iter().enumerate() { half = half.max(d(r, &whole[3 + i])); }
        println!("{dir:?}: alone {alone:e} share {share:e} half {half:e}");
    }
}
