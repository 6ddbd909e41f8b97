//! Either backend behind one type, so that commands are compiled once and choose at run time.

use crate::backend::CudaBackend;
use crate::buffer::{CudaBuffer, CudaIndex};
use std::borrow::Cow;
use std::mem::ManuallyDrop;
use std::ops::Range;
use unbraid_tensor::cpu::CpuBuffer;
use unbraid_tensor::{
    Adafactor, Adamw, AttentionLayout, AttentionShape, Backend, CpuBackend, Gate, Gemm,
    HeadBackward, Mat, MatMut, NormCache, Span,
};

/// The CPU or a GPU.
pub enum AnyBackend {
    /// The CPU.
    Cpu(CpuBackend),
    /// A GPU.
    Cuda(CudaBackend),
}

/// A buffer of [`AnyBackend`]; it belongs to the backend that made it.
pub enum AnyBuffer {
    /// In main memory.
    Cpu(CpuBuffer),
    /// On a GPU.
    Cuda(CudaBuffer),
}

/// An index of [`AnyBackend`].
pub enum AnyIndex {
    /// In main memory.
    Cpu(Vec<u32>),
    /// On a GPU.
    Cuda(CudaIndex),
}

/// A buffer met the other backend: a broken invariant of the caller.
fn mixed() -> ! {
    panic!("a buffer is used by the backend that made it")
}

/// What holds buffers of [`AnyBackend`], as either backend's.
trait Pick {
    type Cpu;
    type Cuda;
    fn cpu(self) -> Self::Cpu;
    fn cuda(self) -> Self::Cuda;
}

macro_rules! pick_reference {
    ($([$($mutable:tt)?] $any:ident, $cpu:ty, $cuda:ty;)*) => {$(
        impl<'a> Pick for &'a $($mutable)? $any {
            type Cpu = &'a $($mutable)? $cpu;
            type Cuda = &'a $($mutable)? $cuda;
            fn cpu(self) -> Self::Cpu {
                match self {
                    $any::Cpu(x) => x,
                    $any::Cuda(_) => mixed(),
                }
            }
            fn cuda(self) -> Self::Cuda {
                match self {
                    $any::Cuda(x) => x,
                    $any::Cpu(_) => mixed(),
                }
            }
        }
    )*};
}

pick_reference! {
    [] AnyBuffer, CpuBuffer, CudaBuffer;
    [mut] AnyBuffer, CpuBuffer, CudaBuffer;
    [] AnyIndex, Vec<u32>, CudaIndex;
}

impl<T: Pick> Pick for Option<T> {
    type Cpu = Option<T::Cpu>;
    type Cuda = Option<T::Cuda>;
    fn cpu(self) -> Self::Cpu {
        self.map(Pick::cpu)
    }
    fn cuda(self) -> Self::Cuda {
        self.map(Pick::cuda)
    }
}

/// A matrix view with its buffer replaced.
macro_rules! pick_view {
    ($($view:ident { $($field:ident),* };)*) => {$(
        impl<'a> Pick for $view<'a, AnyBuffer> {
            type Cpu = $view<'a, CpuBuffer>;
            type Cuda = $view<'a, CudaBuffer>;
            fn cpu(self) -> Self::Cpu {
                $view { buffer: self.buffer.cpu(), $($field: self.$field),* }
            }
            fn cuda(self) -> Self::Cuda {
                $view { buffer: self.buffer.cuda(), $($field: self.$field),* }
            }
        }
    )*};
}

pick_view! {
    Mat { offset, row_stride, col_stride };
    MatMut { offset, row_stride };
}

/// Head arguments for one backend, with the given outputs.
macro_rules! head {
    ($args:ident, $side:ident, $dh:expr, $dw:expr) => {
        HeadBackward {
            h: $args.h.$side(),
            w: $args.w.$side(),
            lse: $args.lse.$side(),
            softcap: $args.softcap,
            logits: $args.logits.$side(),
            targets: $args.targets.$side(),
            seeds: $args.seeds.$side(),
            coefficients: $args.coefficients.$side(),
            dh: $dh,
            dw: $dw,
            inner: $args.inner,
            m: $args.m,
            d: $args.d,
            v: $args.v,
        }
    };
}

