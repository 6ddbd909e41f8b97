//! The options from which an objective is built, by the names that recipes use.

/// Which side to take where a paper and TRL 1.16 differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// The published formula.
    Paper,
    /// What TRL 1.16 computes (the default). Hyper-parameters that nobody named keep this crate's defaults on both
    /// sides: TRL has one `beta = 0.1` for every loss, which for some of them is far from the paper's.
    #[default]
    Trl,
}

/// Everything that can be said about an objective; `None` means "the objective's own default".
///
/// An objective reads the fields that its formula has and ignores the others, as TRL's configuration does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectiveOptions {
    /// β, per nat, above 0; for `orpo` the weight λ of the odds-ratio term, as in TRL.
    pub beta: Option<f64>,
    /// ε, the probability that a label is flipped, in [0, ½). `sigmoid` ignores it under [`Semantics::Trl`].
    pub label_smoothing: Option<f64>,
    /// γ of `simpo` and `alphapo`, nats of reward margin.
    pub simpo_gamma: Option<f64>,
    /// λ, the weight of `cpo`'s likelihood term, 0 or more.
    pub cpo_alpha: Option<f64>,
    /// α, the weight of a likelihood term added to the objective, 0 or more; `rpo` is `sigmoid` with 1.
    pub rpo_alpha: Option<f64>,
    /// α of LD-DPO, in [0, 1]. Checked here, applied to the sums by the caller:
    /// [`length_desensitized`](crate::length_desensitized).
    pub ld_alpha: Option<f64>,
    /// `reverse_kl`, `forward_kl`, `js_divergence` or `alpha_divergence`.
    pub f_divergence_type: Option<String>,
    /// α of `alpha_divergence`.
    pub f_alpha_divergence_coef: Option<f64>,
    /// Whether `ipo` divides the log-ratios by the completion's length (default: as TRL does, unless
    /// semantics are the paper's).
    pub length_average: Option<bool>,
    /// Whether a likelihood term is the mean over the batch's chosen tokens (TRL) instead of the paper's form.
    pub nll_average: Option<bool>,
    /// τ of `discopop`, above 0.
    pub discopop_tau: Option<f64>,
    /// Count the reference's log-probs as 0.
    pub reference_free: Option<bool>,
    /// λ_w of `kto`, 0 or more.
    pub desirable_weight: Option<f64>,
    /// λ_l of `kto`, 0 or more.
    pub undesirable_weight: Option<f64>,
    /// `kto`'s KL estimate, nats, where the caller has one (from mismatched completions, as TRL); default:
    /// the batch's mean log-ratio.
    pub kto_kl: Option<f64>,
    /// δ of `slic`, nats.
    pub slic_delta: Option<f64>,
    /// λ of `slic`'s likelihood term, 0 or more.
    pub slic_lambda: Option<f64>,
    /// λ of `rrhf`'s likelihood term, 0 or more.
    pub rrhf_lambda: Option<f64>,
    /// λ of `dpop`'s penalty, 0 or more.
    pub dpop_lambda: Option<f64>,
    /// α of `rdpo`, reward per token.
    pub rdpo_alpha: Option<f64>,
    /// α of `alphapo`, the reward's shape; 0 is `simpo`.
    pub alpha: Option<f64>,
    /// δ of `bco_pair`, the reward shift, where the caller keeps a running mean; default: 0 (TRL) or the
    /// batch's mean (paper).
    pub bco_delta: Option<f64>,
    /// Which side to take where paper and TRL differ.
    pub semantics: Semantics,
}

impl ObjectiveOptions {
    /// Names of the options that were given a value (of `label_smoothing`: other than 0, which asks for nothing), of those which only some objectives read.
    pub(crate) fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("beta", self.beta.is_some()),
            (
                "label_smoothing",
                self.label_smoothing.is_some_and(|x| x != 0.0),
            ),
            ("simpo_gamma", self.simpo_gamma.is_some()),
            ("cpo_alpha", self.cpo_alpha.is_some()),
            ("length_average", self.length_average.is_some()),
            ("nll_average", self.nll_average.is_some()),
            ("discopop_tau", self.discopop_tau.is_some()),
            ("desirable_weight", self.desirable_weight.is_some()),
            ("undesirable_weight", self.undesirable_weight.is_some()),
            ("slic_delta", self.slic_delta.is_some()),
            ("slic_lambda", self.slic_lambda.is_some()),
            ("rrhf_lambda", self.rrhf_lambda.is_some()),
            ("dpop_lambda", self.dpop_lambda.is_some()),
            ("rdpo_alpha", self.rdpo_alpha.is_some()),
            ("alphapo_alpha", self.alpha.is_some()),
            ("bco_delta", self.bco_delta.is_some()),
        ]
        .into_iter()
        .filter_map(|(option, given)| given.then_some(option))
    }

    /// Whether the caller wants the published formula.
    pub(crate) fn paper(&self) -> bool {
        self.semantics == Semantics::Paper
    }
}
