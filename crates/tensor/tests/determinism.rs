//! The fast backend gives the same bits again for the same number of threads, and for any number of threads in
//! the operations that split no sum among threads.

mod common;

use common::{Forest, Random, Tree, attention_shape, narrowed, rope_table};
use std::collections::BTreeMap;
use unbraid_tensor::{
    Adafactor, Adamw, Backend, CpuBackend, Gate, Gemm, HeadBackward, Mat, MatMut,
};

/// Results by name, as bits: equality is of bits, and NaN equals itself.
type Bits = BTreeMap<&'static str, Vec<u64>>;

struct Run {
    b: CpuBackend,
    random: Random,
    bits: Bits,
}

impl Run {
    fn new() -> Self {
        Run {
            b: CpuBackend::new(),
            random: Random::new(60),
            bits: Bits::new(),
        }
    }

    fn values(&mut self, n: usize) -> <CpuBackend as Backend>::Buffer {
        self.b.upload_f64(&self.random.values(n))
    }

    fn keep(&mut self, name: &'static str, x: &<CpuBackend as Backend>::Buffer) {
        let bits = self.b.download_f64(x).iter().map(|x| x.to_bits()).collect();
        assert!(self.bits.insert(name, bits).is_none(), "{name} twice");
    }

    fn keep_scalars(&mut self, name: &'static str, x: &[f64]) {
        self.bits
            .insert(name, x.iter().map(|x| x.to_bits()).collect());
    }
}

/// Sizes large enough that every operation has several pieces.
const N: usize = 300;
const D: usize = 130;

fn linear(run: &mut Run) {
    let (a, w) = (run.values(N * D), run.values(D * N));
    for (name, shape) in [
        ("gemm", Gemm::replace(N, N, D)),
        ("gemm adding", Gemm::add(N, N, D)),
    ] {
        let mut c = run.values(N * N);
        run.b.gemm(
            shape,
            Mat::rows(&a, 0, D),
            Mat::rows(&w, 0, N),
            MatMut::rows(&mut c, 0, N),
        );
        run.keep(name, &c);
    }
    let mut outer = run.values(D * D);
    let long = Gemm::add(D, D, N);
    let (left, right) = (Mat::rows(&a, 0, D).t(), Mat::rows(&w, 0, D));
    run.b
        .gemm(long, left, right, MatMut::rows(&mut outer, 0, D));
    run.keep("gemm of a weight gradient", &outer);
    let dot = run.b.dot(&a, 0, &w, 0, N * D);
    run.keep_scalars("dot", &[dot]);
    let (mut sum, mut columns) = (run.values(N * D), run.values(D));
    let (xx, yy, xy) = run.b.gram_and_add(&a, &w, 0.5, 2.0, Some(&mut sum));
    run.keep_scalars("gram", &[xx, yy, xy]);
    run.keep("gram's sum", &sum);
    run.b.column_sum(0.5, &a, 0..N, D, &mut columns);
    run.keep("column_sum", &columns);
}

fn embedding(run: &mut Run) {
    let rows = run.random.below(2 * N, 50);
    let index = run.b.index(&rows);
    let (x, coefficients, mut out) = (run.values(2 * N * D), run.values(2 * N), run.values(50 * D));
    run.b
        .scatter_add(&x, &index, Some(&coefficients), &mut out, D);
    run.keep("scatter_add", &out);
    let inner = run.b.lookup_inner(&x, &index, 0..N, N..2 * N, D);
    run.keep_scalars("lookup_inner", &[inner]);
}

fn pointwise(run: &mut Run) {
    let (x, w, bias, dy) = (
        run.values(N * D),
        run.values(D),
        run.values(D),
        run.values(N * D),
    );
    let (mut y, mut dx, mut dw) = (run.values(N * D), run.values(N * D), run.values(N * D));
    let cache = run.b.layer_norm(&x, &w, &bias, 1e-5, &mut y, N, D);
    run.keep("layer_norm", &y);
    run.b
        .norm_backward(&x, &w, 0.0, &cache, None, &dy, &mut dx, Some(&mut dw), N, D);
    run.keep("norm dx", &dx);
    run.keep("norm dw", &dw);
    let mut d_up = run.values(N * D);
    run.b
        .glu_backward(Gate::Silu, &x, &y, None, &mut dx, &mut d_up, D);
    run.keep("glu gate", &dx);
    run.b.dropout(&x, None, 3, 0.1, &mut dx, N, D);
    run.keep("dropout", &dx);
    run.b.gelu(&x, &mut y, true);
    run.keep("gelu", &y);
    let positions = run.random.below(N, 40);
    let (positions, table) = (
        run.b.index(&positions),
        run.b.upload_f64(&rope_table(40, D)),
    );
    run.b.rope(&mut y, &positions, &table, 1, D, D, false);
    run.keep("rope", &y);
    let (mut m, mut v) = (run.b.zeros(N * D), run.b.zeros(N * D));
    let step = Adamw {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 1.0,
    };
    run.b.adamw(&step, &mut y, &x, &mut m, &mut v);
    run.keep("adamw", &y);
}

