//! Layers shared by the families: linear maps and norms over parameters, forward beside backward.

use crate::parameters::{ParamId, Parameters};
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
    /// x `[n, d_in]` → `[n, d_out]`.
    pub fn forward<B: Backend>(
        &self,
        b: &B,
        params: &Parameters<B>,
        x: &B::Buffer,
        n: usize,
    ) -> B::Buffer {
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
        y
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
    }
}

/// Layer norm (with bias) or root-mean-square norm (without).
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// The weight, `[d]`.
    pub weight: ParamId,
    /// The bias, `[d]`; its presence makes this a layer norm.
    pub bias: Option<ParamId>,
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
            None => b.rms_norm(x, w, self.epsilon, &mut y, n, self.d),
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
        b.norm_apply(x, params.get(self.weight), bias, cache, &mut y, n, self.d);
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
        let rows = match space {
            RowSpace::Gradient => pass.plan.activation_rows.as_ref(),
            RowSpace::Targets => None,
        };
        if sink.wants(self.weight) {
            let mut dw = b.empty(r * self.d);
            b.norm_backward(x, w, cache, rows, dy, dx, Some(&mut dw), r, self.d);
            sink.row_sum(pass, self.weight, space, &dw, self.d);
        } else {
            b.norm_backward(x, w, cache, rows, dy, dx, None, r, self.d);
        }
        if let Some(bias) = self.bias.filter(|&bias| sink.wants(bias)) {
            sink.row_sum(pass, bias, space, dy, self.d);
        }
    }
}
