//! From tokenised examples to packed batches.

use unbraid_model::{Forest, Sequence};
use unbraid_preference::{SftSequence, TokenizedPair};

/// One tree per pair: response 2i is pair i's chosen, 2i + 1 its rejected completion. `share` stores a common
/// prompt once; without it both are computed apart (the slow twin that tests compare against).
pub fn pack_pairs<'a>(pairs: impl IntoIterator<Item = &'a TokenizedPair>, share: bool) -> Forest {
    let mut forest = Forest::new();
    for pair in pairs {
        let sequences = [&pair.chosen, &pair.rejected].map(|s| Sequence {
            ids: &s.ids,
            scored_from: s.prompt_len,
        });
        forest.add_tree(&sequences, share);
    }
    forest
}

/// One tree per sequence; sequences never see each other, however they are batched.
pub fn pack_sequences<'a>(sequences: impl IntoIterator<Item = &'a SftSequence>) -> Forest {
    let mut forest = Forest::new();
    for s in sequences {
        let sequence = Sequence {
            ids: &s.ids,
            scored_from: s.loss_mask_start,
        };
        forest.add_tree(&[sequence], true);
    }
    forest
}

/// A seed for one micro-batch of one optimizer step, so that a resumed run draws what an uninterrupted one does.
pub(crate) fn draw_seed(seed: u64, step: u64, micro_batch: usize) -> u64 {
    // SplitMix64's finaliser (Steele et al. 2014): neighbouring steps get unrelated seeds.
    let mut z = seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (micro_batch as u64) << 48;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
