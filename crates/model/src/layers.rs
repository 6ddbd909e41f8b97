//! Layers shared by the families: embeddings, linear maps and norms over parameters, forward beside backward.

use crate::decoder::ForwardPass;
use crate::lora::Adapter;
use crate::parameters::{ParamId, Parameters, SpecList};
use crate::sink::{BackwardPass, GradientSink, LinearGradient, RowSpace};
use unbraid_tensor::{Backend, Gemm, Mat, MatMut, NormCache};

/// y = x Wᵀ + b.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// W, `[d_out, d_in]`.
    pub weight: ParamId,
    /// b, `[d_out]`.
    pub bias: Option<ParamId>,
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
}

impl Linear {
    /// The map `[d_in, d_out]` called `stem` in the checkpoint.
    pub(crate) fn new(
        specs: &mut SpecList,
        stem: &str,
        group: &str,
        [d_in, d_out]: [usize; 2],
        biased: bool,
        std: f64,
    ) -> Self {
        Linear {
            weight: specs.matrix(format!("{stem}.weight"), [d_out, d_in], group, std),
            bias: biased.then(|| specs.bias(format!("{stem}.bias"), d_out, group)),
            d_in,
            d_out,
        }
    }

    /// x `[N, d_in]` → `[N, d_out]`, with the weight's adapter if it has one.
    pub fn forward<B: Backend>(&self, pass: &ForwardPass<'_, B>, x: &B::Buffer) -> B::Buffer {
        let (b, params, n) = (pass.backend, pass.params, pass.rows);
        let mut y = b.empty(n * self.d_out);
        b.gemm(
            Gemm::replace(n, self.d_out, self.d_in),
            Mat::rows(x, 0, self.d_in),
            Mat::rows(params.get(self.weight), 0, self.d_in).t(),
            MatMut::rows(&mut y, 0, self.d_out),
        );
        if let Some(bias) = self.bias {
            b.add_bias(params.get(bias), &mut y, n, self.d_out);
        }
        if let Some(adapter) = params.adapter(self.weight) {
            let dropped = self.drop(b, adapter, pass.dropout_seed, x, n);
            let u = self.down(b, params, adapter, dropped.as_ref().unwrap_or(x), n);
            b.gemm(
                Gemm::add(n, self.d_out, adapter.rank),
                Mat::rows(&u, 0, adapter.rank),
                Mat::rows(params.get(adapter.b), 0, adapter.rank).t(),
                MatMut::rows(&mut y, 0, self.d_out),
            );
        }
        y
    }

    /// The adapter's input after dropout; `None` when nothing is dropped.
    fn drop<B: Backend>(
        &self,
        b: &B,
        adapter: Adapter,
        seed: Option<u64>,
        x: &B::Buffer,
        n: usize,
    ) -> Option<B::Buffer> {
        let seed = adapter.dropout_seed(self.weight, seed)?;
        let mut dropped = b.empty(n * self.d_in);
        b.dropout(x, None, seed, adapter.dropout, &mut dropped, n, self.d_in);
        Some(dropped)
    }

    /// s·x Aᵀ, `[N, r]`.
    fn down<B: Backend>(
        &self,
        b: &B,
        params: &Parameters<B>,
        adapter: Adapter,
        x: &B::Buffer,
        n: usize,
    ) -> B::Buffer {
        let mut u = b.empty(n * adapter.rank);
        let shape = Gemm {
            alpha: adapter.scale,
            ..Gemm::replace(n, adapter.rank, self.d_in)
        };
        b.gemm(
            shape,
            Mat::rows(x, 0, self.d_in),
            Mat::rows(params.get(adapter.a), 0, self.d_in).t(),
            MatMut::rows(&mut u, 0, adapter.rank),
        );
        u
    }

