//! Theorem 3: learnable logits, the responses differ at position m and share everything else; s_w and s_l are the two
//! predictions behind the differing token.
//!
//! One DPO step leaves the tokens before m alone (12), raises the chosen one at m (13) and, if the chosen context makes the
//! shared suffix token no less and every other token no more likely, lowers the suffix (14): the gradient pulls the shared
//! logits from s_l towards s_w, away from what the chosen context already says. A longer suffix falls further in sum.

use crate::closed;
use crate::dpo::{Changes, NATS};
use crate::logit_instances::{Contexts, adversarial, draw, random};
use crate::logits::{LogitPair, Table};
use crate::random::generator;
use crate::record::{Claim, Relaxed};
use crate::tally::{Described, Outcome, SignClaim, Step, Value};
use crate::{Backends, broken};
use rayon::prelude::*;
use unbraid_tensor::Backend;

const THEOREM: &str = "Theorem 3";
/// Stream of the random instances.
const FAMILY: u32 = 3;
/// δ in f64, where δ² ≈ 10⁻¹².
const DELTA: f64 = 1.0 / (1 << 20) as f64;
/// δ in f32, where δ² ≈ 2·10⁻⁷.
const DELTA_FAST: f64 = 1.0 / (1 << 11) as f64;

const fn described(
    id: &'static str,
    source: &'static str,
    quantity: &'static str,
    predicted: &'static str,
    sign: Option<SignClaim>,
) -> Described {
    Described {
        id,
        theorem: THEOREM,
        source,
        quantity,
        predicted,
        relative_to: "ηβc",
        unit: "1",
        sign,
    }
}

/// The statements, in the order of an outcome's values.
pub const STATEMENTS: [Described; 6] = [
    described(
        "theorem3.before",
        "eq. (12)",
        "Δ log π(token i < m) per ηβc",
        "0",
        None,
    ),
    described(
        "theorem3.differing_w",
        "eq. (13)",
        "Δ log π(chosen token m) per ηβc",
        "1 − s_j + s_k",
        Some(SignClaim::Positive),
    ),
    described(
        "theorem3.differing_l",
        "as eq. (13)",
        "Δ log π(rejected token m) per ηβc",
        "−(1 − s_k + s_j)",
        Some(SignClaim::Negative),
    ),
    described(
        "theorem3.suffix_w",
        "eq. (14)",
        "Δ log π(chosen token i > m) per ηβc",
        "(1 − s_w[y])(s_l[y] − s_w[y]) − Σ_{v≠y} s_w[v](s_l[v] − s_w[v])",
        Some(SignClaim::NotPositive),
    ),
    described(
        "theorem3.suffix_l",
        "as eq. (14)",
        "Δ log π(rejected token i > m) per ηβc",
        "(1 − s_l[y])(s_l[y] − s_w[y]) − Σ_{v≠y} s_l[v](s_l[v] − s_w[v])",
        Some(SignClaim::NotPositive),
    ),
    described(
        "theorem3.whole_w",
        "sum of eq. (12) to (14)",
        "Δa_w per ηβc",
        "sum over the tokens",
        None,
    ),
];

/// The foretold changes of both responses, token by token, per ηβc.
pub fn predicted(x: &LogitPair) -> Changes {
    let exp = |z: &[f64]| closed::softmax(z);
    let (s, (j, k)) = (exp(&x.differing), x.tokens);
    let side = |at_m: f64, behind: fn(&[f64], &[f64], usize) -> f64| {
        let suffix = x
            .suffix
            .iter()
            .map(|t| behind(&exp(&t.chosen), &exp(&t.rejected), t.token));
        let before = x.prefix.iter().map(|_| 0.0);
        before.chain([at_m]).chain(suffix).collect()
    };
    Changes {
        chosen: side(closed::differing(&s, j, k), closed::suffix),
        rejected: side(-closed::differing(&s, k, j), closed::suffix_rejected),
    }
}

