//! What happened to chosen and rejected, in one sentence, from the numbers alone.
//!
//! Which numbers, best first:
//! 1. held-out log-probs, when there are two evaluations: the same pairs each time, so their difference is exact;
//! 2. implicit rewards of training batches, β·(log π − log ρ): the reference cancels how long and how likely each
//!    batch's completions are, which would otherwise drown the change;
//! 3. log-probs of training batches.
//!
//! For 2 and 3, "start" and "end" are means over the first and the last tenth of the rows, and a change counts when
//! it exceeds twice its standard error, estimated from the differences of neighbouring rows (which a trend hardly
//! touches). The cause is named only where gradients were measured: entanglement when they point the same way and
//! most measured pairs move together to first order.

use crate::attribution::Attribution;
use crate::record::{Rows, RunRecord};

/// On the same pairs, a mean log-prob that moved less than this (nats) did not move.
const STILL_NATS: f64 = 0.01;

/// Where a quantity began and ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trend {
    /// First evaluation, or mean of the first tenth of the rows.
    pub(crate) start: f64,
    /// Last evaluation, or mean of the last tenth.
    pub(crate) end: f64,
    /// Changes up to this size are noise.
    pub(crate) noise: f64,
}

/// Direction of a trend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Up, beyond the noise.
    Rose,
    /// Down, beyond the noise.
    Fell,
    /// Inside the noise.
    Held,
}

impl Trend {
    /// End minus start.
    pub(crate) fn change(self) -> f64 {
        self.end - self.start
    }

    /// One of the trend's numbers as it is shown: 0 where it is rounding beside the others.
    pub(crate) fn shown(self, value: f64) -> f64 {
        let scale = self.start.abs().max(self.end.abs());
        if value.abs() < 1e-6 * scale {
            0.0
        } else {
            value
        }
    }

    /// Direction beyond the noise.
    pub(crate) fn direction(self) -> Direction {
        match self.change() {
            change if change > self.noise => Direction::Rose,
            change if change < -self.noise => Direction::Fell,
            _ => Direction::Held,
        }
    }

    /// Of repeated measurements of the same pairs.
    fn exact(values: &[f64], noise: f64) -> Option<Self> {
        let (start, end) = (*values.first()?, *values.last()?);
        (values.len() > 1).then_some(Self { start, end, noise })
    }

    /// Of a noisy column: means over the first and the last tenth.
    pub(crate) fn noisy(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let window = (count / 10).max(1);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let squares = values
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).powi(2))
            .sum::<f64>();
        // A difference of neighbours has twice the variance of one row, so has the difference of the two means.
        let variance = if count > 2 {
            squares / (2.0 * (count - 1) as f64)
        } else {
            0.0
        };
        let noise = 2.0 * (2.0 * variance / window as f64).sqrt();
        Some(Self {
            start: mean(&values[..window]),
            end: mean(&values[count - window..]),
            noise,
        })
    }
}

/// Which rows a statement rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Basis {
    /// Evaluations on the same held-out pairs.
    HeldOut,
    /// Batches of the training data.
    Training,
}

impl Basis {
    /// The better one that the run has. Rows without partners may lack a side in the held-out data, or altogether.
    pub(crate) fn of(run: &RunRecord) -> Self {
        let mut sides = ["logps/chosen", "logps/rejected"]
            .into_iter()
            .filter(|key| run.train.has(key) || run.eval.has(key))
            .peekable();
        let any = sides.peek().is_some();
        if any && sides.all(|key| run.eval.finite(key).len() > 1) {
            Self::HeldOut
        } else {
            Self::Training
        }
    }

    /// Its rows.
    pub(crate) fn rows(self, run: &RunRecord) -> &Rows {
        match self {
            Self::HeldOut => &run.eval,
            Self::Training => &run.train,
        }
    }

    /// Its name for a reader of the page of `run`.
    pub(crate) fn label(self, run: &RunRecord) -> &'static str {
        match self {
            Self::HeldOut if run.unpaired() => "held-out rows",
            Self::HeldOut => "held-out pairs",
            Self::Training => "training batches",
        }
    }

    /// Start and end of a column.
    pub(crate) fn trend(self, run: &RunRecord, key: &str) -> Option<Trend> {
        let values = self.rows(run).values(key);
        match self {
            Self::HeldOut => Trend::exact(&values, STILL_NATS),
            Self::Training => Trend::noisy(&values),
        }
    }
}

