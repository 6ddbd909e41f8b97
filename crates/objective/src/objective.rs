//! Which objective, by name or as a value, and its evaluation on a batch of pairs.

use std::borrow::Cow;

use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::{ObjectiveError, check, not_negative};
use crate::length_desensitized;
use crate::losses::{
    AlphaPo, Aot, AotUnpaired, ApoDown, ApoZero, BcoPair, Cdpo, Cpo, DiscoPop, Dpo, Dpop, ExoPair,
    Hinge, Ipo, Kto, Loss, NcaPair, Orpo, RDpo, Robust, Rpo, Rrhf, Sft, SigmoidNorm, SimPo, Slic,
    Sppo,
};
use crate::nll::{Nll, NllAverage};
use crate::options::ObjectiveOptions;
use crate::registry::{REGISTRY, find, unknown};

/// An objective with its hyper-parameters. Each variant's type documents formula, derivatives, defaults and source.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Objective {
    /// `sigmoid`, alias `dpo`.
    Dpo(Dpo),
    /// `cdpo`: DPO with label smoothing.
    Cdpo(Cdpo),
    /// `sigmoid_norm`: length-normalized DPO.
    SigmoidNorm(SigmoidNorm),
    /// `rdpo`, alias `r_dpo`.
    RDpo(RDpo),
    /// `simpo`.
    SimPo(SimPo),
    /// `ipo`.
    Ipo(Ipo),
    /// `rrhf`.
    Rrhf(Rrhf),
    /// `slic`, alias `slic_hf`.
    Slic(Slic),
    /// `hinge`.
    Hinge(Hinge),
    /// `cpo`.
    Cpo(Cpo),
    /// `dpop`, alias `pdpo`.
    Dpop(Dpop),
    /// `kto`, alias `kto_pair`.
    KtoPair(Kto),
    /// `sppo`, alias `sppo_hard`.
    Sppo(Sppo),
    /// `robust`.
    Robust(Robust),
    /// `exo_pair`.
    ExoPair(ExoPair),
    /// `nca_pair`.
    NcaPair(NcaPair),
    /// `bco_pair`.
    BcoPair(BcoPair),
    /// `aot`, alias `aot_pair`: paired, as TRL 1.16 names it.
    AotPair(Aot),
    /// `aot_unpaired`.
    Aot(AotUnpaired),
    /// `apo_zero`.
    ApoZero(ApoZero),
    /// `apo_down`.
    ApoDown(ApoDown),
    /// `discopop`.
    DiscoPop(DiscoPop),
    /// `orpo`.
    Orpo(Orpo),
    /// `rpo`: DPO with a likelihood term.
    Rpo(Rpo),
    /// `alphapo`.
    AlphaPo(AlphaPo),
    /// `sft`: the likelihood of the chosen completion alone.
    Sft(Sft),
    /// An objective that counts the reference's log-probs as 0 (`reference_free`).
    ReferenceFree(Box<Objective>),
    /// Σ weight·objective; losses and coefficients are added.
    Weighted(Vec<(f64, Objective)>),
}

impl Objective {
    /// The objective with this name or alias (`-` for `_` and capitals are accepted) under `options`.
    ///
    /// `rpo_alpha` with any other objective than `rpo` adds the likelihood term to it, as a weighted sum.
    ///
    /// # Errors
    /// [`ObjectiveError::UnknownObjective`]; [`ObjectiveError::UnsupportedDivergence`] where
    /// `f_divergence_type` has no meaning; [`ObjectiveError::OutOfRange`] and
    /// [`ObjectiveError::UnknownChoice`] for hyper-parameters.
    pub fn from_name(name: &str, options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Self::from_names(&[name], &[], options)
    }

    /// The weighted sum of the named objectives; no `weights` means 1 each. One name of weight 1 is that
    /// objective itself.
    ///
    /// # Errors
    /// As [`from_name`](Self::from_name); [`ObjectiveError::WeightCount`] where `weights` is neither empty
    /// nor as long as `names`, or there is no name.
    pub fn from_names<S: AsRef<str>>(
        names: &[S],
        weights: &[f64],
        options: &ObjectiveOptions,
    ) -> Result<Self, ObjectiveError> {
        if names.is_empty() || !(weights.is_empty() || weights.len() == names.len()) {
            return Err(ObjectiveError::WeightCount {
                names: names.len(),
                weights: weights.len(),
            });
        }
        let mut terms = Vec::with_capacity(names.len() + 1);
        for (i, name) in names.iter().enumerate() {
            let weight = weights.get(i).copied().unwrap_or(1.0);
            terms.push((weight, Self::single(name.as_ref(), options)?));
        }
        terms.extend(Self::likelihood_term(&terms, options)?);
        let objective = match terms.as_slice() {
            [(1.0, only)] => only.clone(),
            _ => Self::Weighted(terms),
        };
        objective.validate()?;
        Ok(objective)
    }

