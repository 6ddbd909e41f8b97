//! The Gram matrix of all responses of a batch, and whose gradients a response's predicted change comes from.
//!
//! K_ij = ⟨g_i, g_j⟩ (the empirical neural tangent kernel). Under plain gradient descent Δa_i = η Σ_j c_j K_ij to first
//! order, with c = +d_w/B for chosen and −d_l/B for rejected responses (SPEC §4): its own term, its partner's, and
//! those of the other pairs.

use crate::measure::unit_plan;
use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::{Batch, Keep, LanguageModel};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;
use unbraid_train::pack_pairs;

/// The 2B × 2B matrix of a batch's responses, row-major; response 2i is pair i's chosen, 2i + 1 its rejected one.
pub fn gram_matrix<B: Backend>(model: &LanguageModel<B>, pairs: &[&TokenizedPair]) -> Vec<f64> {
    let b = &*model.backend;
    let batch = Batch::new(b, pack_pairs(pairs.iter().copied(), true));
    let n = batch.forest.responses.len();
    let cluster = [Cluster::measured((0..n).collect())];
    let forward = model.forward(&batch, Keep::BlockInputs);
    let (plan, ones) = unit_plan(b, &batch);
    let params = &model.params;
    let mut sink = GramSink::new(params, |p| params.is_trainable(p), &cluster, None);
    model.backward(&batch, &plan, forward, &ones, &mut sink);
    sink.grams[0].matrix()
}
