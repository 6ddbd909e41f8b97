//! `theory.json` as `unbraid theory` writes it. A value that is not finite is `null` there.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;

use crate::error::{ReportError, Result};

const FILE: &str = "theory.json";
/// A check of ten thousand instances stays below a megabyte, since points are thinned out.
const MAX_BYTES: u64 = 64 << 20;

/// Whether a directory holds a check of the theory.
pub fn is_theory(dir: &Path) -> bool {
    dir.join(FILE).is_file()
}

/// A whole check.
#[derive(Debug, Deserialize)]
pub(super) struct Theory {
    pub(super) source: String,
    pub(super) seed: u64,
    pub(super) random_instances: usize,
    pub(super) holds: bool,
    #[serde(default)]
    pub(super) command: Option<String>,
    #[serde(default)]
    pub(super) unbraid: Option<String>,
    #[serde(default)]
    pub(super) disagreements: Vec<String>,
    pub(super) statements: Vec<Statement>,
    #[serde(default)]
    pub(super) relaxed: Vec<Relaxed>,
    #[serde(default)]
    pub(super) prefix_curve: Vec<PrefixRow>,
    #[serde(default)]
    pub(super) suffix_curve: Vec<SuffixRow>,
}

/// One quantity of one theorem.
#[derive(Debug, Deserialize)]
pub(super) struct Statement {
    pub(super) id: String,
    pub(super) theorem: String,
    pub(super) source: String,
    pub(super) quantity: String,
    pub(super) predicted: String,
    pub(super) values: usize,
    pub(super) adversarial: usize,
    pub(super) error_relative_to: String,
    pub(super) f64: Agreement,
    pub(super) f32: Agreement,
    pub(super) sign: Option<Sign>,
    pub(super) steps: Vec<Step>,
    pub(super) step_order: Option<f64>,
    pub(super) points: Vec<[Option<f64>; 2]>,
    pub(super) holds: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Agreement {
    pub(super) tolerance: f64,
    pub(super) reason: String,
    pub(super) worst: Worst,
}

#[derive(Debug, Deserialize)]
pub(super) struct Worst {
    pub(super) error: Option<f64>,
    pub(super) instance: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Sign {
    pub(super) claim: String,
    pub(super) held: usize,
    pub(super) of: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct Step {
    pub(super) nats: f64,
    pub(super) median_error: Option<f64>,
    pub(super) worst_error: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Relaxed {
    pub(super) theorem: String,
    pub(super) assumption: String,
    pub(super) instead: String,
    pub(super) instances: usize,
    pub(super) closed_form: Option<String>,
    pub(super) worst_error: Option<f64>,
    pub(super) claims: Vec<Claim>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Claim {
    pub(super) claim: String,
    pub(super) broken: usize,
    pub(super) of: usize,
    pub(super) broken_realised: Option<usize>,
}

impl Claim {
    /// Share of the values for which the claim does not hold; 0 of none.
    pub(super) fn share(&self) -> f64 {
        self.broken as f64 / self.of.max(1) as f64
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct PrefixRow {
    pub(super) prefix: usize,
    pub(super) head: PairShares,
    pub(super) all: PairShares,
    pub(super) last_token_ideal: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct PairShares {
    pub(super) inner_positive: f64,
    pub(super) both_fall: f64,
    pub(super) both_rise: f64,
    pub(super) median_cosine: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SuffixRow {
    pub(super) suffix: usize,
    pub(super) predicted: f64,
    pub(super) computed: f64,
    pub(super) chosen_falls: f64,
    pub(super) fresh_falls: f64,
    pub(super) tuned_falls: f64,
}

impl Theory {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        read(&path).map_err(ReportError::io("read", &path))
    }

    /// The largest error over all statements, in f64 and in f32.
    pub(super) fn worst(&self) -> (f64, f64) {
        let worst = |of: fn(&Statement) -> &Agreement| {
            let errors = self
                .statements
                .iter()
                .map(|s| of(s).worst.error.unwrap_or(f64::NAN));
            // Not a number is the worst of all: `max` would drop it.
            errors.fold(0.0, |a: f64, b| if b.is_nan() || b > a { b } else { a })
        };
        (worst(|s| &s.f64), worst(|s| &s.f32))
    }

    /// How many statements hold.
    pub(super) fn holding(&self) -> usize {
        self.statements.iter().filter(|s| s.holds).count()
    }

    /// One sentence on everything.
    pub(super) fn sentence(&self) -> String {
        let (holding, all) = (self.holding(), self.statements.len());
        if self.holds {
            format!(
                "All {all} statements of Theorem 1, Corollary 2 and Theorem 3 hold within tolerance."
            )
        } else {
            let fail = if all - holding == 1 { "does" } else { "do" };
            format!(
                "{holding} of {all} statements hold, {} {fail} not.",
                all - holding
            )
        }
    }
}

fn read(path: &Path) -> io::Result<Theory> {
    let mut bytes = Vec::new();
    unbraid_input::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    serde_json::from_slice(&bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}
