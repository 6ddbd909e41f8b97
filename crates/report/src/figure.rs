//! A figure as data: panels of series over one small table of numbers.
//!
//! The table is kept as CSV text, which the page offers for download as it stands; `assets/charts.js` reads it back
//! to draw the panels, and `assets/page.js` to show it as a table. A series picks its rows by the values of label
//! columns ([`Series::rows`]) and its two coordinates by column name, so training and held-out rows, or several
//! runs, share one table. Numbers carry seven significant digits; an unwritten cell is empty, a value that was not
//! finite is `nan` (a gap in a line).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::record::Rows;

/// More rows than this are thinned out: 1,500 points are more than a screen is wide, and keep a page below 2 MB.
pub(crate) const MAX_ROWS: usize = 1_500;

/// Below this many rows a moving mean hides more than it shows.
const SMOOTH_FROM_ROWS: usize = 40;

/// An odd window of about a twentieth of `rows` rows, 0 where no moving mean should be drawn.
pub(crate) fn window(rows: usize) -> usize {
    if rows < SMOOTH_FROM_ROWS {
        0
    } else {
        (rows / 20) | 1
    }
}

/// One figure: what is drawn, how to read it, where it came from.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Anchor in the page and stem of saved files.
    pub(crate) id: String,
    /// Heading.
    #[serde(skip)]
    pub(crate) title: String,
    /// One or two sentences on how to read it; plain text.
    #[serde(skip)]
    pub(crate) caption: String,
    /// The command that made the numbers, if it is known.
    #[serde(skip)]
    pub(crate) command: Option<String>,
    /// Charts side by side, sharing the numbers.
    pub(crate) panels: Vec<Panel>,
    /// The numbers.
    pub(crate) csv: String,
}

/// How a panel is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// y against x, connected.
    Lines,
    /// Shares stacked from 0 to 1.
    Stack,
    /// One point per row.
    Scatter,
    /// One group of bars per row; x holds names.
    Bars,
    /// Lying bars of one name each, the series' shares end to end from 0 to 1; x holds names.
    StackedBars,
    /// Upright bars side by side for each name in x.
    Columns,
    /// Upright bars on top of each other for each name in x; what is negative is stacked below zero.
    StackedColumns,
    /// Counts stacked over equally wide bins that touch; x holds the bins' middles.
    Histogram,
    /// Points of pairs among the conditions x = 1 and y = 1, drawn as lines, and the bound x·y = 1, drawn as a curve
    /// in the two quadrants where x and y have the same sign; [`Panel::asinh`] says how the axes are scaled.
    Plane,
    /// Points with their names ([`Series::value`]) beside them; with [`Panel::guide`] x and y are changes of chosen and
    /// rejected, the axes' zeros are drawn and the quadrants named by the cases.
    Labelled,
    /// Cells of [`Series::value`] from −1 to 1, coloured by sign·√|value| on a diverging scale so that small values stay
    /// visible; x and y hold the names of columns and rows in
    /// the order of their first appearance, the first row at the top.
    HeatMap,
}

/// One chart.
#[derive(Debug, Serialize)]
pub(crate) struct Panel {
    /// Short heading above the chart.
    pub(crate) title: String,
    /// Way of drawing.
    pub(crate) kind: Kind,
    /// Axis names with unit.
    pub(crate) x_label: String,
    /// Axis names with unit.
    pub(crate) y_label: String,
    /// Label the y axis in per cent.
    pub(crate) percent: bool,
    /// Draw a line at y = 0 (lines) or y = x (scatter).
    pub(crate) guide: bool,
    /// Ends of the y axis of lines, where panels side by side share them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) y_range: Option<(f64, f64)>,
    /// In a figure with tabs: panels of one tab are shown together; by default each panel has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tab: Option<String>,
    /// Both axes are scaled by asinh(2 v): straight near zero, logarithmic far from it, for ratios with outliers.
    pub(crate) asinh: bool,
    /// What is drawn.
    pub(crate) series: Vec<Series>,
}

/// Meaning of a series; the page gives each its colour, dash and mark.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The preferred completion.
    Chosen,
    /// The dispreferred completion.
    Rejected,
    /// Chosen minus rejected.
    Margin,
    /// Anything else; two of them in a panel are told apart by the dash.
    Plain,
    /// Case of SPEC table 1: chosen up, rejected down.
    Ideal,
    /// Case: both down.
    BothFall,
    /// Case: both up.
    BothRise,
    /// Case: chosen down, rejected up.
    Reversed,
    /// Pairs that stand still (or move in reverse, where the two are not told apart).
    Other,
    /// The n-th of a comparison: a run, a part of a sum.
    Run(usize),
}

/// Dash of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dash {
    /// Measured on training batches.
    Solid,
    /// Held-out pairs, or a prediction.
    Dashed,
}

/// One line, area, cloud of points or set of bars.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    /// Name in the legend.
    pub(crate) name: String,
    /// Meaning, hence colour.
    pub(crate) role: Role,
    /// Dash.
    pub(crate) dash: Dash,
    /// Label column → value that a row must have.
    pub(crate) rows: BTreeMap<String, String>,
    /// Column of the abscissa.
    pub(crate) x: String,
    /// Column of the ordinate.
    pub(crate) y: String,
    /// Column of a heat map's values or of the names of labelled points, otherwise empty.
    pub(crate) value: String,
    /// Rows of the centred moving mean drawn over the raw values; 0 or 1 for none.
    pub(crate) smooth: usize,
    /// A thin line behind the others without an entry of its own in the legend: one seed of the mean that has the
    /// same name.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) faint: bool,
}

