//! Run-time choice of the instruction set for plain loops, and the vectorisable scalar functions they use.
//!
//! The closure written in [`simd!`] is compiled for each instruction set and the best one present is called. It is written out
//! once for each, so that each has a single caller and is inlined there: a closure shared by several stays a function of its own,
//! compiled for the lowest. Functions used inside are `#[inline(always)]` for the same reason.

use std::iter::Sum;
use std::ops::AddAssign;

/// Instruction sets that plain loops are compiled for.
#[derive(Clone, Copy)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the target has anyway: NEON on aarch64.
    Base,
}

impl Level {
    /// The best of this processor.
    #[inline]
    pub(super) fn of_this_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            static BEST: std::sync::LazyLock<Level> = std::sync::LazyLock::new(|| {
                let avx2 = has!("avx2") && has!("fma");
                let more = has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                match (avx2, has!("avx512f") && more) {
                    (true, true) => Level::Avx512,
                    (true, false) => Level::Avx2,
                    _ => Level::Base,
                }
            });
            *BEST
        }
        #[cfg(not(target_arch = "x86_64"))]
        Level::Base
    }
}

/// Calls `f`, compiled for AVX-512.
///
/// # Safety
/// The processor must have it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn on_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Calls `f`, compiled for AVX2.
///
/// # Safety
/// The processor must have it, and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn on_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// The value of a closure without arguments, compiled for the best instruction set of this machine.
macro_rules! simd {
    (|| $body:expr) => {
        match $crate::cpu::simd::Level::of_this_processor() {
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::simd::Level::Avx512 => {
                let f = || $body;
                // SAFETY: the level says that the processor has it.
                unsafe { $crate::cpu::simd::on_avx512(f) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::simd::Level::Avx2 => {
                let f = || $body;
                // SAFETY: as above.
                unsafe { $crate::cpu::simd::on_avx2(f) }
            }
            $crate::cpu::simd::Level::Base => $body,
        }
    };
}
pub(super) use simd;

/// The instruction set in use.
pub(super) fn describe() -> &'static str {
    match Level::of_this_processor() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => "avx512",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => "avx2",
        Level::Base => "base",
    }
}

/// Parallel work is cut into pieces of about this many floats.
pub(super) const PIECE: usize = 1 << 14;

/// Rows of width `d` that make one piece.
pub(super) fn rows_per_piece(d: usize) -> usize {
    (PIECE / d.max(1)).max(1)
}

/// exp(x) for x ≤ 88.37, relative error about 2e-7; above it +∞ (a little before exp itself leaves f32), under
/// −87.3 about 1e-38.
///
/// Range reduction x = n ln 2 + r, |r| ≤ ln 2 / 2 (Cody & Waite split of ln 2), then a degree-6 polynomial.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it rounds to an integer kept in the low bits
    let x = x.clamp(-87.3, 88.7);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4; // the upper bits of ln 2: n times it is exact
    let r = r + n * 2.121_944_4e-4;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let scale = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    p * f32::from_bits(scale)
}

/// tanh(x), relative error about 3e-7: Lambert's continued fraction to the x⁵ term near zero, where 1 − 2/(e²ˣ + 1)
/// would cancel, that beyond.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let s = x * x;
    let near = x * (945.0 + s * (105.0 + s)) / (945.0 + s * (420.0 + s * 15.0));
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.6 { near } else { far.copysign(x) }
}

/// 1/(1 + exp(−x)).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The normal distribution function Φ(x) = erfc(−x/√2)/2, absolute error about 2e-7 and relative error in the lower tail about 1e-5
/// down to x = −9: the rational exponent of Press et al., Numerical Recipes, §6.2 (erfc to 1.2e-7).
#[inline(always)]
pub(super) fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(p - z * z);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Partial sums of [`lane_sum`] and partial maxima of [`lane_max`].
const LANES: usize = 32;

