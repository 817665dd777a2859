//! Starting, stopping, and what is said meanwhile.

use bytes::Bytes;
use etcd_proxy_tests::{
    process::Signal,
    proxy::{READY, run_binary},
    suite::{TempDir, eventually, free_port, trial, within},
    wire::{Call, Wire},
};
use libtest_mimic::Trial;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{ETCD_READY, SOON, Way, World, both, printed, start, terminate};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("process/labels_in_the_log", labels_in_the_log),
        trial("process/what_to_try_next", what_to_try_next),
        trial("process/help_says_it", help_says_it),
        trial("process/refused", refused),
        trial("process/taken_port", taken_port),
    ];
    trials.extend(both("gone_after_a_restart", gone_after_a_restart));
    trials.extend(both("sigterm_drains", sigterm_drains));
    trials.extend(both("idle_ends_at_once", idle_ends_at_once));
    trials
}

/// What it is called wherever it shows.
const LABEL: &str = "in-memory etcd for trying out and tests; data is lost at exit";

fn json_lines(log: &str) -> Vec<Value> {
    let parse =
        |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"));
    log.lines().map(parse).collect()
}

/// JSON stays JSON, with one line at level warn that says what this is, and the readiness line as ever.
async fn labels_in_the_log() {
    let world = World::start(Way::Embedded).await;
    let lines = json_lines(&world.proxy.log());
    let labels: Vec<_> = lines.iter().filter(|line| line["msg"] == LABEL).collect();
    assert_eq!(labels.len(), 1, "{lines:?}");
    assert_eq!(labels[0]["level"], "warn");
    let address = labels[0]["address"].as_str().expect("where it listens");
    TcpStream::connect(address).await.expect("it listens there");
    let ready: Vec<_> = lines.iter().filter(|line| line["msg"] == READY).collect();
    assert_eq!(ready.len(), 1, "{lines:?}");
    assert_eq!(ready[0]["address"], world.address.as_str());

    let world = World::start(Way::Alone).await;
    let (etcd, address) = world.etcd.as_ref().expect("a process of its own");
    let lines = json_lines(&etcd.log());
    for (level, message) in [("warn", LABEL), ("info", ETCD_READY)] {
        let found: Vec<_> = lines.iter().filter(|line| line["msg"] == message).collect();
        assert_eq!(found.len(), 1, "{lines:?}");
        assert_eq!(found[0]["level"], level);
        assert_eq!(found[0]["address"], address.as_str());
    }
}

/// For people: commands with the address to use, and they work as they are printed.
async fn what_to_try_next() {
    let dir = TempDir::new("hint");
    for (name, args) in [
        ("embedded", &["start", "--embedded"][..]),
        ("alone", &["in-memory-etcd"]),
    ] {
        let address = format!("127.0.0.1:{}", free_port());
        let args = [args, &["--log-format=console", "--listen-addr", &address]].concat();
        let mut process = start(&dir, name, &args);
        let line = format!("export ETCDCTL_ENDPOINTS={address}\n");
        printed(&mut process, &line).await;
        printed(&mut process, "lease grant 60\n").await;
        let log = process.log();
        let ctl = etcd_proxy_tests::etcdctl::Etcdctl::new(&address);
        let mut tried = 0;
        for line in log.lines() {
            let Some(command) = line.trim().strip_prefix("etcdctl ") else {
                continue;
            };
            let args: Vec<&str> = command.split(' ').collect();
            if args[0] == "watch" {
                let watch = ctl.start(&args, &dir.path().join(format!("{name}-watch.log")));
                // It begins at some time from now on.
                eventually("the watch sees a put", SOON, async || {
                    ctl.ok(&["put", "greeting", "again"]).await;
                    watch.log().contains("PUT\ngreeting\nagain\n").then_some(())
                })
                .await;
            } else {
                ctl.ok(&args).await;
            }
            tried += 1;
        }
        assert_eq!(tried, 4, "{log}");
    }
}

async fn help_says_it() {
    for args in [
        &["start", "--help"][..],
        &["in-memory-etcd", "--help"],
        &["--help"],
    ] {
        let output = run_binary(args, SOON).await;
        assert!(output.is_ok(), "{output:?}");
        let text = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("data is lost at exit"), "{args:?}: {text}");
    }
}

