//! Means with their 95 % intervals (Student's t).

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean and how sure it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its 95 % interval; `None` with fewer than two observations.
    pub interval: Option<(f64, f64)>,
    /// What was averaged: `3 seeds`, `48 pairs`.
    pub over: String,
}

/// Mean and interval of independent observations, called `what` in the plural.
pub fn estimate(values: &[f64], what: &str) -> Estimate {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    let interval = (values.len() > 1).then(|| {
        let error = (squares / (n - 1.0) / n).sqrt();
        let t = StudentsT::new(0.0, 1.0, n - 1.0).expect("at least one degree of freedom");
        let half = t.inverse_cdf(0.975) * error;
        (mean - half, mean + half)
    });
    Estimate {
        mean,
        interval,
        over: format!("{} {what}", values.len()),
    }
}

/// Of runs with different seeds, each with its observations on the same pairs: over the seeds' means where there are
/// at least two seeds, else over the pairs of the one.
pub fn over_seeds(by_seed: &[Vec<f64>], what: &str) -> Estimate {
    match by_seed {
        [one] => {
            let mut estimate = estimate(one, what);
            estimate.over.push_str(", one seed");
            estimate
        }
        _ => {
            let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
            let means: Vec<f64> = by_seed.iter().map(mean).collect();
            estimate(&means, "seeds")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_by_hand() {
        // 1, 2, 3: s = 1, error 1/√3, t(0.975; 2) = 4.302653.
        let e = estimate(&[1.0, 2.0, 3.0], "seeds");
        let half = 4.302_653 / 3f64.sqrt();
        let (low, high) = e.interval.expect("three values");
        assert!((low - (2.0 - half)).abs() < 1e-5 && (high - (2.0 + half)).abs() < 1e-5);
        assert_eq!((e.mean, &*e.over), (2.0, "3 seeds"));
        assert_eq!(estimate(&[5.0], "seeds").interval, None);
    }

    #[test]
    fn seeds_count_where_there_are_two() {
        let pairs = vec![vec![1.0, 3.0]];
        assert_eq!(over_seeds(&pairs, "pairs").over, "2 pairs, one seed");
        let seeds = vec![vec![1.0, 3.0], vec![2.0, 4.0]];
        let e = over_seeds(&seeds, "pairs");
        assert_eq!((e.mean, &*e.over), (2.5, "2 seeds"));
    }
}
