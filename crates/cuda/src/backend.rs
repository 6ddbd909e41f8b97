//! [`Backend`] on a device: checks, shapes of launches, order of arguments. The kernels are in `kernels/`.

use crate::attention::Tables;
use crate::buffer::{CudaBuffer, CudaIndex, Pool};
use crate::device::{Arg, Device, Precision};
use crate::grams::Map;
use crate::launch::{BLOCK, flag, float, index, input, long, or_null, output, weight};
use half::bf16;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use unbraid_tensor::{
    Adafactor, Adamw, AttentionLayout, AttentionShape, Backend, Gate, Gemm, HeadBackward, Mat,
    MatMut, NormCache, Span,
};

/// Logits of a chunk of the vocabulary hold about this many floats (128 MiB).
const CHUNK_FLOATS: usize = 1 << 25;

/// One GPU, or what stands for one.
pub struct CudaBackend {
    pub(crate) pool: Arc<Pool>,
    pub(crate) precision: Precision,
    pub(crate) chunk_floats: usize,
    pub(crate) layout: Mutex<Option<(AttentionLayout, Tables)>>,
}

impl CudaBackend {
    /// The operations on a given machine.
    pub fn over(device: Arc<dyn Device>, precision: Precision) -> Self {
        CudaBackend {
            pool: Pool::new(device),
            precision,
            chunk_floats: CHUNK_FLOATS,
            layout: Mutex::default(),
        }
    }

    /// The same with chunks of the vocabulary whose logits hold about `floats` floats: less memory, more launches.
    pub fn with_chunks(mut self, floats: usize) -> Self {
        self.chunk_floats = floats;
        self
    }

    /// The activation that the kernels call `kind`.
    fn activate(&self, kind: i32, x: &CudaBuffer, y: &mut CudaBuffer) {
        let n = y.len;
        assert!(x.len >= n, "an input for every output");
        let args = [Arg::Int(kind), input(x), output(y), long(n)];
        self.each("activate", n, &args);
    }
}

/// The kernels' number of a gate's activation.
fn number(gate: Gate) -> i32 {
    match gate {
        Gate::GeluTanh => 0,
        Gate::Gelu => 1,
        Gate::Silu => 2,
    }
}

/// Positions of each value in `rows`, by value, in order.
fn groups(rows: &[u32]) -> BTreeMap<u32, Vec<u32>> {
    let mut groups = BTreeMap::<u32, Vec<u32>>::new();
    for (r, &row) in rows.iter().enumerate() {
        groups.entry(row).or_default().push(r as u32);
    }
    groups
}

/// The addresses of optional statistics and rows.
fn mean_of(cache: &NormCache<CudaBuffer>) -> Arg {
    or_null(cache.mean.as_ref().map(CudaBuffer::read))
}

fn rows_of(rows: Option<&CudaIndex>) -> Arg {
    or_null(rows.map(|r| r.memory.address))
}

impl Backend for CudaBackend {
    type Buffer = CudaBuffer;
    type Index = CudaIndex;

    fn describe(&self) -> String {
        let products = match self.precision {
            Precision::Float32 => "f32",
            Precision::Tf32 => "f32, products in tf32",
            Precision::Bf16 => "f32, products in bf16",
        };
        format!("{}, {products}", self.pool.device.describe())
    }

