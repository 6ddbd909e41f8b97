//! From instances to statements: errors, signs, real steps.
//!
//! An error is |predicted − computed| over a scale of the instance's own: the predicted value where that never vanishes, the
//! sum of the parts' magnitudes where parts cancel, ηβc for a theorem whose changes lie between −1 and 2 of it. A real step's
//! error is relative to the margin's first-order change, which never vanishes either.

use crate::dpo::NATS;
use crate::record::{Agreement, Sign, Statement, StepAgreement, Worst};

/// Largest error in f64. Rounding of sums and e⁻⁶⁰ outside the M leave some 10⁻¹⁴; learnable logits are a limit whose
/// remainder is δ² ≈ 10⁻¹² times the offsets' size.
pub const F64_TOLERANCE: f64 = 1e-10;
/// Largest error in f32, against the prediction in f64: rounding is 2⁻²⁴ ≈ 6·10⁻⁸ an operation, and hidden states, logits
/// and gradients each pass through tens of them; δ² ≈ 2·10⁻⁷.
pub const F32_TOLERANCE: f64 = 5e-5;
/// Largest error of a real step per nat of its size: half the second derivative of a log-prob along a step that moves the
/// margin by one nat. For Theorem 1 it is 1/(4M).
pub const CURVATURE: f64 = 10.0;
/// Below this a step's error is rounding: differences of log-probs, 10⁻¹⁵ or so, over steps of 10⁻⁴ nats.
pub const STEP_ROUNDING: f64 = 1e-9;

const F64_REASON: &str =
    "rounding of f64 sums, amplified by cancellation in the rewritten head; e^-60 outside the M";
const F32_REASON: &str = "rounding of f32 in hidden states, logits and gradients";
/// More points than this are thinned out.
const MAX_POINTS: usize = 300;

/// What is fixed about a statement.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Key.
    pub id: &'static str,
    /// `Theorem 1`.
    pub theorem: &'static str,
    /// Equation or derivation.
    pub source: &'static str,
    /// What is foretold.
    pub quantity: &'static str,
    /// Its closed form.
    pub predicted: &'static str,
    /// What an error is divided by.
    pub relative_to: &'static str,
    /// What points are divided by.
    pub unit: &'static str,
    /// The sign that the theorem claims.
    pub sign: Option<SignClaim>,
}

/// A claim on a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignClaim {
    /// > 0.
    Positive,
    /// < 0.
    Negative,
    /// ≤ 0, up to the tolerance.
    NotPositive,
}

impl SignClaim {
    fn text(self) -> &'static str {
        match self {
            SignClaim::Positive => "> 0",
            SignClaim::Negative => "< 0",
            SignClaim::NotPositive => "≤ 0",
        }
    }

    fn holds(self, value: f64, slack: f64) -> bool {
        match self {
            SignClaim::Positive => value > 0.0,
            SignClaim::Negative => value < 0.0,
            SignClaim::NotPositive => value <= slack,
        }
    }
}

/// One value of one instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Closed form.
    pub predicted: f64,
    /// Through the engine in f64.
    pub computed: f64,
    /// Through the engine in f32.
    pub fast: f64,
    /// What an error is divided by.
    pub scale: f64,
    /// What a point is divided by.
    pub unit: f64,
    /// What real steps of each size changed, with their first-order prediction, nats; `None` where no step shows the value.
    pub steps: Option<[Step; NATS.len()]>,
}

/// One value's change in one real step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// By the closed form, nats.
    pub first_order: f64,
    /// Measured, nats.
    pub realised: f64,
}

/// One instance's values, by statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which instance.
    pub name: String,
    /// Whether it is a random one.
    pub random: bool,
    /// For each statement its values.
    pub values: Vec<Vec<Value>>,
}

/// Sums instances up, one statement for each description.
pub fn statements(described: &[Described], outcomes: &[Outcome]) -> Vec<Statement> {
    let one = |(i, d): (usize, &Described)| {
        let values = outcomes
            .iter()
            .flat_map(|o| o.values[i].iter().map(move |v| (o, *v)));
        statement(d, outcomes, &values.collect::<Vec<_>>())
    };
    described.iter().enumerate().map(one).collect()
}

fn statement(d: &Described, outcomes: &[Outcome], values: &[(&Outcome, Value)]) -> Statement {
    let f64 = agreement(values, F64_TOLERANCE, F64_REASON, |v| v.computed);
    let f32 = agreement(values, F32_TOLERANCE, F32_REASON, |v| v.fast);
    let sign = d.sign.map(|claim| sign(claim, values));
    let steps: Vec<StepAgreement> = (0..NATS.len())
        .filter_map(|i| step_agreement(d.sign, values, i))
        .collect();
    let random = outcomes.iter().filter(|o| o.random).count();
    let drawn: Vec<Value> = values
        .iter()
        .filter(|(o, _)| o.random)
        .map(|(_, v)| *v)
        .collect();
    let every = drawn.len().div_ceil(MAX_POINTS).max(1);
    let point = |v: &Value| [v.predicted / v.unit, v.computed / v.unit];
    let straight = steps
        .iter()
        .all(|s| s.worst_error <= CURVATURE * s.nats + STEP_ROUNDING);
    let signed = sign.as_ref().is_none_or(|s| s.held == s.of);
    Statement {
        id: d.id,
        theorem: d.theorem,
        source: d.source,
        quantity: d.quantity,
        predicted: d.predicted,
        random,
        adversarial: outcomes.len() - random,
        values: values.len(),
        error_relative_to: d.relative_to,
        holds: f64.within && f32.within && signed && straight,
        f64,
        f32,
        sign,
        step_order: step_order(&steps),
        steps,
        point_unit: d.unit,
        points: drawn.iter().step_by(every).map(point).collect(),
    }
}

