//! NumPy's `default_rng(seed).permutation(n)`, which `datasets` shuffles and splits with.
//!
//! - Seeding: `SeedSequence` hashes the seed into a pool of four words and draws 256 bits from it (O'Neill's seed_seq
//!   with the faults removed, in NumPy since 1.17).
//! - Generator: PCG64 (XSL-RR 128/64), state' = 0x2360ED051FC65DA44385DF649FCCF645 · state + increment; 32-bit numbers are the low, then the
//!   high half of one of 64 bits.
//! - Permutation: Fisher–Yates from the end, j drawn from 0 ..= i by masking and rejecting.
//!
//! Numbers as in NumPy 2.4. Here and not from a crate, because each crate seeds and halves its numbers in a way of its own.
//! Tested here against NumPy's own numbers and in `tests/mixture.rs` against `datasets`.

/// The order that `default_rng(seed).permutation(len)` gives.
pub(crate) fn permutation(seed: u64, len: usize) -> Vec<usize> {
    let mut random = Pcg64::new(seed);
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, random.up_to(i as u64) as usize);
    }
    order
}

const POOL: usize = 4;

/// The first `N` words of `SeedSequence(seed).generate_state`.
fn seed_words<const N: usize>(seed: u64) -> [u32; N] {
    const INIT_A: u32 = 0x43b0_d7e5;
    const MULT_A: u32 = 0x931e_8875;
    const INIT_B: u32 = 0x8b51_f9dd;
    const MULT_B: u32 = 0x58f3_8ded;
    const MIX_L: u32 = 0xca01_f9dd;
    const MIX_R: u32 = 0x4973_f715;
    let entropy = [seed as u32, (seed >> 32) as u32];
    let mut constant = INIT_A;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(MULT_A);
        let value = value.wrapping_mul(constant);
        value ^ (value >> 16)
    };
    let mix = |x: u32, y: u32| {
        let value = MIX_L.wrapping_mul(x).wrapping_sub(MIX_R.wrapping_mul(y));
        value ^ (value >> 16)
    };
    let mut pool = [0; POOL];
    for (at, word) in pool.iter_mut().enumerate() {
        *word = hash(entropy.get(at).copied().unwrap_or(0));
    }
    for from in 0..POOL {
        for to in (0..POOL).filter(|&to| to != from) {
            pool[to] = mix(pool[to], hash(pool[from]));
        }
    }
    let mut constant = INIT_B;
    std::array::from_fn(|at| {
        let value = pool[at % POOL] ^ constant;
        constant = constant.wrapping_mul(MULT_B);
        let value = value.wrapping_mul(constant);
        value ^ (value >> 16)
    })
}

struct Pcg64 {
    state: u128,
    increment: u128,
    /// The high half of the last number, where only its low half was used.
    half: Option<u32>,
}

impl Pcg64 {
    fn new(seed: u64) -> Self {
        let words: [u32; 8] = seed_words(seed);
        let long = |at: usize| u128::from(words[2 * at]) | u128::from(words[2 * at + 1]) << 32;
        let (start, stream) = (long(0) << 64 | long(1), long(2) << 64 | long(3));
        let mut random = Pcg64 {
            state: 0,
            increment: stream << 1 | 1,
            half: None,
        };
        random.step();
        random.state = random.state.wrapping_add(start);
        random.step();
        random
    }

    fn step(&mut self) {
        const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        let state = self.state.wrapping_mul(MULTIPLIER);
        self.state = state.wrapping_add(self.increment);
    }

    fn next64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next32(&mut self) -> u32 {
        if let Some(half) = self.half.take() {
            return half;
        }
        let number = self.next64();
        self.half = Some((number >> 32) as u32);
        number as u32
    }

    /// A number from 0 up to and with `most`: draws under the next power of two, the first that fits.
    fn up_to(&mut self, most: u64) -> u64 {
        let mask = u64::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let draw = match u32::try_from(most) {
                Ok(_) => u64::from(self.next32()),
                Err(_) => self.next64(),
            };
            if draw & mask <= most {
                return draw & mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.random.default_rng(seed).permutation(n)` of NumPy 2.4.6.
    #[test]
    fn permutations_are_numpys() {
        assert_eq!(permutation(0, 10), [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]);
        assert_eq!(permutation(42, 12), [0, 7, 6, 9, 11, 3, 5, 2, 4, 10, 1, 8]);
        assert_eq!(permutation(7, 1), [0]);
        assert!(permutation(7, 0).is_empty());
        // A seed of two words.
        assert_eq!(
            permutation(123_456_789_012_345, 9),
            [5, 2, 7, 3, 0, 8, 4, 1, 6]
        );
        // Long enough for draws that are rejected.
        let long = permutation(42, 100_000);
        assert_eq!(long[..5], [45262, 49850, 30394, 90177, 95569]);
        assert_eq!(long[99_995..], [34957, 70338, 5668, 22113, 75400]);
        let sum: usize = long.iter().enumerate().map(|(at, value)| at * value).sum();
        assert_eq!(sum, 249_152_033_752_609);
    }
}
