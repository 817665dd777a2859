//! Durations as Go writes them: `1h15m30.918s`.

use crate::settings::{from_to, quote as quote_text, shorten};

#[cfg(test)]
mod tests;

/// Reads a duration as Go's `time.ParseDuration`, in nanoseconds: a sign, then numbers with an optional fraction and a
/// unit each (`ns`, `us`, `µs`, `ms`, `s`, `m`, `h`). `0` needs no unit.
///
/// # Errors
///
/// Go's message for everything else, and for what does not fit into 64 bits (about 292 years).
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let out_of_range = || invalid() + &from_to(&format(i64::MIN), &format(i64::MAX));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = take(&mut rest, |byte| byte.is_ascii_digit());
        let fraction = match rest.strip_prefix('.') {
            Some(behind) => {
                rest = behind;
                take(&mut rest, |byte| byte.is_ascii_digit())
            }
            None => "",
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit = take(&mut rest, |byte| byte != b'.' && !byte.is_ascii_digit());
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let unit_ns = UNITS
            .iter()
            .find_map(|&(name, ns)| (name == unit).then_some(ns))
            .ok_or_else(|| format!("time: unknown unit {} in duration {}", quote(unit), quote(text)))?;
        // More than 19 digits never fit, leading zeros apart.
        let whole: i128 = match whole.trim_start_matches('0') {
            "" => 0,
            digits if digits.len() > 19 => return Err(out_of_range()),
            digits => digits.parse().map_err(|_| out_of_range())?,
        };
        total += whole * unit_ns + fraction_ns(fraction, unit_ns);
        if total > LIMIT_NS {
            return Err(out_of_range());
        }
    }
    let signed = if negative { -total } else { total };
    signed.try_into().map_err(|_| out_of_range())
}

/// Writes a duration as Go's `Duration.String`: `2h0m0s`, `1.5s`, `100ms`, `0s`.
pub(super) fn format(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{ns}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(ns, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(ns, 1_000_000)),
        _ => {
            let minutes = ns / MINUTE_NS;
            let seconds = decimal(ns % MINUTE_NS, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `ns / unit_ns` with as many decimals as it takes.
fn decimal(ns: u64, unit_ns: u64) -> String {
    let (whole, fraction) = (ns / unit_ns, ns % unit_ns);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit_ns.ilog10() as usize;
    format!("{whole}.{}", format!("{fraction:0width$}").trim_end_matches('0'))
}

/// The part behind the point, in nanoseconds. Digits beyond the 18th are below a nanosecond for every unit.
fn fraction_ns(digits: &str, unit_ns: i128) -> i128 {
    let (value, scale) = digits.bytes().take(18).fold((0, 1), |(value, scale), byte| {
        (value * 10 + i128::from(byte - b'0'), scale * 10)
    });
    value * unit_ns / scale
}

/// Takes the longest run of accepted bytes off the front. The predicate must not accept part of a character.
fn take<'a>(rest: &mut &'a str, accept: impl Fn(u8) -> bool) -> &'a str {
    let end = rest.bytes().position(|byte| !accept(byte)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

/// Go's `time` package quotes byte by byte: all that is not ASCII becomes `\x..`.
fn quote(text: &str) -> String {
    if text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_control()) {
        return quote_text(text);
    }
    let mut quoted = String::from("\"");
    for byte in shorten(text).bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..0x80 => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

const MINUTE_NS: u64 = 60_000_000_000;
/// Go keeps a sum of up to 2^63, which a minus sign still brings into range.
const LIMIT_NS: i128 = 1 << 63;
const UNITS: [(&str, i128); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("ms", 1_000_000),
    ("ns", 1),
    ("s", 1_000_000_000),
    ("us", 1_000),
    // U+00B5 (micro sign) and U+03BC (Greek letter): keyboards have either.
    ("µs", 1_000),
    ("μs", 1_000),
];
