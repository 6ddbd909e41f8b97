//! Throughput of the fast backend's kernels at real shapes: SmolLM2-135M and GPT-2 small, 1024 rows.
//!
//! `cargo bench -p unbraid-tensor` runs all, `-- attention` those whose name holds that word; threads are rayon's
//! (`RAYON_NUM_THREADS`). Kernels limited by arithmetic count floating-point operations, a multiplication and an
//! addition apart, so "Gitem/s" reads as GFLOP/s. Kernels limited by memory count the bytes of the arrays they
//! read and write, each once, so "GB/s" can be laid beside the machine's memory bandwidth. `bench/kernels` runs this and
//! prints every rate with its share of the machine's peaks, which `kernels/peak.rs` measures; `kernels/geometry.rs`
//! holds the kernels of gradient geometry.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "kernels/geometry.rs"]
mod geometry_groups;
#[path = "kernels/peak.rs"]
mod peak;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;
use unbraid_tensor::{
    Adafactor, Adamw, AttentionLayout, AttentionSegment, AttentionShape, Backend, CpuBackend, Gate,
    Gemm, HeadBackward, Mat, MatMut, Span,
};

/// The sizes of a model that kernels see.
struct Model {
    name: &'static str,
    d: usize,
    f: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    v: usize,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const MODELS: [Model; 2] = [
    Model {
        name: "SmolLM2-135M",
        d: 576,
        f: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        v: 49152,
    },
    Model {
        name: "GPT-2 small",
        d: 768,
        f: 3072,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        v: 50257,
    },
];

/// Activation rows N.
const N: usize = 1024;

/// Rank of an adapter.
const R: usize = 16;

/// Scored rows M: the completions of [`layout`].
const M: usize = 768;

static BACKEND: LazyLock<CpuBackend> = LazyLock::new(CpuBackend::new);
static IN_BF16: LazyLock<CpuBackend> = LazyLock::new(CpuBackend::with_bf16_products);

type Buffer = <CpuBackend as Backend>::Buffer;

/// Values of [−1, 1) that repeat in no short period: speed does not depend on them unless they are subnormal.
fn values(n: usize) -> Buffer {
    let golden = |i: usize| (i as f64 * 0.618_033_988_749_894_9).fract();
    let values: Vec<f32> = (0..n).map(|i| (2.0 * golden(i) - 1.0) as f32).collect();
    BACKEND.upload(&values)
}

/// The same as bf16.
fn halves(n: usize) -> Buffer {
    BACKEND.upload_bf16(&BACKEND.download(&values(n)))
}

/// Row numbers below `limit`, as scattered as token ids.
fn indices(n: usize, limit: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % limit) as u32).collect()
}

/// A counter of the bytes of `floats` f32.
fn bytes(floats: usize) -> BytesCount {
    BytesCount::new(4 * floats)
}

/// Two preference pairs: prompts of 128 rows, each with two completions of 192.
fn layout() -> AttentionLayout {
    let same = |act, len| Span {
        act,
        grad: act,
        len,
    };
    let mut segments = Vec::new();
    for group in 0..2 {
        let prompt = same(group * N / 2, 128);
        let runs = [
            (prompt, vec![]),
            (same(prompt.act + 128, 192), vec![prompt]),
            (same(prompt.act + 320, 192), vec![prompt]),
        ];
        segments.extend(runs.map(|(own, ancestors)| AttentionSegment {
            query: own.act,
            own,
            ancestors,
            group,
        }));
    }
    AttentionLayout { segments }
}

/// (query row, key) pairs that the layout lets see each other.
fn pairs(layout: &AttentionLayout) -> usize {
    let of = |s: &AttentionSegment| {
        let before: usize = s.ancestors.iter().map(|a| a.len).sum();
        s.own.len * before + s.own.len * (s.own.len + 1) / 2
    };
    layout.segments.iter().map(of).sum()
}

fn main() {
    println!("{}", BACKEND.describe());
    divan::main();
}

