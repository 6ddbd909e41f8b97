//! Theorem 1: one token, the last layer learns, the prediction is uniform on M of V tokens, chosen and rejected among them.
//!
//! The hidden state h is the final one of a real prompt in a real model whose head is rewritten so that W h is uniform. The
//! head's group of the measured inner products is then the theorem's setting exactly: the layers below are there, but do not
//! learn. Without uniformity Δa_w = ηβc‖h‖²(1 − s_j + s_k) is still never negative, whatever s: what the assumption buys is
//! the sign of ⟨g_w, g_l⟩, not the direction of the log-probs.

use crate::closed;
use crate::completion::{Completion, GAP, Measured, measure};
use crate::dpo::{Descent, Dpo, NATS, rate};
use crate::random::{generator, support};
use crate::record::{Claim, Relaxed};
use crate::tally::{Described, Outcome, SignClaim, Step, Value};
use crate::tiny::Shape;
use crate::{Backends, broken};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use unbraid_objective::condition::predicted_change;

const THEOREM: &str = "Theorem 1";
/// Stream of the random instances.
const FAMILY: u32 = 1;

const fn described(
    id: &'static str,
    source: &'static str,
    quantity: &'static str,
    predicted: &'static str,
    sign: Option<SignClaim>,
) -> Described {
    let (relative_to, unit) = ("|predicted|", "‖h‖²");
    Described {
        id,
        theorem: THEOREM,
        source,
        quantity,
        predicted,
        relative_to,
        unit,
        sign,
    }
}

/// The statements, in the order of an outcome's values.
pub const STATEMENTS: [Described; 5] = [
    described(
        "theorem1.inner",
        "Theorem 1",
        "⟨g_w, g_l⟩",
        "−‖h‖²/M",
        Some(SignClaim::Negative),
    ),
    described(
        "theorem1.norm_w",
        "Theorem 1",
        "‖g_w‖²",
        "(M−1)/M · ‖h‖²",
        Some(SignClaim::Positive),
    ),
    described(
        "theorem1.norm_l",
        "Theorem 1",
        "‖g_l‖²",
        "(M−1)/M · ‖h‖²",
        Some(SignClaim::Positive),
    ),
    described(
        "theorem1.change_w",
        "Theorem 1 in eq. (7)",
        "Δa_w per ηβc",
        "‖h‖²",
        Some(SignClaim::Positive),
    ),
    described(
        "theorem1.change_l",
        "Theorem 1 in eq. (8)",
        "Δa_l per ηβc",
        "−‖h‖²",
        Some(SignClaim::Negative),
    ),
];

/// Instances that a random draw would hardly find.
pub fn adversarial(seed: u64) -> Vec<Completion> {
    let sized = |i: usize, name: &str, sizes| {
        Completion::draw_sized(&mut generator(seed, FAMILY + 100, i), name.into(), sizes, 0)
    };
    let mut all = vec![
        sized(0, "M = V = 2", (2, 2)),
        sized(1, "M = 2 of V = 1000", (1000, 2)),
        sized(2, "M = V = 1000", (1000, 1000)),
    ];
    let mut change = |i: usize, name: &str, change: &dyn Fn(&mut Completion)| {
        let mut x = sized(i, name, (12, 5));
        change(&mut x);
        all.push(x);
    };
    change(3, "hidden state of norm 10^4", &|x| x.tiny.h_scale = 1e4);
    change(4, "hidden state of norm 10^-4", &|x| x.tiny.h_scale = 1e-4);
    change(5, "prompt of one token", &|x| x.prompt.truncate(1));
    change(6, "prompt of the chosen token alone", &|x| {
        x.prompt = vec![x.chosen; 20]
    });
    change(7, "prompt that ends with the rejected token", &|x| {
        x.prompt.push(x.rejected)
    });
    change(8, "margin far past the loss, βh = 30", &|x| {
        x.dpo = Dpo {
            beta: 0.1,
            margin: 300.0,
        }
    });
    change(9, "margin far behind, βh = −30", &|x| {
        x.dpo = Dpo {
            beta: 0.1,
            margin: -300.0,
        }
    });
    change(10, "all but zero weights", &|x| x.tiny.std = 1e-3);
    change(11, "weights of standard deviation 3", &|x| x.tiny.std = 3.0);
    change(12, "Llama of width 4", &|x| {
        (x.tiny.shape, x.tiny.width) = (Shape::Llama, 4)
    });
    all
}

