//! The table of pairs: one block of JSON that `assets/pairs.js` shows page by page, sorts and searches.
//!
//! Numbers keep five significant digits, which is more than a cell shows; columns that no pair has are left out. At most
//! [`MAX_PAIRS`] pairs are in the page, the most harmful first.

use std::collections::HashSet;

use serde::Serialize;

use super::figures::PROXIES;
use super::record::{Diagnosis, Pair};
use super::texts::{self, Text, shared_start};
use crate::error::Result;
use crate::page::{Section, push};

/// Some five megabytes of text; the files have the rest.
pub(crate) const MAX_PAIRS: usize = 5_000;

/// A column: key (a field of the files), heading, what it means, and how it is got.
type Column = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Pair) -> Option<f64>,
);

const COLUMNS: [Column; 19] = [
    (
        "grad_cosine",
        "cosine",
        "cosine between chosen and rejected gradient",
        |p| p.get("grad_cosine"),
    ),
    (
        "chosen_ratio",
        "inner/chosen²",
        "inner product over the chosen gradient's squared norm",
        |p| p.ratios().map(|r| r.0),
    ),
    (
        "rejected_ratio",
        "inner/rejected²",
        "inner product over the rejected gradient's squared norm",
        |p| p.ratios().map(|r| r.1),
    ),
    (
        "delta_chosen",
        "Δ chosen",
        "first-order change of the chosen log-prob, nats per unit learning rate",
        |p| p.outcome.map(|o| o.delta_chosen),
    ),
    (
        "delta_rejected",
        "Δ rejected",
        "first-order change of the rejected log-prob, nats per unit learning rate",
        |p| p.outcome.map(|o| o.delta_rejected),
    ),
    (
        "chosen_logps",
        "log p chosen",
        "log-prob of the chosen completion, nats",
        |p| p.get("chosen_logps"),
    ),
    (
        "rejected_logps",
        "log p rejected",
        "log-prob of the rejected completion, nats",
        |p| p.get("rejected_logps"),
    ),
    ("reward_margin", "margin", "implicit reward margin", |p| {
        p.get("reward_margin")
    }),
    (
        "chosen_len",
        "tokens chosen",
        "completion tokens of chosen",
        |p| p.get("chosen_len"),
    ),
    (
        "rejected_len",
        "tokens rejected",
        "completion tokens of rejected",
        |p| p.get("rejected_len"),
    ),
    (
        "realised_chosen",
        "realised chosen",
        "change of the chosen log-prob in a real step, nats",
        |p| p.step.map(|s| s.realised_chosen),
    ),
    (
        "realised_rejected",
        "realised rejected",
        "change of the rejected log-prob in a real step, nats",
        |p| p.step.map(|s| s.realised_rejected),
    ),
    (
        "ches_normalized",
        "CHES/length",
        "length-normalised CHES score",
        |p| p.get("ches_normalized"),
    ),
    ("ches", "CHES", "CHES score", |p| p.get("ches")),
    (
        "edit_distance",
        "edit distance",
        "token edit distance over the longer length",
        |p| p.get("edit_distance"),
    ),
    (
        "shared_tokens",
        "shared tokens",
        "share of tokens that both completions have",
        |p| p.get("shared_tokens"),
    ),
    (
        "head_cosine",
        "head cosine",
        "cosine of the head's gradients alone",
        |p| p.get("head_cosine"),
    ),
    (
        "head_inner",
        "head inner",
        "inner product of the head's gradients alone",
        |p| p.get("head_inner"),
    ),
    (
        "grad_inner",
        "inner",
        "inner product of the two gradients",
        |p| p.get("grad_inner"),
    ),
];

/// What the script reads.
#[derive(Serialize)]
struct Block<'a> {
    columns: Vec<Heading>,
    /// Index, case, then the columns.
    rows: Vec<(u64, &'static str, Vec<Option<f64>>)>,
    texts: Vec<Option<&'a Text>>,
    /// Bytes that all prompts share at their start: skipped where only the beginning is shown.
    start: usize,
    maps: &'a [u64],
}

#[derive(Serialize)]
struct Heading {
    key: &'static str,
    name: &'static str,
    title: &'static str,
}

/// The section of the page; texts are read for the pairs that are shown.
pub(crate) fn section(of: &Diagnosis, maps: &[u64], notes: &mut Vec<String>) -> Result<Section> {
    let mut order = of.by_harm();
    let total = order.len();
    order.truncate(MAX_PAIRS);
    let pairs: Vec<&Pair> = order.into_iter().map(|at| &of.pairs[at]).collect();
    let wanted: HashSet<u64> = pairs.iter().map(|pair| pair.index).collect();
    let texts = texts::read(&of.dir, &wanted, notes)?;
    let present = |column: &&Column| {
        pairs
            .iter()
            .any(|pair| column.3(pair).is_some_and(f64::is_finite))
    };
    let mut columns: Vec<&Column> = COLUMNS.iter().filter(present).collect();
    if of.proxies_only {
        columns.sort_by_key(|(key, ..)| PROXIES.iter().all(|(field, _)| field != key));
    }
    let value =
        |pair: &Pair, column: &Column| column.3(pair).filter(|v| v.is_finite()).map(five_digits);
    let prompts: Vec<&str> = pairs
        .iter()
        .filter_map(|pair| Some(texts.get(&pair.index)?.prompt.as_str()))
        .collect();
    let block = Block {
        columns: columns
            .iter()
            .map(|(key, name, title, _)| Heading { key, name, title })
            .collect(),
        rows: pairs
            .iter()
            .map(|pair| {
                let case = pair.outcome.map_or("", |outcome| outcome.case.key());
                (
                    pair.index,
                    case,
                    columns.iter().map(|column| value(pair, column)).collect(),
                )
            })
            .collect(),
        texts: pairs.iter().map(|pair| texts.get(&pair.index)).collect(),
        start: prompts.first().map_or(0, |first| {
            first[..shared_start(&prompts)].encode_utf16().count()
        }),
        maps,
    };
    let json = serde_json::to_string(&block)
        .expect("the block holds only text, numbers and lists")
        .replace('<', "\\u003c");
    let mut html = String::new();
    let shown = pairs.len();
    let order = if of.proxies_only {
        "The largest length-normalised CHES first. "
    } else if pairs.first().is_some_and(|pair| pair.harm() > 0.0) {
        "The most harmful first: chosen loses or rejected gains most; then by the cosine. "
    } else {
        "No pair is harmed; those with the most alike gradients first. "
    };
    push(&mut html, format_args!("<p class=\"lead\">{order}"));
    if shown < total {
        push(
            &mut html,
            format_args!(
                "The {shown} most harmful of {total} pairs are here; the files have all. "
            ),
        );
    }
    push(
        &mut html,
        format_args!(
            "Headings sort, the arrow keys walk along the rows, Enter opens a pair with its text.</p>\n\
             <div id=\"pairs-view\"></div>\n<script type=\"application/json\" id=\"pairs-data\">{json}</script>\n"
        ),
    );
    Ok(Section {
        id: "pairs".into(),
        title: "The pairs".into(),
        html,
    })
}

fn five_digits(value: f64) -> f64 {
    if value.fract() == 0.0 {
        return value + 0.0;
    }
    format!("{value:.4e}").parse().unwrap_or(value)
}
