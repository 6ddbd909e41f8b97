//! What can go wrong: before the first operation ([`OpenError`]) and in one ([`Failure`]).

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The driver's library is not there.
    #[error(
        "no NVIDIA driver found\nhint: leave --device out or say --device cpu; with a GPU, install NVIDIA's driver (nvidia-smi must work)"
    )]
    NoDriver,
    /// The driver is there and refuses.
    #[error(
        "the NVIDIA driver does not start: {0}\nhint: nvidia-smi says more; --device cpu needs no driver"
    )]
    Driver(String),
    /// No device of that number.
    #[error(
        "there is no CUDA device {index}: the driver knows {count}\nhint: devices are numbered from 0; nvidia-smi lists them"
    )]
    NoDevice {
        /// The number asked for.
        index: usize,
        /// Number of devices.
        count: usize,
    },
    /// A library besides the driver is not there.
    #[error(
        "{library} is missing, which the GPU needs\nhint: install the CUDA toolkit, or `pip install {package}`, and name the directory of its lib*.so in LD_LIBRARY_PATH"
    )]
    NoLibrary {
        /// Its name.
        library: &'static str,
        /// The wheel that holds it.
        package: &'static str,
    },
    /// NVRTC does not compile the kernels.
    #[error(
        "NVRTC cannot compile the kernels for {architecture}: {message}\nhint: a newer CUDA toolkit may know this GPU"
    )]
    Compile {
        /// Such as `sm_90`.
        architecture: String,
        /// What the compiler said.
        message: String,
    },
    /// Anything else while the machine is prepared.
    #[error("the GPU cannot be prepared: {0}")]
    Other(String),
}

/// An operation that failed on the device, as a message for the user; the payload of a panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// Leaves the running operation.
    pub(crate) fn raise(self) -> ! {
        std::panic::panic_any(self)
    }
}
