//! Instances of Theorem 3: pairs of learnable logits, and how the predictions behind the differing token are drawn.

use crate::closed;
use crate::dpo::Dpo;
use crate::logits::{LogitPair, SuffixToken};
use crate::random::{generator, log_uniform, normals, two_tokens};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// How the two predictions behind the differing token are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contexts {
    /// The theorem's condition: s_w[y] ≥ s_l[y] and s_w[v] ≤ s_l[v] elsewhere.
    Condition,
    /// Its first half alone: s_w[y] ≥ s_l[y], the rest any.
    FirstHalf,
    /// s_w and s_l have nothing to do with each other.
    Independent,
    /// The condition with the two contexts exchanged.
    Reversed,
}

/// A prediction with nothing below 10⁻¹⁶.
fn prediction(rng: &mut ChaCha8Rng, vocab: usize) -> Vec<f64> {
    let spread = log_uniform(rng, 0.3, 6.0);
    closed::softmax(&normals(rng, vocab, spread))
}

/// `s` with every entry but `y` scaled down at random, the rest given to `y`.
fn towards(rng: &mut ChaCha8Rng, s: &[f64], y: usize) -> Vec<f64> {
    let mut out: Vec<f64> = s.iter().map(|x| x * rng.random::<f64>()).collect();
    out[y] = 1.0
        - out
            .iter()
            .enumerate()
            .filter(|(v, _)| *v != y)
            .map(|(_, x)| x)
            .sum::<f64>();
    out
}

/// A suffix token with its two predictions.
pub fn suffix_token(rng: &mut ChaCha8Rng, vocab: usize, contexts: Contexts) -> SuffixToken {
    let token = rng.random_range(0..vocab);
    let other = prediction(rng, vocab);
    let mut own = match contexts {
        Contexts::Condition | Contexts::Reversed => towards(rng, &other, token),
        Contexts::FirstHalf | Contexts::Independent => prediction(rng, vocab),
    };
    let mut other = other;
    let exchange = match contexts {
        Contexts::FirstHalf => own[token] < other[token],
        Contexts::Reversed => true,
        _ => false,
    };
    if exchange {
        std::mem::swap(&mut own, &mut other);
    }
    from_predictions(rng, token, &own, &other)
}

fn from_predictions(rng: &mut ChaCha8Rng, token: usize, s_w: &[f64], s_l: &[f64]) -> SuffixToken {
    let log = |s: &[f64]| s.iter().map(|x| x.ln()).collect();
    SuffixToken {
        token,
        chosen: log(s_w),
        rejected: log(s_l),
        theta: normals(rng, s_w.len(), 1.0),
    }
}

/// A pair with so many tokens before and behind the differing one.
pub fn draw(rng: &mut ChaCha8Rng, prefix: usize, suffix: usize, contexts: Contexts) -> LogitPair {
    let vocab = rng.random_range(2..21);
    let spread = log_uniform(rng, 0.3, 6.0);
    LogitPair {
        vocab,
        prefix: (0..prefix)
            .map(|_| (rng.random_range(0..vocab), normals(rng, vocab, spread)))
            .collect(),
        differing: normals(rng, vocab, spread),
        tokens: {
            let (j, k) = two_tokens(rng, vocab);
            (j as usize, k as usize)
        },
        suffix: (0..suffix)
            .map(|_| suffix_token(rng, vocab, contexts))
            .collect(),
        dpo: Dpo::draw(rng),
    }
}

/// Random pairs: up to 16 tokens before, 1 to 32 behind.
pub fn random(seed: u64, family: u32, n: usize, contexts: Contexts) -> Vec<LogitPair> {
    let one = |i| {
        let rng = &mut generator(seed, family, i);
        let (prefix, suffix) = (rng.random_range(0..17), rng.random_range(1..33));
        draw(rng, prefix, suffix, contexts)
    };
    (0..n).map(one).collect()
}

/// Instances that a random draw would hardly find.
pub fn adversarial(seed: u64, family: u32) -> Vec<(&'static str, LogitPair)> {
    let mut all = Vec::new();
    let mut change = |i: usize, name, change: &dyn Fn(&mut LogitPair, &mut ChaCha8Rng)| {
        let rng = &mut generator(seed, family, i);
        let mut x = draw(rng, 3, 4, Contexts::Condition);
        change(&mut x, rng);
        all.push((name, x));
    };
    change(0, "equal contexts, s_w = s_l", &|x, _| {
        x.suffix
            .iter_mut()
            .for_each(|t| t.rejected = t.chosen.clone());
    });
    change(
        1,
        "suffix all but certain behind chosen, 1 − 10⁻⁹",
        &|x, rng| {
            let v = x.vocab;
            for t in &mut x.suffix {
                let rest = 1e-9 / v as f64;
                let mut s_w = vec![rest; v];
                s_w[t.token] = 1.0 - rest * (v - 1) as f64;
                *t = from_predictions(rng, t.token, &s_w, &vec![1.0 / v as f64; v]);
            }
        },
    );
    change(
        2,
        "suffix all but impossible behind rejected, 10⁻⁹",
        &|x, rng| {
            let v = x.vocab;
            for t in &mut x.suffix {
                let mut s_l = vec![(1.0 - 1e-9) / (v - 1) as f64; v];
                s_l[t.token] = 1e-9;
                *t = from_predictions(rng, t.token, &vec![1.0 / v as f64; v], &s_l);
            }
        },
    );
    change(3, "nothing before the differing token", &|x, _| {
        x.prefix.clear()
    });
    change(4, "no suffix", &|x, _| x.suffix.clear());
    change(5, "suffix of 32", &|x, rng| {
        x.suffix = (0..32)
            .map(|_| suffix_token(rng, x.vocab, Contexts::Condition))
            .collect();
    });
    change(6, "chosen token all but certain at m", &|x, _| {
        x.differing[x.tokens.0] += 20.0
    });
    change(7, "rejected token all but certain at m", &|x, _| {
        x.differing[x.tokens.1] += 20.0
    });
    change(8, "one suffix token, repeated", &|x, _| {
        x.suffix = vec![x.suffix[0].clone(); 16]
    });
    change(9, "margin far past the loss, βh = 30", &|x, _| {
        x.dpo = Dpo {
            beta: 0.1,
            margin: 300.0,
        }
    });
    let two = &mut generator(seed, family, 99);
    let mut binary = draw(two, 2, 0, Contexts::Condition);
    (binary.vocab, binary.tokens) = (2, (0, 1));
    binary
        .prefix
        .iter_mut()
        .for_each(|(y, z)| (*y, *z) = (*y % 2, vec![0.3, -0.4]));
    binary.differing = vec![0.1, 0.2];
    binary.suffix = (0..8)
        .map(|_| suffix_token(two, 2, Contexts::Condition))
        .collect();
    all.push(("V = 2", binary));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_as_asked_for() {
        let holds = |contexts, i| {
            let t = suffix_token(&mut generator(4, 9, i), 7, contexts);
            let (w, l) = (closed::softmax(&t.chosen), closed::softmax(&t.rejected));
            (
                closed::suffix_condition(&w, &l, t.token),
                w[t.token] >= l[t.token],
                closed::suffix(&w, &l, t.token),
            )
        };
        for i in 0..50 {
            let (condition, first_half, change) = holds(Contexts::Condition, i);
            assert!(condition && first_half && change <= 0.0);
            assert!(holds(Contexts::FirstHalf, i).1);
            assert!(holds(Contexts::Reversed, i).2 >= 0.0);
        }
    }
}
