//! `unbraid data …`: data sets made from raw material.

use super::{End, load, output};
use crate::cli::{DataCommand, RowFormat, SentimentDataConfig};
use anyhow::{Context, Result, bail};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use unbraid_model::weights::write_file_atomic;
use unbraid_preference::{DatasetSource, stream_whole_rows};
use unbraid_reproduce::{
    PreferenceRow, Style, TokenCheck, Tweet, TweetSplit, check_tokens, preference_rows, sft_rows,
    split_tweets,
};
use unbraid_text::Tokenizer;

/// Makes a data set.
pub(super) fn run(what: &DataCommand) -> Result<End> {
    match what {
        DataCommand::Sentiment(config) => sentiment(config),
    }
}

fn sentiment(config: &SentimentDataConfig) -> Result<End> {
    let tokenizer = config.model_name_or_path.as_deref().map(tokenizer_of);
    let tokenizer = tokenizer.transpose()?;
    let split = read_tweets(&config.tweets, config.test_share, config.seed)?;
    let dir = &config.output_dir;
    output::prepare_dir(dir, config.overwrite_output_dir)?;
    write_style(&split, config.style, dir, config.format)?;
    say_counts(&split);
    let check = tokenizer
        .map(|tokenizer| check_style(&split, config.style, &tokenizer))
        .transpose()?;
    match &check {
        Some(check) => say_check(config.style, check),
        None => say!(
            "whether the completions differ in exactly one token was not checked; --model-name-or-path names a tokenizer"
        ),
    }
    say!("written to {}", dir.display());
    if config.json {
        let result = json!({
            "output_dir": dir,
            "style": config.style,
            "counts": split.counts,
            "train": split.train.len(),
            "test": split.test.len(),
            "tokens": check,
        });
        output::print(&format!("{result:#}\n"))?;
    }
    Ok(End::Done)
}

/// The tokenizer of a model, or of a directory that holds only a tokenizer.
fn tokenizer_of(name: &str) -> Result<Tokenizer> {
    let path = load::locate(name)?;
    match path.join("tokenizer.json").is_file() {
        true => load::tokenizer(&path, None),
        false => load::source_tokenizer(&load::open(name, None)?),
    }
}

/// Reads and splits tweets.
pub(super) fn read_tweets(name: &str, test_share: f64, seed: u64) -> Result<TweetSplit> {
    let source = DatasetSource {
        name: name.to_owned(),
        split: "train".to_owned(),
        ..DatasetSource::default()
    };
    let mut tweets = Vec::new();
    for row in stream_whole_rows(&source)? {
        let row = row?;
        let columns = row.columns.as_ref().context("rows were read whole")?;
        let tweet = Tweet::from_columns(columns).with_context(|| row.location.to_string())?;
        tweets.push(tweet);
    }
    let split = split_tweets(tweets, test_share, seed);
    if split.train.is_empty() {
        bail!("{name}: no positive or negative tweet is left for training");
    }
    Ok(split)
}

/// Writes `sft/` and `preference/`, each with a train and a test file.
pub(super) fn write_style(
    split: &TweetSplit,
    style: Style,
    dir: &Path,
    format: RowFormat,
) -> Result<()> {
    for (name, tweets) in [("train", &split.train), ("test", &split.test)] {
        write_rows(&dir.join("sft"), name, format, &sft_rows(tweets, style))?;
        let pairs = preference_rows(tweets, style);
        write_rows(&dir.join("preference"), name, format, &pairs)?;
    }
    Ok(())
}

fn write_rows<T: Serialize>(dir: &Path, name: &str, format: RowFormat, rows: &[T]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    match format {
        RowFormat::Jsonl => output::write_jsonl(&dir.join(format!("{name}.jsonl")), rows),
        RowFormat::Parquet => {
            let path = dir.join(format!("{name}.parquet"));
            Ok(write_file_atomic(&path, &parquet_of(rows)?)?)
        }
    }
}

/// Rows of strings as a Parquet file.
fn parquet_of<T: Serialize>(rows: &[T]) -> Result<Vec<u8>> {
    let rows: Vec<Value> = rows
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()?;
    let first = rows.first().and_then(Value::as_object);
    let names = first.map(|row| row.keys().cloned().collect::<Vec<_>>());
    let column = |name: &String| -> (String, ArrayRef) {
        let cells = rows.iter().map(|row| row[name].as_str());
        (name.clone(), Arc::new(StringArray::from_iter(cells)))
    };
    let columns = names.iter().flatten().map(column);
    let batch = RecordBatch::try_from_iter(columns)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

/// Says where the tweets went.
pub(super) fn say_counts(split: &TweetSplit) {
    let c = split.counts;
    say!(
        "{} rows: {} positive, {} negative; dropped {} neutral, {} empty, {} repeated",
        c.rows,
        c.positive,
        c.negative,
        c.neutral,
        c.empty,
        c.repeated
    );
    say!(
        "split: {} for training, {} held out",
        split.train.len(),
        split.test.len()
    );
}

/// Looks at every row of a style through a tokenizer.
pub(super) fn check_style(
    split: &TweetSplit,
    style: Style,
    tokenizer: &Tokenizer,
) -> Result<TokenCheck> {
    let tweets = [&split.train[..], &split.test[..]].concat();
    let rows: Vec<PreferenceRow> = preference_rows(&tweets, style);
    Ok(check_tokens(&rows, tokenizer)?)
}

/// Says whether the completions differ in exactly one token, and where not.
pub(super) fn say_check(style: Style, check: &TokenCheck) {
    let example = check.example.as_ref();
    let tokens = example.map(|(w, l)| format!(" ({w:?} against {l:?}, say)"));
    say!(
        "{style}: chosen and rejected differ in exactly one token in {} of {} rows{}",
        check.one_token,
        check.rows,
        tokens.unwrap_or_default()
    );
    if check.one_token < check.rows {
        note!(
            "not so in {} rows (by their number in train, then test: {:?}{}): under this tokenizer the labels are \
             several tokens, or the tweet's end merges with the completion",
            check.rows - check.one_token,
            check.others,
            if check.rows - check.one_token > check.others.len() {
                ", …"
            } else {
                ""
            }
        );
    }
}
