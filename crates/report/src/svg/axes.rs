//! The two axes of a panel: which values or names they show, and where those lie.

use super::bars::{bins, stacks};
use super::scale::{Scale, extent, labels};
use super::style::{width, wrapped};
use super::table::Numbers;
use super::{Anchor, Canvas, Plot};
use crate::figure::{Kind, Panel};

const SIZE: f64 = 12.0;
/// Widest label of a name beside the axis.
const NAME_ROOM: f64 = 150.0;

/// One axis.
pub(crate) enum Axis {
    /// Numbers.
    Values {
        /// From values to places.
        scale: Scale,
        /// Labelled values.
        ticks: Vec<f64>,
        /// Their labels.
        labels: Vec<String>,
    },
    /// Names at equal distances.
    Names {
        /// In order.
        names: Vec<String>,
        /// Places of both ends.
        ends: (f64, f64),
    },
}

/// Both axes.
pub(crate) struct Axes {
    /// Across.
    pub(crate) x: Axis,
    /// Upwards.
    pub(crate) y: Axis,
}

impl Axis {
    fn values(scale: Scale, count: f64, whole: bool, percent: bool) -> Self {
        let ticks = scale.ticks(count, whole);
        Self::Values {
            labels: labels(&ticks, percent),
            ticks,
            scale,
        }
    }

    fn names(names: Vec<String>) -> Self {
        Self::Names {
            names,
            ends: (0.0, 1.0),
        }
    }

    fn over(self, from: f64, to: f64) -> Self {
        match self {
            // Which bent ticks have room depends on the place.
            Self::Values {
                scale,
                ticks,
                labels,
            } => {
                let scale = scale.over(from, to);
                let bent = scale.bends().then(|| scale.ticks(5.0, false));
                let (ticks, labels) = match bent {
                    Some(ticks) => {
                        let labels = ticks.iter().map(|tick| plain(*tick)).collect();
                        (ticks, labels)
                    }
                    None => (ticks, labels),
                };
                Self::Values {
                    scale,
                    ticks,
                    labels,
                }
            }
            Self::Names { names, .. } => Self::Names {
                names,
                ends: (from, to),
            },
        }
    }

    /// The place of a value, or of the middle of the name of that number.
    pub(crate) fn at(&self, value: f64) -> f64 {
        match self {
            Self::Values { scale, .. } => scale.at(value),
            Self::Names { ends, .. } => {
                ends.0 + self.band() * (value + 0.5) * (ends.1 - ends.0).signum()
            }
        }
    }

    /// Room of one name.
    pub(crate) fn band(&self) -> f64 {
        match self {
            Self::Values { .. } => 0.0,
            Self::Names { names, ends } => (ends.1 - ends.0).abs() / names.len().max(1) as f64,
        }
    }

    /// Both ends in values; of names their numbers.
    pub(crate) fn range(&self) -> (f64, f64) {
        match self {
            Self::Values { scale, .. } => scale.range(),
            Self::Names { names, .. } => (0.0, names.len() as f64),
        }
    }

    /// Names in order; none of a number axis.
    pub(crate) fn all_names(&self) -> &[String] {
        match self {
            Self::Values { .. } => &[],
            Self::Names { names, .. } => names,
        }
    }

    /// Room that the labels take beside the plot.
    pub(crate) fn breadth(&self) -> f64 {
        let widest = |texts: &[String]| {
            texts
                .iter()
                .map(|text| width(text, SIZE))
                .fold(0.0, f64::max)
        };
        match self {
            Self::Values { scale, labels, .. } if scale.bends() => {
                widest(labels).max(width("1000", SIZE))
            }
            Self::Values { labels, .. } => widest(labels),
            Self::Names { names, .. } => {
                let lines: Vec<String> = names
                    .iter()
                    .flat_map(|name| wrapped(name, SIZE, NAME_ROOM, 2))
                    .collect();
                widest(&lines)
            }
        }
    }
}