/// Theorem 3 on one instance, in both precisions, with real steps in f64.
fn outcome(backends: &Backends, name: String, x: &LogitPair, random: bool) -> Outcome {
    let (predicted, m) = (predicted(x), x.prefix.len());
    let exact = Table::new(&*backends.exact, x, DELTA);
    let (computed, fast) = (
        exact.first_order(),
        Table::new(&*backends.fast, x, DELTA_FAST).first_order(),
    );
    let (weight, margin) = (
        x.dpo.weight(),
        predicted.chosen_sum() - predicted.rejected_sum(),
    );
    let rates = NATS.map(|nats| nats / (weight * margin));
    let taken = rates.map(|rate| exact.step(rate));
    let value = |of: &dyn Fn(&Changes) -> f64| {
        let step = |i: usize| Step {
            first_order: rates[i] * weight * of(&predicted),
            realised: of(&taken[i]),
        };
        let steps = Some(std::array::from_fn(step));
        let (predicted, computed, fast) = (of(&predicted), of(&computed), of(&fast));
        Value {
            predicted,
            computed,
            fast,
            scale: 1.0,
            unit: 1.0,
            steps,
        }
    };
    let chosen = |i: usize| value(&|c: &Changes| c.chosen[i]);
    let rejected = |i: usize| value(&|c: &Changes| c.rejected[i]);
    let behind = m + 1..m + 1 + x.suffix.len();
    let values = vec![
        (0..m).flat_map(|i| [chosen(i), rejected(i)]).collect(),
        vec![chosen(m)],
        vec![rejected(m)],
        behind.clone().map(chosen).collect(),
        behind.map(rejected).collect(),
        vec![Value {
            scale: 1.0 + x.suffix.len() as f64,
            ..value(&Changes::chosen_sum)
        }],
    ];
    Outcome {
        name,
        random,
        values,
    }
}

/// All instances.
pub fn outcomes(backends: &Backends, seed: u64, n: usize) -> Vec<Outcome> {
    let random = random(seed, FAMILY, n, Contexts::Condition)
        .into_iter()
        .enumerate();
    let random = random.map(|(i, x)| (format!("random {i}"), x, true));
    let adversarial = adversarial(seed, FAMILY + 100)
        .into_iter()
        .map(|(name, x)| (name.to_owned(), x, false));
    let all: Vec<_> = random.chain(adversarial).collect();
    all.into_par_iter()
        .map(|(name, x, random)| outcome(backends, name, &x, random))
        .collect()
}

/// Mean over instances of Δa_w per ηβc, foretold and computed, and the share that falls, with `suffix` tokens.
pub fn curve_row(backends: &Backends, seed: u64, n: usize, suffix: usize) -> (f64, f64, f64) {
    let one = |i: usize| {
        // The same differing token at every length: only the suffix grows.
        let x = draw(
            &mut generator(seed, FAMILY + 300, i),
            2,
            suffix,
            Contexts::Condition,
        );
        let computed = Table::new(&*backends.exact, &x, DELTA).first_order();
        (predicted(&x).chosen_sum(), computed.chosen_sum())
    };
    let found: Vec<(f64, f64)> = (0..n).into_par_iter().map(one).collect();
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| found.iter().map(of).sum::<f64>() / n as f64;
    (
        mean(&|x| x.0),
        mean(&|x| x.1),
        crate::share(&found, |x| x.1 < 0.0),
    )
}

/// First-order and realised changes of a chosen response's suffix tokens and of the whole.
struct Loose {
    suffix: Vec<f64>,
    realised: Vec<f64>,
    whole: f64,
    whole_realised: f64,
    error: f64,
}

fn loose<B: Backend>(backend: &B, x: &LogitPair) -> Loose {
    let (table, predicted, m) = (Table::new(backend, x, DELTA), predicted(x), x.prefix.len());
    let first = table.first_order();
    let margin = predicted.chosen_sum() - predicted.rejected_sum();
    let taken = table.step(NATS[NATS.len() - 1] / (x.dpo.weight() * margin));
    let errors = first
        .chosen
        .iter()
        .zip(&predicted.chosen)
        .map(|(a, b)| (a - b).abs());
    Loose {
        error: errors.fold(0.0, f64::max),
        whole: first.chosen_sum(),
        whole_realised: taken.chosen_sum(),
        suffix: first.chosen[m + 1..].to_vec(),
        realised: taken.chosen[m + 1..].to_vec(),
    }
}

