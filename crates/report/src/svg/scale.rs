//! Axes of a drawing: from values to places, round ticks, and numbers as a reader expects them.

/// A stretch of values laid over a stretch of the drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    lo: f64,
    hi: f64,
    from: f64,
    to: f64,
    asinh: bool,
}

/// Smallest and largest finite value; `None` without any.
pub(crate) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|value| value.is_finite());
    finite.fold(None, |seen, value| {
        let (lo, hi) = seen.unwrap_or((value, value));
        Some((value.min(lo), value.max(hi)))
    })
}

impl Scale {
    /// Exactly the given values; one value gets a stretch around it. Places are set by [`Scale::over`].
    pub(crate) fn exact((lo, hi): (f64, f64)) -> Self {
        let room = if lo == hi { lo.abs().max(1.0) } else { 0.0 };
        Self {
            lo: lo - room,
            hi: hi + room,
            from: 0.0,
            to: 1.0,
            asinh: false,
        }
    }

    /// The values, moved out to round numbers.
    pub(crate) fn round(range: (f64, f64)) -> Self {
        let exact = Self::exact(range);
        let step = step(exact.hi - exact.lo, 5.0);
        Self {
            lo: (exact.lo / step + 1e-9).floor() * step,
            hi: (exact.hi / step - 1e-9).ceil() * step,
            ..exact
        }
    }

    /// By asinh(2 v): straight near zero, logarithmic far from it.
    pub(crate) fn asinh(range: (f64, f64)) -> Self {
        let exact = Self::exact(range);
        let room = 0.04 * (bent(exact.hi) - bent(exact.lo));
        Self {
            lo: unbent(bent(exact.lo) - room),
            hi: unbent(bent(exact.hi) + room),
            asinh: true,
            ..exact
        }
    }

    /// The same laid from place `from` to place `to`.
    pub(crate) fn over(self, from: f64, to: f64) -> Self {
        Self { from, to, ..self }
    }

    /// The place of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let bend = |v: f64| if self.asinh { bent(v) } else { v };
        let (lo, hi) = (bend(self.lo), bend(self.hi));
        self.from + (self.to - self.from) * (bend(value) - lo) / (hi - lo)
    }

    /// Whether distances differ along the axis.
    pub(crate) fn bends(&self) -> bool {
        self.asinh
    }

    /// Both ends.
    pub(crate) fn range(&self) -> (f64, f64) {
        (self.lo, self.hi)
    }

    /// About `count` round values inside the range; `whole` allows none between whole numbers.
    pub(crate) fn ticks(&self, count: f64, whole: bool) -> Vec<f64> {
        if self.asinh {
            return self.asinh_ticks();
        }
        let step = step(self.hi - self.lo, count);
        let step = if whole { step.max(1.0) } else { step };
        let slack = 1e-9 * (self.hi - self.lo);
        let first = ((self.lo - slack) / step).ceil();
        let ticks = (0..50).map(|k| (first + f64::from(k)) * step);
        let ticks = ticks.take_while(|tick| *tick <= self.hi + slack);
        ticks.map(|tick| tick + 0.0).collect()
    }

    fn asinh_ticks(&self) -> Vec<f64> {
        let powers = (0..12).map(|k| 10_f64.powi(k));
        let mut ticks: Vec<f64> = powers.flat_map(|power| [power, -power]).collect();
        ticks.push(0.0);
        if bent(self.hi) - bent(self.lo) < 8.0 {
            ticks.extend([3.0, -3.0, 0.3, -0.3]);
        }
        ticks.retain(|tick| (self.lo..=self.hi).contains(tick));
        ticks.sort_by(f64::total_cmp);
        // Two labels need some room between them; zero and one come first.
        let keep = |tick: f64| tick == 0.0 || tick == 1.0;
        let far = |a: f64, b: f64| (self.at(a) - self.at(b)).abs() >= 24.0;
        let crowded = |tick: f64| !keep(tick) && (!far(tick, 0.0) || !far(tick, 1.0));
        ticks.retain(|tick| !crowded(*tick));
        ticks
    }
}

fn bent(value: f64) -> f64 {
    (2.0 * value).asinh()
}

fn unbent(value: f64) -> f64 {
    value.sinh() / 2.0
}