/// The widening projection of the feed-forward block, D → F, and its two gradients: y = x·Wᵀ, dx = dy·W, dW += dyᵀ·x.
#[divan::bench_group(max_time = 2)]
mod gemm {
    use super::*;

    #[divan::bench(args = &MODELS)]
    fn forward(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (x, w, mut y) = (values(N * d), values(f * d), values(N * f));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (x, w) = (Mat::rows(&x, 0, d), Mat::rows(&w, 0, d).t());
                BACKEND.gemm(Gemm::replace(N, f, d), x, w, MatMut::rows(&mut y, 0, f));
            });
    }

    #[divan::bench(args = &MODELS)]
    fn input_gradient(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (dy, w, mut dx) = (values(N * f), values(f * d), values(N * d));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (dy, w) = (Mat::rows(&dy, 0, f), Mat::rows(&w, 0, d));
                BACKEND.gemm(Gemm::replace(N, d, f), dy, w, MatMut::rows(&mut dx, 0, d));
            });
    }

    /// The three with operands rounded to bf16.
    #[divan::bench(args = &MODELS)]
    fn forward_in_bf16(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (x, w, mut y) = (values(N * d), values(f * d), values(N * f));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (x, w) = (Mat::rows(&x, 0, d), Mat::rows(&w, 0, d).t());
                IN_BF16.gemm(Gemm::replace(N, f, d), x, w, MatMut::rows(&mut y, 0, f));
            });
    }

    #[divan::bench(args = &MODELS)]
    fn input_gradient_in_bf16(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (dy, w, mut dx) = (values(N * f), values(f * d), values(N * d));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (dy, w) = (Mat::rows(&dy, 0, f), Mat::rows(&w, 0, d));
                IN_BF16.gemm(Gemm::replace(N, d, f), dy, w, MatMut::rows(&mut dx, 0, d));
            });
    }

    #[divan::bench(args = &MODELS)]
    fn weight_gradient_in_bf16(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (dy, x, mut dw) = (values(N * f), values(N * d), values(f * d));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (dy, x) = (Mat::rows(&dy, 0, f).t(), Mat::rows(&x, 0, d));
                IN_BF16.gemm(Gemm::add(f, d, N), dy, x, MatMut::rows(&mut dw, 0, d));
            });
    }

    /// Forward and input gradient with the weight kept as bf16: what a frozen base costs.
    #[divan::bench(args = &MODELS)]
    fn forward_bf16(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (x, w, mut y) = (values(N * d), halves(f * d), values(N * f));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (x, w) = (Mat::rows(&x, 0, d), Mat::rows(&w, 0, d).t());
                BACKEND.gemm(Gemm::replace(N, f, d), x, w, MatMut::rows(&mut y, 0, f));
            });
    }

    #[divan::bench(args = &MODELS)]
    fn input_gradient_bf16(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (dy, w, mut dx) = (values(N * f), halves(f * d), values(N * d));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (dy, w) = (Mat::rows(&dy, 0, f), Mat::rows(&w, 0, d));
                BACKEND.gemm(Gemm::replace(N, d, f), dy, w, MatMut::rows(&mut dx, 0, d));
            });
    }

    /// One new token against the head, as in generation: limited by reading the weight.
    #[divan::bench(args = &MODELS)]
    fn one_row(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (x, w, mut y) = (values(d), values(v * d), values(v));
        bencher.counter(bytes(v * d)).bench_local(|| {
            let (x, w) = (Mat::rows(&x, 0, d), Mat::rows(&w, 0, d).t());
            BACKEND.gemm(Gemm::replace(1, v, d), x, w, MatMut::rows(&mut y, 0, v));
        });
    }

    #[divan::bench(args = &MODELS)]
    fn one_row_bf16(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (x, w, mut y) = (values(d), halves(v * d), values(v));
        bencher.counter(BytesCount::new(2 * v * d)).bench_local(|| {
            let (x, w) = (Mat::rows(&x, 0, d), Mat::rows(&w, 0, d).t());
            BACKEND.gemm(Gemm::replace(1, v, d), x, w, MatMut::rows(&mut y, 0, v));
        });
    }

    #[divan::bench(args = &MODELS)]
    fn weight_gradient(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (dy, x, mut dw) = (values(N * f), values(N * d), values(f * d));
        bencher
            .counter(ItemsCount::new(2 * N * d * f))
            .bench_local(|| {
                let (dy, x) = (Mat::rows(&dy, 0, f).t(), Mat::rows(&x, 0, d));
                BACKEND.gemm(Gemm::add(f, d, N), dy, x, MatMut::rows(&mut dw, 0, d));
            });
    }

    /// An adapter's narrow products beside that projection: u = x·Aᵀ, y += u·Bᵀ; du = dy·B, dx += du·A.
    #[divan::bench(args = &MODELS)]
    fn adapter(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (x, a, b) = (values(N * d), values(R * d), values(f * R));
        let (mut u, mut y, mut dx) = (values(N * R), values(N * f), values(N * d));
        bencher
            .counter(ItemsCount::new(2 * 2 * N * R * (d + f)))
            .bench_local(|| {
                let (x, t) = (Mat::rows(&x, 0, d), Mat::rows(&a, 0, d).t());
                BACKEND.gemm(Gemm::replace(N, R, d), x, t, MatMut::rows(&mut u, 0, R));
                let (h, t) = (Mat::rows(&u, 0, R), Mat::rows(&b, 0, R).t());
                BACKEND.gemm(Gemm::add(N, f, R), h, t, MatMut::rows(&mut y, 0, f));
                let (dy, b) = (Mat::rows(&y, 0, f), Mat::rows(&b, 0, R));
                BACKEND.gemm(Gemm::replace(N, R, f), dy, b, MatMut::rows(&mut u, 0, R));
                let (du, a) = (Mat::rows(&u, 0, R), Mat::rows(&a, 0, d));
                BACKEND.gemm(Gemm::add(N, d, R), du, a, MatMut::rows(&mut dx, 0, d));
            });
    }

    /// The gradients of A and B: duᵀ·x, dyᵀ·u.
    #[divan::bench(args = &MODELS)]
    fn adapter_gradient(bencher: Bencher<'_, '_>, &Model { d, f, .. }: &Model) {
        let (x, u, dy) = (values(N * d), values(N * R), values(N * f));
        let (mut da, mut db) = (values(R * d), values(f * R));
        bencher
            .counter(ItemsCount::new(2 * N * R * (d + f)))
            .bench_local(|| {
                let (du, x) = (Mat::rows(&u, 0, R).t(), Mat::rows(&x, 0, d));
                BACKEND.gemm(Gemm::add(R, d, N), du, x, MatMut::rows(&mut da, 0, d));
                let (dy, u) = (Mat::rows(&dy, 0, f).t(), Mat::rows(&u, 0, R));
                BACKEND.gemm(Gemm::add(f, R, N), dy, u, MatMut::rows(&mut db, 0, R));
            });
    }
}

