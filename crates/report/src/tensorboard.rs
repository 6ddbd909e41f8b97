//! TensorBoard event files: scalars by step, written as they come.
//!
//! ```text
//! file   = record…                     events.out.tfevents.<seconds>.<host>.<pid>.<number>
//! record = length: u64  crc(length): u32  event  crc(event): u32      (little-endian, TFRecord)
//! event  = { 1: wall_time f64, 2: step i64, 3: file_version "brain.Event:2" | 5: { 1: value… } }   (protobuf)
//! value  = { 1: tag, 2: simple_value f32 }
//! crc    = rotate_right(crc32c(x), 15) + 0xa282ead8
//! ```
//!
//! The few fields that scalars need are encoded here: the crates there are bring a protobuf compiler's output and a
//! thread each. A row is one record, written with one call, so TensorBoard and a killed run see whole records.
//! Names are those of transformers' `TensorBoardCallback`: `train/loss`, `eval/rewards/margins`.
//! Left out: text, histograms, images, and reading. The caller gives the time, so that nothing here reads a clock.
//! Source: tensorflow/core/util/event.proto, core/lib/io/record_writer. Tested below, and with `tensorboard` by hand.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{ReportError, Result};

/// An open event file.
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// Creates a new event file in `dir`, which is made if need be. `wall_time` is in seconds since 1970; `host` and
    /// `pid` tell files of several writers apart.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn create(dir: &Path, host: &str, pid: u32, wall_time: f64) -> Result<Self> {
        fs::create_dir_all(dir).map_err(ReportError::io("create", dir))?;
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        let host: String = host.chars().map(plain).collect();
        let mut number = 0;
        let (file, path) = loop {
            let seconds = wall_time as u64;
            let name = format!("events.out.tfevents.{seconds}.{host}.{pid}.{number}");
            let path = dir.join(name);
            match File::create_new(&path) {
                Ok(file) => break (file, path),
                // Two runs of one process within a second.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(ReportError::io("create", &path)(error)),
            }
        };
        let mut writer = EventWriter { file, path };
        let mut event = Message::default();
        event.double(1, wall_time);
        event.bytes(3, b"brain.Event:2");
        writer.write(&event.0)?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the scalars of one step, by tag. Values are stored as f32, as everybody's are.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn scalars(&mut self, step: u64, wall_time: f64, values: &[(String, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
        let mut event = Message::default();
        event.double(1, wall_time);
        event.integer(2, step);
        event.bytes(5, &summary.0);
        self.write(&event.0)
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(event);
        record.extend_from_slice(&masked_crc(event).to_le_bytes());
        let written = self.file.write_all(&record);
        written.map_err(ReportError::io("write", &self.path))
    }
}

/// The tag of a key of `metrics.jsonl`: `eval_x` is `eval/x`, everything else `train/x`.
pub fn tensorboard_tag(key: &str) -> String {
    match key.strip_prefix("eval_") {
        Some(key) => format!("eval/{key}"),
        None => format!("train/{key}"),
    }
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]

    use super::*;

    /// The textbook CRC-32C, a bit at a time: Castagnoli's polynomial, reflected.
    fn slow_crc(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }

    fn unmask(masked: u32) -> u32 {
        masked.wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    /// Events of a file; panics where a length or a checksum is wrong.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(unmask(word(&bytes[8..])), slow_crc(&bytes[..8]));
            let event = &bytes[12..12 + len];
            assert_eq!(unmask(word(&bytes[12 + len..])), slow_crc(event));
            events.push(event.to_vec());
            bytes = &bytes[16 + len..];
        }
        events
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// Fields of a message: number, and the bytes of its value (varints as 8 bytes).
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let len = match key & 7 {
                0 => {
                    out.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                wire => panic!("wire type {wire}"),
            };
            out.push((key >> 3, bytes[..len].to_vec()));
            bytes = &bytes[len..];
        }
        out
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of CRC-32C.
        assert_eq!(slow_crc(b"123456789"), 0xe306_9283);
        assert_eq!(unmask(masked_crc(b"123456789")), 0xe306_9283);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs/a");
        let mut writer = EventWriter::create(&runs, "a host", 7, 1234.5).unwrap();
        let name = writer.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(name, "events.out.tfevents.1234.a_host.7.0");
        let row = [
            ("train/loss".to_owned(), 0.5),
            ("train/x".to_owned(), -3e40),
        ];
        writer.scalars(300, 1240.25, &row).unwrap();

        // Nothing is closed or flushed: the rows are there already.
        let events = records(&fs::read(writer.path()).unwrap());
        assert_eq!(events.len(), 2);
        let wall = |time: f64| (1, time.to_le_bytes().to_vec());
        assert_eq!(
            fields(&events[0]),
            [wall(1234.5), (3, b"brain.Event:2".to_vec())]
        );
        let event = fields(&events[1]);
        assert_eq!(
            event[..2],
            [wall(1240.25), (2, 300u64.to_le_bytes().to_vec())]
        );
        let values = fields(&event[2].1);
        let expected = [("train/loss", 0.5f32), ("train/x", f32::NEG_INFINITY)];
        for ((_, value), (tag, number)) in values.iter().zip(expected) {
            let number = number.to_le_bytes().to_vec();
            assert_eq!(fields(value), [(1, tag.as_bytes().to_vec()), (2, number)]);
        }
        assert_eq!((event[2].0, values.len()), (5, 2));
    }

    #[test]
    fn a_second_writer_gets_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let name = || {
            let writer = EventWriter::create(dir.path(), "h", 7, 1.0).unwrap();
            writer.path().file_name().unwrap().to_owned()
        };
        assert_ne!(name(), name());
    }

    #[test]
    fn tags_are_those_of_transformers() {
        assert_eq!(tensorboard_tag("rewards/margins"), "train/rewards/margins");
        assert_eq!(tensorboard_tag("eval_loss"), "eval/loss");
    }
}