    /// Hands (A, G) to the sink and writes (`add`: adds) the input's gradient into `dx` `[R, d_in]`.
    pub fn backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        a: &B::Buffer,
        g: &B::Buffer,
        dx: &mut B::Buffer,
        add: bool,
    ) {
        if sink.wants(self.weight) || self.bias.is_some_and(|bias| sink.wants(bias)) {
            let gradient = LinearGradient {
                weight: self.weight,
                bias: self.bias,
                d_in: self.d_in,
                d_out: self.d_out,
                a,
                g,
            };
            sink.linear(pass, gradient);
        }
        let shape = Gemm {
            beta: if add { 1.0 } else { 0.0 },
            ..Gemm::replace(pass.plan.rows, self.d_in, self.d_out)
        };
        pass.backend.gemm(
            shape,
            Mat::rows(g, 0, self.d_out),
            Mat::rows(pass.params.get(self.weight), 0, self.d_in),
            MatMut::rows(dx, 0, self.d_in),
        );
        if let Some(adapter) = pass.params.adapter(self.weight) {
            self.adapter_backward(pass, sink, adapter, a, g, dx);
        }
    }

    /// The adapter's share: with u = s·x Aᵀ and y = u Bᵀ, dB = Gᵀu, du = s·G B, dA = duᵀx, dx += du A (x after
    /// dropout, whose mask is drawn again for dx).
    fn adapter_backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        adapter: Adapter,
        x: &B::Buffer,
        g: &B::Buffer,
        dx: &mut B::Buffer,
    ) {
        let (b, params, n, r) = (pass.backend, pass.params, pass.batch.rows(), pass.plan.rows);
        let (rank, d_in, seed) = (adapter.rank, self.d_in, pass.forward.dropout_seed);
        let dropped = self.drop(b, adapter, seed, x, n);
        let x = dropped.as_ref().unwrap_or(x);
        if sink.wants(adapter.b) {
            let u = self.down(b, params, adapter, x, n);
            let gradient = LinearGradient {
                weight: adapter.b,
                bias: None,
                d_in: rank,
                d_out: self.d_out,
                a: &u,
                g,
            };
            sink.linear(pass, gradient);
        }
        let mut du = b.empty(r * rank);
        let shape = Gemm {
            alpha: adapter.scale,
            ..Gemm::replace(r, rank, self.d_out)
        };
        b.gemm(
            shape,
            Mat::rows(g, 0, self.d_out),
            Mat::rows(params.get(adapter.b), 0, rank),
            MatMut::rows(&mut du, 0, rank),
        );
        if sink.wants(adapter.a) {
            let gradient = LinearGradient {
                weight: adapter.a,
                bias: None,
                d_in,
                d_out: rank,
                a: x,
                g: &du,
            };
            sink.linear(pass, gradient);
        }
        let (du, a) = (
            Mat::rows(&du, 0, rank),
            Mat::rows(params.get(adapter.a), 0, d_in),
        );
        match adapter.dropout_seed(self.weight, seed) {
            None => b.gemm(Gemm::add(r, d_in, rank), du, a, MatMut::rows(dx, 0, d_in)),
            Some(seed) => {
                let mut whole = b.empty(r * d_in);
                let into = MatMut::rows(&mut whole, 0, d_in);
                b.gemm(Gemm::replace(r, d_in, rank), du, a, into);
                let (rows, p) = (pass.plan.activation_rows.as_ref(), adapter.dropout);
                let mut dropped = b.empty(r * d_in);
                b.dropout(&whole, rows, seed, p, &mut dropped, r, d_in);
                b.axpy(1.0, &dropped, dx);
            }
        }
    }
}

/// A table of token embeddings.
///
/// With an adapter a row is E[t] + s·A[:, t]ᵀBᵀ, A `[r, V]`, B `[D, r]`, without dropout, as PEFT has it. `padding` is the
/// row that PyTorch's `padding_idx` names: looking it up gives it no gradient, nor the adapter's A there.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// The table, `[V, D]`.
    pub table: ParamId,
    /// Width D.
    pub d: usize,
    /// The token whose row the look-up does not train.
    pub padding: Option<u32>,
}

impl Embedding {
    /// Describes a table `[vocabulary, d]`.
    pub(crate) fn new(
        specs: &mut SpecList,
        name: &str,
        [vocabulary, d]: [usize; 2],
        std: f64,
    ) -> Self {
        Embedding {
            table: specs.matrix(name.into(), [vocabulary, d], "embedding", std),
            d,
            padding: None,
        }
    }

    /// The head's weight: this table when `tied`, else a matrix of its own.
    pub(crate) fn head(&self, specs: &mut SpecList, tied: bool, name: &str, std: f64) -> ParamId {
        if tied {
            return self.table;
        }
        let vocabulary = specs.0[self.table.0].shape[0];
        specs.matrix(name.into(), [vocabulary, self.d], "head", std)
    }

    /// The embedding of every row's token, `[N, D]`.
    pub fn forward<B: Backend>(&self, pass: &ForwardPass<'_, B>) -> B::Buffer {
        let (b, params, n) = (pass.backend, pass.params, pass.rows);
        let mut x = b.empty(n * self.d);
        b.gather(params.get(self.table), pass.ids, &mut x, self.d, false);
        if let Some(adapter) = params.lookup_adapter(self.table) {
            let u = looked_up(b, params, adapter, pass.ids, n);
            b.gemm(
                Gemm::add(n, self.d, adapter.rank),
                Mat::rows(&u, 0, adapter.rank),
                Mat::rows(params.get(adapter.b), 0, adapter.rank).t(),
                MatMut::rows(&mut x, 0, self.d),
            );
        }
        x
    }

