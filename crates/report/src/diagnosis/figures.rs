//! The figures of a diagnosis, in the order of a reader's questions: how entangled, where on the map, what would be
//! better, where it comes from, which cheap measure tells, and whether a real step agreed. A figure without data is
//! left out.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::record::{Case, Diagnosis};
use super::statistics::Bins;
use super::what_if;
use crate::figure::{Cell, Figure, Kind, Panel, Role, Series, Table};

/// More points of a scatter are thinned out evenly.
const MAX_POINTS: usize = 5_000;

/// Colours of a layer's parts: none that means a side or a case elsewhere.
const PARTS: [usize; 4] = [7, 4, 5, 6];

/// Cheap measures: field, name for a reader.
pub(crate) const PROXIES: [(&str, &str); 6] = [
    ("ches", "CHES"),
    ("ches_normalized", "length-normalised CHES"),
    ("edit_distance", "edit distance"),
    ("shared_tokens", "shared tokens"),
    ("head_inner", "head-only inner product"),
    ("head_cosine", "head-only cosine"),
];

/// All figures that come from the rows and the summary.
pub(crate) fn figures(of: &Diagnosis, command: Option<&String>) -> Vec<Figure> {
    let found = [
        distribution(of, command),
        super::plane::figure(of, command),
        what_if::figure(of, command),
        what_if::sweeps(of, command),
        groups(of, command),
        proxies(of, command),
        prediction(of, command),
    ];
    found.into_iter().flatten().collect()
}

/// A series over all rows of the table.
pub(super) fn over_all(name: &str, role: Role, x: &str, y: &str) -> Series {
    Series {
        rows: BTreeMap::new(),
        ..Series::new(name, role, ("", ""), x, y)
    }
}

/// One series for each case that occurs.
pub(super) fn case_series(present: impl Fn(Case) -> bool, x: &str) -> Vec<Series> {
    let cases = Case::ALL.into_iter().filter(|case| present(*case));
    cases
        .map(|case| over_all(case.name(), case.role(), x, case.key()))
        .collect()
}

pub(super) fn number(value: Option<f64>) -> Cell {
    value.map_or(Cell::Empty, Cell::Number)
}

pub(super) fn figure(
    id: &str,
    title: &str,
    caption: String,
    command: Option<&String>,
    panels: Vec<Panel>,
    table: Table,
) -> Figure {
    Figure {
        id: id.into(),
        title: title.into(),
        caption,
        command: command.cloned(),
        panels,
        csv: table.into_csv(),
    }
}

fn distribution(of: &Diagnosis, command: Option<&String>) -> Option<Figure> {
    let field = if of.proxies_only {
        "ches_normalized"
    } else {
        "grad_cosine"
    };
    let name = if of.proxies_only {
        "length-normalised CHES"
    } else {
        "cosine"
    };
    let bins = Bins::over(&of.values(field))?;
    let mut counts = vec![[0.0; 5]; bins.edges().count()];
    for pair in &of.pairs {
        let Some(value) = pair.get(field) else {
            continue;
        };
        let case = pair.outcome.map_or(Case::Still, |outcome| outcome.case);
        counts[bins.bin(value)][case as usize] += 1.0;
    }
    let header = [
        "quantity",
        "from",
        "middle",
        "to",
        "ideal",
        "both_fall",
        "both_rise",
        "reversed",
        "still",
        "chosen",
        "rejected",
    ];
    let mut table = Table::with_header(&header);
    for ((low, middle, high), counts) in bins.edges().zip(&counts) {
        let mut cells = vec![Cell::Text(name.into())];
        cells.extend([low, middle, high].map(Cell::Number));
        cells.extend(counts.map(Cell::Number));
        cells.extend([Cell::Empty, Cell::Empty]);
        table.push(&cells);
    }
    let judged = of.pairs.iter().any(|pair| pair.outcome.is_some());
    let mut histogram = Panel {
        kind: Kind::Histogram,
        x_label: if of.proxies_only {
            name.into()
        } else {
            "cosine between chosen and rejected gradient".into()
        },
        series: case_series(
            |case| counts.iter().any(|bin| bin[case as usize] > 0.0),
            "middle",
        ),
        ..Panel::over_steps(
            if of.proxies_only {
                "Length-normalised CHES"
            } else {
                "Gradient cosine"
            },
            "pairs",
        )
    };
    for series in &mut histogram.series {
        series.rows.insert("quantity".into(), name.into());
        if !judged {
            (series.name, series.role) = ("pairs".into(), Role::Plain);
        }
    }
    let mut panels = vec![histogram];
    panels.extend(norms(of, &mut table));
    let caption = if of.proxies_only {
        "CHES compares the summed hidden states of the two responses; the larger it is, the more a pair is expected to be \
         displaced. No gradients were measured."
            .to_string()
    } else {
        format!(
            "Near 1 the two gradients of a pair are almost the same, and no step along one leaves the other log-prob alone. \
             Colours tell what a step under {} does to the pairs of a bin; norms that differ between the sides decide which of \
             the two log-probs gives way.",
            of.objective()
        )
    };
    let title = if of.proxies_only {
        "Distribution of CHES"
    } else {
        "Distribution of cosines and norms"
    };
    Some(figure("cosines", title, caption, command, panels, table))
}

