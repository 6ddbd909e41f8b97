//! The kernels as machine code for one architecture: from the cache, else by NVRTC.
//!
//! Where NVRTC knows the GPU it makes machine code (a cubin), which any driver for that GPU loads; a GPU newer than NVRTC gets
//! PTX for the newest architecture that NVRTC knows, which the driver translates.

use crate::error::OpenError;
use crate::source;
use cudarc::nvrtc::{result, sys};
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// Cubin or PTX for compute capability `major.minor`, with a zero behind it.
pub(super) fn image(
    major: i32,
    minor: i32,
    cache: Option<&Path>,
    say: &dyn Fn(&str),
) -> Result<Vec<u8>, OpenError> {
    let (text, wanted) = (source::text(), major * 10 + minor);
    let other = |e: result::NvrtcError| OpenError::Other(format!("NVRTC: {e}"));
    let version = version().map_err(other)?;
    let newest = architectures()
        .map_err(other)?
        .into_iter()
        .filter(|&arch| arch <= wanted)
        .max();
    let Some(newest) = newest else {
        return Err(OpenError::Compile {
            architecture: format!("sm_{wanted}"),
            message: "this GPU is older than what this NVRTC supports".into(),
        });
    };
    let exact = newest == wanted;
    let architecture = format!("{}_{newest}", if exact { "sm" } else { "compute" });
    let name = file_name(&text, &architecture, version);
    let path = cache.map(|dir| dir.join(name));
    if let Some(image) = path.as_deref().and_then(read) {
        return Ok(image);
    }
    say("compiling the GPU's kernels (once for this GPU and version)");
    let mut image = compile(&text, &architecture, exact)?;
    image.push(0);
    if let Some(path) = path {
        keep(&path, &image, say);
    }
    Ok(image)
}

/// What the machine code depends on, as a file name.
fn file_name(text: &str, architecture: &str, (major, minor): (i32, i32)) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let hash = hasher.finish();
    format!("kernels-{hash:016x}-{architecture}-nvrtc{major}.{minor}")
}

/// A kept image, if it is whole: one that was cut off lacks its closing mark.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut image = std::fs::read(path).ok()?;
    let end = image.len().checked_sub(MARK.len())?;
    (&image[end..] == MARK).then(|| {
        image.truncate(end);
        image
    })
}

const MARK: &[u8] = b"whole";

/// Written beside and renamed, so that no reader finds a part. A cache that cannot be written is none.
fn keep(path: &Path, image: &[u8], say: &dyn Fn(&str)) {
    let Some(dir) = path.parent() else { return };
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&beside, [image, MARK].concat()))
        .and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&beside);
        say(&format!(
            "note: the compiled kernels cannot be kept in {}: {error}",
            dir.display()
        ));
    }
}

fn version() -> Result<(i32, i32), result::NvrtcError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written before the call returns.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result()?;
    Ok((major, minor))
}

fn architectures() -> Result<Vec<i32>, result::NvrtcError> {
    let mut count = 0;
    // SAFETY: `count` is written before the call returns.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result()?;
    let mut all = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: `all` has room for as many as NVRTC has just said.
    unsafe { sys::nvrtcGetSupportedArchs(all.as_mut_ptr()) }.result()?;
    Ok(all)
}

/// Runs NVRTC; machine code if `exact`, else PTX.
fn compile(text: &str, architecture: &str, exact: bool) -> Result<Vec<u8>, OpenError> {
    let fault = |message: String| OpenError::Compile {
        architecture: architecture.to_owned(),
        message,
    };
    let text = CString::new(text).expect("the source has no zero byte");
    let program =
        result::create_program(&text, Some(c"unbraid.cu")).map_err(|e| fault(e.to_string()))?;
    let options = [
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
    ];
    // SAFETY: the program was just created and is destroyed below, on every way; sizes are asked for before they are used.
    unsafe {
        let compiled = result::compile_program(program, &options);
        let image = compiled.and_then(|()| match exact {
            true => {
                let mut size = 0;
                sys::nvrtcGetCUBINSize(program, &mut size).result()?;
                let mut cubin = vec![0u8; size];
                sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result()?;
                Ok(cubin)
            }
            false => Ok(result::get_ptx(program)?.iter().map(|&c| c as u8).collect()),
        });
        let log = result::get_program_log(program).unwrap_or_default();
        let _ = result::destroy_program(program);
        image.map_err(|error| {
            let log: Vec<u8> = log.iter().map(|&c| c as u8).collect();
            let log = String::from_utf8_lossy(&log);
            fault(format!("{error}\n{}", log.trim_end_matches('\0').trim()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_image_is_found_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cuda").join("image");
        keep(&path, b"machine code", &|_| {});
        assert_eq!(read(&path).as_deref(), Some(&b"machine code"[..]));
        std::fs::write(&path, b"machine code who").expect("written");
        assert_eq!(read(&path), None);
        assert_eq!(read(&dir.path().join("absent")), None);
        let others = std::fs::read_dir(path.parent().expect("a parent")).expect("read");
        assert_eq!(others.count(), 1, "nothing is left beside it");
    }

    #[test]
    fn source_architecture_and_compiler_name_the_file() {
        let name = file_name("a", "sm_90", (12, 9));
        assert_eq!(name, file_name("a", "sm_90", (12, 9)));
        for other in [
            file_name("b", "sm_90", (12, 9)),
            file_name("a", "compute_90", (12, 9)),
            file_name("a", "sm_90", (13, 0)),
        ] {
            assert_ne!(name, other);
        }
    }
}
