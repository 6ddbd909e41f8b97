//! `strftime_now`: the local time as Python's `datetime.now().strftime`.

use super::{Fail, Result};

/// The time of now in a `strftime` format.
pub(super) fn now(format: &str) -> Result<String> {
    // A width of many digits would be padded to it.
    let wide = format
        .split('%')
        .skip(1)
        .any(|part| part.bytes().take_while(u8::is_ascii_digit).count() > 2);
    if wide {
        return Err(Fail::new("strftime_now: a width of more than two digits"));
    }
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| Fail::new(format!("strftime_now: {error}")))
}
