//! What a panel draws inside its axes: lines, areas and points; bars are drawn in `bars.rs`.
//!
//! A series is a group `<g class="series">` with its name as `<title>`. A value that is not finite is a gap: a line
//! ends before it and begins again after it, and what stands alone between two gaps is a dot.

use super::style::{SOFT, Style, shape, style, xml};
use super::table::{Numbers, Point, moving_mean};
use super::{Anchor, Canvas, Plot, bars, named_points};
use crate::figure::{Kind, Panel, Series};

/// Up to so many points each has its mark.
const FEW: usize = 40;

/// The marks of all series over the axes.
pub(crate) fn draw(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers, plot: &Plot) {
    match panel.kind {
        Kind::Lines => lines(canvas, panel, numbers, plot),
        Kind::Stack => areas(canvas, panel, numbers, plot),
        Kind::Scatter | Kind::Plane => cloud(canvas, panel, numbers, plot),
        Kind::Labelled => named_points::draw(canvas, panel, numbers, plot),
        Kind::Histogram => bars::histogram(canvas, panel, numbers, plot),
        Kind::Bars | Kind::Columns => bars::bars(canvas, panel, numbers, plot, false),
        Kind::StackedBars | Kind::StackedColumns => bars::bars(canvas, panel, numbers, plot, true),
        // Has its own frame: `heat`.
        Kind::HeatMap => {}
    }
}

/// The attribute for a dash pattern, empty for none.
pub(crate) fn dash(pattern: &str) -> String {
    if pattern.is_empty() {
        String::new()
    } else {
        format!(" stroke-dasharray=\"{pattern}\"")
    }
}

/// Begins the group of a series.
pub(crate) fn open(canvas: &mut Canvas, series: &Series) {
    canvas.put(format_args!(
        "<g class=\"series\"><title>{}</title>",
        xml(&series.name)
    ));
}

/// Ends a group.
pub(crate) fn close(canvas: &mut Canvas) {
    canvas.put(format_args!("</g>"));
}

fn lines(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers, plot: &Plot) {
    let (lo, hi) = plot.axes.y.range();
    if panel.guide && lo < 0.0 && hi > 0.0 {
        let y = plot.axes.y.at(0.0);
        canvas.line(
            (plot.left, y),
            (plot.right, y),
            &format!("stroke=\"{SOFT}\" stroke-width=\"0.9\""),
        );
    }
    for (at, series) in panel.series.iter().enumerate() {
        let style = style(panel, at);
        let raw = numbers.points(series);
        open(canvas, series);
        if series.faint {
            let more = "stroke-width=\"0.8\" stroke-opacity=\"0.45\"";
            polyline(canvas, &raw, style.ink, more, plot);
            close(canvas);
            continue;
        }
        let smooth = series.smooth > 1 && raw.len() > series.smooth;
        if smooth {
            let opacity = if raw.len() > 300 { 0.2 } else { 0.35 };
            let more = format!("stroke-width=\"0.8\" stroke-opacity=\"{opacity}\"");
            polyline(canvas, &raw, style.ink, &more, plot);
        }
        let means = if smooth {
            moving_mean(&raw, series.smooth)
        } else {
            raw.clone()
        };
        let more = format!("stroke-width=\"1.8\"{}", dash(style.dash));
        polyline(canvas, &means, style.ink, &more, plot);
        let marked = marked(&means);
        if !marked.is_empty() {
            marks(canvas, marked, style, plot);
        }
        close(canvas);
    }
}

/// Whether each of the points gets a mark.
pub(crate) fn are_few(points: &[Point]) -> bool {
    points.len() <= FEW
}

/// Points that get a mark: all of a few, otherwise those that no line would show.
fn marked(points: &[Point]) -> Vec<Point> {
    let finite = |at: usize| points.get(at).is_some_and(|point| point.y.is_finite());
    let alone = |at: usize| !finite(at + 1) && (at == 0 || !finite(at - 1));
    let seen = points.iter().enumerate();
    let seen = seen.filter(|(at, point)| point.y.is_finite() && (are_few(points) || alone(*at)));
    seen.map(|(_, point)| *point).collect()
}

fn marks(canvas: &mut Canvas, points: Vec<Point>, style: Style, plot: &Plot) {
    let fill = if style.hollow { "#ffffff" } else { style.ink };
    canvas.put(format_args!(
        "<g fill=\"{fill}\" stroke=\"{}\" stroke-width=\"1\">",
        style.ink
    ));
    for point in points {
        let d = shape(
            style.mark,
            plot.axes.x.at(point.x),
            plot.axes.y.at(point.y),
            2.6,
        );
        canvas.put(format_args!("<path d=\"{d}\"/>"));
    }
    close(canvas);
}

/// A line through the points, in pieces between gaps.
fn polyline(canvas: &mut Canvas, points: &[Point], ink: &str, more: &str, plot: &Plot) {
    let mut d = String::new();
    for piece in points
        .split(|point| !point.y.is_finite())
        .filter(|piece| piece.len() > 1)
    {
        for (at, point) in piece.iter().enumerate() {
            let command = if at == 0 { 'M' } else { 'L' };
            d += &format!("{command}{}", place(*point, plot));
        }
    }
    if !d.is_empty() {
        canvas.put(format_args!(
            "<path d=\"{d}\" fill=\"none\" stroke=\"{ink}\" stroke-linejoin=\"round\" {more}/>"
        ));
    }
}

fn place(point: Point, plot: &Plot) -> String {
    format!(
        "{:.1} {:.1}",
        plot.axes.x.at(point.x),
        plot.axes.y.at(point.y)
    )
}

