//! A real (if tiny) language model: one small gradient step moves both log-probs as `condition` predicts,
//! plain DPO lets both fall, and the remedies' coefficients make the same pair ideal.
//!
//! The model is a bigram table of logits over four words: log π(y) = Σ log softmax(θ[previous])[next], whose
//! gradient is onehot − softmax on the visited rows.

use proptest::prelude::*;
use unbraid_objective::condition::{Case, Gram, case, classify, predicted_change};
use unbraid_objective::remedy::{GUARD_SLACK, NpoScale, guarded, normalized};
use unbraid_objective::{Objective, ObjectiveOptions, PairLogps};

const WORDS: usize = 4;
type Table = [[f64; WORDS]; WORDS];

fn log_softmax(row: &[f64; WORDS]) -> [f64; WORDS] {
    let log_sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
    row.map(|x| x - log_sum)
}

/// Steps of the bigram walk that starts at word 0.
fn steps(completion: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let previous = std::iter::once(0).chain(completion.iter().copied());
    previous.zip(completion.iter().copied())
}

fn logp(table: &Table, completion: &[usize]) -> f64 {
    steps(completion)
        .map(|(from, to)| log_softmax(&table[from])[to])
        .sum()
}

fn gradient(table: &Table, completion: &[usize]) -> Table {
    let mut gradient = [[0.0; WORDS]; WORDS];
    for (from, to) in steps(completion) {
        for (word, logp) in log_softmax(&table[from]).into_iter().enumerate() {
            gradient[from][word] += f64::from(u8::from(word == to)) - logp.exp();
        }
    }
    gradient
}

fn dot(a: &Table, b: &Table) -> f64 {
    a.iter()
        .flatten()
        .zip(b.iter().flatten())
        .map(|(a, b)| a * b)
        .sum()
}

struct Measured {
    gram: Gram,
    d_w: f64,
    d_l: f64,
}

/// The pair's Gram and DPO's coefficients at the reference.
fn measure(table: &Table, chosen: &[usize], rejected: &[usize]) -> Measured {
    let (g_w, g_l) = (gradient(table, chosen), gradient(table, rejected));
    let (a_w, a_l) = (logp(table, chosen), logp(table, rejected));
    let pair = PairLogps {
        chosen: a_w,
        rejected: a_l,
        ref_chosen: a_w,
        ref_rejected: a_l,
        chosen_len: chosen.len(),
        rejected_len: rejected.len(),
    };
    let dpo = Objective::from_name("dpo", &ObjectiveOptions::default()).expect("a known name");
    let loss = dpo.evaluate(&[pair]).expect("finite")[0];
    let gram = Gram {
        ww: dot(&g_w, &g_w),
        ll: dot(&g_l, &g_l),
        wl: dot(&g_w, &g_l),
    };
    Measured {
        gram,
        d_w: loss.d_w,
        d_l: loss.d_l,
    }
}

/// Realised changes of both log-probs, per unit of learning rate, by a step of length 1e-6 along −∇ℓ.
fn realised(table: &Table, chosen: &[usize], rejected: &[usize], d_w: f64, d_l: f64) -> (f64, f64) {
    let (g_w, g_l) = (gradient(table, chosen), gradient(table, rejected));
    let mut update = [[0.0; WORDS]; WORDS];
    for (i, row) in update.iter_mut().enumerate() {
        for (j, entry) in row.iter_mut().enumerate() {
            *entry = d_w * g_w[i][j] - d_l * g_l[i][j];
        }
    }
    let eta = 1e-6 / dot(&update, &update).sqrt();
    let mut moved = *table;
    for (row, step) in moved.iter_mut().flatten().zip(update.iter().flatten()) {
        *row += eta * step;
    }
    let change = |completion: &[usize]| (logp(&moved, completion) - logp(table, completion)) / eta;
    (change(chosen), change(rejected))
}

fn any_table() -> impl Strategy<Value = Table> {
    prop::array::uniform4(prop::array::uniform4(-2.0..2.0f64))
}

fn any_completion() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..WORDS, 2..9)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn one_step_realises_the_prediction(table in any_table(), chosen in any_completion(), rejected in any_completion()) {
        let Measured { gram, d_w, d_l } = measure(&table, &chosen, &rejected);
        prop_assume!(gram.cosine() < 0.99);
        let rules = [
            (d_w, d_l),
            normalized(d_w, d_l, gram, NpoScale::Unit),
            normalized(d_w, d_l, gram, NpoScale::Geometric),
            guarded(d_w, d_l, gram, GUARD_SLACK),
        ];
        for (i, (w, l)) in rules.into_iter().enumerate() {
            let (predicted, got) = (predicted_change(gram, w, l), realised(&table, &chosen, &rejected, w, l));
            // Second order in a step of 1e-6, and the rounding of log-probs of ten nats over it.
            let tolerance = 1e-4 * (w * gram.ww + l * gram.ll);
            prop_assert!((predicted.0 - got.0).abs() < tolerance, "{}: {:?} {:?}", i, predicted, got);
            prop_assert!((predicted.1 - got.1).abs() < tolerance, "{}: {:?} {:?}", i, predicted, got);
            if i > 0 {
                prop_assert_eq!(case(gram, w, l), Case::Ideal);
            }
            if i > 0 && predicted.0 > tolerance && -predicted.1 > tolerance {
                prop_assert_eq!(classify(got.0, got.1), Case::Ideal);
            }
        }
    }
}

#[test]
fn dpo_lets_both_fall_and_the_remedies_do_not() {
    // The rejected completion repeats the chosen one's words and ends differently: its gradient is longer
    // along the shared direction. By hand, uniform table, onehot − ¼ has square ¾ and product −¼ with another
    // word's; row by row ‖g_w‖² = ¾ + 4·¾ + ¾ = 4.5 and ⟨g_w,g_l⟩ = ¾ + 6·¾ + (2·¾ − ¼) = 6.5.
    let table = [[0.0; WORDS]; WORDS];
    let (chosen, rejected) = (vec![1, 2, 1, 2], vec![1, 2, 1, 2, 1, 2, 3]);
    let Measured { gram, d_w, d_l } = measure(&table, &chosen, &rejected);
    let step = |(w, l): (f64, f64)| {
        let (delta_w, delta_l) = realised(&table, &chosen, &rejected, w, l);
        classify(delta_w, delta_l)
    };
    assert_eq!((gram.ww, gram.wl), (4.5, 6.5));
    assert_eq!(step((d_w, d_l)), Case::BothFall);
    assert_eq!(
        step(normalized(d_w, d_l, gram, NpoScale::Unit)),
        Case::Ideal
    );
    assert_eq!(
        step(normalized(d_w, d_l, gram, NpoScale::Geometric)),
        Case::Ideal
    );
    assert_eq!(step(guarded(d_w, d_l, gram, GUARD_SLACK)), Case::Ideal);
}