/// Key figures that only some runs log: label, column, unit.
pub(crate) const FURTHER: [(&str, &str, &str); 2] = [
    ("KL estimate", "kl", " nats"),
    ("open tokens", "mask/open", "%"),
];

/// Trend of a column of [`FURTHER`], from training batches where the better rows lack it.
pub(crate) fn further_trend(run: &RunRecord, basis: Basis, key: &str) -> Option<(Basis, Trend)> {
    let mut bases = [basis, Basis::Training].into_iter();
    bases.find_map(|basis| Some((basis, basis.trend(run, key)?)))
}

/// How good the outcome is, for colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Chosen did not fall, rejected did not rise, and something moved.
    Good,
    /// Chosen and rejected moved together.
    Entangled,
    /// Chosen fell or rejected rose without the other gaining.
    Bad,
    /// Nothing to see.
    Still,
}

/// The verdict on a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// One sentence with a full stop.
    pub(crate) sentence: String,
    /// For colour.
    pub(crate) mood: Mood,
    /// What it rests on, for a reader.
    pub(crate) basis: String,
    /// Why, sentence by sentence, where the run attributed its held-out changes.
    pub(crate) why: Vec<String>,
}

/// Means over all steps with geometry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Geometry {
    /// Mean cosine between chosen and rejected gradient.
    pub(crate) cosine: Option<f64>,
    /// Shares of pairs by case: ideal, both fall, both rise.
    pub(crate) cases: Option<[f64; 3]>,
    /// Steps that measured it.
    pub(crate) steps: usize,
}

impl Geometry {
    /// Averages the run's geometry rows.
    pub(crate) fn of(run: &RunRecord) -> Self {
        let share = |case: &str| run.train.mean(&format!("geometry/{case}"));
        let cases = || Some([share("ideal")?, share("both_fall")?, share("both_rise")?]);
        let steps = run
            .train
            .values("geometry/cosine")
            .len()
            .max(run.train.values("geometry/ideal").len());
        Self {
            cosine: run.train.mean("geometry/cosine"),
            cases: cases(),
            steps,
        }
    }

    fn cosine_clause(&self) -> String {
        self.cosine
            .map(|cosine| format!(" (mean cosine {cosine:.2})"))
            .unwrap_or_default()
    }
}

/// Judges a run on the given rows. `None` when it logged neither log-probs nor rewards.
pub(crate) fn judge(run: &RunRecord, basis: Basis) -> Option<Verdict> {
    let why = run.attribution.as_ref().map(Attribution::sentences);
    let why = why.unwrap_or_default();
    let watched = run
        .attribution
        .as_ref()
        .filter(|_| basis == Basis::Training);
    let (trends, rests_on) = match watched {
        Some(attribution) => {
            let trend = |(start, end): (f64, f64)| {
                Some(Trend {
                    start,
                    end,
                    noise: STILL_NATS,
                })
            };
            let rests = format!(
                "log-probs of the same {}, before the first step against after the last",
                attribution.watched()
            );
            (attribution.ends().map(trend), rests)
        }
        None => {
            let (quantity, rests_on) = evidence(run, basis)?;
            let trend = |side: &str| {
                let key = format!("{quantity}/{side}");
                let enough = basis.rows(run).finite(&key).len() > 1;
                enough.then(|| basis.trend(run, &key)).flatten()
            };
            (["chosen", "rejected"].map(trend), rests_on)
        }
    };
    let (mood, sentence) = match trends.into() {
        (Some(chosen), Some(rejected)) => both_sides(run, chosen, rejected),
        (Some(chosen), None) => one_side(["Chosen", "rejected"], chosen, Direction::Rose),
        (None, Some(rejected)) => one_side(["Rejected", "chosen"], rejected, Direction::Fell),
        (None, None) => {
            return Some(Verdict {
                sentence: "One logged step only: nothing to compare it with.".to_string(),
                mood: Mood::Still,
                basis: "a single row".to_string(),
                why,
            });
        }
    };
    Some(Verdict {
        sentence,
        mood,
        basis: rests_on,
        why,
    })
}

