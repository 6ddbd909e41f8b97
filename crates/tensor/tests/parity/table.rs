//! The case table: every operation of the trait on the naive oracle and on `crate::FAST`, whichever backend that is.
//!
//! Both get the same f32 numbers; outputs that are replaced start as NaN. All cases share one fast backend, so
//! that buffers come back from its pool with stale contents. Sizes include none, one, odd ones, and ones
//! around the pieces and blocks of the fast code. Each test program that includes this file names its backend
//! (`Fast`, `FAST`, `fresh`): `parity.rs` here, and those of the CUDA crate.

#[path = "attention.rs"]
mod attention;
#[path = "bf16.rs"]
mod bf16;
#[path = "grams.rs"]
mod grams;
#[path = "head.rs"]
mod head;
#[path = "optimizer.rs"]
mod optimizer;
#[path = "pointwise.rs"]
mod pointwise;

use crate::common::{self, Outputs, Random, poison};
use crate::{FAST, fresh};
use unbraid_tensor::{Backend, Gemm, Mat, MatMut, NaiveBackend};

/// Copies: nothing is computed.
pub const EXACT: f64 = 0.0;

/// A handful of f32 operations per element, each erring by half an ulp (6e-8).
pub const POINTWISE: f64 = 5e-7;

/// Sums of k ≤ 2000 products in f32: rounding grows like √k·6e-8 times the typical term.
pub const SUM: f64 = 5e-6;

/// f32 inputs, but products and sums in f64: only the order differs.
pub const F64_SUM: f64 = 1e-12;

/// Runs a case, a function generic over the backend, on both and compares.
macro_rules! parity {
    ($tolerance:expr, $case:ident($($argument:expr),*)) => {
        $crate::common::compare(
            &format!("{}{:?}", stringify!($case), ($(&$argument,)*)),
            &$case(&unbraid_tensor::NaiveBackend, $($argument),*),
            &$case(&*$crate::FAST, $($argument),*),
            $tolerance,
        )
    };
}
pub(crate) use parity;

/// Around the pieces of 16384 floats and the lanes of 16.
pub const LENGTHS: [usize; 12] = [0, 1, 7, 8, 9, 16, 17, 100, 16383, 16384, 16385, 40001];

#[derive(Clone, Copy, Debug)]
struct Transposed(bool, bool);

/// C has `padding` more columns than it needs, and all three start behind `padding` other elements.
fn gemm<B: Backend>(b: &B, s: Gemm, t: Transposed, padding: usize) -> Outputs {
    let mut random = Random::new(20);
    let mut stored = |transposed: bool, rows: usize, cols: usize| {
        let width = padding + if transposed { rows } else { cols };
        let high = if transposed { cols } else { rows };
        (b.upload_f64(&random.values(padding + high * width)), width)
    };
    let (a, a_stride) = stored(t.0, s.m, s.k);
    let (x, x_stride) = stored(t.1, s.k, s.n);
    let (c, row_stride) = stored(false, s.m, s.n);
    let mut c = if s.beta == 0.0 {
        poison(b, b.len(&c))
    } else {
        c
    };
    let view = |buffer, transposed, row_stride| {
        let plain = Mat {
            buffer,
            offset: padding,
            row_stride,
            col_stride: 1,
        };
        if transposed { plain.t() } else { plain }
    };
    let target = MatMut {
        buffer: &mut c,
        offset: padding,
        row_stride,
    };
    b.gemm(s, view(&a, t.0, a_stride), view(&x, t.1, x_stride), target);
    let mut values = b.download_f64(&c);
    // What lies outside C must be untouched: NaN where C was poisoned, and NaN cannot be compared.
    values
        .iter_mut()
        .filter(|x| x.is_nan())
        .for_each(|x| *x = -7.0);
    vec![("c", values)]
}

#[test]
fn gemm_of_many_shapes() {
    let shapes = [
        (1, 1, 1),
        (1, 9, 33),
        (17, 1, 5),
        (3, 5, 0),
        (0, 4, 3),
        (4, 0, 3),
        (16, 16, 16),
        (31, 65, 127),
        (129, 70, 257),
        (65, 300, 1025),
    ];
    for (m, n, k) in shapes {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            for (alpha, beta) in [(1.0, 0.0), (-0.5, 1.0), (2.5, -0.25)] {
                let shape = Gemm {
                    m,
                    n,
                    k,
                    alpha,
                    beta,
                };
                let padding = if m % 2 == 1 { 3 } else { 0 };
                parity!(SUM, gemm(shape, Transposed(ta, tb), padding));
            }
        }
    }
}

