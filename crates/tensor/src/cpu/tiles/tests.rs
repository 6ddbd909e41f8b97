//! The packing, the loops and the tiles over plain arrays and, where the processor has them, over its instructions, against
//! sums by hand in f64.

use super::super::bf16 as halves;
use super::super::matmul::Parallelism;
use super::pack::pack_f32;
use super::*;
use crate::bf16;

/// Writes plain sums as [`Lanes::write`] does.
unsafe fn write<const W: usize>(sums: [f32; W], alpha: f32, beta: f32, to: *mut f32) {
    for (i, sum) in sums.into_iter().enumerate() {
        // SAFETY: the caller's vector.
        unsafe {
            let old = if beta == 0.0 { 0.0 } else { beta * *to.add(i) };
            *to.add(i) = alpha * sum + old;
        }
    }
}

/// f32, one lane after the other, in tiles of one processor's size and a depth that the shapes below exceed.
macro_rules! plain_f32 {
    ($kernel:ident, $rows:literal x $cols:literal of $vectors:literal) => {
        pub(in super::super) struct $kernel;

        impl Lanes for $kernel {
            type Sums = [f32; $cols / $vectors];
            type Vector = [f32; $cols / $vectors];
            const WIDTH: usize = $cols / $vectors;
            unsafe fn zero() -> Self::Sums {
                [0.0; $cols / $vectors]
            }
            unsafe fn load(x: *const u32) -> Self::Vector {
                // SAFETY: the caller's vector.
                std::array::from_fn(|i| f32::from_bits(unsafe { *x.add(i) }))
            }
            unsafe fn splat(x: *const u32) -> Self::Vector {
                // SAFETY: the caller's element.
                [f32::from_bits(unsafe { *x }); $cols / $vectors]
            }
            unsafe fn dot(sums: Self::Sums, a: Self::Vector, b: Self::Vector) -> Self::Sums {
                std::array::from_fn(|i| sums[i] + a[i] * b[i])
            }
            unsafe fn write(sums: Self::Sums, alpha: f32, beta: f32, to: *mut f32) {
                // SAFETY: passed on to the caller.
                unsafe { write(sums, alpha, beta, to) }
            }
        }

        impl Kernel for $kernel {
            const ROWS: usize = $rows;
            const COLS: usize = $cols;
            const STEP: usize = 1;
            const DEPTH: usize = 100;
            const BLOCK: usize = 96;
            unsafe fn pack_rows(x: Strided, width: usize, k: usize, to: &mut [u32]) {
                // SAFETY: passed on to the caller.
                unsafe { pack_f32::<$rows>(x, width, k, to) }
            }
            unsafe fn pack_cols(x: Strided, width: usize, k: usize, to: &mut [u32]) {
                // SAFETY: passed on to the caller.
                unsafe { pack_f32::<$cols>(x, width, k, to) }
            }
            unsafe fn tile(depth: usize, a: *const u32, b: *const u32, scale: Scale, c: Target) {
                let (first, row, along) = (a, 1, $rows);
                // SAFETY: passed on to the caller.
                unsafe {
                    tile::<Self, $rows, $vectors>(depth, Rows { first, row, along }, b, scale, c)
                }
            }
            unsafe fn tile_in_place(
                depth: usize,
                a: Strided,
                b: *const u32,
                scale: Scale,
                c: Target,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { tile::<Self, $rows, $vectors>(depth, a.into(), b, scale, c) }
            }
        }
    };
}
plain_f32!(PlainF32, 6 x 16 of 2); // AVX2
plain_f32!(WideF32, 12 x 32 of 2); // AVX-512
plain_f32!(NarrowF32, 24 x 16 of 1); // AVX-512, few columns

/// What `vdpbf16ps` computes, one lane after the other.
struct PlainBf16;

impl Lanes for PlainBf16 {
    type Sums = [f32; 16];
    type Vector = [u32; 16];
    const WIDTH: usize = 16;
    unsafe fn zero() -> [f32; 16] {
        [0.0; 16]
    }
    unsafe fn load(x: *const u32) -> [u32; 16] {
        // SAFETY: the caller's vector.
        std::array::from_fn(|i| unsafe { *x.add(i) })
    }
    unsafe fn splat(x: *const u32) -> [u32; 16] {
        // SAFETY: the caller's element.
        [unsafe { *x }; 16]
    }
    unsafe fn dot(sums: [f32; 16], a: [u32; 16], b: [u32; 16]) -> [f32; 16] {
        let half = |x: u32, odd: bool| bf16::widen(if odd { (x >> 16) as u16 } else { x as u16 });
        std::array::from_fn(|i| {
            let even = half(a[i], false) * half(b[i], false);
            sums[i] + half(a[i], true) * half(b[i], true) + even
        })
    }
    unsafe fn write(sums: [f32; 16], alpha: f32, beta: f32, to: *mut f32) {
        // SAFETY: passed on to the caller.
        unsafe { write(sums, alpha, beta, to) }
    }
}

