//! One page that compares diagnoses: of several data sets under one model, say, or of one under several models.
//!
//! Each gradient's length depends on model and data, so sizes are not set side by side; cosines, ratios, cases and each
//! group's share of the inner product are. Bars carry the diagnoses' colours, so a name means the same in each figure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::compare::command;
use crate::diagnosis::{Case, Diagnosis, median, part_name, quantile, two};
use crate::error::{ReportError, Result};
use crate::figure::{Cell, Figure, Kind, Panel, Role, Series, Table};
use crate::method::{Method, distinct_names};
use crate::page::{self, Page, escape, push, signed};
use crate::verdict::percent;

const QUANTILES: [(&str, f64); 5] = [
    ("5 %", 0.05),
    ("25 %", 0.25),
    ("median", 0.5),
    ("75 %", 0.75),
    ("95 %", 0.95),
];
/// A group smaller than this in every diagnosis is left to the table.
const SMALL_SHARE: f64 = 0.005;

/// The page that compares `dirs`, before it is written.
pub(crate) fn page(dirs: &[PathBuf]) -> Result<Page> {
    if let Some(dir) = dirs.iter().find(|dir| crate::diagnosis::is_series(dir)) {
        return Err(ReportError::SeriesToCompare { dir: dir.clone() });
    }
    let diagnoses = dirs.iter().map(|dir| Diagnosis::read(dir));
    let all = diagnoses.collect::<Result<Vec<_>>>()?;
    let known = all.iter().map(|diagnosis| {
        let dir = diagnosis.dir.display().to_string();
        (diagnosis.name(), Method::of(&diagnosis.settings), dir)
    });
    let comparison = Comparison {
        names: distinct_names(&known.collect::<Vec<_>>()),
        command: command(dirs),
        all,
    };
    Ok(comparison.page())
}

struct Comparison {
    all: Vec<Diagnosis>,
    /// Names, each different from the others.
    names: Vec<String>,
    command: String,
}

impl Comparison {
    fn page(&self) -> Page {
        let notes = self.all.iter().zip(&self.names).flat_map(|(of, name)| {
            let prefixed = of.notes.iter().map(move |note| format!("{name}: {note}"));
            let cheap = of.proxies_only.then(|| {
                format!("{name}: only cheap measures were taken, no gradients: it is in no figure of cosines and cases")
            });
            prefixed.chain(cheap)
        });
        let notes: Vec<String> = notes.collect();
        let figures = [
            self.distributions(),
            self.cases(),
            self.objectives(),
            self.groups(),
        ];
        let commands = self.all.iter().zip(&self.names).map(|(of, name)| {
            let recorded = of
                .summary
                .command
                .clone()
                .or_else(|| of.settings.get("command"));
            let command = recorded.unwrap_or_else(|| "(not recorded)".to_string());
            format!("# {name}: {}\n{command}\n", of.dir.display())
        });
        Page {
            title: format!("{} diagnoses compared", self.all.len()),
            kicker: "Comparison of diagnoses".into(),
            facts: "to first order; one gradient step on a pair alone".into(),
            stem: "comparison".into(),
            opening_html: self.table_html() + &page::notes(&notes),
            figures: figures.into_iter().flatten().collect(),
            sections: Vec::new(),
            sheets_html: page::sheet_of_text(
                "Commands that made the diagnoses",
                &commands.collect::<Vec<_>>().join("\n"),
            ),
            extras: page::Extras::default(),
        }
    }

    fn named(&self) -> impl Iterator<Item = (usize, &Diagnosis, &str)> {
        let named = self.all.iter().zip(&self.names).enumerate();
        named.map(|(at, (of, name))| (at, of, name.as_str()))
    }