#[test]
fn gemm_constructors_name_what_they_do() {
    assert_eq!(
        (Gemm::replace(2, 3, 4).alpha, Gemm::replace(2, 3, 4).beta),
        (1.0, 0.0)
    );
    assert_eq!(
        (Gemm::add(2, 3, 4).alpha, Gemm::add(2, 3, 4).beta),
        (1.0, 1.0)
    );
    assert_eq!(
        (
            Gemm::add(2, 3, 4).m,
            Gemm::add(2, 3, 4).n,
            Gemm::add(2, 3, 4).k
        ),
        (2, 3, 4)
    );
}

fn memory<B: Backend>(b: &B, n: usize) -> Outputs {
    let x = Random::new(21).values(n);
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let mut filled = poison(b, n);
    b.fill_zero(&mut filled);
    let lengths = [b.empty(n), b.upload(&single)].map(|x| b.len(&x) as f64);
    let downloaded = b.download(&b.upload_f64(&x));
    vec![
        ("zeros", b.download_f64(&b.zeros(n))),
        ("fill_zero", b.download_f64(&filled)),
        ("upload", b.download_f64(&b.upload(&single))),
        ("download", downloaded.into_iter().map(f64::from).collect()),
        ("len", lengths.to_vec()),
    ]
}

fn copy_2d<B: Backend>(b: &B, rows: usize, cols: usize) -> Outputs {
    let mut random = Random::new(22);
    let src = b.upload_f64(&random.values(5 + rows * (cols + 3)));
    let mut dst = b.upload_f64(&random.values(2 + rows * (cols + 1)));
    b.copy_2d(&src, 5, cols + 3, &mut dst, 2, cols + 1, rows, cols);
    vec![("dst", b.download_f64(&dst))]
}

#[test]
fn memory_operations() {
    for n in LENGTHS {
        parity!(EXACT, memory(n));
    }
    for (rows, cols) in [(0, 3), (1, 1), (7, 9), (130, 200)] {
        parity!(EXACT, copy_2d(rows, cols));
    }
}

fn axpy_and_scale<B: Backend>(b: &B, n: usize) -> Outputs {
    let mut random = Random::new(23);
    let (x, mut y) = (
        b.upload_f64(&random.values(n)),
        b.upload_f64(&random.values(n)),
    );
    b.axpy(-0.75, &x, &mut y);
    let sum = b.download_f64(&y);
    b.scale(1.5, &mut y);
    vec![("axpy", sum), ("scale", b.download_f64(&y))]
}

fn dots<B: Backend>(b: &B, n: usize) -> Outputs {
    let mut random = Random::new(24);
    let (x, y) = (
        b.upload_f64(&random.values(n + 3)),
        b.upload_f64(&random.values(n + 5)),
    );
    vec![("dot", vec![b.dot(&x, 3, &y, 5, n)])]
}

fn gram_and_add<B: Backend>(b: &B, n: usize) -> [Outputs; 2] {
    let mut random = Random::new(25);
    let (x, y) = (
        b.upload_f64(&random.values(n)),
        b.upload_f64(&random.values(n)),
    );
    let mut sum = b.upload_f64(&random.values(n));
    let without = b.gram_and_add(&x, &y, 1.0, 1.0, None);
    let with = b.gram_and_add(&x, &y, 0.5, -1.25, Some(&mut sum));
    let gram = |(xx, yy, xy)| vec![xx, yy, xy];
    [
        vec![("gram", gram(without)), ("gram beside the sum", gram(with))],
        vec![("sum", b.download_f64(&sum))],
    ]
}

#[test]
fn vector_operations() {
    for n in LENGTHS {
        parity!(POINTWISE, axpy_and_scale(n));
        parity!(F64_SUM, dots(n));
        let [[gram, sum], [fast_gram, fast_sum]] =
            [gram_and_add(&NaiveBackend, n), gram_and_add(&*FAST, n)];
        common::compare(&format!("gram {n}"), &gram, &fast_gram, F64_SUM);
        common::compare(&format!("sum {n}"), &sum, &fast_sum, POINTWISE);
    }
}

