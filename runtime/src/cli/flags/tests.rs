use std::collections::BTreeSet;

use super::*;

/// Names, types and defaults as `etcd grpc-proxy start --help` prints them (3.5.30, and the one flag of 3.6).
const ETCD: &str = "\
advertise-client-url string 127.0.0.1:23790
auto-tls bool
cacert string
cert string
cert-file string
client-crl-file string
data-dir string default.proxy
debug bool
dial-keepalive-time duration
dial-keepalive-timeout duration 20s
discovery-srv string
discovery-srv-name string
enable-pprof bool
endpoints strings 127.0.0.1:2379
endpoints-auto-sync-interval duration
experimental-enable-grpc-logging bool
experimental-leasing-prefix string
experimental-serializable-ordering bool
grpc-keepalive-interval duration 2h0m0s
grpc-keepalive-min-time duration 5s
grpc-keepalive-timeout duration 20s
insecure-discovery bool
insecure-skip-tls-verify bool
key string
key-file string
listen-addr string 127.0.0.1:23790
listen-cipher-suites strings
max-concurrent-streams uint32 4294967295
max-recv-bytes int 2147483647
max-send-bytes int 1572864
metrics-addr string
namespace string
permit-without-stream bool
resolver-prefix string
resolver-ttl int
self-signed-cert-validity uint 1
tls-max-version string
tls-min-version string TLS1.2
trusted-ca-file string
";

const OURS: [&str; 16] = [
    "allow-client-cert-common-name",
    "cache",
    "cache-linearizable",
    "cache-prefixes",
    "cache-size",
    "cache-staleness",
    "dial-timeout",
    "embedded",
    "endpoint-probe-interval",
    "endpoint-probe-timeout",
    "lease-share-within",
    "log-format",
    "log-level",
    "shutdown-timeout",
    "watch-progress-notify-interval",
    "workers",
];

#[test]
fn the_table_has_the_flags_of_etcd_and_ours() {
    let mut names = BTreeSet::from(OURS);
    for row in ETCD.lines() {
        let mut words = row.split(' ');
        let (name, kind, default) = (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap_or_default(),
        );
        let flag = FLAGS
            .iter()
            .find(|flag| flag.name == name)
            .unwrap_or_else(|| panic!("--{name} is missing"));
        names.insert(name);
        let expected = match kind {
            "bool" => Kind::Bool,
            "duration" => Kind::Duration,
            "int" => Kind::Int,
            "string" => Kind::Text,
            "strings" => Kind::List,
            "uint" => Kind::Uint(u64::MAX),
            "uint32" => Kind::Uint(u64::from(u32::MAX)),
            other => panic!("no type is called {other}"),
        };
        assert_eq!(flag.kind, expected, "--{name}");
        // pflag prints no default that is the zero of its type.
        let zero = matches!(flag.default, "false" | "0" | "0s");
        // The one default that differs: not given, MemberList is passed through.
        let default = if name == "advertise-client-url" {
            ""
        } else {
            default
        };
        assert_eq!(if zero { "" } else { flag.default }, default, "--{name}");
    }
    assert_eq!(FLAGS.iter().map(|flag| flag.name).collect::<BTreeSet<_>>(), names);
    assert_eq!(FLAGS.len(), names.len(), "a name is in the table twice");
}

#[test]
fn defaults_parse_and_show_in_the_style_of_go() {
    for flag in FLAGS.iter().chain(IN_MEMORY_ETCD_FLAGS) {
        if let Value::Duration(ns) = flag.default_value() {
            assert_eq!(duration::format(ns), flag.default, "--{}", flag.name);
        }
        // A help text is one or more sentences; the generator adds the rest.
        assert!(
            !flag.help.is_empty() && !flag.help.ends_with(['.', ' ']),
            "--{}",
            flag.name
        );
    }
}

#[test]
fn variables() {
    assert_eq!(FLAGS[0].variable(), "ETCD_PROXY_LISTEN_ADDR");
}

/// They share their environment variables.
#[test]
fn flags_of_both_commands_take_the_same_values() {
    for flag in IN_MEMORY_ETCD_FLAGS {
        let other = FLAGS
            .iter()
            .find(|other| other.name == flag.name)
            .unwrap_or_else(|| panic!("--{} is new: is its variable nobody else's?", flag.name));
        assert_eq!(flag.kind, other.kind, "--{}", flag.name);
        assert_eq!(flag.support, Support::Full, "--{}", flag.name);
    }
}
