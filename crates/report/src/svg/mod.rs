//! A panel of a figure as a standalone SVG for a paper: white ground, text as text, axes with units, a legend.
//!
//! ```text
//! Figure (panels + CSV) ─ table ─ axes (scale) ─ frame (here) ─ marks (marks, heat) ─ SVG text
//! ```
//!
//! Written by hand rather than with `plotters` (0.3.7 was weighed): that library draws a dash as many short strokes and
//! knows no gap in a line, and laying out legend, wrapped labels and token grids, which is most of this, it leaves to
//! the caller. The same figure is drawn in the page by ECharts; both read the same CSV by the same rules.
//!
//! Left out: what only a screen has (pointing, hiding series), and captions, which a paper sets itself; the figure's
//! caption and command stand in the file's `<desc>`. Tested in `tests/svg.rs`.

mod axes;
mod bars;
mod heat;
mod marks;
mod named_points;
mod scale;
mod style;
mod table;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use self::axes::{Axes, Axis};
use self::scale::Scale;
use self::style::{INK, RULE, SOFT, shape, style, width, wrapped, xml};
use self::table::Numbers;
use crate::error::{ReportError, Result};
use crate::figure::{Figure, Kind, Panel, Role};
use crate::page::stem;
use crate::write::write_atomically;

/// Width of a drawing: of text at 12 units it becomes 8 points in a column of 3.3 inches.
pub(crate) const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 220.0;
const SIZE: f64 = 12.0;
const MARGIN: f64 = 8.0;
const LEGEND_ROW: f64 = 17.0;

/// A range moved out to round numbers.
pub(crate) fn round_range(range: (f64, f64)) -> (f64, f64) {
    Scale::round(range).range()
}

/// Writes each panel of each figure as `<figure id>-<panel>.svg` into `dir`, which is made if it is missing.
pub(crate) fn write(figures: &[&Figure], dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).map_err(ReportError::io("create", dir))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for figure in figures {
        let numbers = Numbers::parse(&figure.csv);
        for (at, panel) in figure.panels.iter().enumerate() {
            let name = format!("{}-{}", figure.id, stem(&panel.title).to_lowercase());
            let mut path = dir.join(format!("{name}.svg"));
            if paths.contains(&path) {
                path = dir.join(format!("{name}-{}.svg", at + 1));
            }
            write_atomically(&path, &panel_svg(figure, panel, &numbers))?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// One panel as a whole file.
pub(crate) fn panel_svg(figure: &Figure, panel: &Panel, numbers: &Numbers) -> String {
    let mut canvas = Canvas::default();
    let (wide, high) = if panel.kind == Kind::HeatMap {
        heat::draw(&mut canvas, panel, numbers)
    } else {
        draw(&mut canvas, panel, numbers)
    };
    let command = figure.command.as_deref().unwrap_or("not recorded");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide:.0}\" \
         height=\"{high:.0}\" viewBox=\"0 0 {wide:.0} {high:.0}\" role=\"img\" font-family=\"Helvetica, Arial, 'Liberation \
         Sans', 'DejaVu Sans', sans-serif\" font-size=\"{SIZE}\" fill=\"{INK}\">\n<title>{}: {}</title>\n<desc>{} Made by: \
         {}</desc>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
        xml(&figure.title),
        xml(&panel.title),
        xml(&figure.caption),
        xml(command),
        canvas.text
    )
}

/// SVG elements as they are written.
#[derive(Default)]
pub(crate) struct Canvas {
    text: String,
}

/// Where a text stands against its place.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    /// Markup as it stands.
    pub(crate) fn put(&mut self, piece: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(piece)
            .expect("writing to a string cannot fail");
        self.text.push('\n');
    }

    /// A straight line with further attributes.
    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), more: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {more}/>"
        ));
    }

    /// Text on its base line, with further attributes.
    pub(crate) fn label(&mut self, (x, y): (f64, f64), text: &str, anchor: Anchor, more: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{}</text>",
            xml(text)
        ));
    }

    /// Heading above everything, with a subtitle in lines of `room`; gives the place below it.
    pub(crate) fn heading(&mut self, panel: &Panel, subtitle: &str, room: f64) -> f64 {
        self.label(
            (MARGIN, 18.0),
            &panel.title,
            Anchor::Start,
            "font-weight=\"bold\"",
        );
        let mut below = 24.0;
        for line in wrapped(subtitle, SIZE - 1.0, room, 3) {
            if !line.is_empty() {
                below += 14.0;
                let more = format!("font-size=\"{}\" fill=\"{SOFT}\"", SIZE - 1.0);
                self.label((MARGIN, below - 4.0), &line, Anchor::Start, &more);
            }
        }
        below
    }
}

/// Where the marks go.
pub(crate) struct Plot {
    /// Left edge.
    pub(crate) left: f64,
    /// Right edge.
    pub(crate) right: f64,
    /// Upper edge.
    pub(crate) top: f64,
    /// Lower edge.
    pub(crate) bottom: f64,
    /// Axes laid over the edges.
    pub(crate) axes: Axes,
}

