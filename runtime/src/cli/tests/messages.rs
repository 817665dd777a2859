//! What is refused, and in which words.

use std::ffi::OsString;

use super::{started, stopped};
use crate::cli::flags::{FLAGS, Kind, Support};
use crate::cli::parse;

/// First line on standard error, next to what `etcd grpc-proxy start` 3.5.30 prints first for the same arguments.
#[test]
fn mistakes_get_the_words_of_etcd() {
    const CASES: &[(&[&str], &str)] = &[
        (&["--x"], "Error: unknown flag: --x"),
        (&["--x=1"], "Error: unknown flag: --x"),
        (&["--Debug"], "Error: unknown flag: --Debug"),
        (&["-x"], "Error: unknown shorthand flag: 'x' in -x"),
        (&["-hx"], "Error: unknown shorthand flag: 'x' in -x"),
        (&["-h="], "Error: unknown shorthand flag: '=' in -="),
        (
            &["-listen-addr=1"],
            "Error: unknown shorthand flag: 'l' in -listen-addr=1",
        ),
        (&["-h", "--x"], "Error: unknown flag: --x"),
        (
            &["-h=x"],
            r#"Error: invalid argument "x" for "-h, --help" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
        ),
        (
            &["--help=x"],
            r#"Error: invalid argument "x" for "-h, --help" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
        ),
        (&["--listen-addr"], "Error: flag needs an argument: --listen-addr"),
        (&["--=x"], "Error: bad flag syntax: --=x"),
        (&["---x"], "Error: bad flag syntax: ---x"),
        (
            &["--debug=x"],
            r#"Error: invalid argument "x" for "--debug" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
        ),
        (
            &["--debug="],
            r#"Error: invalid argument "" for "--debug" flag: strconv.ParseBool: parsing "": invalid syntax"#,
        ),
        (
            &["--max-send-bytes", "--debug"],
            r#"Error: invalid argument "--debug" for "--max-send-bytes" flag: strconv.ParseInt: parsing "--debug": invalid syntax"#,
        ),
        (
            &["--max-send-bytes=x"],
            r#"Error: invalid argument "x" for "--max-send-bytes" flag: strconv.ParseInt: parsing "x": invalid syntax"#,
        ),
        (
            &["--max-recv-bytes=9223372036854775808"],
            r#"Error: invalid argument "9223372036854775808" for "--max-recv-bytes" flag: strconv.ParseInt: parsing "9223372036854775808": value out of range"#,
        ),
        (
            &["--max-concurrent-streams=4294967296"],
            r#"Error: invalid argument "4294967296" for "--max-concurrent-streams" flag: strconv.ParseUint: parsing "4294967296": value out of range"#,
        ),
        (
            &["--max-concurrent-streams=-1"],
            r#"Error: invalid argument "-1" for "--max-concurrent-streams" flag: strconv.ParseUint: parsing "-1": invalid syntax"#,
        ),
        (
            &["--self-signed-cert-validity=1.5"],
            r#"Error: invalid argument "1.5" for "--self-signed-cert-validity" flag: strconv.ParseUint: parsing "1.5": invalid syntax"#,
        ),
        (
            &["--grpc-keepalive-timeout=5"],
            r#"Error: invalid argument "5" for "--grpc-keepalive-timeout" flag: time: missing unit in duration "5""#,
        ),
        (
            &["--grpc-keepalive-timeout=5x"],
            r#"Error: invalid argument "5x" for "--grpc-keepalive-timeout" flag: time: unknown unit "x" in duration "5x""#,
        ),
        (
            &["--grpc-keepalive-timeout", ""],
            r#"Error: invalid argument "" for "--grpc-keepalive-timeout" flag: time: invalid duration """#,
        ),
        (
            &["--endpoints", "a\"b"],
            r#"Error: invalid argument "a\"b" for "--endpoints" flag: parse error on line 1, column 2: bare " in non-quoted-field"#,
        ),
        (
            &["--endpoints", "\n"],
            r#"Error: invalid argument "\n" for "--endpoints" flag: EOF"#,
        ),
        // Checks of the values, in this order.
        (&["--resolver-prefix=a"], "invalid resolver-ttl 0"),
        (
            &["--resolver-prefix=a", "--resolver-ttl=-3"],
            "invalid resolver-ttl -3",
        ),
        (&["--resolver-ttl=5"], r#"invalid resolver-prefix """#),
        (
            &[
                "--resolver-ttl=5",
                "--resolver-prefix=a",
                "--advertise-client-url=",
            ],
            r#"invalid advertise-client-url """#,
        ),
        (
            &["--auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
        (
            &["--tls-min-version=X"],
            r#"tls-min-version is invalid: unexpected TLS version "X" (must be one of: TLS1.2, TLS1.3)"#,
        ),
        (
            &["--tls-max-version=TLS1.1"],
            r#"tls-max-version is invalid: unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#,
        ),
        (
            &["--tls-max-version=X", "--tls-min-version=Y"],
            r#"tls-min-version is invalid: unexpected TLS version "Y" (must be one of: TLS1.2, TLS1.3)"#,
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--listen-cipher-suites=a"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--tls-max-version=X", "--resolver-ttl=1"],
            r#"invalid resolver-prefix """#,
        ),
        (
            &["--listen-addr=http://127.0.0.1:1"],
            "listen tcp: address http://127.0.0.1:1: too many colons in address",
        ),
        (
            &["--listen-addr=127.0.0.1"],
            "listen tcp: address 127.0.0.1: missing port in address",
        ),
        (
            &["--listen-addr=127.0.0.1:99999", "--endpoints="],
            "listen tcp: address 99999: invalid port",
        ),
        (
            &["--endpoints=", "--max-recv-bytes=5"],
            "etcdclient: no available endpoints",
        ),
        (
            &["--max-recv-bytes=5"],
            "gRPC message recv limit (5 bytes) must be greater than send limit (1572864 bytes)",
        ),
    ];
    for (arguments, expected) in CASES {
        let exit = stopped(&[&["start"], *arguments].concat(), &[]);
        assert_eq!(exit.stderr.lines().next(), Some(*expected), "{arguments:?}");
        assert_eq!((exit.code, exit.stdout.as_str()), (1, ""), "{arguments:?}");
        let has_usage = exit.stderr.contains("Usage:\n  etcd-proxy start [flags]\n");
        assert_eq!(has_usage, expected.starts_with("Error: "), "{arguments:?}");
    }
}

#[test]
fn our_own_checks_name_the_flag() {
    const CASES: &[(&[&str], &str)] = &[
        (
            &["--dial-timeout=0"],
            "invalid dial-timeout 0s: it must be greater than 0\n",
        ),
        (
            &["--dial-timeout=-1s"],
            "invalid dial-timeout -1s: it must be greater than 0\n",
        ),
        (
            &["--endpoint-probe-interval=-1h"],
            "invalid endpoint-probe-interval -1h0m0s: it must not be negative\n",
        ),
        (
            &["--endpoint-probe-timeout=0"],
            "invalid endpoint-probe-timeout 0s: it must be greater than 0\n",
        ),
        (
            &["--shutdown-timeout=-1ms"],
            "invalid shutdown-timeout -1ms: it must not be negative\n",
        ),
        (
            &["--endpoints=a:1,b"],
            "--endpoints: cannot use \"b\": missing port in address\n",
        ),
        (
            &["--endpoints=https://a:1"],
            "--endpoints: cannot use \"https://a:1\": TLS is not supported by this version of etcd-proxy yet\n",
        ),
    ];
    for (arguments, expected) in CASES {
        let exit = stopped(&[&["start"], *arguments].concat(), &[]);
        assert_eq!((exit.code, exit.stderr.as_str()), (1, *expected));
    }
    for (argument, expected) in [
        (
            "--workers=1025",
            r#"invalid argument "1025" for "--workers" flag: strconv.ParseUint: parsing "1025": value out of range"#,
        ),
        (
            "--log-format=xml",
            r#"invalid argument "xml" for "--log-format" flag: must be one of: json, console"#,
        ),
        (
            "--log-level=Info",
            r#"invalid argument "Info" for "--log-level" flag: must be one of: debug, info, warn, error, dpanic, panic, fatal"#,
        ),
    ] {
        let exit = stopped(&["start", argument], &[]);
        assert_eq!(
            exit.stderr.lines().next(),
            Some(format!("Error: {expected}").as_str())
        );
    }
}

#[test]
fn what_is_not_built_is_refused_and_never_ignored() {
    let other_value = |kind| match kind {
        Kind::Bool => "true",
        Kind::Duration => "1s",
        Kind::Int | Kind::Uint(_) => "7",
        Kind::Choice(_) | Kind::List | Kind::Text => "TLS1.3",
    };
    let mut refused = 0;
    for flag in FLAGS {
        let setting = format!("--{}={}", flag.name, other_value(flag.kind));
        let prefix = match flag.support {
            Support::Full => continue,
            Support::NotYet(what) => format!(
                "--{}: {what} not supported by this version of etcd-proxy yet",
                flag.name
            ),
            Support::Never(reason) => format!("--{}: not supported: {reason}", flag.name),
        };
        refused += 1;
        // Registration takes two flags, or etcd's own check comes first.
        let pair = ["--resolver-prefix=a", "--resolver-ttl=7"];
        let arguments = if flag.name.starts_with("resolver-") {
            &pair[..]
        } else {
            &[setting.as_str()]
        };
        let exit = stopped(&[&["start"], arguments].concat(), &[]);
        assert_eq!(exit.code, 1, "{setting}");
        assert!(
            exit.stderr.lines().any(|line| line == prefix),
            "{setting}: {}",
            exit.stderr
        );

        let default = format!("--{}={}", flag.name, flag.default);
        assert_eq!(
            started(&["start", &default], &[]),
            started(&["start"], &[]),
            "{default}"
        );
    }
    assert_eq!(refused, 27);
    // etcd's own default asks for something that this version does not do.
    let exit = stopped(&["start", "--advertise-client-url=127.0.0.1:23790"], &[]);
    assert!(
        exit.stderr.starts_with("--advertise-client-url: "),
        "{}",
        exit.stderr
    );
    // All at once.
    assert_eq!(
        stopped(&["start", "--cert=a", "--namespace=b"], &[])
            .stderr
            .lines()
            .count(),
        2
    );
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let exit = stopped(&["start"], &[("ETCD_PROXY_WORKERS", "many")]);
    assert_eq!(
        exit.stderr.lines().next(),
        Some(
            r#"Error: invalid value "many" for ETCD_PROXY_WORKERS: strconv.ParseUint: parsing "many": invalid syntax"#
        )
    );
    assert_eq!(exit.code, 1);
    let exit = stopped(&["start"], &[("ETCD_PROXY_NAMESPACE", "x")]);
    assert!(exit.stderr.starts_with("--namespace: "), "{}", exit.stderr);
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = OsString::from_vec(vec![b'a', 0xff]);
    let exit = parse("etcd-proxy", ["start".into(), bytes.clone()], []).unwrap_err();
    assert_eq!(
        (exit.code, exit.stderr.lines().next()),
        (1, Some("Error: argument \"a\u{fffd}\" is not valid UTF-8"))
    );

    let exit = parse(
        "etcd-proxy",
        ["start".into()],
        [("ETCD_PROXY_ENDPOINTS".into(), bytes.clone())],
    )
    .unwrap_err();
    assert_eq!(
        exit.stderr.lines().next(),
        Some("Error: invalid value for ETCD_PROXY_ENDPOINTS: it is not valid UTF-8")
    );
    // What is not ours does not matter.
    assert!(parse("etcd-proxy", ["start".into()], [(bytes, "x".into())]).is_ok());
}
