//! What the machine can do: the yardsticks that `bench/kernels` lays beside every kernel.
//!
//! Arithmetic: fused multiply-adds that never leave the registers, on all threads (what no product can exceed), and square products
//! of the backend. Memory: sweeps over arrays far larger than the caches, bytes counted once, so a store's
//! read for ownership is not counted, as it is not for the kernels.

use super::{BACKEND, bytes, values};
use divan::Bencher;
use divan::counter::ItemsCount;
use pulp::{Simd, WithSimd};
use std::hint::black_box;
use unbraid_tensor::{Backend, Gemm, Mat, MatMut};

/// Independent chains: more than the latency of an addition times the units that can start one each cycle.
const CHAINS: usize = 12;
const ROUNDS: usize = 1 << 20;
/// Floats of a sweep: 256 MiB.
const SWEEP: usize = 64 << 20;

/// `CHAINS` chains of `ROUNDS` multiply-adds; gives the floating-point operations done.
struct Chains;

impl WithSimd for Chains {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let (factor, term) = (simd.splat_f32s(0.999_9), simd.splat_f32s(black_box(1e-4)));
        let mut sums = [simd.splat_f32s(black_box(1.0)); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, term);
            }
        }
        for sum in sums {
            black_box(simd.reduce_sum_f32s(sum));
        }
        2 * CHAINS * ROUNDS * S::F32_LANES
    }
}

#[divan::bench_group(max_time = 2)]
mod arithmetic {
    use super::*;

    #[divan::bench]
    fn fma(bencher: Bencher<'_, '_>) {
        let arch = pulp::Arch::new();
        let all = || -> usize { rayon::broadcast(|_| arch.dispatch(Chains)).iter().sum() };
        bencher.counter(ItemsCount::new(all())).bench_local(all);
    }

    #[divan::bench(args = [1024, 2048])]
    fn square_gemm(bencher: Bencher<'_, '_>, n: usize) {
        let (x, w, mut y) = (values(n * n), values(n * n), values(n * n));
        bencher
            .counter(ItemsCount::new(2 * n * n * n))
            .bench_local(|| {
                let (x, w) = (Mat::rows(&x, 0, n), Mat::rows(&w, 0, n).t());
                BACKEND.gemm(Gemm::replace(n, n, n), x, w, MatMut::rows(&mut y, 0, n));
            });
    }
}

#[divan::bench_group(max_time = 2)]
mod memory {
    use super::*;

    /// Two streams in.
    #[divan::bench]
    fn read(bencher: Bencher<'_, '_>) {
        let (x, y) = (values(SWEEP), values(SWEEP));
        bencher
            .counter(bytes(2 * SWEEP))
            .bench_local(|| BACKEND.dot(&x, 0, &y, 0, SWEEP));
    }

    /// Two streams in, one of them out again.
    #[divan::bench]
    fn update(bencher: Bencher<'_, '_>) {
        let (x, mut y) = (values(SWEEP), values(SWEEP));
        bencher
            .counter(bytes(3 * SWEEP))
            .bench_local(|| BACKEND.axpy(1e-3, &x, &mut y));
    }
}
