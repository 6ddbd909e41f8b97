//! What each objective would do to the pairs, from the same gradients: bars, the table below them, and sweeps over one
//! parameter.

use super::advice;
use super::figures::{self, case_series, number as cell};
use super::findings::share;
use super::record::{Case, Diagnosis};
use super::summary::{Cases, Totals};
use crate::figure::{Cell, Figure, Kind, Panel, Table};
use crate::page::{escape, number, push, signed};

/// Objectives and remedies, the most ideal pairs first.
fn ranked(of: &Diagnosis) -> Vec<(&str, &Totals)> {
    let known = of.summary.objectives.iter();
    let known = known.filter(|(_, totals)| totals.cases.total() > 0.0);
    let mut ranked: Vec<(&str, &Totals)> = known
        .map(|(name, totals)| (name.as_str(), totals))
        .collect();
    // Sizes cannot be compared between objectives: equals stand as a reader looks for them, the configured one first.
    ranked.sort_by(|a, b| {
        let share = |totals: &Totals| totals.cases.share(Case::Ideal);
        let place = |name: &str| (name != of.objective(), advice::rank(name));
        let by_ideal = share(b.1).total_cmp(&share(a.1));
        by_ideal.then_with(|| place(a.0).cmp(&place(b.0)))
    });
    ranked
}

fn shares(cases: Cases) -> impl Iterator<Item = Cell> {
    Case::ALL
        .into_iter()
        .map(move |case| Cell::Number(cases.share(case)))
}

pub(super) fn figure(of: &Diagnosis, command: Option<&String>) -> Option<Figure> {
    let ranked = ranked(of);
    if ranked.is_empty() {
        return None;
    }
    let header = [
        "objective",
        "ideal",
        "both_fall",
        "both_rise",
        "reversed",
        "still",
        "pairs",
        "delta_chosen",
        "delta_rejected",
        "d_w",
        "d_l",
    ];
    let mut table = Table::with_header(&header);
    for (name, totals) in &ranked {
        let mut cells = vec![Cell::Text(label(name, of))];
        cells.extend(shares(totals.cases));
        cells.push(Cell::Number(totals.cases.total()));
        cells.extend(
            [
                totals.delta_chosen,
                totals.delta_rejected,
                totals.d_w,
                totals.d_l,
            ]
            .map(cell),
        );
        table.push(&cells);
    }
    let panel = Panel {
        kind: Kind::StackedBars,
        percent: true,
        x_label: "share of the pairs".into(),
        series: case_series(
            |case| {
                ranked
                    .iter()
                    .any(|(_, totals)| totals.cases.count(case) > 0.0)
            },
            "objective",
        ),
        ..Panel::over_steps(
            "Cases under each objective",
            "objective, the most ideal pairs first",
        )
    };
    let caption = format!(
        "What one small step on a pair alone would do to it under each objective, from the same gradients{}. An objective that \
         does not push rejected down at all can only be ideal where the gradients are opposed. The remedies +normalized and \
         +guarded are ideal wherever their objective pushes both sides; +calibrated only leans that way.",
        if of.summary.objectives.contains_key(of.objective()) {
            "; the configured one is marked ◂"
        } else {
            ""
        }
    );
    Some(figures::figure(
        "what-if",
        "What each objective would do",
        caption,
        command,
        vec![panel],
        table,
    ))
}

/// The objective's name, marked if it is the configured one.
fn label(name: &str, of: &Diagnosis) -> String {
    if name == of.objective() {
        format!("{name} ◂")
    } else {
        name.to_string()
    }
}

