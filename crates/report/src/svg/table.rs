//! The numbers of a figure read back from its CSV, as `assets/charts.js` reads them: what is drawn in a file and what
//! is drawn on the page come from the same text by the same rules.

use crate::figure::Series;

/// Header and cells of a figure's CSV.
pub(crate) struct Numbers {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A point with a number as abscissa; `y` may be NaN, a gap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// Abscissa.
    pub(crate) x: f64,
    /// Ordinate.
    pub(crate) y: f64,
}

impl Numbers {
    /// Reads RFC 4180 text.
    pub(crate) fn parse(csv: &str) -> Self {
        let mut lines = records(csv).into_iter();
        Self {
            header: lines.next().unwrap_or_default(),
            rows: lines.collect(),
        }
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|head| head == name)
    }

    /// The cells of `columns` in the rows that belong to `series`; a row with an empty one is left out.
    fn cells<'a, const N: usize>(
        &'a self,
        series: &Series,
        columns: [&str; N],
    ) -> Vec<[&'a str; N]> {
        let found: Option<Vec<usize>> = columns.iter().map(|name| self.column(name)).collect();
        let Some(found) = found else {
            return Vec::new();
        };
        let labels: Vec<_> = series
            .rows
            .iter()
            .map(|(name, value)| (self.column(name), value))
            .collect();
        let belongs = |row: &[String]| {
            labels
                .iter()
                .all(|(at, value)| at.and_then(|at| row.get(at)) == Some(value))
        };
        let cell = |row: &'a [String], at: usize| row.get(at).map_or("", String::as_str);
        let rows = self.rows.iter().filter(|row| belongs(row));
        let cells = rows.map(|row| std::array::from_fn(|at| cell(row, found[at])));
        cells
            .filter(|cells: &[&str; N]| cells.iter().all(|cell| !cell.is_empty()))
            .collect()
    }

    /// Points with a number as abscissa; those without a finite one are left out.
    pub(crate) fn points(&self, series: &Series) -> Vec<Point> {
        let cells = self.cells(series, [&series.x, &series.y]).into_iter();
        let points = cells.map(|[x, y]| Point {
            x: number(x),
            y: number(y),
        });
        points.filter(|point| point.x.is_finite()).collect()
    }

    /// Points with the names that stand beside them; those without both coordinates are left out.
    pub(crate) fn labelled(&self, series: &Series) -> Vec<(Point, String)> {
        let cells = self.cells(series, [&series.x, &series.y, &series.value]);
        let points = cells.into_iter().map(|[x, y, name]| {
            let (x, y) = (number(x), number(y));
            (Point { x, y }, name.to_string())
        });
        points
            .filter(|(point, _)| point.x.is_finite() && point.y.is_finite())
            .collect()
    }

    /// Values with a name as abscissa.
    pub(crate) fn named(&self, series: &Series) -> Vec<(String, f64)> {
        let cells = self.cells(series, [&series.x, &series.y]).into_iter();
        cells.map(|[x, y]| (x.to_string(), number(y))).collect()
    }

    /// Names of column and row with the value of their cell.
    pub(crate) fn grid(&self, series: &Series) -> Vec<(String, String, f64)> {
        let cells = self.cells(series, [&series.x, &series.y, &series.value]);
        let cells = cells.into_iter();
        cells
            .map(|[x, y, value]| (x.to_string(), y.to_string(), number(value)))
            .collect()
    }
}

fn number(cell: &str) -> f64 {
    cell.parse().unwrap_or(f64::NAN)
}

fn records(csv: &str) -> Vec<Vec<String>> {
    let (mut lines, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut chars = csv.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                cell.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                lines.push(std::mem::take(&mut row));
            }
            other => cell.push(other),
        }
    }
    lines
}

/// Centred mean over `width` rows, fewer at both ends; gaps are left out, and remain where nothing is near.
pub(crate) fn moving_mean(points: &[Point], width: usize) -> Vec<Point> {
    let half = width / 2;
    let mean = |at: usize| {
        let near = &points[at.saturating_sub(half)..(at + half + 1).min(points.len())];
        let finite: Vec<f64> = near.iter().map(|p| p.y).filter(|y| y.is_finite()).collect();
        finite.iter().sum::<f64>() / finite.len() as f64
    };
    let means = points.iter().enumerate();
    means
        .map(|(at, point)| Point {
            x: point.x,
            y: mean(at),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Cell, Role, Table};

    #[test]
    fn what_a_table_writes_is_read_back() {
        let mut table = Table::with_header(&["run", "x", "y"]);
        let name = "a,\"b\"\nc";
        for y in [
            Cell::Number(0.5),
            Cell::Number(f64::NAN),
            Cell::Empty,
            Cell::Number(2.0),
        ] {
            table.push(&[Cell::Text(name.into()), Cell::Number(1.0), y]);
        }
        table.push(&[
            Cell::Text("other".into()),
            Cell::Number(9.0),
            Cell::Number(9.0),
        ]);
        let numbers = Numbers::parse(&table.into_csv());
        let series = Series::new("s", Role::Plain, ("run", name), "x", "y");
        let points = numbers.points(&series);
        assert_eq!(points.len(), 3, "an empty cell is no point");
        assert_eq!((points[0].y, points[2].y), (0.5, 2.0));
        assert!(points[1].y.is_nan());
        let unknown = Series::new("s", Role::Plain, ("run", name), "x", "z");
        assert!(numbers.points(&unknown).is_empty());
    }

    #[test]
    fn a_moving_mean_steps_over_gaps() {
        let points: Vec<Point> = [1.0, f64::NAN, 5.0, 6.0]
            .iter()
            .map(|y| Point { x: 0.0, y: *y })
            .collect();
        let means: Vec<f64> = moving_mean(&points, 3).iter().map(|p| p.y).collect();
        assert_eq!(means, [1.0, 3.0, 5.5, 5.5]);
    }
}