/// Only pairs that see each other count: 2 products of head_dim forward, 5 backward (scores, dp, dq, dk, dv).
#[divan::bench_group(max_time = 2)]
mod attention {
    use super::*;

    fn shape(model: &Model) -> AttentionShape {
        AttentionShape::new(model.heads, model.kv_heads, model.head_dim)
    }

    #[divan::bench(args = &MODELS)]
    fn forward(bencher: Bencher<'_, '_>, model: &Model) {
        let (layout, shape) = (layout(), shape(model));
        let (q, mut out) = (values(N * shape.q_width()), values(N * shape.q_width()));
        let (k, v) = (values(N * shape.kv_width()), values(N * shape.kv_width()));
        bencher
            .counter(ItemsCount::new(2 * 2 * pairs(&layout) * shape.q_width()))
            .bench_local(|| BACKEND.attention(&q, &k, &v, &layout, shape, &mut out));
    }

    /// With scores capped, as in Gemma 2.
    #[divan::bench(args = &MODELS)]
    fn forward_capped(bencher: Bencher<'_, '_>, model: &Model) {
        let shape = AttentionShape {
            softcap: Some(50.0),
            ..shape(model)
        };
        let layout = layout();
        let (q, mut out) = (values(N * shape.q_width()), values(N * shape.q_width()));
        let (k, v) = (values(N * shape.kv_width()), values(N * shape.kv_width()));
        bencher
            .counter(ItemsCount::new(2 * 2 * pairs(&layout) * shape.q_width()))
            .bench_local(|| BACKEND.attention(&q, &k, &v, &layout, shape, &mut out));
    }

