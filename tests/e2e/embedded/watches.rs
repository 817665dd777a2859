//! watch.

use etcd_proxy_tests::{process::Process, suite::eventually};
use libtest_mimic::Trial;

use crate::{SOON, World, both};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(both("watch", watch));
    trials.extend(both("watch_compacted", watch_compacted));
    trials
}

/// Waits until a watch has printed exactly this.
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

async fn watch(mut world: World) {
    let ctl = world.ctl();
    ctl.ok(&["put", "w/1", "one"]).await;
    ctl.ok(&["put", "w/2", "two"]).await;
    ctl.ok(&["del", "w/1"]).await;
    ctl.ok(&["put", "x", "not in it"]).await;
    let history = "PUT\nw/1\none\nPUT\nw/2\ntwo\nDELETE\nw/1\n\n";
    let mut all = world.background("all", &["watch", "w/", "--prefix", "--rev=1"]);
    prints(&mut all, history).await;
    let mut previous = world.background("previous", &["watch", "w/2", "--prev-kv", "--rev=3"]);
    prints(&mut previous, "PUT\nw/2\ntwo\n").await;
    ctl.ok(&["put", "w/2", "more"]).await;
    ctl.ok(&["del", "w/2"]).await;
    prints(&mut all, &format!("{history}PUT\nw/2\nmore\nDELETE\nw/2\n\n")).await;
    prints(
        &mut previous,
        "PUT\nw/2\ntwo\nPUT\nw/2\ntwo\nw/2\nmore\nDELETE\nw/2\nmore\nw/2\n\n",
    )
    .await;
    world.assert_sound();
}

async fn watch_compacted(mut world: World) {
    let ctl = world.ctl();
    ctl.ok(&["put", "k", "1"]).await;
    ctl.ok(&["put", "k", "2"]).await;
    ctl.ok(&["compaction", "3"]).await;
    let output = ctl.run(&["watch", "k", "--rev=2"]).await;
    assert!(!output.is_ok(), "{output:?}");
    assert!(
        output
            .stderr
            .contains("mvcc: required revision has been compacted"),
        "{output:?}"
    );
    let mut watch = world.background("kept", &["watch", "k", "--rev=3"]);
    prints(&mut watch, "PUT\nk\n2\n").await;
    world.assert_sound();
}