/// Frequencies of the logarithm of both norms, into the same table.
fn norms(of: &Diagnosis, table: &mut Table) -> Option<Panel> {
    let logs = |field: &str| -> Vec<f64> {
        let norms = of.values(field).into_iter().filter(|square| *square > 0.0);
        norms.map(|square| square.log10() / 2.0).collect()
    };
    let [chosen, rejected] = ["grad_sq_chosen", "grad_sq_rejected"].map(logs);
    let all: Vec<f64> = chosen.iter().chain(&rejected).copied().collect();
    let bins = Bins::over(&all)?;
    let count = |values: &[f64]| {
        let mut counts = vec![0.0; bins.edges().count()];
        values
            .iter()
            .for_each(|value| counts[bins.bin(*value)] += 1.0);
        counts
    };
    let (chosen, rejected) = (count(&chosen), count(&rejected));
    for (((low, middle, high), chosen), rejected) in bins.edges().zip(chosen).zip(rejected) {
        let mut cells = vec![Cell::Text("log10 norm".into())];
        cells.extend([low, middle, high].map(Cell::Number));
        cells.extend(vec![Cell::Empty; 5]);
        cells.extend([chosen, rejected].map(Cell::Number));
        table.push(&cells);
    }
    let series = [
        ("chosen ‖g_w‖", Role::Chosen, "chosen"),
        ("rejected ‖g_l‖", Role::Rejected, "rejected"),
    ];
    let series = series.map(|(name, role, column)| {
        Series::new(name, role, ("quantity", "log10 norm"), "middle", column)
    });
    Some(Panel {
        x_label: "log₁₀ of the gradient's norm".into(),
        series: series.into(),
        guide: true,
        ..Panel::over_steps("Gradient norms", "pairs in a bin")
    })
}

fn groups(of: &Diagnosis, command: Option<&String>) -> Option<Figure> {
    if of.summary.groups.is_empty() {
        return None;
    }
    let mut rows: Vec<(Option<u64>, &str, &str)> = Vec::new();
    for name in of.summary.groups.keys() {
        let layer = name
            .strip_prefix("layers.")
            .and_then(|rest| rest.split_once('.'));
        let layer = layer.and_then(|(layer, part)| Some((layer.parse::<u64>().ok()?, part)));
        rows.push(layer.map_or((None, name, name), |(layer, part)| {
            (Some(layer), part, name)
        }));
    }
    rows.sort();
    let mut table = Table::with_header(&[
        "part",
        "layer",
        "group",
        "share",
        "grad_inner",
        "grad_cosine",
    ]);
    for (layer, part, name) in &rows {
        let group = &of.summary.groups[*name];
        table.push(&[
            Cell::Text((*part).into()),
            layer.map_or(Cell::Empty, |layer| Cell::Number(layer as f64)),
            Cell::Text((*name).into()),
            Cell::Number(group.share),
            Cell::Number(group.grad_inner),
            number(group.grad_cosine),
        ]);
    }
    let totals = whole_parts(of, &rows, &mut table);
    let mut parts: Vec<&str> = rows
        .iter()
        .filter(|row| row.0.is_some())
        .map(|row| row.1)
        .collect();
    parts.sort_unstable();
    parts.dedup();
    let by_layer = |title: &str, y_label: &str, column: &str| Panel {
        kind: Kind::Columns,
        percent: column == "share",
        x_label: "layer".into(),
        series: parts
            .iter()
            .zip(0..)
            .map(|(part, at)| {
                Series::new(
                    part_name(part),
                    Role::Run(PARTS[at % PARTS.len()]),
                    ("part", part),
                    "layer",
                    column,
                )
            })
            .collect(),
        ..Panel::over_steps(title, y_label)
    };
    let mut panels = vec![totals];
    if !parts.is_empty() {
        panels.push(by_layer(
            "By layer",
            "part of the mean inner product",
            "share",
        ));
        if of
            .summary
            .groups
            .values()
            .any(|group| group.grad_cosine.is_some())
        {
            panels.push(by_layer(
                "Cosine by layer",
                "median over the pairs",
                "grad_cosine",
            ));
        }
    }
    let caption = "The inner product of two gradients is a sum over parameters: this is where it comes from. Parts can be negative, \
                   where a group pulls the responses apart. A tied embedding and head are one group, and so are the norm weights of all \
                   layers."
        .to_string();
    Some(figure(
        "groups",
        "Where the inner product comes from",
        caption,
        command,
        panels,
        table,
    ))
}

