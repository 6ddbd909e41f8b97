//! Bars: side by side, stacked, lying or upright, and the bins of a histogram.

use super::marks::{close, open};
use super::scale::extent;
use super::style::{SOFT, style, width};
use super::table::{Numbers, Point};
use super::{Anchor, Canvas, Plot};
use crate::figure::{Kind, Panel};

/// Counts of a histogram.
pub(crate) struct Bins {
    /// Middles in rising order.
    pub(crate) middles: Vec<f64>,
    /// Width of a bin.
    pub(crate) width: f64,
    /// Series → bin → count.
    counts: Vec<Vec<f64>>,
}

impl Bins {
    /// Heights of the stacks.
    pub(crate) fn tops(&self) -> Vec<f64> {
        let bins = 0..self.middles.len();
        bins.map(|bin| self.counts.iter().map(|counts| counts[bin]).sum())
            .collect()
    }
}

/// The bins that the series name.
pub(crate) fn bins(panel: &Panel, numbers: &Numbers) -> Bins {
    let all: Vec<Vec<Point>> = panel
        .series
        .iter()
        .map(|series| numbers.points(series))
        .collect();
    let mut middles: Vec<f64> = all.iter().flatten().map(|point| point.x).collect();
    middles.sort_by(f64::total_cmp);
    middles.dedup();
    let gaps = middles.windows(2).map(|pair| pair[1] - pair[0]);
    let width = gaps.fold(f64::INFINITY, f64::min);
    let counts = all.iter().map(|points| {
        let count = |middle: &f64| {
            let found = points.iter().find(|point| point.x == *middle);
            found.map_or(0.0, |point| if point.y.is_finite() { point.y } else { 0.0 })
        };
        middles.iter().map(count).collect()
    });
    Bins {
        counts: counts.collect(),
        width: if width.is_finite() { width } else { 1.0 },
        middles,
    }
}

/// The bins of all series on top of each other.
pub(crate) fn histogram(canvas: &mut Canvas, panel: &Panel, numbers: &Numbers, plot: &Plot) {
    let bins = bins(panel, numbers);
    let mut base = vec![0.0; bins.middles.len()];
    for (at, series) in panel.series.iter().enumerate() {
        open(canvas, series);
        canvas.put(format_args!(
            "<g fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.5\">",
            style(panel, at).ink
        ));
        for (bin, middle) in bins.middles.iter().enumerate() {
            let top = base[bin] + bins.counts[at][bin];
            let (left, right) = (
                plot.axes.x.at(middle - bins.width / 2.0),
                plot.axes.x.at(middle + bins.width / 2.0),
            );
            block(
                canvas,
                (left, right),
                (plot.axes.y.at(base[bin]), plot.axes.y.at(top)),
            );
            base[bin] = top;
        }
        close(canvas);
        close(canvas);
    }
}

/// Values by name.
pub(crate) struct Stacks {
    /// Names in the order of their first appearance.
    pub(crate) names: Vec<String>,
    /// Series → name → value.
    values: Vec<Vec<Option<f64>>>,
}

impl Stacks {
    /// Values that the axis must show.
    pub(crate) fn ends(&self, kind: Kind) -> Vec<f64> {
        let values = self.values.iter().flatten().copied().flatten();
        if matches!(kind, Kind::Bars | Kind::Columns) {
            return values.collect();
        }
        let sums = (0..self.names.len()).flat_map(|name| {
            let here = self.values.iter().filter_map(move |series| series[name]);
            let above: f64 = here.clone().filter(|value| *value > 0.0).sum();
            let below: f64 = here.filter(|value| *value < 0.0).sum();
            [above, below]
        });
        sums.collect()
    }
}

