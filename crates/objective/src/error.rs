//! What can be wrong with an objective's name, its hyper-parameters or its input.

use thiserror::Error;

/// Every way in which building or evaluating an objective can fail.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// No objective has this name or alias.
    #[error(
        "unknown objective `{name}`\nhint: did you mean `{nearest}`? known objectives: {known}"
    )]
    UnknownObjective {
        /// The name as given.
        name: String,
        /// The known name or alias with the smallest edit distance.
        nearest: &'static str,
        /// All canonical names, separated by commas.
        known: String,
    },
    /// A choice option has a value outside its list.
    #[error("unknown {option} `{value}`\nhint: one of {known}")]
    UnknownChoice {
        /// The option.
        option: &'static str,
        /// The value as given.
        value: String,
        /// The values it can have, separated by commas.
        known: &'static str,
    },
    /// A hyper-parameter is outside its range, or not finite.
    #[error("`{option}` is {value}, expected {expected}")]
    OutOfRange {
        /// The hyper-parameter by its option's name.
        option: &'static str,
        /// The value as given.
        value: f64,
        /// Its range in words.
        expected: &'static str,
    },
    /// The divergence has no meaning for this objective.
    #[error(
        "`f_divergence_type = {divergence}` has no meaning for `{objective}`\nhint: it goes with sigmoid, cdpo, sigmoid_norm, hinge, ipo, exo_pair, robust, discopop, rpo, sft"
    )]
    UnsupportedDivergence {
        /// The objective.
        objective: &'static str,
        /// The divergence asked for.
        divergence: String,
    },
    /// A list of objectives and its weights differ in length, or the list is empty.
    #[error(
        "{names} objectives with {weights} weights\nhint: give one weight for each name in `loss_type`, and at least one name"
    )]
    WeightCount {
        /// How many names there are.
        names: usize,
        /// How many weights there are.
        weights: usize,
    },
    /// A log-prob that the objective reads is NaN or infinite.
    #[error("pair {index} of the batch: `{field}` is {value}, expected a finite log-prob in nats")]
    NonFiniteInput {
        /// Position in the slice given to `evaluate`.
        index: usize,
        /// The field of [`PairLogps`](crate::PairLogps).
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// The objective divides by a completion's length and that length is zero.
    #[error("pair {index} of the batch: `{field}` is 0, expected at least one completion token")]
    EmptyCompletion {
        /// Position in the slice given to `evaluate`.
        index: usize,
        /// `chosen_len` or `rejected_len`.
        field: &'static str,
    },
    /// Finite input gave a loss or coefficient that is not: beyond the range of `f64`.
    #[error(
        "`{objective}` overflows at pair {index} of the batch: loss {loss}, d_w {d_w}, d_l {d_l}"
    )]
    NonFiniteResult {
        /// The objective.
        objective: String,
        /// Position in the slice given to `evaluate`.
        index: usize,
        /// The loss it gave.
        loss: f64,
        /// The chosen coefficient it gave.
        d_w: f64,
        /// The rejected coefficient it gave.
        d_l: f64,
    },
}

/// `value` if it is finite and greater than zero.
pub(crate) fn positive(option: &'static str, value: f64) -> Result<(), ObjectiveError> {
    check(option, value, value > 0.0, "a finite number above 0")
}

/// `value` if it is finite and not negative.
pub(crate) fn not_negative(option: &'static str, value: f64) -> Result<(), ObjectiveError> {
    check(option, value, value >= 0.0, "a finite number, 0 or more")
}

/// `value` if it is finite and `holds`, which `expected` says in words.
pub(crate) fn check(
    option: &'static str,
    value: f64,
    holds: bool,
    expected: &'static str,
) -> Result<(), ObjectiveError> {
    if value.is_finite() && holds {
        Ok(())
    } else {
        Err(ObjectiveError::OutOfRange {
            option,
            value,
            expected,
        })
    }
}

/// A flip probability: in [0, ½).
pub(crate) fn flip_probability(option: &'static str, value: f64) -> Result<(), ObjectiveError> {
    check(
        option,
        value,
        (0.0..0.5).contains(&value),
        "a flip probability in [0, 0.5)",
    )
}
