//! The fast CPU backend: f32 storage, f64 where sums decide, threads from rayon's current pool.
//!
//! Large matrix products run on tiles of our own (`tiles`), others through the `gemm` crate; vector loops are plain Rust compiled
//! once per instruction set (AVX-512, AVX2 or the target's own, chosen at run time). Buffers return to a pool when
//! dropped. Results depend on the number of threads but not on timing: the same threads give the same bits.
//! Frozen weights may be held as bf16 and are widened as they are read (`pool.rs`, `matmul.rs`). Products may be taken in
//! bf16 (`bf16.rs`).

mod attention;
mod bf16;
mod elementwise;
mod embedding;
mod gram;
mod head;
mod matmul;
mod norm;
mod optimizer;
mod pool;
mod rope;
pub mod rules;
mod simd;
mod tiles;

use crate::arguments::{Adafactor, Adamw, Gate, Gemm, HeadBackward, Mat, MatMut, NormCache};
use crate::backend::Backend;
use crate::dropout::Mask;
use crate::layout::{AttentionLayout, AttentionShape, Span};
use matmul::Arithmetic;
pub use pool::CpuBuffer;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The CPU backend. Operations run on the rayon pool they are called from (`ThreadPool::install`).
#[derive(Clone, Default)]
pub struct CpuBackend {
    pool: Arc<pool::Pool>,
    arithmetic: Arithmetic,
}

impl CpuBackend {
    /// A backend with an empty buffer pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// One whose matrix products (of weights, of the head; not inside attention, not of the geometry) round their
    /// operands to bfloat16 and sum in f32. What buffers hold stays f32. Quick where [`CpuBackend::has_bf16`], elsewhere
    /// the same rounding at some cost.
    pub fn with_bf16_products() -> Self {
        CpuBackend {
            arithmetic: Arithmetic::Bf16,
            ..Self::default()
        }
    }

    /// Whether this processor multiplies in bfloat16 (AVX512-BF16).
    pub fn has_bf16() -> bool {
        bf16::fast()
    }
}

impl Backend for CpuBackend {
    type Buffer = CpuBuffer;
    type Index = Vec<u32>;

    fn describe(&self) -> String {
        format!(
            "cpu {}, {}, {}, {} threads",
            match self.arithmetic {
                Arithmetic::F32 => "f32",
                Arithmetic::Bf16 => "f32, products in bf16",
            },
            simd::describe(),
            matmul::describe(),
            rayon::current_num_threads()
        )
    }

