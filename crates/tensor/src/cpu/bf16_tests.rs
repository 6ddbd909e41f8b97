//! The same packing, loops and tile as on AVX512-BF16, over plain arrays, against sums by hand in f64.

use super::*;

/// What the instruction computes, one lane after the other.
struct Plain;

impl Lanes for Plain {
    type Sums = [f32; 16];
    type Pairs = [u32; 16];
    fn zero() -> [f32; 16] {
        [0.0; 16]
    }
    unsafe fn load(x: *const u32) -> [u32; 16] {
        // SAFETY: the caller's 16 elements.
        std::array::from_fn(|i| unsafe { *x.add(i) })
    }
    fn splat(x: u32) -> [u32; 16] {
        [x; 16]
    }
    fn dot(sums: [f32; 16], a: [u32; 16], b: [u32; 16]) -> [f32; 16] {
        let half = |x: u32, odd: bool| bf16::widen(if odd { (x >> 16) as u16 } else { x as u16 });
        std::array::from_fn(|i| {
            let even = half(a[i], false) * half(b[i], false);
            sums[i] + half(a[i], true) * half(b[i], true) + even
        })
    }
    fn store(sums: [f32; 16], to: &mut [f32]) {
        to[..16].copy_from_slice(&sums);
    }
}

/// Values of [−1, 1), more precise than bf16.
fn values(n: usize, seed: usize) -> Vec<f32> {
    let at = |i: usize| ((i + 1) * (2 * seed + 7919)) as f64 * 0.618_033_988_749_894_9;
    (0..n).map(|i| (2.0 * at(i).fract() - 1.0) as f32).collect()
}

fn exact(x: f32) -> f64 {
    f64::from(bf16::widen(bf16::round(x)))
}

/// Runs `multiply` on matrices stored either way and compares with sums in f64 over rounded operands.
fn check(
    (m, n, k): (usize, usize, usize),
    (a_transposed, b_transposed): (bool, bool),
    beta: f32,
    multiply: &dyn Fn(Job),
) {
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let before = values(m * n, 3);
    // Where β is 0, C's contents must not be read.
    let mut c = if beta == 0.0 {
        vec![f32::NAN; m * n]
    } else {
        before.clone()
    };
    let (a_rows, a_cols) = if a_transposed { (1, m) } else { (k, 1) };
    let (b_rows, b_cols) = if b_transposed { (1, k) } else { (n, 1) };
    multiply(Job {
        m,
        n,
        k,
        alpha: 0.5,
        a: (a.as_ptr(), a_rows, a_cols),
        b: (b.as_ptr(), b_rows, b_cols),
        beta,
        c: (c.as_mut_ptr(), n),
    });
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k)
                .map(|p| exact(a[i * a_rows + p * a_cols]) * exact(b[p * b_rows + j * b_cols]))
                .sum();
            let old = if beta == 0.0 {
                0.0
            } else {
                f64::from(beta * before[i * n + j])
            };
            let (expected, got) = (0.5 * sum + old, f64::from(c[i * n + j]));
            // Sums of k ≤ 1100 products of at most 1 in f32.
            assert!(
                (got - expected).abs() < 1e-5 * (1.0 + (k as f64).sqrt()),
                "{m}x{n}x{k} ({i}, {j}): {got} instead of {expected}"
            );
        }
    }
}

/// Around the tile, the block of rows, the band of columns and the depth.
const SHAPES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (12, 32, 2),
    (13, 33, 3),
    (11, 31, 64),
    (96, 64, 129),
    (97, 65, 130),
    (5, 7, 511),
    (3, 40, 512),
    (14, 34, 1027),
    (2, 2050, 5),
    (200, 3, 1),
];

fn everywhere(multiply: &dyn Fn(Job)) {
    for shape in SHAPES {
        for transposed in [(false, false), (false, true), (true, false), (true, true)] {
            for beta in [0.0, 1.0, 0.25] {
                check(shape, transposed, beta, multiply);
            }
        }
    }
}

#[test]
fn the_tiled_product_is_the_plain_one() {
    // SAFETY: `check` hands over whole matrices.
    everywhere(&|job| unsafe { job.run(tile::<Plain>) });
}

/// With the instructions where the processor has them, else rounded and in f32.
#[test]
fn the_product_of_this_processor_is_the_plain_one() {
    println!("AVX512-BF16: {}", fast());
    everywhere(&|j| {
        // SAFETY: `check` hands over whole matrices.
        unsafe {
            product(
                (j.m, j.n, j.k),
                j.alpha,
                j.a,
                j.b,
                j.beta,
                j.c,
                Parallelism::None,
            )
        }
    });
}

#[test]
fn nothing_to_sum_still_scales() {
    let mut c = [3.0, f32::NAN];
    let job = |beta, c: *mut f32| Job {
        m: 1,
        n: 1,
        k: 0,
        alpha: 1.0,
        a: ([].as_ptr(), 0, 1),
        b: ([].as_ptr(), 1, 1),
        beta,
        c: (c, 1),
    };
    // SAFETY: no element of A and B is read; C has one.
    unsafe {
        job(2.0, &mut c[0]).run(tile::<Plain>);
        job(0.0, &mut c[1]).run(tile::<Plain>);
    }
    assert_eq!(c, [6.0, 0.0]);
}