/// Theorem 1 on one instance, in both precisions, with real steps of the head in f64.
pub fn outcome(backends: &Backends, x: &Completion, random: bool) -> Outcome {
    let (mut model, h) = x.build(&backends.exact);
    let pair = x.pair();
    let h2 = closed::dot(&h, &h);
    let (inner, norm, change) = closed::theorem1(h2, x.support());
    let predicted = [inner, norm, norm, change, -change];
    let measured = measure(&model, &pair, &x.dpo);
    let exact = quantities(&measured, &x.dpo);
    let fast = quantities(&measure(&x.build(&backends.fast).0, &pair, &x.dpo), &x.dpo);
    let head = model.head();
    let mut descent = Descent::new(&model, &pair, measured.coefficients, |p| p == head);
    let steps = NATS.map(|nats| {
        let rate = rate(nats, measured.head, measured.coefficients);
        let changes = descent.step(&mut model, &pair, rate);
        let step = |realised, per: f64| Step {
            first_order: rate * x.dpo.weight() * per,
            realised,
        };
        [
            step(changes.chosen_sum(), change),
            step(changes.rejected_sum(), -change),
        ]
    });
    let value = |i: usize| {
        let steps = (i >= 3).then(|| steps.map(|of| of[i - 3]));
        let scale = predicted[i].abs();
        vec![Value {
            predicted: predicted[i],
            computed: exact[i],
            fast: fast[i],
            scale,
            unit: h2,
            steps,
        }]
    };
    Outcome {
        name: x.name.clone(),
        random,
        values: (0..5).map(value).collect(),
    }
}

/// The statements' quantities as measured.
fn quantities(measured: &Measured, dpo: &Dpo) -> [f64; 5] {
    let (d_w, d_l) = measured.coefficients;
    let (w, l) = predicted_change(measured.head, d_w, d_l);
    let gram = measured.head;
    [
        gram.wl,
        gram.ww,
        gram.ll,
        w / dpo.weight(),
        l / dpo.weight(),
    ]
}

/// All instances.
pub fn outcomes(backends: &Backends, seed: u64, n: usize) -> Vec<Outcome> {
    let random = Completion::random(seed, FAMILY, n, 0)
        .into_iter()
        .map(|x| (x, true));
    let all: Vec<_> = random
        .chain(adversarial(seed).into_iter().map(|x| (x, false)))
        .collect();
    all.par_iter()
        .map(|(x, random)| outcome(backends, x, *random))
        .collect()
}

/// One instance without an assumption: the inner product and its closed form over ‖h‖², the two first-order changes, and
/// those of a real step.
struct Loose {
    inner: f64,
    closed: f64,
    changes: (f64, f64),
    realised: (f64, f64),
}

fn loose(backends: &Backends, x: &Completion, all_parameters: bool) -> Loose {
    let (mut model, h) = x.build(&backends.exact);
    let (pair, h2, (j, k)) = (x.pair(), closed::dot(&h, &h), x.last());
    let measured = measure(&model, &pair, &x.dpo);
    let gram = if all_parameters {
        measured.all
    } else {
        measured.head
    };
    let (d_w, d_l) = measured.coefficients;
    let head = model.head();
    let mut descent = Descent::new(&model, &pair, (d_w, d_l), |p| all_parameters || p == head);
    let smallest = NATS[NATS.len() - 1];
    let taken = descent.step(&mut model, &pair, rate(smallest, gram, (d_w, d_l)));
    Loose {
        inner: gram.wl / h2,
        closed: closed::token_inner(&x.prediction(), j, k),
        changes: predicted_change(gram, d_w, d_l),
        realised: (taken.chosen_sum(), taken.rejected_sum()),
    }
}

/// A change of a log-prob within this of 0 is rounding, nats.
const STILL: f64 = 1e-12;

fn claims(found: &[Loose], inner: &'static str, holds: impl Fn(f64) -> bool) -> Vec<Claim> {
    let changes = |claim, of: fn(&Loose) -> f64, realised: fn(&Loose) -> f64| Claim {
        broken_realised: Some(broken("", found, |x| realised(x) >= -STILL).broken),
        ..broken(claim, found, |x| of(x) >= -STILL)
    };
    vec![
        broken(inner, found, |x| holds(x.inner)),
        changes("chosen does not fall", |x| x.changes.0, |x| x.realised.0),
        changes(
            "rejected does not rise",
            |x| -x.changes.1,
            |x| -x.realised.1,
        ),
    ]
}