impl From<CpuBuffer> for AnyBuffer {
    fn from(buffer: CpuBuffer) -> Self {
        AnyBuffer::Cpu(buffer)
    }
}

impl From<CudaBuffer> for AnyBuffer {
    fn from(buffer: CudaBuffer) -> Self {
        AnyBuffer::Cuda(buffer)
    }
}

fn any_cache<T: Into<AnyBuffer>>(cache: NormCache<T>) -> NormCache<AnyBuffer> {
    NormCache {
        mean: cache.mean.map(Into::into),
        rstd: cache.rstd.into(),
    }
}

/// A cache's buffers where the operation wants a cache of its own buffer type: bitwise copies that are only read, and never
/// dropped, while the originals are borrowed.
fn lend<'a, T>(
    cache: &'a NormCache<AnyBuffer>,
    pick: impl Fn(&'a AnyBuffer) -> &'a T,
) -> ManuallyDrop<NormCache<T>>
where
    T: 'a,
{
    let copy = |buffer: &'a AnyBuffer| {
        // SAFETY: a valid reference is read. The copy lies in a `ManuallyDrop` and is used through shared references alone,
        // as long as `cache` is borrowed, so nothing is freed twice and nothing is written.
        unsafe { std::ptr::read(pick(buffer)) }
    };
    ManuallyDrop::new(NormCache {
        mean: cache.mean.as_ref().map(copy),
        rstd: copy(&cache.rstd),
    })
}

/// Calls the same operation of either backend, with the named arguments picked for it.
macro_rules! on {
    ($self:ident, $b:ident ($($x:ident),*) => $call:expr) => {
        match $self {
            AnyBackend::Cpu($b) => {
                $(let $x = $x.cpu();)*
                $call
            }
            AnyBackend::Cuda($b) => {
                $(let $x = $x.cuda();)*
                $call
            }
        }
    };
}

impl Backend for AnyBackend {
    type Buffer = AnyBuffer;
    type Index = AnyIndex;

