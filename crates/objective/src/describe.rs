//! Every objective's facts as data: what `unbraid objectives [NAME]` and the documentation print.
//!
//! Each description is a constant beside the code that it describes, in `losses/`; a test checks that the defaults it
//! states are the defaults in force. Formulas use the notation of arXiv:2410.13828:
//! ℓ = −[m(h_w(a_w) − h_l(a_l)) + Λ(a_w)], ∇ℓ = −d_w g_w + d_l g_l.

use serde::Serialize;

use crate::registry;

/// One objective in words and formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Canonical name, as in `loss_type`.
    pub name: &'static str,
    /// Other names that are accepted.
    pub aliases: &'static [&'static str],
    /// Full name.
    pub title: &'static str,
    /// m, h_w, h_l and Λ of the general margin loss, where it has that form.
    pub formula: &'static str,
    /// ℓ for one pair.
    pub loss: &'static str,
    /// −∂ℓ/∂a_w.
    pub d_w: &'static str,
    /// +∂ℓ/∂a_l.
    pub d_l: &'static str,
    /// `(option, default, meaning)`.
    pub defaults: &'static [(&'static str, &'static str, &'static str)],
    /// Whether it reads the reference's log-probs.
    pub needs_reference: bool,
    /// Paper and equation.
    pub source: &'static str,
    /// What TRL 1.16 does otherwise, if it has the objective at all.
    pub trl_differences: Option<&'static str>,
}

/// The description of the objective with this name or alias; `-` and `_`, upper and lower case are the same.
pub fn describe(name: &str) -> Option<Description> {
    registry::find(name).map(|entry| *entry.description)
}

/// All descriptions, in the order of [`Objective::all_names`](crate::Objective::all_names).
pub fn descriptions() -> impl Iterator<Item = &'static Description> {
    registry::REGISTRY.iter().map(|entry| entry.description)
}
