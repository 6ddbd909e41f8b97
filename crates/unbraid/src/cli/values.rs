//! Value types of options: closed sets as enums, and the few shapes that a plain number cannot hold.
//!
//! Each type reads exactly the spelling that TRL's users type (`steps`, `adamw_torch`, `cuda:0`, `none`) and
//! serialises to the same spelling, so that a written `run.yaml` is itself a recipe.
//! Tested at the bottom and, through whole command lines, in `tests/cli_options.rs`.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// Number format of weights in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// What the device does best: `float32` on a CPU.
    Auto,
    /// 32-bit floating point.
    #[value(name = "float32", alias = "fp32", alias = "f32")]
    Float32,
    /// 16-bit brain floating point; arithmetic accumulates in 32 bits.
    #[value(name = "bfloat16", alias = "bf16")]
    Bfloat16,
}

/// Where arithmetic runs: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The first CUDA device when one is usable, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        index
            .map(Self::Cuda)
            .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Most tokens that an option may name: more positions than any model has.
pub(super) const MAX_TOKENS: usize = 1 << 25;

/// Longest sequence kept, in tokens: a number, or `none` for no truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLength(pub Option<usize>);

impl FromStr for MaxLength {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "none" | "None" | "null") {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(tokens) if tokens > MAX_TOKENS => {
                Err(format!("expected at most {MAX_TOKENS} tokens, or none"))
            }
            Ok(tokens) if tokens >= 2 => Ok(Self(Some(tokens))),
            Err(_) if is_whole(text) => {
                Err(format!("expected at most {MAX_TOKENS} tokens, or none"))
            }
            Ok(_) => Err("a pair needs at least 2 tokens: one of prompt, one of completion".into()),
            Err(_) => Err("expected a number of tokens, or none".into()),
        }
    }
}

impl Serialize for MaxLength {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(tokens) => serializer.serialize_u64(tokens as u64),
            None => serializer.serialize_str("none"),
        }
    }
}

/// Most optimizer steps that an option may name.
const MOST_STEPS: f64 = 1e12;

/// A number of optimizer steps; below 1 it is a share of the whole run, as in transformers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps(pub f64);

impl Steps {
    /// The number in steps of a run of `total` optimizer steps; shares are rounded up.
    /// A value of 0 stays 0.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        if self.0 >= 1.0 {
            self.0 as u64
        } else {
            (self.0 * total as f64).ceil() as u64
        }
    }
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value: f64 = text.parse().map_err(|_| "expected a number of steps")?;
        if !value.is_finite() || value < 0.0 {
            return Err("expected a number of steps, 0 or more".into());
        }
        if value > MOST_STEPS {
            return Err(format!("expected at most {MOST_STEPS} steps"));
        }
        if value >= 1.0 && value.fract() != 0.0 {
            return Err("expected a whole number of steps, or a share of the run below 1".into());
        }
        Ok(Self(value))
    }
}

impl Serialize for Steps {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 {
            serializer.serialize_u64(self.0 as u64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// When something happens during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Strategy {
    /// Never.
    No,
    /// Every so many optimizer steps.
    Steps,
    /// At the end of each epoch.
    Epoch,
}

/// Optimizers by transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Optim {
    /// Adam with decoupled weight decay.
    #[value(
        alias = "adamw_torch_fused",
        alias = "adamw_hf",
        alias = "adamw",
        alias = "paged_adamw_32bit"
    )]
    AdamwTorch,
    /// Stochastic gradient descent, with `momentum`.
    Sgd,
    /// Adafactor without parameter scaling: one number a row and a column, so next to no memory.
    Adafactor,
    /// Lion, with Adam's betas: one buffer, half of Adam's memory; wants a lower learning rate.
    #[value(alias = "lion_32bit", alias = "paged_lion_32bit")]
    Lion,
}