/// Only one of the two sides was logged often enough to have moved; `wanted` is where it should go.
fn one_side([side, other]: [&str; 2], trend: Trend, wanted: Direction) -> (Mood, String) {
    let (mood, verb) = match trend.direction() {
        Direction::Held => (Mood::Still, "held its place"),
        Direction::Rose => (Mood::Good, "rose"),
        Direction::Fell => (Mood::Good, "fell"),
    };
    let against = mood == Mood::Good && trend.direction() != wanted;
    let mood = if against { Mood::Bad } else { mood };
    let sentence = format!("{side} {verb}; the records hold too little of {other} to judge it.");
    (mood, sentence)
}

/// Chosen and rejected were both followed.
fn both_sides(run: &RunRecord, chosen: Trend, rejected: Trend) -> (Mood, String) {
    let geometry = Geometry::of(run);
    let together = |verb, case| {
        let grew = chosen.change() > rejected.change();
        (
            Mood::Entangled,
            match run.attribution {
                Some(_) => format!("{}.", both_moved(verb, grew)),
                None => together(verb, grew, case, &geometry, run.unpaired()),
            },
        )
    };
    match (chosen.direction(), rejected.direction()) {
        (Direction::Fell, Direction::Fell) => together("fell", 1),
        (Direction::Rose, Direction::Rose) => together("rose", 2),
        (Direction::Rose, Direction::Fell) => (
            Mood::Good,
            format!(
                "Chosen rose and rejected fell: the ideal case{}.",
                geometry.cosine_clause()
            ),
        ),
        (Direction::Rose, Direction::Held) => (
            Mood::Good,
            "Chosen rose while rejected held its place.".into(),
        ),
        (Direction::Held, Direction::Fell) => {
            let clause = geometry.cosine_clause();
            (
                Mood::Good,
                format!(
                    "Rejected fell while chosen held its place: the margin is rejected's fall alone{clause}."
                ),
            )
        }
        (Direction::Fell, Direction::Rose) => (
            Mood::Bad,
            "Chosen fell and rejected rose: the run moved against the preferences.".into(),
        ),
        (Direction::Fell, Direction::Held) => (
            Mood::Bad,
            format!(
                "Chosen fell while rejected held its place{}.",
                geometry.cosine_clause()
            ),
        ),
        (Direction::Held, Direction::Rose) => (
            Mood::Bad,
            format!(
                "Rejected rose while chosen held its place{}.",
                geometry.cosine_clause()
            ),
        ),
        (Direction::Held, Direction::Held) => (
            Mood::Still,
            "Neither chosen nor rejected moved beyond the noise of these records.".into(),
        ),
    }
}

/// Which quantity tells how chosen and rejected moved, and what it rests on in words for a reader.
fn evidence(run: &RunRecord, basis: Basis) -> Option<(&'static str, String)> {
    let seen = |quantity: &str| {
        let sides = ["chosen", "rejected"].map(|side| format!("{quantity}/{side}"));
        sides.map(|key| basis.rows(run).values(&key))
    };
    let logged = |quantity: &str| seen(quantity).iter().any(|values| !values.is_empty());
    // Without a reference, or before the first step, every reward is zero and says nothing.
    let rewards_moved = seen("rewards")
        .iter()
        .any(|values| values.len() > 1 && values.iter().any(|reward| *reward != 0.0));
    match basis {
        Basis::HeldOut => {
            let count = seen("logps").iter().map(Vec::len).max()?;
            let rests = format!(
                "log-probs of the same {}, first against last of {count} evaluations",
                basis.label(run)
            );
            (count > 0).then_some(("logps", rests))
        }
        Basis::Training if rewards_moved || (logged("rewards") && !logged("logps")) => {
            let rests = "implicit rewards of training batches, last tenth of the logged steps against the first";
            Some(("rewards", rests.to_string()))
        }
        Basis::Training => {
            let rests =
                "log-probs of training batches, last tenth of the logged steps against the first";
            logged("logps").then(|| ("logps", rests.to_string()))
        }
    }
}

fn both_moved(verb: &str, margin_grew: bool) -> String {
    let margin = if margin_grew {
        ""
    } else {
        ", and the margin shrank"
    };
    format!("Chosen and rejected both {verb}{margin}")
}

