//! The oracle: every operation in f64 with the plainest loops that state its formula.
//!
//! Obviously correct, but slow. Nothing is blocked, fused or parallel; attention goes row by row, the head
//! forms its gradients as written. Finite differences check it, and it checks the fast backend
//! (`tests/gradients.rs`, `tests/parity.rs`). Left out on purpose: any cleverness.

mod attention;
mod gram;
mod head;
mod optimizer;
mod pointwise;

use crate::arguments::{Adafactor, Adamw, Gate, Gemm, HeadBackward, Mat, MatMut, NormCache};
use crate::backend::Backend;
use crate::bf16;
use crate::dropout::Mask;
use crate::layout::{AttentionLayout, AttentionShape, Span};
use pointwise::{gate_with_slope, gelu_with_slope};
use std::ops::Range;

/// The naive f64 backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct NaiveBackend;

/// The activation row of gradient row `r`.
fn row_of(rows: Option<&Vec<u32>>, r: usize) -> usize {
    rows.map_or(r, |rows| rows[r] as usize)
}

impl Backend for NaiveBackend {
    type Buffer = Vec<f64>;
    type Index = Vec<u32>;

    fn describe(&self) -> String {
        "naive f64".into()
    }

    fn empty(&self, len: usize) -> Vec<f64> {
        vec![f64::NAN; len] // unspecified contents that a forgotten write cannot hide behind
    }
    fn zeros(&self, len: usize) -> Vec<f64> {
        vec![0.0; len]
    }
    fn upload(&self, data: &[f32]) -> Vec<f64> {
        data.iter().map(|&x| f64::from(x)).collect()
    }
    fn upload_f64(&self, data: &[f64]) -> Vec<f64> {
        data.to_vec()
    }
    fn upload_bf16(&self, data: &[f32]) -> Vec<f64> {
        let rounded = |&x: &f32| f64::from(bf16::widen(bf16::round(x)));
        data.iter().map(rounded).collect()
    }
    fn download(&self, buffer: &Vec<f64>) -> Vec<f32> {
        buffer.iter().map(|&x| x as f32).collect()
    }
    fn download_f64(&self, buffer: &Vec<f64>) -> Vec<f64> {
        buffer.clone()
    }
    fn len(&self, buffer: &Vec<f64>) -> usize {
        buffer.len()
    }
    fn index(&self, data: &[u32]) -> Vec<u32> {
        data.to_vec()
    }
    fn fill_zero(&self, buffer: &mut Vec<f64>) {
        buffer.fill(0.0);
    }
    fn copy_2d(
        &self,
        src: &Vec<f64>,
        src_offset: usize,
        src_stride: usize,
        dst: &mut Vec<f64>,
        dst_offset: usize,
        dst_stride: usize,
        rows: usize,
        cols: usize,
    ) {
        for i in 0..rows {
            for j in 0..cols {
                dst[dst_offset + i * dst_stride + j] = src[src_offset + i * src_stride + j];
            }
        }
    }

