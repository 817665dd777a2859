use super::*;

#[test]
fn integers() {
    for (text, number) in [
        ("0", 0),
        ("-0", 0),
        ("+5", 5),
        ("-5", -5),
        ("0x10", 16),
        ("-0X1f", -31),
        ("0b101", 5),
        ("0o17", 15),
        ("017", 15),
        ("00", 0),
        ("1_000", 1000),
        ("0_1", 1),
        ("0x_1", 1),
        ("0x1_f", 31),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(parse_int(text), Ok(number), "{text}");
    }
}

/// Next to what `etcd grpc-proxy start --max-send-bytes` 3.5.30 prints.
#[test]
fn no_integers() {
    for text in [
        "", "-", "+", "x", "1.0", "1e3", " 1", "08", "0x", "0b", "0x1g", "0_x1", "_1", "1_", "1__0", "--1",
        "12a", "é",
    ] {
        assert_eq!(
            parse_int(text),
            Err(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")),
            "{text}"
        );
    }
    for text in [
        "9223372036854775808",
        "-9223372036854775809",
        "0x8000000000000000",
        &"9".repeat(99),
    ] {
        assert_eq!(
            parse_int(text),
            Err(format!(
                "strconv.ParseInt: parsing \"{text}\": value out of range \
                 (it must be from -9223372036854775808 to 9223372036854775807)"
            )),
            "{text}"
        );
    }
}

#[test]
fn unsigned() {
    assert_eq!(parse_uint("18446744073709551615", u64::MAX), Ok(u64::MAX));
    assert_eq!(parse_uint("0xff", 255), Ok(255));
    for text in ["-1", "-0"] {
        assert_eq!(
            parse_uint(text, 9),
            Err(format!(
                "strconv.ParseUint: parsing \"{text}\": invalid syntax (it must be from 0 to 9)"
            )),
            "{text}"
        );
    }
    for text in ["+1", "-x", "-", ""] {
        assert_eq!(
            parse_uint(text, 9),
            Err(format!("strconv.ParseUint: parsing \"{text}\": invalid syntax")),
            "{text}"
        );
    }
    for text in ["256", "18446744073709551616"] {
        assert_eq!(
            parse_uint(text, 255),
            Err(format!(
                "strconv.ParseUint: parsing \"{text}\": value out of range (it must be from 0 to 255)"
            )),
            "{text}"
        );
    }
}

#[test]
fn booleans() {
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        assert_eq!(parse_bool(text), Ok(true));
    }
    for text in ["0", "f", "F", "FALSE", "false", "False"] {
        assert_eq!(parse_bool(text), Ok(false));
    }
    for text in ["", "tRUE", "yes", "2", " true"] {
        assert_eq!(
            parse_bool(text),
            Err(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax"))
        );
    }
}

#[test]
fn quotes() {
    assert_eq!(quote("a'é b"), "\"a'é b\"");
    assert_eq!(quote("\"\\\u{7}\u{8}\u{b}\u{c}\n\r\t"), r#""\"\\\a\b\v\f\n\r\t""#);
    assert_eq!(
        quote("\u{1}\u{7f}\u{200b}\u{e0001}😀"),
        r#""\x01\x7f\u200b\U000e0001😀""#
    );
}

#[test]
fn what_is_long_is_cut() {
    let long = "é".repeat(1000);
    assert_eq!(shorten(&long), format!("{}... (2000 bytes)", "é".repeat(50)));
    assert_eq!(quote(&long), format!("\"{}... (2000 bytes)\"", "é".repeat(50)));
    assert_eq!(shorten(&long[..200]), &long[..200]);
    assert_eq!((plain("a b"), plain("a\nb")), ("a b".into(), "\"a\\nb\"".into()));
}

proptest::proptest! {
    #[test]
    fn decimals_round_trip(number in proptest::num::i64::ANY) {
        proptest::prop_assert_eq!(parse_int(&number.to_string()), Ok(number));
    }

    #[test]
    fn never_panics(text in "[-+]?(0[xXoObB]?)?[0-9a-fA-F_é]{0,40}") {
        let _ = (parse_int(&text), parse_uint(&text, u64::MAX), quote(&text));
    }
}
