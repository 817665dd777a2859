//! lease, lock, elect; and that real time makes leases end.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{etcdctl::Etcdctl, process::Signal, suite::eventually};
use libtest_mimic::Trial;

use crate::{SOON, World, both, last_line};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(both("lease", lease));
    trials.extend(both("lease_expires", lease_expires));
    trials.extend(both("lease_keep_alive", lease_keep_alive));
    trials.extend(both("lock", lock));
    trials.extend(both("elect", elect));
    trials
}

/// Grants a lease and gives its id as etcdctl writes it (hexadecimal).
async fn grant(ctl: &Etcdctl, seconds: u32) -> String {
    let output = ctl.ok(&["lease", "grant", &seconds.to_string()]).await;
    let words: Vec<&str> = output.split_ascii_whitespace().collect();
    let ["lease", id, "granted", "with", ttl] = words[..] else {
        panic!("unexpected output {output:?}");
    };
    assert_eq!(ttl, format!("TTL({seconds}s)"));
    id.to_owned()
}

async fn lease(mut world: World) {
    let ctl = world.ctl();
    let id = grant(&ctl, 600).await;
    ctl.ok(&["put", "l/a", "x", &format!("--lease={id}")]).await;
    let ttl = ctl.ok(&["lease", "timetolive", &id, "--keys"]).await;
    assert!(
        ttl.starts_with(&format!("lease {id} granted with TTL(600s), remaining("))
            && ttl.contains("attached keys([l/a])"),
        "{ttl}"
    );
    assert_eq!(
        ctl.ok(&["lease", "keep-alive", "--once", &id]).await,
        format!("lease {id} keepalived with TTL(600)\n")
    );
    assert_eq!(
        ctl.ok(&["lease", "list"]).await,
        format!("found 1 leases\n{id}\n")
    );
    assert_eq!(
        ctl.ok(&["lease", "revoke", &id]).await,
        format!("lease {id} revoked\n")
    );
    assert_eq!(ctl.ok(&["get", "l/", "--prefix"]).await, "");
    let failed = ctl.run(&["lease", "revoke", &id]).await;
    assert!(
        last_line(&failed).contains("etcdserver: requested lease not found"),
        "{failed:?}"
    );
    let failed = ctl.run(&["lease", "grant", "9000000001"]).await;
    assert!(
        last_line(&failed).contains("etcdserver: too large lease TTL"),
        "{failed:?}"
    );
    world.assert_sound();
}

async fn lease_expires(mut world: World) {
    let ctl = world.ctl();
    let granted = Instant::now();
    let id = grant(&ctl, 2).await;
    ctl.ok(&["put", "le", "x", &format!("--lease={id}")]).await;
    let watch = world.background("expiry", &["watch", "le", "--rev=1"]);
    eventually("the watch sees the end", SOON, async || {
        (watch.log() == "PUT\nle\nx\nDELETE\nle\n\n").then_some(())
    })
    .await;
    // No sooner than promised.
    assert!(granted.elapsed() >= Duration::from_secs(2));
    assert_eq!(ctl.ok(&["get", "le"]).await, "");
    let ttl = ctl.ok(&["lease", "timetolive", &id]).await;
    assert_eq!(ttl, format!("lease {id} already expired\n"));
    world.assert_sound();
}

async fn lease_keep_alive(mut world: World) {
    let ctl = world.ctl();
    let id = grant(&ctl, 3).await;
    ctl.ok(&["put", "ka", "x", &format!("--lease={id}")]).await;
    let mut keeper = world.background("keeper", &["lease", "keep-alive", &id]);
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
    eventually("the lease ends with its keeper", SOON, async || {
        ctl.ok(&["get", "ka"]).await.is_empty().then_some(())
    })
    .await;
    world.assert_sound();
}

async fn lock(mut world: World) {
    let ctl = world.ctl();
    assert_eq!(ctl.ok(&["lock", "lk", "echo", "held"]).await, "held\n");
    let key_of = |log: String| {
        log.lines()
            .next()
            .map(str::to_owned)
            .filter(|key| !key.is_empty())
    };
    let mut first = world.background("first", &["lock", "lk"]);
    let first_key = eventually("the first holds the lock", SOON, async || key_of(first.log())).await;
    assert!(first_key.starts_with("lk/"), "{first_key}");
    let second = world.background("second", &["lock", "lk"]);
    eventually("the second waits in the queue", SOON, async || {
        let keys = ctl.ok(&["get", "lk/", "--prefix", "--keys-only"]).await;
        (keys.split_ascii_whitespace().count() == 2).then_some(())
    })
    .await;
    assert_eq!(key_of(second.log()), None, "two hold the lock");
    first.signal(Signal::INT);
    let second_key = eventually("the second holds the lock", SOON, async || key_of(second.log())).await;
    assert_ne!(first_key, second_key);
    world.assert_sound();
}

async fn elect(mut world: World) {
    let ctl = world.ctl();
    let mut leader = world.background("alice", &["elect", "el", "alice"]);
    eventually("alice is elected", SOON, async || {
        leader.log().contains("\nalice\n").then_some(())
    })
    .await;
    let listener = world.background("listener", &["elect", "--listen", "el"]);
    eventually("the listener sees alice", SOON, async || {
        listener.log().contains("\nalice\n").then_some(())
    })
    .await;
    let next = world.background("bob", &["elect", "el", "bob"]);
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
    world.assert_sound();
}