    fn gemm(&self, s: Gemm, a: Mat<'_, Vec<f64>>, b: Mat<'_, Vec<f64>>, c: MatMut<'_, Vec<f64>>) {
        for i in 0..s.m {
            for j in 0..s.n {
                let product: f64 = (0..s.k)
                    .map(|l| {
                        a.buffer[a.offset + i * a.row_stride + l * a.col_stride]
                            * b.buffer[b.offset + l * b.row_stride + j * b.col_stride]
                    })
                    .sum();
                let at = &mut c.buffer[c.offset + i * c.row_stride + j];
                let old = if s.beta == 0.0 { 0.0 } else { s.beta * *at };
                *at = s.alpha * product + old;
            }
        }
    }
    fn add_bias(&self, bias: &Vec<f64>, x: &mut Vec<f64>, n: usize, d: usize) {
        for i in 0..n {
            for j in 0..d {
                x[i * d + j] += bias[j];
            }
        }
    }
    fn axpy(&self, alpha: f64, x: &Vec<f64>, y: &mut Vec<f64>) {
        assert_eq!(x.len(), y.len());
        for (y, x) in y.iter_mut().zip(x) {
            *y += alpha * x;
        }
    }
    fn scale(&self, alpha: f64, x: &mut Vec<f64>) {
        x.iter_mut().for_each(|x| *x *= alpha);
    }
    fn dot(&self, x: &Vec<f64>, xo: usize, y: &Vec<f64>, yo: usize, len: usize) -> f64 {
        (0..len).map(|i| x[xo + i] * y[yo + i]).sum()
    }
    fn gram_and_add(
        &self,
        x: &Vec<f64>,
        y: &Vec<f64>,
        cx: f64,
        cy: f64,
        sum: Option<&mut Vec<f64>>,
    ) -> (f64, f64, f64) {
        if let Some(sum) = sum {
            for i in 0..x.len() {
                sum[i] += cx * x[i] + cy * y[i];
            }
        }
        let n = x.len();
        (
            self.dot(x, 0, x, 0, n),
            self.dot(y, 0, y, 0, n),
            self.dot(x, 0, y, 0, n),
        )
    }
    fn linear_grams(
        &self,
        a: &Vec<f64>,
        g: &Vec<f64>,
        clusters: &[Vec<&[Span]>],
        d_in: usize,
        d_out: usize,
    ) -> Vec<Vec<f64>> {
        let gram = |probes: &Vec<&[Span]>| gram::linear_gram((a, d_in), (g, d_out), probes);
        clusters.iter().map(gram).collect()
    }
    fn column_sum(
        &self,
        alpha: f64,
        x: &Vec<f64>,
        rows: Range<usize>,
        d: usize,
        out: &mut Vec<f64>,
    ) {
        for i in rows {
            for j in 0..d {
                out[j] += alpha * x[i * d + j];
            }
        }
    }
    fn scatter_add(
        &self,
        x: &Vec<f64>,
        rows: &Vec<u32>,
        coefficients: Option<&Vec<f64>>,
        out: &mut Vec<f64>,
        d: usize,
    ) {
        for (r, &row) in rows.iter().enumerate() {
            let c = coefficients.map_or(1.0, |c| c[r]);
            for j in 0..d {
                out[row as usize * d + j] += c * x[r * d + j];
            }
        }
    }

    fn gather(&self, table: &Vec<f64>, rows: &Vec<u32>, out: &mut Vec<f64>, d: usize, add: bool) {
        for (r, &row) in rows.iter().enumerate() {
            for j in 0..d {
                let value = table[row as usize * d + j];
                let old = if add { out[r * d + j] } else { 0.0 };
                out[r * d + j] = old + value;
            }
        }
    }
    fn lookup_inner(
        &self,
        g: &Vec<f64>,
        ids: &Vec<u32>,
        p: Range<usize>,
        q: Range<usize>,
        d: usize,
    ) -> f64 {
        let mut sum = 0.0;
        for t in p {
            for u in q.clone().filter(|&u| ids[u] == ids[t]) {
                sum += self.dot(g, t * d, g, u * d, d);
            }
        }
        sum
    }
    fn tied_inner(
        &self,
        g: &Vec<f64>,
        ids: &Vec<u32>,
        p: Range<usize>,
        head: &HeadBackward<'_, Self>,
        q: Range<usize>,
    ) -> f64 {
        head::tied_inner(g, ids, p, head, q)
    }

