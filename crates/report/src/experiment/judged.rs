//! Objectives and remedies judged by what they did to held-out material: a table, a map of the changes, and the cost.

use super::estimate::{Estimate, bracketed, digits, signed_digits};
use super::outcome::Judged;
use super::results::{Results, Subject};
use crate::figure::{Cell, Figure, Kind, Panel, Role, Series, Table};
use crate::page::{Section, escape, push};
use crate::verdict::percent;

/// Changes so many times the median one bend the axes of the map.
const FAR: f64 = 12.0;

const HEADS: [&str; 10] = [
    "arm",
    "chosen",
    "rejected",
    "case",
    "margin",
    "reward accuracy",
    "label accuracy",
    "KL",
    "text",
    "seconds",
];

/// The table of all arms; `None` without arms.
pub(crate) fn section(of: &Results) -> Option<Section> {
    let rows = judged(of);
    if rows.is_empty() {
        return None;
    }
    let per_token = rows
        .iter()
        .any(|row| row.mean_change.iter().any(Option::is_some));
    let per_token = per_token && of.subject() == Subject::Objectives;
    let mut html = format!("<p class=\"lead\">{}</p>\n", escape(&lead(&rows)));
    html += "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"What each arm did\"><table class=\"judged\"><thead><tr>";
    for head in HEADS {
        push(&mut html, format_args!("<th scope=\"col\">{head}</th>"));
    }
    html += "</tr></thead><tbody>\n";
    rows.iter()
        .for_each(|row| html += &table_row(row, per_token));
    Some(Section {
        id: "judged".into(),
        title: match of.subject() {
            Subject::Sentiment => "Remedies judged".into(),
            Subject::Objectives => "Objectives and remedies judged".into(),
        },
        html: html + "</tbody></table></div>\n",
    })
}

/// The cosines of held-out pairs before and after training with their intervals, for the arms that have them.
pub(crate) fn cosines(of: &Results) -> Option<String> {
    let mut rows = judged(of);
    rows.retain(|row| row.cosine.iter().any(Option::is_some));
    let over = over(rows.iter().flat_map(|row| &row.cosine));
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Cosines before and after\"><table><caption>Gradient \
         cosine over all parameters.{}</caption><thead><tr><th scope=\"col\">arm</th><th scope=\"col\">before training</th><th \
         scope=\"col\">after</th></tr></thead><tbody>\n",
        escape(&over)
    );
    for row in &rows {
        let cell = |cosine: &Option<Estimate>| {
            let cell = cosine
                .as_ref()
                .map(|cosine| with_detail(&digits(cosine.mean), cosine.interval.map(bracketed)));
            cell.unwrap_or_default()
        };
        let [before, after] = row.cosine.each_ref().map(cell);
        let name = escape(&row.arm.name);
        push(
            &mut html,
            format_args!(
                "<tr><th scope=\"row\">{name}</th><td>{before}</td><td>{after}</td></tr>\n"
            ),
        );
    }
    (!rows.is_empty()).then(|| html + "</tbody></table></div>\n")
}

/// What stands in brackets; empty where no estimate has an interval.
fn over<'a>(estimates: impl Iterator<Item = &'a Option<Estimate>>) -> String {
    let mut over: Vec<&str> = Vec::new();
    for estimate in estimates
        .flatten()
        .filter(|estimate| estimate.interval.is_some())
    {
        if !over.contains(&estimate.over.as_str()) {
            over.push(&estimate.over);
        }
    }
    match over.is_empty() {
        true => String::new(),
        false => format!(" In brackets: 95 % interval over {}.", over.join(" or ")),
    }
}

fn judged(of: &Results) -> Vec<Judged<'_>> {
    of.grouped_arms().into_iter().map(Judged::of).collect()
}

