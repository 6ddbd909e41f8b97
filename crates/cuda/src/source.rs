//! The kernels' text: one translation unit, handed to NVRTC at start and, in tests, to the host's C++ compiler.

/// The files in the order in which they are joined.
const FILES: [&str; 7] = [
    include_str!("kernels/prelude.cu"),
    include_str!("kernels/linear.cu"),
    include_str!("kernels/embedding.cu"),
    include_str!("kernels/pointwise.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/head.cu"),
    include_str!("kernels/optimizer.cu"),
];

/// CUDA C++ of every kernel; it includes no header.
pub fn text() -> String {
    FILES.join("\n")
}

/// Names of all kernels, as [`crate::Device::launch`] knows them.
pub fn kernels() -> Vec<String> {
    let text = text();
    let mut names = Vec::new();
    // Attention's kernels come from a macro over the number of chunks of a head.
    let instances = text
        .lines()
        .filter_map(|line| line.strip_prefix("ATTENTION_KERNELS(")?.strip_suffix(')'))
        .collect::<Vec<_>>();
    for part in text.split("__global__ void").skip(1) {
        let part = part.trim_start();
        let part = part
            .strip_prefix("__launch_bounds__(256)")
            .unwrap_or(part)
            .trim_start();
        let name = part.split('(').next().unwrap_or_default().trim();
        match name.strip_suffix("##CHUNKS") {
            Some(stem) => names.extend(instances.iter().map(|n| format!("{stem}{n}"))),
            None => names.push(name.to_owned()),
        }
    }
    names
}
