//! The figures of a check: predicted against computed, errors of real steps, and the two lengths.

use super::record::{PairShares, Statement, Theory};
use crate::figure::{Cell, Figure, Kind, Panel, Role, Series, Table};

/// Statements drawn against their computed values, by panel; those left out have one value in units of themselves.
const SCATTER: [(&str, &str, &[&str]); 3] = [
    (
        "Theorem 1",
        "in ‖h‖²",
        &["theorem1.inner", "theorem1.norm_w"],
    ),
    (
        "Corollary 2",
        "over the sum of the parts’ magnitudes",
        &[
            "corollary2.inner",
            "corollary2.change_w",
            "corollary2.change_l",
        ],
    ),
    (
        "Theorem 3",
        "change per ηβc",
        &[
            "theorem3.differing_w",
            "theorem3.differing_l",
            "theorem3.suffix_w",
            "theorem3.suffix_l",
        ],
    ),
];

/// All figures.
pub(super) fn figures(of: &Theory) -> Vec<Figure> {
    let found = [scatter(of), steps(of), prefix(of), suffix(of)];
    found.into_iter().flatten().collect()
}

fn finished(
    of: &Theory,
    id: &str,
    title: &str,
    caption: &str,
    panels: Vec<Panel>,
    table: Table,
) -> Option<Figure> {
    (table.len() > 0).then(|| Figure {
        id: id.into(),
        title: title.into(),
        caption: caption.into(),
        command: of.command.clone(),
        panels,
        csv: table.into_csv(),
    })
}

/// The quantity with its theorem's equation, for a legend.
fn name(s: &Statement) -> String {
    let tail = s.id.rsplit('.').next().unwrap_or(&s.id);
    let short = match tail {
        "differing_w" => "chosen at m, (13)",
        "differing_l" => "rejected at m",
        "suffix_w" => "chosen behind m, (14)",
        "suffix_l" => "rejected behind m",
        "before" => "before m, (12)",
        "whole_w" => "Δa_w",
        "last_w" => "last token, chosen",
        "last_l" => "last token, rejected",
        "change_w" => "Δa_w",
        "change_l" => "Δa_l",
        "norm_w" => "‖g_w‖²",
        "norm_l" => "‖g_l‖²",
        _ => &s.quantity,
    };
    short.into()
}

fn scatter(of: &Theory) -> Option<Figure> {
    let mut table = Table::with_header(&["statement", "predicted", "computed"]);
    let mut panels = Vec::new();
    for (title, unit, ids) in SCATTER {
        let shown = of.statements.iter().filter(|s| ids.contains(&&*s.id));
        let mut series = Vec::new();
        for (i, s) in shown.enumerate() {
            let number = |x: Option<f64>| Cell::Number(x.unwrap_or(f64::NAN));
            for [predicted, computed] in &s.points {
                table.push(&[
                    Cell::Text(s.id.clone()),
                    number(*predicted),
                    number(*computed),
                ]);
            }
            series.push(Series::new(
                &name(s),
                Role::Run(i),
                ("statement", &s.id),
                "predicted",
                "computed",
            ));
        }
        panels.push(Panel {
            kind: Kind::Scatter,
            guide: true,
            x_label: format!("closed form, {unit}"),
            series,
            ..Panel::over_steps(title, "computed through the engine, f64")
        });
    }
    let caption = "Random instances, thinned out. On the dashed line the engine computes what the theorem predicts. In units of \
                   their own, so that instances of any size share the axes.";
    finished(
        of,
        "agreement",
        "Predicted against computed",
        caption,
        panels,
        table,
    )
}

fn steps(of: &Theory) -> Option<Figure> {
    let header = [
        "statement",
        "step",
        "log10_step",
        "log10_median_error",
        "log10_worst_error",
    ];
    let mut table = Table::with_header(&header);
    let mut panels: Vec<Panel> = Vec::new();
    for s in &of.statements {
        let mut drawn = false;
        for step in &s.steps {
            let log = |x: Option<f64>| x.filter(|x| *x > 0.0).map(f64::log10);
            let (Some(median), Some(worst)) = (log(step.median_error), log(step.worst_error))
            else {
                continue;
            };
            drawn = true;
            let text = Cell::Text(s.id.clone());
            table.push(&[
                text,
                Cell::Number(step.nats),
                Cell::Number(step.nats.log10()),
                Cell::Number(median),
                Cell::Number(worst),
            ]);
        }
        if !drawn {
            continue;
        }
        if panels.last().is_none_or(|p| p.title != s.theorem) {
            panels.push(Panel {
                x_label: "log₁₀ step, nats of the margin".into(),
                ..Panel::over_steps(&s.theorem, "log₁₀ of the median error")
            });
        }
        if let Some(panel) = panels.last_mut() {
            let at = panel.series.len();
            let key = ("statement", &*s.id);
            let line = Series::new(
                &name(s),
                Role::Run(at),
                key,
                "log10_step",
                "log10_median_error",
            );
            // Chosen and rejected often lie on each other.
            let rejected = s.id.ends_with("_l");
            panel
                .series
                .push(if rejected { line.dashed() } else { line });
        }
    }
    let caption = "Weights are really changed by a step of gradient descent and the pair is scored again. The error is the distance of \
                   the realised change to the closed form, relative to the step: a tenth of the step, a tenth of the error means that only \
                   the second order is missing. Where a change is foretold to be 0 it is 0, and not drawn.";
    finished(
        of,
        "steps",
        "Real steps against first order",
        caption,
        panels,
        table,
    )
}