fn bias_and_columns<B: Backend>(b: &B, n: usize, d: usize) -> Outputs {
    let mut random = Random::new(26);
    let bias = b.upload_f64(&random.values(d));
    let mut x = b.upload_f64(&random.values(n * d));
    let mut sums = [0; 3].map(|_| b.upload_f64(&random.values(d)));
    b.add_bias(&bias, &mut x, n, d);
    let [all, some, none] = &mut sums;
    b.column_sum(1.0, &x, 0..n, d, all);
    b.column_sum(-0.5, &x, n / 3..n - n / 4, d, some);
    b.column_sum(1.0, &x, n..n, d, none);
    let [all, some, none] = sums.each_ref().map(|sum| b.download_f64(sum));
    let x = b.download_f64(&x);
    vec![("biased", x), ("all", all), ("some", some), ("none", none)]
}

#[test]
fn bias_and_column_sums() {
    for (n, d) in [(0, 3), (1, 1), (3, 17), (700, 65), (5, 16385)] {
        parity!(SUM, bias_and_columns(n, d));
    }
}

fn gather<B: Backend>(b: &B, r: usize, v: usize, d: usize, add: bool) -> Outputs {
    let mut random = Random::new(27);
    let table = b.upload_f64(&random.values(v * d));
    let rows = b.index(&random.below(r, v));
    let start = b.upload_f64(&random.values(r * d));
    let mut out = if add { start } else { poison(b, r * d) };
    b.gather(&table, &rows, &mut out, d, add);
    vec![("out", b.download_f64(&out))]
}

fn scatter_add<B: Backend>(b: &B, r: usize, v: usize, d: usize, weighted: bool) -> Outputs {
    let mut random = Random::new(28);
    let x = b.upload_f64(&random.values(r * d));
    let rows = b.index(&random.below(r, v));
    let coefficients = b.upload_f64(&random.values(r));
    let mut out = b.upload_f64(&random.values(v * d));
    b.scatter_add(&x, &rows, weighted.then_some(&coefficients), &mut out, d);
    vec![("out", b.download_f64(&out))]
}

fn lookup_inner<B: Backend>(b: &B, p: usize, q: usize, v: usize, d: usize) -> Outputs {
    let mut random = Random::new(29);
    let g = b.upload_f64(&random.values((p + q) * d));
    let id_values = random.below(p + q, v);
    let ids = b.index(&id_values);
    let pairs = [(0..p, p..p + q), (0..p, 0..p), (0..p + q, p / 2..p)];
    let fused = pairs
        .clone()
        .map(|(p, q)| b.lookup_inner(&g, &ids, p, q, d));
    // The same with each side's gradient of the table formed.
    let table = |rows: std::ops::Range<usize>| {
        let mut part = b.zeros(rows.len() * d);
        b.copy_2d(&g, rows.start * d, d, &mut part, 0, d, rows.len(), d);
        let mut table = b.zeros(v * d);
        b.scatter_add(&part, &b.index(&id_values[rows]), None, &mut table, d);
        table
    };
    let formed = pairs.map(|(p, q)| b.dot(&table(p), 0, &table(q), 0, v * d));
    common::compare(
        "fused against formed",
        &vec![("inner", formed.to_vec())],
        &vec![("inner", fused.to_vec())],
        SUM,
    );
    vec![("inner", fused.to_vec())]
}

#[test]
fn embedding() {
    for (r, v, d) in [
        (0, 3, 4),
        (1, 1, 1),
        (5, 3, 7),
        (70, 11, 65),
        (900, 50, 130),
    ] {
        for flag in [false, true] {
            parity!(EXACT, gather(r, v, d, false));
            parity!(POINTWISE, gather(r, v, d, true));
            parity!(SUM, scatter_add(r, v, d, flag));
        }
    }
    for (p, q, v, d) in [
        (0, 0, 3, 5),
        (1, 1, 1, 1),
        (6, 9, 4, 17),
        (200, 150, 20, 64),
        (7, 5, 900, 33),
    ] {
        parity!(SUM, lookup_inner(p, q, v, d));
    }
}

#[test]
fn descriptions_name_precision() {
    assert!(NaiveBackend.describe().contains("f64"));
    assert!(FAST.describe().contains("f32"));
}

#[test]
fn a_pooled_buffer_has_the_length_that_was_asked_for() {
    let b = fresh();
    for n in [4096, 5000, 4100, 9000, 8192, 4097, 16000, 8000] {
        let buffer = b.upload(&vec![1.0; n]);
        assert_eq!((b.len(&buffer), b.download(&buffer)), (n, vec![1.0; n]));
        drop(buffer);
        assert_eq!(b.download(&b.zeros(n)), vec![0.0; n]);
    }
}
