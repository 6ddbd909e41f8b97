//! Which elements dropout keeps: a stateless function of (seed, row, column), the same on every backend.
//!
//! Seed and row are mixed to 64 bits (SplitMix64, Steele, Lea & Flood 2014). Column j of the row is decided by a number of 32
//! bits mixed from the lower half and j, with the upper half added midway (the two multiplications of Wellons's hash
//! prospector, 2018): twice as many to a vector as of 64, and a third of the operations. Any element can be asked for alone, so a
//! backward recomputes the mask instead of keeping it, in whatever order and for whatever rows it needs.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser: a bijection whose every output bit depends on every input bit.
#[inline(always)]
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The mask of one operation.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    seed: u64,
    threshold: u32,
}

impl Mask {
    /// Drops with probability `p`, 0 ≤ p < 1, to a resolution of 2⁻³².
    pub(crate) fn new(seed: u64, p: f64) -> Self {
        assert!(
            (0.0..1.0).contains(&p),
            "dropout probability {p} is outside 0..1"
        );
        Mask {
            seed: mix(seed.wrapping_add(GOLDEN)),
            threshold: (p * 4_294_967_296.0) as u32,
        }
    }

    /// What the columns of a row are mixed with.
    #[inline(always)]
    pub(crate) fn row(self, row: usize) -> u64 {
        mix(self.seed ^ (row as u64).wrapping_mul(GOLDEN))
    }

    /// Whether column `j` of the row that gave `row` is kept.
    #[inline(always)]
    pub(crate) fn keeps(self, row: u64, j: usize) -> bool {
        let (low, high) = (row as u32, (row >> 32) as u32);
        let x = low.wrapping_add((j as u32).wrapping_mul((GOLDEN >> 32) as u32));
        let x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad).wrapping_add(high);
        let x = (x ^ (x >> 15)).wrapping_mul(0xd35a_2d97);
        x ^ (x >> 15) >= self.threshold
    }
}
