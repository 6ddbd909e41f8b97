//! A mean with its 95 % interval: over seeds where there are two or more, otherwise over held-out pairs.
//!
//! Student's t with n − 1 degrees of freedom; seeds and pairs are taken as independent draws. Pairs of one seed share
//! one training run, so an interval over pairs says nothing of how another run would have gone.

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::page::four_digits;

/// A mean and how well it is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Estimate {
    /// Mean of the seeds' means.
    pub(crate) mean: f64,
    /// 95 % interval; `None` below two values.
    pub(crate) interval: Option<(f64, f64)>,
    /// Over what the interval is: `3 seeds`, `48 pairs`.
    pub(crate) over: String,
}

impl Estimate {
    /// Of each seed's values of its pairs; values that are not finite are left out. `None` without values.
    pub(crate) fn of(seeds: &[Vec<f64>]) -> Option<Self> {
        let finite = seeds.iter().map(|values| {
            let finite = values.iter().copied().filter(|value| value.is_finite());
            finite.collect::<Vec<f64>>()
        });
        let seeds: Vec<Vec<f64>> = finite.filter(|values| !values.is_empty()).collect();
        let means: Vec<f64> = seeds.iter().map(|values| mean(values)).collect();
        let (values, unit) = match (&means[..], &seeds[..]) {
            ([], _) => return None,
            (_, [only]) => (only.as_slice(), "pair"),
            (means, _) => (means, "seed"),
        };
        let plural = if values.len() == 1 { "" } else { "s" };
        Some(Self {
            mean: mean(values),
            interval: interval(values),
            over: format!("{} {unit}{plural}", values.len()),
        })
    }

    /// −1 or 1 where the whole interval lies on one side of zero, otherwise 0.
    pub(crate) fn side(&self) -> i8 {
        match self.interval {
            Some((lo, _)) if lo > 0.0 => 1,
            Some((_, hi)) if hi < 0.0 => -1,
            _ => 0,
        }
    }
}

/// Three significant digits in plain ASCII, at most four decimals where that shows the number.
pub(crate) fn digits(value: f64) -> String {
    digits_like(value, value)
}

/// The same with a sign.
pub(crate) fn signed_digits(value: f64) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", digits(value))
}

/// An interval in brackets, both ends with the decimals of the larger one.
pub(crate) fn bracketed((lo, hi): (f64, f64)) -> String {
    let larger = lo.abs().max(hi.abs());
    format!("[{}, {}]", digits_like(lo, larger), digits_like(hi, larger))
}

/// A value with as many decimals as three digits of `scale` need.
fn digits_like(value: f64, scale: f64) -> String {
    let size = scale.abs();
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() || !(5e-4..1e6).contains(&size) {
        return four_digits(value);
    }
    let places = 2.0 - size.max(1e-3).log10().floor();
    format!("{value:.*}", places.clamp(0.0, 4.0) as usize)
}

/// Mean of values; NaN without any.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)? as f64;
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (squares / freedom / values.len() as f64).sqrt();
    let half = t_quantile(freedom) * error;
    Some((mean - half, mean + half))
}

/// The 0.975 quantile of Student's t.
fn t_quantile(freedom: f64) -> f64 {
    let t = StudentsT::new(0.0, 1.0, freedom).expect("at least one degree of freedom");
    t.inverse_cdf(0.975)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_come_before_pairs() {
        // Seeds' means 1, 2, 3: standard error 1/√3, t(2) = 4.3026527.
        let seeds = [vec![0.0, 2.0], vec![2.0, f64::NAN], vec![3.0]];
        let estimate = Estimate::of(&seeds).unwrap();
        let (lo, hi) = estimate.interval.unwrap();
        assert_eq!(estimate.mean, 2.0);
        assert!(
            (hi - 2.0 - 4.302_652_7 / 3_f64.sqrt()).abs() < 1e-6 && (lo + hi - 4.0).abs() < 1e-9
        );
        assert_eq!((estimate.over.as_str(), estimate.side()), ("3 seeds", 0));
        let pairs = Estimate::of(&[vec![-1.0, -1.1, -1.2]]).unwrap();
        assert_eq!((pairs.over.as_str(), pairs.side()), ("3 pairs", -1));
        let one = Estimate::of(&[vec![5.0], vec![]]).unwrap();
        assert_eq!((one.interval, one.over.as_str()), (None, "1 pair"));
        assert_eq!(Estimate::of(&[vec![f64::NAN], vec![]]), None);
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.0123, "0.0123"),
            (-1.5, "-1.50"),
            (12.34, "12.3"),
            (123.4, "123"),
            (-2345.6, "-2346"),
        ];
        cases
            .into_iter()
            .for_each(|(value, text)| assert_eq!(digits(value), text));
        assert_eq!(bracketed((0.08, 0.16)), "[0.080, 0.160]");
        assert_eq!(digits(1.234e-5), "1.234e-5");
        assert_eq!(bracketed((-0.5, 0.25)), "[-0.500, 0.250]");
    }
}
