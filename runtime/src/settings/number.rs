//! Numbers and booleans as Go's `strconv` reads them, with its error texts.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

/// Reads a signed number as `strconv.ParseInt(text, 0, 64)`: an optional sign, then decimal, `0x`, `0o`, `0b` or a
/// leading zero for octal, with single underscores between digits.
///
/// # Errors
///
/// Go's message for what is not a number or does not fit.
pub(crate) fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let number = magnitude(digits).map_err(|problem| numeric_error("ParseInt", text, problem))?;
    let signed = if negative { -number } else { number };
    signed.try_into().map_err(|_| {
        numeric_error("ParseInt", text, OUT_OF_RANGE) + &from_to(&i64::MIN.to_string(), &i64::MAX.to_string())
    })
}

/// Reads an unsigned number as `strconv.ParseUint(text, 0, bits)`: like [`parse_int`] without a sign, up to `max`.
///
/// # Errors
///
/// Go's message for what is not a number or does not fit; for a number that does not fit, and for a negative one, the range
/// follows.
pub(crate) fn parse_uint(text: &str, max: u64) -> Result<u64, String> {
    let range = || from_to("0", &max.to_string());
    let number = magnitude(text).map_err(|problem| {
        let is_negative = text.strip_prefix('-').is_some_and(|rest| magnitude(rest).is_ok());
        let range = if is_negative { range() } else { String::new() };
        numeric_error("ParseUint", text, problem) + &range
    })?;
    match u64::try_from(number) {
        Ok(number) if number <= max => Ok(number),
        _ => Err(numeric_error("ParseUint", text, OUT_OF_RANGE) + &range()),
    }
}

/// Reads a boolean as `strconv.ParseBool`.
///
/// # Errors
///
/// Go's message for any other spelling.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(numeric_error("ParseBool", text, INVALID_SYNTAX)),
    }
}

/// What a message adds to the words of Go for a value out of its range.
pub(crate) fn from_to(min: &str, max: &str) -> String {
    format!(" (it must be from {min} to {max})")
}

/// Text for a message: a long one is cut, and its length is told.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN_BYTES_MAX {
        return text.into();
    }
    let shown = &text[..text.floor_char_boundary(SHOWN_BYTES)];
    format!("{shown}... ({} bytes)", text.len()).into()
}

/// Text for a message without quotes, unless something in it cannot be printed.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        quote(text).into()
    } else {
        shorten(text)
    }
}

/// Puts text in quotes as `strconv.Quote`: what cannot be printed is escaped. A long one is cut.
pub(crate) fn quote(text: &str) -> String {
    let text = &*shorten(text);
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\'' => quoted.push('\''),
            c if c < ' ' || c == '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            // Rust escapes what is not printable, which is Go's rule too, combining marks and spaces apart.
            c if c.escape_debug().len() == 1 => quoted.push(c),
            c if u32::from(c) <= 0xffff => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// The number behind the sign. Anything above 64 bits comes back as some number above 64 bits.
fn magnitude(text: &str) -> Result<i128, &'static str> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits, prefixed) = match lower.as_bytes() {
        [b'0', b'x', rest @ ..] => (16, rest, true),
        [b'0', b'o', rest @ ..] => (8, rest, true),
        [b'0', b'b', rest @ ..] => (2, rest, true),
        [b'0', rest @ ..] if !rest.is_empty() => (8, rest, true),
        rest => (10, rest, false),
    };
    let mut number: i128 = 0;
    let mut seen_digit = false;
    // An underscore may follow the base or a digit, and a digit must follow it.
    let mut underscore_allowed = prefixed;
    let mut pending = false;
    for &byte in digits {
        if byte == b'_' {
            if !underscore_allowed {
                return Err(INVALID_SYNTAX);
            }
            (underscore_allowed, pending) = (false, true);
            continue;
        }
        let digit = char::from(byte).to_digit(radix).ok_or(INVALID_SYNTAX)?;
        number = (number * i128::from(radix) + i128::from(digit)).min(SATURATED);
        (seen_digit, underscore_allowed, pending) = (true, true, false);
    }
    if pending || !seen_digit {
        Err(INVALID_SYNTAX)
    } else {
        Ok(number)
    }
}

fn numeric_error(function: &str, text: &str, problem: &str) -> String {
    format!("strconv.{function}: parsing {}: {problem}", quote(text))
}

/// Texts up to this many bytes are shown as a whole.
const SHOWN_BYTES_MAX: usize = 200;
/// Of longer ones so many bytes are shown.
const SHOWN_BYTES: usize = 100;

const INVALID_SYNTAX: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";
/// Above every 64-bit number, and far enough below the end of `i128` to take one more digit.
const SATURATED: i128 = 1 << 100;
