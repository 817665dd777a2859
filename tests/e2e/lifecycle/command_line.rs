//! The command line as scripts see it: exit codes, messages, the readiness line.

use std::time::Duration;

use etcd_proxy_tests::{
    process::Output,
    proxy::{Proxy, READY, run_binary},
    suite::trial,
};
use libtest_mimic::Trial;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("readiness_line", readiness_line),
        trial("every_line_is_json", every_line_is_json),
        trial("port_in_use", port_in_use),
        trial("bad_flags", bad_flags),
        trial("bad_words", bad_words),
        trial("refused_flags", refused_flags),
        trial("help_and_version", help_and_version),
        trial("alias", alias),
    ]
}

fn json_lines(log: &str) -> Vec<Value> {
    let parse =
        |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"));
    log.lines().map(parse).collect()
}

async fn readiness_line() {
    let proxy = Proxy::start(&["127.0.0.1:9".to_owned()], &[]).await;
    let lines = json_lines(&proxy.log());
    let ready: Vec<&Value> = lines.iter().filter(|line| line["msg"] == READY).collect();
    assert_eq!(ready.len(), 1, "{lines:?}");
    assert_eq!(ready[0]["level"], "info");
    assert_eq!(ready[0]["address"], proxy.address());
    let time = ready[0]["ts"].as_str().expect("ts is text");
    assert!(
        time.len() >= 20 && time.contains('T') && time.ends_with('Z'),
        "{time}"
    );
    let caller = ready[0]["caller"].as_str().expect("caller is text");
    let (file, line) = caller.rsplit_once(':').expect("FILE:LINE");
    assert!(file.ends_with(".rs") && !file.starts_with('/'), "{caller}");
    assert!(line.parse::<u32>().is_ok(), "{caller}");
}

async fn every_line_is_json() {
    let mut proxy = Proxy::start(&["127.0.0.1:9".to_owned()], &["--debug"]).await;
    proxy.process().signal(etcd_proxy_tests::process::Signal::TERM);
    let status = proxy.process().ended(LIMIT).await;
    assert_eq!(status.code(), Some(0));
    let lines = json_lines(&proxy.log());
    assert!(lines.len() > 1, "{lines:?}");
    for line in lines {
        for key in ["level", "ts", "caller", "msg"] {
            assert!(line[key].is_string(), "no {key} in {line}");
        }
    }
}

async fn port_in_use() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    let address = taken.local_addr().expect("bound address").to_string();
    let output = run_binary(&["start", "--listen-addr", &address], LIMIT).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let expected = format!("listen tcp {address}: bind: address already in use");
    assert!(output.stderr.contains(&expected), "{output:?}");
    assert!(!output.stderr.contains(READY), "{output:?}");
}

/// A typo in a unit file is no success, and nothing is left out without a word.
async fn bad_words() {
    let long = format!("--{}", "x".repeat(100_000));
    for (args, text) in [
        (&["strat", "--embedded"][..], "did you mean start?"),
        (&["grpc-proxy", "strat"], "did you mean start?"),
        (
            &["start", "--embedded", "false"],
            "did you mean --embedded=false?",
        ),
        (&["start", "--embedded", "now"], "unexpected argument \"now\""),
        (&["in-memory-etcd", "now"], "unexpected argument \"now\""),
        (&["start", "--listen-adr=:0"], "did you mean --listen-addr?"),
        (&["start", "--workers=1025"], "it must be from 0 to 1024"),
        (
            &["start", "--endpoint-probe-interval=1ms"],
            "it must be at least 100ms",
        ),
        (&["start", "--cache-size=0"], "--cache=off"),
        (
            &["start", "--listen-addr=127.0.0.1:0", "--listen-addr=127.0.0.1:0"],
            "was given before",
        ),
        (&["start", "--endpoints=http://a:1/path"], "leave out \"/path\""),
        (&["start", "--listen-addr=unix:/x.sock"], "unix sockets"),
        (&["start", &long], "(100000 bytes)"),
    ] {
        let output = run_binary(args, Duration::from_secs(3)).await;
        let shown = format!("{:.60}", args.join(" "));
        assert_eq!(output.code, Some(1), "{shown}: {:.300}", output.stderr);
        assert!(
            output.stderr.contains(text),
            "{shown}: {text:?}: {:.300}",
            output.stderr
        );
        assert!(
            output.stderr.len() < 1000,
            "{shown}: {} bytes",
            output.stderr.len()
        );
        assert!(
            output.stdout.is_empty() && !output.stderr.contains(READY),
            "{shown}"
        );
    }
}

fn says(output: &Output, code: i32, text: &str) {
    assert_eq!(output.code, Some(code), "{output:?}");
    assert!(output.stderr.contains(text), "{text:?} is not in {output:?}");
}