/// Both moved the same way: is it entanglement? `case` is the index of the matching case in [`Geometry::cases`].
fn together(
    verb: &str,
    margin_grew: bool,
    case: usize,
    geometry: &Geometry,
    unpaired: bool,
) -> String {
    let opening = both_moved(verb, margin_grew);
    match (geometry.cosine, geometry.cases) {
        (None, _) if unpaired => format!(
            "{opening}; rows without partners have no pair of gradients that could show why."
        ),
        (None, _) => {
            format!("{opening}; this run measured no gradients, so the records do not show why.")
        }
        (Some(cosine), _) if cosine <= 0.0 => format!(
            "{opening}, although the two gradients of a pair do not pull together (mean cosine {cosine:.2}): the records do \
             not show why; --attribute measures it."
        ),
        (Some(cosine), Some(cases)) if cases[case] < 0.5 => format!(
            "{opening}, though {} of the measured pairs would do so by their own gradients in one step (mean cosine \
             {cosine:.2}): the records do not show why; --attribute measures it.",
            match percent(cases[case]).as_str() {
                "0 %" => "none".to_string(),
                share => format!("only {share}"),
            }
        ),
        (Some(cosine), _) => format!("{opening}: gradient entanglement (mean cosine {cosine:.2})."),
    }
}

/// A share as a whole percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Pearson's correlation and the share of points whose coordinates have the same sign; `None` below three points.
/// The correlation is NaN when one coordinate does not vary.
pub(crate) fn agreement(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    if points.len() < 3 {
        return None;
    }
    let count = points.len() as f64;
    let (mean_x, mean_y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / count, y + p.1 / count));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        let (x, y) = (x - mean_x, y - mean_y);
        (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
    }
    let same_sign = points.iter().filter(|(x, y)| x * y > 0.0).count() as f64 / count;
    Some((xy / (xx * yy).sqrt(), same_sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_spread_of_neighbours_not_the_trend() {
        // A straight line of slope 1 over 100 rows: neighbours differ by 1, the ends by 90.
        let line: Vec<f64> = (0..100).map(f64::from).collect();
        let trend = Trend::noisy(&line).unwrap();
        assert_eq!((trend.start, trend.end), (4.5, 94.5));
        assert_eq!(trend.direction(), Direction::Rose);
        // Alternating ±1 has no trend.
        let zigzag: Vec<f64> = (0..100)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        assert_eq!(Trend::noisy(&zigzag).unwrap().direction(), Direction::Held);
    }

    #[test]
    fn one_row_is_a_trend_without_change() {
        let trend = Trend::noisy(&[-3.0]).unwrap();
        assert_eq!((trend.change(), trend.direction()), (0.0, Direction::Held));
        assert_eq!(Trend::noisy(&[]), None);
        assert_eq!(Trend::exact(&[-3.0], STILL_NATS), None);
    }

    #[test]
    fn agreement_by_hand() {
        // x = 1, 2, 3; y = 2, 4, 7: Σdx² = 2, Σdy² = 114/9, Σdxdy = 5.
        let (correlation, sign) = agreement(&[(1.0, 2.0), (2.0, 4.0), (3.0, 7.0)]).unwrap();
        assert!((correlation - 5.0 / (2.0_f64 * 114.0 / 9.0).sqrt()).abs() < 1e-12);
        assert_eq!(sign, 1.0);
        assert_eq!(agreement(&[(0.0, 0.0), (1.0, 1.0)]), None);
    }

    #[test]
    fn entanglement_is_named_only_when_the_gradients_show_it() {
        let geometry = |cosine, both_fall| Geometry {
            cosine: Some(cosine),
            cases: Some([1.0 - both_fall, both_fall, 0.0]),
            steps: 9,
        };
        assert_eq!(
            together("fell", true, 1, &geometry(0.931, 0.8), false),
            "Chosen and rejected both fell: gradient entanglement (mean cosine 0.93)."
        );
        assert!(
            together("fell", true, 1, &geometry(0.4, 0.2), false)
                .contains("only 20 % of the measured pairs")
        );
        assert!(
            together("fell", true, 1, &geometry(-0.2, 0.0), false)
                .contains("do not pull together (mean cosine -0.20)")
        );
        assert!(
            together("fell", false, 1, &Geometry::default(), false)
                .contains("the margin shrank; this run measured no gradients")
        );
    }
}
