//! The contract between model code and a machine.
//!
//! Shape letters: N activation rows, R gradient rows, M scored rows, D model width, F feed-forward width,
//! V vocabulary, H heads. Matrices are row-major. Unless an operation says "adds", it replaces its output.
//!
//! `rows: Option<&Index>` in a backward maps gradient row r to the activation row it belongs to; `None` is the
//! identity. Wrong lengths are broken invariants of the caller (configurations and weights are checked before
//! any operation runs) and panic.

use crate::arguments::{Adafactor, Adamw, Gate, Gemm, HeadBackward, Mat, MatMut, NormCache};
use crate::layout::{AttentionLayout, AttentionShape, Span};
use std::borrow::Cow;
use std::ops::Range;

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
    /// A copy of `data`, rounded to bfloat16 (to nearest, ties to even): a frozen weight in half the memory.
    ///
    /// Accepted wherever a weight is read: an operand of [`Backend::gemm`], a table of [`Backend::gather`], the `w`
    /// of the head's operations, norm weights and biases. Any other use of it panics.
    fn upload_bf16(&self, data: &[f32]) -> Self::Buffer;
    /// The contents, rounded to f32.
    fn download(&self, buffer: &Self::Buffer) -> Vec<f32>;
    /// The same, where they lie if that is in reach.
    fn view<'a>(&self, buffer: &'a Self::Buffer) -> Cow<'a, [f32]> {
        self.download(buffer).into()
    }
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
    /// Inner products of probes' weight gradients of one linear map, ⟨G_pᵀA_p, G_qᵀA_q⟩, for all p, q of each cluster:
    /// `[n, n]` row-major, symmetric, summed in f64. A probe is runs of activation rows of `a` `[N, d_in]` with their
    /// gradient rows of `g` `[R, d_out]`; a probe's gradient rows follow each other.
    fn linear_grams(
        &self,
        a: &Self::Buffer,
        g: &Self::Buffer,
        clusters: &[Vec<&[Span]>],
        d_in: usize,
        d_out: usize,
    ) -> Vec<Vec<f64>>;
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

    /// y = x / rms(x) · (offset + w), rms(x)² = mean(x²) + eps, for each of `n` rows (Zhang & Sennrich 2019, eq. 4;
    /// Gemma stores its weights around zero and has offset 1, others 0).
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        w: &Self::Buffer,
        offset: f64,
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
        offset: f64,
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
        offset: f64,
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
    /// y = act(gate)·up, act as `kind` says (Shazeer 2020, arXiv 2002.05202).
    fn glu(&self, kind: Gate, gate: &Self::Buffer, up: &Self::Buffer, y: &mut Self::Buffer);
    /// With dy arriving in `d_up` `[R, F]`: writes the gradient of the gate into `d_gate` and replaces `d_up` by
    /// the gradient of up.
    fn glu_backward(
        &self,
        kind: Gate,
        gate: &Self::Buffer,
        up: &Self::Buffer,
        rows: Option<&Self::Index>,
        d_gate: &mut Self::Buffer,
        d_up: &mut Self::Buffer,
        f: usize,
    );
    /// y[r, j] = keep·x[r, j]/(1 − p) over `n` rows of width `d` (Srivastava et al. 2014), 0 ≤ p < 1; p = 0 copies.
    ///
    /// keep is 1 with probability 1 − p and a function of (seed, activation row, j) alone, the activation row being
    /// `rows[r]` or r. So the same call on gradient rows is the backward, and every backend drops the same elements.
    fn dropout(
        &self,
        x: &Self::Buffer,
        rows: Option<&Self::Index>,
        seed: u64,
        p: f64,
        y: &mut Self::Buffer,
        n: usize,
        d: usize,
    );

    // ---- attention ----------------------------------------------------------------------------------------

    /// Rotates the first `rotary_dim` (even, ≤ `head_dim`) elements of each head of `x` `[R, heads·head_dim]` in place
    /// by the row's position; the rest of a head stays. `table` `[P, rotary_dim]` holds cos (first half) and sin
    /// (second half) of each position's angles. Element i pairs with i + rotary_dim/2 (Su et al. 2021 in Hugging
    /// Face's layout). `inverse` rotates back: the backward.
    fn rope(
        &self,
        x: &mut Self::Buffer,
        positions: &Self::Index,
        table: &Self::Buffer,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        inverse: bool,
    );
    /// Causal attention over a packed forest: `q` `[N, H·D]`, `k`, `v` `[K, H_kv·D]` → `out` `[N, H·D]`.
    /// Returns log Σ exp of the scaled (and capped) scores, `[N, H]`, for the backward. `shape` may narrow what a row
    /// sees to a window, cap its scores and drop probabilities (lse is that of all of them).
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

    /// Token log-probs, log softmax(z) at the target, `[M]`, and log Σ exp z `[M]`, never storing `[M, V]`. The logits
    /// are z = h wᵀ, or cap·tanh(h wᵀ/cap) with a soft cap (Gemma 2, arXiv 2408.00118, section 2).
    fn head_logps(
        &self,
        h: &Self::Buffer,
        w: &Self::Buffer,
        targets: &Self::Index,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (Self::Buffer, Self::Buffer);
    /// As [`Backend::head_logps`]; the third result are the logits in the backend's own order, for
    /// [`Backend::head_backward`] with the same rows. A backend keeps none where they would take more memory than the
    /// product that they save is worth.
    fn head_logps_kept(
        &self,
        h: &Self::Buffer,
        w: &Self::Buffer,
        targets: &Self::Index,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (Self::Buffer, Self::Buffer, Option<Self::Buffer>) {
        let (logps, lse) = self.head_logps(h, w, targets, softcap, m, d, v);
        (logps, lse, None)
    }
    /// Backward of [`Backend::head_logps`] with per-row seeds; returns one inner product per entry of
    /// `args.inner` (Σ_{s∈p,t∈q} (G_s·G_t)(h_s·h_t): the weight gradients are never formed).
    fn head_backward(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64>;
    /// log Σ_v softmax(z)_v² of each scored row, `[M]`: the log-probability that two draws from the model agree.
    /// `lse` comes from [`Backend::head_logps`] with the same soft cap.
    fn head_log_squares(
        &self,
        h: &Self::Buffer,
        w: &Self::Buffer,
        lse: &Self::Buffer,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> Self::Buffer;
    /// Derivative of each scored row's seeded log-prob as the weight moves along `direction` `[V, D]`, `[M]`:
    /// seed_s Σ_v (1(y_s = v) − softmax(z_s)_v)·dz/d(h wᵀ)·⟨h_s, direction_v⟩, never storing `[M, V]`. Of `args` the
    /// outputs are not touched.
    fn head_direction(&self, args: &HeadBackward<'_, Self>, direction: &Self::Buffer) -> Vec<f64>;

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
    /// One Lion step (Chen et al. 2023, arXiv 2302.06675, algorithm 2), in place, with g = grad_scale·grad:
    /// param ← (1 − lr·decay)·param − lr·sign(β₁·m + (1 − β₁)·g), then m ← β₂·m + (1 − β₂)·g; sign(0) = 0.
    fn lion(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        beta1: f64,
        beta2: f64,
        grad_scale: f64,
        param: &mut Self::Buffer,
        grad: &Self::Buffer,
        m: &mut Self::Buffer,
    );
    /// One Adafactor step on a matrix `[rows, cols]`, in place; the second moment is kept as its row means
    /// `row_state` `[rows]` and column means `col_state` `[cols]`, both zero before the first step.
    fn adafactor(
        &self,
        step: &Adafactor,
        rows: usize,
        cols: usize,
        param: &mut Self::Buffer,
        grad: &Self::Buffer,
        row_state: &mut Self::Buffer,
        col_state: &mut Self::Buffer,
    );
    /// One Adafactor step on a vector, whose second moment `state` is kept whole.
    fn adafactor_vector(
        &self,
        step: &Adafactor,
        param: &mut Self::Buffer,
        grad: &Self::Buffer,
        state: &mut Self::Buffer,
    );
}
