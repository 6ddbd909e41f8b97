//! bfloat16: the upper half of an f32, eight bits of significand.

/// Rounds to nearest, ties to even; overflow becomes infinity, NaN stays NaN.
#[inline(always)]
pub(crate) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40; // a set bit that the cut cannot lose
    }
    let half = 0x7fff + (bits >> 16 & 1);
    ((bits + half) >> 16) as u16
}

/// The f32 of the same value.
#[inline(always)]
pub(crate) fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_by_hand() {
        // Between 1 and 1 + 2⁻⁷ lies the tie 1 + 2⁻⁸: to even is down; one step further, 1 + 3·2⁻⁸, up.
        let step = |n: f32| 1.0 + n / 256.0;
        let cases = [
            (step(1.0), 1.0),
            (step(1.001), step(2.0)),
            (step(3.0), step(4.0)),
            (-step(3.0), -step(4.0)),
            (0.0, 0.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ];
        for (x, expected) in cases {
            assert_eq!(widen(round(x)), expected, "{x}");
        }
        assert!(widen(round(f32::NAN)).is_nan());
        assert!(widen(round(f32::from_bits(0x7f80_0001))).is_nan());
        assert_eq!(round(-0.0), 0x8000);
    }

    #[test]
    fn every_bf16_survives() {
        for bits in 0..=u16::MAX {
            let x = widen(bits);
            assert!(x.is_nan() || round(x) == bits, "{bits:x}");
        }
    }
}
