//! The in-memory etcd, in front of a proxy and alone.

use core::time::Duration;

use super::{run, started, stopped};
use crate::cli::flags::{FLAGS, IN_MEMORY_ETCD_FLAGS};
use crate::cli::{Command, InMemoryEtcdOptions, Upstream};
use crate::logging::{Format, Level};
use crate::settings::{Endpoint, ListenAddress};

#[test]
fn embedded_is_the_only_endpoint() {
    for (arguments, environment) in [
        (&["start", "--embedded"][..], &[][..]),
        (&["grpc-proxy", "start", "--embedded=T"], &[]),
        (&["start"], &[("ETCD_PROXY_EMBEDDED", "true")]),
        (&["start", "--embedded"], &[("ETCD_PROXY_ENDPOINTS", "")]),
    ] {
        assert_eq!(
            started(arguments, environment).upstream,
            Upstream::Embedded,
            "{arguments:?}"
        );
    }
    let endpoint = Endpoint::Tcp {
        host: "a".into(),
        port: 1,
    };
    assert_eq!(
        started(&["start", "--embedded=false", "--endpoints=a:1"], &[]).upstream,
        Upstream::Endpoints(vec![endpoint])
    );
}

#[test]
fn embedded_and_a_cluster_exclude_each_other() {
    for (flags, environment, named) in [
        // Its default, but asked for.
        (&["--endpoints=127.0.0.1:2379"][..], &[][..], "--endpoints"),
        (&[], &[("ETCD_PROXY_ENDPOINTS", "a:1")], "--endpoints"),
        (&["--discovery-srv=example.org"], &[], "--discovery-srv"),
        (
            &["--endpoints-auto-sync-interval=5s", "--endpoints", "a:1"],
            &[],
            "--endpoints, --endpoints-auto-sync-interval",
        ),
        (&["--cacert=ca.pem"], &[], "--cacert"),
    ] {
        let exit = stopped(&[&["start", "--embedded"], flags].concat(), environment);
        let expected =
            format!("--embedded cannot be combined with {named}: the in-memory etcd is the only endpoint\n");
        assert_eq!((exit.code, exit.stderr), (1, expected), "{flags:?}");
    }
}

#[test]
fn in_memory_etcd() {
    let options = |arguments: &[&str], environment: &[(&str, &str)]| match run(
        &[&["in-memory-etcd"], arguments].concat(),
        environment,
    ) {
        Ok(Command::InMemoryEtcd(options)) => options,
        other => panic!("{arguments:?}: {other:?}"),
    };
    assert_eq!(
        options(&[], &[]),
        InMemoryEtcdOptions {
            listen_address: ListenAddress {
                host: "127.0.0.1".into(),
                port: 2379
            },
            shutdown_timeout: Duration::from_secs(10),
            log_format: None,
            log_level: Level::Info,
            notes: Vec::new(),
            unknown_environment: Vec::new(),
        }
    );
    assert_eq!(
        options(
            &["--listen-addr=:1", "--log-format", "console", "--debug"],
            &[
                ("ETCD_PROXY_SHUTDOWN_TIMEOUT", "3s"),
                // A flag of `start` has this one, nothing the other.
                ("ETCD_PROXY_WORKERS", "2"),
                ("ETCD_PROXY_LISTEN_ADRR", "x"),
            ],
        ),
        InMemoryEtcdOptions {
            listen_address: ListenAddress {
                host: String::new(),
                port: 1
            },
            shutdown_timeout: Duration::from_secs(3),
            log_format: Some(Format::Console),
            log_level: Level::Debug,
            notes: Vec::new(),
            unknown_environment: vec!["ETCD_PROXY_LISTEN_ADRR".into()],
        }
    );
    for (flag, message) in [
        ("--endpoints=a:1", "Error: unknown flag: --endpoints"),
        (
            "--shutdown-timeout=-1s",
            "invalid shutdown-timeout -1s: it must not be negative",
        ),
        (
            "--listen-addr=x",
            "listen tcp: address x: missing port in address",
        ),
    ] {
        let exit = stopped(&["in-memory-etcd", flag], &[]);
        assert_eq!((exit.code, exit.stderr.lines().next()), (1, Some(message)));
        let has_usage = exit
            .stderr
            .contains("Usage:\n  etcd-proxy in-memory-etcd [flags]\n");
        assert_eq!(has_usage, message.starts_with("Error: "), "{flag}");
    }
}

#[test]
fn help_says_what_it_is() {
    let alone = stopped(&["in-memory-etcd", "--help"], &[]);
    assert_eq!((alone.code, alone.stderr.as_str()), (0, ""));
    assert_eq!(stopped(&["help", "in-memory-etcd"], &[]), alone);
    for flag in IN_MEMORY_ETCD_FLAGS {
        assert!(
            alone.stdout.contains(&format!("  --{}", flag.name)),
            "--{}",
            flag.name
        );
    }
    // Only what it has.
    assert!(!alone.stdout.contains("--endpoints"), "{}", alone.stdout);
    assert!(alone.stdout.lines().all(|line| line.chars().count() <= 100));
    let flag = FLAGS
        .iter()
        .find(|flag| flag.name == "embedded")
        .expect("the flag of the same thing");
    let root = stopped(&["help"], &[]);
    for text in [alone.stdout.as_str(), flag.help, root.stdout.as_str()] {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("rying out and tests") && text.contains("data is lost at exit"),
            "{text}"
        );
    }
}
