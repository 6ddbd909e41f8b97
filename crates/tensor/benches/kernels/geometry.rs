//! Kernels of gradient geometry: inner products of responses' gradients that are never formed.

use super::{BACKEND, M, MODELS, Model, N, indices, values};
use divan::Bencher;
use divan::counter::ItemsCount;
use std::ops::Range;
use unbraid_tensor::{Backend, HeadBackward, Span};

/// Rows of a response in [`super::layout`], and of its prompt's stream.
const COMPLETION: usize = 192;
const PROMPT: usize = 128;

/// The probes of two pairs as the backward pass leaves them: a stream of the prompt's rows for each response, then
/// the response's own; two clusters of two probes.
fn probes() -> (Vec<Vec<Vec<Span>>>, usize) {
    let mut grad = 0;
    let mut span = |act, len| {
        let span = Span { act, grad, len };
        grad += len;
        span
    };
    let clusters = (0..2)
        .map(|pair| {
            let first = pair * N / 2;
            (0..2)
                .map(|side| {
                    let own = first + PROMPT + side * COMPLETION;
                    vec![span(first, PROMPT), span(own, COMPLETION)]
                })
                .collect()
        })
        .collect();
    (clusters, grad)
}

/// Operations of the way with row products: two Gram blocks for each of a cluster's three pairs of probes.
fn row_products(d_in: usize, d_out: usize) -> usize {
    let rows = PROMPT + COMPLETION;
    2 * 3 * 2 * rows * rows * (d_in + d_out)
}

#[divan::bench_group(max_time = 2)]
mod geometry {
    use super::*;

    /// D → F. The rate counts row products, whichever way the kernel takes.
    #[divan::bench(args = &MODELS)]
    fn linear_grams(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (probes, rows) = probes();
        let clusters: Vec<Vec<&[Span]>> = probes
            .iter()
            .map(|cluster| cluster.iter().map(Vec::as_slice).collect())
            .collect();
        let (a, g) = (values(N * d), values(rows * f));
        bencher
            .counter(ItemsCount::new(row_products(d, f)))
            .bench_local(|| BACKEND.linear_grams(&a, &g, &clusters, d, f));
    }

    /// Work depends on how many ids agree: counted is the comparison of all rows with all.
    #[divan::bench(args = &MODELS)]
    fn lookup_inner(bencher: Bencher<'_, '_>, &Model { d, .. }: &Model) {
        // ids of a text repeat: one of five
        let ids: Vec<u32> = (0..N as u32).map(|i| i * 7919 % (N as u32 / 5)).collect();
        let g = values(N * d);
        let (p, q) = (0..N / 2, N / 2..N);
        let agree = |i: usize| ids[N / 2..].iter().filter(|&&id| id == ids[i]).count();
        let products: usize = p.clone().map(agree).sum();
        bencher
            .counter(ItemsCount::new(2 * products * d))
            .bench_local(|| BACKEND.lookup_inner(&g, &ids, p.clone(), q.clone(), d));
    }

    #[divan::bench(args = &MODELS)]
    fn tied_inner(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let head = Head::new(d, v);
        let (g, ids) = (values(N * d), indices(N, v));
        let (p, q): (Range<usize>, Range<usize>) = (0..N / 2, 0..M / 2);
        // two products of every row of p with every scored row of q
        bencher
            .counter(ItemsCount::new(2 * 2 * p.len() * q.len() * d))
            .bench_local(|| BACKEND.tied_inner(&g, &ids, p.clone(), &head.arguments(), q.clone()));
    }

    /// The logits again.
    #[divan::bench(args = &MODELS, sample_count = 10)]
    fn head_log_squares(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let head = Head::new(d, v);
        bencher
            .counter(ItemsCount::new(2 * M * d * v))
            .bench_local(|| BACKEND.head_log_squares(&head.h, &head.w, &head.lse, None, M, d, v));
    }

    /// The logits again, and the product with the direction.
    #[divan::bench(args = &MODELS, sample_count = 10)]
    fn head_direction(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (head, direction) = (Head::new(d, v), values(v * d));
        bencher
            .counter(ItemsCount::new(2 * 2 * M * d * v))
            .bench_local(|| BACKEND.head_direction(&head.arguments(), &direction));
    }

    type Buffer = <unbraid_tensor::CpuBackend as Backend>::Buffer;

    /// A head after its forward pass.
    struct Head {
        h: Buffer,
        w: Buffer,
        lse: Buffer,
        seeds: Buffer,
        targets: Vec<u32>,
        d: usize,
        v: usize,
    }

    impl Head {
        fn new(d: usize, v: usize) -> Self {
            let (h, w, seeds, targets) = (values(M * d), values(v * d), values(M), indices(M, v));
            let (_, lse) = BACKEND.head_logps(&h, &w, &targets, None, M, d, v);
            Head {
                h,
                w,
                lse,
                seeds,
                targets,
                d,
                v,
            }
        }

        fn arguments(&self) -> HeadBackward<'_, unbraid_tensor::CpuBackend> {
            HeadBackward {
                h: &self.h,
                w: &self.w,
                lse: &self.lse,
                softcap: None,
                logits: None,
                targets: &self.targets,
                seeds: &self.seeds,
                coefficients: None,
                dh: None,
                dw: None,
                inner: &[],
                m: M,
                d: self.d,
                v: self.v,
            }
        }
    }
}
