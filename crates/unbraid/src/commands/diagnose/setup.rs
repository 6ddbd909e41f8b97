//! From checked options to what is computed of every pair, before model and data are looked at.

use crate::cli::{DiagnoseConfig, NpoScale, Optim, Remedy};
use crate::commands::{objective, usage};
use anyhow::Result;
use unbraid_diagnose::{StepSettings, Sweep, SweepError, Swept, WhatIf, WhatIfSettings};
use unbraid_objective::remedy;
use unbraid_train::OptimizerKind;

/// What is computed of every pair.
pub(super) struct Plan {
    /// The what-if table before the first pair.
    pub what_if: WhatIf,
    /// The sweeps before the first pair.
    pub sweeps: Vec<Sweep>,
    /// By which objective of the table pairs are judged: the configured one with its remedy.
    pub judged_by: String,
    /// β of the implicit rewards.
    pub reward_beta: f64,
    /// How the steps are taken.
    pub step: StepSettings,
}

impl Plan {
    /// Says on the way which options have no effect on the configured objective.
    pub(super) fn new(config: &DiagnoseConfig) -> Result<Self> {
        let args = &config.objective;
        let configured = objective::objective(args)?;
        objective::remedy(args, &configured)?;
        let all = config
            .objectives
            .iter()
            .any(|name| name.eq_ignore_ascii_case("all"));
        let settings = WhatIfSettings {
            names: args.loss_type.clone(),
            weights: args.loss_weights.clone(),
            options: objective::options(args),
            npo_scale: match args.npo_scale {
                NpoScale::Unit => remedy::NpoScale::Unit,
                NpoScale::Geometric => remedy::NpoScale::Geometric,
            },
            others: (!all).then(|| config.objectives.clone()),
        };
        let what_if = WhatIf::new(&settings)?;
        let remedy = match args.remedy {
            Remedy::None => "",
            Remedy::Normalized => "+normalized",
            Remedy::Guarded => "+guarded",
            Remedy::Calibrated => "+calibrated",
        };
        Ok(Plan {
            judged_by: format!("{}{remedy}", what_if.name()),
            sweeps: sweeps(config, settings)?,
            reward_beta: objective::reward_beta(args),
            step: step(config),
            what_if,
        })
    }
}

fn sweeps(config: &DiagnoseConfig, settings: WhatIfSettings) -> Result<Vec<Sweep>> {
    let mut swept = Swept {
        names: settings.names,
        weights: settings.weights,
        options: settings.options,
    };
    if let Some(name) = &config.sweep_objective {
        // As in the what-if table, β and the added likelihood are the configured objective's.
        let own = swept.names.len() == 1 && same_objective(&swept.names[0], name);
        if !own {
            (swept.options.beta, swept.options.rpo_alpha) = (None, None);
        }
        swept.names = vec![name.clone()];
        swept.weights.clear();
    }
    let built = match &config.sweep[..] {
        [] => swept.defaults(),
        given => given.iter().map(|spec| swept.sweep(spec)).collect(),
    };
    built.map_err(|error| match error {
        SweepError::Objective(error) => anyhow::Error::from(error).context("--sweep"),
        SweepError::NoParameter { .. } => usage(error.to_string()),
    })
}

fn same_objective(a: &str, b: &str) -> bool {
    use unbraid_objective::describe;
    describe(a).is_some() && describe(a) == describe(b)
}

/// The first step of an optimizer does not depend on its betas or its momentum.
fn step(config: &DiagnoseConfig) -> StepSettings {
    let (beta1, beta2) = (0.9, 0.999);
    let epsilon = config.adam_epsilon;
    StepSettings {
        optimizer: match config.optim {
            Optim::AdamwTorch => OptimizerKind::AdamW {
                beta1,
                beta2,
                epsilon,
            },
            Optim::Sgd => OptimizerKind::Sgd { momentum: 0.0 },
            Optim::Adafactor => OptimizerKind::Adafactor,
            Optim::Lion => OptimizerKind::Lion { beta1, beta2 },
        },
        learning_rate: config.learning_rate,
        weight_decay: config.weight_decay,
        max_grad_norm: config.max_grad_norm,
    }
}