/// Learning-rate schedules by transformers' names; each starts with the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum LrSchedulerType {
    /// Falls linearly to 0 at the end of the run.
    Linear,
    /// Falls along half a cosine to 0 at the end of the run.
    Cosine,
    /// Constant, without warm-up.
    Constant,
    /// Constant after the warm-up.
    ConstantWithWarmup,
    /// Falls polynomially to a small value at the end of the run.
    Polynomial,
    /// Falls with the inverse square root of the step.
    InverseSqrt,
    /// Constant, then a decay at the end of the run: its last tenth, or num_decay_steps.
    WarmupStableDecay,
    /// Falls along half a cosine to 0, num_cycles times.
    CosineWithRestarts,
    /// Falls along half a cosine to min_lr, or to min_lr_rate of the peak.
    CosineWithMinLr,
    /// As cosine_with_min_lr, one step ahead; the warm-up starts above 0.
    CosineWarmupWithMinLr,
}

impl LrSchedulerType {
    /// Its name, as it is typed.
    #[must_use]
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Further arguments, `key=value,…` or a JSON object; in a recipe also a mapping. Values stay as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValues(pub Vec<(String, String)>);

impl FromStr for KeyValues {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected key=value,… or a JSON object of plain values";
        let text = text.trim();
        let pairs: Vec<(String, String)> = if text.starts_with('{') {
            let json: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|e| format!("{EXPECTED}: {e}"))?;
            let plain = |value: serde_json::Value| match value {
                serde_json::Value::String(text) => Ok(text),
                serde_json::Value::Array(_) | serde_json::Value::Object(_) => Err(EXPECTED),
                value => Ok(value.to_string()),
            };
            json.into_iter()
                .map(|(key, value)| Ok((key, plain(value)?)))
                .collect::<Result<_, &str>>()?
        } else {
            text.split(',')
                .filter(|part| !part.trim().is_empty())
                .map(|part| {
                    let (key, value) = part.split_once('=').ok_or(EXPECTED)?;
                    Ok((key.trim().to_owned(), value.trim().to_owned()))
                })
                .collect::<Result<_, &str>>()?
        };
        for (i, (key, _)) in pairs.iter().enumerate() {
            if key.is_empty() {
                return Err(EXPECTED.into());
            }
            if pairs[..i].iter().any(|(earlier, _)| earlier == key) {
                return Err(format!("{key} is given twice"));
            }
        }
        Ok(Self(pairs))
    }
}

/// `key=value,…`
impl fmt::Display for KeyValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        f.write_str(&parts.join(","))
    }
}

impl KeyValues {
    /// As transformers writes `optim_args`.
    pub(super) fn as_text<S: Serializer>(
        value: &Option<Self>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value.as_ref().unwrap_or(&Self::default()))
    }
}

/// Sequences of token ids, `[[1, 2], [3]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenLists(pub Vec<Vec<u32>>);

impl FromStr for TokenLists {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "expected JSON lists of token ids, none of them empty: [[1, 2], [3]]";
        let lists: Vec<Vec<u32>> = serde_json::from_str(text).map_err(|_| EXPECTED)?;
        match lists.is_empty() || lists.iter().any(Vec::is_empty) {
            true => Err(EXPECTED.into()),
            false => Ok(Self(lists)),
        }
    }
}

/// As transformers reads `lr_scheduler_kwargs`: a mapping; numbers are numbers.
impl Serialize for KeyValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, text)| {
            let number = serde_json::from_str::<serde_json::Number>(text).ok();
            let value = number.map_or_else(|| text.as_str().into(), serde_json::Value::Number);
            (key, value)
        }))
    }
}

/// Order in which training examples are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SamplingStrategy {
    /// A new random order each epoch.
    Random,
    /// The order of the file.
    Sequential,
    /// Random, examples of similar length together.
    GroupByLength,
}

/// Which side to take where a paper and TRL define an objective differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Semantics {
    /// The formula of the paper.
    Paper,
    /// What TRL computes.
    Trl,
}

/// Remedies against gradient entanglement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Remedy {
    /// The objective's own coefficients.
    None,
    /// Normalized preference optimization: unit gradients.
    Normalized,
    /// The smallest change of the coefficients that makes every pair ideal to first order.
    Guarded,
    /// Reward calibration of the batch.
    Calibrated,
}

