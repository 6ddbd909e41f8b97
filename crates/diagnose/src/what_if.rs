//! What every objective would do to a pair, from the same numbers: log-probs and the gradients' Gram matrix.
//!
//! (‖g_w‖², ‖g_l‖², ⟨g_w,g_l⟩) and the log-probs determine each objective's d_w, d_l, its predicted changes and its case
//! ([`unbraid_objective::condition`]), so no further model pass is needed. A likelihood term is part of d_w.
//!
//! - The configured objective is evaluated with the user's options, the others with those that they read, but for
//!   `beta`, which is the configured objective's alone: 0.1 is a usual β for DPO and none for SimPO or SPPO. A likelihood
//!   term that `rpo_alpha` adds belongs to the configured objective too; an f-divergence goes where it has a meaning.
//! - Every pair is a batch of its own. To the objectives that look across a batch that is a choice: `kto`'s reference point
//!   is the pair's own mean log-ratio, `bco_pair`'s shift (paper semantics) its own, `aot` sorts nothing, and a likelihood
//!   averaged over the batch's tokens is averaged over the pair's.
//! - A row's `weight` is left out: in training it scales the pair's loss and so its changes, and never its case.
//! - The configured objective also stands under each remedy: `NAME+normalized`, `NAME+guarded`, `NAME+calibrated`, the last
//!   with its running average taken in the order of the data, pair by pair.

use crate::record::{Named, Outcome, PairRow};
use std::collections::BTreeMap;
use unbraid_objective::condition::{classify, predicted_change};
use unbraid_objective::remedy::{
    Calibration, GUARD_SLACK, NpoScale, calibrated, guarded, normalized,
};
use unbraid_objective::{
    Gram, Objective, ObjectiveError, ObjectiveOptions, PairLogps, PairLoss, describe,
};

/// Which objectives to try on every pair.
#[derive(Clone, Debug, PartialEq)]
pub struct WhatIfSettings {
    /// Names of the configured objective's terms, as in `loss_type`.
    pub names: Vec<String>,
    /// Their weights; none: 1 each.
    pub weights: Vec<f64>,
    /// The user's options.
    pub options: ObjectiveOptions,
    /// Scale of `+normalized`.
    pub npo_scale: NpoScale,
    /// Further objectives by name or alias; `None`: all.
    pub others: Option<Vec<String>>,
}

/// The objectives, built, and the state of what runs over the data.
#[derive(Clone, Debug)]
pub struct WhatIf {
    name: String,
    configured: Objective,
    others: Vec<(String, Objective)>,
    npo_scale: NpoScale,
    calibration: Calibration,
    left_out: BTreeMap<String, usize>,
}

