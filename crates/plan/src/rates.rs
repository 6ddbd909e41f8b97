//! How fast a machine does each kind of work: measured on the CPU, or given.
//!
//! time = Σ over kinds of amount / rate. Kinds run one after another, so their times add up.

use crate::profile::Profile;
use crate::work::{Kind, NARROW, Work, gram_cost, visible_pairs};
use std::time::{Duration, Instant};
use unbraid_model::{Batch, Forest, GradientPlan, ModelConfig, Storage};
use unbraid_tensor::{
    Adamw, AttentionShape, Backend, CpuBackend, Gate, Gemm, HeadBackward, Mat, MatMut,
};

/// Operations per second of each kind, or bytes per second where [`Kind::is_bytes`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates([f64; Kind::ALL.len()]);

impl Rates {
    /// One rate for all arithmetic, in operations per second, and one for all bytes.
    #[must_use]
    pub fn flat(flops: f64, bytes: f64) -> Self {
        Rates(Kind::ALL.map(|kind| if kind.is_bytes() { bytes } else { flops }))
    }

    /// The rate of a kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> f64 {
        self.0[kind as usize]
    }

    fn set(&mut self, kind: Kind, rate: f64) {
        self.0[kind as usize] = rate;
    }

    /// The same with one rate for all arithmetic, in operations per second.
    #[must_use]
    pub fn with_arithmetic(mut self, flops: f64) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| !kind.is_bytes());
        kinds.for_each(|kind| self.set(kind, flops));
        self
    }

    /// The same with one rate for all bytes, in bytes per second.
    #[must_use]
    pub fn with_bandwidth(mut self, bytes: f64) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_bytes());
        kinds.for_each(|kind| self.set(kind, bytes));
        self
    }

    /// The best rate of arithmetic: what the floor divides by.
    #[must_use]
    pub fn peak(&self) -> f64 {
        let kinds = Kind::ALL.into_iter().filter(|kind| !kind.is_bytes());
        kinds.map(|kind| self.of(kind)).fold(0.0, f64::max)
    }

    /// Seconds of a kind of work.
    #[must_use]
    pub fn seconds_of(&self, work: &Work, kind: Kind) -> f64 {
        match work.of(kind) {
            0.0 => 0.0,
            amount => amount / self.of(kind),
        }
    }

    /// Seconds of all work.
    #[must_use]
    pub fn seconds(&self, work: &Work) -> f64 {
        let kinds = Kind::ALL.into_iter();
        kinds.map(|kind| self.seconds_of(work, kind)).sum()
    }

    /// A GPU's peaks times the share of them that is reached. `bf16`: products in bf16 where it has units for them.
    #[must_use]
    pub fn of_profile(profile: &Profile, bf16: bool, utilization: f64) -> Self {
        let peak = profile.bf16_tflops.filter(|_| bf16);
        let flops = peak.unwrap_or(profile.f32_tflops) * 1e12;
        Rates::flat(
            flops * utilization,
            profile.bandwidth_gb * 1e9 * BANDWIDTH_SHARE,
        )
    }
}

/// Share of a GPU's bandwidth that sweeps are assumed to reach.
pub const BANDWIDTH_SHARE: f64 = 0.8;

/// At most so many rows and columns are measured: rates hardly change beyond, and a second must do.
const ROWS: usize = 512;
const COLUMNS: usize = 4096;
/// How long one kind is measured.
const PATIENCE: Duration = Duration::from_millis(60);

/// What is measured: the shapes of the run.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// How its matrices are held.
    pub storage: Storage,
    /// A typical micro-batch.
    pub forest: &'a Forest,
    /// Rank of the adapter.
    pub rank: usize,
    /// Whether geometry is measured in the run.
    pub geometry: bool,
}

/// Amount per second of the fastest of some repetitions, after one that is not counted.
fn fastest(amount: f64, mut work: impl FnMut()) -> f64 {
    work();
    let (begun, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || begun.elapsed() < PATIENCE {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed().as_secs_f64());
    }
    amount / best.max(1e-9)
}

/// Widths of a model's blocks as the largest linear map and the attention have them.
struct Widths {
    d_in: usize,
    d_out: usize,
    attention: AttentionShape,
}

fn number(config: &ModelConfig, keys: &[&str]) -> Option<usize> {
    let raw = config.raw();
    let found = keys.iter().find_map(|key| raw.get(*key)?.as_u64());
    found.and_then(|n| usize::try_from(n).ok())
}

