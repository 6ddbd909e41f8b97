//! Random draws: a stream of its own for every instance, so that one can be made again without the others.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator of instance `index` of family `family` under the check's seed.
pub fn generator(seed: u64, family: u32, index: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(family) << 32 | index as u64);
    rng
}

/// A standard normal number (Box–Muller).
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// `n` normal numbers of standard deviation `std`.
pub fn normals(rng: &mut ChaCha8Rng, n: usize, std: f64) -> Vec<f64> {
    (0..n).map(|_| std * normal(rng)).collect()
}

/// A number between `low` and `high`, uniform in its logarithm.
pub fn log_uniform(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    (low.ln() + (high / low).ln() * rng.random::<f64>()).exp()
}

/// `n` token ids below `vocab`.
pub fn tokens(rng: &mut ChaCha8Rng, n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|_| rng.random_range(0..vocab) as u32).collect()
}

/// Two different token ids below `vocab`.
pub fn two_tokens(rng: &mut ChaCha8Rng, vocab: usize) -> (u32, u32) {
    let chosen = rng.random_range(0..vocab);
    let step = rng.random_range(1..vocab);
    (chosen as u32, ((chosen + step) % vocab) as u32)
}

/// Chosen and rejected token, and M − 2 further ones: the support of a prediction, `vocab` entries.
pub fn support(rng: &mut ChaCha8Rng, vocab: usize, size: usize, members: &[u32]) -> Vec<bool> {
    let mut inside = vec![false; vocab];
    members.iter().for_each(|&t| inside[t as usize] = true);
    let mut missing = size.saturating_sub(members.len());
    while missing > 0 {
        let t = rng.random_range(0..vocab);
        if !std::mem::replace(&mut inside[t], true) {
            missing -= 1;
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_drawn_alike_without_the_others() {
        let draw = |index| normal(&mut generator(7, 1, index));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert_ne!(draw(3), normal(&mut generator(7, 2, 3)));
    }

    #[test]
    fn supports_hold_their_members() {
        let mut rng = generator(1, 1, 1);
        for vocab in 2..9 {
            let (w, l) = two_tokens(&mut rng, vocab);
            assert_ne!(w, l);
            let inside = support(&mut rng, vocab, 2.max(vocab / 2), &[w, l]);
            assert!(inside[w as usize] && inside[l as usize]);
            assert_eq!(inside.iter().filter(|x| **x).count(), 2.max(vocab / 2));
        }
    }
}