impl WhatIf {
    /// Builds the objectives.
    ///
    /// # Errors
    /// What [`Objective::from_names`] says of names and options.
    pub fn new(settings: &WhatIfSettings) -> Result<Self, ObjectiveError> {
        let WhatIfSettings { names, options, .. } = settings;
        let configured = Objective::from_names(names, &settings.weights, options)?;
        let name = configured.name().into_owned();
        let listed: Vec<&'static str> = match &settings.others {
            None => Objective::all_names(),
            Some(given) => {
                let known = |name: &String| match describe(name) {
                    Some(description) => Ok(description.name),
                    // For its message.
                    None => Err(Objective::from_name(name, &ObjectiveOptions::default())
                        .expect_err("a name without a description is unknown")),
                };
                given.iter().map(known).collect::<Result<_, _>>()?
            }
        };
        let mut others: Vec<(String, Objective)> = Vec::new();
        for other in listed {
            if other != name && others.iter().all(|(earlier, _)| earlier != other) {
                others.push((other.to_owned(), with_own_beta(other, options)?));
            }
        }
        Ok(WhatIf {
            name,
            configured,
            others,
            npo_scale: settings.npo_scale,
            calibration: Calibration::default(),
            left_out: BTreeMap::new(),
        })
    }

    /// The configured objective's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configured objective.
    pub fn configured(&self) -> &Objective {
        &self.configured
    }

    /// Whether any of the objectives reads the reference.
    pub fn needs_reference(&self) -> bool {
        let others = self.others.iter().map(|(_, objective)| objective);
        std::iter::once(&self.configured)
            .chain(others)
            .any(Objective::needs_reference)
    }

    /// Names in the order of a row's `objectives`: the configured one, its remedies, the others.
    pub fn names(&self) -> Vec<String> {
        let remedies = remedies(&self.configured).iter();
        let own = remedies.map(|remedy| format!("{}+{remedy}", self.name));
        let others = self.others.iter().map(|(name, _)| name.clone());
        std::iter::once(self.name.clone())
            .chain(own)
            .chain(others)
            .collect()
    }

    /// Every objective's outcome for the next pair of the data.
    ///
    /// # Errors
    /// What the configured objective says of the numbers. Another objective that overflows is left out of the row and
    /// counted ([`left_out`](Self::left_out)).
    pub fn evaluate(
        &mut self,
        logps: &PairLogps,
        gram: Gram,
    ) -> Result<Named<Outcome>, ObjectiveError> {
        let plain = alone(&self.configured, logps)?;
        let mut row = vec![(self.name.clone(), outcome(plain, gram))];
        for remedy in remedies(&self.configured) {
            let (d_w, d_l) = match *remedy {
                "normalized" => normalized(plain.d_w, plain.d_l, gram, self.npo_scale),
                "guarded" => guarded(plain.d_w, plain.d_l, gram, GUARD_SLACK),
                _ => self.calibrate(plain.d_w, plain.d_l, gram),
            };
            let mended = PairLoss { d_w, d_l, ..plain };
            row.push((format!("{}+{remedy}", self.name), outcome(mended, gram)));
        }
        for (name, objective) in &self.others {
            match alone(objective, logps) {
                Ok(loss) => row.push((name.clone(), outcome(loss, gram))),
                Err(ObjectiveError::NonFiniteResult { .. }) => {
                    *self.left_out.entry(name.clone()).or_default() += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Named(row))
    }

    /// Takes a row that was evaluated before into what runs over the data, as if it had been evaluated here.
    pub fn replay(&mut self, row: &PairRow) {
        let outcome = row.objectives.get(&self.name);
        if let (Some(gradients), Some(outcome)) = (&row.gradients, outcome)
            && self.configured.is_pairwise()
        {
            self.calibrate(outcome.d_w, outcome.d_l, gradients.gram());
        }
        for (name, _) in &self.others {
            if !row.objectives.is_empty() && row.objectives.get(name).is_none() {
                *self.left_out.entry(name.clone()).or_default() += 1;
            }
        }
    }

    /// Objectives that overflowed, with the number of pairs from whose rows they are missing.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, usize)> {
        self.left_out.iter().map(|(name, &count)| (&**name, count))
    }

    fn calibrate(&mut self, d_w: f64, d_l: f64, gram: Gram) -> (f64, f64) {
        let (coefficients, next) = calibrated(&[(d_w, d_l, gram)], self.calibration);
        self.calibration = next;
        coefficients[0]
    }
}

/// Remedies that have a meaning for an objective.
fn remedies(objective: &Objective) -> &'static [&'static str] {
    match objective.is_pairwise() {
        true => &["normalized", "guarded", "calibrated"],
        false => &[],
    }
}

/// The user's options on an objective that is not the configured one.
fn with_own_beta(name: &str, options: &ObjectiveOptions) -> Result<Objective, ObjectiveError> {
    let mut own = ObjectiveOptions {
        beta: None,
        rpo_alpha: options.rpo_alpha.filter(|_| name == "rpo"),
        // In TRL it makes another objective of SimPO (CPO-SimPO).
        cpo_alpha: options.cpo_alpha.filter(|_| name == "cpo"),
        ..options.clone()
    };
    match Objective::from_name(name, &own) {
        Err(ObjectiveError::UnsupportedDivergence { .. }) => {
            own.f_divergence_type = None;
            Objective::from_name(name, &own)
        }
        built => built,
    }
}