impl Axes {
    /// The axes that show all of a panel.
    pub(crate) fn of(panel: &Panel, numbers: &Numbers) -> Self {
        match panel.kind {
            Kind::Bars | Kind::StackedBars | Kind::Columns | Kind::StackedColumns => {
                Self::with_names(panel, numbers)
            }
            Kind::Histogram => {
                let bins = bins(panel, numbers);
                let ends = extent(
                    bins.middles
                        .iter()
                        .flat_map(|x| [x - bins.width / 2.0, x + bins.width / 2.0]),
                );
                let tallest = bins.tops().into_iter().fold(0.0, f64::max);
                Self {
                    x: Axis::values(Scale::exact(ends.unwrap_or((0.0, 1.0))), 5.0, false, false),
                    y: Axis::values(
                        Scale::round((0.0, tallest.max(1.0))),
                        5.0,
                        true,
                        panel.percent,
                    ),
                }
            }
            _ => Self::of_points(panel, numbers),
        }
    }

    fn of_points(panel: &Panel, numbers: &Numbers) -> Self {
        let points: Vec<_> = panel
            .series
            .iter()
            .flat_map(|series| numbers.points(series))
            .collect();
        let x = extent(points.iter().map(|point| point.x));
        let zero = (panel.guide && panel.kind == Kind::Lines).then_some(0.0);
        let y = extent(points.iter().map(|point| point.y).chain(zero));
        let ((x_lo, x_hi), y) = (x.unwrap_or((0.0, 1.0)), y.unwrap_or((0.0, 1.0)));
        let steps = panel.kind == Kind::Lines || panel.kind == Kind::Stack;
        if panel.kind == Kind::Plane {
            // As on the page: the points fill the plane, and the conditions at 1 are always in it.
            let within = |(lo, hi): (f64, f64)| (lo.min(0.9), hi.max(1.1));
            let scale = |(lo, hi): (f64, f64)| {
                let room = 0.05 * (hi - lo);
                if panel.asinh {
                    Scale::asinh((lo, hi))
                } else {
                    Scale::exact((lo - room, hi + room))
                }
            };
            return Self {
                x: Axis::values(scale(within((x_lo, x_hi))), 5.0, false, false),
                y: Axis::values(scale(within(y)), 5.0, false, false),
            };
        }
        if panel.kind == Kind::Labelled {
            let zero = panel.guide.then_some(0.0);
            let scale = |range: (f64, f64)| {
                let (lo, hi) = extent([range.0, range.1].into_iter().chain(zero)).unwrap_or(range);
                // Names stand beside the outermost points.
                let room = 0.09 * (hi - lo);
                match panel.asinh {
                    true => Scale::asinh((lo, hi)),
                    false => Scale::exact((lo - room, hi + room)),
                }
            };
            return Self {
                x: Axis::values(scale((x_lo, x_hi)), 5.0, false, false),
                y: Axis::values(scale(y), 5.0, false, false),
            };
        }
        let x = if steps {
            let one = x_lo == x_hi;
            Scale::exact(if one {
                (x_lo - 1.0, x_hi + 1.0)
            } else {
                (x_lo, x_hi)
            })
        } else {
            Scale::round((x_lo, x_hi))
        };
        let shares = panel.kind == Kind::Stack || (steps && panel.percent);
        let y = match panel.y_range {
            Some(range) => Scale::exact(range),
            None if shares => Scale::exact((0.0, 1.0)),
            None => Scale::round(y),
        };
        let whole = steps && x.range().1 - x.range().0 >= 2.0;
        Self {
            x: Axis::values(x, 6.0, whole, false),
            y: Axis::values(y, 5.0, false, panel.percent),
        }
    }

