//! From the source of a template to tokens, as Jinja2's lexer under `trim_blocks` and `lstrip_blocks`.
//!
//! Source: `jinja2/lexer.py`, version 3.1.6.

use std::sync::Arc;

use super::{Fail, Result};

/// A token of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Data(Arc<str>),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(Arc<str>),
    Str(Arc<str>),
    Int(i128),
    Float(f64),
    Op(&'static str),
    End,
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    line_starting: bool,
    tokens: Vec<(Token, u32)>,
}

/// The tokens of a template with their lines, ending with [`Token::End`].
pub(super) fn tokenize(source: &str) -> Result<Vec<(Token, u32)>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer {
        source: &source,
        at: 0,
        line: 1,
        line_starting: true,
        tokens: Vec::new(),
    };
    lexer.root()?;
    let line = lexer.line;
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

/// Python's `str.isspace` for one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Fail::at(self.line, message))
    }

    fn advance(&mut self, length: usize) {
        let passed = &self.source[self.at..self.at + length];
        self.line += passed.bytes().filter(|&byte| byte == b'\n').count() as u32;
        self.at += length;
        if length > 0 {
            self.line_starting = passed.ends_with('\n');
        }
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        let length = rest.len() - rest.trim_start_matches(is_space).len();
        self.advance(length);
    }

    fn root(&mut self) -> Result<()> {
        while self.at < self.source.len() {
            let rest = self.rest();
            let mut found = None;
            let mut from = 0;
            while let Some(brace) = rest[from..].find('{') {
                let at = from + brace;
                match rest.as_bytes().get(at + 1) {
                    Some(b'{' | b'%' | b'#') => {
                        found = Some(at);
                        break;
                    }
                    _ => from = at + 1,
                }
            }
            let Some(at) = found else {
                let data: Arc<str> = rest.into();
                self.push(Token::Data(data));
                self.advance(self.rest().len());
                break;
            };
            let kind = rest.as_bytes()[at + 1];
            if kind == b'%'
                && let Some((sign, length)) = raw_begin(&rest[at..])
            {
                self.data(at, sign, false);
                self.advance(length);
                self.raw()?;
                continue;
            }
            let sign = sign_of(&rest[at + 2..]);
            self.data(at, sign, kind == b'{');
            self.advance(2 + usize::from(sign.is_some()));
            match kind {
                b'{' => {
                    self.push(Token::VariableBegin);
                    self.inside(true)?;
                }
                b'%' => {
                    self.push(Token::BlockBegin);
                    self.inside(false)?;
                }
                _ => self.comment()?,
            }
        }
        Ok(())
    }

    /// Text before a tag, less what the tag's sign or `lstrip_blocks` takes away.
    fn data(&mut self, length: usize, sign: Option<u8>, variable: bool) {
        let text = &self.source[self.at..self.at + length];
        let kept = match sign {
            Some(b'-') => text.trim_end_matches(is_space),
            Some(_) => text,
            None if variable => text,
            None => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let blank = line < text.len() && text[line..].chars().all(is_space);
                if blank && (line > 0 || self.line_starting) {
                    &text[..line]
                } else {
                    text
                }
            }
        };
        if !kept.is_empty() {
            let kept: Arc<str> = kept.into();
            self.push(Token::Data(kept));
        }
        self.advance(length);
    }

    fn comment(&mut self) -> Result<()> {
        let rest = self.rest();
        let Some(close) = rest.find("#}") else {
            return self.fail("missing end of comment tag");
        };
        let sign = match close.checked_sub(1).map(|before| rest.as_bytes()[before]) {
            Some(sign @ (b'-' | b'+')) => Some(sign),
            _ => None,
        };
        self.advance(close + 2);
        self.after_close(sign);
        Ok(())
    }

    /// What the end of a block takes with it: white space after `-`, else one line feed unless `+`.
    fn after_close(&mut self, sign: Option<u8>) {
        match sign {
            Some(b'-') => self.skip_space(),
            Some(_) => {}
            None if self.rest().starts_with('\n') => self.advance(1),
            None => {}
        }
    }

    fn raw(&mut self) -> Result<()> {
        let mut from = 0;
        while let Some(open) = self.rest()[from..].find("{%") {
            let at = from + open;
            let rest = self.rest();
            if let Some((sign, close, length)) = raw_end(&rest[at..]) {
                self.data(at, sign, false);
                self.advance(length);
                self.after_close(close);
                return Ok(());
            }
            from = at + 2;
        }
        self.fail("missing end of raw directive")
    }

    /// The tokens of a tag up to its end.
    fn inside(&mut self, variable: bool) -> Result<()> {
        let mut open: Vec<&'static str> = Vec::new();
        let begun = self.line;
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                let what = if variable { "}}" } else { "%}" };
                return Err(Fail::at(
                    begun,
                    format!("unexpected end of template, expected '{what}'"),
                ));
            }
            if open.is_empty() && self.close(variable) {
                return Ok(());
            }
            let rest = self.rest();
            let c = rest.chars().next().unwrap_or('\0');
            if is_space(c) {
                self.skip_space();
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphanumeric() {
                let length = rest
                    .find(|c: char| c != '_' && !c.is_alphanumeric())
                    .unwrap_or(rest.len());
                if c.is_numeric() {
                    return self.fail("invalid character in identifier");
                }
                let name: Arc<str> = rest[..length].into();
                self.push(Token::Name(name));
                self.advance(length);
            } else if c == '"' || c == '\'' {
                self.string(c)?;
            } else if let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) {
                match op {
                    "{" => open.push("}"),
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "}" | ")" | "]" => match open.pop() {
                        None => return self.fail(format!("unexpected '{op}'")),
                        Some(expected) if expected != op => {
                            return self.fail(format!("unexpected '{op}', expected '{expected}'"));
                        }
                        Some(_) => {}
                    },
                    _ => {}
                }
                self.push(Token::Op(op));
                self.advance(op.len());
            } else {
                return self.fail(format!("unexpected character {c:?}"));
            }
        }
    }

    /// Takes the end of the tag when it stands here.
    fn close(&mut self, variable: bool) -> bool {
        let rest = self.rest();
        let end = if variable { "}}" } else { "%}" };
        let (sign, length) = match rest.as_bytes()[0] {
            sign @ b'-' if rest[1..].starts_with(end) => (Some(sign), 3),
            sign @ b'+' if !variable && rest[1..].starts_with(end) => (Some(sign), 3),
            _ if rest.starts_with(end) => (None, 2),
            _ => return false,
        };
        self.push(if variable {
            Token::VariableEnd
        } else {
            Token::BlockEnd
        });
        self.advance(length);
        if variable {
            if sign.is_some() {
                self.skip_space();
            }
        } else {
            self.after_close(sign);
        }
        true
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let after_dot = self.at > 0 && self.source.as_bytes()[self.at - 1] == b'.';
        if !after_dot && let Some(length) = float_length(bytes) {
            let text = rest[..length].replace('_', "");
            let Ok(value) = text.parse() else {
                return self.fail(format!("bad number '{text}'"));
            };
            self.push(Token::Float(value));
            self.advance(length);
            return Ok(());
        }
        let radix = match bytes.get(1).map(u8::to_ascii_lowercase) {
            Some(b'x') if bytes[0] == b'0' => 16,
            Some(b'o') if bytes[0] == b'0' => 8,
            Some(b'b') if bytes[0] == b'0' => 2,
            _ => 10,
        };
        let (skip, length) = if radix == 10 {
            (0, digits_length(bytes, |byte| byte.is_ascii_digit()))
        } else {
            let digit = |byte: u8| char::from(byte).is_digit(radix);
            let start = 2 + usize::from(bytes.get(2) == Some(&b'_'));
            match digits_length(bytes.get(start..).unwrap_or_default(), digit) {
                0 => (0, 1),
                more => (2, start + more),
            }
        };
        // `0` is followed by zeros alone.
        let length = if radix == 10 && bytes[0] == b'0' {
            digits_length(&bytes[..length], |byte| byte == b'0')
        } else {
            length
        };
        let text = rest[skip..length].replace('_', "");
        let radix = if skip == 0 { 10 } else { radix };
        let Ok(value) = i128::from_str_radix(&text, radix) else {
            return self.fail("an integer of more than 128 bits");
        };
        self.push(Token::Int(value));
        self.advance(length);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = self.rest();
        let mut escaped = false;
        let close = rest[1..].char_indices().find(|&(_, c)| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some((close, _)) = close else {
            return self.fail(format!("unexpected character {quote:?}"));
        };
        let text = match unescape(&rest[1..=close]) {
            Ok(text) => text,
            Err(reason) => return self.fail(reason),
        };
        self.push(Token::Str(text.into()));
        self.advance(close + 2);
        Ok(())
    }
}