impl Series {
    /// A solid, unsmoothed series over the rows whose column `label` is `value`.
    pub(crate) fn new(
        name: &str,
        role: Role,
        (label, value): (&str, &str),
        x: &str,
        y: &str,
    ) -> Self {
        let rows = BTreeMap::from([(label.to_string(), value.to_string())]);
        Self {
            name: name.into(),
            role,
            dash: Dash::Solid,
            rows,
            x: x.into(),
            y: y.into(),
            value: String::new(),
            smooth: 0,
            faint: false,
        }
    }

    /// The same, dashed.
    pub(crate) fn dashed(self) -> Self {
        Self {
            dash: Dash::Dashed,
            ..self
        }
    }

    /// The same with a moving mean over `rows` rows.
    pub(crate) fn smoothed(self, rows: usize) -> Self {
        Self {
            smooth: rows,
            ..self
        }
    }
}

impl Panel {
    /// An empty panel with steps on the x axis.
    pub(crate) fn over_steps(title: &str, y_label: &str) -> Self {
        Self {
            title: title.into(),
            kind: Kind::Lines,
            x_label: "optimizer step".into(),
            y_label: y_label.into(),
            percent: false,
            guide: false,
            y_range: None,
            tab: None,
            asinh: false,
            series: Vec::new(),
        }
    }
}

/// A cell of a figure's table.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    /// A label.
    Text(String),
    /// A number; not finite: `nan`.
    Number(f64),
    /// Not written.
    Empty,
}

/// A figure's table while it is collected.
#[derive(Debug)]
pub(crate) struct Table {
    text: String,
    width: usize,
    labels: usize,
    rows: usize,
}

impl Table {
    /// A table with label columns, `step`, and value columns.
    pub(crate) fn over_steps(labels: &[&str], keys: &[&str]) -> Self {
        let mut header: Vec<&str> = labels.to_vec();
        header.push("step");
        header.extend(keys);
        Self {
            labels: labels.len(),
            ..Self::with_header(&header)
        }
    }

    /// A table with any columns, filled by [`Table::push`].
    pub(crate) fn with_header(header: &[&str]) -> Self {
        let mut table = Self {
            text: String::new(),
            width: header.len(),
            labels: 0,
            rows: 0,
        };
        let cells: Vec<Cell> = header
            .iter()
            .map(|name| Cell::Text((*name).to_string()))
            .collect();
        table.line(&cells);
        table
    }

    /// Adds one row; `cells` has an entry for each column.
    pub(crate) fn push(&mut self, cells: &[Cell]) {
        debug_assert_eq!(cells.len(), self.width, "a row has a cell for each column");
        self.line(cells);
        self.rows += 1;
    }

    /// Adds the rows that have at least one of `keys`, every k-th when there are more than `limit`. Says k.
    pub(crate) fn push_rows(
        &mut self,
        labels: &[&str],
        rows: &Rows,
        keys: &[&str],
        limit: usize,
    ) -> usize {
        debug_assert_eq!(labels.len(), self.labels, "a value for each label column");
        let present: Vec<_> = rows
            .iter()
            .filter(|(_, row)| keys.iter().any(|key| row.contains_key(*key)))
            .collect();
        let every = present.len().div_ceil(limit.max(1)).max(1);
        let last = present.len().saturating_sub(1);
        for (index, (step, row)) in present.into_iter().enumerate() {
            // The last row is where the run ended: always shown.
            if index % every != 0 && index != last {
                continue;
            }
            let mut cells: Vec<Cell> = labels
                .iter()
                .map(|label| Cell::Text((*label).to_string()))
                .collect();
            cells.push(Cell::Number(step as f64));
            cells.extend(keys.iter().map(|key| {
                row.get(*key)
                    .map_or(Cell::Empty, |value| Cell::Number(*value))
            }));
            self.push(&cells);
        }
        every
    }

    /// Number of rows below the header.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// The finished CSV text.
    pub(crate) fn into_csv(self) -> String {
        self.text
    }

    fn line(&mut self, cells: &[Cell]) {
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            match cell {
                Cell::Text(text) => self.text.push_str(&csv_text(text)),
                Cell::Number(value) if value.is_finite() => {
                    write!(self.text, "{}", rounded(*value))
                        .expect("writing to a string cannot fail");
                }
                Cell::Number(_) => self.text.push_str("nan"),
                Cell::Empty => {}
            }
        }
        self.text.push('\n');
    }
}

/// Seven significant digits, as f32 records deserve; whole numbers stay exact.
fn rounded(value: f64) -> f64 {
    if value.fract() == 0.0 {
        // Not `-0`.
        return value + 0.0;
    }
    format!("{value:.6e}").parse().unwrap_or(value)
}

/// RFC 4180: quoted when the text holds a comma, a quote or a line break.
fn csv_text(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_needs_quotes_and_rounds_to_seven_digits() {
        let mut table = Table::with_header(&["run", "step", "a,b"]);
        table.push(&[
            Cell::Text("say \"hi\",\nthen".into()),
            Cell::Number(123_456_789.0),
            Cell::Number(-1.0 / 3.0),
        ]);
        table.push(&[
            Cell::Text("ü".into()),
            Cell::Number(f64::INFINITY),
            Cell::Empty,
        ]);
        table.push(&[
            Cell::Text("z".into()),
            Cell::Number(-0.0),
            Cell::Number(5e-9),
        ]);
        assert_eq!(
            table.into_csv(),
            "run,step,\"a,b\"\n\"say \"\"hi\"\",\nthen\",123456789,-0.3333333\nü,nan,\nz,0,0.000000005\n"
        );
    }
}
