use core::time::Duration;
use std::ffi::OsString;

use proptest::prelude::*;

use super::flags::FLAGS;
use super::*;
use crate::logging::{Format, Level};
use crate::settings::{Endpoint, Keepalive, ListenAddress};

mod embedded;
mod messages;
mod text;

#[test]
fn defaults() {
    let options = started(&["start"], &[]);
    assert_eq!(
        options,
        StartOptions {
            listen_address: ListenAddress {
                host: "127.0.0.1".into(),
                port: 23790
            },
            upstream: Upstream::Endpoints(vec![tcp("127.0.0.1", 2379)]),
            server_tls: None,
            cluster_tls: ClusterTls::Off,
            max_send_bytes: 1_572_864,
            max_recv_bytes: 2_147_483_647,
            max_concurrent_streams: u32::MAX,
            lease_share_within: None,
            watch_progress_notify_interval: None,
            cache: CacheOptions {
                mode: CacheMode::All,
                linearizable: true,
                bytes_max: 64 << 20,
                staleness_max: Duration::from_secs(1),
            },
            keepalive_min_time: Duration::from_secs(5),
            server_keepalive: Some(keepalive(7200, 20)),
            dial_keepalive: None,
            dial_keepalive_without_stream: false,
            dial_timeout: Duration::from_secs(5),
            endpoint_probe: Some(Keepalive {
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(2500),
            }),
            shutdown_timeout: Duration::from_secs(10),
            workers: None,
            log_format: None,
            log_level: Level::Info,
            notes: Vec::new(),
            unknown_environment: Vec::new(),
        }
    );
}

#[test]
fn every_option_reaches_its_field() {
    let options = started(
        &[
            "grpc-proxy",
            "start",
            "--listen-addr=:1",
            "--endpoints",
            "a:1,http://[::1]:2/",
            "--endpoints=unix:///s",
            "--endpoints=a:1",
            "--max-send-bytes=0x10",
            "--max-recv-bytes",
            "1_000",
            "--max-concurrent-streams=9",
            "--lease-share-within=50ms",
            "--watch-progress-notify-interval=3m",
            "--cache=prefixes",
            "--cache-prefixes=/a,b",
            "--cache-linearizable=false",
            "--cache-size=100000",
            "--cache-staleness=0",
            "--grpc-keepalive-min-time=1ms",
            "--grpc-keepalive-interval=1m",
            "--grpc-keepalive-timeout=2s",
            "--dial-keepalive-time=30s",
            "--dial-keepalive-timeout=4s",
            "--permit-without-stream",
            "--dial-timeout=7s",
            "--endpoint-probe-interval=100ms",
            "--endpoint-probe-timeout=200ms",
            "--shutdown-timeout=0",
            "--workers=1024",
            "--log-format=console",
            "--log-level=WARN",
            "--advertise-client-url=",
            "--",
        ],
        &[],
    );
    assert_eq!(
        options,
        StartOptions {
            listen_address: ListenAddress {
                host: String::new(),
                port: 1
            },
            upstream: Upstream::Endpoints(vec![
                tcp("a", 1),
                tcp("::1", 2),
                Endpoint::Unix { path: "/s".into() }
            ]),
            server_tls: None,
            cluster_tls: ClusterTls::Off,
            max_send_bytes: 16,
            max_recv_bytes: 1000,
            max_concurrent_streams: 9,
            lease_share_within: Some(Duration::from_millis(50)),
            watch_progress_notify_interval: Some(Duration::from_secs(180)),
            cache: CacheOptions {
                mode: CacheMode::Prefixes(vec!["/a".into(), "b".into()]),
                linearizable: false,
                bytes_max: 100_000,
                staleness_max: Duration::ZERO,
            },
            keepalive_min_time: Duration::from_millis(1),
            server_keepalive: Some(keepalive(60, 2)),
            dial_keepalive: Some(keepalive(30, 4)),
            dial_keepalive_without_stream: true,
            dial_timeout: Duration::from_secs(7),
            endpoint_probe: Some(Keepalive {
                interval: Duration::from_millis(100),
                timeout: Duration::from_millis(200),
            }),
            shutdown_timeout: Duration::ZERO,
            workers: core::num::NonZeroUsize::new(1024),
            log_format: Some(Format::Console),
            log_level: Level::Warn,
            notes: Vec::new(),
            unknown_environment: Vec::new(),
        }
    );
}

