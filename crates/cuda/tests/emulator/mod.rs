//! A machine without a GPU: the crate's kernels compiled by the host's C++ compiler (`shim.h`), memory on the heap, matrix
//! products by plain loops over the same column-major arguments as cuBLASLt gets.
//!
//! It is stricter than a GPU: the types of a launch's arguments must be the kernel's, threads of a block must meet at the same
//! barriers, bytes around an allocation must stay as they are, and fresh memory is NaN.
#![allow(
    clippy::disallowed_methods,
    reason = "a test program that ends early says so"
)]

use libloading::{Library, Symbol};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use unbraid_cuda::{Arg, Device, Failure, Matmul, Operand};

type Run = unsafe extern "C" fn(
    name: *const c_char,
    letters: *const c_char,
    grid: *const u32,
    block: u32,
    args: *const *const c_void,
) -> *const c_char;

/// Bytes before and behind an allocation that nobody may touch.
const GUARD: usize = 256;
const UNTOUCHED: u8 = 0xa5;

/// What the machine cannot do, for tests of what happens then.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    /// Refuses every matrix product, as cuBLASLt may.
    pub no_library: bool,
    /// Bytes that may be allocated at a time.
    pub memory: Option<usize>,
}

/// The emulated machine. One launch runs at a time: a block's state is global in the compiled kernels.
pub struct Emulator {
    library: Library,
    running: Mutex<()>,
    allocated: Mutex<BTreeMap<u64, usize>>,
    limits: Limits,
}

/// The C++ compiler: `$CXX`, `c++`, `g++` or `clang++`, the first that answers.
fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    let usual = ["c++", "g++", "clang++"].map(str::to_owned);
    named.into_iter().chain(usual).find(|name| {
        let asked = Command::new(name).arg("--version").output();
        asked.is_ok_and(|output| output.status.success())
    })
}

/// The kernels as a C++ file with their table behind them.
fn text() -> String {
    let names = unbraid_cuda::kernels();
    let table: String = names
        .iter()
        .map(|name| format!("KERNEL({name})\n"))
        .collect();
    format!(
        "{}\n{}\nstatic const Kernel kernels[] = {{\n{table}{{0, 0, 0}}}};\n\
         extern \"C\" const char* emulate(const char* name, const char* letters, const unsigned* grid, unsigned block, \
         void** args) {{ return run(kernels, name, letters, grid, block, args); }}\n",
        include_str!("shim.h"),
        unbraid_cuda::kernel_source()
    )
}

fn compile(compiler: &str, dir: &Path) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("emulated-{}-{number}", std::process::id());
    let (source, library) = (
        dir.join(format!("{name}.cpp")),
        dir.join(format!("{name}.so")),
    );
    std::fs::write(&source, text()).expect("the target directory can be written");
    let output = Command::new(compiler)
        .args([
            "-std=c++17",
            "-O2",
            "-w",
            "-shared",
            "-fPIC",
            "-fno-strict-aliasing",
            "-o",
        ])
        .args([&library, &source])
        .output()
        .expect("the compiler runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", source.display());
    let _ = std::fs::remove_file(source);
    library
}

impl Emulator {
    /// The machine; where there is no C++ compiler the test program says so and ends well.
    pub fn or_end(limits: Limits) -> Arc<dyn Device> {
        if let Some(emulator) = Emulator::new(limits) {
            return Arc::new(emulator);
        }
        // Not through `eprintln`, whose output the test harness keeps of tests that pass.
        let _ = writeln!(
            std::io::stderr(),
            "no C++ compiler: the CUDA kernels are not tested here"
        );
        std::process::exit(0);
    }

    /// `None` where there is no C++ compiler.
    pub fn new(limits: Limits) -> Option<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(dir).expect("the target directory can be written");
        let path = compile(&compiler()?, dir);
        // SAFETY: a library without initialisers, just compiled from this crate's text.
        let library = unsafe { Library::new(&path) }.expect("a shared library");
        let _ = std::fs::remove_file(path);
        Some(Emulator {
            library,
            running: Mutex::default(),
            allocated: Mutex::default(),
            limits,
        })
    }

    /// Panics if bytes around an allocation have changed.
    fn check_guards(&self, after: &str) {
        for (&address, &bytes) in self.allocated.lock().expect("no panic while held").iter() {
            for start in [address - GUARD as u64, address + bytes as u64] {
                // SAFETY: the guards of a live allocation.
                let guard = unsafe { std::slice::from_raw_parts(start as *const u8, GUARD) };
                assert!(
                    guard.iter().all(|&b| b == UNTOUCHED),
                    "{after} wrote outside an allocation of {bytes} bytes"
                );
            }
        }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + 2 * GUARD, GUARD).expect("a size")
}

