//! A real GPU: driver, NVRTC and cuBLASLt, all loaded at run time through `cudarc`'s bindings.
//!
//! Everything runs on the device's default stream, so calls take effect in order whichever thread makes them, and a download
//! waits for all before it. The bindings panic where a library is absent; therefore each is looked for first.

mod compile;
mod matmul;

use crate::backend::CudaBackend;
use crate::device::{Arg, Device, Matmul, Precision};
use crate::error::{Failure, OpenError};
use crate::source;
use cudarc::driver::sys::{CUfunction, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::sync::Arc;

/// A GPU with its kernels loaded.
struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    functions: HashMap<String, CUfunction>,
    library: matmul::Library,
}

// SAFETY: functions and the library's handle belong to the context, not to a thread; every use binds the context to the
// calling thread first, and the driver and cuBLASLt may be called from any thread.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// Whether an NVIDIA driver is installed. Its devices may still be unusable.
pub(crate) fn driver_present() -> bool {
    // SAFETY: loads the driver's library and lets it go again; libraries of a vendor run no unsound initialisers.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

fn broken(error: DriverError) -> OpenError {
    OpenError::Other(error.to_string())
}

/// The device's context, once driver and number are known to be good.
fn context(index: usize) -> Result<Arc<CudaContext>, OpenError> {
    if !driver_present() {
        return Err(OpenError::NoDriver);
    }
    let count = match CudaContext::device_count() {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        Err(error) => return Err(OpenError::Driver(error.to_string())),
    };
    if index >= count {
        return Err(OpenError::NoDevice { index, count });
    }
    CudaContext::new(index).map_err(|e| OpenError::Driver(e.to_string()))
}

impl CudaBackend {
    /// Device number `index`, its kernels compiled or taken from below `cache`. What a user waits for, and that the kernels
    /// cannot be kept, is told to `say`, a line each.
    ///
    /// # Errors
    /// Driver, device or a library is missing, or the kernels do not compile.
    pub fn open(
        index: usize,
        precision: Precision,
        cache: Option<&Path>,
        say: &dyn Fn(&str),
    ) -> Result<Self, OpenError> {
        let context = context(index)?;
        // SAFETY: as in `driver_present`.
        let (nvrtc, cublas) = unsafe {
            (
                cudarc::nvrtc::sys::is_culib_present(),
                cudarc::cublaslt::sys::is_culib_present(),
            )
        };
        let missing = |library, package| OpenError::NoLibrary { library, package };
        if !nvrtc {
            return Err(missing("libnvrtc", "nvidia-cuda-nvrtc"));
        }
        if !cublas {
            return Err(missing("libcublasLt", "nvidia-cublas"));
        }
        let (major, minor) = context.compute_capability().map_err(broken)?;
        let name = context.name().map_err(broken)?;
        let image = compile::image(major, minor, cache, say)?;
        // SAFETY: `image` is what NVRTC made, ends with a zero, and outlives the call; the context is current (`new`).
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(broken)?;
        let mut functions = HashMap::new();
        for kernel in source::kernels() {
            let name = CString::new(kernel.as_str()).expect("a name in C");
            // SAFETY: the module was just loaded; it stays loaded as long as the context.
            let function = unsafe { result::module::get_function(module, name) }.map_err(broken)?;
            functions.insert(kernel, function);
        }
        let library = matmul::Library::new().map_err(OpenError::Other)?;
        let gpu = Gpu {
            context,
            name: format!("cuda:{index} {name}, sm_{major}{minor}"),
            functions,
            library,
        };
        Ok(CudaBackend::over(Arc::new(gpu), precision))
    }

    /// Whether a driver is installed, so that [`CudaBackend::open`] is worth a try.
    pub fn driver_present() -> bool {
        driver_present()
    }
}

impl Gpu {
    fn bind(&self) -> Result<(), Failure> {
        failure("bind", self.context.bind_to_thread())
    }
}

/// A driver's error as a message for users.
fn failure<T>(what: &str, result: Result<T, DriverError>) -> Result<T, Failure> {
    result.map_err(|error| {
        Failure(format!(
            "the GPU failed in {what}: {error}\nhint: nvidia-smi and the system's log say more; a run continues from its last checkpoint"
        ))
    })
}

impl Device for Gpu {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>, Failure> {
        self.bind()?;
        // SAFETY: the memory is not read before it is written.
        match unsafe { result::malloc_sync(bytes) } {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            other => failure("allocation", other).map(Some),
        }
    }

    fn free(&self, address: u64) {
        if self.bind().is_ok() {
            // SAFETY: the address came from `allocate` and is given back once; the driver waits for what uses it.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn upload(&self, address: u64, data: &[u8]) -> Result<(), Failure> {
        self.bind()?;
        // SAFETY: the caller's memory at `address` holds `data.len()` bytes; the call returns once `data` is read.
        failure("an upload", unsafe {
            result::memcpy_htod_sync(address, data)
        })
    }

    fn download(&self, address: u64, data: &mut [u8]) -> Result<(), Failure> {
        self.bind()?;
        // SAFETY: the caller's memory at `address` holds `data.len()` bytes; the call returns once they are here.
        failure("a download", unsafe {
            result::memcpy_dtoh_sync(data, address)
        })
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), Failure> {
        self.bind()?;
        // SAFETY: the caller's memory at `address` holds `bytes` bytes.
        failure("memset", unsafe {
            result::memset_d8_async(address, 0, bytes, result::stream::null())
        })
    }

    fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        args: &[Arg],
    ) -> Result<(), Failure> {
        self.bind()?;
        let function = self.functions.get(kernel);
        let function = *function.unwrap_or_else(|| panic!("kernel {kernel} exists"));
        let pointers = args.iter().map(|arg| arg.pointer().cast_mut());
        let mut pointers: Vec<*mut c_void> = pointers.collect();
        let (grid, block) = ((grid[0], grid[1], grid[2]), (block, 1, 1));
        let stream = result::stream::null();
        // SAFETY: number, types and order of the arguments are the kernel's (tests check every launch against the compiled
        // signature), addresses lie in live allocations, and the driver copies the values before it returns.
        failure(kernel, unsafe {
            result::launch_kernel(function, grid, block, 0, stream, &mut pointers)
        })
    }

    fn matmul(&self, product: &Matmul) -> Result<bool, Failure> {
        self.bind()?;
        self.library.multiply(product)
    }
}
