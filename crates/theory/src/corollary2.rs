//! Corollary 2: the responses share K − 1 tokens and differ in the last, whose prediction is uniform on M tokens.
//!
//! The last token moves as Theorem 1 says because the shared prefix cancels in g_w − g_l. At the level of sequences
//! ⟨g_w, g_l⟩ gains ‖P‖² and two cross terms. ‖P‖² makes it positive and the cosine large, yet it stands in ‖g_w‖² as well
//! and cancels in the condition: Δa_w = ηβc(‖h_K‖² + h_KᵀPᵀ(e_j − e_k)). What breaks the condition is the second term, a sum
//! over the prefix that grows with its length and has no sign of its own: it makes both fall as often as both rise.

use crate::closed;
use crate::completion::{Completion, Measured, measure};
use crate::dpo::{Descent, Dpo, NATS, rate};
use crate::random::{generator, tokens};
use crate::record::{Claim, PairShares, PrefixRow, Relaxed};
use crate::tally::{Described, Outcome, SignClaim, Step, Value, median};
use crate::tiny::Shape;
use crate::{Backends, broken, share};
use rayon::prelude::*;
use unbraid_objective::Gram;
use unbraid_objective::condition::predicted_change;

const THEOREM: &str = "Corollary 2";
/// Stream of the random instances.
const FAMILY: u32 = 2;
/// Longest prefix of a random instance.
const LONGEST: usize = 16;
/// Prefix lengths of the curve.
const LENGTHS: [usize; 8] = [0, 1, 2, 4, 8, 16, 32, 64];

const fn last(
    id: &'static str,
    quantity: &'static str,
    predicted: &'static str,
    sign: SignClaim,
) -> Described {
    let (source, relative_to, unit) = ("Corollary 2", "|predicted|", "‖h_K‖²");
    Described {
        id,
        theorem: THEOREM,
        source,
        quantity,
        predicted,
        relative_to,
        unit,
        sign: Some(sign),
    }
}

const fn whole(id: &'static str, quantity: &'static str, predicted: &'static str) -> Described {
    let source = "Corollary 2, written out";
    let relative_to = "sum of the parts' magnitudes";
    Described {
        id,
        theorem: THEOREM,
        source,
        quantity,
        predicted,
        relative_to,
        unit: relative_to,
        sign: None,
    }
}

/// The statements, in the order of an outcome's values.
pub const STATEMENTS: [Described; 7] = [
    last(
        "corollary2.last_w",
        "Δ log π(chosen token K) per ηβc",
        "‖h_K‖²",
        SignClaim::Positive,
    ),
    last(
        "corollary2.last_l",
        "Δ log π(rejected token K) per ηβc",
        "−‖h_K‖²",
        SignClaim::Negative,
    ),
    whole(
        "corollary2.inner",
        "⟨g_w, g_l⟩",
        "‖P‖² − ‖h_K‖²/M + X_w + X_l",
    ),
    whole(
        "corollary2.norm_w",
        "‖g_w‖²",
        "‖P‖² + (M−1)/M · ‖h_K‖² + 2X_w",
    ),
    whole(
        "corollary2.norm_l",
        "‖g_l‖²",
        "‖P‖² + (M−1)/M · ‖h_K‖² + 2X_l",
    ),
    whole("corollary2.change_w", "Δa_w per ηβc", "‖h_K‖² + X_w − X_l"),
    whole("corollary2.change_l", "Δa_l per ηβc", "−‖h_K‖² + X_w − X_l"),
];

/// Instances that a random draw would hardly find.
pub fn adversarial(seed: u64) -> Vec<Completion> {
    let mut all = Vec::new();
    let mut change =
        |i: usize, name: &str, sizes: (usize, usize), change: &dyn Fn(&mut Completion)| {
            let rng = &mut generator(seed, FAMILY + 100, i);
            let mut x = Completion::draw_sized(rng, name.into(), sizes, LONGEST);
            change(&mut x);
            all.push(x);
        };
    let rest = |i: u64, n, v| tokens(&mut generator(i, FAMILY + 101, 0), n, v);
    change(0, "no prefix", (12, 5), &|x| x.prefix.clear());
    change(1, "prefix of 1", (12, 5), &|x| x.prefix.truncate(1));
    change(2, "prefix of 64", (12, 5), &|x| {
        x.prefix = rest(seed, 64, 12)
    });
    change(3, "prefix of the chosen token, 16 times", (12, 5), &|x| {
        x.prefix = vec![x.chosen; 16]
    });
    change(4, "prefix of the rejected token, 16 times", (12, 5), &|x| {
        x.prefix = vec![x.rejected; 16]
    });
    change(
        5,
        "one token throughout, equal hidden states",
        (12, 5),
        &|x| {
            x.tiny.shape = Shape::Llama;
            x.prompt = vec![x.chosen; 4];
            x.prefix = vec![x.chosen; 32];
        },
    );
    change(6, "the rejected token throughout", (12, 5), &|x| {
        x.tiny.shape = Shape::Llama;
        x.prompt = vec![x.rejected; 4];
        x.prefix = vec![x.rejected; 32];
    });
    change(7, "M = V = 2", (2, 2), &|_| ());
    change(8, "M = 2 of V = 200", (200, 2), &|_| ());
    change(9, "M = V = 200", (200, 200), &|_| ());
    change(10, "hidden states of norm 10^4", (12, 5), &|x| {
        x.tiny.h_scale = 1e4
    });
    change(11, "hidden states of norm 10^-4", (12, 5), &|x| {
        x.tiny.h_scale = 1e-4
    });
    change(12, "margin far past the loss, βh = 30", (12, 5), &|x| {
        x.dpo = Dpo {
            beta: 0.1,
            margin: 300.0,
        }
    });
    all
}