fn sign_of(text: &str) -> Option<u8> {
    text.bytes()
        .next()
        .filter(|byte| matches!(byte, b'-' | b'+'))
}

/// `{% raw %}` here: its sign and length, with white space after `-%}`.
fn raw_begin(text: &str) -> Option<(Option<u8>, usize)> {
    let sign = sign_of(&text[2..]);
    let rest = text[2 + usize::from(sign.is_some())..].trim_start_matches(is_space);
    let rest = rest.strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = match rest.strip_prefix("-%}") {
        Some(rest) => rest.trim_start_matches(is_space),
        None => rest.strip_prefix("%}")?,
    };
    Some((sign, text.len() - rest.len()))
}

/// `{% endraw %}` here: the signs before and after, and its length up to `%}`.
fn raw_end(text: &str) -> Option<(Option<u8>, Option<u8>, usize)> {
    let sign = sign_of(&text[2..]);
    let rest = text[2 + usize::from(sign.is_some())..].trim_start_matches(is_space);
    let rest = rest.strip_prefix("endraw")?.trim_start_matches(is_space);
    let close = sign_of(rest);
    let rest = rest[usize::from(close.is_some())..].strip_prefix("%}")?;
    Some((sign, close, text.len() - rest.len()))
}

/// Digits with single underscores between them.
fn digits_length(bytes: &[u8], digit: impl Fn(u8) -> bool) -> usize {
    let mut length = 0;
    while length < bytes.len() {
        if digit(bytes[length]) {
            length += 1;
        } else if length > 0
            && bytes[length] == b'_'
            && bytes.get(length + 1).is_some_and(|&next| digit(next))
        {
            length += 2;
        } else {
            break;
        }
    }
    length
}

