//! The messages of an Arrow stream, one after another.
//!
//! ```text
//! message = [FFFFFFFF] length:u32 metadata[length] body[bodyLength of the metadata];  a length of 0 ends the stream
//! ```
//!
//! The lengths are claims of the file. Each message is therefore gathered here, growing with what is really there and
//! never beyond a limit, before `arrow_ipc` decodes it. Tested in `tests/formats.rs`, `tests/bad_input.rs` and `tests/bombs.rs`.

use std::io::{BufRead, Read as _};

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::{ArrowError, SchemaRef};

use crate::limits::{MAX_RECORD, read_whole};

/// Marks the beginning of a message since Arrow 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Batches of a stream.
pub(crate) struct Messages {
    input: Box<dyn BufRead + Send>,
    decoder: StreamDecoder,
    /// Most bytes of a message's body.
    limit: usize,
    ended: bool,
}

impl Messages {
    pub(crate) fn new(input: Box<dyn BufRead + Send>, limit: usize) -> Self {
        Messages {
            input,
            decoder: StreamDecoder::new(),
            limit,
            ended: false,
        }
    }

    /// The schema, once a message was read.
    pub(crate) fn schema(&self) -> Option<SchemaRef> {
        self.decoder.schema()
    }

    /// The next batch, passing the messages before it; none at the end.
    pub(crate) fn advance(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        while let Some(message) = self.message()? {
            let mut message = arrow_buffer::Buffer::from_vec(message);
            if let Some(batch) = self.decoder.decode(&mut message)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The bytes of the next message.
    fn message(&mut self) -> Result<Option<Vec<u8>>, ArrowError> {
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut message = Vec::new();
        self.gather(&mut message, 4)?;
        if message == CONTINUATION {
            self.gather(&mut message, 4)?;
        }
        let length = message.last_chunk::<4>().copied().map(u32::from_le_bytes);
        let length = length.unwrap_or_default() as usize;
        if length == 0 {
            return Ok(None);
        }
        let before = message.len();
        too_long(length, MAX_RECORD, "the description of a batch")?;
        self.gather(&mut message, length)?;
        let header = arrow_ipc::root_as_message(&message[before..])
            .map_err(|error| ArrowError::ParseError(error.to_string()))?;
        let body = usize::try_from(header.bodyLength())
            .map_err(|_| ArrowError::ParseError("a batch has a negative length".to_owned()))?;
        too_long(body, self.limit, "a batch")?;
        self.gather(&mut message, body)?;
        self.ended = false;
        Ok(Some(message))
    }

    fn gather(&mut self, message: &mut Vec<u8>, length: usize) -> Result<(), ArrowError> {
        let whole = message.len().saturating_add(length);
        let mut input = (&mut self.input).take(length as u64);
        read_whole(&mut input, message, whole)?;
        match message.len() == whole {
            true => Ok(()),
            false => Err(ArrowError::ParseError(
                "it ends in the middle of a batch".to_owned(),
            )),
        }
    }
}

fn too_long(length: usize, limit: usize, what: &str) -> Result<(), ArrowError> {
    if length <= limit {
        return Ok(());
    }
    Err(ArrowError::MemoryError(format!(
        "{what} of {length} bytes is longer than {} MiB, the most that is read of one",
        limit >> 20
    )))
}

impl Iterator for Messages {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