    fn empty(&self, len: usize) -> CudaBuffer {
        self.floats(len)
    }
    fn zeros(&self, len: usize) -> CudaBuffer {
        let mut buffer = self.floats(len);
        self.clear(&mut buffer);
        buffer
    }
    fn upload(&self, data: &[f32]) -> CudaBuffer {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        CudaBuffer {
            memory: self.store(&bytes, 4),
            len: data.len(),
            half: false,
        }
    }
    fn upload_f64(&self, data: &[f64]) -> CudaBuffer {
        let single: Vec<f32> = data.iter().map(|&x| x as f32).collect();
        self.upload(&single)
    }
    fn upload_bf16(&self, data: &[f32]) -> CudaBuffer {
        let halves = data.iter().map(|&x| bf16::from_f32(x));
        let bytes: Vec<u8> = halves.flat_map(bf16::to_le_bytes).collect();
        CudaBuffer {
            memory: self.store(&bytes, 2),
            len: data.len(),
            half: true,
        }
    }
    fn download(&self, buffer: &CudaBuffer) -> Vec<f32> {
        let mut bytes = vec![0; buffer.len * if buffer.half { 2 } else { 4 }];
        self.fetch(buffer.memory.address, &mut bytes);
        if buffer.half {
            let each = bytes.chunks_exact(2);
            each.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect()
        } else {
            let each = bytes.chunks_exact(4);
            each.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        }
    }
    fn download_f64(&self, buffer: &CudaBuffer) -> Vec<f64> {
        self.download(buffer).into_iter().map(f64::from).collect()
    }
    fn len(&self, buffer: &CudaBuffer) -> usize {
        buffer.len
    }
    fn index(&self, data: &[u32]) -> CudaIndex {
        CudaIndex {
            memory: self.table(data),
            host: data.to_vec(),
        }
    }
    fn fill_zero(&self, buffer: &mut CudaBuffer) {
        self.clear(buffer);
    }
    fn copy_2d(
        &self,
        src: &CudaBuffer,
        src_offset: usize,
        src_stride: usize,
        dst: &mut CudaBuffer,
        dst_offset: usize,
        dst_stride: usize,
        rows: usize,
        cols: usize,
    ) {
        if rows * cols == 0 {
            return;
        }
        assert!(src_offset + (rows - 1) * src_stride + cols <= src.len);
        assert!(dst_offset + (rows - 1) * dst_stride + cols <= dst.len);
        let mut args = vec![input(src), long(src_offset), long(src_stride), output(dst)];
        args.extend([dst_offset, dst_stride, rows, cols].map(long));
        self.each("copy_2d", rows * cols, &args);
    }

    fn gemm(
        &self,
        shape: Gemm,
        a: Mat<'_, CudaBuffer>,
        b: Mat<'_, CudaBuffer>,
        c: MatMut<'_, CudaBuffer>,
    ) {
        self.multiply(shape, a, b, c);
    }
    fn add_bias(&self, bias: &CudaBuffer, x: &mut CudaBuffer, n: usize, d: usize) {
        assert!(bias.len >= d && x.len >= n * d);
        let [address, half] = weight(bias);
        let args = [address, half, output(x), long(n), long(d)];
        self.each("add_bias", n * d, &args);
    }
    fn axpy(&self, alpha: f64, x: &CudaBuffer, y: &mut CudaBuffer) {
        assert_eq!(x.len, y.len);
        let n = y.len;
        self.each("axpy", n, &[float(alpha), input(x), output(y), long(n)]);
    }
    fn scale(&self, alpha: f64, x: &mut CudaBuffer) {
        let n = x.len;
        self.each("scale", n, &[float(alpha), output(x), long(n)]);
    }
    fn dot(&self, x: &CudaBuffer, xo: usize, y: &CudaBuffer, yo: usize, len: usize) -> f64 {
        assert!(xo + len <= x.len && yo + len <= y.len);
        let args = [input(x), long(xo), input(y), long(yo), long(len)];
        let [sum] = self.sums("dot", len, &args);
        sum
    }
    fn gram_and_add(
        &self,
        x: &CudaBuffer,
        y: &CudaBuffer,
        cx: f64,
        cy: f64,
        sum: Option<&mut CudaBuffer>,
    ) -> (f64, f64, f64) {
        let n = x.len;
        assert!(y.len == n && sum.as_ref().is_none_or(|s| s.len == n));
        let sum = or_null(sum.map(CudaBuffer::write));
        let args = [input(x), input(y), float(cx), float(cy), sum, long(n)];
        let [xx, yy, xy] = self.sums("gram_and_add", n, &args);
        (xx, yy, xy)
    }
    fn linear_grams(
        &self,
        a: &CudaBuffer,
        g: &CudaBuffer,
        clusters: &[Vec<&[Span]>],
        d_in: usize,
        d_out: usize,
    ) -> Vec<Vec<f64>> {
        let map = Map { a, g, d_in, d_out };
        let gram = |probes: &Vec<&[Span]>| self.linear_gram(&map, probes);
        clusters.iter().map(gram).collect()
    }
    fn column_sum(
        &self,
        alpha: f64,
        x: &CudaBuffer,
        rows: Range<usize>,
        d: usize,
        out: &mut CudaBuffer,
    ) {
        if rows.is_empty() {
            return;
        }
        assert!(rows.end * d <= x.len && d <= out.len);
        let mut args = vec![float(alpha), input(x)];
        args.extend([rows.start, rows.len(), d].map(long));
        args.push(output(out));
        self.launch("column_sum", [d.div_ceil(32), 1, 1], &args);
    }
    fn scatter_add(
        &self,
        x: &CudaBuffer,
        rows: &CudaIndex,
        coefficients: Option<&CudaBuffer>,
        out: &mut CudaBuffer,
        d: usize,
    ) {
        assert!(x.len >= rows.host.len() * d);
        assert!(
            rows.host
                .iter()
                .all(|&row| (row as usize + 1) * d <= out.len)
        );
        let groups = groups(&rows.host);
        let (mut order, mut starts) = (Vec::new(), vec![0]);
        for group in groups.values() {
            order.extend(group);
            starts.push(order.len() as u32);
        }
        let targets: Vec<u32> = groups.into_keys().collect();
        let tables = [&order, &starts, &targets].map(|t| self.table(t));
        let mut args = vec![input(x)];
        args.extend(tables.iter().map(|t| Arg::Address(t.address)));
        args.push(or_null(coefficients.map(CudaBuffer::read)));
        args.extend([output(out), long(d)]);
        let grid = [targets.len(), d.div_ceil(BLOCK), 1];
        self.launch("scatter_add", grid, &args);
    }

