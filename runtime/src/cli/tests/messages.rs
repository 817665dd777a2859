//! What is refused, and in which words.

use std::ffi::OsString;

use super::{run, started, stopped};
use crate::cli::flags::{FLAGS, IN_MEMORY_ETCD_FLAGS, Kind, Support};
use crate::cli::{ClusterTls, parse};
use crate::settings::{KeyPair, ServerCertificate, TlsVersion};

/// First line on standard error, next to what `etcd grpc-proxy start` 3.5.30 prints first for the same arguments.
#[test]
fn mistakes_get_the_words_of_etcd() {
    const CASES: &[(&[&str], &str)] = &[
        (&["--x"], "Error: unknown flag: --x"),
        (&["--x=1"], "Error: unknown flag: --x"),
        (
            &["--Debug"],
            "Error: unknown flag: --Debug; did you mean --debug?",
        ),
        (&["-x"], "Error: unknown shorthand flag: 'x' in -x"),
        (&["-hx"], "Error: unknown shorthand flag: 'x' in -x"),
        (&["-h="], "Error: unknown shorthand flag: '=' in -="),
        (
            &["-listen-addr=1"],
            "Error: unknown shorthand flag: 'l' in -listen-addr=1; did you mean --listen-addr?",
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
            r#"Error: invalid argument "9223372036854775808" for "--max-recv-bytes" flag: strconv.ParseInt: parsing "9223372036854775808": value out of range (it must be from -9223372036854775808 to 9223372036854775807)"#,
        ),
        (
            &["--max-concurrent-streams=4294967296"],
            r#"Error: invalid argument "4294967296" for "--max-concurrent-streams" flag: strconv.ParseUint: parsing "4294967296": value out of range (it must be from 0 to 4294967295)"#,
        ),
        (
            &["--max-concurrent-streams=-1"],
            r#"Error: invalid argument "-1" for "--max-concurrent-streams" flag: strconv.ParseUint: parsing "-1": invalid syntax (it must be from 0 to 4294967295)"#,
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
            "listen tcp: address http://127.0.0.1:1: too many colons in address; leave out the scheme",
        ),
        (
            &["--listen-addr=127.0.0.1"],
            "listen tcp: address 127.0.0.1: missing port in address",
        ),
        (
            &["--listen-addr=127.0.0.1:99999", "--endpoints="],
            "listen tcp: address 99999: invalid port (it must be from 0 to 65535)",
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
            "invalid dial-timeout 0s: it must be at least 100ms\n",
        ),
        (
            &["--dial-timeout=-1s"],
            "invalid dial-timeout -1s: it must be at least 100ms\n",
        ),
        (
            &["--endpoint-probe-interval=-1h"],
            "invalid endpoint-probe-interval -1h0m0s: it must not be negative\n",
        ),
        (
            &["--endpoint-probe-timeout=0"],
            "invalid endpoint-probe-timeout 0s: it must be at least 100ms\n",
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
            &["--endpoints=http://a:1/path"],
            "--endpoints: cannot use \"http://a:1/path\": etcd's gRPC API has no path; leave out \"/path\"\n",
        ),
        (
            &["--endpoint-probe-interval=1ms"],
            "invalid endpoint-probe-interval 1ms: it must be at least 100ms, or 0 to disable the probes\n",
        ),
        (
            &["--endpoint-probe-timeout=1ms"],
            "invalid endpoint-probe-timeout 1ms: it must be at least 100ms\n",
        ),
        (
            &["--dial-timeout=1ns"],
            "invalid dial-timeout 1ns: it must be at least 100ms\n",
        ),
        (
            &["--cache-size=0"],
            "invalid cache-size 0: it must be at least 65536; --cache=off is for no cache\n",
        ),
        (
            &["--cache-size=65535"],
            "invalid cache-size 65535: it must be at least 65536; --cache=off is for no cache\n",
        ),
        (
            &["--listen-addr=unix:/x.sock"],
            "--listen-addr: cannot use \"unix:/x.sock\": listening on unix sockets is not supported by this version of etcd-proxy yet\n",
        ),
        (
            &["--listen-addr=unixs://x"],
            "--listen-addr: cannot use \"unixs://x\": listening on unix sockets is not supported by this version of etcd-proxy yet\n",
        ),
        (
            &["--listen-addr=a:1,b:2"],
            "listen tcp: address a:1,b:2: too many colons in address; listening on several addresses is not supported by this version of etcd-proxy yet\n",
        ),
        (
            &["--cert-file=a"],
            "KeyFile and CertFile must both be present[key: , cert: a]\n",
        ),
        (
            &["--key-file=a", "--auto-tls"],
            "KeyFile and CertFile must both be present[key: a, cert: ]\n",
        ),
        (
            &["--cert=a"],
            "KeyFile and CertFile must both be present[key: , cert: a]\n",
        ),
        // Where there is no TLS too.
        (
            &["--endpoints=http://a:1", "--key=b"],
            "KeyFile and CertFile must both be present[key: b, cert: ]\n",
        ),
        (
            &["--trusted-ca-file=a"],
            "cannot listen on TLS for 127.0.0.1:23790: KeyFile and CertFile are not presented\n",
        ),
    ];
    for (arguments, expected) in CASES {
        let exit = stopped(&[&["start"], *arguments].concat(), &[]);
        assert_eq!((exit.code, exit.stderr.as_str()), (1, *expected));
    }
    for (argument, expected) in [
        (
            "--workers=1025",
            r#"invalid argument "1025" for "--workers" flag: strconv.ParseUint: parsing "1025": value out of range (it must be from 0 to 1024)"#,
        ),
        (
            "--log-format=xml",
            r#"invalid argument "xml" for "--log-format" flag: must be one of: auto, json, console"#,
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

/// Scripts and unit files go by the exit code.
#[test]
fn words_that_mean_nothing_here_are_refused() {
    const CASES: &[(&[&str], &str)] = &[
        (
            &["strat"],
            r#"unknown command "strat" for "etcd-proxy"; did you mean start?"#,
        ),
        (
            &["strat", "--endpoints=a:1"],
            r#"unknown command "strat" for "etcd-proxy"; did you mean start?"#,
        ),
        (&["nothing"], r#"unknown command "nothing" for "etcd-proxy""#),
        (&[""], r#"unknown command "" for "etcd-proxy""#),
        (&["-"], r#"unknown command "-" for "etcd-proxy""#),
        (
            &["grpc-proxy", "stat"],
            r#"unknown command "stat" for "etcd-proxy grpc-proxy"; did you mean start?"#,
        ),
        (&["--", "start"], r#"unexpected argument "--""#),
        (
            &["help", "in-memory-etdc"],
            r#"unknown command "in-memory-etdc" for "etcd-proxy"; did you mean in-memory-etcd?"#,
        ),
        (&["help", "start", "now"], r#"unexpected argument "now""#),
        (&["version", "now"], r#"unexpected argument "now""#),
        (&["--version", "now"], r#"unexpected argument "now""#),
        (&["completion", "bash", "zsh"], r#"unexpected argument "zsh""#),
        (
            &["--debug", "start"],
            "unknown flag: --debug; it belongs behind the command, as in etcd-proxy start --debug",
        ),
        (
            &["grpc-proxy", "--listen-addr=:1", "start"],
            "unknown flag: --listen-addr; it belongs behind the command, as in etcd-proxy start --listen-addr",
        ),
        (
            &["start", "--embedded", "false"],
            r#"unexpected argument "false"; did you mean --embedded=false?"#,
        ),
        (
            &["start", "--debug", "--embedded", "0", "more"],
            r#"unexpected argument "0"; did you mean --embedded=0?"#,
        ),
        // Not the value of a flag that takes one.
        (
            &["start", "--debug=true", "false"],
            r#"unexpected argument "false""#,
        ),
        (&["start", "start"], r#"unexpected argument "start""#),
        (&["start", "--debug", "now"], r#"unexpected argument "now""#),
        (&["start", ""], r#"unexpected argument """#),
        (&["start", "-"], r#"unexpected argument "-""#),
        (
            &["start", "--", "--embedded"],
            r#"unexpected argument "--embedded""#,
        ),
        (
            &["in-memory-etcd", "127.0.0.1:1"],
            r#"unexpected argument "127.0.0.1:1""#,
        ),
        (
            &["start", "--listen-adr=:1"],
            "unknown flag: --listen-adr; did you mean --listen-addr?",
        ),
        (
            &["in-memory-etcd", "--log-fromat=json"],
            "unknown flag: --log-fromat; did you mean --log-format?",
        ),
        (
            &["start", "--listen-addr=:1", "--listen-addr=:2"],
            r#"invalid argument ":2" for "--listen-addr" flag: the flag was given before, and listening on several addresses is not supported by this version of etcd-proxy yet"#,
        ),
        (
            &["start", "--grpc-keepalive-timeout=9999999h"],
            r#"invalid argument "9999999h" for "--grpc-keepalive-timeout" flag: time: invalid duration "9999999h" (it must be from -2562047h47m16.854775808s to 2562047h47m16.854775807s)"#,
        ),
    ];
    for (arguments, expected) in CASES {
        let exit = stopped(arguments, &[]);
        assert_eq!(
            exit.stderr.lines().next(),
            Some(format!("Error: {expected}").as_str()),
            "{arguments:?}"
        );
        assert_eq!((exit.code, exit.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(exit.stderr.contains("Usage:\n"), "{arguments:?}");
    }
}

/// A screen is enough for any message.
#[test]
fn long_values_are_shortened() {
    let long = "x".repeat(100_000);
    let mut all: Vec<Vec<String>> = FLAGS
        .iter()
        .chain(IN_MEMORY_ETCD_FLAGS)
        .flat_map(|flag| {
            let name = flag.name;
            ["", "9", "http://", "unix:", "a:", "\"", "tcp", "1s"]
                .map(|begin| vec!["start".into(), format!("--{name}={begin}{long}")])
        })
        .collect();
    for begin in ["", "-", "--", "---", "--=", "\n", "--\n", "-\n"] {
        all.push(vec![format!("{begin}{long}")]);
        for command in [
            "start",
            "help",
            "completion",
            "version",
            "grpc-proxy",
            "in-memory-etcd",
        ] {
            all.push(vec![command.into(), format!("{begin}{long}")]);
        }
    }
    for arguments in all {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let shown = format!("{:.60}", arguments.join(" "));
        let Err(exit) = run(&arguments, &[]) else {
            // It may be a text that is for others to judge: a host, a path, a prefix.
            continue;
        };
        assert_eq!(exit.code, 1, "{shown}");
        assert!(exit.stderr.len() < 1000, "{shown}: {} bytes", exit.stderr.len());
        let message = exit.stderr.split("\nUsage:").next().unwrap_or_default();
        assert_eq!(message.trim_end().lines().count(), 1, "{shown}: {message}");
    }
    let exit = stopped(&["start"], &[("ETCD_PROXY_WORKERS", &long)]);
    assert!(exit.stderr.len() < 1000, "{} bytes", exit.stderr.len());
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
        // Registration takes two flags, or etcd's own check comes first; others only count beside another one.
        let arguments: &[&str] = match flag.name {
            name if name.starts_with("resolver-") => &["--resolver-prefix=a", "--resolver-ttl=7"],
            "discovery-srv-name" | "insecure-discovery" => &[&setting, "--discovery-srv=example.org"],
            _ => &[&setting],
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
    assert_eq!(refused, 13);
    // etcd's own default asks for something that this version does not do.
    let exit = stopped(&["start", "--advertise-client-url=127.0.0.1:23790"], &[]);
    assert!(
        exit.stderr.starts_with("--advertise-client-url: "),
        "{}",
        exit.stderr
    );
    // All at once.
    assert_eq!(
        stopped(
            &[
                "start",
                "--resolver-prefix=a",
                "--resolver-ttl=1",
                "--namespace=b"
            ],
            &[]
        )
        .stderr
        .lines()
        .count(),
        3
    );
}

/// What would have no effect in etcd either, and is passed by scripts, is no reason to refuse.
#[test]
fn what_asks_for_nothing_is_noted() {
    for (flags, notes) in [
        (
            &["--data-dir=/var/lib/x"][..],
            &["--data-dir changes nothing as there is no --auto-tls"][..],
        ),
        (
            &[
                "--endpoints=http://a:1,unix:/b",
                "--cert=c",
                "--key=k",
                "--cacert=ca",
            ],
            &[
                "--cert changes nothing as the first endpoint is without TLS",
                "--key changes nothing as the first endpoint is without TLS",
                "--cacert changes nothing as the first endpoint is without TLS",
            ],
        ),
        (
            &["--endpoints=https://a:1,http://b:2"],
            &[
                "--endpoints have different schemes: as in etcd the first one decides, so all are connected to with TLS",
            ],
        ),
        (
            &["--client-crl-file=c", "--cert-file=a", "--key-file=b"],
            &[
                "--client-crl-file changes nothing as clients are asked for no certificate without --trusted-ca-file",
            ],
        ),
        (
            &["--auto-tls", "--cert-file=a", "--key-file=b"],
            &["--auto-tls changes nothing as there is a certificate of --cert-file"],
        ),
        (
            &[
                "--endpoints=https://a:1",
                "--insecure-skip-tls-verify",
                "--cacert=c",
            ],
            &["--cacert changes nothing as --insecure-skip-tls-verify was given"],
        ),
        (
            &["--tls-min-version=TLS1.3"],
            &["--tls-min-version changes nothing as clients connect without TLS"],
        ),
        (
            &["--insecure-discovery"],
            &["--insecure-discovery changes nothing as there is no --discovery-srv"],
        ),
    ] {
        assert_eq!(
            started(&[&["start"], flags].concat(), &[]).notes,
            notes,
            "{flags:?}"
        );
    }
}

/// As in clientv3: the first endpoint decides.
#[test]
fn whether_the_cluster_is_connected_to_with_tls() {
    let of = |flags: &[&str]| started(&[&["start"], flags].concat(), &[]).cluster_tls;
    let on = |flags: &[&str]| matches!(of(flags), ClusterTls::On(_));
    assert!(on(&["--endpoints=https://a:1"]));
    assert!(on(&["--endpoints=unixs:a,http://b:1"]));
    // Without a scheme it is a flag that asks for TLS.
    assert!(on(&["--endpoints=a:1", "--cacert=ca"]));
    assert!(on(&["--cert=c", "--key=k"]));
    assert!(on(&["--insecure-skip-tls-verify"]));
    assert_eq!(of(&["--endpoints=a:1"]), ClusterTls::Off);
    assert_eq!(of(&["--endpoints=http://a:1"]), ClusterTls::Off);
    for plain in [
        "--endpoints=http://a:1,b:2",
        "--endpoints=http://a:1,https://b:2",
        "--endpoints=unix:a",
    ] {
        assert!(
            matches!(of(&[plain, "--cacert=ca"]), ClusterTls::Idle(_)),
            "{plain}"
        );
    }
}

#[test]
fn tls_towards_clients() {
    let of = |flags: &[&str]| started(&[&["start"], flags].concat(), &[]).server_tls;
    assert_eq!(of(&["--data-dir=d"]), None);
    let tls = of(&[
        "--cert-file=a",
        "--key-file=b",
        "--trusted-ca-file=c",
        "--client-crl-file=d",
    ]);
    let tls = tls.expect("there is a certificate");
    let pair = KeyPair {
        cert: "a".into(),
        key: "b".into(),
    };
    assert_eq!(tls.certificate, ServerCertificate::Files(pair));
    assert_eq!(tls.client_ca, Some("c".into()));
    assert_eq!(tls.client_crl, Some("d".into()));
    assert_eq!(
        (tls.version_min, tls.version_max),
        (TlsVersion::Tls12, TlsVersion::Tls13)
    );
    let own = of(&[
        "--auto-tls",
        "--data-dir=d",
        "--self-signed-cert-validity=3",
        "--tls-max-version=TLS1.2",
    ]);
    let own = own.expect("there is one of its own");
    let expected = ServerCertificate::SelfSigned {
        data_dir: "d".into(),
        years: 3,
    };
    assert_eq!(own.certificate, expected);
    assert_eq!(own.version_max, TlsVersion::Tls12);
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