impl Widths {
    fn of(config: &ModelConfig) -> Self {
        let d = config.hidden_size();
        let inner = number(config, &["intermediate_size", "n_inner"]).unwrap_or(4 * d);
        let heads = number(config, &["num_attention_heads", "n_head"]).unwrap_or(1);
        let kv_heads = number(config, &["num_key_value_heads"]).unwrap_or(heads);
        let head_dim = number(config, &["head_dim"]).unwrap_or(d / heads.max(1));
        Widths {
            d_in: d.min(COLUMNS),
            d_out: inner.min(COLUMNS),
            attention: AttentionShape::new(heads, kv_heads, head_dim),
        }
    }
}

/// Measures the machine with the run's own shapes, in about a second.
#[must_use]
pub fn measure(probe: &Probe<'_>) -> Rates {
    let b = CpuBackend::new();
    let widths = Widths::of(probe.config);
    let rows = probe.forest.rows().clamp(16, ROWS);
    let mut rates = Rates::flat(1.0, 1.0);
    products(&b, probe, &widths, rows, &mut rates);
    rates.set(Kind::Head, head(&b, probe));
    rates.set(Kind::Attention, attention(&b, probe, widths.attention));
    let grams = match probe.geometry {
        true => grams(&b, probe, &widths),
        false => rates.of(Kind::Forward),
    };
    rates.set(Kind::Grams, grams);
    rates.set(Kind::Elementwise, elementwise(&b, rows, &widths));
    rates.set(Kind::Sweep, sweep(&b, probe.config));
    rates
}

/// Ordinary numbers: denormals would be slow.
fn filled(b: &CpuBackend, len: usize) -> <CpuBackend as Backend>::Buffer {
    let values: Vec<f32> = (0..len).map(|i| 0.01 * (1 + i % 7) as f32).collect();
    b.upload(&values)
}

fn products(b: &CpuBackend, probe: &Probe<'_>, w: &Widths, rows: usize, rates: &mut Rates) {
    let (d_in, d_out) = (w.d_in, w.d_out);
    let (x, g) = (filled(b, rows * d_in), filled(b, rows * d_out));
    let values: Vec<f32> = (0..d_in * d_out).map(|i| 0.01 * (i % 5) as f32).collect();
    let weight = match probe.storage {
        Storage::Bfloat16 => b.upload_bf16(&values),
        Storage::Float32 => b.upload(&values),
    };
    let mut out = b.zeros(rows.max(d_out) * d_in.max(d_out));
    let flops = |m: usize, n: usize, k: usize| 2.0 * m as f64 * n as f64 * k as f64;
    let whole = flops(rows, d_out, d_in);
    let forward = fastest(whole, || {
        let w = Mat::rows(&weight, 0, d_in).t();
        let to = MatMut::rows(&mut out, 0, d_out);
        b.gemm(
            Gemm::replace(rows, d_out, d_in),
            Mat::rows(&x, 0, d_in),
            w,
            to,
        );
    });
    rates.set(Kind::Forward, forward);
    let inputs = fastest(whole, || {
        let w = Mat::rows(&weight, 0, d_in);
        let to = MatMut::rows(&mut out, 0, d_in);
        b.gemm(
            Gemm::replace(rows, d_in, d_out),
            Mat::rows(&g, 0, d_out),
            w,
            to,
        );
    });
    rates.set(Kind::InputGradient, inputs);
    let weights = fastest(whole, || {
        let (g, x) = (Mat::rows(&g, 0, d_out).t(), Mat::rows(&x, 0, d_in));
        let to = MatMut::rows(&mut out, 0, d_in);
        b.gemm(Gemm::add(d_out, d_in, rows), g, x, to);
    });
    rates.set(Kind::WeightGradient, weights);
    let rank = probe.rank.clamp(1, NARROW);
    let (a, u) = (filled(b, rank * d_in), filled(b, rows * rank));
    let narrow = fastest(2.0 * flops(rows, rank, d_in), || {
        let to = MatMut::rows(&mut out, 0, rank);
        let down = Gemm::replace(rows, rank, d_in);
        b.gemm(down, Mat::rows(&x, 0, d_in), Mat::rows(&a, 0, d_in).t(), to);
        let to = MatMut::rows(&mut out, 0, d_in);
        let up = Gemm::replace(rows, d_in, rank);
        b.gemm(up, Mat::rows(&u, 0, rank), Mat::rows(&a, 0, d_in), to);
    });
    rates.set(Kind::Narrow, narrow);
}