#[test]
fn zero_means_what_grpc_go_and_clientv3_mean_by_it() {
    let options = started(
        &[
            "start",
            "--max-send-bytes=0",
            "--max-recv-bytes=-5",
            "--max-concurrent-streams=0",
            "--grpc-keepalive-min-time=-1s",
            "--grpc-keepalive-interval=0",
            "--dial-keepalive-time=1ns",
            "--dial-keepalive-timeout=0",
            "--endpoint-probe-interval=0",
            "--endpoint-probe-timeout=0",
        ],
        &[],
    );
    assert_eq!(
        (options.max_send_bytes, options.max_recv_bytes),
        (2 * 1024 * 1024, 2_147_483_647)
    );
    assert_eq!(options.max_concurrent_streams, u32::MAX);
    assert_eq!(options.keepalive_min_time, Duration::from_secs(300));
    assert_eq!(options.server_keepalive, None);
    assert_eq!(options.dial_keepalive, Some(keepalive(10, 20)));
    assert_eq!(options.endpoint_probe, None);
    assert_eq!(
        started(&["start", "--grpc-keepalive-interval=1ms"], &[]).server_keepalive,
        Some(keepalive(1, 20))
    );
    assert_eq!(
        started(&["start", "--grpc-keepalive-timeout=0"], &[]).server_keepalive,
        None
    );
}

#[test]
fn what_is_done_otherwise_is_noted() {
    let notes = |flags: &[&str]| started(&[&["start"], flags].concat(), &[]).notes;
    assert_eq!(
        notes(&[
            "--dial-timeout=1s",
            "--workers=1",
            "--dial-timeout=2s",
            "--dial-timeout=3s"
        ]),
        ["--dial-timeout was given more than once; the last value is used"]
    );
    // Said twice, but the same.
    assert_eq!(
        notes(&["--debug", "--debug=true", "--endpoints=a:1", "--endpoints=b:1"]),
        [""; 0]
    );
    for (flags, note) in [
        (
            &["--grpc-keepalive-interval=1ms"][..],
            "--grpc-keepalive-interval is below the least there is; 1s is used",
        ),
        (
            &["--dial-keepalive-time=9s"],
            "--dial-keepalive-time is below the least there is; 10s is used",
        ),
        (
            &["--permit-without-stream"],
            "--permit-without-stream changes nothing as --dial-keepalive-time is 0",
        ),
        (
            &["--endpoint-probe-interval=0", "--endpoint-probe-timeout=1s"],
            "--endpoint-probe-timeout changes nothing as --endpoint-probe-interval is 0",
        ),
        (
            &["--cache=off", "--cache-size=0"],
            "--cache-size changes nothing as --cache is off",
        ),
    ] {
        assert_eq!(notes(flags), [note]);
    }
    let Ok(Command::InMemoryEtcd(options)) = run(&["in-memory-etcd", "--debug", "--debug=false"], &[]) else {
        panic!("it starts");
    };
    assert_eq!(
        options.notes,
        ["--debug was given more than once; the last value is used"]
    );
}

/// Whoever greps a log for a misspelt setting gets to know the name of the right one.
#[test]
fn unknown_variables_find_what_was_meant() {
    for (unknown, meant) in [
        ("ETCD_PROXY_ENDPOINT", Some("ETCD_PROXY_ENDPOINTS")),
        ("ETCD_PROXY_LISTEN_ADRESS", Some("ETCD_PROXY_LISTEN_ADDR")),
        ("ETCD_PROXY_NONSENSE", None),
        ("ETCD_PROXY_", None),
    ] {
        assert_eq!(variable_meant_by(unknown).as_deref(), meant, "{unknown}");
    }
}

#[test]
fn debug_wins_over_the_log_level() {
    assert_eq!(
        started(&["start", "--debug", "--log-level=error"], &[]).log_level,
        Level::Debug
    );
    assert_eq!(
        started(&["start", "--debug=false", "--log-level=fatal"], &[]).log_level,
        Level::Error
    );
    assert_eq!(
        started(&["start", "--log-level=debug"], &[]).log_level,
        Level::Debug
    );
}