    fn gather(
        &self,
        table: &CudaBuffer,
        rows: &CudaIndex,
        out: &mut CudaBuffer,
        d: usize,
        add: bool,
    ) {
        let n = rows.host.len();
        assert!(out.len >= n * d);
        assert!(
            rows.host
                .iter()
                .all(|&row| (row as usize + 1) * d <= table.len)
        );
        let [address, half] = weight(table);
        let mut args = vec![address, half, index(rows), output(out)];
        args.extend([long(n), long(d), flag(add)]);
        self.each("gather", n * d, &args);
    }
    fn lookup_inner(
        &self,
        g: &CudaBuffer,
        ids: &CudaIndex,
        p: Range<usize>,
        q: Range<usize>,
        d: usize,
    ) -> f64 {
        let [left, right] = [&p, &q].map(|rows| groups(&ids.host[rows.clone()]));
        let (mut order, mut starts) = (Vec::new(), vec![0]);
        for (id, rows) in &left {
            if let Some(others) = right.get(id) {
                order.extend(rows.iter().map(|r| r + p.start as u32));
                starts.push(order.len() as u32);
                order.extend(others.iter().map(|r| r + q.start as u32));
                starts.push(order.len() as u32);
            }
        }
        let count = starts.len() / 2;
        let [order, starts] = [&order, &starts].map(|t| self.table(t));
        let out = self.pool.take(count, 8);
        let tables = [order.address, starts.address].map(Arg::Address);
        let args = [
            input(g),
            tables[0],
            tables[1],
            long(d),
            Arg::Address(out.address),
        ];
        self.launch("lookup_inner", [count, 1, 1], &args);
        self.doubles(&out, count).iter().sum()
    }
    fn tied_inner(
        &self,
        g: &CudaBuffer,
        ids: &CudaIndex,
        p: Range<usize>,
        head: &HeadBackward<'_, Self>,
        q: Range<usize>,
    ) -> f64 {
        self.tied(g, ids, p, head, q)
    }

