//! What the case table does not reach: products without cuBLASLt and in bf16, memory that runs out, the same twice, and a
//! layout whose segments share gradient rows. On the emulated machine, see `emulator/`.

#[path = "../../tensor/tests/common/mod.rs"]
mod common;
mod emulator;

use common::{Outputs, Random, compare};
use emulator::{Emulator, Limits};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use unbraid_cuda::{CudaBackend, Device, Failure, Precision};
use unbraid_tensor::{
    AttentionLayout, AttentionSegment, AttentionShape, Backend, Gemm, Mat, MatMut, NaiveBackend,
    Span,
};

static MACHINE: LazyLock<Arc<dyn Device>> = LazyLock::new(|| Emulator::or_end(Limits::default()));

fn backend(precision: Precision) -> CudaBackend {
    CudaBackend::over(Arc::clone(&MACHINE), precision)
}

/// Strides of a `[rows, cols]` operand, and the elements that it spans.
fn strides(kind: usize, rows: usize, cols: usize) -> ((usize, usize), usize) {
    match kind {
        0 => ((cols, 1), rows * cols),
        1 => ((1, rows), rows * cols),
        _ => ((2 * cols + 1, 2), (2 * cols + 1) * rows), // no dimension lies densely
    }
}

fn product<B: Backend>(b: &B, s: Gemm, kinds: (usize, usize), halves: (bool, bool)) -> Outputs {
    let mut random = Random::new(80);
    let mut operand = |kind: usize, half: bool, rows: usize, cols: usize| {
        let (strides, len) = strides(kind, rows, cols);
        let values: Vec<f32> = random.values(len + 3).iter().map(|&x| x as f32).collect();
        let buffer = match half {
            true => b.upload_bf16(&values),
            false => b.upload(&values),
        };
        (buffer, strides)
    };
    let (x, x_strides) = operand(kinds.0, halves.0, s.m, s.k);
    let (y, y_strides) = operand(kinds.1, halves.1, s.k, s.n);
    let mut c = b.upload_f64(&random.values(s.m * (s.n + 2) + 1));
    let view = |buffer, (row_stride, col_stride)| Mat {
        buffer,
        offset: 3,
        row_stride,
        col_stride,
    };
    let to = MatMut {
        buffer: &mut c,
        offset: 1,
        row_stride: s.n + 2,
    };
    b.gemm(s, view(&x, x_strides), view(&y, y_strides), to);
    vec![("c", b.download_f64(&c))]
}

const SHAPES: [(usize, usize, usize); 5] =
    [(1, 1, 1), (3, 70, 5), (65, 1, 33), (66, 67, 18), (4, 5, 0)];

/// Operands of f32 and bf16, dense by rows, by columns, or not at all; sums of at most 33 terms.
#[test]
fn the_own_product_takes_what_cublaslt_does_not() {
    let limits = Limits {
        no_library: true,
        ..Limits::default()
    };
    let own = CudaBackend::over(Emulator::or_end(limits), Precision::Float32);
    for (m, n, k) in SHAPES {
        for kinds in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (1, 2), (2, 2)] {
            for halves in [(false, false), (true, false), (false, true)] {
                let shape = Gemm {
                    alpha: -0.5,
                    beta: 0.75,
                    ..Gemm::replace(m, n, k)
                };
                let naive = product(&NaiveBackend, shape, kinds, halves);
                let case = format!("{shape:?} {kinds:?} {halves:?}");
                for b in [&own, &backend(Precision::Float32)] {
                    compare(&case, &naive, &product(b, shape, kinds, halves), 2e-6);
                }
            }
        }
    }
}

/// In bf16 a product is that of the rounded operands; where cuBLASLt does not help it stays in f32, which is nearer still to
/// the unrounded one. Rounding is by at most 2⁻⁹ of each factor.
#[test]
fn products_in_bf16_round_operands_and_nothing_else() {
    let b = backend(Precision::Bf16);
    for (m, n, k) in SHAPES {
        for kinds in [(0, 0), (1, 1), (0, 1), (2, 0)] {
            let shape = Gemm::replace(m, n, k);
            let fast = product(&b, shape, kinds, (false, false));
            let case = format!("{shape:?} {kinds:?}");
            let by_library = k > 0 && (kinds != (2, 0) || m == 1); // a single row is dense either way
            let naive = product(&NaiveBackend, shape, kinds, (by_library, by_library));
            compare(&case, &naive, &fast, 2e-6);
        }
    }
}

