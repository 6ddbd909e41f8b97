//! The four sentences in which a sentiment judgement stands (paper §4.2).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where the differing token stands in its sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// Nothing but the judgement. The paper writes a full stop behind it; it is left out here, so that exactly one
    /// token differs and nothing follows it but EOS.
    SingleToken,
    /// Two tokens behind it.
    ShortSuffix,
    /// A clause behind it.
    LongSuffix,
    /// Words before and a clause behind it.
    PrefixSuffix,
}

impl Style {
    /// All of them, in the order of the paper.
    pub const ALL: [Style; 4] = [
        Style::SingleToken,
        Style::ShortSuffix,
        Style::LongSuffix,
        Style::PrefixSuffix,
    ];

    /// Its name in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Style::SingleToken => "single-token",
            Style::ShortSuffix => "short-suffix",
            Style::LongSuffix => "long-suffix",
            Style::PrefixSuffix => "prefix-suffix",
        }
    }

    /// The completion behind a tweet, from its separating space on.
    pub fn completion(self, positive: bool) -> String {
        let word = match (positive, self) {
            (true, Style::PrefixSuffix) => "positive",
            (false, Style::PrefixSuffix) => "negative",
            (true, _) => "Positive",
            (false, _) => "Negative",
        };
        match self {
            Style::SingleToken => format!(" {word}"),
            Style::ShortSuffix => format!(" {word} sentiment."),
            Style::LongSuffix => format!(" {word} sentiment based on my judgement."),
            Style::PrefixSuffix => format!(" It has a {word} sentiment based on my judgement."),
        }
    }
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Style {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Style::ALL.into_iter().find(|style| style.name() == text);
        found.ok_or_else(|| {
            let names = Style::ALL.map(Style::name).join(", ");
            format!("expected one of {names}")
        })
    }
}
