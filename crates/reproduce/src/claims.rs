//! Claims judged: an estimate and its interval against the side that the claim names.
//!
//! A claim is written down before the numbers are known; here it only meets them. It *holds* when its whole interval
//! lies on the claimed side, *does not* when it lies on the other one, and is *unclear* otherwise, also when there is
//! no interval at all.

use crate::results::{ArmResult, Claim, Outcome, Verdict};
use crate::statistic::{Estimate, over_seeds};

/// On which side of a bound a quantity should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    /// Above it.
    Above(f64),
    /// Below it.
    Below(f64),
}

impl Expected {
    /// What an interval says of it.
    pub fn verdict(self, interval: Option<(f64, f64)>) -> Verdict {
        let (above, below) = match (self, interval) {
            (_, None) => return Verdict::Unclear,
            (Expected::Above(bound), Some((low, high))) => (low > bound, high < bound),
            (Expected::Below(bound), Some((low, high))) => (high < bound, low > bound),
        };
        match (above, below) {
            (true, _) => Verdict::Holds,
            (_, true) => Verdict::DoesNot,
            _ => Verdict::Unclear,
        }
    }

    fn text(self) -> String {
        match self {
            Expected::Above(bound) => format!("> {bound}"),
            Expected::Below(bound) => format!("< {bound}"),
        }
    }
}

/// Sets a claim beside its estimate.
pub fn judge(
    claim: impl Into<String>,
    source: &str,
    quantity: &str,
    expected: Expected,
    found: Estimate,
) -> Claim {
    Claim {
        claim: claim.into(),
        source: source.to_owned(),
        quantity: quantity.to_owned(),
        expected: expected.text(),
        measured: found.mean,
        interval: found.interval,
        over: found.over,
        verdict: expected.verdict(found.interval),
    }
}

/// The estimate of something that every held-out pair has.
pub fn of_pairs(arm: &ArmResult, values: impl Fn(&Outcome) -> Vec<f64>) -> Estimate {
    let by_seed: Vec<Vec<f64>> = arm.runs.iter().map(|run| values(&run.outcome)).collect();
    over_seeds(&by_seed, "pairs")
}

/// Claims on the direction of an arm's two log-probs. `chosen` and `rejected` say whether each should rise.
pub fn directions(
    arm: &ArmResult,
    source: &str,
    (chosen, rejected): (Option<bool>, Option<bool>),
    per_token: bool,
) -> Vec<Claim> {
    let name = &arm.name;
    let unit = match per_token {
        true => "nats per token, held-out pairs",
        false => "nats, held-out pairs",
    };
    let mut claims = Vec::new();
    let mut add = |side: &str, rises: Option<bool>, values: &dyn Fn(&Outcome) -> Vec<f64>| {
        let Some(rises) = rises else { return };
        let (word, expected) = match rises {
            true => ("rises", Expected::Above(0.0)),
            false => ("falls", Expected::Below(0.0)),
        };
        let found = of_pairs(arm, values);
        let quantity = format!("change of the {side} log-prob, {unit}");
        let claim = format!("{name}: {side} {word}");
        claims.push(judge(claim, source, &quantity, expected, found));
    };
    let pick = |plain: &Vec<f64>, mean: &Vec<f64>| match per_token {
        true => mean.clone(),
        false => plain.clone(),
    };
    add("chosen", chosen, &|o| {
        pick(&o.chosen_change, &o.mean_chosen_change)
    });
    add("rejected", rejected, &|o| {
        pick(&o.rejected_change, &o.mean_rejected_change)
    });
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_decides() {
        use Verdict::{DoesNot, Holds, Unclear};
        let above = |interval| Expected::Above(0.0).verdict(interval);
        assert_eq!(above(Some((0.1, 0.3))), Holds);
        assert_eq!(above(Some((-0.3, -0.1))), DoesNot);
        assert_eq!(above(Some((-0.1, 0.3))), Unclear);
        assert_eq!(above(None), Unclear);
        assert_eq!(Expected::Below(0.5).verdict(Some((0.1, 0.4))), Holds);
        assert_eq!(Expected::Below(0.5).verdict(Some((0.6, 0.7))), DoesNot);
        // Not a number decides nothing.
        assert_eq!(above(Some((f64::NAN, f64::NAN))), Unclear);
    }
}
