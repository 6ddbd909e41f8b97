//! Opening input files: the one place that says what may stand where a file is expected.
//!
//! A path that a user gives can be anything the file system holds. Opening a named pipe waits for a writer, reading a
//! device may never end, and a directory fails with a word of the system's. So every input is looked at before it is
//! opened, and only a regular file (or a link to one) is opened; anything else is named at once. Sizes are the
//! readers' affair: [`read_at_most`] stops where a file turns out longer than it may be.
//! Left out: what an input contains. Tested here, and through the binary in `crates/unbraid/tests/inputs.rs`.

use std::fs::{File, FileType};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Opens a file for reading.
///
/// # Errors
/// Those of the system; [`ErrorKind::InvalidInput`] for what is no regular file, with its kind in words.
pub fn open(path: &Path) -> Result<File> {
    check(path)?;
    File::open(path)
}

/// Whether a path can be opened as an input: it exists and is a regular file.
///
/// # Errors
/// As [`open`].
pub fn check(path: &Path) -> Result<()> {
    match kind(std::fs::metadata(path)?.file_type()) {
        None => Ok(()),
        Some(kind) => {
            let reason = format!("it is {kind}, and a regular file is expected");
            Err(Error::new(ErrorKind::InvalidInput, reason))
        }
    }
}

/// A whole file.
///
/// # Errors
/// As [`open`], and of reading.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A whole file of UTF-8 text.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] for other bytes.
pub fn read_to_string(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// A whole file of at most `limit` bytes.
///
/// # Errors
/// As [`read`]; [`ErrorKind::FileTooLarge`] where it is longer.
pub fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it is longer than the {limit} bytes that are read of such a file");
        return Err(Error::new(ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// What something that is no regular file is, in words.
fn kind(file_type: FileType) -> Option<&'static str> {
    if file_type.is_file() {
        return None;
    }
    if file_type.is_dir() {
        return Some("a directory");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if file_type.is_fifo() {
            return Some("a named pipe (FIFO)");
        }
        if file_type.is_socket() {
            return Some("a socket");
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return Some("a device");
        }
    }
    Some("no file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        let error = open(path).expect_err("it is no regular file");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    }

    #[test]
    fn a_directory_and_a_device_are_named() {
        assert!(refused(Path::new("src")).contains("a directory"));
        if cfg!(unix) {
            assert!(refused(Path::new("/dev/null")).contains("a device"));
        }
        let missing = open(Path::new("src/missing")).expect_err("it is not there");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let path = Path::new("Cargo.toml");
        let whole = read(path).expect("it is there");
        let length = whole.len() as u64;
        assert_eq!(read_at_most(path, length).expect("it fits"), whole);
        let error = read_at_most(path, length - 1).expect_err("one byte too long");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_to_string(path).expect("it is text").as_bytes(), whole);
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_is_named() {
        let dir = std::env::temp_dir().join(format!("unbraid-input-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a new directory");
        let path = dir.join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a new socket");
        assert!(refused(&path).contains("a socket"));
        drop(listener);
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }
}