    #[divan::bench(args = &MODELS)]
    fn backward(bencher: Bencher<'_, '_>, model: &Model) {
        let (layout, shape) = (layout(), shape(model));
        let [q, mut out, d_out, mut dq] = [0; 4].map(|_| values(N * shape.q_width()));
        let [k, v, mut dk, mut dv] = [0; 4].map(|_| values(N * shape.kv_width()));
        let lse = BACKEND.attention(&q, &k, &v, &layout, shape, &mut out);
        bencher
            .counter(ItemsCount::new(5 * 2 * pairs(&layout) * shape.q_width()))
            .bench_local(|| {
                BACKEND.attention_backward(
                    &q, &k, &v, &lse, &layout, shape, &d_out, &mut dq, &mut dk, &mut dv,
                );
            });
    }
}

/// One product of M·D·V forward; backward the logits again, dh and dw, and with `inner` the Gram of two halves.
#[divan::bench_group(max_time = 4, sample_count = 10)]
mod head {
    use super::*;

    struct Head {
        h: Buffer,
        w: Buffer,
        seeds: Buffer,
        targets: Vec<u32>,
    }

    fn head(&Model { d, v, .. }: &Model) -> Head {
        Head {
            h: values(M * d),
            w: values(v * d),
            seeds: values(M),
            targets: indices(M, v),
        }
    }

    #[divan::bench(args = &MODELS)]
    fn logps(bencher: Bencher<'_, '_>, model: &Model) {
        let (&Model { d, v, .. }, x) = (model, head(model));
        bencher
            .counter(ItemsCount::new(2 * M * d * v))
            .bench_local(|| BACKEND.head_logps(&x.h, &x.w, &x.targets, None, M, d, v));
    }

    #[divan::bench(args = &MODELS)]
    fn backward(bencher: Bencher<'_, '_>, model: &Model) {
        run_backward(bencher, model, &[]);
    }

    #[divan::bench(args = &MODELS)]
    fn backward_with_inner(bencher: Bencher<'_, '_>, model: &Model) {
        run_backward(bencher, model, &[(0..M / 2, M / 2..M)]);
    }

    fn run_backward(
        bencher: Bencher<'_, '_>,
        model: &Model,
        inner: &[(Range<usize>, Range<usize>)],
    ) {
        let (&Model { d, v, .. }, x) = (model, head(model));
        let (_, lse) = BACKEND.head_logps(&x.h, &x.w, &x.targets, None, M, d, v);
        let (mut dh, mut dw) = (values(M * d), values(v * d));
        let gram: usize = inner
            .iter()
            .map(|(p, q)| 2 * p.len() * q.len() * (v + d))
            .sum();
        bencher
            .counter(ItemsCount::new(3 * 2 * M * d * v + gram))
            .bench_local(|| {
                BACKEND.head_backward(&mut HeadBackward {
                    h: &x.h,
                    w: &x.w,
                    lse: &lse,
                    softcap: None,
                    logits: None,
                    targets: &x.targets,
                    seeds: &x.seeds,
                    coefficients: None,
                    dh: Some(&mut dh),
                    dw: Some(&mut dw),
                    inner,
                    m: M,
                    d,
                    v,
                })
            });
    }
}

/// Kernels over activations `[N, D]` or `[N, F]`.
#[divan::bench_group(max_time = 1)]
mod rows {
    use super::*;

