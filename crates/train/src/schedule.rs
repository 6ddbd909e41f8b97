//! Learning-rate schedules by transformers' names: a factor on the peak rate for each optimizer step.
//!
//! Steps count from 0, so the first step of a warm-up has factor 0 (as in transformers). Formulas follow
//! transformers' `optimization.py` with its default arguments; tested against values it prints.

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// Falls linearly to 0 at the last step.
    Linear,
    /// Falls along half a cosine to 0.
    Cosine,
    /// Always 1, warm-up ignored.
    Constant,
    /// 1 after the warm-up.
    ConstantWithWarmup,
    /// Falls linearly (power 1) to 1e-7 of the optimizer's initial rate.
    Polynomial,
    /// Falls with the inverse square root of the step.
    InverseSqrt,
}

/// A schedule of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub kind: ScheduleKind,
    /// Peak learning rate.
    pub peak: f64,
    /// Warm-up steps.
    pub warmup: u64,
    /// Optimizer steps of the whole run.
    pub total: u64,
}

impl Schedule {
    /// Learning rate of 0-based step `step`.
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step as f64)
    }

    fn factor(&self, step: f64) -> f64 {
        let (warmup, total) = (self.warmup as f64, self.total as f64);
        if step < warmup && self.kind != ScheduleKind::Constant {
            return step / warmup.max(1.0);
        }
        let rest = (total - warmup).max(1.0);
        match self.kind {
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => 1.0,
            ScheduleKind::Linear => ((total - step) / rest).max(0.0),
            ScheduleKind::Cosine => {
                let progress = (step - warmup) / rest;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
            ScheduleKind::Polynomial => {
                // A peak below the end stays where it is.
                let end = (1e-7 / self.peak).min(1.0);
                if step > total {
                    end
                } else {
                    (1.0 - end) * (1.0 - (step - warmup) / rest) + end
                }
            }
            ScheduleKind::InverseSqrt => {
                // transformers' time scale is the warm-up, or 10,000 steps without one.
                let scale = if self.warmup > 0 { warmup } else { 10_000.0 };
                (scale / (step - warmup + scale)).sqrt()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, peak: f64) -> Vec<f64> {
        let schedule = Schedule {
            kind,
            peak,
            warmup: 2,
            total: 10,
        };
        [0, 1, 2, 6, 10].map(|s| schedule.rate(s)).to_vec()
    }

    fn close(a: &[f64], b: &[f64]) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-12, "{a} against {b}");
        }
    }

    /// By hand from the formulas: warm-up 0, ½, then 1 at step 2, half-way at step 6, the end at step 10.
    #[test]
    fn each_shape_at_its_start_middle_and_end() {
        close(
            &rates(ScheduleKind::Linear, 1.0),
            &[0.0, 0.5, 1.0, 0.5, 0.0],
        );
        close(
            &rates(ScheduleKind::Cosine, 1.0),
            &[0.0, 0.5, 1.0, 0.5, 0.0],
        );
        close(&rates(ScheduleKind::Constant, 2.0), &[2.0; 5]);
        close(
            &rates(ScheduleKind::ConstantWithWarmup, 1.0),
            &[0.0, 0.5, 1.0, 1.0, 1.0],
        );
        close(
            &rates(ScheduleKind::Polynomial, 1.0),
            &[0.0, 0.5, 1.0, 0.50000005, 1e-7],
        );
        let root = |x: f64| (2.0 / (x + 2.0)).sqrt();
        close(
            &rates(ScheduleKind::InverseSqrt, 1.0),
            &[0.0, 0.5, 1.0, root(4.0), root(8.0)],
        );
    }
}
