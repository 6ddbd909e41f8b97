//! A heat map: a cell for each pair of tokens, coloured from −1 over white to 1 by the page's rule, sign·√|value|.
//!
//! Cells are as large as the paper's width allows; the scale stands beside them, and each cell's value is its
//! `<title>`, which a browser shows on pointing.

use std::collections::BTreeMap;

use super::style::{INK, SOFT, width, wrapped, xml};
use super::table::Numbers;
use super::{Anchor, Canvas, WIDTH};
use crate::figure::Panel;

const SIZE: f64 = 9.0;
/// Longest token beside the map.
const ROOM: f64 = 84.0;
/// Of the drawing, for the sake of its heading.
const LEAST_WIDTH: f64 = 300.0;
/// Between the map and its scale.
const GAP: f64 = 14.0;

/// Draws the map and gives the size of the drawing.
pub(crate) fn draw(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers) -> (f64, f64) {
    let (mut columns, mut rows) = (Names::default(), Names::default());
    let mut cells = Vec::new();
    for series in &panel.series {
        for (x, y, value) in numbers.grid(series) {
            cells.push((columns.at(&x), rows.at(&y), value));
        }
    }
    let left = 8.0 + rows.widest() + 6.0;
    let free = WIDTH - left - GAP - 60.0;
    let cell = (free / columns.order.len().max(1) as f64).clamp(7.0, 20.0);
    let (across, tall) = (
        cell * columns.order.len() as f64,
        cell * rows.order.len() as f64,
    );
    let wide = (left + across + GAP + 46.0).max(LEAST_WIDTH);
    let below = canvas.heading(panel, &panel.y_label, wide - 16.0);
    let top = below + columns.widest() + 24.0;
    canvas.put(format_args!(
        "<g class=\"series\"><title>{}</title>",
        xml(&panel.title)
    ));
    for (column, row, value) in &cells {
        let (x, y) = (left + cell * *column as f64, top + cell * *row as f64);
        canvas.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{cell:.1}\" height=\"{cell:.1}\" fill=\"{}\" stroke=\"#ffffff\" \
             stroke-width=\"0.4\"><title>{} × {}: {value:.3}</title></rect>",
            colour(*value),
            xml(&rows.order[*row]),
            xml(&columns.order[*column])
        ));
    }
    canvas.put(format_args!("</g>"));
    let small = format!("font-size=\"{}\"", SIZE.min(cell));
    for (at, name) in columns.order.iter().enumerate() {
        let place = (left + cell * (at as f64 + 0.5) + 3.0, top - 4.0);
        let turned = format!(
            "{small} transform=\"rotate(-90 {:.1} {:.1})\"",
            place.0, place.1
        );
        canvas.label(place, &shown(name), Anchor::Start, &turned);
    }
    for (at, name) in rows.order.iter().enumerate() {
        let place = (left - 4.0, top + cell * (at as f64 + 0.5) + 3.0);
        canvas.label(place, &shown(name), Anchor::End, &small);
    }
    canvas.label((left, below + 12.0), &panel.x_label, Anchor::Start, "");
    scale(canvas, left + across + GAP, top, tall.clamp(60.0, 160.0));
    (wide, top + tall.max(70.0) + 12.0)
}

/// Names in the order of their first appearance.
#[derive(Default)]
struct Names {
    order: Vec<String>,
    known: BTreeMap<String, usize>,
}

impl Names {
    fn at(&mut self, name: &str) -> usize {
        let next = self.order.len();
        let at = *self.known.entry(name.to_string()).or_insert(next);
        if at == next {
            self.order.push(name.to_string());
        }
        at
    }

    fn widest(&self) -> f64 {
        let widths = self.order.iter().map(|name| width(&shown(name), SIZE));
        widths.fold(0.0, f64::max)
    }
}

