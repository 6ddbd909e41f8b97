//! The CUDA backend: the operations of [`unbraid_tensor::Backend`] on one NVIDIA GPU.
//!
//! - Matrix products go to cuBLASLt; every other operation is CUDA C++ (`kernels/`), compiled by NVRTC for the GPU at hand
//!   when the program starts and kept on disk ([`CudaBackend::open`]). All libraries are loaded at run time, so the same
//!   program runs without them.
//! - Host code ([`CudaBackend`]) and machine ([`Device`]) are apart: tests put an emulated machine below the same host code,
//!   which runs the same kernels compiled by the host's C++ compiler, and compare every operation with the naive backend.
//! - Results do not vary from run to run: sums have a fixed order, nothing is added atomically.
//! - The trait's operations return no `Result`. What fails in one (memory runs out, the device is lost) panics with a
//!   [`Failure`] as its payload, which the program catches at the top of a command and reports as an error.
//! - Left out: more than one GPU, streams, tensor cores in attention, f16.

mod adafactor;
mod attention;
mod backend;
mod buffer;
mod device;
mod dispatch;
mod error;
mod gemm;
mod grams;
mod head;
mod launch;
mod nvidia;
mod source;

pub use backend::CudaBackend;
pub use buffer::{CudaBuffer, CudaIndex};
pub use device::{Arg, Device, Matmul, Operand, Precision};
pub use dispatch::{AnyBackend, AnyBuffer, AnyIndex};
pub use error::{Failure, OpenError};
pub use source::{kernels, text as kernel_source};
