use super::*;
use crate::cli::flags::FLAGS;

#[test]
fn a_value_can_look_like_a_flag() {
    let values = read_arguments(&["--namespace", "--debug", "--listen-addr=--x=y", "--cert", "-h"]).unwrap();
    assert_eq!(
        values.of("namespace"),
        (&Value::Text("--debug".into()), Source::Flag)
    );
    assert_eq!(values.of("listen-addr").0, &Value::Text("--x=y".into()));
    assert_eq!(values.of("cert").0, &Value::Text("-h".into()));
    assert_eq!(values.of("debug"), (&Value::Bool(false), Source::Default));
}

#[test]
fn booleans_take_no_next_argument() {
    assert_eq!(
        read_arguments(&["--debug", "false"]).unwrap_err(),
        Stop::Error("unexpected argument \"false\"; did you mean --debug=false?".into())
    );
    let values = read_arguments(&["--debug", "--auto-tls=F", "--enable-pprof=1"]).unwrap();
    assert_eq!(values.of("debug").0, &Value::Bool(true));
    assert_eq!(values.of("auto-tls"), (&Value::Bool(false), Source::Flag));
    assert_eq!(values.of("enable-pprof").0, &Value::Bool(true));
}

#[test]
fn the_last_value_counts_and_lists_grow() {
    let values = read_arguments(&["--cert=a", "--cert=b", "--endpoints=a,b", "--endpoints", "c"]).unwrap();
    assert_eq!(values.of("cert").0, &Value::Text("b".into()));
    assert_eq!(
        values.of("endpoints").0,
        &Value::List(vec!["a".into(), "b".into(), "c".into()])
    );
    assert_eq!(values.repeated, ["cert"]);
    let values = read_arguments(&["--endpoints=a", "--endpoints="]).unwrap();
    assert_eq!(values.of("endpoints").0, &Value::List(vec!["a".into()]));
}

#[test]
fn two_dashes_end_the_flags_and_one_is_none() {
    let values = read_arguments(&["--cert=a", "--"]).unwrap();
    assert_eq!(values.of("cert").0, &Value::Text("a".into()));
    // The first of them that is no flag is told, once the flags are right.
    for (arguments, message) in [
        (
            &["--cert=a", "--", "--cert=b", "--x"][..],
            "unexpected argument \"--cert=b\"",
        ),
        (&["a", "-", "--cert=a"], "unexpected argument \"a\""),
        (&["-", "--cert=a"], "unexpected argument \"-\""),
        (&["a", "--x"], "unknown flag: --x"),
    ] {
        assert_eq!(
            read_arguments(arguments).unwrap_err(),
            Stop::Error(message.into()),
            "{arguments:?}"
        );
    }
    // As a value, two dashes are a value.
    let values = read_arguments(&["--cert", "--", "--key=b"]).unwrap();
    assert_eq!(
        (values.of("cert").0, values.of("key").0),
        (&Value::Text("--".into()), &Value::Text("b".into()))
    );
}

#[test]
fn help_waits_for_mistakes_behind_it() {
    assert_eq!(read_arguments(&["-h", "--cert=a"]).unwrap_err(), Stop::Help);
    assert_eq!(read_arguments(&["--help=T"]).unwrap_err(), Stop::Help);
    assert_eq!(
        read_arguments(&["-h", "--x"]).unwrap_err(),
        Stop::Error("unknown flag: --x".into())
    );
    assert!(read_arguments(&["--help", "--help=false"]).is_ok());
    assert!(read_arguments(&["-h=f"]).is_ok());
    // Behind two dashes nothing is a flag.
    assert_ne!(read_arguments(&["--", "--help"]).unwrap_err(), Stop::Help);
}

#[test]
fn the_environment_comes_after_the_flags() {
    let variables = |text: &str| {
        ["ETCD_PROXY_CERT", "ETCD_PROXY_DEBUG"]
            .map(|name| (name.to_owned(), OsString::from(text)))
            .into()
    };
    let values = read(FLAGS, &["--cert=from a flag".to_owned()], &variables("1")).unwrap();
    assert_eq!(
        values.of("cert"),
        (&Value::Text("from a flag".into()), Source::Flag)
    );
    assert_eq!(values.of("debug"), (&Value::Bool(true), Source::Environment));
    assert_eq!(values.of("key").1, Source::Default);
    assert_eq!(
        read(FLAGS, &[], &variables("")).unwrap().of("cert").1,
        Source::Default
    );
    // Help is there even when the environment is wrong.
    assert_eq!(
        read(FLAGS, &["-h".to_owned()], &variables("x")).unwrap_err(),
        Stop::Help
    );
    let wrong = read(FLAGS, &[], &variables("x")).unwrap_err();
    assert!(matches!(wrong, Stop::Error(message) if message.contains("ETCD_PROXY_DEBUG")));
}

fn read_arguments(arguments: &[&str]) -> Result<Values, Stop> {
    let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
    read(FLAGS, &arguments, &BTreeMap::new())
}