/// The token without its position, as far as there is room.
fn shown(name: &str) -> String {
    let bare = name
        .split_once(' ')
        .filter(|(at, _)| at.bytes().all(|c| c.is_ascii_digit()));
    wrapped(bare.map_or(name, |(_, token)| token), SIZE, ROOM, 1).swap_remove(0)
}

/// The colour bar.
fn scale(canvas: &mut Canvas, left: f64, top: f64, tall: f64) {
    const STEPS: usize = 40;
    let high = tall / STEPS as f64;
    for step in 0..STEPS {
        let value = 1.0 - 2.0 * (step as f64 + 0.5) / STEPS as f64;
        canvas.put(format_args!(
            "<rect x=\"{left:.1}\" y=\"{:.2}\" width=\"10\" height=\"{:.2}\" fill=\"{}\"/>",
            top + high * step as f64,
            high + 0.3,
            shade(value)
        ));
    }
    canvas.put(format_args!(
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"10\" height=\"{tall:.1}\" fill=\"none\" stroke=\"{SOFT}\" stroke-width=\"0.6\"/>"
    ));
    let ticks = [
        (1.0, "1"),
        (0.25, "0.25"),
        (0.0, "0"),
        (-0.25, "−0.25"),
        (-1.0, "−1"),
    ];
    for (value, text) in ticks {
        let y = top + tall * (1.0 - bent(value)) / 2.0 + 3.5;
        canvas.label(
            (left + 14.0, y),
            text,
            Anchor::Start,
            &format!("font-size=\"10\" fill=\"{INK}\""),
        );
    }
}

/// The page's diverging scale on white (`assets/charts.js`, light): blue for what points apart, orange for what points
/// together.
const DIVERGING: [[u8; 3]; 7] = [
    [0x08, 0x45, 0x7e],
    [0x3f, 0x7f, 0xb8],
    [0x9c, 0xc3, 0xe2],
    [0xf4, 0xf4, 0xf1],
    [0xf3, 0xb9, 0x8a],
    [0xd0, 0x6f, 0x24],
    [0x8c, 0x36, 0x00],
];

/// Place of a value on the scale, from −1 to 1: the square root of its size, so that small cosines stay visible.
fn bent(value: f64) -> f64 {
    value.signum() * value.abs().min(1.0).sqrt()
}

/// Grey where there is no value.
fn colour(value: f64) -> String {
    if !value.is_finite() {
        return "#d0d4da".to_string();
    }
    shade(bent(value))
}

/// The colour at a place of the scale, between its two nearest stops.
fn shade(place: f64) -> String {
    let at = (place + 1.0) / 2.0 * (DIVERGING.len() - 1) as f64;
    let low = (at.floor() as usize).min(DIVERGING.len() - 2);
    let part = at - low as f64;
    let mixed = [0, 1, 2].map(|c| {
        let (from, to) = (
            f64::from(DIVERGING[low][c]),
            f64::from(DIVERGING[low + 1][c]),
        );
        (from + (to - from) * part).round() as u8
    });
    format!("#{:02x}{:02x}{:02x}", mixed[0], mixed[1], mixed[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_the_pages() {
        let script = include_str!("../../assets/charts.js");
        let line = script.lines().find(|line| line.contains("diverging:"));
        for stop in DIVERGING {
            let hex = format!("#{:02x}{:02x}{:02x}", stop[0], stop[1], stop[2]);
            assert!(line.is_some_and(|line| line.contains(&hex)), "{hex}");
        }
        assert_eq!(colour(-1.0), "#08457e");
        assert_eq!(colour(0.0), "#f4f4f1");
        assert_eq!(colour(1.0), "#8c3600");
        // √(1/9) = 1/3, the first stop above zero; √(4/9) = 2/3, the second.
        assert_eq!(colour(1.0 / 9.0), "#f3b98a");
        assert_eq!(colour(-4.0 / 9.0), "#3f7fb8");
        assert_eq!(colour(f64::NAN), "#d0d4da");
    }
}