pub(super) fn sweeps(of: &Diagnosis, command: Option<&String>) -> Option<Figure> {
    let header = [
        "sweep",
        "value",
        "ideal",
        "both_fall",
        "both_rise",
        "reversed",
        "still",
        "delta_chosen",
        "delta_rejected",
    ];
    let mut table = Table::with_header(&header);
    let mut panels = Vec::new();
    let mut constant = Vec::new();
    for sweep in of
        .summary
        .sweeps
        .iter()
        .filter(|sweep| sweep.points.iter().any(|point| point.cases.total() > 0.0))
    {
        let name = format!("{} of {}", sweep.parameter, sweep.objective);
        for point in &sweep.points {
            let mut cells = vec![Cell::Text(name.clone()), Cell::Number(point.value)];
            cells.extend(shares(point.cases));
            cells.extend([point.delta_chosen, point.delta_rejected].map(cell));
            table.push(&cells);
        }
        let mut series = case_series(
            |case| {
                sweep
                    .points
                    .iter()
                    .any(|point| point.cases.count(case) > 0.0)
            },
            "value",
        );
        series.iter_mut().for_each(|series| {
            series.rows.insert("sweep".into(), name.clone());
        });
        if sweep
            .points
            .windows(2)
            .all(|two| two[0].cases == two[1].cases)
        {
            constant.push(name.clone());
        }
        panels.push(Panel {
            kind: Kind::StackedColumns,
            percent: true,
            x_label: sweep.parameter.clone(),
            series,
            ..Panel::over_steps(&name, "share of the pairs")
        });
    }
    if panels.is_empty() {
        return None;
    }
    let mut caption = "The cases when one parameter varies and everything else stays: no further pass of the model is needed, for \
                       the gradients are the same."
        .to_string();
    if !constant.is_empty() {
        caption += &format!(
            " No case depends on {} here: it scales both weights of a pair alike, or not enough to turn one.",
            constant.join(" or ")
        );
    }
    Some(figures::figure(
        "sweeps",
        "Cases against a parameter",
        caption,
        command,
        panels,
        table,
    ))
}

/// Means of the what-if table. Δ chosen over Δ margin has no scale: it can be compared between objectives.
pub(super) fn table(of: &Diagnosis) -> Option<String> {
    let ranked = ranked(of);
    if ranked.is_empty() {
        return None;
    }
    let mut html = String::from(
        "<p class=\"lead\">Means over the pairs, nats per unit learning rate. Scales differ between objectives, so their sizes cannot be \
         compared across rows; chosen’s part can: the share of the margin’s growth that comes from raising chosen (below zero: \
         chosen falls).</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"What-if table\"><table><thead><tr>",
    );
    let occurs = |case: &Case| {
        ranked
            .iter()
            .any(|(_, totals)| totals.cases.count(*case) > 0.0)
    };
    let usual = [Case::Ideal, Case::BothFall, Case::BothRise];
    let unusual = [Case::Reversed, Case::Still].into_iter().filter(occurs);
    let cases: Vec<Case> = usual.into_iter().chain(unusual).collect();
    let means = [
        "Δ chosen",
        "Δ rejected",
        "Δ margin",
        "chosen’s part",
        "d_w",
        "d_l",
    ];
    let names = cases.iter().map(|case| case.name());
    for heading in std::iter::once("objective").chain(names).chain(means) {
        push(&mut html, format_args!("<th scope=\"col\">{heading}</th>"));
    }
    html += "</tr></thead><tbody>";
    for (name, totals) in ranked {
        let own = if name == of.objective() {
            " class=\"own\""
        } else {
            ""
        };
        push(
            &mut html,
            format_args!("<tr{own}><th scope=\"row\">{}</th>", escape(name)),
        );
        for case in &cases {
            push(
                &mut html,
                format_args!("<td>{}</td>", share(totals.cases.share(*case))),
            );
        }
        for cell in mean_cells(totals) {
            push(&mut html, format_args!("<td>{cell}</td>"));
        }
        html += "</tr>";
    }
    Some(html + "</tbody></table></div>\n")
}

fn mean_cells(totals: &Totals) -> [String; 6] {
    let change = |value: Option<f64>| value.map_or(String::new(), signed);
    let plain = |value: Option<f64>| value.map_or(String::new(), number);
    let part = totals
        .delta_chosen
        .zip(totals.margin())
        .filter(|(_, margin)| *margin > 0.0);
    let part = part.map_or(String::new(), |(chosen, margin)| {
        format!("{:.0} %", 100.0 * chosen / margin).replace('-', "\u{2212}")
    });
    [
        change(totals.delta_chosen),
        change(totals.delta_rejected),
        change(totals.margin()),
        part,
        plain(totals.d_w),
        plain(totals.d_l),
    ]
}