    fn with_names(panel: &Panel, numbers: &Numbers) -> Self {
        let mut stacks = stacks(panel, numbers);
        let lying = matches!(panel.kind, Kind::Bars | Kind::StackedBars);
        let (lo, hi) =
            extent(stacks.ends(panel.kind).into_iter().chain([0.0])).unwrap_or((0.0, 1.0));
        let scale = match panel.kind {
            Kind::StackedBars => Scale::exact((0.0, 1.0)),
            // The values stand beyond the bars' ends.
            Kind::Bars => {
                let room = 0.16 * (hi - lo);
                Scale::round((
                    if lo < 0.0 { lo - room } else { lo },
                    if hi > 0.0 { hi + room } else { hi },
                ))
            }
            _ => Scale::round((lo, hi)),
        };
        let values = Axis::values(scale, 4.0, false, panel.percent);
        stacks.names.iter_mut().for_each(short);
        let names = Axis::names(stacks.names);
        if lying {
            Self {
                x: values,
                y: names,
            }
        } else {
            Self {
                x: names,
                y: values,
            }
        }
    }

    /// Height of the plot, which grows with the names beside it.
    pub(crate) fn height(&self, panel: &Panel, usual: f64) -> f64 {
        let names = self.y.all_names().len() as f64;
        let bars = if panel.kind == Kind::Bars {
            panel.series.len() as f64
        } else {
            1.6
        };
        match &self.y {
            Axis::Values { .. } => usual,
            Axis::Names { .. } => names * (14.0 * bars + 12.0),
        }
    }

    /// The same laid over the plot's edges.
    pub(crate) fn over(self, (left, right): (f64, f64), (top, bottom): (f64, f64)) -> Self {
        let downward = matches!(self.y, Axis::Names { .. });
        Self {
            x: self.x.over(left, right),
            y: if downward {
                self.y.over(top, bottom)
            } else {
                self.y.over(bottom, top)
            },
        }
    }

    /// Labels below the plot; gives the room they took.
    pub(crate) fn x_labels(&self, canvas: &mut Canvas, plot: &Plot) -> f64 {
        match &self.x {
            Axis::Values { ticks, labels, .. } => {
                let mut free = f64::NEG_INFINITY;
                for (tick, label) in ticks.iter().zip(labels) {
                    let (x, half) = (self.x.at(*tick), width(label, SIZE) / 2.0);
                    if x - half > free {
                        canvas.label((x, plot.bottom + 16.0), label, Anchor::Middle, "");
                        free = x + half + 4.0;
                    }
                }
                20.0
            }
            Axis::Names { names, .. } => {
                let widest = names
                    .iter()
                    .map(|name| width(name, SIZE))
                    .fold(0.0, f64::max);
                let turned = widest > self.x.band() - 4.0;
                // Turned names need a line's height each.
                let every = if turned {
                    (13.0 / self.x.band()).ceil().max(1.0)
                } else {
                    1.0
                };
                for (at, name) in names.iter().enumerate().step_by(every as usize) {
                    let x = self.x.at(at as f64);
                    if turned {
                        let place = (x + 4.0, plot.bottom + 8.0);
                        let more =
                            format!("transform=\"rotate(-90 {:.1} {:.1})\"", place.0, place.1);
                        let name = &wrapped(name, SIZE, NAME_ROOM, 1)[0];
                        canvas.label(place, name, Anchor::End, &more);
                    } else {
                        canvas.label((x, plot.bottom + 16.0), name, Anchor::Middle, "");
                    }
                }
                if turned {
                    widest.min(NAME_ROOM) + 12.0
                } else {
                    20.0
                }
            }
        }
    }
}

/// A name that is a number, such as a parameter's value, with four digits as on the page.
fn short(name: &mut String) {
    let long = name.len() > 6;
    if let Some(value) = name
        .parse::<f64>()
        .ok()
        .filter(|value| long && value.is_finite())
    {
        *name = crate::page::number(value);
    }
}

/// A tick of an axis whose ticks differ in size.
fn plain(tick: f64) -> String {
    let text = if tick.abs() >= 1e5 {
        format!("{tick:e}")
    } else {
        format!("{tick}")
    };
    text.replace('-', "\u{2212}")
}