/// The length of a float: digits with a fraction, an exponent or both.
fn float_length(bytes: &[u8]) -> Option<usize> {
    let digit = |byte: u8| byte.is_ascii_digit();
    let mut length = digits_length(bytes, digit);
    let mut float = false;
    if bytes.get(length) == Some(&b'.') {
        let fraction = digits_length(&bytes[length + 1..], digit);
        if fraction > 0 {
            length += 1 + fraction;
            float = true;
        }
    }
    if matches!(bytes.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits_length(bytes.get(length + 1 + sign..).unwrap_or_default(), digit);
        if exponent > 0 {
            length += 1 + sign + exponent;
            float = true;
        }
    }
    float.then_some(length)
}

/// A string literal's text: Python's `unicode-escape`.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let Some(c) = after.chars().next() else {
            return Err("\\ at end of string".to_owned());
        };
        rest = &after[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'v' => out.push('\x0b'),
            '0'..='7' => {
                let length = after
                    .bytes()
                    .take(3)
                    .take_while(|byte| (b'0'..=b'7').contains(byte))
                    .count();
                let code = u32::from_str_radix(&after[..length], 8).unwrap_or(0);
                out.push(char::from_u32(code).unwrap_or('\0'));
                rest = &after[length..];
            }
            'x' | 'u' | 'U' => {
                let length = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits = rest.get(..length).unwrap_or_default();
                let code = (digits.len() == length
                    && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .then(|| u32::from_str_radix(digits, 16).ok())
                .flatten();
                let Some(c) = code.and_then(char::from_u32) else {
                    return Err(format!("a \\{c} escape that names no character"));
                };
                out.push(c);
                rest = &rest[length..];
            }
            'N' => return Err("\\N{...} escapes are not supported".to_owned()),
            other if other.is_ascii() => {
                out.push('\\');
                out.push(other);
            }
            // Jinja2 escapes the character first, so that the two backslashes meet.
            other => {
                let code = other as u32;
                out.push_str(&match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}