fn agreement(
    values: &[(&Outcome, Value)],
    tolerance: f64,
    reason: &'static str,
    computed: impl Fn(&Value) -> f64,
) -> Agreement {
    let mut worst = Worst::default();
    for (outcome, v) in values {
        let error = (v.predicted - computed(v)).abs() / v.scale;
        // A value that is no number is worse than any.
        if worst.instance.is_empty() || error > worst.error || error.is_nan() {
            let instance = outcome.name.clone();
            worst = Worst {
                error,
                predicted: v.predicted,
                computed: computed(v),
                instance,
            };
        }
        if error.is_nan() {
            break;
        }
    }
    Agreement {
        tolerance,
        reason,
        within: worst.error <= tolerance,
        worst,
    }
}

fn sign(claim: SignClaim, values: &[(&Outcome, Value)]) -> Sign {
    let holds = |v: &Value| claim.holds(v.computed, F64_TOLERANCE * v.scale);
    let failing = values.iter().find(|(_, v)| !holds(v));
    Sign {
        claim: claim.text(),
        held: values.iter().filter(|(_, v)| holds(v)).count(),
        of: values.len(),
        first_failure: failing.map(|(o, _)| o.name.clone()),
    }
}

fn step_agreement(
    claim: Option<SignClaim>,
    values: &[(&Outcome, Value)],
    i: usize,
) -> Option<StepAgreement> {
    let taken: Vec<(&Outcome, Step)> = values
        .iter()
        .filter_map(|(o, v)| Some((*o, v.steps?[i])))
        .collect();
    let error = |s: &Step| (s.realised - s.first_order).abs() / NATS[i];
    let worst = taken
        .iter()
        .max_by(|a, b| error(&a.1).total_cmp(&error(&b.1)))?;
    let moving = taken
        .iter()
        .filter(|(_, s)| s.first_order.abs() > 1e-6 * NATS[i]);
    let ratios: Vec<f64> = moving.map(|(_, s)| s.realised / s.first_order).collect();
    let strict = claim.filter(|c| *c != SignClaim::NotPositive);
    Some(StepAgreement {
        nats: NATS[i],
        values: taken.len(),
        median_error: median(taken.iter().map(|(_, s)| error(s)).collect()),
        worst_error: error(&worst.1),
        worst_instance: worst.0.name.clone(),
        median_ratio: (!ratios.is_empty()).then(|| median(ratios)),
        sign_held: strict.map(|c| {
            taken
                .iter()
                .filter(|(_, s)| c.holds(s.realised, 0.0))
                .count()
        }),
    })
}

/// Slope of log₁₀ error over log₁₀ step from the largest to the smallest step; `None` where the error is rounding.
fn step_order(steps: &[StepAgreement]) -> Option<f64> {
    let (first, last) = (steps.first()?, steps.last()?);
    let (a, b) = (first.median_error, last.median_error);
    (b > STEP_ROUNDING).then(|| (a / b).log10() / (first.nats / last.nats).log10())
}

/// The middle value; NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => f64::NAN,
        _ => (values[n / 2] + values[(n - 1) / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: Described = Described {
        id: "t",
        theorem: "T",
        source: "",
        quantity: "",
        predicted: "",
        relative_to: "",
        unit: "",
        sign: Some(SignClaim::Positive),
    };

    fn value(predicted: f64, computed: f64, curvature: f64) -> Value {
        let step = |nats: f64| Step {
            first_order: nats,
            realised: nats + curvature * nats * nats,
        };
        let steps = Some(NATS.map(step));
        Value {
            predicted,
            computed,
            fast: computed,
            scale: 1.0,
            unit: 1.0,
            steps,
        }
    }

    fn outcome(name: &str, v: Value) -> Outcome {
        Outcome {
            name: name.into(),
            random: true,
            values: vec![vec![v]],
        }
    }

    #[test]
    fn the_worst_instance_is_named() {
        let all = [
            outcome("a", value(1.0, 1.0, 0.5)),
            outcome("b", value(2.0, 2.1, 0.5)),
        ];
        let s = statements(&[WHAT], &all).swap_remove(0);
        assert_eq!(
            (&*s.f64.worst.instance, s.f64.within, s.holds),
            ("b", false, false)
        );
        assert!((s.f64.worst.error - 0.1).abs() < 1e-12);
        let s = statements(&[WHAT], &all[..1]).swap_remove(0);
        assert!(s.holds);
        // Error c·nats over nats: exactly of order one.
        assert!((s.step_order.unwrap() - 1.0).abs() < 1e-6);
        assert!((s.steps[0].median_error - 5e-3).abs() < 1e-12);
    }

    #[test]
    fn wrong_signs_bent_steps_and_values_that_are_no_numbers_are_noticed() {
        let s = |v| statements(&[WHAT], &[outcome("x", v)]).swap_remove(0);
        let negative = s(value(-1.0, -1.0, 0.5));
        assert!(!negative.holds && negative.f64.within);
        assert_eq!(negative.sign.unwrap().first_failure.as_deref(), Some("x"));
        assert!(!s(value(1.0, 1.0, 1e4)).holds);
        assert!(!s(value(1.0, f64::NAN, 0.5)).holds);
    }

    #[test]
    fn medians_by_hand() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