fn lead(rows: &[Judged<'_>]) -> String {
    let interval = over(rows.iter().flat_map(|row| &row.change));
    format!(
        "Chosen and rejected: change of the held-out log-prob from the first to the last model in nats, mean over pairs and \
         seeds.{interval} The case is named where both intervals lie on one side of zero. Margin: change of chosen minus change of \
         rejected. Label accuracy: pairs whose chosen completion is the likelier one. KL: divergence from the model of the start, \
         nats a token of held-out prompts. Text: mean log-prob of a token of held-out text. “From”: the value before \
         training. Seconds: of one run."
    )
}

fn table_row(row: &Judged<'_>, per_token: bool) -> String {
    let class = match row.arm.is_plain() {
        true => " class=\"own\"",
        false => "",
    };
    let sides = row.change.iter().zip(&row.mean_change);
    let mut cells: Vec<String> = sides
        .map(|(change, mean)| match mean {
            Some(mean) if per_token => {
                let mean = minus(&signed_digits(mean.mean));
                format!(
                    "{}<div class=\"detail\">{mean} a token</div>",
                    estimate(change)
                )
            }
            _ => estimate(change),
        })
        .collect();
    let text = |value: f64| format!("{value:.3}");
    cells.extend([
        case(row),
        estimate(&row.margin),
        row.reward_accuracy.map(percent).unwrap_or_default(),
        before_after(row.label_accuracy, &percent),
        row.kl.map(digits).unwrap_or_default(),
        before_after(row.text_logp, &text),
        row.seconds.map(digits).unwrap_or_default(),
    ]);
    let mut html = format!(
        "<tr{class}><th scope=\"row\">{}</th>",
        // Narrow screens break the line before the remedy.
        escape(&row.arm.name).replace('+', "+<wbr>")
    );
    cells
        .iter()
        .for_each(|cell| push(&mut html, format_args!("<td>{cell}</td>")));
    html + "</tr>\n"
}

fn estimate(estimate: &Option<Estimate>) -> String {
    let Some(estimate) = estimate else {
        return String::new();
    };
    let interval = estimate.interval.map(bracketed);
    with_detail(&signed_digits(estimate.mean), interval)
}

/// A value with a smaller line below it.
fn with_detail(value: &str, detail: Option<String>) -> String {
    let value = minus(value);
    let detail = detail.map(|detail| format!("<div class=\"detail\">{}</div>", minus(&detail)));
    value + &detail.unwrap_or_default()
}

/// With true minus signs.
fn minus(text: &str) -> String {
    text.replace('-', "\u{2212}")
}

fn case(row: &Judged<'_>) -> String {
    match (row.case(), row.changes()) {
        (Some(case), _) => {
            let class = case.key().replace('_', "-");
            format!("<span class=\"key {class}\"></span>{}", case.name())
        }
        (None, Some(_)) => "unclear".into(),
        (None, None) => String::new(),
    }
}

fn before_after(values: [Option<f64>; 2], show: &dyn Fn(f64) -> String) -> String {
    match values {
        [Some(before), Some(after)] => {
            with_detail(&show(after), Some(format!("from {}", show(before))))
        }
        _ => String::new(),
    }
}

/// Where the arms stand: change of chosen against change of rejected, and KL against margin.
pub(crate) fn figures(of: &Results) -> Vec<Figure> {
    let rows = judged(of);
    let csv = csv(of, &rows);
    let map = Panel {
        guide: true,
        asinh: far(&rows),
        x_label: "change of the chosen log-prob, nats".into(),
        series: series(
            of,
            "chosen",
            "rejected",
            &|row| row.changes().is_some(),
            &rows,
        ),
        ..labelled(
            "Change of chosen and rejected",
            "change of the rejected log-prob, nats",
        )
    };
    let with_cost = |row: &Judged<'_>| row.kl.is_some() && row.margin.is_some();
    let cost = Panel {
        x_label: "KL to the model of the start, nats a token".into(),
        series: series(of, "kl", "margin", &with_cost, &rows),
        ..labelled("Margin and its cost", "margin gained, nats")
    };
    let bent = if map.asinh {
        " Axes are straight near zero and logarithmic further out."
    } else {
        ""
    };
    let shown = [
        (
            "outcomes",
            "Where each arm ended",
            format!("Mean changes of held-out log-probs. Ideal is the corner below, right of zero: chosen more likely, rejected less.{bent}"),
            map,
        ),
        (
            "cost",
            "Cost of the margin",
            "How far the model moved on held-out prompts for the margin that it gained: further left at the same height is \
             cheaper."
                .to_string(),
            cost,
        ),
    ];
    let drawn = shown
        .into_iter()
        .filter(|(.., panel)| !panel.series.is_empty());
    drawn
        .map(|(id, title, caption, panel)| Figure {
            id: id.into(),
            title: title.into(),
            caption,
            command: of.command.clone(),
            panels: vec![panel],
            csv: csv.clone(),
        })
        .collect()
}

fn labelled(title: &str, y_label: &str) -> Panel {
    Panel {
        kind: Kind::Labelled,
        ..Panel::over_steps(title, y_label)
    }
}

/// Of styles: a colour each, points named by the remedy. Of objectives: bare ones and those under a remedy, points
/// named by the arm.
fn series(
    of: &Results,
    x: &str,
    y: &str,
    known: &dyn Fn(&Judged<'_>) -> bool,
    rows: &[Judged<'_>],
) -> Vec<Series> {
    let mut kinds: Vec<String> = Vec::new();
    for row in rows.iter().filter(|row| known(row)) {
        let kind = kind(of, row);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let drawn = kinds.iter().enumerate();
    drawn
        .map(|(at, kind)| Series {
            value: "name".into(),
            ..Series::new(kind, Role::Run(at), ("kind", kind), x, y)
        })
        .collect()
}

fn kind(of: &Results, row: &Judged<'_>) -> String {
    match (of.subject(), row.arm.is_plain()) {
        (Subject::Sentiment, _) => row.arm.group(Subject::Sentiment).to_string(),
        (Subject::Objectives, true) => "objective".into(),
        (Subject::Objectives, false) => "with a remedy".into(),
    }
}

fn csv(of: &Results, rows: &[Judged<'_>]) -> String {
    let mut table = Table::with_header(&[
        "kind",
        "name",
        "arm",
        "seeds",
        "chosen",
        "chosen_low",
        "chosen_high",
        "rejected",
        "rejected_low",
        "rejected_high",
        "margin",
        "reward_accuracy",
        "kl",
    ]);
    for row in rows {
        let name = match (of.subject(), row.arm.is_plain()) {
            (Subject::Sentiment, true) => "no remedy",
            (Subject::Sentiment, false) => row.arm.remedy(),
            (Subject::Objectives, _) => &row.arm.name,
        };
        let texts = [kind(of, row), name.to_string(), row.arm.name.clone()];
        let mut cells: Vec<Cell> = texts.map(Cell::Text).into();
        cells.push(Cell::Number(row.arm.runs.len() as f64));
        let number = |value: Option<f64>| value.map_or(Cell::Empty, Cell::Number);
        for change in &row.change {
            let interval = change.as_ref().and_then(|change| change.interval);
            let ends = [interval.map(|ends| ends.0), interval.map(|ends| ends.1)];
            cells.push(number(change.as_ref().map(|change| change.mean)));
            cells.extend(ends.map(number));
        }
        cells.push(number(row.margin.as_ref().map(|margin| margin.mean)));
        cells.extend([row.reward_accuracy, row.kl].map(number));
        table.push(&cells);
    }
    table.into_csv()
}

/// Whether a few arms moved so far that the others would lie on one spot.
fn far(rows: &[Judged<'_>]) -> bool {
    let changes = rows.iter().filter_map(Judged::changes);
    let mut sizes: Vec<f64> = changes
        .map(|(x, y)| x.mean.abs().max(y.mean.abs()))
        .collect();
    sizes.sort_by(f64::total_cmp);
    let (median, most) = (sizes.get(sizes.len() / 2), sizes.last());
    median
        .zip(most)
        .is_some_and(|(median, most)| *most > FAR * median)
}