    fn table_html(&self) -> String {
        let mut html = String::from(
            "<section class=\"sheet\"><h2>Side by side</h2><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
             aria-label=\"The diagnoses side by side\"><table><caption>Medians over the pairs; cases and mean changes under \
             each diagnosis’ configured objective, nats per unit learning rate</caption><thead><tr>",
        );
        for head in [
            "diagnosis",
            "pairs",
            "objective",
            "cosine",
            "⟨g_w, g_l⟩ / ‖g_w‖²",
            "⟨g_w, g_l⟩ / ‖g_l‖²",
            "ideal",
            "both fall",
            "both rise",
            "Δ chosen",
            "Δ rejected",
        ] {
            push(&mut html, format_args!("<th scope=\"col\">{head}</th>"));
        }
        html += "</tr></thead><tbody>";
        for (_, of, name) in self.named() {
            let source = [of.summary.model.clone(), of.summary.data.clone()];
            let source: Vec<String> = source.into_iter().flatten().collect();
            push(
                &mut html,
                format_args!(
                    "<tr><th scope=\"row\" class=\"text\">{}<div class=\"method\">{}</div></th>",
                    escape(name),
                    escape(&source.join(", "))
                ),
            );
            for cell in cells(of) {
                push(&mut html, format_args!("<td>{}</td>", escape(&cell)));
            }
            html += "</tr>";
        }
        html + "</tbody></table></div></section>\n"
    }

    /// A figure of this page; `None` where no panel has a series.
    fn figure(
        &self,
        id: &str,
        title: &str,
        caption: &str,
        panels: Vec<Panel>,
        table: Table,
    ) -> Option<Figure> {
        let panels: Vec<Panel> = panels
            .into_iter()
            .filter(|panel| !panel.series.is_empty())
            .collect();
        (!panels.is_empty()).then(|| Figure {
            id: id.into(),
            title: title.into(),
            caption: caption.into(),
            command: Some(self.command.clone()),
            panels,
            csv: table.into_csv(),
        })
    }

    /// Bars of column `y` over the names in column `x`, one colour for each diagnosis in `present`.
    fn bars(&self, panel: Panel, x: &str, y: &str, present: &[bool]) -> Panel {
        let shown = self.named().filter(|(at, ..)| present[*at]);
        let series =
            shown.map(|(at, _, name)| Series::new(name, Role::Run(at), ("diagnosis", name), x, y));
        Panel {
            series: series.collect(),
            ..panel
        }
    }

    fn distributions(&self) -> Option<Figure> {
        let columns = [
            ("cosine", "Cosine"),
            ("chosen_ratio", "⟨g_w, g_l⟩ / ‖g_w‖²"),
            ("rejected_ratio", "⟨g_w, g_l⟩ / ‖g_l‖²"),
        ];
        let mut table = Table::with_header(&[
            "diagnosis",
            "quantile",
            "cosine",
            "chosen_ratio",
            "rejected_ratio",
        ]);
        let mut present = vec![false; self.all.len()];
        for (at, of, name) in self.named() {
            let values = [
                of.values("grad_cosine"),
                ratios(of, |ratios| ratios.0),
                ratios(of, |ratios| ratios.1),
            ];
            present[at] = values.iter().any(|values| !values.is_empty());
            for (label, q) in QUANTILES.into_iter().filter(|_| present[at]) {
                let mut row = vec![Cell::Text(name.into()), Cell::Text(label.into())];
                row.extend(
                    values
                        .iter()
                        .map(|values| quantile(values, q).map_or(Cell::Empty, Cell::Number)),
                );
                table.push(&row);
            }
        }
        let panels = columns.map(|(column, title)| {
            let panel = Panel {
                kind: Kind::Columns,
                x_label: "quantile of the pairs".into(),
                ..Panel::over_steps(title, "value below which that part of the pairs lies")
            };
            self.bars(panel, "quantile", column, &present)
        });
        self.figure(
            "cosines",
            "How entangled the pairs are",
            "Quantiles of the cosine between chosen and rejected gradient, and of the two ratios that decide DPO’s cases: \
             chosen rises only where its ratio is below 1, rejected falls only where its own is. Higher bars mean pairs that \
             are harder to move apart.",
            panels.into(),
            table,
        )
    }