/// Scale of normalized preference optimization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum NpoScale {
    /// Unit gradients, as in the paper.
    Unit,
    /// Unit gradients times the geometric mean of the two norms, so that usual learning rates fit.
    Geometric,
}

/// Token masks of sparse preference optimization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum TokenMask {
    /// Every completion token counts fully.
    None,
    /// A linear map of the final hidden state, trained with the model.
    Head,
    /// One free number for each completion token of the data set.
    Free,
    /// 0 on tokens that both completions share, 1 elsewhere; no parameters.
    Diff,
}

/// Divergence that replaces the reverse KL in DPO's reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum FDivergence {
    /// Reverse KL: plain DPO.
    ReverseKl,
    /// Forward KL.
    ForwardKl,
    /// Jensen-Shannon.
    JsDivergence,
    /// The α-divergence.
    AlphaDivergence,
}

/// Parameters over which a diagnosis takes gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Parameters {
    /// Every parameter of the model; an adapter is merged first.
    All,
    /// The low-rank adapter's: the one that the model has, else a fresh one.
    Lora,
}

/// How often a training run measures something: `off`, `every` (optimizer step) or each Nth step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// Never.
    Off,
    /// Each `N`th optimizer step; `every` is `EachNth(1)`. Never 0.
    EachNth(u64),
}

impl FromStr for Geometry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<u64>()) {
            ("off", _) | (_, Ok(0)) => Ok(Self::Off),
            (_, Ok(n)) if n as f64 > MOST_STEPS => {
                Err(format!("expected at most {MOST_STEPS} steps"))
            }
            ("every", _) => Ok(Self::EachNth(1)),
            (_, Ok(n)) => Ok(Self::EachNth(n)),
            _ => Err("expected off, every or a number of steps".into()),
        }
    }
}

impl Geometry {
    /// Steps from one measurement to the next; `None` for never.
    #[must_use]
    pub fn steps(self) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::EachNth(n) => Some(n),
        }
    }
}

/// How often a training run attributes its held-out changes: `off`, `auto` (as often as a tenth of the time allows),
/// `every` step or each Nth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Never.
    Off,
    /// At most a tenth of the run's time, but at least five steps.
    Auto,
    /// Each `N`th optimizer step. Never 0.
    EachNth(u64),
}

impl FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let geometry = Geometry::from_str(text);
        let geometry = geometry.map_err(|_| "expected auto, off, every or a number of steps")?;
        Ok(geometry.steps().map_or(Self::Off, Self::EachNth))
    }
}

impl Serialize for Attribute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Auto => serializer.serialize_str("auto"),
            Self::EachNth(1) => serializer.serialize_str("every"),
            Self::EachNth(n) => serializer.serialize_u64(*n),
        }
    }
}

impl Serialize for Geometry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::EachNth(1) => serializer.serialize_str("every"),
            Self::EachNth(n) => serializer.serialize_u64(*n),
        }
    }
}

/// From which checkpoint a run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// From none: a fresh run.
    No,
    /// From the newest intact checkpoint in the output directory.
    Latest,
    /// From this checkpoint directory.
    From(std::path::PathBuf),
}

impl FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "false" | "False" => Self::No,
            "true" | "True" => Self::Latest,
            "" => return Err("expected true, false or a checkpoint directory".into()),
            path => Self::From(path.into()),
        })
    }
}

impl Serialize for Resume {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_bool(false),
            Self::Latest => serializer.serialize_bool(true),
            Self::From(path) => path.serialize(serializer),
        }
    }
}

/// Largest magnitude of a number with a fraction: what 32 bits hold.
const LARGEST: f64 = 1e38;
/// Smallest number that still counts as above 0: far from underflow in 32 bits.
const SMALLEST: f64 = 1e-30;

/// A finite number; `1e-6` and `5.0e-6` are both read.
fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err("expected a finite number".into()),
        Err(_) => Err("expected a number".into()),
    }
}

/// A number within the bounds of 32-bit arithmetic.
pub(super) fn finite(text: &str) -> Result<f64, String> {
    match number(text)? {
        value if value.abs() <= LARGEST => Ok(value),
        _ => Err(format!(
            "expected a number from -{LARGEST:e} to {LARGEST:e}"
        )),
    }
}

