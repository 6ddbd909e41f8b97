//! Gradient sinks: what becomes of the raw material that a backward pass produces.
//!
//! The backward pass hands each parameter's (input rows A, output-gradient rows G) to a sink. Training adds
//! GᵀA into a gradient buffer; the geometry forms each response's own gradient, takes inner products and drops
//! it; a probe may do anything else. The pass itself never decides.

use crate::batch::{Batch, GradientPlan};
use crate::decoder::Forward;
use crate::head::head_backward_into;
use crate::parameters::{ParamId, Parameters};
use std::ops::Range;
use unbraid_tensor::{Backend, Gemm, HeadBackward, Mat, MatMut};

/// What a sink may look at during a backward pass.
pub struct BackwardPass<'a, B: Backend> {
    /// The machine.
    pub backend: &'a B,
    /// The model's parameters.
    pub params: &'a Parameters<B>,
    /// The batch.
    pub batch: &'a Batch<B>,
    /// Gradient rows.
    pub plan: &'a GradientPlan<B>,
    /// What the forward pass kept.
    pub forward: &'a Forward<B>,
    /// Seed of each target, `[M]`.
    pub seeds: &'a B::Buffer,
}

impl<'a, B: Backend> BackwardPass<'a, B> {
    /// The arguments of [`Backend::head_backward`] for this pass and the head's weight, no output asked for yet.
    pub fn head_arguments(&self, head: ParamId) -> HeadBackward<'a, B> {
        self.forward
            .head_arguments(self.params, self.batch, self.seeds, head)
    }
}

/// Where a backward pass starts: the derivative of the wanted scalar with respect to what the forward computed.
pub struct Seeds<'a> {
    /// With respect to each target's log-prob, `[M]`.
    pub token_logps: &'a [f64],
    /// With respect to a probe's value at each target, if the scalar reads one.
    pub probe: Option<ProbeSeeds<'a>>,
}

/// Seeds of a linear probe v_i = ⟨w, h_i⟩ + b of the final hidden states (the token mask's head).
pub struct ProbeSeeds<'a> {
    /// w, `[D]`.
    pub weight: ParamId,
    /// b, `[1]`.
    pub bias: ParamId,
    /// Derivative with respect to v_i, `[M]`.
    pub seeds: &'a [f64],
}

impl<'a> From<&'a [f64]> for Seeds<'a> {
    fn from(token_logps: &'a [f64]) -> Self {
        Seeds {
            token_logps,
            probe: None,
        }
    }
}

impl<'a> From<&'a Vec<f64>> for Seeds<'a> {
    fn from(token_logps: &'a Vec<f64>) -> Self {
        token_logps.as_slice().into()
    }
}

impl ProbeSeeds<'_> {
    /// Adds the hidden states' gradient to `dh` `[M, D]` and hands the probe's own to the sink.
    pub(crate) fn backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        dh: &mut B::Buffer,
        d: usize,
    ) {
        let (b, m) = (pass.backend, pass.batch.targets());
        let seeds = b.upload_f64(self.seeds);
        b.gemm(
            Gemm::add(m, d, 1),
            Mat::rows(&seeds, 0, 1),
            Mat::rows(pass.params.get(self.weight), 0, d),
            MatMut::rows(dh, 0, d),
        );
        if sink.wants(self.weight) {
            let rows: Vec<u32> = (0..m as u32).collect();
            let mut own = b.zeros(m * d);
            b.scatter_add(&pass.forward.h, &b.index(&rows), Some(&seeds), &mut own, d);
            sink.row_sum(pass, self.weight, RowSpace::Targets, &own, d);
        }
        if sink.wants(self.bias) {
            sink.row_sum(pass, self.bias, RowSpace::Targets, &seeds, 1);
        }
    }
}

/// The raw material of a linear map `y = x Wᵀ + b`.
pub struct LinearGradient<'a, B: Backend> {
    /// The weight, `[d_out, d_in]`.
    pub weight: ParamId,
    /// The bias, `[d_out]`.
    pub bias: Option<ParamId>,
    /// Width of the input.
    pub d_in: usize,
    /// Width of the output.
    pub d_out: usize,
    /// Input rows A, `[N, d_in]`.
    pub a: &'a B::Buffer,
    /// Output-gradient rows G, `[R, d_out]`.
    pub g: &'a B::Buffer,
}

/// Which rows a per-row contribution belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowSpace {
    /// The plan's gradient rows, R.
    Gradient,
    /// The plan's gradient rows taken apart into this many heads each, R·heads (norms over heads).
    Heads(usize),
    /// The scored rows, M (the final norm works on those alone).
    Targets,
}

