//! The theorems of the paper (arXiv 2410.13828, section 4.1 and appendix B) as numbers.
//!
//! [`check`] instantiates Theorem 1, Corollary 2 and Theorem 3 over random and adversarial instances and compares, value by
//! value:
//!
//! - the closed form ([`closed`]);
//! - what the engine computes through the code that training uses: `unbraid_diagnose::measure_pairs` on a real tiny
//!   transformer, the backends' head backward, in f64 and in f32;
//! - what a real gradient-descent step on the DPO loss does, at three sizes, so that the distance to first order is seen to
//!   shrink with the step;
//! - and what is left of the claim where an assumption fails, whatever that is.
//!
//! A disagreement beyond tolerance is a result, not a panic: [`TheoryRecord::disagreements`] names statement and instance.
//!
//! Knows nothing of files.

pub mod closed;
mod completion;
mod corollary2;
mod dpo;
mod logit_instances;
mod logits;
mod random;
mod record;
mod tally;
mod theorem1;
mod theorem3;
mod tiny;
mod transformer;

pub use record::{
    Agreement, Claim, PairShares, PrefixRow, Relaxed, Sign, Statement, StepAgreement, SuffixRow,
    TheoryRecord, Worst,
};
pub use tally::{CURVATURE, F32_TOLERANCE, F64_TOLERANCE};

use std::sync::Arc;
use unbraid_tensor::{CpuBackend, NaiveBackend};

/// The two machines.
struct Backends {
    /// Plain loops in f64.
    exact: Arc<NaiveBackend>,
    /// The fast one in f32.
    fast: Arc<CpuBackend>,
}

impl Backends {
    fn new() -> Self {
        Backends {
            exact: Arc::new(NaiveBackend),
            fast: Arc::new(CpuBackend::new()),
        }
    }
}

/// Counts for how many of `all` a claim does not hold.
fn broken<T>(claim: &'static str, all: &[T], holds: impl Fn(&T) -> bool) -> Claim {
    let broken = all.iter().filter(|x| !holds(x)).count();
    Claim {
        claim,
        broken,
        of: all.len(),
        broken_realised: None,
    }
}

/// Share of `all` for which something is so.
fn share<T>(all: &[T], holds: impl Fn(&T) -> bool) -> f64 {
    all.iter().filter(|x| holds(x)).count() as f64 / all.len() as f64
}

/// Version of `theory.json`.
const VERSION: u32 = 1;

/// Checks everything over `instances` random instances a statement (at least one) and the adversarial ones.
///
/// A function of its arguments but for the last bits of the f32 values, which depend on the number of threads.
pub fn check(seed: u64, instances: usize) -> TheoryRecord {
    let backends = Backends::new();
    let n = instances.max(1);
    let mut statements = tally::statements(
        &theorem1::STATEMENTS,
        &theorem1::outcomes(&backends, seed, n),
    );
    statements.extend(tally::statements(
        &corollary2::STATEMENTS,
        &corollary2::outcomes(&backends, seed, n),
    ));
    statements.extend(tally::statements(
        &theorem3::STATEMENTS,
        &theorem3::outcomes(&backends, seed, n),
    ));
    let mut relaxed = theorem1::relaxed(&backends, seed, n);
    relaxed.extend(corollary2::relaxed(&backends, seed, n));
    relaxed.extend(theorem3::relaxed(&backends, seed, n));
    relaxed.extend(transformer::relaxed(&backends, seed, n));
    let mut record = TheoryRecord {
        version: VERSION,
        source: "arXiv 2410.13828, section 4.1 and appendix B",
        seed,
        random_instances: n,
        step_nats: dpo::NATS.to_vec(),
        holds: false,
        statements,
        relaxed,
        prefix_curve: corollary2::curve(&backends, seed, n),
        suffix_curve: transformer::curve(&backends, seed, n),
    };
    record.holds = record.disagreements().is_empty();
    record
}

impl TheoryRecord {
    /// What disagrees beyond tolerance: statement, instance and numbers, one line each; empty if all holds.
    pub fn disagreements(&self) -> Vec<String> {
        let of_statements = self.statements.iter().flat_map(Statement::disagreements);
        let of_relaxed = self.relaxed.iter().filter(|r| {
            r.worst_error
                .is_some_and(|e| e.is_nan() || e > F64_TOLERANCE)
        });
        let of_relaxed = of_relaxed.map(|r| {
            format!(
                "{}: closed form {} off by {:e}",
                r.id,
                r.closed_form.unwrap_or(""),
                r.worst_error.unwrap_or(f64::NAN)
            )
        });
        let lines = of_statements.chain(of_relaxed);
        lines
            .map(|line| format!("{line} (seed {})", self.seed))
            .collect()
    }
}

impl Statement {
    fn disagreements(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, a) in [("f64", &self.f64), ("f32", &self.f32)] {
            if !a.within {
                let w = &a.worst;
                lines.push(format!(
                    "{}: {} = {} predicts {:e}, {name} computes {:e}, error {:e} above {:e}, instance \"{}\"",
                    self.id, self.quantity, self.predicted, w.predicted, w.computed, w.error, a.tolerance, w.instance
                ));
            }
        }
        if let Some(Sign {
            claim,
            held,
            of,
            first_failure: Some(instance),
        }) = &self.sign
        {
            lines.push(format!(
                "{}: {} {claim} holds for {held} of {of}, not for \"{instance}\"",
                self.id, self.quantity
            ));
        }
        if !self.holds && lines.is_empty() {
            lines.extend(self.steps.iter().map(|s| {
                format!(
                    "{}: a real step of {:e} nats is off first order by {:e}, instance \"{}\"",
                    self.id, s.nats, s.worst_error, s.worst_instance
                )
            }));
        }
        lines
    }
}
