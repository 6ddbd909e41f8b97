//! Stored values to f32.
//!
//! The GGUF quantisations follow the reference implementation in the Python package `gguf`
//! (`gguf/quants.py`), with the same f32 operations in the same order, so the results are equal bit
//! for bit; tested in `tests/weights_gguf.rs` on blocks of random bytes. Notation: a block has a
//! scale d (f16), where signed types multiply by d and the `_1` and `_K` types also have a minimum.
//!
//! Bytes are taken as little-endian, which both file formats are.

use half::{bf16, f16};

/// What safetensors files may hold, for messages.
pub(super) const SAFETENSORS_TYPES: &str = "F32, F16, BF16";

/// A stored type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
    /// A type that is not decoded, by its name.
    Other(String),
}

/// Values in a block of the K types.
const SUPER_BLOCK: usize = 256;
/// Values in a block of the other quantised types.
const BLOCK: usize = 32;

impl Encoding {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Other(name) => name,
        }
    }

    /// Values in a block and bytes that it takes; `None` for a type that is not decoded.
    pub(super) fn block(&self) -> Option<(usize, usize)> {
        Some(match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (BLOCK, 2 + 32),
            Self::Q4_0 => (BLOCK, 2 + 16),
            Self::Q4_1 => (BLOCK, 2 + 2 + 16),
            Self::Q5_0 => (BLOCK, 2 + 4 + 16),
            Self::Q5_1 => (BLOCK, 2 + 2 + 4 + 16),
            Self::Q4K => (SUPER_BLOCK, 2 + 2 + 12 + 128),
            Self::Q5K => (SUPER_BLOCK, 2 + 2 + 12 + 32 + 128),
            Self::Q6K => (SUPER_BLOCK, 128 + 64 + 16 + 2),
            Self::Other(_) => return None,
        })
    }

    /// Adds all values of `bytes`, a whole number of blocks, to `out`; nothing for a type that is not decoded.
    pub(super) fn decode(&self, bytes: &[u8], out: &mut Vec<f32>) {
        let Some((_, size)) = self.block() else {
            return;
        };
        let blocks = bytes.chunks_exact(size);
        match self {
            Self::F32 => out.extend(blocks.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Self::F16 => out.extend(blocks.map(half_at_0)),
            Self::Bf16 => out.extend(blocks.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            Self::Q8_0 => blocks.for_each(|b| q8_0(b, out)),
            Self::Q4_0 => blocks.for_each(|b| q4_0(b, out)),
            Self::Q4_1 => blocks.for_each(|b| q4_1(b, out)),
            Self::Q5_0 => blocks.for_each(|b| q5_0(b, out)),
            Self::Q5_1 => blocks.for_each(|b| q5_1(b, out)),
            Self::Q4K => blocks.for_each(|b| q4_k(b, out)),
            Self::Q5K => blocks.for_each(|b| q5_k(b, out)),
            Self::Q6K => blocks.for_each(|b| q6_k(b, out)),
            Self::Other(_) => {}
        }
    }
}

/// The f16 at the start of `bytes`.
fn half_at_0(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// [d f16][32 × i8]: d·q.
fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at_0(block);
    out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * d));
}

/// The low nibbles of 16 bytes are values 0…15, the high nibbles 16…31.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let low = bytes.iter().map(|b| b & 0x0f);
    low.chain(bytes.iter().map(|b| b >> 4))
}

/// As [`nibbles`], with bit i of the little-endian word `high` as the fifth bit of value i.
fn nibbles_and_bit(high: &[u8], low: &[u8]) -> impl Iterator<Item = u8> {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    nibbles(low)
        .enumerate()
        .map(move |(i, q)| q | ((high >> i & 1) as u8) << 4)
}

/// [d f16][16 × two nibbles]: d·(q − 8).
fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at_0(block);
    out.extend(nibbles(&block[2..]).map(|q| d * (f32::from(q) - 8.0)));
}