    fn empty(&self, len: usize) -> CpuBuffer {
        pool::take(&self.pool, len)
    }
    fn zeros(&self, len: usize) -> CpuBuffer {
        let mut buffer = pool::take(&self.pool, len);
        self.fill_zero(&mut buffer);
        buffer
    }
    fn upload(&self, data: &[f32]) -> CpuBuffer {
        let mut buffer = pool::take(&self.pool, data.len());
        buffer.copy_from_slice(data);
        buffer
    }
    fn upload_f64(&self, data: &[f64]) -> CpuBuffer {
        let mut buffer = pool::take(&self.pool, data.len());
        for (to, from) in buffer.iter_mut().zip(data) {
            *to = *from as f32;
        }
        buffer
    }
    fn upload_bf16(&self, data: &[f32]) -> CpuBuffer {
        pool::take_bf16(&self.pool, data)
    }
    fn download(&self, buffer: &CpuBuffer) -> Vec<f32> {
        buffer.floats(0..buffer.len()).to_vec()
    }
    fn view<'a>(&self, buffer: &'a CpuBuffer) -> Cow<'a, [f32]> {
        match buffer.halves() {
            None => Cow::Borrowed(buffer),
            Some(_) => self.download(buffer).into(),
        }
    }
    fn download_f64(&self, buffer: &CpuBuffer) -> Vec<f64> {
        let floats = buffer.floats(0..buffer.len());
        floats.iter().map(|&x| f64::from(x)).collect()
    }
    fn len(&self, buffer: &CpuBuffer) -> usize {
        buffer.len()
    }
    fn index(&self, data: &[u32]) -> Vec<u32> {
        data.to_vec()
    }
    fn fill_zero(&self, buffer: &mut CpuBuffer) {
        elementwise::fill_zero(buffer);
    }
    fn copy_2d(
        &self,
        src: &CpuBuffer,
        src_offset: usize,
        src_stride: usize,
        dst: &mut CpuBuffer,
        dst_offset: usize,
        dst_stride: usize,
        rows: usize,
        cols: usize,
    ) {
        for i in 0..rows {
            let (to, from) = (dst_offset + i * dst_stride, src_offset + i * src_stride);
            dst[to..to + cols].copy_from_slice(&src[from..from + cols]);
        }
    }

    fn gemm(
        &self,
        shape: Gemm,
        a: Mat<'_, CpuBuffer>,
        b: Mat<'_, CpuBuffer>,
        c: MatMut<'_, CpuBuffer>,
    ) {
        matmul::gemm(self.arithmetic, shape, a, b, c);
    }
    fn add_bias(&self, bias: &CpuBuffer, x: &mut CpuBuffer, n: usize, d: usize) {
        elementwise::add_bias(&bias.floats(0..d), &mut x[..n * d], d);
    }
    fn axpy(&self, alpha: f64, x: &CpuBuffer, y: &mut CpuBuffer) {
        elementwise::axpy(alpha as f32, x, y);
    }
    fn scale(&self, alpha: f64, x: &mut CpuBuffer) {
        elementwise::scale(alpha as f32, x);
    }
    fn dot(&self, x: &CpuBuffer, xo: usize, y: &CpuBuffer, yo: usize, len: usize) -> f64 {
        elementwise::dot(&x[xo..xo + len], &y[yo..yo + len])
    }
    fn gram_and_add(
        &self,
        x: &CpuBuffer,
        y: &CpuBuffer,
        cx: f64,
        cy: f64,
        sum: Option<&mut CpuBuffer>,
    ) -> (f64, f64, f64) {
        elementwise::gram_and_add(x, y, cx as f32, cy as f32, sum.map(|s| &mut s[..]))
    }
    fn linear_grams(
        &self,
        a: &CpuBuffer,
        g: &CpuBuffer,
        clusters: &[Vec<&[Span]>],
        d_in: usize,
        d_out: usize,
    ) -> Vec<Vec<f64>> {
        gram::linear_grams(&self.pool, (a, d_in), (g, d_out), clusters, None)
    }
    fn column_sum(
        &self,
        alpha: f64,
        x: &CpuBuffer,
        rows: Range<usize>,
        d: usize,
        out: &mut CpuBuffer,
    ) {
        elementwise::column_sum(alpha as f32, &x[rows.start * d..rows.end * d], d, out);
    }
    fn scatter_add(
        &self,
        x: &CpuBuffer,
        rows: &Vec<u32>,
        coefficients: Option<&CpuBuffer>,
        out: &mut CpuBuffer,
        d: usize,
    ) {
        embedding::scatter_add(x, rows, coefficients.map(|c| &c[..]), out, d);
    }
    fn gather(&self, table: &CpuBuffer, rows: &Vec<u32>, out: &mut CpuBuffer, d: usize, add: bool) {
        embedding::gather(table, rows, out, d, add);
    }
    fn lookup_inner(
        &self,
        g: &CpuBuffer,
        ids: &Vec<u32>,
        p: Range<usize>,
        q: Range<usize>,
        d: usize,
    ) -> f64 {
        embedding::lookup_inner(g, ids, p, q, d)
    }
    fn tied_inner(
        &self,
        g: &CpuBuffer,
        ids: &Vec<u32>,
        p: Range<usize>,
        head: &HeadBackward<'_, Self>,
        q: Range<usize>,
    ) -> f64 {
        head::tied_inner(g, ids, p, head, q)
    }

    fn rms_norm(
        &self,
        x: &CpuBuffer,
        w: &CpuBuffer,
        offset: f64,
        eps: f64,
        y: &mut CpuBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<CpuBuffer> {
        let mut rstd = self.empty(n);
        norm::rms_statistics(&x[..n * d], eps, &mut rstd, d);
        let cache = NormCache { mean: None, rstd };
        self.norm_apply(x, w, offset, None, &cache, y, n, d);
        cache
    }
    fn layer_norm(
        &self,
        x: &CpuBuffer,
        w: &CpuBuffer,
        b: &CpuBuffer,
        eps: f64,
        y: &mut CpuBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<CpuBuffer> {
        let (mut mean, mut rstd) = (self.empty(n), self.empty(n));
        norm::layer_statistics(&x[..n * d], eps, &mut mean, &mut rstd, d);
        let cache = NormCache {
            mean: Some(mean),
            rstd,
        };
        self.norm_apply(x, w, 0.0, Some(b), &cache, y, n, d);
        cache
    }
    fn norm_apply(
        &self,
        x: &CpuBuffer,
        w: &CpuBuffer,
        offset: f64,
        b: Option<&CpuBuffer>,
        cache: &NormCache<CpuBuffer>,
        y: &mut CpuBuffer,
        n: usize,
        d: usize,
    ) {
        let (w, b) = (norm::shifted(w, offset), b.map(|b| b.floats(0..d)));
        norm::apply(&x[..n * d], &w, b.as_deref(), cache, y, d);
    }
    fn norm_backward(
        &self,
        x: &CpuBuffer,
        w: &CpuBuffer,
        offset: f64,
        cache: &NormCache<CpuBuffer>,
        rows: Option<&Vec<u32>>,
        dy: &CpuBuffer,
        dx: &mut CpuBuffer,
        dw_rows: Option<&mut CpuBuffer>,
        r: usize,
        d: usize,
    ) {
        let dw_rows = dw_rows.map(|b| &mut b[..r * d]);
        let rows = rows.map(|rows| &rows[..]);
        norm::backward(
            x,
            &norm::shifted(w, offset),
            cache,
            rows,
            &dy[..r * d],
            &mut dx[..r * d],
            dw_rows,
            d,
        );
    }

    fn gelu(&self, x: &CpuBuffer, y: &mut CpuBuffer, exact: bool) {
        elementwise::gelu(x, y, exact);
    }
    fn gelu_backward(
        &self,
        x: &CpuBuffer,
        rows: Option<&Vec<u32>>,
        d: &mut CpuBuffer,
        f: usize,
        exact: bool,
    ) {
        elementwise::gelu_backward(x, rows.map(|r| &r[..]), d, f, exact);
    }
    fn glu(&self, kind: Gate, gate: &CpuBuffer, up: &CpuBuffer, y: &mut CpuBuffer) {
        elementwise::glu(kind, gate, up, y);
    }
    fn glu_backward(
        &self,
        kind: Gate,
        gate: &CpuBuffer,
        up: &CpuBuffer,
        rows: Option<&Vec<u32>>,
        d_gate: &mut CpuBuffer,
        d_up: &mut CpuBuffer,
        f: usize,
    ) {
        elementwise::glu_backward(kind, gate, up, rows.map(|r| &r[..]), d_gate, d_up, f);
    }
    fn dropout(
        &self,
        x: &CpuBuffer,
        rows: Option<&Vec<u32>>,
        seed: u64,
        p: f64,
        y: &mut CpuBuffer,
        n: usize,
        d: usize,
    ) {
        let (mask, rows) = (Mask::new(seed, p), rows.map(|r| &r[..]));
        elementwise::dropout(&x[..n * d], rows, mask, p, &mut y[..n * d], d);
    }

    fn rope(
        &self,
        x: &mut CpuBuffer,
        positions: &Vec<u32>,
        table: &CpuBuffer,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        inverse: bool,
    ) {
        rope::rope(x, positions, table, heads, head_dim, rotary_dim, inverse);
    }
    fn attention(
        &self,
        q: &CpuBuffer,
        k: &CpuBuffer,
        v: &CpuBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        out: &mut CpuBuffer,
    ) -> CpuBuffer {
        let mut lse = self.empty(out.len() / shape.head_dim);
        attention::forward(q, k, v, layout, shape, out, &mut lse);
        lse
    }
    fn attention_backward(
        &self,
        q: &CpuBuffer,
        k: &CpuBuffer,
        v: &CpuBuffer,
        lse: &CpuBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        d_out: &CpuBuffer,
        dq: &mut CpuBuffer,
        dk: &mut CpuBuffer,
        dv: &mut CpuBuffer,
    ) {
        attention::backward(q, k, v, lse, layout, shape, d_out, dq, dk, dv);
    }

    fn head_logps(
        &self,
        h: &CpuBuffer,
        w: &CpuBuffer,
        targets: &Vec<u32>,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (CpuBuffer, CpuBuffer) {
        let (mut logps, mut lse) = (self.empty(m), self.empty(m));
        head::logps(
            self.arithmetic,
            h,
            w,
            targets,
            softcap,
            d,
            v,
            &mut logps,
            &mut lse,
            None,
        );
        (logps, lse)
    }
    fn head_logps_kept(
        &self,
        h: &CpuBuffer,
        w: &CpuBuffer,
        targets: &Vec<u32>,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (CpuBuffer, CpuBuffer, Option<CpuBuffer>) {
        let mut z = rules::keeps_logits(m, v).then(|| self.empty(m * v));
        let (mut logps, mut lse) = (self.empty(m), self.empty(m));
        let keep = z.as_deref_mut();
        head::logps(
            self.arithmetic,
            h,
            w,
            targets,
            softcap,
            d,
            v,
            &mut logps,
            &mut lse,
            keep,
        );
        (logps, lse, z)
    }
    fn head_backward(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64> {
        head::backward(self.arithmetic, args)
    }
    fn head_log_squares(
        &self,
        h: &CpuBuffer,
        w: &CpuBuffer,
        lse: &CpuBuffer,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> CpuBuffer {
        let mut out = self.empty(m);
        head::log_squares(self.arithmetic, h, w, lse, softcap, d, v, &mut out);
        out
    }
    fn head_direction(&self, args: &HeadBackward<'_, Self>, direction: &CpuBuffer) -> Vec<f64> {
        head::direction(self.arithmetic, args, direction)
    }

    fn adamw(
        &self,
        step: &Adamw,
        param: &mut CpuBuffer,
        grad: &CpuBuffer,
        m: &mut CpuBuffer,
        v: &mut CpuBuffer,
    ) {
        optimizer::adamw(step, param, grad, m, v);
    }
    fn sgd(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        grad_scale: f64,
        param: &mut CpuBuffer,
        grad: &CpuBuffer,
        momentum: Option<(f64, &mut CpuBuffer)>,
    ) {
        let momentum = momentum.map(|(mu, buffer)| (mu as f32, &mut buffer[..]));
        optimizer::sgd(
            learning_rate as f32,
            weight_decay as f32,
            grad_scale as f32,
            param,
            grad,
            momentum,
        );
    }
    fn lion(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        beta1: f64,
        beta2: f64,
        grad_scale: f64,
        param: &mut CpuBuffer,
        grad: &CpuBuffer,
        m: &mut CpuBuffer,
    ) {
        let beta = |beta: f64| (beta as f32, (1.0 - beta) as f32);
        optimizer::lion(
            learning_rate as f32,
            (1.0 - learning_rate * weight_decay) as f32,
            beta(beta1),
            beta(beta2),
            grad_scale as f32,
            param,
            grad,
            m,
        );
    }
    fn adafactor(
        &self,
        step: &Adafactor,
        rows: usize,
        cols: usize,
        param: &mut CpuBuffer,
        grad: &CpuBuffer,
        row_state: &mut CpuBuffer,
        col_state: &mut CpuBuffer,
    ) {
        optimizer::adafactor(step, rows, cols, param, grad, row_state, col_state);
    }
    fn adafactor_vector(
        &self,
        step: &Adafactor,
        param: &mut CpuBuffer,
        grad: &CpuBuffer,
        state: &mut CpuBuffer,
    ) {
        optimizer::adafactor_vector(step, param, grad, state);
    }
}
