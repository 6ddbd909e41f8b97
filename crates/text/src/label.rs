//! How one token is shown to a reader: every space, line break and stray byte visible.
//!
//! Byte-level vocabularies (GPT-2, Llama 3, SmolLM2) store bytes as printable stand-in characters; SentencePiece
//! vocabularies (Llama 2) store a space as `▁` and rare bytes as `<0xE2>`. Both are undone here, and what is left
//! that a reader could not see is spelled: space `␣`, line feed `⏎`, tab `⇥`, other bytes `<0xE2>`.
//! Tested in `tests/tokenizer.rs`.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

/// How a vocabulary spells bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Every byte is one stand-in character (GPT-2).
    ByteLevel,
    /// A space is `▁`, bytes without a piece are `<0xE2>`.
    SentencePiece,
    /// As written.
    Plain,
}

impl Spelling {
    /// Reads the spelling off the tokenizer's description: the decoder knows how to undo it.
    pub(crate) fn of(tokenizer: &Value) -> Self {
        let decoder = tokenizer["decoder"].to_string();
        let pre_tokenizer = tokenizer["pre_tokenizer"].to_string();
        if decoder.contains("\"ByteLevel\"") || pre_tokenizer.contains("\"ByteLevel\"") {
            Self::ByteLevel
        } else if decoder.contains('▁')
            || decoder.contains("\"Metaspace\"")
            || decoder.contains("\"ByteFallback\"")
        {
            Self::SentencePiece
        } else {
            Self::Plain
        }
    }

    /// The bytes that a vocabulary entry stands for.
    pub(crate) fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Self::Plain => token.as_bytes().to_vec(),
            Self::SentencePiece => {
                let hex = token
                    .strip_prefix("<0x")
                    .and_then(|rest| rest.strip_suffix('>'));
                match hex
                    .filter(|hex| hex.len() == 2)
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                {
                    Some(byte) => vec![byte],
                    None => token.replace('▁', " ").into_bytes(),
                }
            }
            Self::ByteLevel => {
                let table = byte_of_char();
                let mut out = Vec::with_capacity(token.len());
                for c in token.chars() {
                    match table.get(&c) {
                        Some(&byte) => out.push(byte),
                        // Not a stand-in: an added token, written as it is.
                        None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                out
            }
        }
    }
}

/// GPT-2's stand-ins: printable Latin-1 bytes are themselves, the others follow from U+0100 on in byte order.
pub(crate) fn char_of_byte() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        table[usize::from(byte)] = if printable {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        };
    }
    table
}

fn byte_of_char() -> &'static HashMap<char, u8> {
    static TABLE: OnceLock<HashMap<char, u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        (0..=255u8)
            .zip(char_of_byte())
            .map(|(byte, c)| (c, byte))
            .collect()
    })
}

/// Makes bytes readable.
pub(crate) fn visible(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                ' ' => out.push('␣'),
                '\n' => out.push('⏎'),
                '\t' => out.push('⇥'),
                c if c.is_control() => c
                    .encode_utf8(&mut [0; 4])
                    .bytes()
                    .for_each(|byte| push_byte(byte, &mut out)),
                c => out.push(c),
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|&byte| push_byte(byte, &mut out));
    }
    out
}

fn push_byte(byte: u8, out: &mut String) {
    out.push_str(&format!("<0x{byte:02X}>"));
}