    #[divan::bench(args = &MODELS)]
    fn rms_norm(bencher: Bencher<'_, '_>, &Model { d, .. }: &Model) {
        let (x, w, mut y) = (values(N * d), values(d), values(N * d));
        bencher
            .counter(bytes(2 * N * d))
            .bench_local(|| BACKEND.rms_norm(&x, &w, 0.0, 1e-5, &mut y, N, d));
    }

    #[divan::bench(args = &MODELS)]
    fn layer_norm(bencher: Bencher<'_, '_>, &Model { d, .. }: &Model) {
        let (x, w, b, mut y) = (values(N * d), values(d), values(d), values(N * d));
        bencher
            .counter(bytes(2 * N * d))
            .bench_local(|| BACKEND.layer_norm(&x, &w, &b, 1e-5, &mut y, N, d));
    }

    #[divan::bench(args = &MODELS)]
    fn norm_backward(bencher: Bencher<'_, '_>, &Model { d, .. }: &Model) {
        let [x, dy, mut dx, mut dw] = [0; 4].map(|_| values(N * d));
        let (w, mut y) = (values(d), values(N * d));
        let cache = BACKEND.rms_norm(&x, &w, 0.0, 1e-5, &mut y, N, d);
        bencher
            .counter(bytes(5 * N * d)) // x, dy, dw once, dx twice
            .bench_local(|| {
                let dw = Some(&mut dw);
                BACKEND.norm_backward(&x, &w, 0.0, &cache, None, &dy, &mut dx, dw, N, d);
            });
    }

    /// y from x and the cache, as a backward pass needs it again.
    #[divan::bench(args = &MODELS)]
    fn norm_apply(bencher: Bencher<'_, '_>, &Model { d, .. }: &Model) {
        let (x, w, mut y) = (values(N * d), values(d), values(N * d));
        let cache = BACKEND.rms_norm(&x, &w, 0.0, 1e-5, &mut y, N, d);
        bencher
            .counter(bytes(2 * N * d))
            .bench_local(|| BACKEND.norm_apply(&x, &w, 0.0, None, &cache, &mut y, N, d));
    }

    #[divan::bench(args = &MODELS)]
    fn add_bias(bencher: Bencher<'_, '_>, &Model { f, .. }: &Model) {
        let (bias, mut x) = (BACKEND.zeros(f), values(N * f));
        bencher
            .counter(bytes(2 * N * f))
            .bench_local(|| BACKEND.add_bias(&bias, &mut x, N, f));
    }

    #[divan::bench(args = &MODELS)]
    fn column_sum(bencher: Bencher<'_, '_>, &Model { f, .. }: &Model) {
        let (x, mut out) = (values(N * f), values(f));
        bencher
            .counter(bytes(N * f))
            .bench_local(|| BACKEND.column_sum(1e-3, &x, 0..N, f, &mut out));
    }

    /// One head's columns out of a fused projection.
    #[divan::bench(args = &MODELS)]
    fn copy_2d(bencher: Bencher<'_, '_>, &Model { d, .. }: &Model) {
        let (x, mut y) = (values(3 * N * d), values(N * d));
        bencher
            .counter(bytes(2 * N * d))
            .bench_local(|| BACKEND.copy_2d(&x, d, 3 * d, &mut y, 0, d, N, d));
    }

    #[divan::bench(args = &MODELS)]
    fn gelu_tanh(bencher: Bencher<'_, '_>, &Model { f, .. }: &Model) {
        let (x, mut y) = (values(N * f), values(N * f));
        bencher
            .counter(bytes(2 * N * f))
            .bench_local(|| BACKEND.gelu(&x, &mut y, false));
    }

    #[divan::bench(args = &MODELS)]
    fn gelu_exact(bencher: Bencher<'_, '_>, &Model { f, .. }: &Model) {
        let (x, mut y) = (values(N * f), values(N * f));
        bencher
            .counter(bytes(2 * N * f))
            .bench_local(|| BACKEND.gelu(&x, &mut y, true));
    }

