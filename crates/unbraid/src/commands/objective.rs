//! From checked options to the objective, its remedy and what tokens count.

use crate::cli::{self, ObjectiveArgs, Semantics, TrainConfig};
use anyhow::Result;
use unbraid_objective::remedy::{Calibration, GUARD_SLACK, NpoScale};
use unbraid_objective::{Objective, ObjectiveOptions, describe};
use unbraid_train::{MaskSettings, Remedy};

/// What the options say about objectives.
pub(crate) fn options(args: &ObjectiveArgs) -> ObjectiveOptions {
    let divergence = match args.f_divergence_type {
        cli::FDivergence::ReverseKl => None,
        cli::FDivergence::ForwardKl => Some("forward_kl"),
        cli::FDivergence::JsDivergence => Some("js_divergence"),
        cli::FDivergence::AlphaDivergence => Some("alpha_divergence"),
    };
    ObjectiveOptions {
        beta: args.beta,
        label_smoothing: args.label_smoothing,
        simpo_gamma: args.simpo_gamma,
        cpo_alpha: args.cpo_alpha,
        rpo_alpha: args.rpo_alpha,
        ld_alpha: args.ld_alpha,
        f_divergence_type: divergence.map(str::to_owned),
        f_alpha_divergence_coef: args.f_alpha_divergence_coef,
        length_average: args.length_average,
        nll_average: args.nll_average,
        discopop_tau: args.discopop_tau,
        reference_free: args.reference_free.then_some(true),
        desirable_weight: args.desirable_weight,
        undesirable_weight: args.undesirable_weight,
        kto_kl: None,
        slic_delta: args.slic_delta,
        slic_lambda: args.slic_lambda,
        rrhf_lambda: args.rrhf_lambda,
        dpop_lambda: args.dpop_lambda,
        rdpo_alpha: args.rdpo_alpha,
        alpha: args.alphapo_alpha,
        bco_delta: args.bco_delta,
        semantics: match args.semantics {
            Semantics::Paper => unbraid_objective::Semantics::Paper,
            Semantics::Trl => unbraid_objective::Semantics::Trl,
        },
    }
}

/// The objective that the options name; says which of them change nothing.
pub(crate) fn objective(args: &ObjectiveArgs) -> Result<Objective> {
    let options = options(args);
    let objective = Objective::from_names(&args.loss_type, &args.loss_weights, &options)?;
    let unread = Objective::unread_options(&args.loss_type, &options);
    if !unread.is_empty() {
        note!(
            "without effect on {}: {}",
            objective.name(),
            unread.join(", ")
        );
    }
    if args.beta.is_none() {
        args.loss_type.iter().for_each(|name| note_beta(name));
    }
    if args.label_smoothing.is_none() {
        args.loss_type
            .iter()
            .for_each(|name| note_label_smoothing(name));
    }
    if args.use_weighting && objective.mixes_pairs() {
        bail_usage!(
            "use_weighting weighs single pairs, and {} sorts the batch's pairs apart",
            objective.name()
        );
    }
    Ok(objective)
}

/// TRL's default of `beta`, whatever the loss.
const TRL_BETA: f64 = 0.1;

/// The default of an option of the objective with this name, where it has one.
fn default_of(name: &str, option: &str) -> Option<f64> {
    let description = describe(name)?;
    let (_, value, _) = description
        .defaults
        .iter()
        .find(|(key, ..)| *key == option)?;
    value.parse().ok()
}

fn default_beta(name: &str) -> Option<f64> {
    default_of(name, "beta")
}

/// As [`note_beta`] for `label_smoothing`, which is 0 in TRL.
fn note_label_smoothing(name: &str) {
    let own = default_of(name, "label_smoothing").filter(|&own| own != 0.0);
    if let (Some(own), Some(description)) = (own, describe(name)) {
        let name = description.name;
        let peer = match name {
            "exo_pair" => "; TRL's is 0, which exo_pair refuses there and here",
            _ => "",
        };
        note!("label_smoothing is {own}, {name}'s own default{peer}");
    }
}

/// Says where a run without `beta` is not the one that TRL would make of the same recipe.
fn note_beta(name: &str) {
    if let Some(beta) = default_beta(name).filter(|&beta| beta != TRL_BETA) {
        note!("beta is {beta}, {name}'s own default; TRL's is {TRL_BETA} for every loss");
    }
}

/// Says which options about the reference change nothing, because the objective reads none.
pub(crate) fn note_reference(config: &TrainConfig, objective: &Objective) {
    let given = [
        ("ref_model", config.ref_model.is_some()),
        (
            "precompute_ref_log_probs",
            config.objective.precompute_ref_log_probs,
        ),
    ];
    let given: Vec<_> = given
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name)
        .collect();
    if !objective.logs_reference() && !given.is_empty() {
        note!(
            "without effect on {}, which reads no reference: {}",
            objective.name(),
            given.join(", ")
        );
    }
}

/// β of the implicit rewards: the objective's own.
pub(crate) fn reward_beta(args: &ObjectiveArgs) -> f64 {
    let default = |name: &String| default_beta(name);
    args.beta
        .or_else(|| args.loss_type.iter().find_map(default))
        .unwrap_or(TRL_BETA)
}

/// The remedy that the options name, refused where the objective leaves it nothing to do.
pub(crate) fn remedy(args: &ObjectiveArgs, objective: &Objective) -> Result<Remedy> {
    let remedy = match args.remedy {
        cli::Remedy::None => return Ok(Remedy::None),
        cli::Remedy::Normalized => Remedy::Normalized(match args.npo_scale {
            cli::NpoScale::Unit => NpoScale::Unit,
            cli::NpoScale::Geometric => NpoScale::Geometric,
        }),
        cli::Remedy::Guarded => Remedy::Guarded { slack: GUARD_SLACK },
        cli::Remedy::Calibrated => Remedy::Calibrated(Calibration::default()),
    };
    if !objective.is_pairwise() {
        bail_usage!(
            "remedy balances the chosen against the rejected completion, and {} reads the chosen one alone\n\
             hint: remedies go with every objective on pairs, {} among them",
            objective.name(),
            Objective::all_names()[0]
        );
    }
    Ok(remedy)
}

/// Refuses a token mask where the objective reads no log-ratios.
pub(crate) fn check_mask(args: &ObjectiveArgs, objective: &Objective) -> Result<()> {
    if args.token_mask != cli::TokenMask::None
        && !(objective.reads_log_ratios() && objective.is_pairwise())
    {
        bail_usage!(
            "token_mask multiplies token log-ratios, and {} reads no reference\n\
             hint: token masks go with sigmoid and every other objective whose description names r_w",
            objective.name()
        );
    }
    Ok(())
}

/// The settings of a learnt mask.
pub(crate) fn mask_settings(args: &ObjectiveArgs, learning_rate: f64) -> MaskSettings {
    let own = args.mask_learning_rate.unwrap_or(match args.token_mask {
        cli::TokenMask::Free => FREE_MASK_LEARNING_RATE,
        _ => learning_rate,
    });
    MaskSettings {
        epsilon: args.mask_epsilon,
        sharpness: args.mask_sharpness,
        l1: args.mask_l1,
        learning_rate_factor: if learning_rate > 0.0 {
            own / learning_rate
        } else {
            1.0
        },
    }
}

/// Each number moves by itself and only when its pair is seen, so a model's rate would leave it where it is.
const FREE_MASK_LEARNING_RATE: f64 = 0.01;
