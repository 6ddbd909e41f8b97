//! cuBLASLt. Which algorithm serves a product is asked once for each shape and kept.

use crate::device::{Matmul, Operand};
use crate::error::Failure;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Description,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t, cublasStatus_t,
    cudaDataType_t,
};
use cudarc::driver::result as driver;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// Scratch memory: what NVIDIA recommends for Hopper, and enough for older ones.
const WORKSPACE: usize = 32 << 20;

/// Alignments are told to cuBLASLt up to this; allocations have it.
const ALIGNED: u64 = 256;

/// What an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sizes: [usize; 6],
    transposed: [bool; 2],
    half: bool,
    tf32: bool,
    /// Of A, B and C in bytes.
    alignments: [u32; 3],
    adds: bool,
}

/// A handle with its workspace and the algorithms found so far (`None`: there is none).
pub(super) struct Library {
    handle: cublasLtHandle_t,
    workspace: u64,
    known: Mutex<HashMap<Key, Option<cublasLtMatmulAlgo_t>>>,
}

fn alignment(address: u64) -> u32 {
    1 << (address | ALIGNED).trailing_zeros()
}

fn key(p: &Matmul) -> Key {
    Key {
        sizes: [p.m, p.n, p.k, p.a.leading, p.b.leading, p.c_leading],
        transposed: [p.a.transposed, p.b.transposed],
        half: p.a.half,
        tf32: p.tf32,
        alignments: [p.a.address, p.b.address, p.c].map(alignment),
        adds: p.beta != 0.0,
    }
}

/// A layout that is destroyed with its owner.
struct Layout(cublasLtMatrixLayout_t);

impl Layout {
    fn new(half: bool, rows: usize, cols: usize, leading: usize) -> Result<Self, CublasError> {
        let format = match half {
            true => cudaDataType_t::CUDA_R_16BF,
            false => cudaDataType_t::CUDA_R_32F,
        };
        result::create_matrix_layout(format, rows as u64, cols as u64, leading as i64).map(Layout)
    }

    /// Of an operand that enters as `[rows, cols]`.
    fn of(x: Operand, rows: usize, cols: usize) -> Result<Self, CublasError> {
        match x.transposed {
            true => Layout::new(x.half, cols, rows, x.leading),
            false => Layout::new(x.half, rows, cols, x.leading),
        }
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// Layouts and description of a product.
struct Product {
    description: cublasLtMatmulDesc_t,
    a: Layout,
    b: Layout,
    c: Layout,
}

impl Product {
    fn new(p: &Matmul) -> Result<Self, CublasError> {
        let compute = match p.tf32 && !p.a.half {
            true => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let (a, b) = (Layout::of(p.a, p.m, p.k)?, Layout::of(p.b, p.k, p.n)?);
        let c = Layout::new(false, p.m, p.n, p.c_leading)?;
        let description = result::create_matmul_desc(compute, cudaDataType_t::CUDA_R_32F)?;
        let product = Product {
            description,
            a,
            b,
            c,
        };
        for (attribute, transposed) in [
            (Description::CUBLASLT_MATMUL_DESC_TRANSA, p.a.transposed),
            (Description::CUBLASLT_MATMUL_DESC_TRANSB, p.b.transposed),
        ] {
            let value = i32::from(transposed); // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1
            // SAFETY: the description is live; the attribute is an int, copied by the call.
            unsafe {
                let at = (&raw const value).cast::<c_void>();
                result::set_matmul_desc_attribute(description, attribute, at, size_of::<i32>())?;
            }
        }
        Ok(product)
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.description) };
    }
}

impl Library {
    /// With the device's context current.
    pub(super) fn new() -> Result<Self, String> {
        let handle = result::create_handle().map_err(|e| format!("cuBLASLt: {e}"))?;
        // SAFETY: scratch memory, never read by us.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) };
        Ok(Library {
            handle,
            workspace: workspace.map_err(|e| format!("cuBLASLt's workspace: {e}"))?,
            known: Mutex::default(),
        })
    }

    /// See [`crate::Device::matmul`].
    pub(super) fn multiply(&self, p: &Matmul) -> Result<bool, Failure> {
        self.run(p).map_err(|error| {
            Failure(format!(
                "cuBLASLt failed in a product of {} × {} × {}: {error}\nhint: --device cpu needs no GPU",
                p.m, p.n, p.k
            ))
        })
    }

    fn run(&self, p: &Matmul) -> Result<bool, CublasError> {
        let product = Product::new(p)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(p);
        let algorithm = match known.get(&key) {
            Some(&algorithm) => algorithm,
            None => {
                let found = self.choose(&product, &key)?;
                known.insert(key, found);
                found
            }
        };
        drop(known);
        let Some(algorithm) = algorithm else {
            return Ok(false);
        };
        // SAFETY: the layouts describe memory that the caller keeps alive; α and β are read from the host before the call
        // returns; the workspace is used on one stream alone, in order.
        unsafe {
            result::matmul(
                self.handle,
                product.description,
                (&raw const p.alpha).cast(),
                (&raw const p.beta).cast(),
                p.a.address as *const c_void,
                product.a.0,
                p.b.address as *const c_void,
                product.b.0,
                p.c as *const c_void,
                product.c.0,
                p.c as *mut c_void,
                product.c.0,
                &algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                std::ptr::null_mut(),
            )?;
        }
        Ok(true)
    }

    /// The algorithm that cuBLASLt thinks best; none where it cannot do the product.
    fn choose(
        &self,
        product: &Product,
        key: &Key,
    ) -> Result<Option<cublasLtMatmulAlgo_t>, CublasError> {
        let preference = result::create_matmul_pref()?;
        let found = self.ask(product, key, preference);
        // SAFETY: made above, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        match found {
            Err(CublasError(
                cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
                | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) => Ok(None),
            other => other.map(Some),
        }
    }

    fn ask(
        &self,
        product: &Product,
        key: &Key,
        preference: cudarc::cublaslt::sys::cublasLtMatmulPreference_t,
    ) -> Result<cublasLtMatmulAlgo_t, CublasError> {
        let [a, b, c] = key.alignments;
        // SAFETY: the preference is live; each attribute has the size that cuBLASLt documents and is copied by the call. By
        // default 256-byte alignment is assumed, which views into buffers do not have.
        unsafe {
            let size = (&raw const WORKSPACE_BYTES).cast();
            let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, attribute, size, size_of::<usize>())?;
            for (attribute, bytes) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
            ] {
                let at = (&raw const bytes).cast();
                result::set_matmul_pref_attribute(preference, attribute, at, size_of::<u32>())?;
            }
            let (a, b, c) = (product.a.0, product.b.0, product.c.0);
            let description = product.description;
            result::get_matmul_algo_heuristic(self.handle, description, a, b, c, c, preference)
                .map(|found| found.algo)
        }
    }
}

static WORKSPACE_BYTES: usize = WORKSPACE;

#[cfg(test)]
mod tests {
    use super::alignment;

    #[test]
    fn alignments_by_hand() {
        for (address, bytes) in [
            (0, 256),
            (4, 4),
            (6, 2),
            (96, 32),
            (512, 256),
            (1 << 40 | 16, 16),
        ] {
            assert_eq!(alignment(address), bytes, "{address}");
        }
    }
}
