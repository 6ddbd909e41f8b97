//! From tweets to the sentiment experiment's rows (paper §4.2, appendix C.4).
//!
//! Prompt: the tweet, without white space around it. Chosen: its label in the style's sentence; rejected: the other
//! label. Tweets that are neutral or empty are dropped. The split is a function of seed and tweets alone, the same
//! for every style.

use crate::style::Style;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Map, Value};
use unbraid_text::{TextError, Tokenizer};

/// A tweet with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tweet {
    /// The text, trimmed.
    pub text: String,
    /// Positive (true) or negative; `None` for neutral ones.
    pub positive: Option<bool>,
}

/// Why a row is no tweet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TweetError {
    /// A column is missing or not a string.
    #[error("no text in column {expected} (the row has {found})")]
    Column {
        /// The columns of which one must be there.
        expected: &'static str,
        /// Those that are.
        found: String,
    },
    /// The label is unknown.
    #[error("the label {label:?} is none of positive, negative, neutral")]
    Label {
        /// What stands there.
        label: String,
    },
}

impl Tweet {
    /// Reads a row with columns `text` and `sentiment` (or `label_text`).
    ///
    /// # Errors
    /// [`TweetError`]. An empty or missing text is an empty tweet, no error.
    pub fn from_columns(columns: &Map<String, Value>) -> Result<Self, TweetError> {
        let found = || columns.keys().cloned().collect::<Vec<_>>().join(", ");
        let label = columns.get("sentiment").or(columns.get("label_text"));
        let label = label
            .and_then(Value::as_str)
            .ok_or_else(|| TweetError::Column {
                expected: "sentiment or label_text",
                found: found(),
            })?;
        let positive = match label.trim().to_ascii_lowercase().as_str() {
            "positive" => Some(true),
            "negative" => Some(false),
            "neutral" => None,
            _ => {
                return Err(TweetError::Label {
                    label: label.to_owned(),
                });
            }
        };
        let text = match columns.get("text") {
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(Value::Null) => String::new(),
            _ => {
                return Err(TweetError::Column {
                    expected: "text",
                    found: found(),
                });
            }
        };
        Ok(Tweet { text, positive })
    }
}

/// How many tweets there were and where they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TweetCounts {
    /// Rows read.
    pub rows: usize,
    /// Dropped: no text.
    pub empty: usize,
    /// Dropped: neither positive nor negative.
    pub neutral: usize,
    /// Dropped: the same text again.
    pub repeated: usize,
    /// Kept, positive.
    pub positive: usize,
    /// Kept, negative.
    pub negative: usize,
}

/// Tweets that were split, ready to be put into any style.
#[derive(Clone, Debug, PartialEq)]
pub struct TweetSplit {
    /// For training, in random order.
    pub train: Vec<Tweet>,
    /// Held out.
    pub test: Vec<Tweet>,
    /// Texts of neutral tweets, in the order of the file: held-out text that no arm is trained on.
    pub neutral: Vec<String>,
    /// What was dropped.
    pub counts: TweetCounts,
}

/// Drops what has no sentiment and splits the rest; the same seed and tweets give the same split.
pub fn split_tweets(tweets: Vec<Tweet>, test_share: f64, seed: u64) -> TweetSplit {
    let mut counts = TweetCounts {
        rows: tweets.len(),
        ..TweetCounts::default()
    };
    let mut seen = std::collections::HashSet::new();
    let (mut kept, mut neutral) = (Vec::new(), Vec::new());
    for tweet in tweets {
        if tweet.text.is_empty() {
            counts.empty += 1;
        } else if !seen.insert(tweet.text.clone()) {
            // Else the same tweet could be on both sides of the split.
            counts.repeated += 1;
        } else {
            match tweet.positive {
                Some(true) => counts.positive += 1,
                Some(false) => counts.negative += 1,
                None => {
                    counts.neutral += 1;
                    neutral.push(tweet.text);
                    continue;
                }
            }
            kept.push(tweet);
        }
    }
    kept.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let held_out = (kept.len() as f64 * test_share).round() as usize;
    let train = kept.split_off(held_out.min(kept.len()));
    TweetSplit {
        train,
        test: kept,
        neutral,
        counts,
    }
}

/// A preference row: prompt, chosen, rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreferenceRow {
    /// The tweet.
    pub prompt: String,
    /// The true label in its sentence.
    pub chosen: String,
    /// The other label in the same sentence.
    pub rejected: String,
}

/// A row for supervised fine-tuning: prompt and the true judgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SftRow {
    /// The tweet.
    pub prompt: String,
    /// The true label in its sentence.
    pub completion: String,
}

/// Preference rows of labelled tweets.
pub fn preference_rows(tweets: &[Tweet], style: Style) -> Vec<PreferenceRow> {
    let labelled = tweets.iter().filter_map(|t| t.positive.map(|p| (t, p)));
    let row = |(tweet, positive): (&Tweet, bool)| PreferenceRow {
        prompt: tweet.text.clone(),
        chosen: style.completion(positive),
        rejected: style.completion(!positive),
    };
    labelled.map(row).collect()
}

