//! Means, quantiles and correlations of columns of numbers.
//!
//! Everything is `None` where it has no meaning: nothing to average, nothing that varies. Input is finite.

/// Arithmetic mean.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The `q`-quantile (`q` in [0, 1]) of ascending values, linear between neighbours, as NumPy's default.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, share) = (at.floor() as usize, at.fract());
    let (a, b) = (sorted[low], sorted[(low + 1).min(last)]);
    Some(a + share * (b - a))
}

/// The values in ascending order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The middle value, or the mean of the two.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// Pearson's correlation of two columns of one length, in [−1, 1]; `None` for fewer than three pairs, through two of which
/// a line always goes, or where a column does not vary.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() || x.len() < 3 {
        return None;
    }
    // Scaled to 1, so that squares of tiny changes of log-probs do not vanish.
    let (x, y) = (deviations(x)?, deviations(y)?);
    let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
    let product: f64 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
    let correlation = product / (square(&x) * square(&y)).sqrt();
    Some(correlation.clamp(-1.0, 1.0))
}

/// Deviations from the mean, the largest made ±1; `None` where nothing varies.
fn deviations(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().all(|v| *v == values[0]) {
        return None;
    }
    let mean = mean(values)?;
    let centred: Vec<f64> = values.iter().map(|v| v - mean).collect();
    let largest = centred.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    (largest > 0.0).then(|| centred.iter().map(|v| v / largest).collect())
}

/// Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 0; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (tied.len() - 1) as f64 / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
        start += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_by_hand() {
        let values = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(mean(&values), Some(3.75));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(8.0));
        // Position 0.25·3 = 0.75: 1 + 0.75·(2 − 1).
        assert_eq!(quantile(&values, 0.25), Some(1.75));
        assert_eq!(median(&[8.0, 1.0, 4.0, 2.0]), Some(3.0));
        assert_eq!(median(&[5.0]), Some(5.0));
        assert_eq!((mean(&[]), median(&[])), (None, None));
    }

    #[test]
    fn pearson_by_hand() {
        // Deviations (−1, 0, 1) and (−2, 1, 1): 3/√(2·6).
        let r = pearson(&[1.0, 2.0, 3.0], &[0.0, 3.0, 3.0]).unwrap();
        assert!((r - 3.0 / 12f64.sqrt()).abs() < 1e-15, "{r}");
        let tiny: Vec<f64> = [1.0, 2.0, 3.0].iter().map(|v| v * 1e-200).collect();
        assert_eq!(pearson(&tiny, &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(pearson(&[1.0; 3], &[1.0, 2.0, 3.0]), None);
        assert_eq!(pearson(&[1.0, 2.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn spearman_gives_ties_their_mean_rank() {
        // Ranks (0, 1.5, 1.5, 3) and (0, 1, 2, 3): deviations (−1.5, 0, 0, 1.5) and (−1.5, −.5, .5, 1.5):
        // 4.5/√(4.5·5) = √0.9.
        let rho = spearman(&[1.0, 2.0, 2.0, 9.0], &[1.0, 10.0, 100.0, 1000.0]).unwrap();
        assert!((rho - 0.9f64.sqrt()).abs() < 1e-15, "{rho}");
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[1.0, 4.0, 900.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[9.0, 4.0, -1.0]), Some(-1.0));
    }
}