/// Shares on top of each other; rows that lack one of them are left out.
fn areas(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers, plot: &Plot) {
    let all: Vec<Vec<Point>> = panel
        .series
        .iter()
        .map(|series| {
            let raw = numbers.points(series);
            let smooth = series.smooth > 1 && raw.len() > series.smooth;
            if smooth {
                moving_mean(&raw, series.smooth)
            } else {
                raw
            }
        })
        .collect();
    let rows = all.iter().map(Vec::len).min().unwrap_or(0);
    let whole: Vec<usize> = (0..rows)
        .filter(|row| all.iter().all(|points| points[*row].y.is_finite()))
        .collect();
    let mut below = vec![0.0; whole.len()];
    for (at, series) in panel.series.iter().enumerate() {
        let ink = style(panel, at).ink;
        let above: Vec<f64> = whole
            .iter()
            .zip(&below)
            .map(|(row, base)| base + all[at][*row].y)
            .collect();
        let edge = |heights: &[f64]| -> Vec<String> {
            let points = whole.iter().zip(heights);
            let points = points.map(|(row, y)| Point {
                x: all[at][*row].x,
                y: *y,
            });
            points.map(|point| place(point, plot)).collect()
        };
        open(canvas, series);
        if whole.len() == 1 {
            let (x, y) = (
                plot.axes.x.at(all[at][whole[0]].x),
                plot.axes.y.at(above[0]),
            );
            let high = plot.axes.y.at(below[0]) - y;
            canvas.put(format_args!(
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"24\" height=\"{high:.1}\" fill=\"{ink}\"/>",
                x - 12.0
            ));
        } else if !whole.is_empty() {
            let back: Vec<String> = edge(&below).into_iter().rev().collect();
            canvas.put(format_args!(
                "<path d=\"M{}L{}Z\" fill=\"{ink}\" stroke=\"#ffffff\" stroke-width=\"0.6\"/>",
                edge(&above).join("L"),
                back.join("L")
            ));
        }
        close(canvas);
        below = above;
    }
}

fn cloud(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers, plot: &Plot) {
    if panel.kind == Kind::Plane {
        conditions(canvas, plot);
    } else if panel.guide {
        let ((x_lo, x_hi), (y_lo, y_hi)) = (plot.axes.x.range(), plot.axes.y.range());
        let (lo, hi) = (x_lo.max(y_lo), x_hi.min(y_hi));
        if lo < hi {
            let end = |v: f64| (plot.axes.x.at(v), plot.axes.y.at(v));
            canvas.line(
                end(lo),
                end(hi),
                &format!("stroke=\"{SOFT}\" stroke-width=\"1.2\" stroke-dasharray=\"4 3\""),
            );
        }
    }
    for (at, series) in panel.series.iter().enumerate() {
        let points: Vec<Point> = numbers
            .points(series)
            .into_iter()
            .filter(|point| point.y.is_finite())
            .collect();
        let many = points.len() > 500;
        let (radius, opacity) = if many { (1.8, 0.45) } else { (2.6, 0.65) };
        let style = style(panel, at);
        open(canvas, series);
        canvas.put(format_args!(
            "<g fill=\"{}\" fill-opacity=\"{opacity}\">",
            style.ink
        ));
        for point in points {
            let d = shape(
                style.mark,
                plot.axes.x.at(point.x),
                plot.axes.y.at(point.y),
                radius,
            );
            canvas.put(format_args!("<path d=\"{d}\"/>"));
        }
        close(canvas);
        close(canvas);
    }
}

/// x = 1, y = 1 and the bound x·y = 1, beyond which no two gradients lie.
fn conditions(canvas: &mut Canvas, plot: &Plot) {
    let whole = format!("stroke=\"{SOFT}\" stroke-width=\"1.2\"");
    let (x, y) = (plot.axes.x.at(1.0), plot.axes.y.at(1.0));
    canvas.line((x, plot.top), (x, plot.bottom), &whole);
    canvas.line((plot.left, y), (plot.right, y), &whole);
    let name = |canvas: &mut Canvas, place, name, anchor| {
        let more = format!("font-size=\"11\" font-style=\"italic\" fill=\"{SOFT}\"");
        canvas.label(place, name, anchor, &more);
    };
    if y - plot.top > 16.0 {
        name(
            canvas,
            (plot.left + 6.0, plot.top + 12.0),
            "both rise",
            Anchor::Start,
        );
    }
    if plot.bottom - y > 16.0 {
        name(canvas, (plot.left + 6.0, y + 13.0), "ideal", Anchor::Start);
        if plot.right - x > 24.0 {
            name(
                canvas,
                (plot.right - 4.0, plot.bottom - 6.0),
                "both fall",
                Anchor::End,
            );
        }
    }
    let ((x_lo, x_hi), (y_lo, y_hi)) = (plot.axes.x.range(), plot.axes.y.range());
    for sign in [1.0, -1.0] {
        let far = |x: f64, y: f64| if sign > 0.0 { (x, y) } else { (-x, -y) };
        let ((reach_x, _), (reach_y, _)) = if sign > 0.0 {
            ((x_hi, 0), (y_hi, 0))
        } else {
            ((-x_lo, 0), (-y_lo, 0))
        };
        if reach_x <= 0.0 || reach_y <= 0.0 || reach_x * reach_y <= 1.0 {
            continue;
        }
        let (from, to) = ((1.0 / reach_y).ln(), reach_x.ln());
        let curve: Vec<String> = (0..=80)
            .map(|k| (from + (to - from) * f64::from(k) / 80.0).exp())
            .map(|x| far(x, 1.0 / x))
            .map(|(x, y)| place(Point { x, y }, plot))
            .collect();
        canvas.put(format_args!(
            "<path d=\"M{}\" fill=\"none\" stroke=\"{SOFT}\" stroke-width=\"1\" stroke-dasharray=\"2 2.5\"/>",
            curve.join("L")
        ));
    }
}