impl RowSpace {
    /// Number of rows.
    pub fn rows<B: Backend>(self, pass: &BackwardPass<'_, B>) -> usize {
        match self {
            RowSpace::Gradient => pass.plan.rows,
            RowSpace::Heads(heads) => pass.plan.rows * heads,
            RowSpace::Targets => pass.batch.targets(),
        }
    }

    /// The rows of response `p` (per-response plans).
    pub fn of_response<B: Backend>(self, pass: &BackwardPass<'_, B>, p: usize) -> Range<usize> {
        match self {
            RowSpace::Gradient => pass.plan.response_rows(p),
            RowSpace::Heads(heads) => {
                let rows = pass.plan.response_rows(p);
                rows.start * heads..rows.end * heads
            }
            RowSpace::Targets => pass.plan.targets[p].clone(),
        }
    }
}

/// Receives every parameter's raw gradient material, last layer first.
pub trait GradientSink<B: Backend> {
    /// Whether this parameter's gradient is wanted.
    fn wants(&self, param: ParamId) -> bool;
    /// A linear map.
    fn linear(&mut self, pass: &BackwardPass<'_, B>, gradient: LinearGradient<'_, B>);
    /// A vector whose gradient is the sum of `contributions` `[rows, len]` over rows (norm weights and biases).
    fn row_sum(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        space: RowSpace,
        contributions: &B::Buffer,
        len: usize,
    );
    /// A table looked up by `ids` (one per gradient row) with gradient rows `g` `[R, d]`.
    fn lookup(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        ids: &B::Index,
        g: &B::Buffer,
        d: usize,
    );
    /// The head: must run [`Backend::head_backward`], which also fills `args.dh`. Of an adapted head `param` is the
    /// adapter's B, and `args` join it to the head's weight ([`crate::head_backward_into`], [`crate::head_delta`]).
    fn head(&mut self, pass: &BackwardPass<'_, B>, param: ParamId, args: &mut HeadBackward<'_, B>);
}

/// One gradient buffer per parameter (none for frozen ones).
pub struct Gradients<B: Backend> {
    /// The buffers, in parameter order.
    pub values: Vec<Option<B::Buffer>>,
}

impl<B: Backend> Gradients<B> {
    /// Zeros for every parameter that `trainable` names.
    pub fn zeros(backend: &B, params: &Parameters<B>, trainable: impl Fn(ParamId) -> bool) -> Self {
        let values = params
            .specs
            .iter()
            .enumerate()
            .map(|(i, s)| trainable(ParamId(i)).then(|| backend.zeros(s.len())))
            .collect();
        Gradients { values }
    }

    /// Sets all to zero.
    pub fn clear(&mut self, backend: &B) {
        for value in self.values.iter_mut().flatten() {
            backend.fill_zero(value);
        }
    }

    /// Σ of squares over all parameters, in f64.
    pub fn squared_norm(&self, backend: &B) -> f64 {
        self.values
            .iter()
            .flatten()
            .map(|g| backend.dot(g, 0, g, 0, backend.len(g)))
            .sum()
    }
}

/// Adds GᵀA into gradient buffers: the sink of plain training. Needs a summed plan and seeds that already
/// hold the objective's coefficients.
pub struct Accumulate<'a, B: Backend>(pub &'a mut Gradients<B>);

impl<B: Backend> GradientSink<B> for Accumulate<'_, B> {
    fn wants(&self, param: ParamId) -> bool {
        self.0.values[param.0].is_some()
    }

    fn linear(&mut self, pass: &BackwardPass<'_, B>, x: LinearGradient<'_, B>) {
        if let Some(grad) = &mut self.0.values[x.weight.0] {
            pass.backend.gemm(
                Gemm::add(x.d_out, x.d_in, pass.plan.rows),
                Mat::rows(x.g, 0, x.d_out).t(),
                Mat::rows(x.a, 0, x.d_in),
                MatMut::rows(grad, 0, x.d_in),
            );
        }
        if let Some(bias) = x.bias {
            self.row_sum(pass, bias, RowSpace::Gradient, x.g, x.d_out);
        }
    }

    fn row_sum(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        space: RowSpace,
        g: &B::Buffer,
        len: usize,
    ) {
        if let Some(grad) = &mut self.0.values[param.0] {
            pass.backend
                .column_sum(1.0, g, 0..space.rows(pass), len, grad);
        }
    }

    fn lookup(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        ids: &B::Index,
        g: &B::Buffer,
        d: usize,
    ) {
        if let Some(grad) = &mut self.0.values[param.0] {
            pass.backend.scatter_add(g, ids, None, grad, d);
        }
    }

    fn head(&mut self, pass: &BackwardPass<'_, B>, param: ParamId, args: &mut HeadBackward<'_, B>) {
        head_backward_into(pass.backend, args, self.0.values[param.0].as_mut());
    }
}