    fn rms_norm(
        &self,
        x: &CudaBuffer,
        w: &CudaBuffer,
        offset: f64,
        eps: f64,
        y: &mut CudaBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<CudaBuffer> {
        let mut rstd = self.floats(n);
        let args = [input(x), float(eps), output(&mut rstd), long(d)];
        self.launch("rms_statistics", [n, 1, 1], &args);
        let cache = NormCache { mean: None, rstd };
        self.norm_apply(x, w, offset, None, &cache, y, n, d);
        cache
    }
    fn layer_norm(
        &self,
        x: &CudaBuffer,
        w: &CudaBuffer,
        b: &CudaBuffer,
        eps: f64,
        y: &mut CudaBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<CudaBuffer> {
        let (mut mean, mut rstd) = (self.floats(n), self.floats(n));
        let (m, s) = (output(&mut mean), output(&mut rstd));
        let args = [input(x), float(eps), m, s, long(d)];
        self.launch("layer_statistics", [n, 1, 1], &args);
        let mean = Some(mean);
        let cache = NormCache { mean, rstd };
        self.norm_apply(x, w, 0.0, Some(b), &cache, y, n, d);
        cache
    }
    fn norm_apply(
        &self,
        x: &CudaBuffer,
        w: &CudaBuffer,
        offset: f64,
        b: Option<&CudaBuffer>,
        cache: &NormCache<CudaBuffer>,
        y: &mut CudaBuffer,
        n: usize,
        d: usize,
    ) {
        assert!(x.len >= n * d && y.len >= n * d && w.len >= d);
        let [scale, half] = weight(w);
        let bias = b.map_or([Arg::Address(0), Arg::Int(0)], weight);
        let mut args = vec![input(x), scale, half, float(offset), bias[0], bias[1]];
        args.extend([
            mean_of(cache),
            input(&cache.rstd),
            output(y),
            long(n),
            long(d),
        ]);
        self.each("norm_apply", n * d, &args);
    }
    fn norm_backward(
        &self,
        x: &CudaBuffer,
        w: &CudaBuffer,
        offset: f64,
        cache: &NormCache<CudaBuffer>,
        rows: Option<&CudaIndex>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        dw_rows: Option<&mut CudaBuffer>,
        r: usize,
        d: usize,
    ) {
        assert!(dy.len >= r * d && dx.len >= r * d && w.len >= d);
        assert!(dw_rows.as_ref().is_none_or(|dw| dw.len >= r * d));
        let [scale, half] = weight(w);
        let mut args = vec![input(x), scale, half, float(offset), mean_of(cache)];
        args.extend([input(&cache.rstd), rows_of(rows), input(dy), output(dx)]);
        args.extend([or_null(dw_rows.map(CudaBuffer::write)), long(d)]);
        self.launch("norm_backward", [r, 1, 1], &args);
    }

    fn gelu(&self, x: &CudaBuffer, y: &mut CudaBuffer, exact: bool) {
        self.activate(i32::from(exact), x, y);
    }
    fn gelu_backward(
        &self,
        x: &CudaBuffer,
        rows: Option<&CudaIndex>,
        d: &mut CudaBuffer,
        f: usize,
        exact: bool,
    ) {
        let n = d.len / f;
        let mut args = vec![flag(exact), input(x), rows_of(rows), output(d)];
        args.extend([n, f].map(long));
        self.each("activate_backward", n * f, &args);
    }
    fn glu(&self, kind: Gate, gate: &CudaBuffer, up: &CudaBuffer, y: &mut CudaBuffer) {
        let n = y.len;
        assert!(gate.len >= n && up.len >= n);
        let mut args = vec![Arg::Int(number(kind)), input(gate), input(up)];
        args.extend([output(y), long(n)]);
        self.each("glu", n, &args);
    }
    fn glu_backward(
        &self,
        kind: Gate,
        gate: &CudaBuffer,
        up: &CudaBuffer,
        rows: Option<&CudaIndex>,
        d_gate: &mut CudaBuffer,
        d_up: &mut CudaBuffer,
        f: usize,
    ) {
        let n = d_up.len / f;
        assert!(d_gate.len >= n * f);
        let mut args = vec![
            Arg::Int(number(kind)),
            input(gate),
            input(up),
            rows_of(rows),
        ];
        args.extend([output(d_gate), output(d_up), long(n), long(f)]);
        self.each("glu_backward", n * f, &args);
    }
    fn dropout(
        &self,
        x: &CudaBuffer,
        rows: Option<&CudaIndex>,
        seed: u64,
        p: f64,
        y: &mut CudaBuffer,
        n: usize,
        d: usize,
    ) {
        assert!(
            (0.0..1.0).contains(&p),
            "dropout probability {p} is outside 0..1"
        );
        assert!(x.len >= n * d && y.len >= n * d);
        let threshold = (p * 4_294_967_296.0) as u32;
        let mut args = vec![input(x), rows_of(rows), Arg::UnsignedLong(seed)];
        args.extend([Arg::Unsigned(threshold), float(1.0 / (1.0 - p)), output(y)]);
        args.extend([n, d].map(long));
        self.each("dropout", n * d, &args);
    }

    fn rope(
        &self,
        x: &mut CudaBuffer,
        positions: &CudaIndex,
        table: &CudaBuffer,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        inverse: bool,
    ) {
        let (n, half) = (positions.host.len(), rotary_dim / 2);
        assert!(x.len >= n * heads * head_dim);
        let known = |&p: &u32| (p as usize + 1) * rotary_dim <= table.len;
        assert!(positions.host.iter().all(known));
        let mut args = vec![output(x), index(positions), input(table)];
        args.extend([n, heads, head_dim, half].map(long));
        args.push(flag(inverse));
        self.each("rope", n * heads * half, &args);
    }
    fn attention(
        &self,
        q: &CudaBuffer,
        k: &CudaBuffer,
        v: &CudaBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        out: &mut CudaBuffer,
    ) -> CudaBuffer {
        self.attend([q, k, v], layout, shape, out)
    }
    fn attention_backward(
        &self,
        q: &CudaBuffer,
        k: &CudaBuffer,
        v: &CudaBuffer,
        lse: &CudaBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        d_out: &CudaBuffer,
        dq: &mut CudaBuffer,
        dk: &mut CudaBuffer,
        dv: &mut CudaBuffer,
    ) {
        self.attend_backward([q, k, v, lse, d_out], layout, shape, [dq, dk, dv]);
    }

    fn head_logps(
        &self,
        h: &CudaBuffer,
        w: &CudaBuffer,
        targets: &CudaIndex,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (CudaBuffer, CudaBuffer) {
        self.logps((h, w), targets, softcap, (m, d, v))
    }
    fn head_backward(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64> {
        self.gradients(args)
    }
    fn head_log_squares(
        &self,
        h: &CudaBuffer,
        w: &CudaBuffer,
        lse: &CudaBuffer,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> CudaBuffer {
        self.log_squares((h, w), lse, softcap, (m, d, v))
    }
    fn head_direction(&self, args: &HeadBackward<'_, Self>, direction: &CudaBuffer) -> Vec<f64> {
        self.along(args, direction)
    }

    fn adamw(
        &self,
        s: &Adamw,
        param: &mut CudaBuffer,
        grad: &CudaBuffer,
        m: &mut CudaBuffer,
        v: &mut CudaBuffer,
    ) {
        let n = param.len;
        assert!(grad.len == n && m.len == n && v.len == n);
        let correction1 = 1.0 - s.beta1.powf(s.step as f64);
        let correction2 = 1.0 - s.beta2.powf(s.step as f64);
        let mut args = vec![output(param), input(grad), output(m), output(v)];
        let betas = [s.beta1, 1.0 - s.beta1, s.beta2, 1.0 - s.beta2];
        args.extend(betas.map(float));
        let keep = 1.0 - s.learning_rate * s.weight_decay;
        let sizes = [s.learning_rate / correction1, 1.0 / correction2.sqrt()];
        args.extend(sizes.map(float));
        args.extend([s.epsilon, keep, s.grad_scale].map(float));
        args.push(long(n));
        self.each("adamw", n, &args);
    }
    fn sgd(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        grad_scale: f64,
        param: &mut CudaBuffer,
        grad: &CudaBuffer,
        momentum: Option<(f64, &mut CudaBuffer)>,
    ) {
        let n = param.len;
        assert!(grad.len == n && momentum.as_ref().is_none_or(|(_, b)| b.len == n));
        let (mu, buffer) = momentum.map_or((0.0, 0), |(mu, b)| (mu, b.write()));
        let mut args = vec![output(param), input(grad), Arg::Address(buffer)];
        args.extend([mu, learning_rate, weight_decay, grad_scale].map(float));
        args.push(long(n));
        self.each("sgd", n, &args);
    }
    fn lion(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        beta1: f64,
        beta2: f64,
        grad_scale: f64,
        param: &mut CudaBuffer,
        grad: &CudaBuffer,
        m: &mut CudaBuffer,
    ) {
        let n = param.len;
        assert!(grad.len == n && m.len == n);
        let mut args = vec![output(param), input(grad), output(m)];
        args.extend([beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(float));
        let keep = 1.0 - learning_rate * weight_decay;
        args.extend([learning_rate, keep, grad_scale].map(float));
        args.push(long(n));
        self.each("lion", n, &args);
    }
    fn adafactor(
        &self,
        step: &Adafactor,
        rows: usize,
        cols: usize,
        param: &mut CudaBuffer,
        grad: &CudaBuffer,
        row_state: &mut CudaBuffer,
        col_state: &mut CudaBuffer,
    ) {
        self.factored(step, (rows, cols), param, grad, [row_state, col_state]);
    }
    fn adafactor_vector(
        &self,
        step: &Adafactor,
        param: &mut CudaBuffer,
        grad: &CudaBuffer,
        state: &mut CudaBuffer,
    ) {
        self.unfactored(step, param, grad, state);
    }
}
