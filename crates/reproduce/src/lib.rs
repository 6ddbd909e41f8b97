//! The paper's experiments (arXiv 2410.13828, §3.3 and §4.2): their data, their arms, what is measured of them, and
//! the judgement of claims.
//!
//! ```text
//! tweets ─ tweet ─ style ─ files of pairs and texts ─┐
//!                                                    ├─ plan: arms, each an ordinary `unbraid train` recipe
//! preference pairs ──────────────────────────────────┘      │
//!                      metrics.jsonl, drift of the last model ─ results ─ claims ─ results.json
//! ```
//!
//! Knows nothing of pages; training itself is `unbraid-train`'s.

pub mod claims;
mod drift;
mod extent;
pub mod objectives;
mod recipe;
mod results;
pub mod sentiment;
mod statistic;
mod style;
mod tweets;

pub use drift::{Drift, drift, drift_in_slices};
pub use extent::Extent;
pub use recipe::{REMEDIES, Recipe, remedy};
pub use results::{
    ArmResult, Claim, Evaluation, HeatMapFile, Outcome, Prediction, Results, RunResult, Verdict,
};
pub use statistic::{Estimate, estimate, over_seeds};
pub use style::Style;
pub use tweets::{
    PreferenceRow, SftRow, TokenCheck, Tweet, TweetCounts, TweetError, TweetSplit, check_tokens,
    preference_rows, sft_rows, split_tweets,
};
