//! The machine of a plan: this one, measured, or a GPU by its data sheet.

use crate::cli::{Dtype, PlanConfig};
use anyhow::Result;
use unbraid_plan::{BANDWIDTH_SHARE, PROFILES, Probe, Profile, Rates, RunShape, Simulation};
use unbraid_train::pack_pairs;

/// Where a run would be.
pub(super) struct Machine {
    pub(super) rates: Rates,
    /// What the floor divides by, operations per second.
    pub(super) peak: f64,
    /// Bytes that a run may take, where that is known.
    pub(super) memory: Option<u64>,
    /// One line: what it is, and what is assumed.
    pub(super) description: String,
}

/// The profile that the options name.
pub(super) fn profile(config: &PlanConfig) -> Result<Option<&'static Profile>> {
    let Some(name) = &config.device_profile else {
        return Ok(None);
    };
    let found = unbraid_plan::find(name);
    if found.is_none() {
        let known: Vec<&str> = PROFILES.iter().map(|p| p.name).collect();
        bail_usage!(
            "device_profile {name} is not known\nhint: one of {}",
            known.join(", ")
        );
    }
    Ok(found)
}

/// A number of kB behind a key of a file in /proc, in bytes.
fn kilobytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number = line.trim_start_matches(':').split_whitespace().next()?;
    Some(number.parse::<u64>().ok()? * 1024)
}

/// Resident bytes of this process.
pub(super) fn resident() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS")
}

impl Machine {
    /// This machine's rates for the run's shapes, or a profile's.
    pub(super) fn new(
        config: &PlanConfig,
        profile: Option<&'static Profile>,
        shape: &RunShape<'_>,
        simulation: &Simulation,
    ) -> Self {
        match profile {
            Some(profile) => Self::of_profile(config, profile),
            None => Self::here(config, shape, simulation),
        }
    }

    fn of_profile(config: &PlanConfig, profile: &Profile) -> Self {
        let run = &config.run;
        let bf16 = run.trainer.bf16 || run.model.dtype == Dtype::Bfloat16;
        let mut rates = Rates::of_profile(profile, bf16, config.utilization);
        let flops = config
            .gflops
            .map_or(rates.peak(), |gflops| gflops * 1e9 * config.utilization);
        let bandwidth = config.bandwidth.unwrap_or(profile.bandwidth_gb);
        rates = Rates::flat(flops, bandwidth * 1e9 * BANDWIDTH_SHARE);
        let peak = flops / config.utilization;
        let units = match profile.bf16_tflops.filter(|_| bf16) {
            Some(_) => "bf16",
            None => "f32 (--bf16 true counts on its bf16 units)",
        };
        let description = format!(
            "{}: {:.0} TFLOP/s {units}, of which {:.0} % are assumed to be reached (--utilization); {bandwidth:.0} GB/s, \
             of which {:.0} %; {:.0} GB. Source: {}. Buffers as the CPU backend keeps them, in f32; the GPU \
             backend was not measured yet",
            profile.title,
            peak / 1e12,
            100.0 * config.utilization,
            100.0 * BANDWIDTH_SHARE,
            profile.memory_gb,
            profile.source,
        );
        Machine {
            rates,
            peak,
            memory: Some((profile.memory_gb * 1e9) as u64),
            description,
        }
    }

    fn here(config: &PlanConfig, shape: &RunShape<'_>, simulation: &Simulation) -> Self {
        let given = config.gflops.zip(config.bandwidth);
        let rates = match given {
            Some((gflops, bandwidth)) => Rates::flat(gflops * 1e9, bandwidth * 1e9),
            None => {
                let measured = measure(shape, simulation);
                match (config.gflops, config.bandwidth) {
                    (Some(gflops), _) => measured.with_arithmetic(gflops * 1e9),
                    (_, Some(bandwidth)) => measured.with_bandwidth(bandwidth * 1e9),
                    _ => measured,
                }
            }
        };
        let source = match (config.gflops, config.bandwidth) {
            (None, None) => "measured now, with the model's own shapes",
            (Some(_), Some(_)) => "rates as given",
            _ => "one rate as given, the other measured now",
        };
        Machine {
            peak: rates.peak(),
            rates,
            memory: kilobytes("/proc/meminfo", "MemAvailable"),
            description: format!("this machine, {} threads, {source}", shape.threads),
        }
    }
}

/// Measures with a micro-batch of about average size.
fn measure(shape: &RunShape<'_>, simulation: &Simulation) -> Rates {
    let batch = shape.plan.sampler.batch;
    let rows = |i: usize| pack_pairs([&shape.pairs[i]], true).rows() as f64;
    let wanted = simulation.sizes.mean_rows / batch as f64;
    // The pairs nearest to the mean stand for a batch.
    let mut order: Vec<(f64, usize)> = (0..shape.pairs.len().min(1024))
        .map(|i| ((rows(i) - wanted).abs(), i))
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let typical = order.iter().take(batch).map(|&(_, i)| &shape.pairs[i]);
    let forest = pack_pairs(typical, true);
    unbraid_plan::measure(&Probe {
        config: &shape.config,
        storage: shape.storage,
        forest: &forest,
        rank: shape.lora.as_ref().map_or(16, |lora| lora.r),
        geometry: shape.settings.geometry_every.is_some(),
    })
}
