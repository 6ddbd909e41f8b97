//! Matrices: `heatmaps/pair-<index>.json` (cosines between token gradients) and `gram.json` (all responses of a batch).
//!
//! The first response's gradient inner products grow with the responses' norms, so the Gram matrix is shown
//! normalised, K_ij/√(K_ii K_jj), which is the cosine of the two gradients; the parts of a response's predicted change
//! keep their unit. Row and column names carry their position (`7 the`), since a text may repeat a token.

use std::fs;
use std::path::{Path, PathBuf};

use std::collections::BTreeMap;

use serde::Deserialize;

use super::files::read_json;
use crate::figure::Figure;
use crate::figure::{Cell, Kind, Panel, Role, Series, Table};

/// A map of 512 × 512 tokens with some groups.
const MAX_BYTES: u64 = 256 << 20;
/// More maps than this are left in their files.
const MAX_MAPS: usize = 12;
/// Cells of all maps in a page together: some ten megabytes of CSV.
const MAX_CELLS: usize = 250_000;
/// A larger Gram matrix is shown for its first responses only.
const MAX_RESPONSES: usize = 96;

type Matrix = Vec<Vec<Option<f64>>>;

/// The three matrices of a pair, whole or of one parameter group.
#[derive(Debug, Deserialize)]
struct Maps {
    cosine: Matrix,
    #[serde(default)]
    chosen_self: Matrix,
    #[serde(default)]
    rejected_self: Matrix,
}

/// One file.
#[derive(Debug, Deserialize)]
pub(crate) struct HeatMap {
    index: u64,
    chosen_tokens: Vec<String>,
    rejected_tokens: Vec<String>,
    #[serde(flatten)]
    whole: Maps,
    chosen_len: Option<usize>,
    rejected_len: Option<usize>,
    #[serde(default)]
    groups: BTreeMap<String, Maps>,
}

/// Paths of the heat maps in a diagnosis, by the pair's index.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let index = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("pair-")?
            .strip_suffix(".json")?
            .parse()
            .ok()
    };
    let entries = fs::read_dir(dir.join("heatmaps")).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| index(path).is_some()).collect();
    paths.sort_by_key(index);
    paths
}

/// One figure for each heat map, with the pair's index.
pub(crate) fn figures(
    dir: &Path,
    command: Option<&String>,
    notes: &mut Vec<String>,
) -> Vec<(u64, Figure)> {
    let files = files(dir);
    if files.len() > MAX_MAPS {
        notes.push(format!(
            "{} heat maps: the first {MAX_MAPS} are drawn",
            files.len()
        ));
    }
    let (mut figures, mut cells) = (Vec::new(), 0);
    for path in files.iter().take(MAX_MAPS) {
        let Some(mut map) = read_json::<HeatMap>(path, MAX_BYTES, notes) else {
            continue;
        };
        if cells + map.cells() > MAX_CELLS && !map.groups.is_empty() {
            map.groups.clear();
            notes.push(format!(
                "pair {}: its heat map is drawn for all parameters together only, the file has the groups",
                map.index
            ));
        }
        if cells + map.cells() > MAX_CELLS {
            notes.push(format!(
                "pair {}: its heat map is too large for the page",
                map.index
            ));
            continue;
        }
        cells += map.cells();
        figures.push((map.index, map.figure(command)));
    }
    figures
}

impl HeatMap {
    /// Reads one file; a note tells why it cannot be used.
    pub(crate) fn read(path: &Path, notes: &mut Vec<String>) -> Option<Self> {
        read_json(path, MAX_BYTES, notes)
    }

    /// The pair's number.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// The cosines of chosen with rejected tokens under a title, with their rows in a table of `map`, `row`, `column`
    /// and `cosine`.
    pub(crate) fn cosines(&self, table: &mut Table, title: &str) -> Panel {
        let (rows, columns) = (labels(&self.chosen_tokens), labels(&self.rejected_tokens));
        push_matrix(table, title, &self.whole.cosine, &rows, &columns);
        let unit = "cosine of two tokens' gradients; rows chosen, columns rejected";
        matrix_panel(title, "token", unit)
    }

    fn maps(&self) -> impl Iterator<Item = (&str, &Maps)> {
        let groups = self.groups.iter().map(|(name, maps)| (name.as_str(), maps));
        std::iter::once(("all parameters", &self.whole)).chain(groups)
    }

    /// Numbers of all its matrices.
    pub(crate) fn cells(&self) -> usize {
        let size = |matrix: &Matrix| matrix.iter().map(Vec::len).sum::<usize>();
        self.maps()
            .map(|(_, maps)| {
                size(&maps.cosine) + size(&maps.chosen_self) + size(&maps.rejected_self)
            })
            .sum()
    }