    #[divan::bench(args = &MODELS)]
    fn gelu_tanh_backward(bencher: Bencher<'_, '_>, &Model { f, .. }: &Model) {
        // The operation multiplies d by gelu'(x), run after run; gelu'(0.7663) = 1.0003 keeps it in range.
        let (x, mut d) = (BACKEND.upload(&vec![0.7663; N * f]), values(N * f));
        bencher
            .counter(bytes(3 * N * f)) // x once, d twice
            .bench_local(|| BACKEND.gelu_backward(&x, None, &mut d, f, false));
    }

    #[divan::bench(args = &MODELS)]
    fn swiglu(bencher: Bencher<'_, '_>, &Model { f, .. }: &Model) {
        let (gate, up, mut y) = (values(N * f), values(N * f), values(N * f));
        bencher
            .counter(bytes(3 * N * f))
            .bench_local(|| BACKEND.glu(Gate::Silu, &gate, &up, &mut y));
    }

    #[divan::bench(args = &MODELS)]
    fn swiglu_backward(bencher: Bencher<'_, '_>, &Model { f, .. }: &Model) {
        // The operation replaces d_up by d_up·silu(gate), run after run; silu(1.2784645) = 1 keeps it in range.
        let gate = BACKEND.upload(&vec![1.278_464_5; N * f]);
        let [up, mut d_gate, mut d_up] = [0; 3].map(|_| values(N * f));
        bencher
            .counter(bytes(5 * N * f)) // gate, up, d_gate once, d_up twice
            .bench_local(|| {
                BACKEND.glu_backward(Gate::Silu, &gate, &up, None, &mut d_gate, &mut d_up, f);
            });
    }

    #[divan::bench(args = &MODELS)]
    fn rope(bencher: Bencher<'_, '_>, model: &Model) {
        let &Model {
            heads, head_dim, ..
        } = model;
        let mut x = values(N * heads * head_dim);
        let half = head_dim / 2;
        let angle = |i: usize| (i / head_dim) as f32 / (1 + i % half) as f32;
        let entry = |i: usize| {
            if i % head_dim < half {
                angle(i).cos()
            } else {
                angle(i).sin()
            }
        };
        let table = BACKEND.upload(&(0..N * head_dim).map(entry).collect::<Vec<_>>());
        let positions = indices(N, N);
        bencher
            .counter(bytes(2 * N * heads * head_dim))
            .bench_local(|| {
                BACKEND.rope(&mut x, &positions, &table, heads, head_dim, head_dim, false)
            });
    }

    #[divan::bench(args = &MODELS)]
    fn dropout(bencher: Bencher<'_, '_>, &Model { d, .. }: &Model) {
        let (x, mut y) = (values(N * d), values(N * d));
        bencher
            .counter(bytes(2 * N * d))
            .bench_local(|| BACKEND.dropout(&x, None, 1, 0.05, &mut y, N, d));
    }

    #[divan::bench(args = &MODELS)]
    fn gather(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (table, mut out, ids) = (values(v * d), values(N * d), indices(N, v));
        bencher
            .counter(bytes(2 * N * d))
            .bench_local(|| BACKEND.gather(&table, &ids, &mut out, d, false));
    }

    #[divan::bench(args = &MODELS)]
    fn scatter_add(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (x, mut table, ids) = (values(N * d), values(v * d), indices(N, v));
        bencher
            .counter(bytes(3 * N * d)) // x once, the table's rows twice
            .bench_local(|| BACKEND.scatter_add(&x, &ids, None, &mut table, d));
    }
}

/// Sweeps over a parameter the size of the embedding, `[V, D]`.
#[divan::bench_group(max_time = 2, sample_count = 20)]
mod parameters {
    use super::*;

    #[divan::bench(args = &MODELS)]
    fn fill_zero(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let mut x = values(v * d);
        bencher
            .counter(bytes(v * d))
            .bench_local(|| BACKEND.fill_zero(&mut x));
    }