/// Corollary 2 on one instance, in both precisions, with real steps of the head in f64.
pub fn outcome(backends: &Backends, x: &Completion, random: bool) -> Outcome {
    let (mut model, h) = x.build(&backends.exact);
    let (pair, closed) = (x.pair(), x.closed(&model, &h));
    let ((norm_w, norm_l), (change_w, change_l)) = (closed.norms(), closed.changes());
    let (_, _, last) = closed::theorem1(closed.h2, x.support());
    let predicted = [
        last,
        -last,
        closed.inner(),
        norm_w,
        norm_l,
        change_w,
        change_l,
    ];
    let measured = measure(&model, &pair, &x.dpo);
    let exact = quantities(&measured, &x.dpo);
    let fast = quantities(&measure(&x.build(&backends.fast).0, &pair, &x.dpo), &x.dpo);
    let head = model.head();
    let mut descent = Descent::new(&model, &pair, measured.coefficients, |p| p == head);
    let steps = NATS.map(|nats| {
        let rate = rate(nats, measured.head, measured.coefficients);
        let taken = descent.step(&mut model, &pair, rate);
        let of = |tokens: &[f64]| tokens.last().copied().unwrap_or(f64::NAN);
        let realised = [
            of(&taken.chosen),
            of(&taken.rejected),
            0.0,
            0.0,
            0.0,
            taken.chosen_sum(),
            taken.rejected_sum(),
        ];
        let step = |i: usize| Step {
            first_order: rate * x.dpo.weight() * predicted[i],
            realised: realised[i],
        };
        std::array::from_fn::<Step, 7, _>(step)
    });
    let value = |i: usize| {
        let (scale, unit) = if i < 2 {
            (last, closed.h2)
        } else {
            (closed.magnitude(), closed.magnitude())
        };
        let steps = (!(2..5).contains(&i)).then(|| steps.map(|of| of[i]));
        vec![Value {
            predicted: predicted[i],
            computed: exact[i],
            fast: fast[i],
            scale,
            unit,
            steps,
        }]
    };
    Outcome {
        name: x.name.clone(),
        random,
        values: (0..7).map(value).collect(),
    }
}

/// The statements' quantities as measured.
fn quantities(measured: &Measured, dpo: &Dpo) -> [f64; 7] {
    let ((d_w, d_l), gram, weight) = (measured.coefficients, measured.head, dpo.weight());
    let (w, l) = predicted_change(gram, d_w, d_l);
    let last = (measured.last.0 / weight, measured.last.1 / weight);
    [
        last.0,
        last.1,
        gram.wl,
        gram.ww,
        gram.ll,
        w / weight,
        l / weight,
    ]
}

/// All instances.
pub fn outcomes(backends: &Backends, seed: u64, n: usize) -> Vec<Outcome> {
    let random = Completion::random(seed, FAMILY, n, LONGEST)
        .into_iter()
        .map(|x| (x, true));
    let all: Vec<_> = random
        .chain(adversarial(seed).into_iter().map(|x| (x, false)))
        .collect();
    all.par_iter()
        .map(|(x, random)| outcome(backends, x, *random))
        .collect()
}

/// One instance's first-order changes of the last tokens and of the sequences, and the same of a real step.
struct Loose {
    first: [f64; 4],
    realised: [f64; 4],
    closed: f64,
    h2: f64,
}

/// The four changes: last chosen and rejected token, whole chosen and rejected completion.
fn four(changes: &crate::dpo::Changes) -> [f64; 4] {
    let of = |tokens: &[f64]| tokens.last().copied().unwrap_or(f64::NAN);
    [
        of(&changes.chosen),
        of(&changes.rejected),
        changes.chosen_sum(),
        changes.rejected_sum(),
    ]
}