fn draw(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers) -> (f64, f64) {
    let axes = Axes::of(panel, numbers);
    let lying = matches!(panel.kind, Kind::Bars | Kind::StackedBars);
    let below = canvas.heading(
        panel,
        if lying { &panel.y_label } else { "" },
        WIDTH - 2.0 * MARGIN,
    );
    let top = legend(canvas, panel, numbers, below) + 10.0;
    let tall = axes.height(panel, HEIGHT);
    let unit = if lying {
        Vec::new()
    } else {
        wrapped(&panel.y_label, SIZE, tall, 2)
    };
    let left = MARGIN + 15.0 * unit.len() as f64 + axes.y.breadth() + 8.0;
    // The last label of x reaches beyond the plot.
    let right = WIDTH - MARGIN - 14.0;
    let plot = Plot {
        left,
        right,
        top,
        bottom: top + tall,
        axes: axes.over((left, right), (top, top + tall)),
    };
    for (at, line) in unit.iter().enumerate() {
        let (x, y) = (
            MARGIN + 10.0 + 15.0 * at as f64,
            (plot.top + plot.bottom) / 2.0,
        );
        let turned = format!("transform=\"rotate(-90 {x:.1} {y:.1})\"");
        canvas.label((x, y), line, Anchor::Middle, &turned);
    }
    frame(canvas, panel, &plot);
    marks::draw(canvas, panel, numbers, &plot);
    let names = plot.axes.x_labels(canvas, &plot);
    let base = plot.bottom + names + 16.0;
    canvas.label(
        ((left + right) / 2.0, base),
        &panel.x_label,
        Anchor::Middle,
        "",
    );
    (WIDTH, base + MARGIN)
}

/// Grid, axes and the labels of y.
fn frame(canvas: &mut Canvas, panel: &Panel, plot: &Plot) {
    let rule = format!("stroke=\"{RULE}\" stroke-width=\"0.8\"");
    match &plot.axes.y {
        Axis::Values { ticks, labels, .. } => {
            for (tick, label) in ticks.iter().zip(labels) {
                let y = plot.axes.y.at(*tick);
                canvas.line((plot.left, y), (plot.right, y), &rule);
                canvas.label((plot.left - 6.0, y + 4.0), label, Anchor::End, "");
            }
        }
        Axis::Names { names, .. } => {
            for (at, name) in names.iter().enumerate() {
                let lines = wrapped(name, SIZE, plot.axes.y.breadth(), 2);
                let first = plot.axes.y.at(at as f64) + 4.0 - 7.0 * (lines.len() - 1) as f64;
                for (row, line) in lines.iter().enumerate() {
                    let place = (plot.left - 6.0, first + 14.0 * row as f64);
                    canvas.label(place, line, Anchor::End, "");
                }
            }
        }
    }
    if let Axis::Values { ticks, .. } = &plot.axes.x {
        let graph = matches!(panel.kind, Kind::Lines | Kind::Stack | Kind::Histogram);
        for x in ticks.iter().map(|tick| plot.axes.x.at(*tick)) {
            if graph {
                canvas.line(
                    (x, plot.bottom),
                    (x, plot.bottom + 4.0),
                    &format!("stroke=\"{SOFT}\""),
                );
            } else {
                canvas.line((x, plot.top), (x, plot.bottom), &rule);
            }
        }
    }
    let axis = format!("stroke=\"{SOFT}\" stroke-width=\"1\"");
    canvas.line((plot.left, plot.top), (plot.left, plot.bottom), &axis);
    canvas.line((plot.left, plot.bottom), (plot.right, plot.bottom), &axis);
}

/// Samples and names in as many rows as they need; gives the place below.
fn legend(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers, top: f64) -> f64 {
    let mut entries: Vec<(String, String)> = Vec::new();
    let named = panel.series.iter().enumerate();
    for (at, series) in named.filter(|(_, series)| !series.faint) {
        let style = style(panel, at);
        let ink = style.ink;
        let sample = match panel.kind {
            Kind::Lines => {
                let dash = marks::dash(style.dash);
                let fill = if style.hollow { "#ffffff" } else { ink };
                let line = format!(
                    "<path d=\"M0 0H26\" fill=\"none\" stroke=\"{ink}\" stroke-width=\"1.8\"{dash}/>"
                );
                let mark = shape(style.mark, 13.0, 0.0, 3.0);
                match marks::are_few(&numbers.points(series)) {
                    true => format!("{line}<path d=\"{mark}\" fill=\"{fill}\" stroke=\"{ink}\"/>"),
                    false => line,
                }
            }
            Kind::Scatter | Kind::Plane | Kind::Labelled => {
                format!(
                    "<path d=\"{}\" fill=\"{ink}\"/>",
                    shape(style.mark, 13.0, 0.0, 3.6)
                )
            }
            _ => format!("<rect x=\"8\" y=\"-5\" width=\"14\" height=\"10\" fill=\"{ink}\"/>"),
        };
        entries.push((series.name.clone(), sample));
    }
    if panel.kind == Kind::Scatter && panel.guide {
        let line = format!(
            "<path d=\"M0 0H26\" fill=\"none\" stroke=\"{SOFT}\" stroke-dasharray=\"4 3\"/>"
        );
        entries.push(("y = x".to_string(), line));
    }
    // A single series without a meaning of its own, or that repeats the heading, needs no legend.
    let heading = panel.title.to_lowercase();
    if let [only] = &panel.series[..] {
        let lines = panel.kind == Kind::Lines;
        if only.name.to_lowercase() == heading || (matches!(only.role, Role::Plain) && !lines) {
            return top;
        }
    }
    let (mut x, mut y) = (MARGIN, top + 9.0);
    for (name, sample) in entries {
        let wide = 31.0 + width(&name, SIZE) + 14.0;
        if x > MARGIN && x + wide > WIDTH {
            (x, y) = (MARGIN, y + LEGEND_ROW);
        }
        canvas.put(format_args!(
            "<g class=\"key\" transform=\"translate({x:.1} {y:.1})\">{sample}"
        ));
        canvas.label((31.0, 4.0), &name, Anchor::Start, "");
        canvas.put(format_args!("</g>"));
        x += wide;
    }
    y + 8.0
}
