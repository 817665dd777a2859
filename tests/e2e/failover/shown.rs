//! What was shown before a failover is not taken back after it.

use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::RangeRequest;
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    relay::Mode,
    suite::{eventually, trial},
};
use libtest_mimic::Trial;

use crate::members::{in_use, lead};

const ROUNDS: u32 = 2;

const ELECTION_LIMIT: Duration = Duration::from_secs(40);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "a_write_is_shown_whatever_becomes_of_its_leader",
        cut_off_and_killed,
    )]
}

/// The leader answers a write, and the others never hear that it is committed. They only know once they have a new leader,
/// and that takes an election.
async fn cut_off_and_killed() {
    let mut cluster = Cluster::start(Options {
        peer_delay: Duration::from_millis(100),
        ..Options::three()
    })
    .await;
    let ids = cluster.ids().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    for round in 1..=ROUNDS {
        cluster.all_serve().await;
        let leader = in_use(&proxy, &ids).await;
        lead(&cluster, &ids, leader).await;
        let client = Client::connect(proxy.address()).await.expect("proxy");
        let value = format!("{round}");
        let written = client.put(b"k", value.as_bytes()).await.expect("put");
        let written = written.header.expect("a header").revision;
        cluster.isolate(leader, Mode::BlackHole);
        cluster.kill(leader);
        let read = RangeRequest {
            key: "k".into(),
            serializable: true,
            ..RangeRequest::default()
        };
        // Until then refusals are right, and older answers are not.
        let answer = eventually("an answer", ELECTION_LIMIT, async || {
            let client = Client::connect(proxy.address()).await.ok()?;
            client.range(&read).await.ok()
        })
        .await;
        let revision = answer.header.expect("a header").revision;
        assert!(revision >= written, "{revision} after {written} was shown");
        assert_eq!(answer.kvs[0].value, value.as_bytes());
        cluster.heal(leader);
        cluster.restart(leader);
    }
    proxy.assert_sound();
}