/// Loss and coefficients of a pair as a batch of its own.
pub(crate) fn alone(objective: &Objective, logps: &PairLogps) -> Result<PairLoss, ObjectiveError> {
    let losses = objective.evaluate(std::slice::from_ref(logps))?;
    Ok(losses[0])
}

/// What coefficients do to a pair, by the definition of [`unbraid_objective::condition`].
pub(crate) fn outcome(loss: PairLoss, gram: Gram) -> Outcome {
    let PairLoss { loss, d_w, d_l } = loss;
    let (delta_chosen, delta_rejected) = predicted_change(gram, d_w, d_l);
    Outcome {
        loss,
        d_w,
        d_l,
        case: classify(delta_chosen, delta_rejected),
        delta_chosen,
        delta_rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Gradients;
    use unbraid_objective::Case;

    /// ‖g_w‖² = 4, ‖g_l‖² = 9, ⟨g_w,g_l⟩ = 5: DPO makes both fall.
    const GRAM: Gram = Gram {
        ww: 4.0,
        ll: 9.0,
        wl: 5.0,
    };

    fn settings(names: &[&str]) -> WhatIfSettings {
        WhatIfSettings {
            names: names.iter().map(|&n| n.to_owned()).collect(),
            weights: Vec::new(),
            options: ObjectiveOptions::default(),
            npo_scale: NpoScale::Unit,
            others: None,
        }
    }

    /// The policy is the reference; lengths 2 and 4.
    fn at_start() -> PairLogps {
        PairLogps {
            chosen: -3.0,
            rejected: -8.0,
            ref_chosen: -3.0,
            ref_rejected: -8.0,
            chosen_len: 2,
            rejected_len: 4,
        }
    }

    fn evaluated(settings: &WhatIfSettings) -> Named<Outcome> {
        let mut table = WhatIf::new(settings).unwrap();
        table.evaluate(&at_start(), GRAM).unwrap()
    }

    #[test]
    fn dpo_and_others_by_hand() {
        let mut dpo = settings(&["dpo"]);
        dpo.options.beta = Some(0.2);
        let table = evaluated(&dpo);
        // d = βσ(0) = 0.1: Δ = 0.1(4 − 5), 0.1(5 − 9).
        let sigmoid = table.get("sigmoid").unwrap();
        assert_eq!((sigmoid.d_w, sigmoid.d_l), (0.1, 0.1));
        assert!((sigmoid.delta_chosen + 0.1).abs() < 1e-15);
        assert!((sigmoid.delta_rejected + 0.4).abs() < 1e-15);
        assert_eq!(sigmoid.case, Case::BothFall);
        assert!((sigmoid.harm() - 0.1).abs() < 1e-15);
        // β is the configured objective's alone: SPPO keeps 0.001, d_w = 2·500, d_l = 2·500.
        let sppo = table.get("sppo").unwrap();
        assert_eq!((sppo.d_w, sppo.d_l), (1000.0, 1000.0));
        // CPO has no reference: d_w = βσ(−β(−3 + 8)) + λ/(tokens, as TRL), the likelihood is in d_w.
        let cpo = table.get("cpo").unwrap();
        let c = 0.1 / (1.0 + 0.5f64.exp());
        assert!((cpo.d_l - c).abs() < 1e-15, "{cpo:?}");
        assert!((cpo.d_w - (c + 0.5)).abs() < 1e-15, "{cpo:?}");
        assert_eq!(cpo.case, Case::BothRise);
        // sft pulls chosen alone: Δa_l = d_w⟨g_w,g_l⟩ > 0.
        assert_eq!(table.get("sft").unwrap().case, Case::BothRise);
        assert_eq!(table.0.len(), Objective::all_names().len() + 3);
    }

    #[test]
    fn remedies_of_the_configured_objective_make_the_pair_ideal() {
        let table = evaluated(&settings(&["sigmoid"]));
        for remedy in ["normalized", "guarded", "calibrated"] {
            let outcome = table.get(&format!("sigmoid+{remedy}")).unwrap();
            assert_eq!(outcome.case, Case::Ideal, "{remedy}");
        }
        // Unit gradients: d_w = C/2, d_l = C/3, C = 0.05.
        let normalized = table.get("sigmoid+normalized").unwrap();
        assert!((normalized.d_w - 0.025).abs() < 1e-15);
        assert!((normalized.d_l - 0.05 / 3.0).abs() < 1e-15);
        let sft = evaluated(&settings(&["sft"]));
        assert!(sft.0.iter().all(|(name, _)| !name.contains('+')));
    }

    #[test]
    fn options_go_where_they_are_read_and_a_sum_stands_beside_its_terms() {
        let mut given = settings(&["sigmoid", "sft"]);
        given.weights = vec![1.0, 0.5];
        given.options.simpo_gamma = Some(3.0);
        given.options.f_divergence_type = Some("forward_kl".into());
        given.others = Some(vec!["SimPO".into(), "dpo".into(), "simpo".into()]);
        let table = WhatIf::new(&given).unwrap();
        let sum = "1*sigmoid+0.5*sft";
        let remedies = ["normalized", "guarded", "calibrated"].map(|r| format!("{sum}+{r}"));
        let names: Vec<String> = [
            vec![sum.into()],
            remedies.to_vec(),
            vec!["simpo".into(), "sigmoid".into()],
        ]
        .concat();
        assert_eq!(table.names(), names);
        let simpo = &table.others[0].1;
        assert!(matches!(simpo, Objective::SimPo(s) if s.gamma == 3.0 && s.beta == 2.0));
        assert!(matches!(
            WhatIf::new(&WhatIfSettings {
                others: Some(vec!["simp".into()]),
                ..given
            }),
            Err(ObjectiveError::UnknownObjective {
                nearest: "simpo",
                ..
            })
        ));
    }

    #[test]
    fn the_calibration_runs_over_the_data_and_is_replayed() {
        let grams = [GRAM, Gram { ww: 1.0, ..GRAM }, Gram { ll: 50.0, ..GRAM }];
        let mut whole = WhatIf::new(&settings(&["sigmoid"])).unwrap();
        let rows: Vec<_> = grams
            .iter()
            .map(|&g| whole.evaluate(&at_start(), g).unwrap())
            .collect();
        let mut resumed = WhatIf::new(&settings(&["sigmoid"])).unwrap();
        for (gram, objectives) in grams.iter().zip(&rows).take(2) {
            let mut row = crate::record::tests::row(0);
            row.gradients = Some(Gradients::new(*gram, &[], &[]));
            row.objectives = objectives.clone();
            resumed.replay(&row);
        }
        assert_eq!(resumed.evaluate(&at_start(), grams[2]).unwrap(), rows[2]);
        let mut fresh = WhatIf::new(&settings(&["sigmoid"])).unwrap();
        assert_ne!(fresh.evaluate(&at_start(), grams[2]).unwrap(), rows[2]);
    }

    #[test]
    fn equal_gradients_stand_still_under_dpo() {
        let same = Gram {
            ww: 2.0,
            ll: 2.0,
            wl: 2.0,
        };
        let mut table = WhatIf::new(&settings(&["sigmoid"])).unwrap();
        let row = table.evaluate(&at_start(), same).unwrap();
        assert_eq!(row.get("sigmoid").unwrap().case, Case::Still);
    }

    #[test]
    fn another_objective_that_overflows_is_left_out_and_counted() {
        let mut given = settings(&["sigmoid"]);
        given.options.beta = Some(0.1);
        let mut table = WhatIf::new(&given).unwrap();
        let far = PairLogps {
            chosen: -1e200,
            ..at_start()
        };
        let row = table.evaluate(&far, GRAM).unwrap();
        let left_out: Vec<_> = table.left_out().collect();
        assert!(!left_out.is_empty());
        for (name, count) in left_out {
            assert_eq!(count, 1);
            assert!(row.get(name).is_none(), "{name}");
        }
    }
}