/// [d f16][m f16][16 × two nibbles]: d·q + m.
fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half_at_0(block), half_at_0(&block[2..]));
    out.extend(nibbles(&block[4..]).map(|q| d * f32::from(q) + m));
}

/// [d f16][32 high bits][16 × two nibbles]: d·(q − 16).
fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at_0(block);
    let values = nibbles_and_bit(&block[2..6], &block[6..]);
    out.extend(values.map(|q| d * (f32::from(q) - 16.0)));
}

/// [d f16][m f16][32 high bits][16 × two nibbles]: d·q + m.
fn q5_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half_at_0(block), half_at_0(&block[2..]));
    let values = nibbles_and_bit(&block[4..8], &block[8..]);
    out.extend(values.map(|q| d * f32::from(q) + m));
}

/// Scale and minimum of sub-block `i` of 8, six bits each, packed into 12 bytes: bytes 0…3 hold
/// the low six bits of scales 0…3 and, on top, the high two of scales 4…7; bytes 4…7 likewise
/// for minima; bytes 8…11 the low nibbles of scales 4…7 (low half) and minima 4…7 (high half).
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (packed[i] & 0x3f, packed[4 + i] & 0x3f)
    } else {
        let low = packed[4 + i];
        (
            (low & 0x0f) | (packed[i - 4] >> 2 & 0x30),
            (low >> 4) | (packed[i] >> 2 & 0x30),
        )
    };
    (f32::from(scale), f32::from(min))
}

/// [d f16][dmin f16][12 bytes of scales and minima][128 × two nibbles]: eight sub-blocks of 32,
/// (d·scale)·q − dmin·min. Sub-blocks 2j and 2j + 1 are the low and the high nibbles of bytes
/// 32j…32j + 31.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, d_min) = (half_at_0(block), half_at_0(&block[2..]));
    let (packed, quants) = block[4..].split_at(12);
    for sub in 0..8 {
        let (scale, min) = scale_and_min(packed, sub);
        let (scale, min) = (d * scale, d_min * min);
        let bytes = &quants[sub / 2 * 32..][..32];
        let shift = sub % 2 * 4;
        out.extend(
            bytes
                .iter()
                .map(|b| scale * f32::from(b >> shift & 0x0f) - min),
        );
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the nibbles: bit s of byte i belongs to value i
/// of sub-block s.
fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, d_min) = (half_at_0(block), half_at_0(&block[2..]));
    let (packed, rest) = block[4..].split_at(12);
    let (high, quants) = rest.split_at(32);
    for sub in 0..8 {
        let (scale, min) = scale_and_min(packed, sub);
        let (scale, min) = (d * scale, d_min * min);
        let bytes = &quants[sub / 2 * 32..][..32];
        let shift = sub % 2 * 4;
        out.extend(bytes.iter().zip(high).map(|(b, h)| {
            let q = (b >> shift & 0x0f) | (h >> sub & 1) << 4;
            scale * f32::from(q) - min
        }));
    }
}

/// [128 × two nibbles][64 × four bit pairs][16 scales i8][d f16]: 16 sub-blocks of 16,
/// (d·scale)·(q − 32). The two halves of the block lie one after the other; in each half, rows of
/// 32 values take the low nibbles of bytes 0…31 and 32…63, then their high nibbles, and row r
/// takes bit pair r of the 32 bytes of high bits.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half_at_0(d);
    for row in 0..8 {
        let (part, within) = (row / 4, row % 4);
        let low = &low[part * 64 + within % 2 * 32..][..32];
        let high = &high[part * 32..][..32];
        for (i, (l, h)) in low.iter().zip(high).enumerate() {
            let q = (l >> (within / 2 * 4) & 0x0f) | (h >> (within * 2) & 0x03) << 4;
            let scale = d * f32::from(scales[row * 2 + i / 16] as i8);
            out.push(scale * (f32::from(q) - 32.0));
        }
    }
}
