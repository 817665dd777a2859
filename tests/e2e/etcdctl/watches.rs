//! watch.

use etcd_proxy_tests::{etcdctl::Etcdctl, process::Process, suite::eventually};
use libtest_mimic::Trial;

use crate::{SOON, Shared, shared, world};

pub(crate) fn trials(world: &Shared) -> Vec<Trial> {
    vec![
        shared(world, "watch_from_now", watch_from_now),
        shared(world, "watch_prefix_from_revision", watch_prefix_from_revision),
        shared(world, "watch_progress_notify", watch_progress_notify),
        shared(world, "watch_compacted", watch_compacted),
    ]
}

/// Starts a watch and lets it run.
fn start(ctl: &Etcdctl, world: &crate::World, name: &str, args: &[&str]) -> Process {
    ctl.start(args, &world.cluster.dir().join(format!("{name}.log")))
}

async fn prints(watch: &mut Process, expected: &str) {
    let what = format!("the watch prints {expected:?}");
    eventually(&what, SOON, async || {
        assert!(watch.exit_status().is_none(), "the watch ended: {}", watch.log());
        let log = watch.log();
        assert!(
            expected.starts_with(&log) || log.starts_with(expected),
            "the watch printed {log:?} instead of {expected:?}"
        );
        (log == expected).then_some(())
    })
    .await;
}

async fn watch_from_now(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    ctl.ok(&["put", "wn", "before"]).await;
    // The watch starts from the past as well, so that there is something to wait for before the puts.
    let revision = revision(&ctl, "wn").await;
    let rev = format!("--rev={revision}");
    let mut watch = start(&ctl, world, "wn", &["watch", "wn", "--prev-kv", &rev]);
    prints(&mut watch, "PUT\nwn\nbefore\n").await;
    ctl.ok(&["put", "wn", "after"]).await;
    // From another door: events of all writers come through.
    world.direct().ok(&["del", "wn"]).await;
    ctl.ok(&["put", "wn/other", "not watched"]).await;
    ctl.ok(&["put", "wn", "again"]).await;
    prints(
        &mut watch,
        "PUT\nwn\nbefore\nPUT\nwn\nbefore\nwn\nafter\nDELETE\nwn\nafter\nwn\n\nPUT\nwn\nagain\n",
    )
    .await;
}

async fn watch_prefix_from_revision(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    ctl.ok(&["put", "wp/0", "not in it"]).await;
    ctl.ok(&["put", "wp/1", "one"]).await;
    let rev = format!("--rev={}", revision(&ctl, "wp/1").await);
    ctl.ok(&["put", "wp/2", "two"]).await;
    ctl.ok(&["del", "wp/1"]).await;
    let history = "PUT\nwp/1\none\nPUT\nwp/2\ntwo\nDELETE\nwp/1\n\n";
    let mut watch = start(&ctl, world, "wp", &["watch", "wp/", "--prefix", &rev]);
    prints(&mut watch, history).await;
    ctl.ok(&["put", "wp/3", "live"]).await;
    prints(&mut watch, &format!("{history}PUT\nwp/3\nlive\n")).await;
}

async fn watch_progress_notify(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    ctl.ok(&["put", "wpn", "x"]).await;
    let revision = revision(&ctl, "wpn").await;
    let mut watch = start(&ctl, world, "wpn", &["watch", "wpn", "--progress-notify"]);
    let expected = format!("progress notify: {revision}\n");
    // etcd sends one a second in this world.
    eventually("two progress notifications", SOON, async || {
        assert!(watch.exit_status().is_none(), "the watch ended: {}", watch.log());
        (watch.log().matches(&expected).count() >= 2).then_some(())
    })
    .await;
}

async fn watch_compacted(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    ctl.ok(&["put", "wc", "1"]).await;
    ctl.ok(&["put", "wc", "2"]).await;
    let revision = revision(&ctl, "wc").await;
    ctl.ok(&["compaction", &revision.to_string()]).await;
    let rev = format!("--rev={}", revision - 1);
    let output = world.same(&["watch", "wc", &rev]).await;
    assert!(
        output
            .stderr
            .contains("mvcc: required revision has been compacted"),
        "{output:?}"
    );
}

/// The revision of the last change of a key.
async fn revision(ctl: &Etcdctl, key: &str) -> i64 {
    let json = ctl.ok(&["get", key, "-w=json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    json["kvs"][0]["mod_revision"].as_i64().expect("the key exists")
}