    fn figure(&self, command: Option<&String>) -> Figure {
        let mut table = Table::with_header(&["map", "row", "column", "cosine"]);
        let mut panels = Vec::new();
        let chosen = labels(&self.chosen_tokens);
        let rejected = labels(&self.rejected_tokens);
        for (group, maps) in self.maps() {
            let sides = [
                ("chosen × rejected", &maps.cosine, &chosen, &rejected),
                ("chosen × chosen", &maps.chosen_self, &chosen, &chosen),
                (
                    "rejected × rejected",
                    &maps.rejected_self,
                    &rejected,
                    &rejected,
                ),
            ];
            for (name, matrix, rows, columns) in sides {
                if matrix.is_empty() {
                    continue;
                }
                let title = if self.groups.is_empty() {
                    name.to_string()
                } else {
                    format!("{name}, {group}")
                };
                push_matrix(&mut table, &title, matrix, rows, columns);
                let (rows, columns) = name.split_once(" × ").unwrap_or((name, name));
                let unit =
                    format!("cosine of two tokens' gradients; rows {rows}, columns {columns}");
                panels.push(matrix_panel(&title, "token", &unit));
            }
        }
        Figure {
            id: format!("tokens-{}", self.index),
            title: format!("Token gradients of pair {}", self.index),
            caption: self.caption(),
            command: command.cloned(),
            panels,
            csv: table.into_csv(),
        }
    }

    fn caption(&self) -> String {
        let mut caption = "Each cell is the cosine between the gradients of two tokens' log-probs: orange pulls together (raising one \
                           raises the other), blue pulls apart. The more orange, the more a step that raises chosen raises rejected too. Colour follows the square root of the cosine's size, so that small ones stay visible."
            .to_string();
        let whole = [
            ("chosen", self.chosen_tokens.len(), self.chosen_len),
            ("rejected", self.rejected_tokens.len(), self.rejected_len),
        ];
        for (side, shown, length) in whole {
            if let Some(length) = length.filter(|length| *length > shown) {
                caption += &format!(" The first {shown} of {length} {side} tokens are shown.");
            }
        }
        caption
    }
}

/// Names with their position, counted from 1.
fn labels(tokens: &[String]) -> Vec<String> {
    tokens
        .iter()
        .zip(1..)
        .map(|(token, at)| format!("{at} {token}"))
        .collect()
}

fn push_matrix(table: &mut Table, map: &str, matrix: &Matrix, rows: &[String], columns: &[String]) {
    for (row, values) in rows.iter().zip(matrix) {
        for (column, value) in columns.iter().zip(values) {
            // Four decimals are more than a colour tells.
            let value = value.map_or(Cell::Empty, |value| {
                Cell::Number((value * 1e4).round() / 1e4)
            });
            table.push(&[
                Cell::Text(map.to_string()),
                Cell::Text(row.clone()),
                Cell::Text(column.clone()),
                value,
            ]);
        }
    }
}

fn matrix_panel(title: &str, x_label: &str, y_label: &str) -> Panel {
    let mut series = Series::new(title, Role::Plain, ("map", title), "column", "row");
    series.value = "cosine".into();
    Panel {
        kind: Kind::HeatMap,
        x_label: x_label.into(),
        series: vec![series],
        ..Panel::over_steps(title, y_label)
    }
}

/// `gram.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Gram {
    #[serde(default)]
    order: Vec<String>,
    matrix: Matrix,
    objective: Option<String>,
    #[serde(default)]
    split: Vec<Split>,
}

/// Where the predicted change of one response comes from, nats per unit learning rate.
#[derive(Debug, Deserialize)]
struct Split {
    response: String,
    own: Option<f64>,
    partner: Option<f64>,
    others: Option<f64>,
}

impl Gram {
    /// Reads the file, if it is there.
    pub(crate) fn read(dir: &Path, notes: &mut Vec<String>) -> Option<Self> {
        read_json(&dir.join("gram.json"), MAX_BYTES, notes)
    }

    /// Of chosen and of rejected: how many responses one plain step on the batch moves the wrong way, and how many are
    /// known.
    pub(crate) fn wrong(&self) -> Option<[(usize, usize); 2]> {
        let counts = [("/chosen", -1.0), ("/rejected", 1.0)].map(|(side, sign)| {
            let of_side = self
                .split
                .iter()
                .filter(|split| split.response.ends_with(side));
            let totals =
                of_side.filter_map(|split| Some(split.own? + split.partner? + split.others?));
            let totals: Vec<f64> = totals.collect();
            let wrong = totals.iter().filter(|total| sign * **total > 0.0).count();
            (wrong, totals.len())
        });
        (counts[0].1 > 1 && counts[1].1 > 1).then_some(counts)
    }

