//! Buffers and operations: the [`Backend`] trait, the fast CPU backend and the naive f64 oracle.
//!
//! - What: a small set of fused operations, each forward standing beside its hand-written backward. There is no
//!   tape and no graph; the model crate calls the backward operations in the order it needs.
//! - Why a trait over opaque buffers: model code never sees a slice, so a device backend fits behind it.
//! - [`CpuBackend`] computes in f32 with run-time detection of the instruction set; [`NaiveBackend`] computes
//!   in f64 with plain loops and is the reference that every fast operation is tested against.
//! - Left out: automatic differentiation, broadcasting, shapes as types. Dimensions are passed as in BLAS.
//! - Tested in `tests/` by finite differences (f64) and naive against fast.

mod arguments;
mod backend;
mod bf16;
pub mod cpu;
mod dropout;
pub mod layout;
pub mod naive;

pub use arguments::{
    Adafactor, Adamw, Gate, Gemm, HeadBackward, Mat, MatMut, NormCache, RowBlocks,
};
pub use backend::Backend;
pub use cpu::CpuBackend;
pub use layout::{AttentionDropout, AttentionLayout, AttentionSegment, AttentionShape, Span};
pub use naive::NaiveBackend;