/// Claims on tokens of a suffix, its sum and the whole response, with what a real step did.
pub fn suffix_claims(
    tokens: &[(f64, f64)],
    sums: &[(f64, f64)],
    wholes: &[(f64, f64)],
) -> Vec<Claim> {
    let claim = |claim, all: &[(f64, f64)], falls: bool| {
        let as_claimed = |x: f64| if falls { x <= 0.0 } else { x > 0.0 };
        Claim {
            broken_realised: Some(broken("", all, |x| as_claimed(x.1)).broken),
            ..broken(claim, all, |x| as_claimed(x.0))
        }
    };
    vec![
        claim("a suffix token of the chosen response falls", tokens, true),
        claim("its suffix falls in sum", sums, true),
        claim("chosen rises", wholes, false),
    ]
}

/// What happens without the condition on s_w and s_l.
pub fn relaxed(backends: &Backends, seed: u64, n: usize) -> Vec<Relaxed> {
    let row = |id, assumption, instead, contexts, family| {
        let all = random(seed, family, n, contexts);
        let found: Vec<Loose> = all.par_iter().map(|x| loose(&*backends.exact, x)).collect();
        let tokens = found
            .iter()
            .flat_map(|x| x.suffix.iter().copied().zip(x.realised.iter().copied()));
        let sums = found
            .iter()
            .map(|x| (x.suffix.iter().sum(), x.realised.iter().sum()));
        let wholes = found.iter().map(|x| (x.whole, x.whole_realised));
        let (tokens, sums, wholes): (Vec<_>, Vec<_>, Vec<_>) =
            (tokens.collect(), sums.collect(), wholes.collect());
        Relaxed {
            id,
            theorem: THEOREM,
            assumption,
            instead,
            instances: n,
            closed_form: Some("eq. (12) to (14), signs aside"),
            worst_error: Some(found.iter().map(|x| x.error).fold(0.0, f64::max)),
            claims: suffix_claims(&tokens, &sums, &wholes),
        }
    };
    let condition = "s_w[y] ≥ s_l[y], s_w[v] ≤ s_l[v] elsewhere";
    vec![
        row(
            "theorem3.kept",
            "none",
            "the condition kept, 1 to 32 suffix tokens",
            Contexts::Condition,
            FAMILY,
        ),
        row(
            "theorem3.first_half",
            condition,
            "s_w[y] ≥ s_l[y] alone",
            Contexts::FirstHalf,
            FAMILY + 200,
        ),
        row(
            "theorem3.independent",
            condition,
            "s_w and s_l drawn independently",
            Contexts::Independent,
            FAMILY + 201,
        ),
        row(
            "theorem3.reversed",
            condition,
            "s_w and s_l exchanged",
            Contexts::Reversed,
            FAMILY + 202,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpo::Dpo;
    use crate::logits::SuffixToken;

    #[test]
    fn by_hand() {
        // V = 2, no prefix, s = (½, ½) at m, j = 0, k = 1: 1 and −1. Suffix y = 0, s_w = (0.8, 0.2), s_l = (½, ½): −0.12, −0.3.
        let log = |s: [f64; 2]| s.map(f64::ln).to_vec();
        let token = SuffixToken {
            token: 0,
            chosen: log([0.8, 0.2]),
            rejected: log([0.5, 0.5]),
            theta: vec![0.7, -0.1],
        };
        let x = LogitPair {
            vocab: 2,
            prefix: Vec::new(),
            differing: vec![0.0, 0.0],
            tokens: (0, 1),
            suffix: vec![token],
            dpo: Dpo {
                beta: 0.5,
                margin: 0.0,
            },
        };
        let close = |a: &[f64], b: &[f64]| {
            assert!(
                a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-10),
                "{a:?} {b:?}"
            );
        };
        let foretold = predicted(&x);
        close(&foretold.chosen, &[1.0, -0.12]);
        close(&foretold.rejected, &[-1.0, -0.3]);
        let table = Table::new(&unbraid_tensor::NaiveBackend, &x, DELTA);
        let computed = table.first_order();
        close(&computed.chosen, &foretold.chosen);
        close(&computed.rejected, &foretold.rejected);
        // β = ½, margin 0: βc = ¼. A rate of 4·10⁻⁵ moves log s_0 at m by 10⁻⁵.
        assert!((table.step(4e-5).chosen[0] - 1e-5).abs() < 1e-9);
    }
}
