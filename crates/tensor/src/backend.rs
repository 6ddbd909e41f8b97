//! The contract between model code and a machine.
//!
//! Shape letters: N activation rows, R gradient rows, M scored rows, D model width, F feed-forward width,
//! V vocabulary, H heads. Matrices are row-major. Unless an operation says "adds", it replaces its output.
//!
//! `rows: Option<&Index>` in a backward maps gradient row r to the activation row it belongs to; `None` is the
//! identity. Wrong lengths are broken invariants of the caller (configurations and weights are checked before
//! any operation runs) and panic.

use crate::layout::{AttentionLayout, AttentionShape};
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

/// A machine that holds buffers and runs operations on them.
pub trait Backend: Send + Sync + 'static {
    /// An opaque array of floats.
    type Buffer: Send + Sync;
    /// An opaque array of `u32`: token ids, positions, row numbers.
    type Index: Send + Sync;

    /// Name and instruction set, for logs.
    fn describe(&self) -> String;

    // ---- memory -------------------------------------------------------------------------------------------

    /// A buffer of `len` floats with unspecified contents.
    fn empty(&self, len: usize) -> Self::Buffer;
    /// A buffer of `len` zeros.
    fn zeros(&self, len: usize) -> Self::Buffer;
    /// A copy of `data`.
    fn upload(&self, data: &[f32]) -> Self::Buffer;
    /// A copy of `data`, rounded to the backend's precision.
    fn upload_f64(&self, data: &[f64]) -> Self::Buffer;
    /// The contents, rounded to f32.
    fn download(&self, buffer: &Self::Buffer) -> Vec<f32>;
    /// The contents in f64.
    fn download_f64(&self, buffer: &Self::Buffer) -> Vec<f64>;
    /// Number of floats.
    fn len(&self, buffer: &Self::Buffer) -> usize;
    /// A copy of `data`.
    fn index(&self, data: &[u32]) -> Self::Index;
    /// Sets every element to zero.
    fn fill_zero(&self, buffer: &mut Self::Buffer);
    /// Copies a `[rows, cols]` block: `dst[dst_offset + i·dst_stride + j] = src[src_offset + i·src_stride + j]`.
    fn copy_2d(
        &self,
        src: &Self::Buffer,
        src_offset: usize,
        src_stride: usize,
        dst: &mut Self::Buffer,
        dst_offset: usize,
        dst_stride: usize,
        rows: usize,
        cols: usize,
    );

    // ---- linear algebra -----------------------------------------------------------------------------------

    /// `C ← α·A·B + β·C`.
    fn gemm(
        &self,
        shape: Gemm,
        a: Mat<'_, Self::Buffer>,
        b: Mat<'_, Self::Buffer>,
        c: MatMut<'_, Self::Buffer>,
    );
    /// Adds `bias` `[D]` to each of the `n` rows of `x` `[N, D]`.
    fn add_bias(&self, bias: &Self::Buffer, x: &mut Self::Buffer, n: usize, d: usize);
    /// `y += alpha·x`, elementwise.
    fn axpy(&self, alpha: f64, x: &Self::Buffer, y: &mut Self::Buffer);
    /// `x *= alpha`, elementwise.
    fn scale(&self, alpha: f64, x: &mut Self::Buffer);
    /// Σ xᵢyᵢ over `len` elements from the two offsets, accumulated in f64.
    fn dot(
        &self,
        x: &Self::Buffer,
        x_offset: usize,
        y: &Self::Buffer,
        y_offset: usize,
        len: usize,
    ) -> f64;
    /// (Σ xᵢxᵢ, Σ yᵢyᵢ, Σ xᵢyᵢ) in f64, and, when `sum` is given, `sum += cx·x + cy·y`, in one sweep.
    fn gram_and_add(
        &self,
        x: &Self::Buffer,
        y: &Self::Buffer,
        cx: f64,
        cy: f64,
        sum: Option<&mut Self::Buffer>,
    ) -> (f64, f64, f64);
    /// `out[j] += alpha · Σ_{i in rows} x[i, j]`, x of width `d`.
    fn column_sum(
        &self,
        alpha: f64,
        x: &Self::Buffer,
        rows: Range<usize>,
        d: usize,
        out: &mut Self::Buffer,
    );
    /// `out[rows[r], :] += coefficients[r]·x[r, :]` for every row of x `[R, D]` (coefficients default to 1).
    fn scatter_add(
        &self,
        x: &Self::Buffer,
        rows: &Self::Index,
        coefficients: Option<&Self::Buffer>,
        out: &mut Self::Buffer,
        d: usize,
    );

    // ---- embedding ----------------------------------------------------------------------------------------

    /// `out[r, :] = table[rows[r], :]` (`add`: `+=`), width `d`. Its backward is [`Backend::scatter_add`].
    fn gather(
        &self,
        table: &Self::Buffer,
        rows: &Self::Index,
        out: &mut Self::Buffer,
        d: usize,
        add: bool,
    );
    /// Σ over rows t of p, u of q with `p_ids[t] = q_ids[u]` of ⟨g_t, g_u⟩: the inner product of two
    /// responses' look-up gradients. `p` and `q` are ranges of rows of g `[R, D]`; `ids` names every row's id.
    fn lookup_inner(
        &self,
        g: &Self::Buffer,
        ids: &Self::Index,
        p: Range<usize>,
        q: Range<usize>,
        d: usize,
    ) -> f64;
    /// Inner product of the look-up gradient of rows `p` (of g `[R, D]`, token `ids`) with the head gradient
    /// of scored rows `q` when embedding and head are one matrix `w`:
    /// Σ_{t∈p, s∈q} seed_s (1(y_s = id_t) − exp(h_s·w_{id_t} − lse_s)) ⟨g_t, h_s⟩.
    fn tied_inner(
        &self,
        g: &Self::Buffer,
        ids: &Self::Index,
        p: Range<usize>,
        head: &HeadBackward<'_, Self>,
        q: Range<usize>,
    ) -> f64;

    // ---- normalisation ------------------------------------------------------------------------------------

    /// y = x / rms(x) · w, rms(x)² = mean(x²) + eps, for each of `n` rows (Zhang & Sennrich 2019, eq. 4).
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        w: &Self::Buffer,
        eps: f64,
        y: &mut Self::Buffer,
        n: usize,
        d: usize,
    ) -> NormCache<Self::Buffer>;
    /// y = (x − mean)/√(var + eps) · w + b for each of `n` rows (Ba et al. 2016).
    fn layer_norm(
        &self,
        x: &Self::Buffer,
        w: &Self::Buffer,
        b: &Self::Buffer,
        eps: f64,
        y: &mut Self::Buffer,
        n: usize,
        d: usize,
    ) -> NormCache<Self::Buffer>;
    /// The normalised output again from the cached statistics (both kinds; `b` only for layer norm).
    fn norm_apply(
        &self,
        x: &Self::Buffer,
        w: &Self::Buffer,
        b: Option<&Self::Buffer>,
        cache: &NormCache<Self::Buffer>,
        y: &mut Self::Buffer,
        n: usize,
        d: usize,
    );
    /// Backward of both: adds to `dx` `[R, D]`; writes each row's contribution to the weight's gradient into
    /// `dw_rows` `[R, D]` when given (the bias's contributions are `dy` itself).
    fn norm_backward(
        &self,
        x: &Self::Buffer,
        w: &Self::Buffer,
        cache: &NormCache<Self::Buffer>,
        rows: Option<&Self::Index>,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        dw_rows: Option<&mut Self::Buffer>,
        r: usize,
        d: usize,
    );

    // ---- activations --------------------------------------------------------------------------------------

    /// y = gelu(x): `exact` with erf, otherwise the tanh approximation (Hendrycks & Gimpel 2016).
    fn gelu(&self, x: &Self::Buffer, y: &mut Self::Buffer, exact: bool);
    /// `d[r, :] *= gelu'(x[rows[r], :])`, width `f`.
    fn gelu_backward(
        &self,
        x: &Self::Buffer,
        rows: Option<&Self::Index>,
        d: &mut Self::Buffer,
        f: usize,
        exact: bool,
    );
    /// y = silu(gate)·up (Shazeer 2020, SwiGLU).
    fn swiglu(&self, gate: &Self::Buffer, up: &Self::Buffer, y: &mut Self::Buffer);
    /// With dy arriving in `d_up` `[R, F]`: writes the gradient of the gate into `d_gate` and replaces `d_up` by
    /// the gradient of up.
    fn swiglu_backward(
        &self,
        gate: &Self::Buffer,
        up: &Self::Buffer,
        rows: Option<&Self::Index>,
        d_gate: &mut Self::Buffer,
        d_up: &mut Self::Buffer,
        f: usize,
    );

    // ---- attention ----------------------------------------------------------------------------------------

    /// Rotates each head of `x` `[R, heads·head_dim]` in place by the row's position; `table` `[P, head_dim]`
    /// holds cos (first half) and sin (second half) of each position's angles. Element i pairs with
    /// i + head_dim/2 (Su et al. 2021 in Hugging Face's layout). `inverse` rotates back: the backward.
    fn rope(
        &self,
        x: &mut Self::Buffer,
        positions: &Self::Index,
        table: &Self::Buffer,
        heads: usize,
        head_dim: usize,
        inverse: bool,
    );
    /// Causal attention over a packed forest: `q` `[N, H·D]`, `k`, `v` `[K, H_kv·D]` → `out` `[N, H·D]`.
    /// Returns log Σ exp of the scaled scores, `[N, H]`, for the backward.
    fn attention(
        &self,
        q: &Self::Buffer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        out: &mut Self::Buffer,
    ) -> Self::Buffer;
    /// Backward of [`Backend::attention`]: adds to `dq` `[R, H·D]`, `dk`, `dv` `[R, H_kv·D]`.
    fn attention_backward(
        &self,
        q: &Self::Buffer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        lse: &Self::Buffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        d_out: &Self::Buffer,
        dq: &mut Self::Buffer,
        dk: &mut Self::Buffer,
        dv: &mut Self::Buffer,
    );

    // ---- head ---------------------------------------------------------------------------------------------

    /// Token log-probs, log softmax(h wᵀ) at the target, `[M]`, and log Σ exp `[M]`, never storing `[M, V]`.
    fn head_logps(
        &self,
        h: &Self::Buffer,
        w: &Self::Buffer,
        targets: &Self::Index,
        m: usize,
        d: usize,
        v: usize,
    ) -> (Self::Buffer, Self::Buffer);
    /// Backward of [`Backend::head_logps`] with per-row seeds; returns one inner product per entry of
    /// `args.inner` (Σ_{s∈p,t∈q} (G_s·G_t)(h_s·h_t): the weight gradients are never formed).
    fn head_backward(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64>;

    // ---- optimizer ----------------------------------------------------------------------------------------

    /// One AdamW step on a parameter, in place; `m` and `v` are the moments.
    fn adamw(
        &self,
        step: &Adamw,
        param: &mut Self::Buffer,
        grad: &Self::Buffer,
        m: &mut Self::Buffer,
        v: &mut Self::Buffer,
    );
    /// One SGD step: g = scale·grad + decay·param; with momentum μ: buf ← μ·buf + g, g ← buf; param −= lr·g.
    fn sgd(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        grad_scale: f64,
        param: &mut Self::Buffer,
        grad: &Self::Buffer,
        momentum: Option<(f64, &mut Self::Buffer)>,
    );
}