/// The round number (1, 2 or 5 times a power of ten) that cuts `span` into about `count` parts.
fn step(span: f64, count: f64) -> f64 {
    let rough = (span / count).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

/// The ticks' labels with one number of decimals for all, and with a common power of ten where they are very small
/// or very large.
pub(crate) fn labels(ticks: &[f64], percent: bool) -> Vec<String> {
    let scale = if percent { 100.0 } else { 1.0 };
    let largest = ticks.iter().fold(0.0_f64, |m, tick| m.max(tick.abs())) * scale;
    let gap = ticks
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).abs() * scale)
        .fold(f64::INFINITY, f64::min);
    let gap = if gap.is_finite() { gap } else { largest };
    let power = if largest > 0.0 {
        largest.log10().floor() as i32
    } else {
        0
    };
    let label = |tick: &f64| {
        let value = tick * scale;
        let text = if largest > 0.0 && !(-3..6).contains(&power) {
            let mantissa = value / 10_f64.powi(power);
            let decimals = decimals(gap / 10_f64.powi(power));
            if value == 0.0 {
                "0".to_string()
            } else {
                let power = crate::page::power_of_ten(&power.to_string());
                format!("{mantissa:.decimals$}{power}")
            }
        } else {
            format!("{value:.*}", decimals(gap))
        };
        // A true minus sign, and none before zero.
        let text = text
            .strip_prefix("-0")
            .filter(|rest| rest.trim_matches(['0', '.']).is_empty())
            .map_or(text.clone(), |rest| format!("0{rest}"));
        let unit = if percent { "\u{2009}%" } else { "" };
        text.replace('-', "\u{2212}") + unit
    };
    ticks.iter().map(label).collect()
}

/// Decimals that tell numbers apart which lie `gap` from each other.
fn decimals(gap: f64) -> usize {
    let needed = (0..=6).find(|digits| {
        let scaled = gap * 10_f64.powi(*digits);
        scaled >= 0.5 && (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
    });
    needed.map_or(6, |digits| digits as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(range: (f64, f64), percent: bool) -> Vec<String> {
        labels(&Scale::round(range).ticks(5.0, false), percent)
    }

    #[test]
    fn ticks_are_round_and_told_apart() {
        assert_eq!(
            shown((0.0, 1.0), true),
            [
                "0\u{2009}%",
                "20\u{2009}%",
                "40\u{2009}%",
                "60\u{2009}%",
                "80\u{2009}%",
                "100\u{2009}%"
            ]
        );
        assert_eq!(shown((-0.9, 0.31), false), ["−1.0", "−0.5", "0.0", "0.5"]);
        assert_eq!(
            shown((0.0, 1e-6), false),
            [
                "0",
                "0.2×10⁻⁶",
                "0.4×10⁻⁶",
                "0.6×10⁻⁶",
                "0.8×10⁻⁶",
                "1.0×10⁻⁶"
            ]
        );
        assert_eq!(shown((-61.0, -50.0), false), ["−65", "−60", "−55", "−50"]);
        assert_eq!(
            shown((0.0, 2.5e7), false),
            ["0", "0.5×10⁷", "1.0×10⁷", "1.5×10⁷", "2.0×10⁷", "2.5×10⁷"]
        );
    }

    #[test]
    fn steps_are_whole() {
        let ticks = Scale::exact((1.0, 3.0)).ticks(5.0, true);
        assert_eq!(ticks, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn one_value_has_room_around_it() {
        let scale = Scale::exact((5.0, 5.0)).over(0.0, 100.0);
        assert_eq!((scale.range(), scale.at(5.0)), ((0.0, 10.0), 50.0));
        assert_eq!(Scale::exact((0.0, 0.0)).range(), (-1.0, 1.0));
    }

    #[test]
    fn a_bent_axis_keeps_one_and_its_ends() {
        let scale = Scale::asinh((-200.0, 5000.0)).over(0.0, 300.0);
        assert!(scale.at(-200.0) > 0.0 && scale.at(5000.0) < 300.0);
        let ticks = scale.ticks(5.0, false);
        assert!(
            ticks.contains(&0.0) && ticks.contains(&1.0) && ticks.contains(&1000.0),
            "{ticks:?}"
        );
        assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
