use core::time::Duration;
use std::time::UNIX_EPOCH;

use super::*;

#[test]
fn json() {
    let mut line = line(Format::Json, Some(("runtime/src/x.rs", 12)));
    line.message(&"started \"it\"\n");
    line.text("logger", "proxy");
    line.text("address", "127.0.0.1:1\t\u{1}é");
    line.field("port", "1");
    assert_eq!(
        shown(line),
        "{\"level\":\"warn\",\"ts\":\"2026-01-02T03:04:05.123456Z\",\"logger\":\"proxy\",\
         \"caller\":\"runtime/src/x.rs:12\",\"msg\":\"started \\\"it\\\"\\n\",\
         \"address\":\"127.0.0.1:1\\t\\u0001é\",\"port\":1}\n"
    );
    assert_eq!(
        shown(Line::new(Format::Json, Level::Error, time(), None)),
        "{\"level\":\"error\",\"ts\":\"2026-01-02T03:04:05.123456Z\",\"msg\":\"\"}\n"
    );
}

#[test]
fn console() {
    let mut line = line(Format::Console, Some(("runtime/src/x.rs", 12)));
    line.message(&"started");
    assert_eq!(
        shown(line),
        "2026-01-02T03:04:05.123456Z\tWARN\truntime/src/x.rs:12\tstarted\n"
    );

    let mut line = self::line(Format::Console, Some(("runtime/src/x.rs", 12)));
    line.message(&"forged\nline\tcolumn");
    line.text("logger", "proxy");
    line.text("a", "b c");
    line.field("n", "1");
    assert_eq!(
        shown(line),
        "2026-01-02T03:04:05.123456Z\tWARN\tproxy\truntime/src/x.rs:12\tforged\\nline\\tcolumn\t{\"a\": \"b c\", \"n\": 1}\n"
    );
}

#[test]
fn names_of_the_parts_stay_free() {
    let mut line = line(Format::Json, None);
    for name in ["level", "ts", "caller", "msg", "r#type"] {
        line.text(name, "x");
    }
    let text = shown(line);
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let keys: Vec<_> = object.keys().map(String::as_str).collect();
    // Equal lengths: no key was there twice.
    assert_eq!(text.matches("\":").count(), keys.len(), "{text}");
    for key in ["level_", "ts_", "caller_", "msg_", "type"] {
        assert_eq!(object[key], "x");
    }
}

#[test]
fn long_values_are_cut_at_a_character() {
    let cut_text = cut(format_args!("{}", "é".repeat(5000)));
    assert_eq!(cut_text, format!("{}...", "é".repeat(4096)));
    assert_eq!(
        cut(format_args!("x{}", "é".repeat(5000))),
        format!("x{}...", "é".repeat(4095))
    );
    let full = "x".repeat(8192);
    assert_eq!(cut(format_args!("{full}")), full);
    // Several pieces, and a second pass over what was cut.
    let once = cut(format_args!("{full}{full}"));
    assert_eq!(cut(format_args!("{once}")), once);
}

#[test]
fn values_that_fail_to_format() {
    struct Broken;
    impl Display for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }
    assert_eq!(cut(format_args!("a{Broken}")), "a(cannot be shown)");
}

#[test]
fn short_paths() {
    for (path, short) in [
        ("runtime/src/serve.rs", "runtime/src/serve.rs"),
        (
            "/home/u/.cargo/registry/src/h2-0.4.0/src/proto/mod.rs",
            "proto/mod.rs",
        ),
        ("/x.rs", "/x.rs"),
        ("C:\\a\\b\\c.rs", "b\\c.rs"),
        ("é", "é"),
        ("", ""),
    ] {
        assert_eq!(short_path(path), short);
    }
}

proptest::proptest! {
    #[test]
    fn a_line_is_one_line_and_valid_json(message in ".*", name in ".*", value in "(.|\n)*") {
        let mut line = line(Format::Json, None);
        line.message(&message);
        line.text(&name, &value);
        let text = shown(line);
        proptest::prop_assert_eq!(text.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        if name != "message" {
            proptest::prop_assert_eq!(object["msg"].as_str(), Some(message.as_str()));
        }

        let mut line = self::line(Format::Console, None);
        line.message(&message);
        line.text(&name, &value);
        proptest::prop_assert_eq!(shown(line).matches('\n').count(), 1);
    }
}

fn line(format: Format, caller: Option<(&str, u32)>) -> Line {
    Line::new(format, Level::Warn, time(), caller)
}

fn time() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(1_767_323_045_123_456)
}

fn shown(line: Line) -> String {
    String::from_utf8(line.finish()).unwrap()
}