impl Kernel for PlainBf16 {
    const ROWS: usize = 12;
    const COLS: usize = 32;
    const STEP: usize = 2;
    const DEPTH: usize = 192;
    const BLOCK: usize = 96;
    unsafe fn pack_rows(x: Strided, width: usize, k: usize, to: &mut [u32]) {
        // SAFETY: passed on to the caller.
        unsafe { halves::pack::<12>(x, width, k, to) }
    }
    unsafe fn pack_cols(x: Strided, width: usize, k: usize, to: &mut [u32]) {
        // SAFETY: passed on to the caller.
        unsafe { halves::pack::<32>(x, width, k, to) }
    }
    unsafe fn tile(depth: usize, a: *const u32, b: *const u32, scale: Scale, c: Target) {
        let (first, row, along) = (a, 1, 12);
        // SAFETY: passed on to the caller.
        unsafe { tile::<Self, 12, 2>(depth, Rows { first, row, along }, b, scale, c) }
    }
    unsafe fn tile_in_place(_: usize, _: Strided, _: *const u32, _: Scale, _: Target) {
        unreachable!("packed elements are pairs");
    }
}

/// Values of [−1, 1), more precise than bf16.
fn values(n: usize, seed: usize) -> Vec<f32> {
    let at = |i: usize| ((i + 1) * (2 * seed + 7919)) as f64 * 0.618_033_988_749_894_9;
    (0..n).map(|i| (2.0 * at(i).fract() - 1.0) as f32).collect()
}

/// What a product of a size and an A makes of an operand.
type Rounding = fn((usize, usize, usize), RawMat) -> fn(f32) -> f64;
const NONE: Rounding = |_, _| |x| f64::from(x);
const TO_BF16: Rounding = |_, _| |x| f64::from(bf16::widen(bf16::round(x)));
const TO_BF16_UNLESS_NARROW: Rounding = |size, a| match halves::rounds(size, a) {
    true => TO_BF16(size, a),
    false => NONE(size, a),
};

/// A product to try: its operands and its sums in f64.
struct Case {
    size: (usize, usize, usize),
    a: (Vec<f32>, usize, usize),
    b: (Vec<f32>, usize, usize),
    sums: Vec<f64>,
}

impl Case {
    fn new(rounding: Rounding, size: (usize, usize, usize), transposed: (bool, bool)) -> Self {
        let (m, n, k) = size;
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (a_rows, a_cols) = if transposed.0 { (1, m) } else { (k, 1) };
        let (b_rows, b_cols) = if transposed.1 { (1, k) } else { (n, 1) };
        let exact = rounding(size, (a.as_ptr(), a_rows, a_cols));
        let sum = |at: usize| {
            let (i, j) = (at / n, at % n);
            (0..k)
                .map(|p| exact(a[i * a_rows + p * a_cols]) * exact(b[p * b_rows + j * b_cols]))
                .sum()
        };
        Case {
            size,
            sums: (0..m * n).map(sum).collect(),
            a: (a, a_rows, a_cols),
            b: (b, b_rows, b_cols),
        }
    }

    /// Half the product and `beta` times what C held, from `multiply` and from the sums.
    fn check(&self, beta: f32, multiply: &dyn Fn(Job)) {
        let (m, n, k) = self.size;
        // Rows of C lie further apart than they are wide; what is between them is nobody's.
        let stride = n + 3;
        let before = values(m * stride, 3);
        // Where β is 0, C's contents must not be read.
        let mut c = if beta == 0.0 {
            vec![f32::NAN; m * stride]
        } else {
            before.clone()
        };
        multiply(Job {
            m,
            n,
            k,
            alpha: 0.5,
            a: (self.a.0.as_ptr(), self.a.1, self.a.2),
            b: (self.b.0.as_ptr(), self.b.1, self.b.2),
            beta,
            c: (c.as_mut_ptr(), stride),
        });
        for (at, sum) in self.sums.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let old = if beta == 0.0 {
                0.0
            } else {
                f64::from(beta * before[i * stride + j])
            };
            let (expected, got) = (0.5 * sum + old, f64::from(c[i * stride + j]));
            // Sums of k products of at most 1 in f32.
            assert!(
                (got - expected).abs() < 1e-5 * (1.0 + (k as f64).sqrt()),
                "{m}x{n}x{k} ({i}, {j}): {got} instead of {expected}"
            );
        }
    }
}

/// Around the tiles, the blocks of rows, the depths; rows too few for the threads; few columns, and rows of A that share
/// sets of the cache; a band of columns that is full (of k = 10,000).
const SHAPES: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (6, 16, 3),
    (12, 32, 2),
    (7, 17, 5),
    (13, 33, 3),
    (11, 31, 64),
    (96, 64, 129),
    (205, 65, 330),
    (5, 7, 511),
    (3, 40, 512),
    (14, 600, 1027),
    (2, 2050, 5),
    (200, 3, 1),
    (50, 13, 1024),
    (3, 530, 10_000),
];

/// Every shape, stored in every way, with all `products`.
fn everywhere(rounding: Rounding, products: &[&dyn Fn(Job)]) {
    for shape in SHAPES {
        for transposed in [(false, false), (false, true), (true, false), (true, true)] {
            let case = Case::new(rounding, shape, transposed);
            for beta in [0.0, 1.0, 0.25] {
                products
                    .iter()
                    .for_each(|multiply| case.check(beta, multiply));
            }
        }
    }
}