fn loose(backends: &Backends, x: &Completion, all_parameters: bool) -> Loose {
    let (mut model, h) = x.build(&backends.exact);
    let (pair, (j, k)) = (x.pair(), x.last());
    let measured = measure(&model, &pair, &x.dpo);
    let gram = if all_parameters {
        measured.all
    } else {
        measured.head
    };
    let head = model.head();
    let mut descent = Descent::new(&model, &pair, measured.coefficients, |p| {
        all_parameters || p == head
    });
    let first = four(&descent.first_order(&model, &pair));
    let rate = rate(NATS[NATS.len() - 1], gram, measured.coefficients);
    let last = &h[x.prefix.len() * x.tiny.width..];
    Loose {
        first: first.map(|change| change / x.dpo.weight()),
        realised: four(&descent.step(&mut model, &pair, rate)),
        closed: closed::dot(last, last) * closed::differing(&x.prediction(), j, k),
        h2: closed::dot(last, last),
    }
}

fn claims(found: &[Loose]) -> Vec<Claim> {
    let names = [
        "last chosen token rises",
        "last rejected token falls",
        "chosen rises",
        "rejected falls",
    ];
    let signs = [1.0, -1.0, 1.0, -1.0];
    let claim = |i: usize| Claim {
        broken_realised: Some(broken("", found, |x: &Loose| signs[i] * x.realised[i] > 0.0).broken),
        ..broken(names[i], found, |x: &Loose| signs[i] * x.first[i] > 0.0)
    };
    (0..4).map(claim).collect()
}

/// What happens without each assumption.
pub fn relaxed(backends: &Backends, seed: u64, n: usize) -> Vec<Relaxed> {
    let base = Completion::random(seed, FAMILY, n, LONGEST);
    let peaked = base.iter().cloned().enumerate();
    let peaked: Vec<Completion> = peaked
        .map(|(i, x)| x.peaked(&mut generator(seed, FAMILY + 200, i)))
        .collect();
    let run = |all: &[Completion], whole| -> Vec<Loose> {
        all.par_iter().map(|x| loose(backends, x, whole)).collect()
    };
    let (peaked, kept, whole) = (run(&peaked, false), run(&base, false), run(&base, true));
    let error = |x: &Loose| (x.first[0] - x.closed).abs() / x.h2;
    let row = |id, assumption, instead, closed: bool, found: &[Loose]| Relaxed {
        id,
        theorem: THEOREM,
        assumption,
        instead,
        instances: found.len(),
        closed_form: closed.then_some("last chosen token: ηβc‖h_K‖²(1 − s_j + s_k)"),
        worst_error: closed.then(|| found.iter().map(error).fold(0.0, f64::max)),
        claims: claims(found),
    };
    vec![
        row(
            "corollary2.kept",
            "none",
            "all assumptions kept, prefixes of 1 to 16 random tokens",
            true,
            &kept,
        ),
        row(
            "corollary2.peaked",
            "the last prediction is uniform on M tokens",
            "softmax of normal logits, standard deviation 0.5 to 20",
            true,
            &peaked,
        ),
        row(
            "corollary2.all_parameters",
            "the last layer alone learns",
            "every parameter of the transformer learns",
            false,
            &whole,
        ),
    ]
}

/// Shares of instances against the length of the prefix.
pub fn curve(backends: &Backends, seed: u64, n: usize) -> Vec<PrefixRow> {
    let row = |length: usize| {
        let one = |i: usize| {
            let rng = &mut generator(seed, FAMILY + 300, i);
            let mut x = Completion::draw(rng, format!("random {i}"), 0);
            x.prefix = tokens(rng, length, x.tiny.vocab);
            measure(&x.build(&backends.exact).0, &x.pair(), &x.dpo)
        };
        let found: Vec<Measured> = (0..n).into_par_iter().map(one).collect();
        PrefixRow {
            prefix: length,
            instances: n,
            head: shares(&found, |m| m.head),
            all: shares(&found, |m| m.all),
            last_token_ideal: share(&found, |m| m.last.0 > 0.0 && m.last.1 < 0.0),
        }
    };
    LENGTHS.into_iter().map(row).collect()
}

fn shares(found: &[Measured], gram: impl Fn(&Measured) -> Gram) -> PairShares {
    let changes = |m: &Measured| predicted_change(gram(m), m.coefficients.0, m.coefficients.1);
    PairShares {
        inner_positive: share(found, |m| gram(m).wl > 0.0),
        both_fall: share(found, |m| changes(m).0 < 0.0),
        both_rise: share(found, |m| changes(m).1 > 0.0),
        median_cosine: median(found.iter().map(|m| gram(m).cosine()).collect()),
    }
}
