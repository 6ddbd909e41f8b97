//! The gated feed-forward layer (Shazeer 2020, arXiv 2002.05202), forward beside backward:
//! y = (act(x W_gᵀ) · x W_uᵀ) W_dᵀ. The product is computed again in the backward: a sweep, against a third of what
//! the layer would keep.

use crate::decoder::ForwardPass;
use crate::layers::Linear;
use crate::sink::{BackwardPass, GradientSink};
use unbraid_tensor::{Backend, Gate};

/// The layers.
#[derive(Clone, Copy)]
pub(crate) struct GatedMlp {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) kind: Gate,
}

/// What the forward leaves for the backward: gate and up before the activation, `[N, F]`.
pub(crate) struct GatedState<B: Backend> {
    gate: B::Buffer,
    up: B::Buffer,
}

impl GatedMlp {
    /// x `[N, D]` → `[N, D]`.
    pub(crate) fn forward<B: Backend>(
        &self,
        pass: &ForwardPass<'_, B>,
        x: &B::Buffer,
    ) -> (B::Buffer, GatedState<B>) {
        let gate = self.gate.forward(pass, x);
        let up = self.up.forward(pass, x);
        let mut product = pass.backend.empty(pass.rows * self.up.d_out);
        pass.backend.glu(self.kind, &gate, &up, &mut product);
        let out = self.down.forward(pass, &product);
        (out, GatedState { gate, up })
    }

    /// From the output's gradient `d_out` `[R, D]` to the input's, written into `dx` `[R, D]`; `x` is the forward's
    /// input.
    pub(crate) fn backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        state: &GatedState<B>,
        x: &B::Buffer,
        d_out: &B::Buffer,
        dx: &mut B::Buffer,
    ) {
        let (b, r, n) = (pass.backend, pass.plan.rows, pass.batch.rows());
        let f = self.up.d_out;
        let (gate, up) = (&state.gate, &state.up);
        let mut product = b.empty(n * f);
        b.glu(self.kind, gate, up, &mut product);
        let (mut d_gate, mut d_up) = (b.empty(r * f), b.empty(r * f));
        self.down
            .backward(pass, sink, &product, d_out, &mut d_up, false);
        drop(product);
        let rows = pass.plan.activation_rows.as_ref();
        b.glu_backward(self.kind, gate, up, rows, &mut d_gate, &mut d_up, f);
        self.gate.backward(pass, sink, x, &d_gate, dx, false);
        self.up.backward(pass, sink, x, &d_up, dx, true);
    }
}
