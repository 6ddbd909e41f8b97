//! What the host code asks of a machine.

use crate::error::Failure;

/// Format in which matrix products multiply; sums are f32 in all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Products of f32. Frozen bf16 weights are widened.
    #[default]
    Float32,
    /// Tensor cores on f32 rounded to 10 bits of fraction.
    Tf32,
    /// Tensor cores on bf16: operands in f32 are rounded first.
    Bf16,
}

/// One argument of a kernel, of the type that the kernel declares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A device address; 0 is null.
    Address(u64),
    /// `int`.
    Int(i32),
    /// `unsigned`.
    Unsigned(u32),
    /// `long long`.
    Long(i64),
    /// `unsigned long long`.
    UnsignedLong(u64),
    /// `float`.
    Float(f32),
}

impl Arg {
    /// Where the value lies, for a launch.
    pub fn pointer(&self) -> *const std::ffi::c_void {
        match self {
            Arg::Address(x) | Arg::UnsignedLong(x) => (x as *const u64).cast(),
            Arg::Int(x) => (x as *const i32).cast(),
            Arg::Unsigned(x) => (x as *const u32).cast(),
            Arg::Long(x) => (x as *const i64).cast(),
            Arg::Float(x) => (x as *const f32).cast(),
        }
    }

    /// A letter for the type: p, i, w, l, u or f.
    pub fn code(&self) -> char {
        match self {
            Arg::Address(_) => 'p',
            Arg::Int(_) => 'i',
            Arg::Unsigned(_) => 'w',
            Arg::Long(_) => 'l',
            Arg::UnsignedLong(_) => 'u',
            Arg::Float(_) => 'f',
        }
    }
}

/// A column-major matrix as cuBLAS takes it, or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// First element.
    pub address: u64,
    /// bf16 instead of f32.
    pub half: bool,
    /// Whether what is stored is the transpose of what enters the product.
    pub transposed: bool,
    /// Distance between columns as stored.
    pub leading: usize,
}

/// `C ← alpha·op(A)·op(B) + beta·C`, column-major, op(A) `[m, k]`, op(B) `[k, n]`, C `[m, n]` in f32. Both operands have one
/// format; none of m, n, k is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matmul {
    /// Left operand.
    pub a: Operand,
    /// Right operand.
    pub b: Operand,
    /// First element of C.
    pub c: u64,
    /// Distance between C's columns.
    pub c_leading: usize,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Factor on the product.
    pub alpha: f32,
    /// Factor on C before; 0 ignores its contents.
    pub beta: f32,
    /// May multiply f32 in tf32.
    pub tf32: bool,
}

/// A machine with memory of its own. Calls take effect in order, whichever thread makes them; only [`Device::download`] need
/// wait for those before it.
pub trait Device: Send + Sync {
    /// Name and architecture, for logs.
    fn describe(&self) -> String;

    /// The address of `bytes` (> 0) of memory, aligned to 256, contents unspecified; `None` if there is no more.
    ///
    /// # Errors
    /// The device failed.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>, Failure>;

    /// Gives back what [`Device::allocate`] returned. Failures are passed over.
    fn free(&self, address: u64);

    /// Copies to the device.
    ///
    /// # Errors
    /// The device failed.
    fn upload(&self, address: u64, data: &[u8]) -> Result<(), Failure>;

    /// Copies from the device, after all earlier calls have taken effect.
    ///
    /// # Errors
    /// The device failed, in this call or an earlier one.
    fn download(&self, address: u64, data: &mut [u8]) -> Result<(), Failure>;

    /// Sets bytes to zero.
    ///
    /// # Errors
    /// The device failed.
    fn zero(&self, address: u64, bytes: usize) -> Result<(), Failure>;

    /// Runs a kernel of [`crate::kernel_source`] on `grid` blocks (none of them 0) of `block` threads.
    ///
    /// # Errors
    /// The device failed.
    fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        args: &[Arg],
    ) -> Result<(), Failure>;

    /// Multiplies; false if it cannot do this product, which then is left undone.
    ///
    /// # Errors
    /// The device failed.
    fn matmul(&self, product: &Matmul) -> Result<bool, Failure>;
}