async fn bad_flags() {
    for (args, text) in [
        (&["start", "--nonsense"][..], "unknown flag: --nonsense"),
        (&["start", "--nonsense=1"], "unknown flag: --nonsense"),
        (
            &["start", "--listen-addr"],
            "flag needs an argument: --listen-addr",
        ),
        (
            &["start", "--max-send-bytes=x"],
            "invalid argument \"x\" for \"--max-send-bytes\" flag",
        ),
        (
            &["start", "--debug=maybe"],
            "invalid argument \"maybe\" for \"--debug\" flag",
        ),
        (
            &["start", "--grpc-keepalive-interval=5"],
            "missing unit in duration",
        ),
        (
            &["start", "--max-concurrent-streams=-1"],
            "invalid argument \"-1\"",
        ),
        (
            &["start", "--listen-addr=http://127.0.0.1:1"],
            "too many colons in address",
        ),
        (&["start", "--listen-addr=127.0.0.1"], "missing port in address"),
        (&["start", "--resolver-prefix=p"], "invalid resolver-ttl 0"),
        (&["start", "--resolver-ttl=5"], "invalid resolver-prefix \"\""),
        (&["start", "--tls-min-version=TLS9"], "tls-min-version is invalid"),
        (
            &["start", "--max-recv-bytes=5", "--max-send-bytes=6"],
            "gRPC message recv limit (5 bytes) must be greater than send limit (6 bytes)",
        ),
        (&["start", "--endpoints="], "no available endpoints"),
    ] {
        says(&run_binary(args, LIMIT).await, 1, text);
    }
}

async fn refused_flags() {
    for flag in [
        "--namespace=x",
        "--discovery-srv=example.org",
        "--endpoints-auto-sync-interval=5s",
        "--metrics-addr=http://127.0.0.1:1",
        "--enable-pprof",
        "--experimental-serializable-ordering",
        "--experimental-leasing-prefix=x",
    ] {
        let output = run_binary(&["start", flag, "--listen-addr=127.0.0.1:0"], LIMIT).await;
        let name = flag.split('=').next().unwrap_or(flag);
        says(&output, 1, name);
        assert!(!output.stderr.contains(READY), "{flag} was ignored: {output:?}");
    }
    // Told to do what it does anyway is no reason to refuse.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    let listen = format!("--listen-addr={}", taken.local_addr().expect("bound address"));
    let args = [
        "start",
        &listen,
        "--namespace=",
        "--auto-tls=false",
        "--endpoints-auto-sync-interval=0",
    ];
    says(&run_binary(&args, LIMIT).await, 1, "address already in use");
}

async fn help_and_version() {
    for args in [&["--help"][..], &["start", "--help"], &["start", "-h"], &["help"]] {
        let output = run_binary(args, LIMIT).await;
        assert_eq!(output.code, Some(0), "{args:?}: {output:?}");
        assert!(output.stdout.contains("start"), "{args:?}: {output:?}");
    }
    let help = run_binary(&["start", "--help"], LIMIT).await.stdout;
    for flag in [
        "--listen-addr",
        "--endpoints",
        "--endpoints-auto-sync-interval",
        "--discovery-srv",
        "--discovery-srv-name",
        "--insecure-discovery",
        "--metrics-addr",
        "--advertise-client-url",
        "--resolver-prefix",
        "--resolver-ttl",
        "--namespace",
        "--enable-pprof",
        "--data-dir",
        "--max-send-bytes",
        "--max-recv-bytes",
        "--dial-keepalive-time",
        "--dial-keepalive-timeout",
        "--permit-without-stream",
        "--grpc-keepalive-min-time",
        "--grpc-keepalive-interval",
        "--grpc-keepalive-timeout",
        "--cert",
        "--key",
        "--cacert",
        "--insecure-skip-tls-verify",
        "--cert-file",
        "--key-file",
        "--trusted-ca-file",
        "--auto-tls",
        "--client-crl-file",
        "--self-signed-cert-validity",
        "--listen-cipher-suites",
        "--tls-min-version",
        "--tls-max-version",
        "--experimental-serializable-ordering",
        "--experimental-leasing-prefix",
        "--experimental-enable-grpc-logging",
        "--debug",
        "--max-concurrent-streams",
    ] {
        let listed = help
            .split_whitespace()
            .any(|word| word.trim_end_matches(',').split(['=', '[']).next() == Some(flag));
        assert!(listed, "{flag} is not in the help");
    }
    let version = run_binary(&["--version"], LIMIT).await;
    assert_eq!(version.code, Some(0), "{version:?}");
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    for shell in ["bash", "zsh", "fish"] {
        let output = run_binary(&["completion", shell], LIMIT).await;
        assert!(
            output.is_ok() && output.stdout.contains("listen-addr"),
            "{shell}: {output:?}"
        );
    }
}

/// Scripts for the existing proxy change the program's name only.
async fn alias() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    let address = taken.local_addr().expect("bound address").to_string();
    let args = ["grpc-proxy", "start", "--listen-addr", &address];
    says(&run_binary(&args, LIMIT).await, 1, "address already in use");
}
