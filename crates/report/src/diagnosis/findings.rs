//! What a diagnosis says of the pairs, in sentences: the same for the terminal and the page, which differ only in how
//! they write a number. What to do about it is in `advice.rs`.
//!
//! A pair is called entangled when, to first order, its own step moves both log-probs the same way or the wrong way:
//! every case but `ideal` and `still`. How near the others are is told by how much of each side's own movement the
//! partner's gradient takes away.

use super::heat_map::Gram;
use super::record::{Case, Diagnosis, Pair};
use super::statistics::{median, quantile};
use super::summary::{Cases, Totals};
use crate::verdict::{Mood, agreement};

/// Below this correlation a prediction is not called one.
pub(super) const CORRELATION: f64 = 0.9;
/// Nor when the median of realised over predicted leaves this range.
const RATIO: std::ops::RangeInclusive<f64> = 0.8..=1.25;
/// From here on most of a side's movement is cancelled, and an ideal pair is near its limit.
const CLOSE: f64 = 0.5;

/// Objectives of the difference of two linear functions of the log-probs: d_w/d_l of a pair is a constant of the run.
const FIXED_PROPORTION: [&str; 10] = [
    "sigmoid",
    "rdpo",
    "cdpo",
    "robust",
    "hinge",
    "exo_pair",
    "ipo",
    "simpo",
    "sigmoid_norm",
    "discopop",
];

/// Sentences about a diagnosis.
pub(crate) struct Findings<'a> {
    /// The diagnosis.
    pub(crate) of: &'a Diagnosis,
    /// How a number is written.
    pub(crate) number: fn(f64) -> String,
}

/// Correlation with reality and median of realised over predicted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fit {
    /// Pearson's correlation.
    pub(crate) correlation: f64,
    /// Median ratio.
    pub(crate) ratio: f64,
}

impl Fit {
    /// Of (predicted, realised); `None` below three points or where nothing varies.
    pub(crate) fn of(points: &[(f64, f64)]) -> Option<Self> {
        let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
        let points: Vec<_> = points.iter().filter(finite).copied().collect();
        let (correlation, _) = agreement(&points)?;
        let ratios: Vec<f64> = points.iter().map(|(p, r)| r / p).collect();
        let ratio = median(&ratios)?;
        correlation
            .is_finite()
            .then_some(Self { correlation, ratio })
    }

    /// Whether it deserves to be called a prediction.
    pub(crate) fn holds(self) -> bool {
        self.correlation >= CORRELATION && RATIO.contains(&self.ratio)
    }
}

/// One whole percentage, which says "under 1 %" and "over 99 %" rather than round to an end that was not reached.
pub(crate) fn share(share: f64) -> String {
    match 100.0 * share {
        p if p > 0.0 && p < 1.0 => "under 1 %".into(),
        p if p > 99.0 && p < 100.0 => "over 99 %".into(),
        p => format!("{p:.0} %"),
    }
}

