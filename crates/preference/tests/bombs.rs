//! Small files that unfold to more than memory holds, and paths that are no files: refused at once, by file and place.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{ArrayRef, ListArray, NullArray, RecordBatch, StringArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field};
use common::load;

/// Counts what is allocated, so that a test can say what a reader asked for.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted beside it.
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { std::alloc::System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        let held = HELD.fetch_add(size, Ordering::Relaxed) + size;
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { std::alloc::System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A Zstandard frame of `head`, then `blocks` times 128 KiB of one byte, in four bytes each.
fn zstandard(head: &[u8], fill: u8, blocks: usize) -> Vec<u8> {
    let block = |size: usize, kind: u32, last: u32| {
        let word = (size as u32) << 3 | kind << 1 | last;
        word.to_le_bytes()[..3].to_vec()
    };
    let mut out = b"\x28\xb5\x2f\xfd\x00\x38".to_vec();
    out.extend(block(head.len(), 0, 0));
    out.extend(head);
    for _ in 0..blocks {
        out.extend(block(1 << 17, 1, 0));
        out.push(fill);
    }
    out.extend(block(1, 1, 1));
    out.push(fill);
    out
}

/// Refused with the place and the limit, and no more than `most` MiB were held at a time.
fn refused(path: &Path, parts: &[&str], most: usize) {
    PEAK.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
    let before = HELD.load(Ordering::Relaxed);
    let error = load(path).expect_err("it is refused").to_string();
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before) >> 20;
    let name = path.file_name().unwrap().to_string_lossy();
    assert!(error.contains(&*name), "{error}");
    for part in parts {
        assert!(error.contains(part), "{name}: {error}");
    }
    assert!(peak <= most, "{name}: {peak} MiB were held");
}

/// One test, because it counts what the whole process allocates.
#[test]
fn bombs_are_refused_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    // 300 MiB.
    let blocks = 2400;
    let limit = ["256 MiB"];
    for (name, head, place) in [
        (
            "a.jsonl.zst",
            &b"\n{\"prompt\":\"x\",\"chosen\":\""[..],
            "a.jsonl.zst:2:",
        ),
        ("a.json.zst", b"[\n{\"prompt\":\"", "a.json.zst:2:"),
        ("b.json.zst", b"{\"prompt\":\"", "b.json.zst:1:"),
        ("a.csv.zst", b"prompt,chosen,rejected\n\"", "a.csv.zst:2:"),
    ] {
        let path = write(name, &zstandard(head, b'a', blocks));
        refused(&path, &[place, limit[0]], 260);
    }
    // White space without end.
    refused(
        &write("w.jsonl.zst", &zstandard(b"", b' ', blocks)),
        &limit,
        260,
    );
    refused(
        &write("w.json.zst", &zstandard(b"[", b'\n', blocks)),
        &limit,
        10,
    );
    // Fields without end.
    let path = write("f.csv.zst", &zstandard(b"a,b\n", b',', blocks));
    refused(&path, &["f.csv.zst:2:", "100000 columns"], 10);
    // Few bytes, many values: 20 million numbers take more than they are written with.
    let mut many = b"{\"prompt\": [".to_vec();
    many.extend(b"0,".repeat(20_000_000));
    many.extend(b"0], \"chosen\": \"c\", \"rejected\": \"r\"}\n");
    refused(&write("v.jsonl", &many), &["v.jsonl:1:", limit[0]], 900);
    // Columns without end.
    let columns: String = (0..100_001).map(|n| format!("\"c{n}\":0,")).collect();
    let path = write(
        "c.jsonl",
        format!("{{{columns}\"prompt\":\"p\"}}").as_bytes(),
    );
    refused(&path, &["c.jsonl:1:", "100000 columns"], 60);
    // Levels without end; a column that nobody reads is passed over without recursion.
    let deep = "[".repeat(1_000_000);
    for (column, reason) in [("prompt", "127 levels"), ("other", "malformed JSON")] {
        let path = write("d.jsonl", format!("{{\"{column}\": {deep}").as_bytes());
        refused(&path, &["d.jsonl:1:", reason], 30);
    }
    refused(&arrow_list(dir.path()), &["row 1", limit[0]], 600);
    refused(&arrow_lengths(dir.path()), &["middle of a batch"], 10);
}

/// A list of 2³⁰ nulls: no byte of the file belongs to them.
fn arrow_list(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("n.arrow");
    let field = Arc::new(Field::new("item", DataType::Null, true));
    let nulls = Arc::new(NullArray::new(1 << 30));
    let offsets = OffsetBuffer::from_lengths([1 << 30]);
    let list: ArrayRef = Arc::new(ListArray::new(field, offsets, nulls, None));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["c"]));
    let batch = RecordBatch::try_from_iter([("prompt", list), ("chosen", text)]).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    path
}

/// A message that says it has 2³¹ − 16 bytes in a file of some hundred.
fn arrow_lengths(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("l.arrow");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&[0xff; 4]).unwrap();
    file.write_all(&(200_u32 << 20).to_le_bytes()).unwrap();
    file.write_all(&[0; 100]).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("p.jsonl");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let socket = dir.path().join("s.jsonl");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let device = dir.path().join("d.jsonl");
    std::os::unix::fs::symlink("/dev/zero", &device).unwrap();
    for (path, kind) in [
        (&pipe, "named pipe"),
        (&socket, "socket"),
        (&device, "device"),
    ] {
        let error = load(path).unwrap_err().to_string();
        assert!(error.contains(kind), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
    // Among the files of a directory too.
    std::fs::remove_file(&socket).unwrap();
    std::fs::remove_file(&device).unwrap();
    std::fs::rename(&pipe, dir.path().join("train.jsonl")).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("named pipe"), "{error}");
}