/// Forward and backward of the head over a part of the vocabulary.
fn head(b: &CpuBackend, probe: &Probe<'_>) -> f64 {
    let m = probe.forest.targets.len().clamp(1, ROWS / 2);
    let d = probe.config.hidden_size();
    let v = probe.config.vocab_size().min(16_384);
    let (h, w) = (filled(b, m * d), filled(b, v * d));
    let targets: Vec<u32> = (0..m).map(|i| (i % v) as u32).collect();
    let targets = b.index(&targets);
    let seeds = b.upload_f64(&vec![1.0; m]);
    let mut dh = b.zeros(m * d);
    let one = 2.0 * m as f64 * d as f64 * v as f64;
    fastest(3.0 * one, || {
        let (_, lse) = b.head_logps(&h, &w, &targets, None, m, d, v);
        let mut args = HeadBackward {
            h: &h,
            w: &w,
            lse: &lse,
            softcap: None,
            logits: None,
            targets: &targets,
            seeds: &seeds,
            coefficients: None,
            dh: Some(&mut dh),
            dw: None,
            inner: &[],
            m,
            d,
            v,
        };
        b.head_backward(&mut args);
    })
}

fn attention(b: &CpuBackend, probe: &Probe<'_>, shape: AttentionShape) -> f64 {
    let (layout, n) = (probe.forest.layout(), probe.forest.rows());
    if n == 0 {
        return 1.0;
    }
    let q = filled(b, n * shape.q_width());
    let k = filled(b, n * shape.kv_width());
    let v = filled(b, n * shape.kv_width());
    let mut out = b.zeros(n * shape.q_width());
    let (mut dk, mut dv) = (b.zeros(b.len(&k)), b.zeros(b.len(&v)));
    let flops = 14.0 * visible_pairs(&layout, shape) * shape.q_width() as f64;
    fastest(flops, || {
        let lse = b.attention(&q, &k, &v, &layout, shape, &mut out);
        let mut dq = b.zeros(n * shape.q_width());
        b.attention_backward(
            &q, &k, &v, &lse, &layout, shape, &q, &mut dq, &mut dk, &mut dv,
        );
    })
}

fn grams(b: &CpuBackend, probe: &Probe<'_>, w: &Widths) -> f64 {
    let batch: Batch<CpuBackend> = Batch::new(b, probe.forest.clone());
    let plan = GradientPlan::per_response(b, &batch.forest);
    let clusters: Vec<Vec<_>> = plan
        .responses
        .chunks(2)
        .map(|pair| pair.iter().map(|spans| &spans[..]).collect())
        .collect();
    let a = filled(b, batch.rows() * w.d_in);
    let g = filled(b, plan.rows * w.d_out);
    let costs = clusters.iter().map(|c| gram_cost(c, w.d_in, w.d_out).flops);
    fastest(costs.sum::<f64>().max(1.0), || {
        b.linear_grams(&a, &g, &clusters, w.d_in, w.d_out);
    })
}

/// The feed-forward layer's activation, forward and backward.
fn elementwise(b: &CpuBackend, rows: usize, w: &Widths) -> f64 {
    let len = rows * w.d_out;
    let (gate, up) = (filled(b, len), filled(b, len));
    let (mut out, mut d_up) = (b.zeros(len), filled(b, len));
    fastest(8.0 * 4.0 * len as f64, || {
        b.glu(Gate::Silu, &gate, &up, &mut out);
        b.glu_backward(Gate::Silu, &gate, &up, None, &mut out, &mut d_up, w.d_out);
    })
}

/// AdamW over as many parameters as the model has, up to a quarter of a GiB in all.
fn sweep(b: &CpuBackend, config: &ModelConfig) -> f64 {
    let len = usize::try_from(config.parameter_count()).unwrap_or(usize::MAX);
    let len = len.min(1 << 24);
    let [mut p, g, mut m, mut v] = [0, 1, 2, 3].map(|_| filled(b, len));
    let step = Adamw {
        learning_rate: 1e-6,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
    };
    fastest(7.0 * 4.0 * len as f64, || {
        b.adamw(&step, &mut p, &g, &mut m, &mut v);
    })
}
