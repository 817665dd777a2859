use super::parse;

#[test]
fn lists() {
    for (text, fields) in [
        ("", &[][..]),
        ("a", &["a"]),
        ("a,b", &["a", "b"]),
        (",", &["", ""]),
        (" a, b ", &[" a", " b "]),
        ("\"a,b\",c", &["a,b", "c"]),
        ("\"a\"\"b\"", &["a\"b"]),
        ("\"\"", &[""]),
        ("\"a\",", &["a", ""]),
        ("\n\r\na,b\r\nc", &["a", "b"]),
        ("\"a\r\nb\",c\nd", &["a\nb", "c"]),
        ("\"a\"\nb", &["a"]),
        ("a\r", &["a"]),
        ("é,ü", &["é", "ü"]),
    ] {
        assert_eq!(
            parse(text).as_deref(),
            Ok(&fields.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "{text:?}"
        );
    }
}

/// Next to what `etcd grpc-proxy start --endpoints` 3.5.30 prints.
#[test]
fn quotes_that_do_not_match() {
    const BARE: &str = "bare \" in non-quoted-field";
    const UNMATCHED: &str = "extraneous or missing \" in quoted-field";
    for (text, place, problem) in [
        ("a\"b", "parse error on line 1, column 2: ", BARE),
        ("a,b\"", "parse error on line 1, column 4: ", BARE),
        ("é,\"\",é\"", "parse error on line 1, column 9: ", BARE),
        ("\n\na\"", "parse error on line 3, column 2: ", BARE),
        ("\"a\"b", "parse error on line 1, column 3: ", UNMATCHED),
        ("\"a", "parse error on line 1, column 3: ", UNMATCHED),
        ("\"a\n", "parse error on line 1, column 4: ", UNMATCHED),
        ("é,\"x", "parse error on line 1, column 6: ", UNMATCHED),
        (
            "\"a\nb",
            "record on line 1; parse error on line 2, column 2: ",
            UNMATCHED,
        ),
        (
            "\n\"a\"\"\n\"x",
            "record on line 2; parse error on line 3, column 1: ",
            UNMATCHED,
        ),
        (
            "\"\r\n\"\"\"x",
            "record on line 1; parse error on line 2, column 3: ",
            UNMATCHED,
        ),
        ("\n\n", "EOF", ""),
        ("\r", "EOF", ""),
    ] {
        assert_eq!(parse(text), Err(format!("{place}{problem}")), "{text:?}");
    }
}

proptest::proptest! {
    #[test]
    fn plain_fields_survive(fields in proptest::collection::vec("[^,\"\r\n]{1,9}", 1..9)) {
        proptest::prop_assert_eq!(parse(&fields.join(",")), Ok(fields));
    }

    #[test]
    fn quoted_fields_survive(fields in proptest::collection::vec("[^\r]*", 1..9)) {
        let quoted: Vec<_> = fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
        proptest::prop_assert_eq!(parse(&quoted.join(",")), Ok(fields));
    }

    #[test]
    fn never_panics(text in "[\"\",a\r\né]*") {
        let _ = parse(&text);
    }
}