    fn cases(&self) -> Option<Figure> {
        let mut header = vec!["diagnosis", "objective"];
        header.extend(Case::ALL.map(Case::key));
        let mut table = Table::with_header(&header);
        let mut seen = Vec::new();
        for (_, of, name) in self.named() {
            let Some(cases) = of.cases() else { continue };
            let mut row = vec![Cell::Text(name.into()), Cell::Text(of.objective().into())];
            row.extend(Case::ALL.map(|case| Cell::Number(cases.share(case))));
            table.push(&row);
            seen.extend(
                Case::ALL
                    .into_iter()
                    .filter(|case| cases.count(*case) > 0.0),
            );
        }
        let series = Case::ALL.into_iter().filter(|case| seen.contains(case));
        let series = series.map(|case| Series {
            rows: BTreeMap::new(),
            ..Series::new(case.name(), case.role(), ("", ""), "diagnosis", case.key())
        });
        let panel = Panel {
            kind: Kind::StackedBars,
            percent: true,
            x_label: "share of the pairs".into(),
            series: series.collect(),
            ..Panel::over_steps("Cases under the configured objective", "")
        };
        self.figure(
            "cases",
            "Cases under the configured objective",
            "What one small step on a pair alone would do to it under the objective that its diagnosis was configured with (the \
             paper’s Table 1). Objectives may differ; the table above names them.",
            vec![panel],
            table,
        )
    }

    /// The share of ideal pairs under every objective that all diagnoses have weighed.
    fn objectives(&self) -> Option<Figure> {
        let weighed = |of: &Diagnosis, name: &str| {
            let totals = of.summary.objectives.get(name)?;
            (totals.cases.total() > 0.0).then_some(totals.cases)
        };
        // Without gradients none was weighed: such a diagnosis is in no figure of cases.
        let judged = self.named().filter(|(_, of, _)| !of.proxies_only);
        let judged: Vec<_> = judged.collect();
        let ((_, first, _), others) = judged.split_first()?;
        let mut common: Vec<(&String, f64)> = first
            .summary
            .objectives
            .keys()
            .filter(|name| others.iter().all(|(_, of, _)| weighed(of, name).is_some()))
            .filter_map(|name| Some((name, weighed(first, name)?.share(Case::Ideal))))
            .collect();
        if common.len() < 2 {
            return None;
        }
        common.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut table = Table::with_header(&["diagnosis", "objective", "ideal", "both_fall"]);
        for (name, _) in &common {
            for (_, of, diagnosis) in &judged {
                let cases = weighed(of, name)?;
                let shares = [cases.share(Case::Ideal), cases.share(Case::BothFall)];
                let mut row = vec![Cell::Text((*diagnosis).into()), Cell::Text((*name).clone())];
                row.extend(shares.map(Cell::Number));
                table.push(&row);
            }
        }
        let present: Vec<bool> = self.all.iter().map(|of| !of.proxies_only).collect();
        let panels = [("Ideal", "ideal"), ("Both fall", "both_fall")].map(|(title, column)| {
            let panel = Panel {
                kind: Kind::Bars,
                percent: true,
                x_label: "share of the pairs".into(),
                ..Panel::over_steps(title, "objective")
            };
            self.bars(panel, "objective", column, &present)
        });
        self.figure(
            "what-if",
            "What each objective would do",
            "Share of the pairs that would move as they should (left), and that would lose chosen together with rejected \
             (right), by one step of each objective. Objectives that all these diagnoses weighed, in the order of the first.",
            panels.into(),
            table,
        )
    }

