//! GPUs by name: what their makers' data sheets say.
//!
//! Rates are peaks of dense matrix products (data sheets often print twice as much, "with sparsity"). A gigabyte counts as
//! 10⁹ bytes, which leaves the few per cent that a driver and a context take. Nobody reaches a peak: predictions multiply it
//! by a share that the user sees.

use serde::Serialize;

/// A GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Name on the command line.
    pub name: &'static str,
    /// Name on the data sheet.
    pub title: &'static str,
    /// Memory in GB.
    pub memory_gb: f64,
    /// Memory bandwidth in GB/s.
    pub bandwidth_gb: f64,
    /// Peak of bf16 products with f32 sums, dense, in TFLOP/s; none where there are no such units.
    pub bf16_tflops: Option<f64>,
    /// Peak of f32 arithmetic outside the matrix units, in TFLOP/s.
    pub f32_tflops: f64,
    /// The data sheet.
    pub source: &'static str,
}

const fn profile(
    name: &'static str,
    title: &'static str,
    [memory_gb, bandwidth_gb]: [f64; 2],
    bf16_tflops: Option<f64>,
    f32_tflops: f64,
    source: &'static str,
) -> Profile {
    Profile {
        name,
        title,
        memory_gb,
        bandwidth_gb,
        bf16_tflops,
        f32_tflops,
        source,
    }
}

/// All profiles.
#[rustfmt::skip]
pub const PROFILES: &[Profile] = &[
    profile("h100", "NVIDIA H100 SXM", [80.0, 3350.0], Some(989.0), 67.0, "NVIDIA H100 Tensor Core GPU data sheet, column SXM (1,979 bf16 TFLOPS with sparsity)"),
    profile("h100-pcie", "NVIDIA H100 PCIe", [80.0, 2000.0], Some(756.0), 51.0, "NVIDIA H100 Tensor Core GPU data sheet, column PCIe (1,513 bf16 TFLOPS with sparsity)"),
    profile("h200", "NVIDIA H200 SXM", [141.0, 4800.0], Some(989.0), 67.0, "NVIDIA H200 Tensor Core GPU data sheet, column SXM (1,979 bf16 TFLOPS with sparsity)"),
    profile("a100", "NVIDIA A100 80GB SXM", [80.0, 2039.0], Some(312.0), 19.5, "NVIDIA A100 80GB data sheet, column SXM"),
    profile("a100-40gb", "NVIDIA A100 40GB SXM", [40.0, 1555.0], Some(312.0), 19.5, "NVIDIA A100 40GB data sheet, column SXM"),
    profile("l40s", "NVIDIA L40S", [48.0, 864.0], Some(362.05), 91.6, "NVIDIA L40S data sheet (733 bf16 TFLOPS with sparsity)"),
    profile("l4", "NVIDIA L4", [24.0, 300.0], Some(121.0), 30.3, "NVIDIA L4 data sheet (242 bf16 TFLOPS with sparsity)"),
    profile("a10", "NVIDIA A10", [24.0, 600.0], Some(125.0), 31.2, "NVIDIA A10 data sheet"),
    profile("t4", "NVIDIA T4", [16.0, 320.0], None, 8.1, "NVIDIA T4 data sheet (16 GB, 320 GB/s; its matrix units know fp16, not bf16)"),
    profile("rtx4090", "NVIDIA GeForce RTX 4090", [24.0, 1008.0], Some(165.2), 82.6, "NVIDIA Ada GPU Architecture white paper, appendix A (bf16 with f32 accumulation, dense)"),
    profile("rtx3090", "NVIDIA GeForce RTX 3090", [24.0, 936.0], Some(71.0), 35.6, "NVIDIA Ampere GA102 GPU Architecture white paper, appendix A (bf16 with f32 accumulation, dense)"),
];

/// The profile of a name, in any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Profile> {
    let known = PROFILES.iter();
    known
        .into_iter()
        .find(|profile| profile.name.eq_ignore_ascii_case(name))
}
