use super::*;

#[test]
fn durations() {
    const S: i64 = 1_000_000_000;
    for (text, ns) in [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("0s", 0),
        ("1m30s", 90 * S),
        ("1.5h", 5400 * S),
        ("100ms", S / 10),
        ("-1s", -S),
        ("+1s", S),
        (".5s", S / 2),
        ("1.s", S),
        ("1h1h", 7200 * S),
        ("3us", 3000),
        ("3µs", 3000),
        ("3μs", 3000),
        ("0.9223372036854775807s", 922_337_203),
        ("0.100000000000000000000h", 360 * S),
        ("00000000000000000000000000001s", S),
        ("9223372036854775807ns", i64::MAX),
        ("-9223372036854775808ns", i64::MIN),
        ("2562047h47m16.854775807s", i64::MAX),
    ] {
        assert_eq!(parse(text), Ok(ns), "{text}");
    }
}

/// Next to what `etcd grpc-proxy start --dial-keepalive-time` 3.5.30 prints.
#[test]
fn no_durations() {
    for text in ["", "-", "+", ".s", "--1s", "+-1s", "x", " 1s"] {
        assert_eq!(
            parse(text),
            Err(format!("time: invalid duration \"{text}\"")),
            "{text}"
        );
    }
    for text in [
        "9223372036854775808ns",
        "-9223372036854775809ns",
        "2562047h47m16.854775808s",
        "99999999999999999999s",
        "9999999h",
    ] {
        assert_eq!(
            parse(text),
            Err(format!(
                "time: invalid duration \"{text}\" \
                 (it must be from -2562047h47m16.854775808s to 2562047h47m16.854775807s)"
            )),
            "{text}"
        );
    }
    for text in ["5", "1s2", "1.", "+5", "1..5s", "3.3.3s"] {
        assert_eq!(
            parse(text),
            Err(format!("time: missing unit in duration \"{text}\"")),
            "{text}"
        );
    }
    for (text, unit) in [
        ("5x", "x"),
        ("1S", "S"),
        ("1d", "d"),
        ("1s ", "s "),
        ("1e3s", "e"),
        ("1hh", "hh"),
        ("1h 2m", "h "),
    ] {
        assert_eq!(
            parse(text),
            Err(format!("time: unknown unit \"{unit}\" in duration \"{text}\"")),
            "{text}"
        );
    }
    assert_eq!(
        parse("1\"ü"),
        Err(r#"time: unknown unit "\"\xc3\xbc" in duration "1\"\xc3\xbc""#.into())
    );
    assert_eq!(parse("\n"), Err(r#"time: invalid duration "\x0a""#.into()));
}

#[test]
fn formats_as_go() {
    for (ns, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (245_000_000_000, "4m5s"),
        (245_001_000_000, "4m5.001s"),
        (18_367_001_000_000, "5h6m7.001s"),
        (480_000_000_001, "8m0.000000001s"),
        (7_200_000_000_000, "2h0m0s"),
        (-1_500_000_000, "-1.5s"),
        (i64::MAX, "2562047h47m16.854775807s"),
        (i64::MIN, "-2562047h47m16.854775808s"),
    ] {
        assert_eq!(format(ns), text);
    }
}

proptest::proptest! {
    #[test]
    fn what_is_formatted_parses_back(ns in proptest::num::i64::ANY) {
        proptest::prop_assert_eq!(parse(&format(ns)), Ok(ns));
    }

    #[test]
    fn small_ones_too(ns in -10_000_000_000_i64..10_000_000_000) {
        proptest::prop_assert_eq!(parse(&format(ns)), Ok(ns));
    }

    #[test]
    fn never_panics(text in ".*") {
        let _ = parse(&text);
    }

    #[test]
    fn never_panics_on_what_looks_right(text in "[-+]?([0-9]{0,30}(\\.[0-9]{0,30})?(h|m|s|ms|us|µs|ns|é)?){0,4}") {
        let _ = parse(&text);
    }
}