    /// Shares of the inner product by kind of parameter and by layer.
    fn groups(&self) -> Option<Figure> {
        let mut table = Table::with_header(&["diagnosis", "by", "group", "share"]);
        let mut present = vec![false; self.all.len()];
        let sums: Vec<[BTreeMap<Place, f64>; 2]> = self.all.iter().map(sums).collect();
        for (by, label) in [(0, "kind"), (1, "layer")] {
            let mut places: Vec<&Place> = sums.iter().flat_map(|sums| sums[by].keys()).collect();
            places.sort();
            places.dedup();
            let share = |at: usize, place: &Place| sums[at][by].get(place).copied();
            places.retain(|place| {
                let shares = (0..sums.len()).filter_map(|at| share(at, place));
                by == 1 || shares.into_iter().any(|share| share.abs() >= SMALL_SHARE)
            });
            for (at, _, name) in self.named() {
                for place in &places {
                    let Some(share) = share(at, place) else {
                        continue;
                    };
                    present[at] = true;
                    table.push(&[
                        Cell::Text(name.into()),
                        Cell::Text(label.into()),
                        Cell::Text(place.1.clone()),
                        Cell::Number(share),
                    ]);
                }
            }
        }
        let panel = |kind: Kind, by: &str, title: &str, x_label: &str, y_label: &str| {
            let panel = Panel {
                kind,
                percent: true,
                x_label: x_label.into(),
                ..Panel::over_steps(title, y_label)
            };
            let mut panel = self.bars(panel, "group", "share", &present);
            for series in &mut panel.series {
                series.rows.insert("by".into(), by.into());
            }
            panel
        };
        let share = "share of the mean inner product";
        let kinds = panel(Kind::Bars, "kind", "By kind of parameter", share, "");
        let layers = panel(Kind::Columns, "layer", "By layer", "layer", share);
        let layered = sums.iter().any(|sums| sums[1].len() > 1);
        let panels = std::iter::once(kinds).chain(layered.then_some(layers));
        self.figure(
            "groups",
            "Where the inner product comes from",
            "The mean of ⟨g_w, g_l⟩ split by parameters: what stands right of zero pulls chosen and rejected together. A \
             diagnosis with another shape here is entangled for another reason.",
            panels.collect(),
            table,
        )
    }
}

/// Order of a group on its axis, and its name.
type Place = (u64, String);

/// Shares summed by kind of parameter, and by layer.
fn sums(of: &Diagnosis) -> [BTreeMap<Place, f64>; 2] {
    let (mut kinds, mut layers) = (BTreeMap::new(), BTreeMap::new());
    for (name, group) in &of.summary.groups {
        let mut parts = name.split('.');
        let layer = match (parts.next(), parts.next()) {
            (Some("layers"), Some(layer)) => layer.parse::<u64>().ok(),
            _ => None,
        };
        let kind = match layer {
            Some(_) => parts.collect::<Vec<_>>().join("."),
            None => name.clone(),
        };
        let order = ["embedding", "attention", "mlp", "norm", "norms", "head"];
        let place = order
            .iter()
            .position(|known| *known == kind)
            .unwrap_or(order.len());
        let kind = part_name(&kind).to_string();
        *kinds.entry((place as u64, kind)).or_insert(0.0) += group.share;
        if let Some(layer) = layer {
            *layers.entry((layer, layer.to_string())).or_insert(0.0) += group.share;
        }
    }
    [kinds, layers]
}

fn ratios(of: &Diagnosis, pick: fn((f64, f64)) -> f64) -> Vec<f64> {
    let ratios = of.pairs.iter().filter_map(|pair| pair.ratios());
    ratios.map(pick).collect()
}

fn cells(of: &Diagnosis) -> Vec<String> {
    let mid = |values: Vec<f64>| median(&values).map(two).unwrap_or_default();
    let cases = of.cases();
    let share = |case: Case| {
        cases
            .map(|cases| percent(cases.share(case)))
            .unwrap_or_default()
    };
    let totals = of.summary.objectives.get(of.objective());
    let change = |value: Option<f64>| value.map(signed).unwrap_or_default();
    vec![
        of.pairs.len().to_string(),
        of.objective().to_string(),
        mid(of.values("grad_cosine")),
        mid(ratios(of, |ratios| ratios.0)),
        mid(ratios(of, |ratios| ratios.1)),
        share(Case::Ideal),
        share(Case::BothFall),
        share(Case::BothRise),
        change(totals.and_then(|totals| totals.delta_chosen)),
        change(totals.and_then(|totals| totals.delta_rejected)),
    ]
}
