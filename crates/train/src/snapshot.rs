//! What an update of the parameters did to log-probs to first order: ⟨∇a, Δθ⟩ at the point where it was made.
//!
//! A [`Snapshot`] is a copy of the trainable parameters, taken before the optimizer's step. Afterwards Δθ is written over
//! the gradients, which nobody needs until the next step clears them; the snapshot and the parameters change places; one
//! forward and one backward pass with a [`DirectionSink`] give every response's derivative along Δθ; and they change
//! places again, so that the parameters are the same to the bit. In memory: one copy of the trainable parameters, no
//! third. Whatever made the update (AdamW's moments, clipping, weight decay) is in Δθ, so this is the first-order
//! prediction that only curvature can fail. Tested in `tests/updates.rs`.

use crate::pack::pack_pairs;
use crate::score::batches;
use unbraid_geometry::DirectionSink;
use unbraid_model::{Batch, GradientPlan, Gradients, Keep, LanguageModel, ParamId, Parameters};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

/// The trainable parameters as they were.
pub struct Snapshot<B: Backend> {
    values: Vec<(ParamId, B::Buffer)>,
}

impl<B: Backend> Snapshot<B> {
    /// Copies the trainable parameters.
    pub fn take(backend: &B, params: &Parameters<B>) -> Self {
        let copy = |id: ParamId| (id, backend.empty(params.specs[id.0].len()));
        let mut snapshot = Snapshot {
            values: params.trainable().map(copy).collect(),
        };
        snapshot.take_again(backend, params);
        snapshot
    }

    /// Copies the parameters of the same model again, into the memory it has.
    pub fn take_again(&mut self, backend: &B, params: &Parameters<B>) {
        for (id, value) in &mut self.values {
            let len = backend.len(value);
            backend.copy_2d(params.get(*id), 0, len, value, 0, len, 1, len);
        }
    }

    /// The trainable parameters' numbers and values.
    pub(crate) fn values(&self) -> &[(ParamId, B::Buffer)] {
        &self.values
    }

    /// Lets the model's parameters and these change places.
    pub fn swap(&mut self, params: &mut Parameters<B>) {
        for (id, value) in &mut self.values {
            std::mem::swap(&mut params.values[id.0], value);
        }
    }

    /// Δθ = the model's parameters minus these, over what `delta` held.
    pub fn difference(&self, backend: &B, params: &Parameters<B>, delta: &mut Gradients<B>) {
        for (id, before) in &self.values {
            let (after, len) = (params.get(*id), backend.len(before));
            let delta = delta.values[id.0].get_or_insert_with(|| backend.empty(len));
            backend.copy_2d(after, 0, len, delta, 0, len, 1, len);
            backend.axpy(-1.0, before, delta);
        }
    }
}

/// (⟨∇a_w, Δθ⟩, ⟨∇a_l, Δθ⟩) of every pair in nats, for the update from the snapshot's parameters to the model's, with
/// the gradients of the plain summed log-probs at the snapshot's.
///
/// The model and the snapshot are the same afterwards; `delta` holds Δθ. Pairs go through in batches of bounded size.
pub fn effects<B: Backend>(
    model: &mut LanguageModel<B>,
    snapshot: &mut Snapshot<B>,
    delta: &mut Gradients<B>,
    pairs: &[&TokenizedPair],
    keep: Keep,
) -> Vec<(f64, f64)> {
    snapshot.difference(&model.backend, &model.params, delta);
    snapshot.swap(&mut model.params);
    let mut effects = Vec::with_capacity(pairs.len());
    for range in batches(pairs) {
        let b = &*model.backend;
        let batch = Batch::new(b, pack_pairs(pairs[range].iter().copied(), true));
        let plan = GradientPlan::per_response(b, &batch.forest);
        let mut sink = DirectionSink::new(&delta.values, batch.forest.responses.len());
        let ones = vec![1.0; batch.targets()];
        let forward = model.forward(&batch, keep);
        model.backward(&batch, &plan, forward, &ones, &mut sink);
        let pairs = sink.changes.chunks_exact(2);
        effects.extend(pairs.map(|pair| (pair[0], pair[1])));
    }
    snapshot.swap(&mut model.params);
    effects
}
