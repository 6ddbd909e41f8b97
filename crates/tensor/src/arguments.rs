//! What operations of [`Backend`] take besides buffers: matrix views, sizes, hyper-parameters.

use crate::backend::Backend;
use std::ops::Range;

/// A read-only matrix inside a buffer: element (i, j) is at `offset + i·row_stride + j·col_stride`.
pub struct Mat<'a, T> {
    /// The buffer.
    pub buffer: &'a T,
    /// First element.
    pub offset: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// The rows from `first_row` on of a row-major matrix of width `width`.
    pub fn rows(buffer: &'a T, first_row: usize, width: usize) -> Self {
        Mat {
            buffer,
            offset: first_row * width,
            row_stride: width,
            col_stride: 1,
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Mat {
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A writable row-major matrix inside a buffer.
pub struct MatMut<'a, T> {
    /// The buffer.
    pub buffer: &'a mut T,
    /// First element.
    pub offset: usize,
    /// Distance between rows.
    pub row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// The rows from `first_row` on of a row-major matrix of width `width`.
    pub fn rows(buffer: &'a mut T, first_row: usize, width: usize) -> Self {
        MatMut {
            buffer,
            offset: first_row * width,
            row_stride: width,
        }
    }
}

/// Sizes and factors of `C ← α·A·B + β·C`, A `[m, k]`, B `[k, n]`, C `[m, n]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Factor on the product.
    pub alpha: f64,
    /// Factor on C before adding; 0 ignores C's contents.
    pub beta: f64,
}

impl Gemm {
    /// `C ← A·B`.
    pub fn replace(m: usize, n: usize, k: usize) -> Self {
        Gemm {
            m,
            n,
            k,
            alpha: 1.0,
            beta: 0.0,
        }
    }

    /// `C ← C + A·B`.
    pub fn add(m: usize, n: usize, k: usize) -> Self {
        Gemm {
            beta: 1.0,
            ..Gemm::replace(m, n, k)
        }
    }
}

/// What a normalisation's forward leaves for its backward.
pub struct NormCache<T> {
    /// Mean of each row, `[N]`; absent for root-mean-square normalisation.
    pub mean: Option<T>,
    /// Reciprocal standard deviation (or root mean square) of each row, `[N]`.
    pub rstd: T,
}

/// Pairs of row ranges whose head-gradient inner product is wanted.
pub type RowBlocks = Vec<(Range<usize>, Range<usize>)>;

/// Arguments of [`Backend::head_backward`].
pub struct HeadBackward<'a, B: Backend + ?Sized> {
    /// Final hidden states of the scored rows, `[M, D]`.
    pub h: &'a B::Buffer,
    /// Head weight, `[V, D]`.
    pub w: &'a B::Buffer,
    /// log Σ exp of the logits, `[M]`, from [`Backend::head_logps`].
    pub lse: &'a B::Buffer,
    /// Soft cap on the logits, as in [`Backend::head_logps`].
    pub softcap: Option<f64>,
    /// The logits as [`Backend::head_logps_kept`] kept them; without, they are computed again.
    pub logits: Option<&'a B::Buffer>,
    /// Target token of each row, `[M]`.
    pub targets: &'a B::Index,
    /// Seed of each row: derivative of the wanted scalar with respect to the row's token log-prob, `[M]`.
    pub seeds: &'a B::Buffer,
    /// Extra factor of each row in `dw` only (the objective's coefficients when seeds are units), `[M]`.
    pub coefficients: Option<&'a B::Buffer>,
    /// Receives the gradient of `h`, `[M, D]` (replaced).
    pub dh: Option<&'a mut B::Buffer>,
    /// Receives the gradient of `w`, `[V, D]` (added).
    pub dw: Option<&'a mut B::Buffer>,
    /// Row ranges (p, q): the inner product of the weight gradients that p's and q's rows cause (seeds
    /// included, coefficients not) is returned for each.
    pub inner: &'a [(Range<usize>, Range<usize>)],
    /// Number of scored rows M.
    pub m: usize,
    /// Width D.
    pub d: usize,
    /// Vocabulary size V.
    pub v: usize,
}

/// Hyper-parameters of one AdamW step (Loshchilov & Hutter 2019, arXiv 1711.05101, as in PyTorch).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adamw {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// 1-based number of this step, for bias correction.
    pub step: u64,
    /// Factor on the gradient before use (clipping, averaging).
    pub grad_scale: f64,
}

/// Hyper-parameters of one Adafactor step (Shazeer & Stern 2018, arXiv 1804.04235) as transformers' `Trainer` runs
/// it: given learning rate, no parameter scaling, no first moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adafactor {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// c in β₂ = 1 − step^c: the decay of the second moment, −0.8 by default.
    pub decay_rate: f64,
    /// ε₁, added to each squared gradient, 1e-30 by default.
    pub epsilon: f64,
    /// Root mean square above which an update is scaled down, 1 by default.
    pub clip_threshold: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
    /// 1-based number of this step.
    pub step: u64,
    /// Factor on the gradient before use (clipping, averaging).
    pub grad_scale: f64,
}

impl Adafactor {
    /// β₂ of this step; 0 in the first, which therefore ignores what the state holds.
    pub fn beta2(&self) -> f64 {
        1.0 - (self.step as f64).powf(self.decay_rate)
    }

    /// Learning rate over the factor that brings an update of this mean square under the threshold.
    pub fn rate(&self, mean_square: f64) -> f64 {
        self.learning_rate / (mean_square.sqrt() / self.clip_threshold).max(1.0)
    }
}

/// The activation of a gated linear unit (Shazeer 2020, arXiv 2002.05202).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// z·σ(z): SwiGLU.
    Silu,
    /// GELU in the tanh approximation: GeGLU as in Gemma.
    GeluTanh,
    /// GELU with erf: GeGLU.
    Gelu,
}