    /// One named objective, without the added likelihood term.
    fn single(name: &str, options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let entry = find(name).ok_or_else(|| unknown(name))?;
        let divergence = Divergence::from_options(options)?;
        if divergence != Divergence::ReverseKl && !entry.takes_divergence {
            return Err(ObjectiveError::UnsupportedDivergence {
                objective: entry.description.name,
                divergence: divergence.name().to_owned(),
            });
        }
        if let Some(alpha) = options.ld_alpha {
            length_desensitized::validate(alpha)?;
        }
        let objective = (entry.build)(options)?;
        if options.reference_free == Some(true) && objective.logs_reference() {
            return Ok(Self::ReferenceFree(Box::new(objective)));
        }
        Ok(objective)
    }

    /// What `rpo_alpha` adds to objectives that do not read it themselves.
    fn likelihood_term(
        terms: &[(f64, Self)],
        options: &ObjectiveOptions,
    ) -> Result<Option<(f64, Self)>, ObjectiveError> {
        let Some(alpha) = options.rpo_alpha else {
            return Ok(None);
        };
        not_negative("rpo_alpha", alpha)?;
        let read = terms
            .iter()
            .any(|(_, term)| term.without_wrapper().description() == &Rpo::DESCRIPTION);
        let nll = Nll::from_options(1.0, NllAverage::PerCompletion, options);
        Ok((!read && alpha > 0.0).then_some((alpha, Self::Sft(Sft { nll }))))
    }