/// A kernel's product, on one thread or on all.
///
/// # Safety
/// As [`Job::run`], for every job that it is given.
unsafe fn product<K: Kernel>(parallel: bool) -> impl Fn(Job) {
    // SAFETY: passed on to the caller.
    move |job| unsafe { job.run::<K>(parallel) }
}

#[test]
fn tiles_of_plain_arrays() {
    // SAFETY: cases hand over whole matrices.
    unsafe {
        let (one, all) = (product::<PlainF32>(false), product::<PlainF32>(true));
        everywhere(NONE, &[&one, &all]);
        let (one, all) = (product::<WideF32>(false), product::<WideF32>(true));
        everywhere(NONE, &[&one, &all]);
        let (one, all) = (product::<NarrowF32>(false), product::<NarrowF32>(true));
        everywhere(NONE, &[&one, &all]);
        let (one, all) = (product::<PlainBf16>(false), product::<PlainBf16>(true));
        everywhere(TO_BF16, &[&one, &all]);
    }
}

/// Each kernel whose instructions this processor has.
#[cfg(target_arch = "x86_64")]
#[test]
fn tiles_of_this_processor() {
    use x86::{Avx2, Avx512, Avx512Bf16, Avx512Narrow};
    let present = [Avx2::present(), Avx512::present(), halves::fast()];
    println!("AVX2, AVX-512, AVX512-BF16: {present:?}");
    // SAFETY: cases hand over whole matrices; the instructions are there.
    unsafe {
        if present[0] {
            let (one, all) = (product::<Avx2>(false), product::<Avx2>(true));
            everywhere(NONE, &[&one, &all]);
        }
        if present[1] {
            let (one, all) = (product::<Avx512>(false), product::<Avx512>(true));
            everywhere(NONE, &[&one, &all]);
            let (one, all) = (
                product::<Avx512Narrow>(false),
                product::<Avx512Narrow>(true),
            );
            everywhere(NONE, &[&one, &all]);
        }
        if present[2] {
            let (one, all) = (product::<Avx512Bf16>(false), product::<Avx512Bf16>(true));
            everywhere(TO_BF16, &[&one, &all]);
        }
    }
}

/// With the instructions where the processor has them, else rounded and in f32.
#[test]
fn products_in_bf16() {
    everywhere(
        TO_BF16_UNLESS_NARROW,
        &[&|j| {
            let size = (j.m, j.n, j.k);
            // SAFETY: cases hand over whole matrices.
            unsafe { halves::product(size, j.alpha, j.a, j.b, j.beta, j.c, Parallelism::None) }
        }],
    );
}

/// Rows and columns at the edge of a product, on one thread, are the very sums that they are inside a larger one on many.
fn one_sum_everywhere<K: Kernel>() {
    let (m, n, k) = (61, 183, 700);
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let multiply = |from: usize, m: usize, n: usize, parallel: bool| {
        let old = |i: usize| ((i / n + from) * 100 + i % n) as f32 * 0.01;
        let mut c: Vec<f32> = (0..m * n).map(old).collect();
        let job = Job {
            m,
            n,
            k,
            alpha: 0.7,
            a: (a[from * k..].as_ptr(), k, 1),
            b: (b.as_ptr(), 1, k),
            beta: 0.3,
            c: (c.as_mut_ptr(), n),
        };
        // SAFETY: rows `from..from + m` of A and `n` columns of B; the caller has found the instructions.
        unsafe { job.run::<K>(parallel) };
        c
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(7).build();
    let whole = pool.expect("threads").install(|| multiply(0, m, n, true));
    for (from, m, cols) in [(0, m, n), (3, 58, 183), (60, 1, 183), (7, 20, 35)] {
        for (i, c) in multiply(from, m, cols, false).chunks(cols).enumerate() {
            assert_eq!(c, &whole[(from + i) * n..][..cols], "row {i} of {m}x{cols}");
        }
    }
}

#[test]
fn sums_do_not_depend_on_tile_or_threads() {
    one_sum_everywhere::<PlainF32>();
    one_sum_everywhere::<WideF32>();
    one_sum_everywhere::<NarrowF32>();
    one_sum_everywhere::<PlainBf16>();
    #[cfg(target_arch = "x86_64")]
    {
        use x86::{Avx2, Avx512, Avx512Bf16, Avx512Narrow};
        if Avx2::present() {
            one_sum_everywhere::<Avx2>();
        }
        if Avx512::present() {
            one_sum_everywhere::<Avx512>();
            one_sum_everywhere::<Avx512Narrow>();
            // Whether a product has few columns does not change them either.
            const { assert!(Avx512::DEPTH == Avx512Narrow::DEPTH) };
        }
        if halves::fast() {
            one_sum_everywhere::<Avx512Bf16>();
        }
    }
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
        job(2.0, &mut c[0]).run::<PlainF32>(false);
        job(0.0, &mut c[1]).run::<PlainBf16>(true);
    }
    assert_eq!(c, [6.0, 0.0]);
}