/// The values of all series by name.
pub(crate) fn stacks(panel: &Panel, numbers: &Numbers) -> Stacks {
    let all: Vec<_> = panel
        .series
        .iter()
        .map(|series| numbers.named(series))
        .collect();
    let mut names: Vec<String> = Vec::new();
    for (name, _) in all.iter().flatten() {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let values = all.iter().map(|named| {
        let value = |name: &String| {
            let found = named.iter().find(|(other, _)| other == name);
            found
                .map(|(_, value)| *value)
                .filter(|value| value.is_finite())
        };
        names.iter().map(value).collect()
    });
    Stacks {
        values: values.collect(),
        names,
    }
}

/// Bars side by side or end to end, lying or upright.
pub(crate) fn bars(
    canvas: &mut Canvas,
    panel: &Panel,
    numbers: &Numbers,
    plot: &Plot,
    stacked: bool,
) {
    let stacks = stacks(panel, numbers);
    let lying = matches!(panel.kind, Kind::Bars | Kind::StackedBars);
    let (names, values) = if lying {
        (&plot.axes.y, &plot.axes.x)
    } else {
        (&plot.axes.x, &plot.axes.y)
    };
    let slots = if stacked {
        1.0
    } else {
        panel.series.len() as f64
    };
    let thick = names.band() * 0.78 / slots;
    let mut ends = vec![(0.0, 0.0); stacks.names.len()];
    for (at, series) in panel.series.iter().enumerate() {
        open(canvas, series);
        canvas.put(format_args!(
            "<g fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.5\">",
            style(panel, at).ink
        ));
        let mut shown = Vec::new();
        for (name, value) in stacks.values[at].iter().enumerate() {
            let Some(value) = *value else { continue };
            let slot = if stacked { 0.0 } else { at as f64 };
            let from = names.at(name as f64) + thick * (slot - slots / 2.0);
            let (up, down) = ends[name];
            let base = match stacked {
                false => 0.0,
                true if value < 0.0 => down,
                true => up,
            };
            let (near, far) = (values.at(base), values.at(base + value));
            if lying {
                block(canvas, (near, far), (from, from + thick));
                shown.push((far, from + thick / 2.0, value));
            } else {
                block(canvas, (from, from + thick), (near, far));
            }
            ends[name] = if value < 0.0 {
                (up, down + value)
            } else {
                (up + value, down)
            };
        }
        close(canvas);
        if panel.kind == Kind::Bars {
            values_beside(canvas, panel, &shown, plot);
        }
        close(canvas);
    }
    let zero = values.at(0.0);
    let line = format!("stroke=\"{SOFT}\" stroke-width=\"1\"");
    if lying {
        canvas.line((zero, plot.top), (zero, plot.bottom), &line);
    } else {
        canvas.line((plot.left, zero), (plot.right, zero), &line);
    }
}

/// Each bar's value beyond its end.
fn values_beside(canvas: &mut Canvas, panel: &Panel, shown: &[(f64, f64, f64)], plot: &Plot) {
    for (x, y, value) in shown {
        let text = if panel.percent {
            format!("{:.0}\u{2009}%", 100.0 * value)
        } else {
            crate::page::number(*value)
        };
        let (place, anchor) = if *value < 0.0 {
            (x - 4.0, Anchor::End)
        } else {
            (x + 4.0, Anchor::Start)
        };
        let wide = width(&text, 10.0);
        let place = place.clamp(
            plot.left + if *value < 0.0 { wide } else { 0.0 },
            plot.right,
        );
        canvas.label(
            (place, y + 3.6),
            &text,
            anchor,
            &format!("font-size=\"10\" fill=\"{SOFT}\""),
        );
    }
}

/// A rectangle between two places each way.
fn block(canvas: &mut Canvas, (x1, x2): (f64, f64), (y1, y2): (f64, f64)) {
    let (left, right) = extent([x1, x2]).unwrap_or_default();
    let (top, bottom) = extent([y1, y2]).unwrap_or_default();
    if right > left && bottom > top {
        canvas.put(format_args!(
            "<rect x=\"{left:.2}\" y=\"{top:.2}\" width=\"{:.2}\" height=\"{:.2}\"/>",
            right - left,
            bottom - top
        ));
    }
}