    #[divan::bench(args = &MODELS)]
    fn scale(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let mut x = values(v * d);
        bencher
            .counter(bytes(2 * v * d))
            .bench_local(|| BACKEND.scale(0.999, &mut x));
    }

    #[divan::bench(args = &MODELS)]
    fn axpy(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (x, mut y) = (values(v * d), values(v * d));
        bencher
            .counter(bytes(3 * v * d)) // x once, y twice
            .bench_local(|| BACKEND.axpy(1e-3, &x, &mut y));
    }

    #[divan::bench(args = &MODELS)]
    fn dot(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (x, y) = (values(v * d), values(v * d));
        bencher
            .counter(bytes(2 * v * d))
            .bench_local(|| BACKEND.dot(&x, 0, &y, 0, v * d));
    }

    #[divan::bench(args = &MODELS)]
    fn gram_and_add(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (x, y, mut sum) = (values(v * d), values(v * d), values(v * d));
        bencher
            .counter(bytes(4 * v * d)) // x and y once, the sum twice
            .bench_local(|| BACKEND.gram_and_add(&x, &y, 0.5, -0.5, Some(&mut sum)));
    }

    #[divan::bench(args = &MODELS)]
    fn adafactor(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (mut param, grad) = (values(v * d), values(v * d));
        let (mut rows, mut cols) = (BACKEND.zeros(v), BACKEND.zeros(d));
        let step = Adafactor {
            learning_rate: 1e-5,
            decay_rate: -0.8,
            epsilon: 1e-30,
            clip_threshold: 1.0,
            weight_decay: 0.0,
            step: 1,
            grad_scale: 1.0,
        };
        bencher
            .counter(bytes(5 * v * d)) // the gradient three times, the parameter twice
            .bench_local(|| {
                BACKEND.adafactor(&step, v, d, &mut param, &grad, &mut rows, &mut cols);
            });
    }

    /// The same for parameters that are no matrices.
    #[divan::bench(args = &MODELS)]
    fn adafactor_vector(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (mut param, grad, mut state) = (values(v * d), values(v * d), BACKEND.zeros(v * d));
        let step = Adafactor {
            learning_rate: 1e-5,
            decay_rate: -0.8,
            epsilon: 1e-30,
            clip_threshold: 1.0,
            weight_decay: 0.0,
            step: 1,
            grad_scale: 1.0,
        };
        bencher
            .counter(bytes(5 * v * d)) // the gradient once, parameter and state twice
            .bench_local(|| BACKEND.adafactor_vector(&step, &mut param, &grad, &mut state));
    }

    /// With momentum.
    #[divan::bench(args = &MODELS)]
    fn sgd(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (mut param, grad, mut m) = (values(v * d), values(v * d), BACKEND.zeros(v * d));
        bencher
            .counter(bytes(5 * v * d)) // the gradient once, parameter and momentum twice
            .bench_local(|| BACKEND.sgd(1e-5, 0.0, 1.0, &mut param, &grad, Some((0.9, &mut m))));
    }

    #[divan::bench(args = &MODELS)]
    fn lion(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (mut param, grad, mut m) = (values(v * d), values(v * d), BACKEND.zeros(v * d));
        bencher
            .counter(bytes(5 * v * d)) // the gradient once, parameter and momentum twice
            .bench_local(|| BACKEND.lion(1e-5, 0.0, 0.9, 0.99, 1.0, &mut param, &grad, &mut m));
    }

    #[divan::bench(args = &MODELS)]
    fn adamw(bencher: Bencher<'_, '_>, &Model { d, v, .. }: &Model) {
        let (mut param, grad) = (values(v * d), values(v * d));
        let (mut first, mut second) = (BACKEND.zeros(v * d), BACKEND.zeros(v * d));
        let step = Adamw {
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            step: 1,
            grad_scale: 1.0,
        };
        bencher
            .counter(bytes(7 * v * d)) // the gradient once; parameter and both moments twice
            .bench_local(|| BACKEND.adamw(&step, &mut param, &grad, &mut first, &mut second));
    }
}