/// Sums over the layers beside what is outside of them.
fn whole_parts(of: &Diagnosis, rows: &[(Option<u64>, &str, &str)], table: &mut Table) -> Panel {
    let mut sums: Vec<(String, f64, f64)> = Vec::new();
    for (layer, part, name) in rows {
        let group = &of.summary.groups[*name];
        let label = if layer.is_some() {
            format!("all {}", part_name(part))
        } else {
            part_name(part).to_string()
        };
        match sums.iter_mut().find(|sum| sum.0 == label) {
            Some(sum) => (sum.1, sum.2) = (sum.1 + group.share, sum.2 + group.grad_inner),
            None => sums.push((label, group.share, group.grad_inner)),
        }
    }
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (label, share, inner) in sums {
        table.push(&[
            Cell::Text("sum".into()),
            Cell::Empty,
            Cell::Text(label),
            Cell::Number(share),
            Cell::Number(inner),
            Cell::Empty,
        ]);
    }
    Panel {
        kind: Kind::Bars,
        percent: true,
        x_label: "part of the mean inner product".into(),
        series: vec![Series::new(
            "share",
            Role::Plain,
            ("part", "sum"),
            "group",
            "share",
        )],
        ..Panel::over_steps("By kind", "sums over the layers")
    }
}

/// A part of a model as a reader reads it.
pub(crate) fn part_name(part: &str) -> &str {
    match part {
        "mlp" => "MLP",
        "norms" | "norm" => "norm weights",
        other => other,
    }
}

fn proxies(of: &Diagnosis, command: Option<&String>) -> Option<Figure> {
    let known: Vec<(&str, &str)> = PROXIES
        .into_iter()
        .filter(|(field, _)| {
            of.pairs
                .iter()
                .any(|pair| pair.get(field).is_some() && pair.get("grad_cosine").is_some())
        })
        .collect();
    if known.is_empty() {
        return None;
    }
    let mut header = vec!["index", "cosine"];
    header.extend(known.iter().map(|(field, _)| *field));
    let mut table = Table::with_header(&header);
    let every = of.pairs.len().div_ceil(MAX_POINTS).max(1);
    for pair in of.pairs.iter().step_by(every) {
        let mut cells = vec![
            Cell::Number(pair.index as f64),
            number(pair.get("grad_cosine")),
        ];
        cells.extend(known.iter().map(|(field, _)| number(pair.get(field))));
        table.push(&cells);
    }
    let panels = known.iter().map(|(field, name)| Panel {
        kind: Kind::Scatter,
        x_label: (*name).into(),
        series: vec![over_all("pairs", Role::Plain, field, "cosine")],
        ..Panel::over_steps(name, "exact gradient cosine")
    });
    let mut caption = "Measures that need no gradient, beside the exact cosine on these very pairs. Where the points follow a rising or \
                       falling band, the measure can stand in for the gradients on more data of this kind."
        .to_string();
    if every > 1 {
        caption += &format!(" One in {every} pairs is drawn.");
    }
    Some(figure(
        "proxies",
        "Cheap measures beside the truth",
        caption,
        command,
        panels.collect(),
        table,
    ))
}

fn prediction(of: &Diagnosis, command: Option<&String>) -> Option<Figure> {
    let header = [
        "index",
        "predicted_chosen",
        "update_chosen",
        "realised_chosen",
        "predicted_rejected",
        "update_rejected",
        "realised_rejected",
    ];
    let mut table = Table::with_header(&header);
    for pair in &of.pairs {
        let Some(step) = pair.step else { continue };
        let mut cells = vec![Cell::Number(pair.index as f64)];
        cells.extend(
            [
                step.predicted_chosen,
                step.update_chosen,
                step.realised_chosen,
                step.predicted_rejected,
                step.update_rejected,
                step.realised_rejected,
            ]
            .map(|value| number(Some(value).filter(|value| value.is_finite()))),
        );
        table.push(&cells);
    }
    if table.len() == 0 {
        return None;
    }
    let kinds = [
        ("predicted", "Plain gradient descent, own pair"),
        ("update", "The update that was made"),
    ];
    let panels = kinds.map(|(kind, title)| Panel {
        kind: Kind::Scatter,
        guide: true,
        x_label: "predicted change, nats".into(),
        series: [("chosen", Role::Chosen), ("rejected", Role::Rejected)]
            .map(|(side, role)| {
                over_all(
                    side,
                    role,
                    &format!("{kind}_{side}"),
                    &format!("realised_{side}"),
                )
            })
            .into(),
        ..Panel::over_steps(title, "realised change, nats")
    });
    let findings = Findings {
        of,
        number: crate::page::number,
    };
    let words = findings.first_order().unwrap_or_default();
    let caption = format!(
        "Each point is a side of a pair that was scored again after a real optimizer step on that pair alone, from the same \
         parameters each time. On the dashed line prediction and reality agree. {words}"
    );
    Some(figure(
        "prediction",
        "Prediction against reality",
        caption,
        command,
        panels.into(),
        table,
    ))
}