/// What happens without each assumption.
pub fn relaxed(backends: &Backends, seed: u64, n: usize) -> Vec<Relaxed> {
    let base = Completion::random(seed, FAMILY, n, 0);
    let peaked = base.iter().cloned().enumerate();
    let peaked: Vec<Completion> = peaked
        .map(|(i, x)| x.peaked(&mut generator(seed, FAMILY + 200, i)))
        .collect();
    let outside = |both: bool| -> Vec<Completion> {
        let one = |i| {
            outside(
                &mut generator(seed, FAMILY + 300 + u32::from(both), i),
                both,
                i,
            )
        };
        (0..n).map(one).collect()
    };
    let run = |all: &[Completion], whole| -> Vec<Loose> {
        all.par_iter().map(|x| loose(backends, x, whole)).collect()
    };
    let worst = |found: &[Loose]| {
        let errors = found.iter().map(|x| (x.inner - x.closed).abs());
        Some(errors.fold(0.0, f64::max))
    };
    let row = |id, assumption, instead, closed_form, found: &[Loose], claims| Relaxed {
        id,
        theorem: THEOREM,
        assumption,
        instead,
        instances: found.len(),
        closed_form,
        worst_error: if closed_form.is_some() {
            worst(found)
        } else {
            None
        },
        claims,
    };
    let [peaked, one, both] = [peaked, outside(false), outside(true)].map(|all| run(&all, false));
    let whole = run(&base, true);
    let negative = "⟨g_w, g_l⟩ < 0";
    vec![
        row(
            "theorem1.peaked",
            "the prediction is uniform on M tokens",
            "softmax of normal logits, standard deviation 0.5 to 20",
            Some("‖h‖²(‖s‖² − s_j − s_k)"),
            &peaked,
            claims(&peaked, negative, |x| x < 0.0),
        ),
        row(
            "theorem1.rejected_outside",
            "the rejected token is among the M",
            "it is outside",
            Some("0"),
            &one,
            claims(&one, "|⟨g_w, g_l⟩| ≤ 10⁻⁹ ‖h‖²", |x| {
                x.abs() <= 1e-9
            }),
        ),
        row(
            "theorem1.both_outside",
            "both tokens are among the M",
            "both are outside",
            Some("+‖h‖²/M"),
            &both,
            claims(&both, negative, |x| x < 0.0),
        ),
        row(
            "theorem1.all_parameters",
            "the last layer alone learns",
            "every parameter of the transformer learns",
            None,
            &whole,
            claims(&whole, negative, |x| x < 0.0),
        ),
    ]
}

/// An instance whose rejected token, or both tokens, are outside the M.
fn outside(rng: &mut ChaCha8Rng, both: bool, i: usize) -> Completion {
    let vocab = rng.random_range(5..33);
    let mut x = Completion::draw_sized(rng, format!("random {i}"), (vocab, 2), 0);
    // At least two: a chosen token that is certain could not rise.
    let size = rng.random_range(2..=vocab - 2);
    let members: &[u32] = if both { &[] } else { &[x.chosen] };
    // Drawn among the others: the tokens that must stay outside are marked while it lasts.
    let banned = if both {
        vec![x.chosen, x.rejected]
    } else {
        vec![x.rejected]
    };
    let drawn = support(
        rng,
        vocab,
        size + banned.len(),
        &[&banned[..], members].concat(),
    );
    x.logits = drawn
        .iter()
        .enumerate()
        .map(|(t, &inside)| {
            if inside && !banned.contains(&(t as u32)) {
                0.0
            } else {
                -GAP
            }
        })
        .collect();
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::statements;

    #[test]
    fn a_wrong_formula_is_noticed_and_its_instance_named() {
        let backends = Backends::new();
        let mut outcomes = outcomes(&backends, 3, 4);
        assert!(statements(&STATEMENTS, &outcomes).iter().all(|s| s.holds));
        // −‖h‖²/(M + 1) instead of −‖h‖²/M.
        let (all, index) = (Completion::random(3, FAMILY, 4, 0), 2);
        let m = all[index].support() as f64;
        let value = &mut outcomes[index].values[0][0];
        value.predicted *= m / (m + 1.0);
        let statements = statements(&STATEMENTS, &outcomes);
        assert!(!statements[0].holds && statements[1].holds);
        assert_eq!(statements[0].f64.worst.instance, "random 2");
    }

    #[test]
    fn tokens_outside_are_outside() {
        for i in 0..20 {
            let x = outside(&mut generator(9, 1, i), true, i);
            assert!(x.support() >= 1);
            let s = x.prediction();
            assert!(s[x.chosen as usize] < 1e-20 && s[x.rejected as usize] < 1e-20);
            let x = outside(&mut generator(9, 2, i), false, i);
            let s = x.prediction();
            assert!(s[x.chosen as usize] > 0.01 && s[x.rejected as usize] < 1e-20);
        }
    }
}