    /// The matrix and the split, as far as the file has them.
    pub(crate) fn figures(&self, command: Option<&String>) -> Vec<Figure> {
        let both = [self.matrix_figure(command), self.split_figure(command)];
        both.into_iter().flatten().collect()
    }

    fn matrix_figure(&self, command: Option<&String>) -> Option<Figure> {
        let shown = self.order.len().min(self.matrix.len()).min(MAX_RESPONSES);
        let norms: Vec<f64> = (0..shown)
            .map(|at| {
                self.matrix[at]
                    .get(at)
                    .copied()
                    .flatten()
                    .unwrap_or(f64::NAN)
                    .sqrt()
            })
            .collect();
        let cosine = |row: usize, column: usize| {
            let inner = self.matrix[row].get(column).copied().flatten()?;
            let cosine = inner / (norms[row] * norms[column]);
            cosine.is_finite().then_some(cosine)
        };
        let matrix: Matrix = (0..shown)
            .map(|row| (0..shown).map(|column| cosine(row, column)).collect())
            .collect();
        let mut table = Table::with_header(&["map", "row", "column", "cosine"]);
        push_matrix(
            &mut table,
            "Cosines within the batch",
            &matrix,
            &self.order[..shown],
            &self.order[..shown],
        );
        let mut caption = "The cosine between the gradients of every two responses of the batch, named by pair and side. Off the \
                           two-by-two blocks of a pair it tells how much other pairs of a batch move a response. Colour follows \
                           the square root of the cosine's size."
            .to_string();
        if shown < self.matrix.len() {
            caption += &format!(
                " The first {shown} of {} responses are shown; gram.json has all.",
                self.matrix.len()
            );
        }
        (shown > 0).then(|| Figure {
            id: "gram".into(),
            title: "Gradients across a batch".into(),
            caption,
            command: command.cloned(),
            panels: vec![matrix_panel(
                "Cosines within the batch",
                "response",
                "cosine of two responses' gradients",
            )],
            csv: table.into_csv(),
        })
    }

    fn split_figure(&self, command: Option<&String>) -> Option<Figure> {
        if self.split.is_empty() {
            return None;
        }
        let mut table = Table::with_header(&["side", "pair", "own", "partner", "others"]);
        let number = |value: Option<f64>| value.map_or(Cell::Empty, Cell::Number);
        for split in self.split.iter().take(2 * MAX_RESPONSES) {
            let (pair, side) = split
                .response
                .rsplit_once('/')
                .unwrap_or((&split.response, "response"));
            let names = [side, pair].map(|name| Cell::Text(name.to_string()));
            let parts = [split.own, split.partner, split.others].map(number);
            table.push(&names.into_iter().chain(parts).collect::<Vec<_>>());
        }
        // Colours name the completion whose gradient acts.
        let sides = [
            ("chosen", Role::Chosen, Role::Rejected),
            ("rejected", Role::Rejected, Role::Chosen),
        ];
        let panels = sides.map(|(side, own, partner)| {
            let parts = [
                ("own gradient", "own", own),
                ("partner", "partner", partner),
                ("other pairs", "others", Role::Other),
            ];
            let series = parts.map(|(name, column, role)| {
                Series::new(name, role, ("side", side), "pair", column)
            });
            Panel {
                kind: Kind::StackedColumns,
                x_label: "pair".into(),
                series: series.into(),
                ..Panel::over_steps(
                    &format!("Change of {side}"),
                    "nats per unit learning rate, first order",
                )
            }
        });
        let objective = self
            .objective
            .as_deref()
            .unwrap_or("the configured objective");
        Some(Figure {
            id: "split".into(),
            title: "Who moves a response".into(),
            caption: format!(
                "What one plain gradient step on the whole batch under {objective} would do to each response, and from whose \
                 gradient it comes: its own, its partner's in the pair, or the other pairs'. Parts below zero lower the \
                 log-prob; blue is chosen's gradient, orange rejected's.{}",
                self.wrong().map_or(String::new(), |[chosen, rejected]| format!(
                    " All parts together lower chosen in {} of {} pairs and raise rejected in {}.",
                    chosen.0, chosen.1, rejected.0
                ))
            ),
            command: command.cloned(),
            panels: panels.into(),
            csv: table.into_csv(),
        })
    }
}
