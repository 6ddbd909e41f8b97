//! Classes and case of characters, as Python's `str` methods use them.

use unicode_general_category::{GeneralCategory as Category, get_general_category as category};

use super::lexer::is_space;

/// Python's `str.isprintable` for one character.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    !matches!(
        category(c),
        Category::Control
            | Category::Format
            | Category::Surrogate
            | Category::PrivateUse
            | Category::Unassigned
            | Category::LineSeparator
            | Category::ParagraphSeparator
            | Category::SpaceSeparator
    )
}

/// `str.isalpha` for one character: the categories of letters.
fn is_alpha(c: char) -> bool {
    matches!(
        category(c),
        Category::UppercaseLetter
            | Category::LowercaseLetter
            | Category::TitlecaseLetter
            | Category::ModifierLetter
            | Category::OtherLetter
    )
}

fn is_decimal(c: char) -> bool {
    category(c) == Category::DecimalNumber
}

/// Superscripts, circled digits and their like count as digits without being decimal.
fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{1369}'..='\u{1371}' | '\u{19da}'
            | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}'
            | '\u{2474}'..='\u{247c}' | '\u{2488}'..='\u{2490}' | '\u{24ea}' | '\u{24f5}'..='\u{24fd}'
            | '\u{24ff}' | '\u{2776}'..='\u{277e}' | '\u{2780}'..='\u{2788}' | '\u{278a}'..='\u{2792}'
            | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}'
            | '\u{1f100}'..='\u{1f10a}')
}

fn is_numeric(c: char) -> bool {
    // Ideographs that name numbers are letters to Unicode's categories and numbers to Python.
    const IDEOGRAPHS: &str =
        "〇一二三四五六七八九十百千万億兆京廿卅卌零壹贰貳叁參肆伍陆陸柒捌玖拾佰仟萬亿両两";
    is_digit(c)
        || matches!(category(c), Category::LetterNumber | Category::OtherNumber)
        || IDEOGRAPHS.contains(c)
}

fn is_title_case(c: char) -> bool {
    category(c) == Category::TitlecaseLetter
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title_case(c)
}

/// `str.islower`.
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase)
        && !text.chars().any(|c| c.is_uppercase() || is_title_case(c))
}

/// `str.isupper`.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase)
        && !text.chars().any(|c| c.is_lowercase() || is_title_case(c))
}

/// `str.istitle`.
fn is_title(text: &str) -> bool {
    let (mut after_cased, mut any) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() || is_title_case(c) {
            if after_cased {
                return false;
            }
            (after_cased, any) = (true, true);
        } else if c.is_lowercase() {
            if !after_cased {
                return false;
            }
            any = true;
        } else {
            after_cased = false;
        }
    }
    any
}

/// The methods `isalpha`, `isdigit` and their family; `None` for another name.
pub(super) fn is_class(name: &str, text: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    Some(match name {
        "isalpha" => all(is_alpha),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isalnum" => all(|c| is_alpha(c) || is_numeric(c)),
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(is_printable),
        "isascii" => text.is_ascii(),
        "islower" => is_lower(text),
        "isupper" => is_upper(text),
        "istitle" => is_title(text),
        "isidentifier" => {
            let mut chars = text.chars();
            let starts = |c: char| c == '_' || is_alpha(c) || category(c) == Category::LetterNumber;
            chars.next().is_some_and(starts)
                && chars.all(|c| {
                    starts(c)
                        || matches!(
                            category(c),
                            Category::NonspacingMark
                                | Category::SpacingMark
                                | Category::DecimalNumber
                                | Category::ConnectorPunctuation
                        )
                })
        }
        _ => return None,
    })
}

/// Appends the title case of a character: its upper case, except for characters that have a form of their own.
fn push_title(c: char, out: &mut String) {
    match c {
        'Ǆ'..='ǆ' => out.push('ǅ'),
        'Ǉ'..='ǉ' => out.push('ǈ'),
        'Ǌ'..='ǌ' => out.push('ǋ'),
        'Ǳ'..='ǳ' => out.push('ǲ'),
        'ა'..='ჺ' | 'ჽ'..='ჿ' => out.push(c),
        '\u{149}' => out.push_str("\u{2bc}N"),
        '\u{1f80}'..='\u{1faf}' => {
            out.extend(char::from_u32(c as u32 | 8));
        }
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => {
            out.extend(char::from_u32(c as u32 + 9));
        }
        _ => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            for c in upper {
                // A combining mark stays; the second letter of a ligature is small.
                out.extend(c.to_lowercase());
            }
        }
    }
}

/// `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    if let Some(first) = chars.next() {
        push_title(first, &mut out);
        push_lower(text, first.len_utf8(), &mut out);
    }
    out
}

/// Appends the lower case of what follows a place in a text: a final sigma depends on what stands before it.
fn push_lower(text: &str, from: usize, out: &mut String) {
    if !text.contains('Σ') {
        out.push_str(&text[from..].to_lowercase());
        return;
    }
    let lower = text.to_lowercase();
    let before: usize = text[..from].to_lowercase().len();
    out.push_str(lower.get(before..).unwrap_or_default());
}

/// `str.title`.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_cased = false;
    for (at, c) in text.char_indices() {
        if after_cased && c == 'Σ' {
            let ends = !text[at + c.len_utf8()..]
                .chars()
                .next()
                .is_some_and(is_cased);
            out.push(if ends { 'ς' } else { 'σ' });
        } else if after_cased {
            out.extend(c.to_lowercase());
        } else {
            push_title(c, &mut out);
        }
        after_cased = is_cased(c);
    }
    out
}

/// `str.swapcase`.
pub(super) fn swapcase(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else if c.is_lowercase() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// `str.casefold`: the lower case of the upper case, but for the few characters that fold otherwise.
pub(super) fn casefold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{131}' => out.push(c),
            '\u{130}' => out.push_str("i\u{307}"),
            'Ꭰ'..='Ᏽ' => out.push(c),
            '\u{13f8}'..='\u{13fd}' => out.extend(char::from_u32(c as u32 - 8)),
            '\u{ab70}'..='\u{abbf}' => out.extend(char::from_u32(c as u32 - 0xab70 + 0x13a0)),
            'ẞ' => out.push_str("ss"),
            _ => out.extend(c.to_uppercase().flat_map(char::to_lowercase)),
        }
    }
    out
}

/// Python's `int(text, base)` and `float(text)` take decimal digits of every script; these are turned to ASCII.
pub(super) fn ascii_digits(text: &str) -> String {
    text.trim_matches(is_space)
        .chars()
        .map(|c| {
            if c.is_ascii() || !is_decimal(c) {
                return c;
            }
            // Decimal digits stand in runs of ten.
            let value = (0..10).rev().find(|&back| {
                char::from_u32(c as u32 - back).is_some_and(is_decimal)
                    && (0..=back).all(|at| char::from_u32(c as u32 - at).is_some_and(is_decimal))
            });
            value
                .and_then(|value| char::from_digit(value % 10, 10))
                .unwrap_or(c)
        })
        .collect()
}