fn prefix(of: &Theory) -> Option<Figure> {
    let header = [
        "learns",
        "prefix",
        "inner_positive",
        "both_fall",
        "both_rise",
        "last_token_ideal",
        "median_cosine",
    ];
    let mut table = Table::with_header(&header);
    let mut push = |learns: &str, prefix: usize, x: &PairShares, last: Option<f64>| {
        let number = |x: Option<f64>| x.map_or(Cell::Empty, Cell::Number);
        let shares = [x.inner_positive, x.both_fall, x.both_rise].map(Cell::Number);
        let mut cells = vec![Cell::Text(learns.into()), Cell::Number(prefix as f64)];
        cells.extend(shares);
        cells.extend([number(last), number(x.median_cosine)]);
        table.push(&cells);
    };
    for row in &of.prefix_curve {
        push("head", row.prefix, &row.head, Some(row.last_token_ideal));
    }
    for row in &of.prefix_curve {
        push("all", row.prefix, &row.all, None);
    }
    let panel = |learns: &str, title: &str| {
        let line = |name: &str, role, column: &str| {
            Series::new(name, role, ("learns", learns), "prefix", column)
        };
        let mut series = vec![
            line("both fall", Role::BothFall, "both_fall"),
            line("both rise", Role::BothRise, "both_rise"),
            line("⟨g_w, g_l⟩ > 0", Role::Plain, "inner_positive").dashed(),
        ];
        if learns == "head" {
            series.push(
                line(
                    "last tokens as in Theorem 1",
                    Role::Ideal,
                    "last_token_ideal",
                )
                .dashed(),
            );
        }
        Panel {
            percent: true,
            x_label: "tokens of the shared prefix".into(),
            series,
            ..Panel::over_steps(title, "share of instances")
        }
    };
    let panels = vec![
        panel("head", "The last layer learns"),
        panel("all", "Every parameter learns"),
    ];
    let caption = "Corollary 2. The last tokens move apart at every length, as the theorem says. One shared token turns the inner product \
                   positive, but ‖P‖² cancels in the condition; what breaks it is the cross term, a sum over the prefix with no sign \
                   of its own, so that both fall about as often as both rise.";
    finished(
        of,
        "prefix",
        "A longer shared prefix",
        caption,
        panels,
        table,
    )
}

fn suffix(of: &Theory) -> Option<Figure> {
    let header = [
        "suffix",
        "predicted",
        "computed",
        "chosen_falls",
        "fresh_falls",
        "tuned_falls",
    ];
    let mut table = Table::with_header(&header);
    for row in &of.suffix_curve {
        let shares = [
            row.predicted,
            row.computed,
            row.chosen_falls,
            row.fresh_falls,
            row.tuned_falls,
        ];
        let mut cells = vec![Cell::Number(row.suffix as f64)];
        cells.extend(shares.map(Cell::Number));
        table.push(&cells);
    }
    let line = |name: &str, role, column: &str| {
        let rows = std::collections::BTreeMap::new();
        Series {
            rows,
            ..Series::new(name, role, ("", ""), "suffix", column)
        }
    };
    let x_label = "tokens of the shared suffix";
    let panels = vec![
        Panel {
            guide: true,
            x_label: x_label.into(),
            series: vec![
                line("computed", Role::Chosen, "computed"),
                line("eq. (12) to (14)", Role::Plain, "predicted").dashed(),
            ],
            ..Panel::over_steps(
                "Change of the chosen log-prob, learnable logits",
                "mean Δa_w per ηβc",
            )
        },
        Panel {
            percent: true,
            x_label: x_label.into(),
            series: vec![
                line("learnable logits", Role::Run(0), "chosen_falls"),
                line("random transformer", Role::Run(1), "fresh_falls"),
                line(
                    "transformer after supervised steps",
                    Role::Run(2),
                    "tuned_falls",
                ),
            ],
            ..Panel::over_steps(
                "Instances whose chosen log-prob falls",
                "share of instances",
            )
        },
    ];
    let caption = "Theorem 3. Left: the mean over instances under the theorem’s condition; the two lines lie on each other. Right: how often \
                   the fall behind the differing token outweighs the rise at it; beside it a whole transformer, about which the \
                   theorem says nothing, with every parameter learning.";
    finished(
        of,
        "suffix",
        "A longer shared suffix",
        caption,
        panels,
        table,
    )
}