/// A number of at least 0.
pub(super) fn non_negative(text: &str) -> Result<f64, String> {
    match number(text)? {
        value if value > LARGEST => Err(format!("expected a number from 0 to {LARGEST:e}")),
        value if value >= 0.0 => Ok(value),
        _ => Err("expected a number of at least 0".into()),
    }
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match number(text)? {
        value if value > LARGEST => Err(format!("expected a number above 0, at most {LARGEST:e}")),
        value if value >= SMALLEST => Ok(value),
        value if value > 0.0 => Err(format!("expected a number of at least {SMALLEST:e}")),
        _ => Err("expected a number above 0".into()),
    }
}

/// Passes over the data: above 0, at most a million.
pub(super) fn epochs(text: &str) -> Result<f64, String> {
    const MOST: f64 = 1e6;
    match number(text)? {
        value if value > MOST => Err(format!("expected a number above 0, at most {MOST}")),
        _ => positive(text),
    }
}

/// Whether a text is a whole number, however large.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A whole number from 1 to `MAX`.
pub(super) fn count_to<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(value) if value <= MAX => Ok(value),
        Ok(_) => Err(format!("expected a whole number from 1 to {MAX}")),
        Err(_) if is_whole(text) => Err(format!("expected a whole number from 1 to {MAX}")),
        Err(_) => Err("expected a whole number of at least 1".into()),
    }
}

/// A whole number from 0 to `MAX`.
pub(super) fn whole_to<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value <= MAX => Ok(value),
        Ok(_) => Err(format!("expected a whole number from 0 to {MAX}")),
        Err(_) if is_whole(text) => Err(format!("expected a whole number from 0 to {MAX}")),
        Err(_) => Err("expected a whole number of at least 0".into()),
    }
}

/// A seed: any whole number of 64 bits.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| match is_whole(text) {
        true => format!("expected a whole number from 0 to {}", u64::MAX),
        false => "expected a whole number of at least 0".into(),
    })
}

/// A whole number of at least 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(value) => Ok(value),
        Err(_) if is_whole(text) => {
            Err(format!("expected a whole number from 1 to {}", usize::MAX))
        }
        Err(_) => Err("expected a whole number of at least 1".into()),
    }
}

/// A number in [0, 1).
pub(super) fn below_one(text: &str) -> Result<f64, String> {
    match finite(text)? {
        value if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 up to, but not including, 1".into()),
    }
}

/// A number in [0, 1].
pub(super) fn share(text: &str) -> Result<f64, String> {
    match finite(text)? {
        value if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

/// A number in (0, 1].
pub(super) fn positive_share(text: &str) -> Result<f64, String> {
    match finite(text)? {
        value if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("expected a number above 0, at most 1".into()),
    }
}

/// A probability of a flipped label, in [0, 0.5).
pub(super) fn flip_probability(text: &str) -> Result<f64, String> {
    match finite(text)? {
        value if (0.0..0.5).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 up to, but not including, 0.5".into()),
    }
}

/// A path or name that is not empty.
pub(super) fn non_empty(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("expected a name or path, found nothing".into()),
        _ => Ok(text.to_owned()),
    }
}

/// A limit of optimizer steps: at least 1, or -1 for none.
pub(super) fn step_limit(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(steps) if steps >= 1 && steps as f64 > MOST_STEPS => Err(format!(
            "expected at most {MOST_STEPS} steps, or -1 for no limit"
        )),
        Ok(steps) if steps == -1 || steps >= 1 => Ok(steps),
        Err(_) if is_whole(text) => Err(format!(
            "expected at most {MOST_STEPS} steps, or -1 for no limit"
        )),
        _ => Err("expected a whole number of at least 1, or -1 for no limit".into()),
    }
}

/// A number of steps between two events: not 0.
pub(super) fn interval(text: &str) -> Result<Steps, String> {
    match text.parse()? {
        Steps(0.0) => Err("expected a number of steps above 0".into()),
        steps => Ok(steps),
    }
}
