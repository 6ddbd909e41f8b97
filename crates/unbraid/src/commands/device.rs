//! Where a command computes: the CPU, or a GPU that is opened once.
//!
//! Like the worker threads, the machine is chosen at a command's start and holds for all models that it loads. What fails on
//! a GPU in the middle of an operation comes up as a panic whose payload is a [`Failure`]; [`guarded`] makes it an error.

use super::cache;
use crate::cli::Device;
use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use unbraid_cuda::{AnyBackend, CudaBackend, Failure, Precision};
use unbraid_tensor::CpuBackend;

/// The backend that commands compute on.
pub(crate) type Machine = AnyBackend;

/// The GPU that the command asked for, if it did.
static GPU: Mutex<Option<Arc<Machine>>> = Mutex::new(None);

/// Whether the CPU's products are taken in bf16.
static BF16: AtomicBool = AtomicBool::new(false);

/// Set to `emulate`, this rounds as bf16 does also on processors that are not quick at it.
const BF16_VARIABLE: &str = "UNBRAID_BF16";

/// Lets the CPU multiply in bf16 from now on, if it is quick at it or told to in any case. Says whether it will.
pub(crate) fn use_bf16(wanted: bool) -> bool {
    let told = || std::env::var_os(BF16_VARIABLE).is_some_and(|value| value == "emulate");
    let on = wanted && (CpuBackend::has_bf16() || told());
    BF16.store(on, Ordering::SeqCst);
    on
}

/// Opens what `device` names; from then on [`backend`] is that. Says whether it is a GPU.
///
/// # Errors
/// A GPU was asked for by name and cannot be used: wrong usage.
pub(crate) fn choose(device: Device, precision: Precision) -> Result<bool> {
    let kernels = cache::kernels_dir();
    let open = |index| CudaBackend::open(index, precision, kernels.as_deref(), &crate::say::line);
    let opened = match device {
        Device::Cpu => None,
        Device::Auto if !CudaBackend::driver_present() => None,
        Device::Auto => match open(0) {
            Ok(gpu) => Some(gpu),
            Err(error) => {
                note!("the CPU computes: {error}");
                None
            }
        },
        Device::Cuda(index) => match open(index) {
            Ok(gpu) => Some(gpu),
            Err(error) => bail_usage!("--device {device}: {error}"),
        },
    };
    let gpu = opened.map(|gpu| Arc::new(AnyBackend::Cuda(gpu)));
    let is_gpu = gpu.is_some();
    *GPU.lock().unwrap_or_else(PoisonError::into_inner) = gpu;
    Ok(is_gpu)
}

/// The chosen GPU, else the CPU with a buffer pool of its own.
pub(crate) fn backend() -> Arc<Machine> {
    let gpu = GPU.lock().unwrap_or_else(PoisonError::into_inner).clone();
    gpu.unwrap_or_else(|| {
        Arc::new(AnyBackend::Cpu(match BF16.load(Ordering::SeqCst) {
            true => CpuBackend::with_bf16_products(),
            false => CpuBackend::new(),
        }))
    })
}

/// Runs a command; what a GPU failed in becomes its error.
///
/// # Errors
/// As the command's, or the GPU's.
pub(crate) fn guarded<T>(command: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // A failure is reported as every other error; all other panics are mistakes of this program and say where.
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Failure>() {
                usual(info);
            }
        }));
    });
    match catch_unwind(AssertUnwindSafe(command)) {
        Ok(result) => result,
        Err(payload) => match payload.downcast::<Failure>() {
            Ok(failure) => Err(anyhow::Error::new(*failure)),
            Err(payload) => resume_unwind(payload),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_gpu_is_an_error_also_from_a_worker_thread() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        let pool = pool.expect("threads start");
        let failing = || -> Result<()> { std::panic::panic_any(Failure("memory is full".into())) };
        let error = guarded(|| pool.install(failing)).expect_err("it failed");
        assert_eq!(error.to_string(), "memory is full");
        assert_eq!(crate::commands::exit_code(&error), 1);
        assert_eq!(guarded(|| Ok(3)).expect("it did not fail"), 3);
    }

    #[test]
    #[should_panic(expected = "a mistake")]
    fn other_panics_stay_panics() {
        let _ = guarded(|| -> Result<()> { panic!("a mistake") });
    }
}