/// Rows for supervised fine-tuning of labelled tweets.
pub fn sft_rows(tweets: &[Tweet], style: Style) -> Vec<SftRow> {
    let rows = preference_rows(tweets, style).into_iter();
    rows.map(|row| SftRow {
        prompt: row.prompt,
        completion: row.chosen,
    })
    .collect()
}

/// What a tokenizer makes of the two completions of every row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenCheck {
    /// Rows looked at.
    pub rows: usize,
    /// Rows whose completions have equal length and differ in exactly one token.
    pub one_token: usize,
    /// Rows where they differ otherwise, by their number in the order given; the first ten.
    pub others: Vec<usize>,
    /// Texts of the two tokens (chosen, rejected) of the first row that differs in one.
    pub example: Option<(String, String)>,
}

/// Checks that the completions differ in exactly one token behind their prompt.
///
/// # Errors
/// Text that the tokenizer cannot encode.
pub fn check_tokens(
    rows: &[PreferenceRow],
    tokenizer: &Tokenizer,
) -> Result<TokenCheck, TextError> {
    let mut check = TokenCheck {
        rows: rows.len(),
        ..TokenCheck::default()
    };
    for (number, row) in rows.iter().enumerate() {
        let encode = |completion: &str| {
            let text = format!("{}{completion}", row.prompt);
            tokenizer.encode(&text, true)
        };
        let (chosen, rejected) = (encode(&row.chosen)?, encode(&row.rejected)?);
        let differing: Vec<usize> = match chosen.len() == rejected.len() {
            true => (0..chosen.len())
                .filter(|&i| chosen[i] != rejected[i])
                .collect(),
            false => Vec::new(),
        };
        match differing[..] {
            [at] => {
                check.one_token += 1;
                let text = |id| tokenizer.token_label(id);
                let pair = || (text(chosen[at]), text(rejected[at]));
                check.example.get_or_insert_with(pair);
            }
            _ if check.others.len() < 10 => check.others.push(number),
            _ => {}
        }
    }
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tweet(text: &str, positive: Option<bool>) -> Tweet {
        Tweet {
            text: text.into(),
            positive,
        }
    }

    #[test]
    fn rows_are_read_and_bad_ones_are_named() {
        let read = |value: Value| Tweet::from_columns(value.as_object().expect("an object"));
        let found = read(json!({"text": " so good ", "sentiment": "positive"}));
        assert_eq!(found, Ok(tweet("so good", Some(true))));
        let found = read(json!({"text": "meh", "label_text": "Neutral"}));
        assert_eq!(found, Ok(tweet("meh", None)));
        let error = read(json!({"text": "x", "sentiment": "angry"})).unwrap_err();
        assert!(error.to_string().contains("angry"), "{error}");
        let error = read(json!({"text": "x"})).unwrap_err();
        assert!(
            error.to_string().contains("sentiment or label_text"),
            "{error}"
        );
    }

    #[test]
    fn the_split_drops_counts_and_repeats_itself() {
        let mut tweets: Vec<Tweet> = (0..50)
            .map(|i| tweet(&format!("t{i}"), Some(i % 2 == 0)))
            .collect();
        tweets.push(tweet("", Some(true)));
        tweets.push(tweet("n", None));
        tweets.push(tweet("t3", Some(true)));
        let split = split_tweets(tweets.clone(), 0.2, 7);
        assert_eq!((split.train.len(), split.test.len()), (40, 10));
        let counts = split.counts;
        assert_eq!(
            (counts.rows, counts.empty, counts.neutral, counts.repeated),
            (53, 1, 1, 1)
        );
        assert_eq!((counts.positive, counts.negative), (25, 25));
        assert_eq!(split.neutral, ["n"]);
        assert!(split.train.iter().all(|t| !split.test.contains(t)));
        assert_eq!(split, split_tweets(tweets.clone(), 0.2, 7));
        assert_ne!(split.test, split_tweets(tweets, 0.2, 8).test);
    }

    #[test]
    fn styles_by_hand() {
        let rows = |style| preference_rows(&[tweet("ugh", Some(false))], style).remove(0);
        let row = rows(Style::PrefixSuffix);
        assert_eq!(
            row.chosen,
            " It has a negative sentiment based on my judgement."
        );
        assert_eq!(
            row.rejected,
            " It has a positive sentiment based on my judgement."
        );
        // No full stop: nothing but EOS follows the token that differs.
        assert_eq!(rows(Style::SingleToken).chosen, " Negative");
        assert_eq!(rows(Style::ShortSuffix).chosen, " Negative sentiment.");
        assert_eq!(
            rows(Style::LongSuffix).rejected,
            " Positive sentiment based on my judgement."
        );
    }
}