fn value(x: Operand, row: usize, col: usize) -> f32 {
    let (row, col) = if x.transposed { (col, row) } else { (row, col) };
    let at = row + col * x.leading;
    // SAFETY: the host code has checked that the operand lies in its buffer.
    unsafe {
        match x.half {
            true => f32::from_bits(u32::from(*(x.address as *const u16).add(at)) << 16),
            false => *(x.address as *const f32).add(at),
        }
    }
}

impl Device for Emulator {
    fn describe(&self) -> String {
        "emulated".into()
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>, Failure> {
        let held: usize = {
            let allocated = self.allocated.lock().expect("no panic while held");
            allocated.values().sum()
        };
        if self.limits.memory.is_some_and(|most| held + bytes > most) {
            return Ok(None);
        }
        // SAFETY: the size is not zero; all of it is written before it is handed out.
        let start = unsafe {
            let start = alloc(layout(bytes));
            start.write_bytes(UNTOUCHED, bytes + 2 * GUARD);
            start.add(GUARD).write_bytes(0xff, bytes);
            start
        };
        let address = start as u64 + GUARD as u64;
        let mut allocated = self.allocated.lock().expect("no panic while held");
        allocated.insert(address, bytes);
        Ok(Some(address))
    }

    fn free(&self, address: u64) {
        let mut allocated = self.allocated.lock().expect("no panic while held");
        let bytes = allocated.remove(&address).expect("allocated here");
        // SAFETY: as it was allocated, once.
        unsafe { dealloc((address - GUARD as u64) as *mut u8, layout(bytes)) };
    }

    fn upload(&self, address: u64, data: &[u8]) -> Result<(), Failure> {
        // SAFETY: the host code's buffer holds that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), address as *mut u8, data.len()) };
        Ok(())
    }

    fn download(&self, address: u64, data: &mut [u8]) -> Result<(), Failure> {
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(address as *const u8, data.as_mut_ptr(), data.len());
        }
        Ok(())
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), Failure> {
        // SAFETY: as above.
        unsafe { (address as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        args: &[Arg],
    ) -> Result<(), Failure> {
        assert!(
            grid[1].max(grid[2]) < 65536,
            "{kernel}: a GPU has no grid {grid:?}"
        );
        let name = CString::new(kernel).expect("a name");
        let letters: String = args.iter().map(Arg::code).collect();
        let letters = CString::new(letters).expect("letters");
        let pointers: Vec<_> = args.iter().map(Arg::pointer).collect();
        let guard = self.running.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: the function has this type, and checks name and types of the arguments.
        let fault = unsafe {
            let run: Symbol<'_, Run> = self.library.get(b"emulate").expect("it is exported");
            let (name, letters) = (name.as_ptr(), letters.as_ptr());
            let fault = run(name, letters, grid.as_ptr(), block, pointers.as_ptr());
            (!fault.is_null()).then(|| CStr::from_ptr(fault).to_string_lossy().into_owned())
        };
        drop(guard);
        if let Some(fault) = fault {
            panic!("{kernel}: {fault}");
        }
        self.check_guards(kernel);
        Ok(())
    }

    fn matmul(&self, p: &Matmul) -> Result<bool, Failure> {
        assert_eq!(p.a.half, p.b.half, "cuBLASLt wants one format");
        assert!(p.m * p.n * p.k > 0);
        if self.limits.no_library {
            return Ok(false);
        }
        let rows = |x: Operand, rows, cols| if x.transposed { cols } else { rows };
        assert!(p.a.leading >= rows(p.a, p.m, p.k) && p.b.leading >= rows(p.b, p.k, p.n));
        assert!(p.c_leading >= p.m);
        let column = |x: Operand, j: usize| (0..p.k).map(|l| value(x, l, j)).collect::<Vec<_>>();
        let left: Vec<f32> = (0..p.m)
            .flat_map(|i| (0..p.k).map(move |l| value(p.a, i, l)))
            .collect();
        for j in 0..p.n {
            let right = column(p.b, j);
            for i in 0..p.m {
                let row = &left[i * p.k..][..p.k];
                let sum: f32 = {
                    let mut lanes = [0f32; 8];
                    for (x, y) in row.chunks(8).zip(right.chunks(8)) {
                        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
                            *lane += x * y;
                        }
                    }
                    lanes.iter().sum()
                };
                // SAFETY: the host code has checked that C lies in its buffer.
                unsafe {
                    let to = (p.c as *mut f32).add(i + j * p.c_leading);
                    let old = if p.beta == 0.0 { 0.0 } else { p.beta * *to };
                    *to = p.alpha * sum + old;
                }
            }
        }
        self.check_guards("matmul");
        Ok(true)
    }
}