#[test]
fn the_same_twice_gives_the_same_bits() {
    let run = || {
        let (b, mut random) = (backend(Precision::Float32), Random::new(81));
        let (m, d, v) = (9, 33, 700);
        let x = b.upload_f64(&random.values(m * d));
        let w = b.upload_f64(&random.values(v * d));
        let rows = b.index(&random.below(m, 3));
        let mut table = b.zeros(3 * d);
        b.scatter_add(&x, &rows, None, &mut table, d);
        let (logps, lse) = b.head_logps(&x, &w, &rows, None, m, d, v);
        let inner = b.dot(&w, 0, &w, 0, v * d);
        [
            b.download_f64(&table),
            b.download_f64(&logps),
            b.download_f64(&lse),
            vec![inner],
        ]
        .concat()
    };
    let bits = |x: Vec<f64>| x.into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(run()), bits(run()));
}

/// What is on the shelf goes back before memory counts as full; then the panic carries a message for the user.
#[test]
fn memory_that_runs_out_is_a_failure_with_a_hint() {
    let limits = Limits {
        memory: Some(4_100_000),
        ..Limits::default()
    };
    let b = CudaBackend::over(Emulator::or_end(limits), Precision::Float32);
    drop(b.zeros(700_000)); // 2.8 MB
    drop(b.zeros(300_000)); // 1.2 MB, of another size: both fit only because the first is given back
    let kept = b.zeros(900_000);
    let payload = catch_unwind(AssertUnwindSafe(|| b.zeros(900_000)))
        .err()
        .expect("4.1 MB do not hold both");
    let failure = payload.downcast::<Failure>().expect("a message for users");
    assert!(failure.0.contains("memory does not hold"), "{failure}");
    assert!(failure.0.contains("\nhint: "), "{failure}");
    assert_eq!(b.len(&kept), 900_000);
    drop(kept);
    assert_eq!(
        b.download(&b.zeros(900_000)),
        vec![0.0; 900_000],
        "usable again"
    );
}

/// Two segments whose queries share gradient rows: both add to them.
#[test]
fn segments_may_share_gradient_rows() {
    let segment = |first: usize, grad: usize| AttentionSegment {
        query: first,
        own: Span {
            act: first,
            grad,
            len: 5,
        },
        ancestors: vec![],
        group: 0,
    };
    let layout = AttentionLayout {
        segments: vec![segment(0, 0), segment(5, 3)],
    };
    fn backward<B: Backend>(b: &B, layout: &AttentionLayout) -> Outputs {
        let (mut random, shape) = (Random::new(82), AttentionShape::new(1, 1, 4));
        let mut buffer = |rows: usize| b.upload_f64(&random.values(rows * 4));
        let (q, k, v, d_out) = (buffer(10), buffer(10), buffer(10), buffer(8));
        let (mut out, mut dq, mut dk, mut dv) = (buffer(10), buffer(8), buffer(8), buffer(8));
        let lse = b.attention(&q, &k, &v, layout, shape, &mut out);
        b.attention_backward(
            &q, &k, &v, &lse, layout, shape, &d_out, &mut dq, &mut dk, &mut dv,
        );
        let read = |x| b.download_f64(x);
        vec![("dq", read(&dq)), ("dk", read(&dk)), ("dv", read(&dv))]
    }
    let fast = backward(&backend(Precision::Float32), &layout);
    compare("shared", &backward(&NaiveBackend, &layout), &fast, 1e-5);
}

/// Heads of more than 64, 128 and 256 elements, which other instances of the kernels serve.
#[test]
fn wide_heads() {
    fn both<B: Backend>(b: &B, head_dim: usize) -> Outputs {
        let shape = AttentionShape {
            scale: 0.125,
            ..AttentionShape::new(2, 1, head_dim)
        };
        let forest = common::Forest(vec![common::Tree::new(33, &[3, 2])]);
        let (layout, n) = (forest.layout(), forest.rows());
        let mut random = Random::new(83);
        let mut buffer = |heads: usize| b.upload_f64(&random.values(n * heads * head_dim));
        let (q, k, v, d_out) = (buffer(2), buffer(1), buffer(1), buffer(2));
        let (mut out, mut dq, mut dk, mut dv) = (buffer(2), buffer(2), buffer(1), buffer(1));
        let lse = b.attention(&q, &k, &v, &layout, shape, &mut out);
        b.attention_backward(
            &q, &k, &v, &lse, &layout, shape, &d_out, &mut dq, &mut dk, &mut dv,
        );
        let read = |x| b.download_f64(x);
        vec![
            ("out", read(&out)),
            ("dq", read(&dq)),
            ("dk", read(&dk)),
            ("dv", read(&dv)),
        ]
    }
    for head_dim in [65, 128, 130, 256, 300, 512] {
        let fast = both(&backend(Precision::Float32), head_dim);
        compare(
            &format!("{head_dim}"),
            &both(&NaiveBackend, head_dim),
            &fast,
            1e-5,
        );
    }
    let too_wide = catch_unwind(|| both(&backend(Precision::Float32), 513)).err();
    assert!(too_wide.expect("refused").is::<Failure>());
}