    /// Given options that none of the named objectives reads, for a note to the user: they change nothing.
    /// Unknown names read nothing.
    ///
    /// `label_smoothing` with `sigmoid` under [`Semantics::Trl`](crate::Semantics::Trl) is the one that surprises.
    pub fn unread_options<S: AsRef<str>>(
        names: &[S],
        options: &ObjectiveOptions,
    ) -> Vec<&'static str> {
        let reads = |name: &S, option: &str| {
            let Some(entry) = find(name.as_ref()) else {
                return false;
            };
            let listed = entry
                .description
                .defaults
                .iter()
                .any(|(key, ..)| *key == option);
            match (entry.description.name, option) {
                ("sigmoid", "label_smoothing") => options.paper(),
                ("simpo", "cpo_alpha") => !options.paper(),
                // The term that `rpo_alpha` adds to any objective.
                (_, "nll_average") => listed || options.rpo_alpha.is_some(),
                _ => listed,
            }
        };
        options
            .given()
            .filter(|option| !names.iter().any(|name| reads(name, option)))
            .collect()
    }

    /// Loss, d_w and d_l of every pair of `batch`, in its order, not reduced: the trainer takes the mean.
    ///
    /// The whole slice is one batch to the objectives that look across pairs (`kto`, `aot`, `bco_pair` and
    /// every term that averages over the batch's tokens). An empty batch gives an empty result.
    ///
    /// # Errors
    /// [`ObjectiveError::NonFiniteInput`] and [`ObjectiveError::EmptyCompletion`] for input that the objective reads,
    /// [`ObjectiveError::NonFiniteResult`] on overflow, and what [`validate`](Self::validate) finds.
    pub fn evaluate(&self, batch: &[PairLogps]) -> Result<Vec<PairLoss>, ObjectiveError> {
        self.validate()?;
        let (needs_reference, by_length) = (self.needs_reference(), self.divides_by_length());
        for (index, pair) in batch.iter().enumerate() {
            check_pair(index, pair, needs_reference, by_length)?;
        }
        let losses = self.losses(batch);
        for (index, loss) in losses.iter().enumerate() {
            if !(loss.loss.is_finite() && loss.d_w.is_finite() && loss.d_l.is_finite()) {
                let PairLoss { loss, d_w, d_l } = *loss;
                let objective = self.name().into_owned();
                return Err(ObjectiveError::NonFiniteResult {
                    objective,
                    index,
                    loss,
                    d_w,
                    d_l,
                });
            }
        }
        Ok(losses)
    }

    /// The canonical name; of a weighted sum, its terms as `1*sigmoid+0.5*sft`.
    pub fn name(&self) -> Cow<'static, str> {
        match self {
            Self::Weighted(terms) => {
                let term =
                    |(weight, objective): &(f64, Self)| format!("{weight}*{}", objective.name());
                Cow::Owned(terms.iter().map(term).collect::<Vec<_>>().join("+"))
            }
            Self::ReferenceFree(inner) => inner.name(),
            _ => Cow::Borrowed(self.description().name),
        }
    }

    /// k of every pair's likelihood term −k·a_w, summed over all terms; 0 where there is none.
    ///
    /// For a caller that weighs tokens ([`length_desensitized`], masks): the likelihood counts every token once, so
    /// with â_w the weighted sum the loss is `evaluate(…).loss + k(â_w − a_w)`, and k of d_w goes to the plain a_w.
    pub fn likelihood_coefficients(&self, batch: &[PairLogps]) -> Vec<f64> {
        match self {
            Self::Weighted(terms) => {
                let mut sum = vec![0.0; batch.len()];
                for (weight, term) in terms {
                    let own = term.likelihood_coefficients(batch);
                    sum.iter_mut().zip(own).for_each(|(s, k)| *s += weight * k);
                }
                sum
            }
            Self::ReferenceFree(inner) => inner.likelihood_coefficients(batch),
            _ => {
                let nll = self.as_loss().likelihood();
                let pairs = batch.iter();
                pairs.map(|pair| nll.coefficient(pair, batch)).collect()
            }
        }
    }

    /// The implicit rewards (chosen, rejected) of a pair as TRL logs them: β times the log-ratio, the mean token
    /// log-prob of objectives that compare means, the transformed reward of `alphapo`. A weighted sum has its
    /// first term's; `beta` is used where the objective has none.
    pub fn implicit_rewards(&self, pair: &PairLogps, beta: f64) -> (f64, f64) {
        match self {
            Self::Weighted(terms) => match terms.first() {
                Some((_, first)) => first.implicit_rewards(pair, beta),
                None => (0.0, 0.0),
            },
            Self::ReferenceFree(inner) => inner.implicit_rewards(&pair.without_reference(), beta),
            Self::SimPo(SimPo { beta, .. }) | Self::Orpo(Orpo { beta, .. }) => {
                (beta * pair.chosen_mean(), beta * pair.rejected_mean())
            }
            Self::AlphaPo(loss) => loss.rewards(pair),
            _ if self.logs_reference() => (
                beta * pair.chosen_log_ratio(),
                beta * pair.rejected_log_ratio(),
            ),
            _ => (beta * pair.chosen, beta * pair.rejected),
        }
    }

    /// Whether every term with a weight reads log-ratios, so that a token mask can multiply them.
    pub fn reads_log_ratios(&self) -> bool {
        match self {
            Self::Weighted(terms) => terms
                .iter()
                .all(|(weight, term)| *weight == 0.0 || term.reads_log_ratios()),
            Self::ReferenceFree(inner) => inner.reads_log_ratios(),
            Self::Sft(_) => true, // the likelihood counts every token, masked or not
            _ => self.needs_reference(),
        }
    }

    /// Whether `ref_chosen` and `ref_rejected` are read.
    pub fn needs_reference(&self) -> bool {
        match self {
            Self::Weighted(terms) => terms.iter().any(|(_, term)| term.needs_reference()),
            Self::ReferenceFree(_) => false,
            _ => self.description().needs_reference,
        }
    }

    /// Whether [`implicit_rewards`](Self::implicit_rewards) reads the reference: where the loss does, and for `sft`, whose rewards
    /// TRL takes relative to the reference although its loss has none.
    pub fn logs_reference(&self) -> bool {
        match self {
            Self::Weighted(terms) => {
                let first = terms.first();
                self.needs_reference() || first.is_some_and(|(_, term)| term.logs_reference())
            }
            Self::ReferenceFree(_) => false,
            Self::Sft(_) => true,
            _ => self.needs_reference(),
        }
    }

    /// Whether it says anything about the rejected completion. `sft` alone does not, and remedies have no
    /// meaning for it.
    pub fn is_pairwise(&self) -> bool {
        match self {
            Self::Weighted(terms) => terms
                .iter()
                .any(|(weight, term)| *weight != 0.0 && term.is_pairwise()),
            Self::ReferenceFree(inner) => inner.is_pairwise(),
            _ => !matches!(self, Self::Sft(_)),
        }
    }

    /// Whether one pair's loss depends on which other pairs are in the batch by sorting (`aot`,
    /// `aot_unpaired`), so that pair weights have no meaning.
    pub fn mixes_pairs(&self) -> bool {
        match self {
            Self::Weighted(terms) => terms.iter().any(|(_, term)| term.mixes_pairs()),
            Self::ReferenceFree(inner) => inner.mixes_pairs(),
            _ => matches!(self, Self::Aot(_) | Self::AotPair(_)),
        }
    }

    /// Whether a pair's loss depends in any way on which other pairs are in the batch. If not, a batch may be evaluated in
    /// parts.
    pub fn reads_batch(&self) -> bool {
        match self {
            Self::Weighted(terms) => terms.iter().any(|(_, term)| term.reads_batch()),
            Self::ReferenceFree(inner) => inner.reads_batch(),
            _ => self.as_loss().reads_batch(),
        }
    }

    /// Checks the hyper-parameters.
    ///
    /// # Errors
    /// [`ObjectiveError::OutOfRange`] naming the option; [`ObjectiveError::WeightCount`] for a sum of nothing.
    pub fn validate(&self) -> Result<(), ObjectiveError> {
        match self {
            Self::Weighted(terms) if terms.is_empty() => Err(ObjectiveError::WeightCount {
                names: 0,
                weights: 0,
            }),
            Self::Weighted(terms) => terms.iter().try_for_each(|(weight, term)| {
                check("loss_weights", *weight, true, "finite numbers")?;
                term.validate()
            }),
            Self::ReferenceFree(inner) => inner.validate(),
            _ => self.as_loss().validate(),
        }
    }

    /// Canonical names of all objectives, Table 2 of the entanglement paper first.
    pub fn all_names() -> Vec<&'static str> {
        REGISTRY
            .iter()
            .map(|entry| entry.description.name)
            .collect()
    }

    /// The description of a single objective.
    fn description(&self) -> &'static Description {
        self.as_loss().description()
    }

    fn divides_by_length(&self) -> (bool, bool) {
        match self {
            Self::Weighted(terms) => {
                terms
                    .iter()
                    .fold((false, false), |(chosen, rejected), (_, term)| {
                        let by_length = term.divides_by_length();
                        (chosen || by_length.0, rejected || by_length.1)
                    })
            }
            Self::ReferenceFree(inner) => inner.divides_by_length(),
            _ => self.as_loss().divides_by_length(),
        }
    }

    fn losses(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        match self {
            Self::Weighted(terms) => {
                let mut sum = vec![PairLoss::default(); batch.len()];
                for (weight, term) in terms {
                    for (sum, loss) in sum.iter_mut().zip(term.losses(batch)) {
                        *sum = sum.plus(loss.scaled(*weight));
                    }
                }
                sum
            }
            Self::ReferenceFree(inner) => {
                let bare: Vec<_> = batch.iter().map(PairLogps::without_reference).collect();
                inner.losses(&bare)
            }
            _ => self.as_loss().evaluate(batch),
        }
    }

    fn without_wrapper(&self) -> &Self {
        match self {
            Self::ReferenceFree(inner) => inner.without_wrapper(),
            other => other,
        }
    }

    /// The one loss that this is; never called on a wrapper or a sum.
    fn as_loss(&self) -> &dyn Loss {
        match self {
            Self::Dpo(loss) => loss,
            Self::Cdpo(loss) => loss,
            Self::SigmoidNorm(loss) => loss,
            Self::RDpo(loss) => loss,
            Self::SimPo(loss) => loss,
            Self::Ipo(loss) => loss,
            Self::Rrhf(loss) => loss,
            Self::Slic(loss) => loss,
            Self::Hinge(loss) => loss,
            Self::Cpo(loss) => loss,
            Self::Dpop(loss) => loss,
            Self::KtoPair(loss) => loss,
            Self::Sppo(loss) => loss,
            Self::Robust(loss) => loss,
            Self::ExoPair(loss) => loss,
            Self::NcaPair(loss) => loss,
            Self::BcoPair(loss) => loss,
            Self::AotPair(loss) => loss,
            Self::Aot(loss) => loss,
            Self::ApoZero(loss) => loss,
            Self::ApoDown(loss) => loss,
            Self::DiscoPop(loss) => loss,
            Self::Orpo(loss) => loss,
            Self::Rpo(loss) => loss,
            Self::AlphaPo(loss) => loss,
            Self::Sft(loss) => loss,
            Self::ReferenceFree(_) | Self::Weighted(_) => {
                unreachable!(
                    "every caller matches wrappers and sums before it asks for a single loss"
                )
            }
        }
    }
}

/// That every number the objective reads is usable.
fn check_pair(
    index: usize,
    pair: &PairLogps,
    needs_reference: bool,
    by_length: (bool, bool),
) -> Result<(), ObjectiveError> {
    let fields = [
        ("chosen", pair.chosen),
        ("rejected", pair.rejected),
        ("ref_chosen", pair.ref_chosen),
        ("ref_rejected", pair.ref_rejected),
    ];
    let read = if needs_reference { 4 } else { 2 };
    for &(field, value) in &fields[..read] {
        if !value.is_finite() {
            return Err(ObjectiveError::NonFiniteInput {
                index,
                field,
                value,
            });
        }
    }
    if by_length.0 && pair.chosen_len == 0 {
        return Err(ObjectiveError::EmptyCompletion {
            index,
            field: "chosen_len",
        });
    }
    if by_length.1 && pair.rejected_len == 0 {
        return Err(ObjectiveError::EmptyCompletion {
            index,
            field: "rejected_len",
        });
    }
    Ok(())
}