async fn refused() {
    for flags in [
        &["--endpoints=127.0.0.1:2379"][..],
        &["--discovery-srv=example.org"],
        &["--endpoints-auto-sync-interval=5s"],
        &["--cacert=ca.pem"],
    ] {
        let args = [&["start", "--embedded", "--listen-addr=127.0.0.1:0"], flags].concat();
        let output = run_binary(&args, SOON).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        let flag = flags[0].split('=').next().unwrap_or_default();
        let message =
            format!("--embedded cannot be combined with {flag}: the in-memory etcd is the only endpoint\n");
        assert_eq!(output.stderr, message);
    }
    let output = run_binary(&["in-memory-etcd", "--endpoints=127.0.0.1:1"], SOON).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.starts_with("Error: unknown flag: --endpoints\n"),
        "{output:?}"
    );
}

async fn taken_port() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    let address = taken.local_addr().expect("bound address").to_string();
    let output = run_binary(&["in-memory-etcd", "--listen-addr", &address], SOON).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let expected = format!("listen tcp {address}: bind: address already in use\n");
    assert!(output.stderr.ends_with(&expected), "{output:?}");
}

async fn gone_after_a_restart(mut world: World) {
    let ctl = world.ctl();
    ctl.ok(&["put", "here", "today"]).await;
    assert_eq!(ctl.ok(&["get", "here"]).await, "here\ntoday\n");
    let (name, args) = match &world.etcd {
        Some((_, address)) => ("etcd", vec!["in-memory-etcd", "--listen-addr", address]),
        None => (
            "proxy",
            vec!["start", "--embedded", "--listen-addr", &world.address],
        ),
    };
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(terminate(world.etcd()).await, Some(0));
    let again = start(&world.dir, &format!("{name}-again"), &args);
    *world.etcd() = again;
    let ready = if name == "etcd" { ETCD_READY } else { READY };
    printed(world.etcd(), ready).await;
    let get = eventually("it answers again", SOON, async || {
        let output = ctl.run(&["get", "here"]).await;
        output.is_ok().then_some(output)
    });
    assert_eq!(get.await.stdout, "", "it has kept something");
    assert_eq!(ctl.ok(&["put", "here", "again"]).await, "OK\n");
    world.assert_sound();
}

/// Opens a watch and waits until it is there.
async fn watching(wire: &Wire) -> Call {
    let mut watch = wire.open("/etcdserverpb.Watch/Watch", &[]).await.expect("watch");
    // A create request for the key `k`.
    watch
        .send(Bytes::from_static(b"\x0a\x03\x0a\x01k"))
        .await
        .expect("send");
    assert!(within("created", SOON, watch.message()).await.is_some());
    watch
}

/// Watches end with UNAVAILABLE, calls that wait for their end are let finish, nobody else gets in, exit code 0.
async fn sigterm_drains(mut world: World) {
    let direct = world.etcd.as_ref().map(|(_, address)| address.clone());
    let address = direct.unwrap_or_else(|| world.address.clone());
    let wire = Wire::connect(&address).await.expect("connection");
    let watch = watching(&wire).await;
    // A put whose message is still to come.
    let mut put = wire.open("/etcdserverpb.KV/Put", &[]).await.expect("call");
    put.send_raw(Bytes::from_static(&[0, 0, 0]), false)
        .await
        .expect("send");
    // The answer to this one says that the server has read the one before.
    let request = [Bytes::from_static(b"\x0a\x01k")];
    let get = wire.call("/etcdserverpb.KV/Range", &[], &request);
    assert!(within("a get", SOON, get).await.is_ok());

    world.etcd().signal(Signal::TERM);
    let reply = within("the end of the watch", SOON, watch.finish()).await;
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    eventually("new connections are refused", SOON, async || {
        TcpStream::connect(&address).await.is_err().then_some(())
    })
    .await;
    assert!(world.etcd().exit_status().is_none(), "it left a call behind");
    put.send_raw(Bytes::from_static(b"\0\x06\x0a\x01k\x12\x01v"), true)
        .await
        .expect("send");
    let reply = within("the answer", SOON, put.finish()).await;
    assert!(reply.is_ok(), "{reply:?}");
    let status = world.etcd().ended(SOON).await;
    assert_eq!(status.code(), Some(0), "{}", world.etcd().log());
    assert!(world.etcd().log().contains("stopped"));
}

/// Connections without a call are no reason to wait.
async fn idle_ends_at_once(mut world: World) {
    let mut addresses = vec![world.address.clone()];
    addresses.extend(world.etcd.as_ref().map(|(_, address)| address.clone()));
    let mut connections = Vec::new();
    for address in &addresses {
        let idle = Wire::connect(address).await.expect("connection");
        let silent = TcpStream::connect(address).await.expect("connection");
        connections.push((idle, silent));
    }
    assert_eq!(terminate(world.etcd()).await, Some(0), "{}", world.etcd().log());
}