    fn rms_norm(
        &self,
        x: &Vec<f64>,
        w: &Vec<f64>,
        offset: f64,
        eps: f64,
        y: &mut Vec<f64>,
        n: usize,
        d: usize,
    ) -> NormCache<Vec<f64>> {
        let rstd = (0..n)
            .map(|i| 1.0 / (self.dot(x, i * d, x, i * d, d) / d as f64 + eps).sqrt())
            .collect();
        let cache = NormCache { mean: None, rstd };
        self.norm_apply(x, w, offset, None, &cache, y, n, d);
        cache
    }
    fn layer_norm(
        &self,
        x: &Vec<f64>,
        w: &Vec<f64>,
        b: &Vec<f64>,
        eps: f64,
        y: &mut Vec<f64>,
        n: usize,
        d: usize,
    ) -> NormCache<Vec<f64>> {
        let mean: Vec<f64> = (0..n)
            .map(|i| x[i * d..(i + 1) * d].iter().sum::<f64>() / d as f64)
            .collect();
        let rstd = (0..n)
            .map(|i| {
                let variance = (0..d)
                    .map(|j| (x[i * d + j] - mean[i]).powi(2))
                    .sum::<f64>();
                1.0 / (variance / d as f64 + eps).sqrt()
            })
            .collect();
        let cache = NormCache {
            mean: Some(mean),
            rstd,
        };
        self.norm_apply(x, w, 0.0, Some(b), &cache, y, n, d);
        cache
    }
    fn norm_apply(
        &self,
        x: &Vec<f64>,
        w: &Vec<f64>,
        offset: f64,
        b: Option<&Vec<f64>>,
        cache: &NormCache<Vec<f64>>,
        y: &mut Vec<f64>,
        n: usize,
        d: usize,
    ) {
        for i in 0..n {
            let mean = cache.mean.as_ref().map_or(0.0, |m| m[i]);
            for j in 0..d {
                let xhat = (x[i * d + j] - mean) * cache.rstd[i];
                y[i * d + j] = xhat * (offset + w[j]) + b.map_or(0.0, |b| b[j]);
            }
        }
    }
    fn norm_backward(
        &self,
        x: &Vec<f64>,
        w: &Vec<f64>,
        offset: f64,
        cache: &NormCache<Vec<f64>>,
        rows: Option<&Vec<u32>>,
        dy: &Vec<f64>,
        dx: &mut Vec<f64>,
        mut dw_rows: Option<&mut Vec<f64>>,
        r: usize,
        d: usize,
    ) {
        for g in 0..r {
            let i = row_of(rows, g);
            let mean = cache.mean.as_ref().map_or(0.0, |m| m[i]);
            let rstd = cache.rstd[i];
            let xhat = |j: usize| (x[i * d + j] - mean) * rstd;
            let dxhat = |j: usize| dy[g * d + j] * (offset + w[j]);
            let along: f64 = (0..d).map(|j| dxhat(j) * xhat(j)).sum::<f64>() / d as f64;
            let centre = match cache.mean {
                Some(_) => (0..d).map(dxhat).sum::<f64>() / d as f64,
                None => 0.0,
            };
            for j in 0..d {
                dx[g * d + j] += rstd * (dxhat(j) - centre - xhat(j) * along);
                if let Some(dw) = dw_rows.as_deref_mut() {
                    dw[g * d + j] = dy[g * d + j] * xhat(j);
                }
            }
        }
    }