#[test]
fn environment_sets_what_no_flag_sets() {
    let options = started(
        &["start", "--dial-timeout=2s"],
        &[
            ("ETCD_PROXY_DIAL_TIMEOUT", "nonsense that the flag hides"),
            ("ETCD_PROXY_ENDPOINTS", "a:1,b:2"),
            ("ETCD_PROXY_DEBUG", "T"),
            ("ETCD_PROXY_MAX_SEND_BYTES", ""),
            ("ETCD_PROXY_ENDPOINT", "c:3"),
            ("ETCD_PROXY_", "1"),
            ("ETCD_LISTEN_ADDR", "x"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(options.dial_timeout, Duration::from_secs(2));
    assert_eq!(
        options.upstream,
        Upstream::Endpoints(vec![tcp("a", 1), tcp("b", 2)])
    );
    assert_eq!(options.log_level, Level::Debug);
    assert_eq!(options.max_send_bytes, 1_572_864);
    assert_eq!(
        options.unknown_environment,
        ["ETCD_PROXY_", "ETCD_PROXY_ENDPOINT"]
    );
}

#[test]
fn a_flag_replaces_the_list_of_the_environment() {
    let options = started(
        &["start", "--endpoints=c:3", "--endpoints=d:4"],
        &[("ETCD_PROXY_ENDPOINTS", "a:1,b:2")],
    );
    assert_eq!(
        options.upstream,
        Upstream::Endpoints(vec![tcp("c", 3), tcp("d", 4)])
    );
}

proptest! {
    #[test]
    fn never_panics(arguments in prop::collection::vec(argument(), 0..8), environment in prop::collection::vec((any_flag(), ".*"), 0..3)) {
        let environment: Vec<_> = environment
            .into_iter()
            .map(|(flag, value)| (OsString::from(FLAGS[flag].variable()), OsString::from(value)))
            .collect();
        match parse("etcd-proxy", arguments.into_iter().map(OsString::from), environment) {
            Ok(Command::Start(options)) => {
                prop_assert!(options.upstream != Upstream::Endpoints(Vec::new()));
                prop_assert!(!options.dial_timeout.is_zero() && !options.keepalive_min_time.is_zero());
                prop_assert!(options.max_send_bytes > 0 && options.max_concurrent_streams > 0);
            }
            // Nothing it holds could be wrong.
            Ok(Command::InMemoryEtcd(_)) => {}
            Err(exit) => {
                // Each argument is told of at most twice, and shortened.
                prop_assert!(exit.code == 0 || exit.stderr.len() < 5000, "{}", exit.stderr);
                prop_assert_eq!(exit.code != 0, !exit.stderr.is_empty());
                prop_assert_eq!(exit.code == 0, !exit.stdout.is_empty());
            }
        }
    }
}

fn argument() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just(String::from("true")),
        Just("1s".into()),
        Just("7".into()),
        Just("a:1,unix:x".into()),
        ".*",
        "[-0-9a-z:.,=\"\\[\\]%]*"
    ];
    prop_oneof![
        2 => Just(String::from("start")),
        1 => prop::sample::select(vec!["grpc-proxy", "in-memory-etcd", "completion", "help", "bash", "--", "-h"]).prop_map(String::from),
        4 => (any_flag(), value).prop_map(|(flag, value)| format!("--{}={value}", FLAGS[flag].name)),
        1 => any_flag().prop_map(|flag| format!("--{}", FLAGS[flag].name)),
        1 => ".*",
        1 => "-{1,3}.*",
    ]
}

fn any_flag() -> impl Strategy<Value = usize> {
    0..FLAGS.len()
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command, Exit> {
    parse(
        "etcd-proxy",
        arguments.iter().map(OsString::from),
        environment
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    )
}

#[track_caller]
fn started(arguments: &[&str], environment: &[(&str, &str)]) -> StartOptions {
    match run(arguments, environment) {
        Ok(Command::Start(options)) => *options,
        Ok(other) => panic!("{arguments:?}: {other:?}"),
        Err(exit) => panic!("{arguments:?}: {}", exit.stderr),
    }
}

#[track_caller]
fn stopped(arguments: &[&str], environment: &[(&str, &str)]) -> Exit {
    run(arguments, environment).expect_err("the command line should not start anything")
}

fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp {
        host: host.into(),
        port,
    }
}

fn keepalive(interval_seconds: u64, timeout_seconds: u64) -> Keepalive {
    Keepalive {
        interval: Duration::from_secs(interval_seconds),
        timeout: Duration::from_secs(timeout_seconds),
    }
}
