//! What a check of the theory found, as `theory.json` holds it.

use serde::Serialize;

/// A whole check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TheoryRecord {
    /// Version of this layout.
    pub version: u32,
    /// Where the statements are from.
    pub source: &'static str,
    /// Seed of every draw.
    pub seed: u64,
    /// Random instances of each statement.
    pub random_instances: usize,
    /// Sizes of the real steps: the margin's first-order change, nats.
    pub step_nats: Vec<f64>,
    /// Whether every statement holds within its tolerances.
    pub holds: bool,
    /// One entry a quantity.
    pub statements: Vec<Statement>,
    /// What happens without an assumption.
    pub relaxed: Vec<Relaxed>,
    /// Corollary 2 against the length of the shared prefix.
    pub prefix_curve: Vec<PrefixRow>,
    /// Theorem 3 against the length of the shared suffix.
    pub suffix_curve: Vec<SuffixRow>,
}

/// One quantity of one theorem, over all instances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statement {
    /// Key, `theorem1.inner`.
    pub id: &'static str,
    /// `Theorem 1`.
    pub theorem: &'static str,
    /// Equation or derivation.
    pub source: &'static str,
    /// What is foretold.
    pub quantity: &'static str,
    /// Its closed form.
    pub predicted: &'static str,
    /// Random instances.
    pub random: usize,
    /// Adversarial instances.
    pub adversarial: usize,
    /// Values compared: several of an instance where it has several tokens.
    pub values: usize,
    /// What an error is divided by.
    pub error_relative_to: &'static str,
    /// Computed by the f64 backend.
    pub f64: Agreement,
    /// Computed by the fast f32 backend, against the same prediction.
    pub f32: Agreement,
    /// The sign that the theorem claims.
    pub sign: Option<Sign>,
    /// Real steps against first order.
    pub steps: Vec<StepAgreement>,
    /// log₁₀ of the typical step error per factor of ten in the step: 1 for an error of order η.
    pub step_order: Option<f64>,
    /// What [`Statement::points`] are divided by.
    pub point_unit: &'static str,
    /// (predicted, computed in f64), thinned out.
    pub points: Vec<[f64; 2]>,
    /// Whether all of this is within tolerance.
    pub holds: bool,
}

/// How far computed values lie from predicted ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Largest error allowed.
    pub tolerance: f64,
    /// Why so much.
    pub reason: &'static str,
    /// The largest error.
    pub worst: Worst,
    /// Whether it is within tolerance.
    pub within: bool,
}

/// The value that disagrees most.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Worst {
    /// |predicted − computed| over the scale.
    pub error: f64,
    /// Closed form.
    pub predicted: f64,
    /// Through the engine.
    pub computed: f64,
    /// Which instance.
    pub instance: String,
}

/// A claim on a sign.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sign {
    /// `> 0`, `< 0` or `≤ 0`.
    pub claim: &'static str,
    /// Values that have it, to first order.
    pub held: usize,
    /// Values.
    pub of: usize,
    /// First instance that has not.
    pub first_failure: Option<String>,
}

/// Real steps of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepAgreement {
    /// The margin's first-order change, nats.
    pub nats: f64,
    /// Values compared.
    pub values: usize,
    /// Median of |realised − first order| over the margin's first-order change.
    pub median_error: f64,
    /// The largest.
    pub worst_error: f64,
    /// Its instance.
    pub worst_instance: String,
    /// Median of realised over first order, where that is not 0.
    pub median_ratio: Option<f64>,
    /// Values whose realised change has the claimed sign; strict claims only.
    pub sign_held: Option<usize>,
}

/// A theorem without one of its assumptions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Relaxed {
    /// Key.
    pub id: &'static str,
    /// Of which theorem.
    pub theorem: &'static str,
    /// What is given up.
    pub assumption: &'static str,
    /// What stands in its place.
    pub instead: &'static str,
    /// Instances.
    pub instances: usize,
    /// What is then true of ⟨g_w, g_l⟩ or the change, if it has a closed form.
    pub closed_form: Option<&'static str>,
    /// Largest error of that form in f64, relative.
    pub worst_error: Option<f64>,
    /// Claims and how often they break.
    pub claims: Vec<Claim>,
}

/// A claim and how often it breaks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// What would have to be.
    pub claim: &'static str,
    /// Values for which it is not so.
    pub broken: usize,
    /// Values.
    pub of: usize,
    /// The same after a real step of the smallest size, where one was taken.
    pub broken_realised: Option<usize>,
}

/// Corollary 2 at one length of the shared prefix; shares of instances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrefixRow {
    /// Tokens K − 1.
    pub prefix: usize,
    /// Instances.
    pub instances: usize,
    /// The head alone learns.
    pub head: PairShares,
    /// Every parameter learns.
    pub all: PairShares,
    /// Share of instances whose last token does as Theorem 1 says; the head alone learns.
    pub last_token_ideal: f64,
}

/// Shares of instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PairShares {
    /// With ⟨g_w, g_l⟩ > 0.
    pub inner_positive: f64,
    /// Whose chosen (and with it rejected) log-prob falls.
    pub both_fall: f64,
    /// Whose rejected (and with it chosen) log-prob rises.
    pub both_rise: f64,
    /// Median gradient cosine (not a share).
    pub median_cosine: f64,
}

/// Theorem 3 at one length of the shared suffix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SuffixRow {
    /// Tokens behind the differing one.
    pub suffix: usize,
    /// Instances.
    pub instances: usize,
    /// Mean Δa_w per ηβc by (12)–(14).
    pub predicted: f64,
    /// The same through the engine.
    pub computed: f64,
    /// Share of instances whose chosen log-prob falls: learnable logits.
    pub chosen_falls: f64,
    /// The same of a whole random transformer.
    pub fresh_falls: f64,
    /// The same after supervised steps on the chosen completion.
    pub tuned_falls: f64,
}