    fn gelu(&self, x: &Vec<f64>, y: &mut Vec<f64>, exact: bool) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = gelu_with_slope(x, exact).0;
        }
    }
    fn gelu_backward(
        &self,
        x: &Vec<f64>,
        rows: Option<&Vec<u32>>,
        d: &mut Vec<f64>,
        f: usize,
        exact: bool,
    ) {
        for r in 0..d.len() / f {
            for j in 0..f {
                d[r * f + j] *= gelu_with_slope(x[row_of(rows, r) * f + j], exact).1;
            }
        }
    }
    fn glu(&self, kind: Gate, gate: &Vec<f64>, up: &Vec<f64>, y: &mut Vec<f64>) {
        for i in 0..y.len() {
            y[i] = gate_with_slope(kind, gate[i]).0 * up[i];
        }
    }
    fn glu_backward(
        &self,
        kind: Gate,
        gate: &Vec<f64>,
        up: &Vec<f64>,
        rows: Option<&Vec<u32>>,
        d_gate: &mut Vec<f64>,
        d_up: &mut Vec<f64>,
        f: usize,
    ) {
        for r in 0..d_up.len() / f {
            for j in 0..f {
                let at = row_of(rows, r) * f + j;
                let (value, slope) = gate_with_slope(kind, gate[at]);
                let dy = d_up[r * f + j];
                d_gate[r * f + j] = dy * up[at] * slope;
                d_up[r * f + j] = dy * value;
            }
        }
    }
    fn dropout(
        &self,
        x: &Vec<f64>,
        rows: Option<&Vec<u32>>,
        seed: u64,
        p: f64,
        y: &mut Vec<f64>,
        n: usize,
        d: usize,
    ) {
        let mask = Mask::new(seed, p);
        for r in 0..n {
            let row = mask.row(row_of(rows, r));
            for j in 0..d {
                let keep = if mask.keeps(row, j) { 1.0 } else { 0.0 };
                y[r * d + j] = keep * x[r * d + j] / (1.0 - p);
            }
        }
    }

    fn rope(
        &self,
        x: &mut Vec<f64>,
        positions: &Vec<u32>,
        table: &Vec<f64>,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        inverse: bool,
    ) {
        let half = rotary_dim / 2;
        for (r, &p) in positions.iter().enumerate() {
            for h in 0..heads {
                for i in 0..half {
                    let cos = table[p as usize * rotary_dim + i];
                    let sin = table[p as usize * rotary_dim + half + i];
                    let sin = if inverse { -sin } else { sin };
                    let at = (r * heads + h) * head_dim + i;
                    let (a, b) = (x[at], x[at + half]);
                    x[at] = a * cos - b * sin;
                    x[at + half] = b * cos + a * sin;
                }
            }
        }
    }
    fn attention(
        &self,
        q: &Vec<f64>,
        k: &Vec<f64>,
        v: &Vec<f64>,
        layout: &AttentionLayout,
        shape: AttentionShape,
        out: &mut Vec<f64>,
    ) -> Vec<f64> {
        attention::forward(q, k, v, layout, shape, out)
    }
    fn attention_backward(
        &self,
        q: &Vec<f64>,
        k: &Vec<f64>,
        v: &Vec<f64>,
        lse: &Vec<f64>,
        layout: &AttentionLayout,
        shape: AttentionShape,
        d_out: &Vec<f64>,
        dq: &mut Vec<f64>,
        dk: &mut Vec<f64>,
        dv: &mut Vec<f64>,
    ) {
        attention::backward(q, k, v, lse, layout, shape, d_out, dq, dk, dv);
    }

    fn head_logps(
        &self,
        h: &Vec<f64>,
        w: &Vec<f64>,
        targets: &Vec<u32>,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (Vec<f64>, Vec<f64>) {
        head::logps(h, w, targets, softcap, m, d, v)
    }
    fn head_backward(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64> {
        head::backward(args)
    }
    fn head_log_squares(
        &self,
        h: &Vec<f64>,
        w: &Vec<f64>,
        lse: &Vec<f64>,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> Vec<f64> {
        head::log_squares(h, w, lse, softcap, m, d, v)
    }
    fn head_direction(&self, args: &HeadBackward<'_, Self>, direction: &Vec<f64>) -> Vec<f64> {
        head::direction(args, direction)
    }

    fn adamw(
        &self,
        s: &Adamw,
        param: &mut Vec<f64>,
        grad: &Vec<f64>,
        m: &mut Vec<f64>,
        v: &mut Vec<f64>,
    ) {
        optimizer::adamw(s, param, grad, m, v);
    }
    fn sgd(
        &self,
        learning_rate: f64,
        weight_decay: f64,
        grad_scale: f64,
        param: &mut Vec<f64>,
        grad: &Vec<f64>,
        momentum: Option<(f64, &mut Vec<f64>)>,
    ) {
        let momentum = momentum.map(|(mu, buffer)| (mu, &mut buffer[..]));
        optimizer::sgd(
            learning_rate,
            weight_decay,
            grad_scale,
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
        param: &mut Vec<f64>,
        grad: &Vec<f64>,
        m: &mut Vec<f64>,
    ) {
        let rates = [learning_rate, weight_decay, beta1, beta2, grad_scale];
        optimizer::lion(rates, param, grad, m);
    }
    fn adafactor(
        &self,
        step: &Adafactor,
        rows: usize,
        cols: usize,
        param: &mut Vec<f64>,
        grad: &Vec<f64>,
        row_state: &mut Vec<f64>,
        col_state: &mut Vec<f64>,
    ) {
        optimizer::adafactor(step, rows, cols, param, grad, row_state, col_state);
    }
    fn adafactor_vector(
        &self,
        step: &Adafactor,
        param: &mut Vec<f64>,
        grad: &Vec<f64>,
        state: &mut Vec<f64>,
    ) {
        optimizer::adafactor_vector(step, param, grad, state);
    }
}