    fn describe(&self) -> String {
        on!(self, b() => b.describe())
    }
    fn empty(&self, len: usize) -> AnyBuffer {
        on!(self, b() => b.empty(len).into())
    }
    fn zeros(&self, len: usize) -> AnyBuffer {
        on!(self, b() => b.zeros(len).into())
    }
    fn upload(&self, data: &[f32]) -> AnyBuffer {
        on!(self, b() => b.upload(data).into())
    }
    fn upload_f64(&self, data: &[f64]) -> AnyBuffer {
        on!(self, b() => b.upload_f64(data).into())
    }
    fn upload_bf16(&self, data: &[f32]) -> AnyBuffer {
        on!(self, b() => b.upload_bf16(data).into())
    }
    fn download(&self, buffer: &AnyBuffer) -> Vec<f32> {
        on!(self, b(buffer) => b.download(buffer))
    }
    fn view<'a>(&self, buffer: &'a AnyBuffer) -> Cow<'a, [f32]> {
        on!(self, b(buffer) => b.view(buffer))
    }
    fn download_f64(&self, buffer: &AnyBuffer) -> Vec<f64> {
        on!(self, b(buffer) => b.download_f64(buffer))
    }
    fn len(&self, buffer: &AnyBuffer) -> usize {
        on!(self, b(buffer) => b.len(buffer))
    }
    fn index(&self, data: &[u32]) -> AnyIndex {
        match self {
            AnyBackend::Cpu(b) => AnyIndex::Cpu(b.index(data)),
            AnyBackend::Cuda(b) => AnyIndex::Cuda(b.index(data)),
        }
    }
    fn fill_zero(&self, buffer: &mut AnyBuffer) {
        on!(self, b(buffer) => b.fill_zero(buffer))
    }
    fn copy_2d(
        &self,
        src: &AnyBuffer,
        src_offset: usize,
        src_stride: usize,
        dst: &mut AnyBuffer,
        dst_offset: usize,
        dst_stride: usize,
        rows: usize,
        cols: usize,
    ) {
        on!(self, b(src, dst) => b.copy_2d(src, src_offset, src_stride, dst, dst_offset, dst_stride, rows, cols))
    }
    fn gemm(
        &self,
        shape: Gemm,
        x: Mat<'_, AnyBuffer>,
        y: Mat<'_, AnyBuffer>,
        c: MatMut<'_, AnyBuffer>,
    ) {
        on!(self, b(x, y, c) => b.gemm(shape, x, y, c))
    }
    fn add_bias(&self, bias: &AnyBuffer, x: &mut AnyBuffer, n: usize, d: usize) {
        on!(self, b(bias, x) => b.add_bias(bias, x, n, d))
    }
    fn axpy(&self, alpha: f64, x: &AnyBuffer, y: &mut AnyBuffer) {
        on!(self, b(x, y) => b.axpy(alpha, x, y))
    }
    fn scale(&self, alpha: f64, x: &mut AnyBuffer) {
        on!(self, b(x) => b.scale(alpha, x))
    }
    fn dot(&self, x: &AnyBuffer, xo: usize, y: &AnyBuffer, yo: usize, len: usize) -> f64 {
        on!(self, b(x, y) => b.dot(x, xo, y, yo, len))
    }
    fn gram_and_add(
        &self,
        x: &AnyBuffer,
        y: &AnyBuffer,
        cx: f64,
        cy: f64,
        sum: Option<&mut AnyBuffer>,
    ) -> (f64, f64, f64) {
        on!(self, b(x, y, sum) => b.gram_and_add(x, y, cx, cy, sum))
    }
    fn linear_grams(
        &self,
        x: &AnyBuffer,
        g: &AnyBuffer,
        clusters: &[Vec<&[Span]>],
        d_in: usize,
        d_out: usize,
    ) -> Vec<Vec<f64>> {
        on!(self, b(x, g) => b.linear_grams(x, g, clusters, d_in, d_out))
    }
    fn column_sum(
        &self,
        alpha: f64,
        x: &AnyBuffer,
        rows: Range<usize>,
        d: usize,
        out: &mut AnyBuffer,
    ) {
        on!(self, b(x, out) => b.column_sum(alpha, x, rows, d, out))
    }
    fn scatter_add(
        &self,
        x: &AnyBuffer,
        rows: &AnyIndex,
        coefficients: Option<&AnyBuffer>,
        out: &mut AnyBuffer,
        d: usize,
    ) {
        on!(self, b(x, rows, coefficients, out) => b.scatter_add(x, rows, coefficients, out, d))
    }
    fn gather(&self, table: &AnyBuffer, rows: &AnyIndex, out: &mut AnyBuffer, d: usize, add: bool) {
        on!(self, b(table, rows, out) => b.gather(table, rows, out, d, add))
    }
    fn lookup_inner(
        &self,
        g: &AnyBuffer,
        ids: &AnyIndex,
        p: Range<usize>,
        q: Range<usize>,
        d: usize,
    ) -> f64 {
        on!(self, b(g, ids) => b.lookup_inner(g, ids, p, q, d))
    }
    fn tied_inner(
        &self,
        g: &AnyBuffer,
        ids: &AnyIndex,
        p: Range<usize>,
        head: &HeadBackward<'_, Self>,
        q: Range<usize>,
    ) -> f64 {
        match self {
            AnyBackend::Cpu(b) => {
                b.tied_inner(g.cpu(), ids.cpu(), p, &head!(head, cpu, None, None), q)
            }
            AnyBackend::Cuda(b) => {
                b.tied_inner(g.cuda(), ids.cuda(), p, &head!(head, cuda, None, None), q)
            }
        }
    }

    fn rms_norm(
        &self,
        x: &AnyBuffer,
        w: &AnyBuffer,
        offset: f64,
        eps: f64,
        y: &mut AnyBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<AnyBuffer> {
        on!(self, b(x, w, y) => any_cache(b.rms_norm(x, w, offset, eps, y, n, d)))
    }
    fn layer_norm(
        &self,
        x: &AnyBuffer,
        w: &AnyBuffer,
        bias: &AnyBuffer,
        eps: f64,
        y: &mut AnyBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<AnyBuffer> {
        on!(self, b(x, w, bias, y) => any_cache(b.layer_norm(x, w, bias, eps, y, n, d)))
    }
    fn norm_apply(
        &self,
        x: &AnyBuffer,
        w: &AnyBuffer,
        offset: f64,
        bias: Option<&AnyBuffer>,
        cache: &NormCache<AnyBuffer>,
        y: &mut AnyBuffer,
        n: usize,
        d: usize,
    ) {
        match self {
            AnyBackend::Cpu(b) => {
                let cache = lend(cache, Pick::cpu);
                b.norm_apply(x.cpu(), w.cpu(), offset, bias.cpu(), &cache, y.cpu(), n, d);
            }
            AnyBackend::Cuda(b) => {
                let cache = lend(cache, Pick::cuda);
                b.norm_apply(
                    x.cuda(),
                    w.cuda(),
                    offset,
                    bias.cuda(),
                    &cache,
                    y.cuda(),
                    n,
                    d,
                );
            }
        }
    }
    fn norm_backward(
        &self,
        x: &AnyBuffer,
        w: &AnyBuffer,
        offset: f64,
        cache: &NormCache<AnyBuffer>,
        rows: Option<&AnyIndex>,
        dy: &AnyBuffer,
        dx: &mut AnyBuffer,
        dw_rows: Option<&mut AnyBuffer>,
        r: usize,
        d: usize,
    ) {
        match self {
            AnyBackend::Cpu(b) => {
                let cache = lend(cache, Pick::cpu);
                let (rows, dw) = (rows.cpu(), dw_rows.cpu());
                b.norm_backward(
                    x.cpu(),
                    w.cpu(),
                    offset,
                    &cache,
                    rows,
                    dy.cpu(),
                    dx.cpu(),
                    dw,
                    r,
                    d,
                );
            }
            AnyBackend::Cuda(b) => {
                let cache = lend(cache, Pick::cuda);
                let (rows, dw) = (rows.cuda(), dw_rows.cuda());
                b.norm_backward(
                    x.cuda(),
                    w.cuda(),
                    offset,
                    &cache,
                    rows,
                    dy.cuda(),
                    dx.cuda(),
                    dw,
                    r,
                    d,
                );
            }
        }
    }
    fn gelu(&self, x: &AnyBuffer, y: &mut AnyBuffer, exact: bool) {
        on!(self, b(x, y) => b.gelu(x, y, exact))
    }
    fn gelu_backward(
        &self,
        x: &AnyBuffer,
        rows: Option<&AnyIndex>,
        d: &mut AnyBuffer,
        f: usize,
        exact: bool,
    ) {
        on!(self, b(x, rows, d) => b.gelu_backward(x, rows, d, f, exact))
    }
    fn glu(&self, kind: Gate, gate: &AnyBuffer, up: &AnyBuffer, y: &mut AnyBuffer) {
        on!(self, b(gate, up, y) => b.glu(kind, gate, up, y))
    }
    fn glu_backward(
        &self,
        kind: Gate,
        gate: &AnyBuffer,
        up: &AnyBuffer,
        rows: Option<&AnyIndex>,
        d_gate: &mut AnyBuffer,
        d_up: &mut AnyBuffer,
        f: usize,
    ) {
        on!(self, b(gate, up, rows, d_gate, d_up) => b.glu_backward(kind, gate, up, rows, d_gate, d_up, f))
    }
    fn dropout(
        &self,
        x: &AnyBuffer,
        rows: Option<&AnyIndex>,
        seed: u64,
        p: f64,
        y: &mut AnyBuffer,
        n: usize,
        d: usize,
    ) {
        on!(self, b(x, rows, y) => b.dropout(x, rows, seed, p, y, n, d))
    }
    fn rope(
        &self,
        x: &mut AnyBuffer,
        positions: &AnyIndex,
        table: &AnyBuffer,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        inverse: bool,
    ) {
        on!(self, b(x, positions, table) => b.rope(x, positions, table, heads, head_dim, rotary_dim, inverse))
    }
    fn attention(
        &self,
        q: &AnyBuffer,
        k: &AnyBuffer,
        v: &AnyBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        out: &mut AnyBuffer,
    ) -> AnyBuffer {
        on!(self, b(q, k, v, out) => b.attention(q, k, v, layout, shape, out).into())
    }
    fn attention_backward(
        &self,
        q: &AnyBuffer,
        k: &AnyBuffer,
        v: &AnyBuffer,
        lse: &AnyBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        d_out: &AnyBuffer,
        dq: &mut AnyBuffer,
        dk: &mut AnyBuffer,
        dv: &mut AnyBuffer,
    ) {
        on!(self, b(q, k, v, lse, d_out, dq, dk, dv) =>
            b.attention_backward(q, k, v, lse, layout, shape, d_out, dq, dk, dv))
    }
    fn head_logps(
        &self,
        h: &AnyBuffer,
        w: &AnyBuffer,
        targets: &AnyIndex,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (AnyBuffer, AnyBuffer) {
        on!(self, b(h, w, targets) => {
            let (logps, lse) = b.head_logps(h, w, targets, softcap, m, d, v);
            (logps.into(), lse.into())
        })
    }
    fn head_logps_kept(
        &self,
        h: &AnyBuffer,
        w: &AnyBuffer,
        targets: &AnyIndex,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (AnyBuffer, AnyBuffer, Option<AnyBuffer>) {
        on!(self, b(h, w, targets) => {
            let (logps, lse, logits) = b.head_logps_kept(h, w, targets, softcap, m, d, v);
            (logps.into(), lse.into(), logits.map(Into::into))
        })
    }
    fn head_backward(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64> {
        let (dh, dw) = (args.dh.as_deref_mut(), args.dw.as_deref_mut());
        match self {
            AnyBackend::Cpu(b) => b.head_backward(&mut head!(args, cpu, dh.cpu(), dw.cpu())),
            AnyBackend::Cuda(b) => b.head_backward(&mut head!(args, cuda, dh.cuda(), dw.cuda())),
        }
    }
    fn head_log_squares(
        &self,
        h: &AnyBuffer,
        w: &AnyBuffer,
        lse: &AnyBuffer,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> AnyBuffer {
        on!(self, b(h, w, lse) => b.head_log_squares(h, w, lse, softcap, m, d, v).into())
    }
    fn head_direction(&self, args: &HeadBackward<'_, Self>, direction: &AnyBuffer) -> Vec<f64> {
        match self {
            AnyBackend::Cpu(b) => b.head_direction(&head!(args, cpu, None, None), direction.cpu()),
            AnyBackend::Cuda(b) => {
                b.head_direction(&head!(args, cuda, None, None), direction.cuda())
            }
        }
    }
    fn adamw(
        &self,
        step: &Adamw,
        param: &mut AnyBuffer,
        grad: &AnyBuffer,
        m: &mut AnyBuffer,
        v: &mut AnyBuffer,
    ) {
        on!(self, b(param, grad, m, v) => b.adamw(step, param, grad, m, v))
    }
    fn sgd(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        grad_scale: f64,
        param: &mut AnyBuffer,
        grad: &AnyBuffer,
        momentum: Option<(f64, &mut AnyBuffer)>,
    ) {
        let (mu, buffer) = momentum.unzip();
        on!(self, b(param, grad, buffer) =>
            b.sgd(learning_rate, weight_decay, grad_scale, param, grad, mu.zip(buffer)))
    }
    fn lion(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        beta1: f64,
        beta2: f64,
        grad_scale: f64,
        param: &mut AnyBuffer,
        grad: &AnyBuffer,
        m: &mut AnyBuffer,
    ) {
        on!(self, b(param, grad, m) =>
            b.lion(learning_rate, weight_decay, beta1, beta2, grad_scale, param, grad, m))
    }
    fn adafactor(
        &self,
        step: &Adafactor,
        rows: usize,
        cols: usize,
        param: &mut AnyBuffer,
        grad: &AnyBuffer,
        row_state: &mut AnyBuffer,
        col_state: &mut AnyBuffer,
    ) {
        on!(self, b(param, grad, row_state, col_state) =>
            b.adafactor(step, rows, cols, param, grad, row_state, col_state))
    }
    fn adafactor_vector(
        &self,
        step: &Adafactor,
        param: &mut AnyBuffer,
        grad: &AnyBuffer,
        state: &mut AnyBuffer,
    ) {
        on!(self, b(param, grad, state) => b.adafactor_vector(step, param, grad, state))
    }
}
