//! Numbers as Python compares, divides, rounds and writes them.

use std::cmp::Ordering;

/// The order of an integer and a float, exact where a conversion would round.
pub(super) fn compare(x: i128, y: f64) -> Option<Ordering> {
    if y.is_nan() {
        return None;
    }
    if y.abs() >= 1.7e38 {
        return Some(if y > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        });
    }
    let whole = y.trunc();
    match x.cmp(&(whole as i128)) {
        Ordering::Equal => 0.0.partial_cmp(&(y - whole)),
        order => Some(order),
    }
}

/// Python's `divmod` on floats; `y` is not 0.
pub(super) fn divmod(x: f64, y: f64) -> (f64, f64) {
    let mut rest = x % y;
    let mut quotient = (x - rest) / y;
    if rest != 0.0 {
        if (y < 0.0) != (rest < 0.0) {
            rest += y;
            quotient -= 1.0;
        }
    } else {
        rest = 0.0_f64.copysign(y);
    }
    let floor = if quotient != 0.0 {
        let floor = quotient.floor();
        if quotient - floor > 0.5 {
            floor + 1.0
        } else {
            floor
        }
    } else {
        0.0_f64.copysign(x / y)
    };
    (floor, rest)
}

/// `repr(x)`: the shortest digits that read back as `x`.
pub(super) fn repr(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let (negative, digits, exponent) = shortest(x);
    let sign = if negative { "-" } else { "" };
    if (-4..16).contains(&exponent) {
        let text = place_point(&digits, exponent);
        return if text.contains('.') {
            format!("{sign}{text}")
        } else {
            format!("{sign}{text}.0")
        };
    }
    format!("{sign}{}", scientific(&digits, exponent, 'e'))
}

/// Sign, digits without trailing zeros and decimal exponent of the first digit.
fn shortest(x: f64) -> (bool, String, i32) {
    split(&format!("{x:e}"))
}

/// Takes `-1.25e-7` apart.
fn split(text: &str) -> (bool, String, i32) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let negative = mantissa.starts_with('-');
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    (negative, digits, exponent.parse().unwrap_or(0))
}

/// Digits with a point where the exponent puts it; no point when nothing follows it.
fn place_point(digits: &str, exponent: i32) -> String {
    if exponent < 0 {
        return format!("0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        format!("{digits}{}", "0".repeat(whole - digits.len()))
    } else {
        format!("{}.{}", &digits[..whole], &digits[whole..])
    }
}

fn scientific(digits: &str, exponent: i32, e: char) -> String {
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{first}{point}{rest}{e}{sign}{:02}", exponent.abs())
}

/// Digits beyond which a float has zeros alone.
const EXACT: usize = 1100;

/// `x` with so many digits after the point, without sign of its own handling: `-1.50`.
pub(super) fn fixed(x: f64, precision: usize) -> String {
    let mut text = format!("{x:.*}", precision.min(EXACT));
    if precision > EXACT {
        text.push_str(&"0".repeat(precision - EXACT));
    }
    text
}

/// `x` as `1.50e+00`.
pub(super) fn exponential(x: f64, precision: usize) -> String {
    let (negative, mut digits, exponent) = split(&format!("{x:.*e}", precision.min(EXACT)));
    if precision > EXACT {
        digits.push_str(&"0".repeat(precision - EXACT));
    }
    format!(
        "{}{}",
        if negative { "-" } else { "" },
        scientific(&digits, exponent, 'e')
    )
}

/// `x` by `%g`: significant digits, trailing zeros dropped unless `keep_zeros`.
pub(super) fn general(x: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let (negative, mut digits, exponent) = split(&format!("{x:.*e}", (precision - 1).min(EXACT)));
    if keep_zeros {
        digits.push_str(&"0".repeat(precision.saturating_sub(digits.len())));
    } else {
        digits.truncate(digits.trim_end_matches('0').len().max(1));
    }
    let text = if exponent < -4 || exponent >= precision.min(i32::MAX as usize) as i32 {
        scientific(&digits, exponent, 'e')
    } else {
        place_point(&digits, exponent)
    };
    format!("{}{text}", if negative { "-" } else { "" })
}

/// Python's `round(x, digits)`: half to even on the exact value.
pub(super) fn round(x: f64, digits: i128) -> f64 {
    if !x.is_finite() || digits > 330 {
        return x;
    }
    if digits >= 0 {
        return format!("{x:.*}", digits as usize).parse().unwrap_or(x);
    }
    if digits < -330 {
        return 0.0_f64.copysign(x);
    }
    round_tens(&format!("{:.1100}", x.abs()), (-digits) as usize).copysign(x)
}

/// Rounds exact decimal digits to a multiple of `10^places`.
fn round_tens(text: &str, places: usize) -> f64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = format!("{}{whole}", "0".repeat(places + 1));
    let (kept, dropped) = whole.split_at(whole.len() - places);
    let first = dropped.as_bytes()[0];
    let rest = dropped[1..]
        .bytes()
        .chain(fraction.bytes())
        .any(|byte| byte != b'0');
    let odd = kept.bytes().last().is_some_and(|byte| byte % 2 == 1);
    let up = first > b'5' || first == b'5' && (rest || odd);
    let kept: f64 = format!("{kept}e{places}").parse().unwrap_or(0.0);
    let one: f64 = format!("1e{places}").parse().unwrap_or(0.0);
    if up { kept + one } else { kept }
}

/// Python's `round(x, digits)` on an integer: to a multiple of ten for negative digits.
pub(super) fn round_integer(x: i128, digits: i128) -> Option<i128> {
    if digits >= 0 {
        return Some(x);
    }
    let Some(unit) = u32::try_from(-digits)
        .ok()
        .and_then(|n| 10_i128.checked_pow(n))
    else {
        return Some(0);
    };
    let (quotient, rest) = (x.div_euclid(unit), x.rem_euclid(unit));
    let up = rest > unit / 2 || rest == unit / 2 && quotient % 2 != 0;
    (quotient + i128::from(up)).checked_mul(unit)
}