impl Findings<'_> {
    /// Two decimals where that tells enough, otherwise as many digits as the number's writer gives.
    pub(super) fn n(&self, value: f64) -> String {
        if (0.095..99.5).contains(&value.abs()) {
            self.sign_of(format!("{value:.2}"))
        } else {
            (self.number)(value)
        }
    }

    /// A minus sign as the number's writer has it.
    pub(super) fn sign_of(&self, text: String) -> String {
        if (self.number)(-1.0).starts_with('-') {
            text
        } else {
            text.replace('-', "\u{2212}")
        }
    }

    pub(super) fn words(&self, fit: Fit) -> String {
        format!(
            "correlation {}, realised over predicted {}",
            self.sign_of(format!("{:.2}", fit.correlation)),
            self.n(fit.ratio)
        )
    }

    /// Every sentence, the most important first.
    pub(crate) fn in_order(&self) -> Vec<String> {
        let first = [self.entangled(), self.cosine(), self.batch()];
        let second = [self.movement(), self.outlook(), self.first_order()];
        let third = [self.carriers(), self.proxy()];
        let all = first.into_iter().chain(self.better().into_iter().map(Some));
        all.chain(second).chain(third).flatten().collect()
    }

    /// How bad it is, for colour.
    pub(crate) fn mood(&self) -> Mood {
        let Some(cases) = self.of.cases() else {
            return Mood::Still;
        };
        match (cases.share(Case::Ideal), cases.share(Case::Reversed)) {
            (_, reversed) if reversed >= 0.5 => Mood::Bad,
            _ if self.coupling().is_some_and(|coupling| coupling.close()) => Mood::Entangled,
            (ideal, _) if ideal >= 0.9 => Mood::Good,
            _ if entangled(cases) == 0.0 => Mood::Still,
            _ => Mood::Entangled,
        }
    }

    /// How many pairs are entangled, and how.
    pub(crate) fn entangled(&self) -> Option<String> {
        let (cases, name) = (self.of.cases()?, self.of.objective());
        let (total, bad) = (cases.total(), entangled(cases));
        if bad == 0.0 {
            return Some(match cases.count(Case::Still) {
                0.0 => format!(
                    "No pair is entangled {}under {name}: a small step on a pair alone raises chosen and lowers rejected in all {total}.",
                    if self.coupling().is_some_and(|coupling| coupling.close()) {
                        "yet "
                    } else {
                        ""
                    }
                ),
                still => format!(
                    "No pair is entangled under {name}, but {still} of {total} stand still: {}.",
                    self.why_still(still)
                ),
            });
        }
        let parts = [
            (Case::BothFall, "fall"),
            (Case::BothRise, "rise"),
            (Case::Reversed, "move the wrong way"),
        ];
        let parts = parts
            .into_iter()
            .filter(|(case, _)| cases.count(*case) > 0.0);
        let parts = parts.zip(["both log-probs", "both"].into_iter().cycle());
        let parts: Vec<String> = parts
            .map(|((case, verb), both)| match cases.count(case) {
                1.0 if bad == 1.0 => format!("{both} {verb}"),
                count => format!("{both} {verb} in {count}"),
            })
            .collect();
        let ideal = match cases.count(Case::Ideal) {
            0.0 => "none is ideal".to_string(),
            1.0 => "1 is ideal".to_string(),
            ideal => format!("{ideal} are ideal"),
        };
        let still = match cases.count(Case::Still) {
            0.0 => String::new(),
            still => format!(", {still} standing still ({})", self.why_still(still)),
        };
        Some(format!(
            "{bad} of {total} pairs ({}) {} entangled under {name}: {}; {ideal}{still}.",
            share(bad / total),
            if bad == 1.0 { "is" } else { "are" },
            parts.join(", "),
        ))
    }

    /// Why pairs stand still.
    fn why_still(&self, still: f64) -> String {
        let same = |pair: &&Pair| {
            pair.outcome.is_some_and(|o| o.case == Case::Still)
                && pair.get("edit_distance") == Some(0.0)
        };
        match self.of.pairs.iter().filter(same).count() {
            0 => "the loss no longer moves them".to_string(),
            same if same as f64 == still => "chosen and rejected are the same text".to_string(),
            same => format!("in {same} chosen and rejected are the same text"),
        }
    }

    /// How near the pairs are to their limits.
    fn coupling(&self) -> Option<Coupling> {
        Coupling::of(&self.of.pairs)
    }

    /// Cosines, and how much of each side's own movement its partner takes away.
    pub(crate) fn cosine(&self) -> Option<String> {
        let cosines = self.of.values("grad_cosine");
        let [low, middle, high] = [0.1, 0.5, 0.9].map(|q| quantile(&cosines, q));
        let mut text = format!(
            "Gradient cosine of chosen and rejected: median {} (80 % of the pairs: {} to {})",
            self.two(middle?),
            self.two(low?),
            self.two(high?),
        );
        if let Some(coupling) = self.coupling() {
            let effect = |from: &str, part: Option<f64>, what: &str| {
                let part = 100.0 * part?;
                Some(match part.round() {
                    rounded if rounded < 0.0 => {
                        format!("{from} gradient adds {:.0} % to {what}", -rounded)
                    }
                    rounded => format!("{from} gradient cancels {:.0} % of {what}", rounded.abs()),
                })
            };
            let parts = [
                effect("rejected's", coupling.chosen, "chosen's own rise"),
                effect("chosen's", coupling.rejected, "rejected's own fall"),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            text += &format!(
                "; {} (medians; over 100 % turns a side around)",
                parts.join(", ")
            );
            let all = self.of.pairs.len();
            text += &match coupling.unpushed {
                0 => String::new(),
                some if some == all => ". The loss pushes rejected down in no pair".to_string(),
                some => format!(". The loss does not push rejected down in {some} of {all} pairs"),
            };
        }
        Some(text + ".")
    }

    /// How far a plain step moves the log-probs under the configured objective, and what real ones did.
    pub(crate) fn movement(&self) -> Option<String> {
        let totals = self.configured()?;
        let (chosen, rejected) = (totals.delta_chosen?, totals.delta_rejected?);
        let (rate, unit) = match self.of.summary.learning_rate {
            Some(rate) => (rate, format!("at learning rate {rate:e}")),
            None => (1.0, "per unit of learning rate".to_string()),
        };
        let (chosen, rejected) = (self.nats(rate * chosen), self.nats(rate * rejected));
        Some(match self.realised() {
            Some(realised) => format!(
                "A step {unit} on a pair alone moves chosen by {chosen} and rejected by {rejected} nats as plain gradient \
                 descent; {realised}."
            ),
            None => format!(
                "One plain gradient step {unit} on a pair alone moves chosen by {chosen} and rejected by {rejected} nats (means)."
            ),
        })
    }

    /// What the numbers say of steps further on: the limits move with the weights d_w and d_l, the rest with the gradients.
    pub(crate) fn outlook(&self) -> Option<String> {
        let coupling = self.coupling()?;
        let name = self.of.objective();
        let divergence = self.of.settings.get("f_divergence_type");
        let plain = divergence.is_none_or(|name| name == "reverse_kl");
        let nearest = coupling.nearest.map_or(String::new(), |(index, part)| {
            format!(" (nearest: pair {index}, {} cancelled)", share(part))
        });
        match name {
            // Nothing pushes rejected down, now or later.
            "sft" => None,
            name if FIXED_PROPORTION.contains(&name) && plain => Some(format!(
                "Later steps: {name} pushes the two sides in a fixed proportion, so a pair's case changes only as its gradients \
                 do{nearest}; unbraid diagnose --checkpoints RUN shows how they did."
            )),
            name => Some(format!(
                "Later steps: {name} pushes the two sides in a proportion that changes with the log-probs, so cases may change even \
                 where gradients stay; unbraid diagnose --checkpoints RUN shows it."
            )),
        }
    }

    /// What the other pairs of a batch add, where a Gram matrix was taken.
    pub(crate) fn batch(&self) -> Option<String> {
        let gram = Gram::read(&self.of.dir, &mut Vec::new())?;
        let [chosen, rejected] = gram.wrong()?;
        Some(format!(
            "In one plain step on a batch of {} pairs, where the other pairs' gradients count too, chosen falls in {} and rejected \
             rises in {}.",
            chosen.1, chosen.0, rejected.0
        ))
    }

    /// Changes in nats: two significant digits, never an exponent.
    pub(super) fn nats(&self, value: f64) -> String {
        let size = value.abs();
        if size < 5e-6 {
            return "0.00000".to_string();
        }
        let digits = (1 - size.log10().floor() as i32).clamp(0, 6) as usize;
        self.sign_of(format!("{value:+.digits$}"))
    }

    /// Two decimals, without a sign before zero.
    pub(super) fn two(&self, value: f64) -> String {
        let text = format!("{value:.2}");
        self.sign_of(if text == "-0.00" { "0.00".into() } else { text })
    }

    pub(super) fn configured(&self) -> Option<&Totals> {
        self.of.summary.objectives.get(self.of.objective())
    }
}