    /// Hands the embeddings' gradient `g` `[R, D]` to the sink.
    pub fn backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        g: &B::Buffer,
    ) {
        if sink.wants(self.table) {
            self.look_back(pass, sink, self.table, g, self.d);
        }
        if let Some(adapter) = pass.params.lookup_adapter(self.table) {
            self.adapter_backward(pass, sink, adapter, g);
        }
    }

    /// Hands a look-up's gradient to the sink, that of the padding token left out.
    fn look_back<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        table: ParamId,
        g: &B::Buffer,
        width: usize,
    ) {
        let (b, plan) = (pass.backend, pass.plan);
        let trains = |token: &u32| Some(*token) != self.padding;
        if plan.tokens.iter().all(trains) {
            sink.lookup(pass, table, &plan.ids, g, width);
            return;
        }
        let factors = plan.tokens.iter().map(|t| f64::from(u8::from(trains(t))));
        let factors = b.upload_f64(&factors.collect::<Vec<f64>>());
        let same: Vec<u32> = (0..plan.rows as u32).collect();
        let mut kept = b.zeros(plan.rows * width);
        b.scatter_add(g, &b.index(&same), Some(&factors), &mut kept, width);
        sink.lookup(pass, table, &plan.ids, &kept, width);
    }

    /// The adapter's share: with u = s·A[:, t]ᵀ, dB = Gᵀu and the look-up's gradient in A is s·G B.
    fn adapter_backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        adapter: Adapter,
        g: &B::Buffer,
    ) {
        let (b, params, r, rank) = (pass.backend, pass.params, pass.plan.rows, adapter.rank);
        if sink.wants(adapter.b) {
            let u = looked_up(b, params, adapter, &pass.batch.ids, pass.batch.rows());
            let gradient = LinearGradient {
                weight: adapter.b,
                bias: None,
                d_in: rank,
                d_out: self.d,
                a: &u,
                g,
            };
            sink.linear(pass, gradient);
        }
        if sink.wants(adapter.a) {
            let mut du = b.empty(r * rank);
            let shape = Gemm {
                alpha: adapter.scale,
                ..Gemm::replace(r, rank, self.d)
            };
            b.gemm(
                shape,
                Mat::rows(g, 0, self.d),
                Mat::rows(params.get(adapter.b), 0, rank),
                MatMut::rows(&mut du, 0, rank),
            );
            self.look_back(pass, sink, adapter.a, &du, rank);
        }
    }
}

/// s·A[:, t]ᵀ of every row's token, `[N, r]`; A is held `[V, r]`.
fn looked_up<B: Backend>(
    b: &B,
    params: &Parameters<B>,
    adapter: Adapter,
    ids: &B::Index,
    n: usize,
) -> B::Buffer {
    let mut u = b.empty(n * adapter.rank);
    b.gather(params.get(adapter.a), ids, &mut u, adapter.rank, false);
    b.scale(adapter.scale, &mut u);
    u
}

/// Layer norm (with bias) or root-mean-square norm (without).
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// The weight, `[d]`.
    pub weight: ParamId,
    /// The bias, `[d]`; its presence makes this a layer norm.
    pub bias: Option<ParamId>,
    /// Added to the weight of a root-mean-square norm: 1 in Gemma, else 0.
    pub offset: f64,
    /// Added to the variance (or mean square).
    pub epsilon: f64,
    /// Width.
    pub d: usize,
}

impl Norm {
    /// x `[n, d]` → (normalised, cache).
    pub fn forward<B: Backend>(
        &self,
        b: &B,
        params: &Parameters<B>,
        x: &B::Buffer,
        n: usize,
    ) -> (B::Buffer, NormCache<B::Buffer>) {
        let mut y = b.empty(n * self.d);
        let w = params.get(self.weight);
        let cache = match self.bias {
            None => b.rms_norm(x, w, self.offset, self.epsilon, &mut y, n, self.d),
            Some(bias) => b.layer_norm(x, w, params.get(bias), self.epsilon, &mut y, n, self.d),
        };
        (y, cache)
    }

    /// The normalised rows again: cheaper to recompute than to keep.
    pub fn again<B: Backend>(
        &self,
        b: &B,
        params: &Parameters<B>,
        x: &B::Buffer,
        cache: &NormCache<B::Buffer>,
        n: usize,
    ) -> B::Buffer {
        let mut y = b.empty(n * self.d);
        let bias = self.bias.map(|bias| params.get(bias));
        let w = params.get(self.weight);
        b.norm_apply(x, w, self.offset, bias, cache, &mut y, n, self.d);
        y
    }

    /// Adds the input's gradient to `dx` `[rows, d]`, rows as `space` says.
    pub fn backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        space: RowSpace,
        x: &B::Buffer,
        cache: &NormCache<B::Buffer>,
        dy: &B::Buffer,
        dx: &mut B::Buffer,
    ) {
        let (b, r, w) = (pass.backend, space.rows(pass), pass.params.get(self.weight));
        let (offset, d) = (self.offset, self.d);
        let of_heads = match space {
            RowSpace::Heads(heads) => pass.plan.activation_rows_of_heads(b, heads),
            _ => None,
        };
        let rows = match space {
            RowSpace::Gradient => pass.plan.activation_rows.as_ref(),
            RowSpace::Heads(_) => of_heads.as_ref(),
            RowSpace::Targets => None,
        };
        if sink.wants(self.weight) {
            let mut dw = b.empty(r * self.d);
            b.norm_backward(x, w, offset, cache, rows, dy, dx, Some(&mut dw), r, d);
            sink.row_sum(pass, self.weight, space, &dw, self.d);
        } else {
            b.norm_backward(x, w, offset, cache, rows, dy, dx, None, r, d);
        }
        if let Some(bias) = self.bias.filter(|&bias| sink.wants(bias)) {
            sink.row_sum(pass, bias, space, dy, self.d);
        }
    }
}
