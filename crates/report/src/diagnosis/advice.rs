//! What to do about a diagnosis, in sentences: what would be better, which parameters carry the inner product, which cheap
//! measure to trust, and whether a real step went as predicted.
//!
//! Sizes of different objectives cannot be compared, for each has its own scale: objectives with equally many ideal pairs
//! are named as equals. A remedy's margin is compared with its own objective's.

use super::figures;
use super::findings::{CORRELATION, Findings, Fit, share};
use super::record::{Case, Step};
use super::summary::{Spearman, Totals};

/// A rank correlation below this is no guide.
const TRUST: f64 = 0.5;

/// Objectives that a reader knows come first among equals; the others follow by name.
const KNOWN: [&str; 8] = [
    "sigmoid", "ipo", "simpo", "kto", "rdpo", "cpo", "dpop", "sppo",
];

impl Findings<'_> {
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
        let [others, remedies] = [false, true].map(|remedies| {
            let all = self.of.summary.objectives.iter();
            all.filter(|(other, totals)| {
                other.contains('+') == remedies && *other != name && totals.cases.total() > 0.0
            })
            .map(|(name, totals)| (name.as_str(), totals))
            .collect::<Vec<_>>()
        });
        if ideal == 1.0 {
            return vec![format!(
                "Nothing to gain from another objective or a remedy at this point: {name} is ideal on every pair."
            )];
        }
        let (others, remedies) = (best(others), best(remedies));
        let gains = |best: &Option<Best>| best.as_ref().is_some_and(|best| best.ideal > ideal);
        let mut lines = Vec::new();
        match others {
            Some(best) if best.ideal > ideal => lines.push(format!(
                "More ideal pairs under another objective: {} ideal with {}, {} with {name}.",
                share(best.ideal),
                listed(&best.names),
                share(ideal)
            )),
            Some(_) if gains(&remedies) => {
                lines.push(format!(
                    "No other objective has more ideal pairs than {name}."
                ));
            }
            Some(_) => lines.push(format!(
                "Neither another objective nor a remedy has more ideal pairs than {name}."
            )),
            None => {}
        }
        lines.extend(
            remedies
                .filter(|best| best.ideal > ideal)
                .map(|best| self.remedy(own, &best)),
        );
        lines
    }

    fn remedy(&self, own: &Totals, best: &Best) -> String {
        let kind = |name: &str| name.split('+').next_back().unwrap_or(name).to_string();
        let kinds: Vec<String> = best.names.iter().map(|name| kind(name)).collect();
        // The smallest change of the objective; normalized has a scale of its own.
        let guarded = best.names.iter().find(|name| kind(name) == "guarded");
        let after = guarded.and_then(|name| self.of.summary.objectives.get(*name)?.margin());
        let speed = match (own.margin(), after) {
            (Some(before), Some(after)) if before > 0.0 && (after / before - 1.0).abs() < 5e-3 => {
                "; with guarded the margin grows as fast as without".to_string()
            }
            (Some(before), Some(after)) if before > 0.0 => format!(
                "; with guarded the margin grows {} times as fast as without",
                self.n(after / before)
            ),
            _ => String::new(),
        };
        format!(
            "Remedy: --remedy {} makes {} ideal{speed}.",
            kinds.join(" or "),
            share(best.ideal)
        )
    }

    /// Which parameter groups carry the inner product.
    pub(crate) fn carriers(&self) -> Option<String> {
        let groups = &self.of.summary.groups;
        let finite = groups.iter().filter(|(_, group)| group.share.is_finite());
        let shares: Vec<(&str, f64)> = finite
            .map(|(name, group)| (name.as_str(), group.share))
            .collect();
        let by_size = |a: &(&str, f64), b: &(&str, f64)| b.1.abs().total_cmp(&a.1.abs());
        let layered = |name: &str| name.starts_with("layers.");
        let largest = shares.iter().copied().filter(|(name, _)| layered(name));
        let largest = largest.min_by(by_size);
        let mut kinds: Vec<(&str, f64)> = Vec::new();
        for (name, share) in &shares {
            let part = name.rsplit('.').next().unwrap_or(name);
            match kinds.iter_mut().find(|kind| kind.0 == part) {
                Some(kind) => kind.1 += share,
                None => kinds.push((part, *share)),
            }
        }
        kinds.sort_by(by_size);
        let named = kinds.iter().filter(|kind| kind.1.abs() >= 5e-3).take(4);
        let named: Vec<String> = named
            .map(|(part, share)| format!("{} {}", figures::part_name(part), self.percent(*share)))
            .collect();
        if named.is_empty() {
            return None;
        }
        let single = largest.map_or(String::new(), |(name, share)| {
            format!("; largest in one layer: {name} {}", self.percent(share))
        });
        let cancel = if shares.iter().map(|(_, share)| share.abs()).sum::<f64>() > 3.0 {
            "; large parts of opposite sign cancel"
        } else {
            ""
        };
        Some(format!(
            "The inner product comes from {}{single}{cancel}.",
            named.join(", ")
        ))
    }

    fn percent(&self, share: f64) -> String {
        self.sign_of(format!("{:.0} %", 100.0 * share))
    }

    /// Which cheap measure to trust as a filter.
    pub(crate) fn proxy(&self) -> Option<String> {
        let proxies = self.of.summary.proxies.iter();
        let known = proxies.filter_map(|(name, spearman): (_, &Spearman)| {
            Some((name, spearman.cosine.filter(|rho| rho.is_finite())?))
        });
        let (name, cosine) = known.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))?;
        let pairs = self.of.pairs.len();
        // Twice the standard error of a rank correlation of unrelated numbers.
        let chance = 2.0 / ((pairs.max(2) - 1) as f64).sqrt();
        let rho = self.sign_of(format!("{cosine:.2}"));
        let way = if cosine < 0.0 {
            "; the smaller it is, the more entangled"
        } else {
            ""
        };
        Some(if cosine.abs() < TRUST.max(chance) {
            format!(
                "No cheap measure to trust as a filter: the best, {name}, has rank correlation {rho} with the cosine over {pairs} \
                 pairs."
            )
        } else {
            format!(
                "Cheap filter to trust: {name}, rank correlation {rho} with the cosine over {pairs} pairs{way}."
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

    /// Whether first order predicted real steps, each on one pair alone; `None` where none was taken.
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
        let whole = self.words(update);
        let own = self.sign_of(format!("{:.2}", plain.correlation));
        Some(match (update.holds(), plain.correlation >= CORRELATION) {
            (true, true) => format!(
                "First order foretells the real steps ({whole}); plain gradient descent tells their proportions (correlation {own})."
            ),
            (true, false) => format!(
                "First order of the update foretells the real steps ({whole}), plain gradient descent does not (correlation {own}): \
                 the optimizer goes another way."
            ),
            (false, _) => format!(
                "First order does not foretell the real steps ({whole}): the step is too large for the linear picture, or too small \
                 for the arithmetic."
            ),
        })
    }

    /// Which way real steps moved the log-probs, as part of a sentence.
    pub(crate) fn realised(&self) -> Option<String> {
        let steps: Vec<Step> = self.of.pairs.iter().filter_map(|pair| pair.step).collect();
        let known = steps
            .iter()
            .filter(|step| (step.realised_chosen + step.realised_rejected).is_finite());
        let known: Vec<&Step> = known.collect();
        if known.is_empty() {
            return None;
        }
        let count = known.len();
        let rose = known
            .iter()
            .filter(|step| step.realised_chosen > 0.0)
            .count();
        let fell = known
            .iter()
            .filter(|step| step.realised_rejected < 0.0)
            .count();
        let mean = |pick: fn(&Step) -> f64| {
            known.iter().map(|step| pick(step)).sum::<f64>() / count as f64
        };
        let step = self.of.summary.step.clone().unwrap_or_default();
        let optimizer = step.optimizer.unwrap_or_else(|| "the optimizer".into());
        Some(format!(
            "{optimizer}, tried on {count}, moved them by {} and {} (means), chosen up in {rose}, rejected down in {fell}",
            self.nats(mean(|step| step.realised_chosen)),
            self.nats(mean(|step| step.realised_rejected))
        ))
    }
}

/// Objectives with the most ideal pairs.
struct Best<'a> {
    names: Vec<&'a str>,
    ideal: f64,
}

fn best<'a>(all: Vec<(&'a str, &'a Totals)>) -> Option<Best<'a>> {
    let share = |totals: &Totals| totals.cases.share(Case::Ideal);
    let ideal = all
        .iter()
        .map(|(_, totals)| share(totals))
        .reduce(f64::max)?;
    let equals = all.into_iter().filter(|(_, totals)| share(totals) == ideal);
    let mut names: Vec<&str> = equals.map(|(name, _)| name).collect();
    names.sort_by_key(|name| (rank(name), *name));
    Some(Best { names, ideal })
}

/// Place of an objective among equals.
pub(super) fn rank(name: &str) -> usize {
    let place = KNOWN.iter().position(|known| *known == name);
    place.unwrap_or(KNOWN.len())
}

/// Up to three names, then how many more.
fn listed(names: &[&str]) -> String {
    match names {
        [all @ .., last] if !all.is_empty() && names.len() <= 3 => {
            format!("{} or {last}", all.join(", "))
        }
        [a, b, rest @ ..] if rest.len() > 1 => format!("{a}, {b} and {} more", rest.len()),
        _ => names.join(", "),
    }
}
