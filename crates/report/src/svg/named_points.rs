//! Points with their names beside them, and the quadrants of two changes.
//!
//! A name stands right of its point, or where that would cover another name, a point or the frame, at the first of a few
//! other places that is free. Where none is, the first one is taken: a name too many is better than one too few.

use super::marks::{close, open};
use super::style::{SOFT, shape, style, width};
use super::table::Numbers;
use super::{Anchor, Canvas, Plot};
use crate::figure::Panel;

const SIZE: f64 = 10.5;
const RADIUS: f64 = 3.6;

/// Left, upper, right and lower edge.
type Frame = (f64, f64, f64, f64);

/// The marks of all series, then the names.
pub(crate) fn draw(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers, plot: &Plot) {
    let mut taken = match panel.guide {
        true => quadrants(canvas, plot),
        false => Vec::new(),
    };
    let mut names = Vec::new();
    for (at, series) in panel.series.iter().enumerate() {
        let style = style(panel, at);
        open(canvas, series);
        canvas.put(format_args!("<g fill=\"{}\">", style.ink));
        for (point, name) in numbers.labelled(series) {
            let place = (plot.axes.x.at(point.x), plot.axes.y.at(point.y));
            let d = shape(style.mark, place.0, place.1, RADIUS);
            canvas.put(format_args!("<path d=\"{d}\"/>"));
            names.push((place, name));
        }
        close(canvas);
        close(canvas);
    }
    taken.extend(names.iter().map(|((x, y), _)| around(*x, *y)));
    for ((x, y), name) in &names {
        let (left, base) = place(*x, *y, width(name, SIZE), &taken, plot);
        taken.push(frame(left, base, width(name, SIZE)));
        let more = format!("font-size=\"{SIZE}\"");
        canvas.label((left, base), name, Anchor::Start, &more);
    }
}

fn around(x: f64, y: f64) -> Frame {
    (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
}

/// What a name covers whose base line begins at a place.
fn frame(left: f64, base: f64, wide: f64) -> Frame {
    (left, base - 0.75 * SIZE, left + wide, base + 0.2 * SIZE)
}

fn overlap(a: &Frame, b: &Frame) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

/// Begin of the base line for a name of a point.
fn place(x: f64, y: f64, wide: f64, taken: &[Frame], plot: &Plot) -> (f64, f64) {
    let (right, left, middle) = (x + 6.0, x - 6.0 - wide, x - wide / 2.0);
    let level = y + 0.35 * SIZE;
    let mut places = vec![(right, level), (left, level)];
    for row in 1..=4 {
        let away = f64::from(row) * SIZE;
        let columns = [right, left, middle];
        places.extend(columns.map(|column| (column, level - away)));
        places.extend(columns.map(|column| (column, level + away)));
    }
    let inside = |(left, base): &(f64, f64)| {
        let (left, top, right, bottom) = frame(*left, *base, wide);
        left > plot.left && right < plot.right + 12.0 && top > plot.top && bottom < plot.bottom
    };
    let free = |(left, base): &(f64, f64)| {
        let own = frame(*left, *base, wide);
        !taken.iter().any(|other| overlap(&own, other))
    };
    let inner: Vec<(f64, f64)> = places.into_iter().filter(inside).collect();
    let found = inner.iter().find(|place| free(place)).or(inner.first());
    found.copied().unwrap_or((right, level))
}

/// Lines at zero and the names of the cases in the corners; gives what the names cover.
fn quadrants(canvas: &mut Canvas, plot: &Plot) -> Vec<Frame> {
    let mut taken = Vec::new();
    let (x, y) = (plot.axes.x.at(0.0), plot.axes.y.at(0.0));
    let rule = format!("stroke=\"{SOFT}\" stroke-width=\"1.2\"");
    canvas.line((x, plot.top), (x, plot.bottom), &rule);
    canvas.line((plot.left, y), (plot.right, y), &rule);
    let corners = [
        ("ideal", false, false),
        ("both fall", true, false),
        ("both rise", false, true),
        ("reversed", true, true),
    ];
    for (name, left, up) in corners {
        let (at, anchor, room) = match left {
            true => (plot.left + 4.0, Anchor::Start, x - plot.left),
            false => (plot.right - 4.0, Anchor::End, plot.right - x),
        };
        let (base, tall) = match up {
            true => (plot.top + 12.0, y - plot.top),
            false => (plot.bottom - 5.0, plot.bottom - y),
        };
        if room > width(name, 11.0) + 6.0 && tall > 16.0 {
            let more = format!("font-size=\"11\" font-style=\"italic\" fill=\"{SOFT}\"");
            canvas.label((at, base), name, anchor, &more);
            let begin = if left { at } else { at - width(name, 11.0) };
            taken.push(frame(begin, base, width(name, 11.0)));
        }
    }
    taken
}