/// Σ f(x…) over the elements of slices of one length in [`LANES`] partial sums, in fixed order. Blocks of a length known to the
/// compiler have no bounds to check, and become vectors.
macro_rules! lane_sums {
    ($(#[$doc:meta])* $name:ident($($x:ident: $kind:ident),+)) => {
        $(#[$doc])*
        #[inline(always)]
        pub(super) fn $name<$($kind: Copy,)+ S: Copy + Default + AddAssign + Sum>(
            $($x: &[$kind],)+
            f: impl Fn($($kind),+) -> S,
        ) -> S {
            let lengths = [$($x.len()),+];
            assert!(lengths.iter().all(|&n| n == lengths[0]), "lengths {lengths:?}");
            let mut sums = [S::default(); LANES];
            let ($($x,)+) = ($($x.as_chunks::<LANES>(),)+);
            for i in 0..lengths[0] / LANES {
                let ($($x,)+) = ($(&$x.0[i],)+);
                for l in 0..LANES {
                    sums[l] += f($($x[l]),+);
                }
            }
            let mut total = sums.into_iter().sum::<S>();
            for i in 0..lengths[0] % LANES {
                total += f($($x.1[i]),+);
            }
            total
        }
    };
}
lane_sums!(
    /// Σ f(x).
    lane_sum(x: X)
);
lane_sums!(
    /// Σ f(x, y).
    lane_sum_2(x: X, y: Y)
);
lane_sums!(
    /// Σ f(x, y, z).
    lane_sum_3(x: X, y: Y, z: Z)
);

/// Largest element; −∞ for none.
#[inline(always)]
pub(super) fn lane_max(x: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (top, &x) in tops.iter_mut().zip(chunk) {
            *top = if x > *top { x } else { *top };
        }
    }
    tops.iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// A raw pointer that parallel tasks write through at disjoint places.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: every user writes only elements that no other task touches; each use says why.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(slice: &mut [f32]) -> Self {
        Shared(slice.as_mut_ptr())
    }
    pub(super) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_a_few_ulps() {
        let worst = (-8_730..=8_837)
            .map(|i| i as f32 / 100.0)
            .map(|x| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 3e-7, "worst relative error {worst:e}");
        assert!(exp(-1000.0) < 2e-38);
        assert_eq!(exp(88.7), f32::INFINITY);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_accurate_on_both_sides_of_the_seam() {
        let worst = (1..=120_000)
            .map(|i| i as f32 * 1e-4)
            .flat_map(|x| [x, -x])
            .map(|x| (f64::from(tanh(x)) / f64::from(x).tanh() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 4e-7, "worst relative error {worst:e}");
        assert_eq!([tanh(0.0), tanh(1e-30)], [0.0, 1e-30]);
        assert_eq!([tanh(f32::INFINITY), tanh(-1e9)], [1.0, -1.0]);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn normal_cdf_is_accurate_in_the_middle_and_in_the_tail() {
        let (mut absolute, mut relative) = (0f64, 0f64);
        for i in -90_000..=90_000 {
            let x = i as f32 * 1e-4;
            let expected = 0.5 * libm::erfc(-f64::from(x) * std::f64::consts::FRAC_1_SQRT_2);
            let error = (f64::from(normal_cdf(x)) - expected).abs();
            absolute = absolute.max(error);
            relative = relative.max(error / expected);
        }
        assert!(absolute < 2.5e-7, "worst absolute error {absolute:e}");
        assert!(relative < 1.2e-5, "worst relative error {relative:e}");
        assert_eq!(normal_cdf(f32::INFINITY), 1.0);
        assert!(normal_cdf(f32::NEG_INFINITY) < 1e-38);
        assert!(normal_cdf(f32::NAN).is_nan());
    }

    #[test]
    fn lane_sums_cover_every_element() {
        for n in [0, 1, 31, 32, 33, 65] {
            let expected = (0..n).sum::<usize>();
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(lane_sum(&x, |x| x), expected as f32);
            assert_eq!(
                lane_sum_2(&x, &x, |x, y| f64::from(x + y)),
                2.0 * expected as f64
            );
            assert_eq!(lane_sum_3(&x, &x, &x, |x, y, z| x + y - z), expected as f32);
            assert_eq!(
                lane_max(&x),
                if n == 0 {
                    f32::NEG_INFINITY
                } else {
                    n as f32 - 1.0
                }
            );
        }
    }
}
