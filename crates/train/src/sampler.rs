//! The order of training examples: random per epoch, as in the file, or similar lengths together.
//!
//! Every epoch's order depends on the seed and the epoch's number alone, so any step's examples can be named
//! in advance and after a resumed run.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// How an epoch is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingOrder {
    /// A new random permutation each epoch.
    Random,
    /// The order of the file.
    Sequential,
    /// Random runs of 50 batches, each sorted by length, longest first (as transformers groups them).
    GroupByLength,
}

/// Deals examples out to batches.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// How an epoch is ordered.
    pub order: SamplingOrder,
    /// Seed of every permutation.
    pub seed: u64,
    /// Examples in a micro-batch.
    pub batch: usize,
    /// Micro-batches in an optimizer step.
    pub accumulation: usize,
    /// Length of each example, in tokens.
    pub lengths: Vec<usize>,
}

impl Sampler {
    /// Examples in an optimizer step; as many as there are, where the product is larger than a number can be.
    pub fn per_step(&self) -> usize {
        self.batch.saturating_mul(self.accumulation).max(1)
    }

    /// Optimizer steps in an epoch; the last may be smaller.
    pub fn steps_per_epoch(&self) -> u64 {
        self.lengths.len().div_ceil(self.per_step()) as u64
    }

    /// Epochs gone after so many optimizer steps, counted in micro-batches as transformers does: the last step of an epoch may
    /// have fewer.
    pub fn epochs_after(&self, steps: u64) -> f64 {
        let Some(last) = steps.checked_sub(1) else {
            return 0.0;
        };
        let per_epoch = self.steps_per_epoch();
        let batches = self.lengths.len().div_ceil(self.batch);
        let taken = (last % per_epoch + 1) as usize * self.accumulation;
        (last / per_epoch) as f64 + taken.min(batches) as f64 / batches as f64
    }

    /// The order of one epoch.
    pub fn epoch(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        if self.order == SamplingOrder::Sequential {
            return order;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch);
        order.shuffle(&mut rng);
        if self.order == SamplingOrder::GroupByLength {
            for run in order.chunks_mut(self.batch.saturating_mul(50).max(1)) {
                run.sort_by_key(|&i| std::cmp::Reverse(self.lengths[i]));
            }
        }
        order
    }

    /// The micro-batches of 0-based optimizer step `step`.
    pub fn step(&self, step: u64) -> Vec<Vec<usize>> {
        let per_epoch = self.steps_per_epoch().max(1);
        let order = self.epoch(step / per_epoch);
        let per_step = self.per_step();
        // Below the number of examples, since it is below `per_epoch` full steps.
        let start = (step % per_epoch) as usize * per_step;
        let end = start.saturating_add(per_step).min(order.len());
        order[start..end]
            .chunks(self.batch.max(1))
            .map(<[usize]>::to_vec)
            .collect()
    }

    /// Every example that steps `0..total` touch, ascending.
    pub fn touched(&self, total: u64) -> Vec<usize> {
        if total >= self.steps_per_epoch() {
            return (0..self.lengths.len()).collect();
        }
        let mut first = self.epoch(0);
        first.truncate((total as usize).saturating_mul(self.per_step()));
        first.sort_unstable();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_larger_than_the_data_is_all_of_it_however_large() {
        for (batch, accumulation) in [
            (usize::MAX, 1),
            (usize::MAX, usize::MAX),
            (1 << 32, 1 << 32),
            (1, usize::MAX),
        ] {
            for order in [
                SamplingOrder::Sequential,
                SamplingOrder::Random,
                SamplingOrder::GroupByLength,
            ] {
                let sampler = Sampler {
                    order,
                    seed: 1,
                    batch,
                    accumulation,
                    lengths: vec![3, 1, 2],
                };
                assert_eq!(sampler.steps_per_epoch(), 1);
                let mut all = sampler.step(5).concat();
                all.sort_unstable();
                assert_eq!(all, [0, 1, 2]);
                assert_eq!(sampler.touched(u64::MAX), [0, 1, 2]);
            }
        }
        let none = Sampler {
            order: SamplingOrder::Random,
            seed: 1,
            batch: 4,
            accumulation: 1,
            lengths: vec![],
        };
        assert_eq!((none.steps_per_epoch(), none.step(0).len()), (0, 0));
    }

    fn sampler(order: SamplingOrder) -> Sampler {
        Sampler {
            order,
            seed: 7,
            batch: 2,
            accumulation: 2,
            lengths: (0..11).map(|i| (i * 37) % 11).collect(),
        }
    }

    #[test]
    fn every_epoch_deals_out_each_example_once() {
        for order in [
            SamplingOrder::Random,
            SamplingOrder::Sequential,
            SamplingOrder::GroupByLength,
        ] {
            let s = sampler(order);
            assert_eq!(s.steps_per_epoch(), 3);
            let mut seen: Vec<usize> = (0..3).flat_map(|k| s.step(k).concat()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..11).collect::<Vec<_>>());
        }
    }

    /// 11 examples in batches of 2: micro-batches 2 + 2 + 2, the last of one example.
    #[test]
    fn epochs_are_counted_in_micro_batches() {
        let mut s = sampler(SamplingOrder::Sequential);
        let epochs = [0, 1, 2, 3, 4].map(|steps| s.epochs_after(steps));
        assert_eq!(epochs, [0.0, 2.0 / 6.0, 4.0 / 6.0, 1.0, 1.0 + 2.0 / 6.0]);
        s.accumulation = 4; // 4 + 2 micro-batches
        assert_eq!(
            [1, 2, 3].map(|steps| s.epochs_after(steps)),
            [4.0 / 6.0, 1.0, 1.0 + 4.0 / 6.0]
        );
    }

    #[test]
    fn epochs_differ_and_repeat_exactly() {
        let s = sampler(SamplingOrder::Random);
        assert_ne!(s.epoch(0), s.epoch(1));
        assert_eq!(s.epoch(1), s.epoch(1));
        assert_eq!(
            s.step(2).concat().len(),
            3,
            "the last step of an epoch is smaller"
        );
        assert_eq!(s.touched(1).len(), 4);
    }

    #[test]
    fn grouping_sorts_within_a_run() {
        let s = sampler(SamplingOrder::GroupByLength);
        let lengths: Vec<usize> = s.epoch(0).iter().map(|&i| s.lengths[i]).collect();
        assert!(lengths.is_sorted_by(|a, b| a >= b));
    }
}
