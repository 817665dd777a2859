//! `grpc-timeout`: what is parsed, what is formatted, and both together.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use etcd_proxy_core::grpc::{format_timeout, parse_timeout};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input {
    Header(Vec<u8>),
    Digits { number: u32, unit: u8 },
    Timeout { seconds: u64, nanos: u32 },
}

fuzz_target!(|input: Input| match input {
    Input::Header(value) => parses(&value),
    Input::Digits { number, unit } => {
        let unit = char::from(b"HMSmun"[usize::from(unit) % 6]);
        parses(format!("{number}{unit}").as_bytes());
        parses(format!("{number:08}{unit}").as_bytes());
    }
    Input::Timeout { seconds, nanos } => formats(Duration::new(seconds, nanos % 1_000_000_000)),
});

fn parses(value: &[u8]) {
    let parsed = parse_timeout(value);
    assert_eq!(parsed.map(|timeout| timeout.as_nanos()), reference(value));
    if let Some(timeout) = parsed {
        formats(timeout);
    }
}

/// Nanoseconds, read as the specification is written.
fn reference(value: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(value).ok()?;
    let unit = match text.chars().last()? {
        'H' => 3_600_000_000_000,
        'M' => 60_000_000_000,
        'S' => 1_000_000_000,
        'm' => 1_000_000,
        'u' => 1_000,
        'n' => 1,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    let valid = (1..=8).contains(&digits.len()) && digits.chars().all(|digit| digit.is_ascii_digit());
    Some(digits.parse::<u128>().ok().filter(|_| valid)? * unit)
}

fn formats(timeout: Duration) {
    let text = format_timeout(timeout);
    let back = parse_timeout(text.as_bytes()).expect("what was formatted can be parsed");
    assert!(back > Duration::ZERO);
    assert!(
        back <= timeout.max(Duration::from_nanos(1)),
        "{text} is later than {timeout:?}"
    );
    // Eight digits hold all but one part in a hundred thousand, up to the longest that can be said.
    let longest = Duration::from_secs(99_999_999 * 3600);
    let lost = timeout.min(longest).saturating_sub(back);
    assert!(
        lost.as_nanos() * 100_000 <= timeout.as_nanos(),
        "{text} is too far below {timeout:?}"
    );
}