/// How much of what a pair's own gradient does to a side its partner's gradient takes away, to first order: d_l⟨g_w,g_l⟩
/// over d_w‖g_w‖² for chosen and d_w⟨g_w,g_l⟩ over d_l‖g_l‖² for rejected. Above 1 the side goes the wrong way (paper eq. 9
/// and 10), below 0 the partner helps.
#[derive(Debug, Clone, Copy)]
struct Coupling {
    /// Median over the pairs that push chosen up.
    chosen: Option<f64>,
    /// Median over the pairs that push rejected down.
    rejected: Option<f64>,
    /// Pairs whose weight of rejected is zero.
    unpushed: usize,
    /// The ideal pair nearest to a limit, and how much of its weaker side is cancelled.
    nearest: Option<(u64, f64)>,
}

impl Coupling {
    fn of(pairs: &[Pair]) -> Option<Self> {
        let (mut chosen, mut rejected, mut unpushed) = (Vec::new(), Vec::new(), 0);
        let mut nearest: Option<(u64, f64)> = None;
        let mut measured = 0;
        for pair in pairs {
            let (Some(outcome), Some((x, y))) = (pair.outcome, pair.ratios()) else {
                continue;
            };
            // A pair of two equal texts is at both limits by nature.
            if outcome.case == Case::Still {
                continue;
            }
            measured += 1;
            let (up, down) = (outcome.d_w > 0.0, outcome.d_l > 0.0);
            let x = up.then(|| x * outcome.d_l / outcome.d_w);
            let y = down.then(|| y * outcome.d_w / outcome.d_l);
            chosen.extend(x);
            rejected.extend(y);
            unpushed += usize::from(outcome.d_l == 0.0);
            let most = x.into_iter().chain(y).fold(f64::NEG_INFINITY, f64::max);
            if outcome.case == Case::Ideal && most > nearest.map_or(0.0, |found| found.1) {
                nearest = Some((pair.index, most));
            }
        }
        let most_of = |side: &[f64]| !side.is_empty() && 2 * side.len() >= measured;
        let typical = |side: &[f64]| median(side).filter(|_| most_of(side));
        let (chosen, rejected) = (typical(&chosen), typical(&rejected));
        (chosen.is_some() || rejected.is_some()).then_some(Self {
            chosen,
            rejected,
            unpushed,
            nearest,
        })
    }

    /// Whether most of either movement is taken away.
    fn close(self) -> bool {
        let parts = [self.chosen, self.rejected].into_iter().flatten();
        parts.fold(0.0, f64::max) >= CLOSE
    }
}

/// Pairs that are neither ideal nor still.
fn entangled(cases: Cases) -> f64 {
    cases.total() - cases.count(Case::Ideal) - cases.count(Case::Still)
}
