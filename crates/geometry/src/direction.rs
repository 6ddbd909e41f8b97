//! Directional derivatives: ⟨∇a_r, Δ⟩ of every response r, for one change Δ of all parameters.
//!
//! What a parameter update does to a log-prob to first order, exactly and for whatever made it (AdamW, clipping, decay),
//! without any gradient being formed. For a linear map y = xWᵀ with input rows A and output-gradient rows G,
//! ⟨GᵀA, Δ⟩ = Σ_rows ⟨G_row, (AΔᵀ)_row⟩: one product with the rows of the forward pass, in which a shared prompt stands
//! once, then a dot for each response; ΔᵀG would need its rows once for each response. Biases and norms: their row sums
//! times Δ. Look-ups: each row times the row of Δ that it looked up. The head is streamed over the vocabulary. One
//! matrix that is embedding and head gets both. Sums over rows are in f64.
//!
//! Tested in `tests/direction.rs` against central differences, all families, and adapters.

use unbraid_model::{BackwardPass, GradientSink, LinearGradient, ParamId, RowSpace, head_delta};
use unbraid_tensor::{Backend, Gemm, HeadBackward, Mat, MatMut};

/// A sink that takes ⟨∇a_r, Δ⟩ of every response (or other probe) of a plan that keeps them apart, for one or more
/// directions Δ; a_r is the sum of its token log-probs, each times its seed.
pub struct DirectionSink<'a, B: Backend> {
    directions: Vec<&'a [Option<B::Buffer>]>,
    /// ⟨∇a_r, Δ⟩ of each response r, one direction after the other.
    pub changes: Vec<f64>,
}

impl<'a, B: Backend> DirectionSink<'a, B> {
    /// A sink for `responses` responses; `delta` has an entry for every parameter, `None` where nothing changes
    /// ([`unbraid_model::Gradients::values`] has this form).
    pub fn new(delta: &'a [Option<B::Buffer>], responses: usize) -> Self {
        Self::along(vec![delta], responses)
    }

    /// A sink for several directions at once, which share the walk: `changes` has `responses` entries for each.
    pub fn along(directions: Vec<&'a [Option<B::Buffer>]>, responses: usize) -> Self {
        let changes = vec![0.0; responses * directions.len()];
        DirectionSink {
            directions,
            changes,
        }
    }

    /// Adds, for every direction that changes the parameter, what `change` finds along it for each response.
    fn along_each<C: Fn(usize) -> f64>(
        &mut self,
        param: ParamId,
        mut along: impl FnMut(&'a B::Buffer) -> C,
    ) {
        let responses = self.changes.len() / self.directions.len().max(1);
        let sums = self.changes.chunks_exact_mut(responses.max(1));
        for (direction, sums) in self.directions.iter().zip(sums) {
            let Some(delta) = &direction[param.0] else {
                continue;
            };
            let change = along(delta);
            let sums = sums.iter_mut().enumerate();
            sums.for_each(|(response, sum)| *sum += change(response));
        }
    }
}

impl<B: Backend> GradientSink<B> for DirectionSink<'_, B> {
    fn wants(&self, param: ParamId) -> bool {
        self.directions.iter().any(|delta| delta[param.0].is_some())
    }

    fn linear(&mut self, pass: &BackwardPass<'_, B>, x: LinearGradient<'_, B>) {
        let (b, n, d_out) = (pass.backend, pass.batch.rows(), x.d_out);
        self.along_each(x.weight, |delta| {
            let mut moved = b.empty(n * d_out);
            b.gemm(
                Gemm::replace(n, d_out, x.d_in),
                Mat::rows(x.a, 0, x.d_in),
                Mat::rows(delta, 0, x.d_in).t(),
                MatMut::rows(&mut moved, 0, d_out),
            );
            move |response: usize| {
                let spans = pass.plan.responses[response].iter();
                let dot = |span: &unbraid_tensor::Span| {
                    let (g, a) = (span.grad * d_out, span.act * d_out);
                    b.dot(x.g, g, &moved, a, span.len * d_out)
                };
                spans.map(dot).sum()
            }
        });
        if let Some(bias) = x.bias {
            self.row_sum(pass, bias, RowSpace::Gradient, x.g, x.d_out);
        }
    }

    fn row_sum(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        space: RowSpace,
        contributions: &B::Buffer,
        len: usize,
    ) {
        let b = pass.backend;
        self.along_each(param, |delta| {
            move |response: usize| {
                let mut sum = b.zeros(len);
                let rows = space.of_response(pass, response);
                b.column_sum(1.0, contributions, rows, len, &mut sum);
                b.dot(&sum, 0, delta, 0, len)
            }
        });
    }

    fn lookup(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        ids: &B::Index,
        g: &B::Buffer,
        d: usize,
    ) {
        let b = pass.backend;
        self.along_each(param, |delta| {
            let mut moved = b.empty(pass.plan.rows * d);
            b.gather(delta, ids, &mut moved, d, false);
            move |response: usize| {
                let rows = pass.plan.response_rows(response);
                b.dot(g, rows.start * d, &moved, rows.start * d, rows.len() * d)
            }
        });
    }

    fn head(&mut self, pass: &BackwardPass<'_, B>, param: ParamId, args: &mut HeadBackward<'_, B>) {
        self.along_each(param, |delta| {
            let joined = head_delta(pass.backend, args, delta);
            let delta = joined.as_ref().unwrap_or(delta);
            let rows = pass.backend.head_direction(args, delta);
            move |response: usize| rows[pass.plan.targets[response].clone()].iter().sum()
        });
        pass.backend.head_backward(args);
    }
}
