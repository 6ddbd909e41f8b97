//! Medians, quantiles, rank correlation and bins: the few statistics that a page shows of its rows.

/// The `q`-quantile of finite values by linear interpolation between the two nearest ranks; `None` without values.
pub(crate) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let at = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    Some(sorted[low] + (at - at.floor()) * (sorted[high] - sorted[low]))
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Spearman's rank correlation, ties at their mean rank; `None` below three points or without variation.
pub(crate) fn spearman(points: &[(f64, f64)]) -> Option<f64> {
    let ranked = |pick: fn(&(f64, f64)) -> f64| ranks(&points.iter().map(pick).collect::<Vec<_>>());
    let (x, y) = (ranked(|p| p.0), ranked(|p| p.1));
    let points: Vec<_> = x.into_iter().zip(y).collect();
    let (correlation, _) = crate::verdict::agreement(&points)?;
    correlation.is_finite().then_some(correlation)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let first = order.partition_point(|at| values[*at] < values[tied[0]]);
        let rank = first as f64 + (tied.len() - 1) as f64 / 2.0;
        tied.iter().for_each(|at| ranks[*at] = rank);
    }
    ranks
}

/// Part of a bin by which a value may pass its last edge, as rounding makes a cosine of 1.0000001.
const EDGE: f64 = 1e-4;

/// Equally wide bins over a range.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bins {
    low: f64,
    width: f64,
    count: usize,
}

impl Bins {
    /// Bins of a round width that cover all values, at most about forty of them; `None` without finite values.
    pub(crate) fn over(values: &[f64]) -> Option<Self> {
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        if low > high {
            return None;
        }
        // Few pairs need few bins: the square root is the usual rule of thumb.
        let wanted = (values.len() as f64).sqrt().clamp(8.0, 36.0);
        let rough = (high - low).max(low.abs().max(1e-3) * 0.05) / wanted;
        let decade = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
        let step = steps.into_iter().find(|step| step * decade >= rough);
        let width = decade * step.unwrap_or(10.0);
        let first = (low / width).floor();
        // The largest value may stand on the last bin's edge: cosines of 1 need no bin beyond 1.
        let count = ((high / width - EDGE).ceil() - first).max(1.0) as usize;
        Some(Self {
            low: first * width,
            width,
            count,
        })
    }

    /// Lower end, middle and upper end of each bin.
    pub(crate) fn edges(self) -> impl Iterator<Item = (f64, f64, f64)> {
        (0..self.count).map(move |bin| {
            let low = self.low + bin as f64 * self.width;
            (low, low + self.width / 2.0, low + self.width)
        })
    }

    /// The bin of a value.
    pub(crate) fn bin(self, value: f64) -> usize {
        // Rounding must not lose the largest value.
        (((value - self.low) / self.width).floor().max(0.0) as usize).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let values = [3.0, 1.0, f64::NAN, 2.0, 4.0];
        assert_eq!(median(&values), Some(2.5));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(4.0));
        assert_eq!(median(&[f64::NAN]), None);
    }

    #[test]
    fn spearman_by_hand() {
        // Ranks 0, 1, 2, 3 against 0, 1, 3, 2: 1 − 6·2/(4·15) = 0.8.
        let points = [(1.0, 1.0), (2.0, 10.0), (3.0, 1000.0), (4.0, 100.0)];
        assert!((spearman(&points).unwrap() - 0.8).abs() < 1e-12);
        // A tie takes the mean rank: 0.5, 0.5, 2 against 0, 1, 2 gives √3/2.
        let tied = [(1.0, 1.0), (1.0, 2.0), (3.0, 3.0)];
        assert!((spearman(&tied).unwrap() - 0.75_f64.sqrt()).abs() < 1e-12);
        assert_eq!(spearman(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[test]
    fn every_value_has_a_bin_that_holds_it() {
        for values in [
            vec![-0.2, 0.1, 0.99, 1.0],
            vec![0.7],
            vec![0.0],
            vec![1e-9, 3e9],
        ] {
            let bins = Bins::over(&values).unwrap();
            let edges: Vec<_> = bins.edges().collect();
            assert!(edges.len() <= 40, "{} bins", edges.len());
            for value in values {
                let (low, _, high) = edges[bins.bin(value)];
                let slack = EDGE * (high - low) + 1e-12;
                assert!(
                    low <= value + slack && value <= high + slack,
                    "{value} in {low}..{high}"
                );
            }
        }
        assert!(Bins::over(&[f64::NAN]).is_none());
        // Nothing lies beyond a cosine of 1.
        let last = Bins::over(&[-1.0, 0.2, 1.0, 1.000_000_1])
            .unwrap()
            .edges()
            .last();
        assert!(
            last.is_some_and(|(_, _, high)| (high - 1.0).abs() < 1e-9),
            "{last:?}"
        );
    }
}
