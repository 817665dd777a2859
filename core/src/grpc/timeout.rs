//! The `grpc-timeout` header.

use alloc::string::String;
use core::fmt::Write as _;
use core::time::Duration;

/// At most this many digits may stand before the unit (gRPC over HTTP/2, `TimeoutValue`).
const DIGITS_MAX: usize = 8;

/// How long after a call's deadline a proxy ends it itself. A member ends it at its deadline, in its own words;
/// this is for one that doesn't.
pub const DEADLINE_GRACE: Duration = Duration::from_millis(100);

/// Whether so much of the client's timeout has passed that the member must be told what is `left` of it.
#[must_use]
pub fn has_shrunk(timeout: Duration, left: Duration) -> bool {
    left + DEADLINE_GRACE / 10 < timeout
}

/// Parses `grpc-timeout`: one to eight digits and a unit (`H M S m u n`).
///
/// `None` for anything else: such a header is forwarded as it is, for the server to judge.
#[must_use]
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    let mut number = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Formats a timeout in the finest unit that fits eight digits, rounded down but never to zero, so
/// that a forwarded deadline is never later than the client's and never reads as "already over".
#[must_use]
pub fn format_timeout(timeout: Duration) -> String {
    const LIMIT: u128 = 10u128.pow(DIGITS_MAX as u32);
    let nanos = timeout.as_nanos().max(1);
    let units: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let (number, unit) = units
        .iter()
        .map(|(nanos_per_unit, unit)| (nanos / nanos_per_unit, *unit))
        .find(|(number, _)| *number < LIMIT)
        .unwrap_or((LIMIT - 1, 'H'));
    let mut text = String::with_capacity(DIGITS_MAX + 1);
    let _ = write!(text, "{number}{unit}");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_what_the_specification_allows() {
        assert_eq!(parse_timeout(b"5S"), Some(Duration::from_secs(5)));
        assert_eq!(
            parse_timeout(b"99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(parse_timeout(b"100m"), Some(Duration::from_millis(100)));
        for bad in [
            &b""[..],
            b"S",
            b"5",
            b"5s",
            b"-5S",
            b"123456789S",
            b"5 S",
            b"\xff",
        ] {
            assert_eq!(parse_timeout(bad), None);
        }
    }

    proptest! {
        #[test]
        fn formatting_never_lengthens(nanos in 1u64..) {
            let timeout = Duration::from_nanos(nanos);
            let back = parse_timeout(format_timeout(timeout).as_bytes()).unwrap();
            prop_assert!(back <= timeout && back > Duration::ZERO);
            prop_assert!((timeout - back).as_nanos() * 100_000 <= timeout.as_nanos());
        }
    }
}
