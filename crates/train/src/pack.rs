//! From tokenised examples to packed batches.

use unbraid_model::{Forest, Sequence};
use unbraid_preference::{SftSequence, TokenizedPair, TokenizedSequence};

/// A micro-batch of preference pairs is computed in runs of at most so many rows where its objective allows it: enough
/// rows for the matrix products to run at full rate, and a bound on what a pass keeps.
pub const ROWS_AT_ONCE: usize = 768;

/// Consecutive runs of `items` whose `rows` add up to at most `most`; an item that alone has more is a run of its own.
/// Runs are about equally long.
pub(crate) fn runs_within<T>(items: &[T], most: usize, rows: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let total: usize = items.iter().map(&rows).sum();
    let even = total.div_ceil(total.div_ceil(most).max(1));
    let (mut runs, mut start, mut held) = (Vec::new(), 0, 0);
    for (i, item) in items.iter().enumerate() {
        let own = rows(item);
        // Past an even share a run ends where it overshoots least, and always before the limit.
        let overshoots = held + own > even && held + own / 2 >= even;
        if i > start && (held + own > most || overshoots) {
            runs.push(&items[start..i]);
            (start, held) = (i, 0);
        }
        held += own;
    }
    if start < items.len() {
        runs.push(&items[start..]);
    }
    runs
}

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

/// One tree per completion with its prompt; they never see each other.
pub(crate) fn pack_completions<'a>(
    sequences: impl IntoIterator<Item = &'a TokenizedSequence>,
) -> Forest {
    let mut forest = Forest::new();
    for s in sequences {
        let sequence = Sequence {
            ids: &s.ids,
            scored_from: s.prompt_len,
        };
        forest.add_tree(&[sequence], true);
    }
    forest
}

/// How many of the first sequences make a batch of about `most` rows: at least one.
pub(crate) fn fitting<'a>(
    sequences: impl IntoIterator<Item = &'a TokenizedSequence>,
    most: usize,
) -> usize {
    let mut rows = 0;
    let fits = sequences.into_iter().take_while(|s| {
        rows += s.ids.len();
        rows <= most
    });
    fits.count().max(1)
}

/// A seed for one micro-batch of one optimizer step, so that a resumed run draws what an uninterrupted one does.
pub(crate) fn draw_seed(seed: u64, step: u64, micro_batch: usize) -> u64 {
    // SplitMix64's finaliser (Steele et al. 2014): neighbouring steps get unrelated seeds.
    let mut z = seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (micro_batch as u64) << 48;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::runs_within;
    use proptest::prelude::*;

    #[test]
    fn runs_are_even_and_within_the_limit() {
        let runs = |rows: &[usize]| {
            runs_within(rows, 10, |&r| r)
                .into_iter()
                .map(<[_]>::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(runs(&[]), [0usize; 0]);
        assert_eq!(runs(&[4, 4]), [2]);
        assert_eq!(runs(&[4, 4, 4, 4]), [2, 2]);
        assert_eq!(runs(&[3, 3, 3, 3, 3]), [3, 2]);
        assert_eq!(runs(&[30, 1, 1]), [1, 2]);
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_run(rows in prop::collection::vec(0usize..20, 0..20)) {
            let runs = runs_within(&rows, 25, |&r| r);
            prop_assert_eq!(&runs.concat(), &rows);
            prop_assert!(runs.iter().all(|run| run.len() == 1 || run.iter().sum::<usize>() <= 25));
        }
    }
}
