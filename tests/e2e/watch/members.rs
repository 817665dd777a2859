//! The member that serves the watches dies or freezes: the streams go on. Row 14.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    metrics::watchers,
    proxy::Proxy,
    suite::{eventually, trial},
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix, since},
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::{
    world::{Follower, put},
    writers::{Log, Writers},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("members_fail", members_fail)]
}

/// The running member that holds the proxy's watchers. There are no others than the proxy's.
pub(crate) async fn serving(cluster: &mut Cluster, except: Option<usize>) -> usize {
    eventually("a member with watchers", ANSWER_LIMIT, async || {
        for index in cluster.running() {
            if Some(index) != except
                && watchers(&cluster.address(index))
                    .await
                    .is_ok_and(|count| count > 0)
            {
                return Some(index);
            }
        }
        None
    })
    .await
}

/// Frozen, killed, and all restarted one after the other.
async fn members_fail() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let direct = Client::connect(&cluster.address(0)).await.expect("member");
    let first = put(&direct, "w/first", "").await;
    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    let mut followers = Vec::new();
    for create in [on_prefix("w/"), on_key("w/k"), since(first, on_prefix("w/"))] {
        let (watching, created) = Watching::one(&wire, create).await;
        followers.push(Follower::new(watching, &created));
    }
    let addresses: Vec<String> = (0..3).map(|index| cluster.address(index)).collect();
    let writers = Writers::start(&addresses, "w/", 2);

    let mut frozen = None;
    for fault in ["frozen", "killed", "killed again"] {
        let member = serving(&mut cluster, frozen).await;
        let clock = Instant::now();
        if fault == "frozen" {
            cluster.freeze(member);
            frozen = Some(member);
        } else {
            cluster.kill(member);
        }
        let healthy = (member + 1) % 3;
        let client = Client::connect(&cluster.address(healthy)).await.expect("member");
        let revision = eventually("a write", ANSWER_LIMIT, async || {
            let write = client.put(b"w/k", fault.as_bytes());
            // One that is lost with the leader isn't worth waiting for.
            let answer = tokio::time::timeout(Duration::from_secs(1), write)
                .await
                .ok()?
                .ok()?;
            Some(answer.header?.revision)
        })
        .await;
        for follower in &mut followers {
            follower.until(revision).await;
        }
        println!(
            "members_fail: the serving member {fault}: events again after {:.1?}",
            clock.elapsed()
        );
        if let Some(member) = frozen.take() {
            cluster.thaw(member);
        } else {
            cluster.restart(member);
        }
        cluster.all_serve().await;
    }
    let log = writers.stop(&cluster.address(0)).await;
    let last_of_key = put(&direct_to(&cluster).await, "w/k", "last").await;
    let whole = Log::read(&cluster.address(0), "w/").await;
    assert!(whole.marks.len() > log.marks.len());
    for (index, start) in [(0, first + 1), (2, first)] {
        followers[index].until(whole.last_revision()).await;
        whole
            .is(&followers[index].account.only().marks, start)
            .expect("its events");
    }
    followers[1].until(last_of_key).await;
    let seen = followers[1].revisions().len();
    assert!(seen >= 4, "{seen} events of a key that was put four times");
    proxy.assert_sound();
}

async fn direct_to(cluster: &Cluster) -> Client {
    Client::connect(&cluster.address(0)).await.expect("member")
}