fn optimizers(run: &mut Run) {
    let (grad, mut param) = (run.values(N * D), run.values(N * D));
    let mut m = run.values(N * D);
    run.b
        .lion(0.1, 0.1, 0.9, 0.99, 1.0, &mut param, &grad, &mut m);
    run.keep("lion", &param);
    let step = Adafactor {
        learning_rate: 0.1,
        decay_rate: -0.8,
        epsilon: 1e-30,
        clip_threshold: 1.0,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 1.0,
    };
    let (mut rows, mut cols) = (run.b.zeros(N), run.b.zeros(D));
    run.b
        .adafactor(&step, N, D, &mut param, &grad, &mut rows, &mut cols);
    run.keep("adafactor", &param);
    run.keep("adafactor columns", &cols);
    let mut state = run.b.zeros(N * D);
    run.b.adafactor_vector(&step, &mut param, &grad, &mut state);
    run.keep("adafactor of a vector", &param);
}

fn attention(run: &mut Run) {
    let forest = Forest(vec![
        Tree::new(70, &[30, 66]),
        Tree::new(20, &[65]),
        Tree::new(5, &[9, 9]),
    ]);
    let (layout, n) = (forest.layout(), forest.rows());
    let shape = narrowed(attention_shape(6, 3, 16), (Some(80), Some(2.0)));
    let (q, k, v) = (run.values(n * 96), run.values(n * 48), run.values(n * 48));
    let (mut out, d_out) = (run.values(n * 96), run.values(n * 96));
    let lse = run.b.attention(&q, &k, &v, &layout, shape, &mut out);
    run.keep("attention", &out);
    run.keep("attention lse", &lse);
    let (mut dq, mut dk, mut dv) = (run.values(n * 96), run.values(n * 48), run.values(n * 48));
    run.b.attention_backward(
        &q, &k, &v, &lse, &layout, shape, &d_out, &mut dq, &mut dk, &mut dv,
    );
    run.keep("attention dq", &dq);
    run.keep("attention dk", &dk);
    run.keep("attention dv", &dv);
}

fn head(run: &mut Run) {
    let (m, d, v) = (60, 40, 9_000);
    let (h, w, seeds) = (run.values(m * d), run.values(v * d), run.values(m));
    let targets = run.random.below(m, v);
    let targets = run.b.index(&targets);
    let (logps, lse) = run.b.head_logps(&h, &w, &targets, None, m, d, v);
    run.keep("head logps", &logps);
    let squares = run.b.head_log_squares(&h, &w, &lse, None, m, d, v);
    run.keep("head log squares", &squares);
    let along = run.values(v * d);
    let args = HeadBackward {
        h: &h,
        w: &w,
        lse: &lse,
        softcap: None,
        logits: None,
        targets: &targets,
        seeds: &seeds,
        coefficients: None,
        dh: None,
        dw: None,
        inner: &[],
        m,
        d,
        v,
    };
    let direction = run.b.head_direction(&args, &along);
    run.keep_scalars("head direction", &direction);
    let (mut dh, mut dw) = (run.values(m * d), run.values(v * d));
    let inner = run.b.head_backward(&mut HeadBackward {
        h: &h,
        w: &w,
        lse: &lse,
        softcap: None,
        logits: None,
        targets: &targets,
        seeds: &seeds,
        coefficients: None,
        dh: Some(&mut dh),
        dw: Some(&mut dw),
        inner: &[(0..30, 30..60)],
        m,
        d,
        v,
    });
    run.keep_scalars("head inner", &inner);
    run.keep("head dh", &dh);
    run.keep("head dw", &dw);
}

fn everything(threads: usize) -> Bits {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("a few threads can be had").install(|| {
        let mut run = Run::new();
        linear(&mut run);
        embedding(&mut run);
        pointwise(&mut run);
        optimizers(&mut run);
        attention(&mut run);
        head(&mut run);
        run.bits
    })
}

/// Names whose results differ.
fn differing(a: &Bits, b: &Bits) -> Vec<&'static str> {
    assert!(a.keys().eq(b.keys()));
    a.keys()
        .filter(|&name| a[name] != b[name])
        .copied()
        .collect()
}

#[test]
fn the_same_number_of_threads_gives_the_same_bits() {
    for threads in [1, 2, 3] {
        let first = everything(threads);
        for _ in 0..3 {
            assert_eq!(
                differing(&first, &everything(threads)),
                [""; 0],
                "{threads} threads"
            );
        }
    }
}

/// The sums of these operations are cut at fixed places or not at all. The matrix products and the head are
/// left out: how they are cut among threads is the gemm crate's business.
#[test]
fn most_operations_do_not_depend_on_the_number_of_threads() {
    let one = everything(1);
    for threads in [2, 3] {
        let differing = differing(&one, &everything(threads));
        println!("{threads} threads against one, differing: {differing:?}");
        let free = |name: &&&str| !name.starts_with("gemm") && !name.starts_with("head");
        assert_eq!(differing.iter().filter(free).count(), 0, "{differing:?}");
    }
}

#[test]
fn a_difference_would_be_noticed() {
    let (one, mut other) = (everything(1), everything(1));
    other.get_mut("dot").expect("dot is among the results")[0] ^= 1;
    assert_eq!(differing(&one, &other), ["dot"]);
}
