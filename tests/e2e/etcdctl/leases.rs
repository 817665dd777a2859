//! lease, lock, elect.

use std::collections::BTreeSet;

use etcd_proxy_tests::{etcdctl::Etcdctl, process::Signal, suite::eventually};
use libtest_mimic::Trial;

use crate::{SOON, Shared, last_line, shared, world};

pub(crate) fn trials(world: &Shared) -> Vec<Trial> {
    vec![
        shared(world, "lease", lease),
        shared(world, "lease_keep_alive", lease_keep_alive),
        shared(world, "lock", lock),
        shared(world, "elect", elect),
    ]
}

/// Grants a lease and gives its id as etcdctl writes it (hexadecimal).
pub(crate) async fn grant(ctl: &Etcdctl, seconds: u32) -> String {
    let output = ctl.ok(&["lease", "grant", &seconds.to_string()]).await;
    let words: Vec<&str> = output.split_ascii_whitespace().collect();
    let ["lease", id, "granted", "with", ttl] = words[..] else {
        panic!("unexpected output {output:?}");
    };
    assert_eq!(ttl, format!("TTL({seconds}s)"));
    id.to_owned()
}

async fn lease(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    let id = grant(&ctl, 600).await;
    ctl.ok(&["put", "lease/a", "x", &format!("--lease={id}")]).await;
    ctl.ok(&["put", "lease/b", "x", &format!("--lease={id}")]).await;

    let ttl = ctl.ok(&["lease", "timetolive", &id, "--keys"]).await;
    assert!(
        ttl.starts_with(&format!("lease {id} granted with TTL(600s), remaining(")),
        "{ttl}"
    );
    // A lease's keys have no order.
    let keys = ["[lease/a lease/b]", "[lease/b lease/a]"];
    assert!(
        keys.iter()
            .any(|keys| ttl.contains(&format!("attached keys({keys})"))),
        "{ttl}"
    );

    let once = ctl.ok(&["lease", "keep-alive", "--once", &id]).await;
    assert_eq!(once, format!("lease {id} keepalived with TTL(600)\n"));

    let list = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let proxied = list(ctl.ok(&["lease", "list"]).await);
    assert!(proxied.contains(&id), "{proxied:?}");
    assert_eq!(proxied, list(world.direct().ok(&["lease", "list"]).await));

    assert_eq!(
        ctl.ok(&["lease", "revoke", &id]).await,
        format!("lease {id} revoked\n")
    );
    assert_eq!(world.direct().ok(&["get", "lease/", "--prefix"]).await, "");

    // What is gone looks gone.
    let failed = world.same(&["lease", "revoke", &id]).await;
    assert!(
        last_line(&failed).contains("etcdserver: requested lease not found"),
        "{failed:?}"
    );
    world.same(&["lease", "timetolive", &id]).await;
    world.same(&["lease", "keep-alive", "--once", &id]).await;
    world.same(&["lease", "keep-alive", &id]).await;
    world.same(&["lease", "grant", "9000000001"]).await;
}

async fn lease_keep_alive(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    let id = grant(&ctl, 3).await;
    ctl.ok(&["put", "ka", "x", &format!("--lease={id}")]).await;
    let log = world.cluster.dir().join("ka.log");
    let mut keeper = ctl.start(&["lease", "keep-alive", &id], &log);
    let line = format!("lease {id} keepalived with TTL(3)\n");
    // One heartbeat a second; seven of them are more than two lifetimes.
    eventually("seven heartbeats", SOON, async || {
        assert!(
            keeper.exit_status().is_none(),
            "keep-alive ended: {}",
            keeper.log()
        );
        (keeper.log().matches(&line).count() >= 7).then_some(())
    })
    .await;
    assert_eq!(ctl.ok(&["get", "ka"]).await, "ka\nx\n");
    keeper.kill();
    // Nobody else keeps it alive.
    eventually("the lease ends with its keeper", SOON, async || {
        ctl.ok(&["get", "ka"]).await.is_empty().then_some(())
    })
    .await;
}

async fn lock(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    let output = ctl.ok(&["lock", "lk", "echo", "held"]).await;
    assert_eq!(output, "held\n");
    let key_of = |log: String| {
        log.lines()
            .next()
            .map(str::to_owned)
            .filter(|key| !key.is_empty())
    };

    let mut first = ctl.start(&["lock", "lk"], &world.cluster.dir().join("lk1.log"));
    let first_key = eventually("the first holds the lock", SOON, async || key_of(first.log())).await;
    assert!(first_key.starts_with("lk/"), "{first_key}");
    let second = ctl.start(&["lock", "lk"], &world.cluster.dir().join("lk2.log"));
    eventually("the second waits in the queue", SOON, async || {
        let keys = ctl.ok(&["get", "lk/", "--prefix", "--keys-only"]).await;
        (keys.split_ascii_whitespace().count() == 2).then_some(())
    })
    .await;
    assert_eq!(key_of(second.log()), None, "two hold the lock");
    first.signal(Signal::INT);
    let second_key = eventually("the second holds the lock", SOON, async || key_of(second.log())).await;
    assert_ne!(first_key, second_key);
}

async fn elect(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    let dir = world.cluster.dir();
    let mut leader = ctl.start(&["elect", "el", "alice"], &dir.join("el1.log"));
    eventually("alice is elected", SOON, async || {
        leader.log().contains("\nalice\n").then_some(())
    })
    .await;
    let listener = ctl.start(&["elect", "--listen", "el"], &dir.join("el2.log"));
    eventually("the listener sees alice", SOON, async || {
        listener.log().contains("\nalice\n").then_some(())
    })
    .await;
    let next = ctl.start(&["elect", "el", "bob"], &dir.join("el3.log"));
    eventually("bob waits in the queue", SOON, async || {
        let keys = ctl.ok(&["get", "el/", "--prefix", "--keys-only"]).await;
        (keys.split_ascii_whitespace().count() == 2).then_some(())
    })
    .await;
    assert!(!next.log().contains("bob"), "two were elected");
    leader.signal(Signal::INT);
    eventually("bob is elected and seen", SOON, async || {
        (next.log().contains("\nbob\n") && listener.log().contains("\nbob\n")).then_some(())
    })
    .await;
}
