//! What a diagnosis says, in sentences: the same for the terminal and the page, which differ only in how they write
//! a number.
//!
//! A pair is called entangled when, to first order, its own step moves both log-probs the same way or the wrong way:
//! every case but `ideal` and `still`. What would be better is read off the what-if table as it stands: the most ideal
//! pairs first, among equals the one that moves the margin most, and the others are named as equals.

use super::record::{Case, Diagnosis};
use super::statistics::{median, quantile};
use super::summary::{Cases, Totals};
use crate::verdict::{Mood, agreement};

/// Below this correlation a prediction is not called one.
const CORRELATION: f64 = 0.9;
/// Nor when the median of realised over predicted leaves this range.
const RATIO: std::ops::RangeInclusive<f64> = 0.8..=1.25;
/// A rank correlation below this is no guide.
const TRUST: f64 = 0.5;

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
    fn n(&self, value: f64) -> String {
        if (0.095..99.5).contains(&value.abs()) {
            self.sign_of(format!("{value:.2}"))
        } else {
            (self.number)(value)
        }
    }

    /// A minus sign as the number's writer has it.
    fn sign_of(&self, text: String) -> String {
        if (self.number)(-1.0).starts_with('-') {
            text
        } else {
            text.replace('-', "\u{2212}")
        }
    }

    fn words(&self, fit: Fit) -> String {
        format!(
            "correlation {}, realised over predicted {}",
            self.sign_of(format!("{:.2}", fit.correlation)),
            self.n(fit.ratio)
        )
    }

    /// How bad it is, for colour.
    pub(crate) fn mood(&self) -> Mood {
        let Some(cases) = self.of.cases() else {
            return Mood::Still;
        };
        match (cases.share(Case::Ideal), cases.share(Case::Reversed)) {
            (_, reversed) if reversed >= 0.5 => Mood::Bad,
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
                    "No pair is entangled under {name}: to first order chosen rises and rejected falls in all {total}."
                ),
                still => format!(
                    "No pair is entangled under {name}, but {still} of {total} stand still: the loss no longer moves them."
                ),
            });
        }
        let parts = [
            (Case::BothFall, "both log-probs fall"),
            (Case::BothRise, "both rise"),
            (Case::Reversed, "chosen falls and rejected rises"),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(case, _)| cases.count(*case) > 0.0)
            .map(|(case, words)| format!("in {} {words}", cases.count(case)))
            .collect();
        let ideal = match cases.count(Case::Ideal) {
            0.0 => "none is ideal".to_string(),
            ideal => format!("{ideal} ideal"),
        };
        let still = match cases.count(Case::Still) {
            0.0 => String::new(),
            still => format!(", {still} standing still"),
        };
        Some(format!(
            "{bad} of {total} pairs ({}) are entangled under {name}: {}; {ideal}{still}.",
            share(bad / total),
            parts.join(", "),
        ))
    }

    /// The distribution of cosines and the two ratios.
    pub(crate) fn cosine(&self) -> Option<String> {
        let cosines = self.of.values("grad_cosine");
        let [low, middle, high] = [0.1, 0.5, 0.9].map(|q| quantile(&cosines, q));
        let ratios: Vec<(f64, f64)> = self
            .of
            .pairs
            .iter()
            .filter_map(|pair| pair.ratios())
            .collect();
        let side =
            |pick: fn(&(f64, f64)) -> f64| median(&ratios.iter().map(pick).collect::<Vec<_>>());
        let ratio = match (side(|r| r.0), side(|r| r.1)) {
            (Some(chosen), Some(rejected)) => format!(
                "; inner product {} × ‖g_w‖², {} × ‖g_l‖²",
                self.n(chosen),
                self.n(rejected)
            ),
            _ => String::new(),
        };
        Some(format!(
            "Median cosine {} (middle 80 %: {} to {}){ratio}.",
            self.n(middle?),
            self.n(low?),
            self.n(high?),
        ))
    }

    /// Which way the log-probs go under the configured objective, and how far.
    pub(crate) fn movement(&self) -> Option<String> {
        let cases = self.of.cases()?;
        let falls = cases.share(Case::BothFall) + cases.share(Case::Reversed);
        let lowered = cases.share(Case::Ideal) + cases.share(Case::BothFall);
        let size = self.configured().and_then(|totals| {
            let (chosen, rejected) = (totals.delta_chosen?, totals.delta_rejected?);
            let (rate, unit) = match self.of.summary.learning_rate {
                Some(rate) => (rate, format!("one plain step at {rate:e}")),
                None => (1.0, "a plain step, per unit learning rate,".to_string()),
            };
            Some(format!(
                "; {unit} moves them by {} and {} nats",
                self.signed(rate * chosen),
                self.signed(rate * rejected)
            ))
        });
        Some(format!(
            "Chosen falls in {}, rejected in {}{}.",
            share(falls),
            share(lowered),
            size.unwrap_or_default()
        ))
    }

    fn signed(&self, value: f64) -> String {
        let sign = if value > 0.0 { "+" } else { "" };
        let text = if value != 0.0 && value.abs() < 1e-3 {
            self.sign_of(format!("{value:.1e}"))
        } else {
            self.n(value)
        };
        format!("{sign}{text}")
    }

    fn configured(&self) -> Option<&Totals> {
        self.of.summary.objectives.get(self.of.objective())
    }

    /// What would be better: among the plain objectives, and among the remedies.
    pub(crate) fn better(&self) -> Vec<String> {
        let name = self.of.objective();
        let Some(own) = self
            .configured()
            .filter(|totals| totals.cases.total() > 0.0)
        else {
            return Vec::new();
        };
        let ideal = own.cases.share(Case::Ideal);
        let mut lines = Vec::new();
        for remedies in [false, true] {
            let others = self.of.summary.objectives.iter();
            let others = others.filter(|(other, totals)| {
                other.contains('+') == remedies && *other != name && totals.cases.total() > 0.0
            });
            let found = best(others.map(|(name, totals)| (name.as_str(), totals)));
            let Some((other, totals, equals)) = found else {
                continue;
            };
            let there = totals.cases.share(Case::Ideal);
            let kind = if remedies {
                "remedies"
            } else {
                "other objectives"
            };
            if there <= ideal {
                lines.push(format!(
                    "None of the {kind} has more ideal pairs than {name}'s {}.",
                    share(ideal)
                ));
                continue;
            }
            let ties = match equals.len() {
                0 => String::new(),
                1..4 => format!(", as has {}", equals.join(", ")),
                count => format!(", as have {count} others"),
            };
            lines.push(format!(
                "{} {other}, {} ideal instead of {}{ties}{}.",
                if remedies {
                    "Best remedy:"
                } else {
                    "Best other objective:"
                },
                share(there),
                share(ideal),
                self.cost(own, totals, remedies)
            ));
        }
        lines
    }

    /// What the better one does to the margin.
    fn cost(&self, own: &Totals, other: &Totals, same_scale: bool) -> String {
        match (own.margin(), other.margin()) {
            (Some(before), Some(after)) if before > 0.0 => format!(
                "; margin {} times as fast{}",
                self.n(after / before),
                if same_scale {
                    ""
                } else {
                    " (another scale: tune the learning rate)"
                }
            ),
            _ => String::new(),
        }
    }

    /// Which parameter groups carry the inner product.
    pub(crate) fn carriers(&self) -> Option<String> {
        let groups = &self.of.summary.groups;
        let mut shares: Vec<(&str, f64)> = groups
            .iter()
            .map(|(name, group)| (name.as_str(), group.share))
            .filter(|(_, share)| share.is_finite())
            .collect();
        shares.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let top: Vec<String> = shares
            .iter()
            .take(3)
            .map(|(name, part)| format!("{name} {}", self.percent(*part)))
            .collect();
        if top.is_empty() {
            return None;
        }
        let sum = |kind: &str| -> f64 {
            let parts = shares.iter().filter(|(name, _)| name.ends_with(kind));
            parts.map(|(_, share)| share).sum()
        };
        let sides = if shares.iter().any(|(name, _)| name.starts_with("layers.")) {
            format!(
                "; attention {}, MLP {}",
                self.percent(sum(".attention")),
                self.percent(sum(".mlp"))
            )
        } else {
            String::new()
        };
        let cancel = if shares.iter().map(|(_, share)| share.abs()).sum::<f64>() > 3.0 {
            " (large parts of opposite sign cancel)"
        } else {
            ""
        };
        Some(format!(
            "Inner product from {}{sides}{cancel}.",
            top.join(", ")
        ))
    }

    fn percent(&self, share: f64) -> String {
        self.sign_of(format!("{:.0} %", 100.0 * share))
    }

    /// Which cheap measure to trust as a filter.
    pub(crate) fn proxy(&self) -> Option<String> {
        let proxies = self.of.summary.proxies.iter();
        let known = proxies.filter_map(|(name, spearman)| Some((name, spearman, spearman.cosine?)));
        let (name, spearman, cosine) = known.max_by(|a, b| a.2.abs().total_cmp(&b.2.abs()))?;
        let realised = spearman.realised.map_or(String::new(), |rho| {
            format!(", {} with chosen's real change", self.n(rho))
        });
        let rho = self.n(cosine);
        Some(if cosine.abs() < TRUST {
            format!(
                "No cheap filter to trust: the best, {name}, has rank correlation {rho} with the cosine{realised}."
            )
        } else {
            format!(
                "Cheap filter to trust: {name}, rank correlation {rho} with the cosine{realised}."
            )
        })
    }

    /// Fits of plain descent's and of the actual update's prediction for chosen and rejected.
    pub(crate) fn fits(&self) -> [Option<(Fit, Fit)>; 2] {
        let steps = || self.of.pairs.iter().filter_map(|pair| pair.step);
        let fit = |points: Vec<(f64, f64)>| Fit::of(&points);
        let chosen = fit(steps()
            .map(|s| (s.predicted_chosen, s.realised_chosen))
            .collect())
        .zip(fit(steps()
            .map(|s| (s.update_chosen, s.realised_chosen))
            .collect()));
        let rejected = fit(steps()
            .map(|s| (s.predicted_rejected, s.realised_rejected))
            .collect())
        .zip(fit(steps()
            .map(|s| (s.update_rejected, s.realised_rejected))
            .collect()));
        [chosen, rejected]
    }

    /// Whether first order predicted the real step; `None` where none was taken.
    pub(crate) fn first_order(&self) -> Option<String> {
        let [chosen, rejected] = self.fits();
        let fits: Vec<(Fit, Fit)> = chosen.into_iter().chain(rejected).collect();
        // The weaker side decides.
        let weaker = |pick: fn(&(Fit, Fit)) -> Fit| {
            let picked = fits.iter().map(pick);
            picked.min_by(|a, b| {
                (a.holds(), a.correlation)
                    .partial_cmp(&(b.holds(), b.correlation))
                    .unwrap_or(std::cmp::Ordering::Equal)
            })
        };
        let (plain, update) = (weaker(|fit| fit.0)?, weaker(|fit| fit.1)?);
        let step = self.of.summary.step.clone().unwrap_or_default();
        let optimizer = step.optimizer.unwrap_or_else(|| "optimizer".into());
        let (whole, own) = (self.words(update), self.words(plain));
        Some(match (update.holds(), plain.holds()) {
            (true, true) => format!(
                "First order predicted the real {optimizer} step ({whole}), even from each pair's own gradients ({own})."
            ),
            (true, false) if plain.correlation >= CORRELATION => format!(
                "First order holds for the real {optimizer} step ({whole}). A pair's own gradients tell its direction but not its \
                 size ({own}): the optimizer rescales them."
            ),
            (true, false) => format!(
                "First order holds for the real {optimizer} step ({whole}), but a pair's own gradients do not tell it ({own}): other \
                 pairs of the batch and the optimizer add to it."
            ),
            (false, _) => format!(
                "First order fails for the real {optimizer} step ({whole}): the step is too large for the linear picture, or too \
                 small for the arithmetic."
            ),
        })
    }
}

/// Pairs that are neither ideal nor still.
fn entangled(cases: Cases) -> f64 {
    cases.total() - cases.count(Case::Ideal) - cases.count(Case::Still)
}

/// The one with the most ideal pairs, among equals the one with the fastest margin; and the names of its equals.
fn best<'a>(
    of: impl Iterator<Item = (&'a str, &'a Totals)>,
) -> Option<(&'a str, &'a Totals, Vec<&'a str>)> {
    let all: Vec<_> = of.collect();
    let ideal = |totals: &Totals| totals.cases.share(Case::Ideal);
    let margin = |totals: &Totals| totals.margin().unwrap_or(f64::NEG_INFINITY);
    let (name, totals) = all.iter().copied().max_by(|a, b| {
        let by_ideal = ideal(a.1).total_cmp(&ideal(b.1));
        by_ideal.then(margin(a.1).total_cmp(&margin(b.1)))
    })?;
    let equals = all
        .iter()
        .filter(|(other, there)| *other != name && ideal(there) == ideal(totals))
        .map(|(other, _)| *other)
        .collect();
    Some((name, totals, equals))
}
