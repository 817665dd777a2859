//! At the address of the member in use there is a member of another cluster, which has lost its others: nobody can tell what is
//! newest there, and nothing of it is shown.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    relay::{Mode, Relay},
    suite::{eventually, free_port, trial, within},
    watching::{Watching, on_prefix, since},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::task::JoinSet;

/// For what takes a second or two on an idle machine.
const SOON: Duration = Duration::from_secs(40);

/// How long nothing may be shown: after ten seconds the proxy uses what it finds at all its endpoints, and create requests have
/// waited for as long as they may.
const SILENCE: Duration = Duration::from_secs(25);

const OTHERS_WRITES: usize = 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("foreign_without_quorum", || without_quorum(true)),
        trial("foreign_without_quorum_or_watch", || without_quorum(false)),
    ]
}

/// What all watches of a test were told.
#[derive(Debug, Default)]
struct Told {
    answers: Arc<Mutex<Vec<WatchResponse>>>,
    listeners: JoinSet<()>,
}

impl Told {
    /// Creates a watcher on a stream of its own, again whenever that ends, and keeps what it is told.
    fn listen(&mut self, wire: &Wire, create: WatchCreateRequest) {
        let (told, wire) = (Arc::clone(&self.answers), wire.clone());
        self.listeners.spawn(async move {
            loop {
                let mut watching = Watching::open(&wire, &[]).await;
                watching.try_create(create.clone()).await;
                while let Ok(answer) = watching.answer().await {
                    told.lock().expect("nobody panics").push(answer);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// How many answers name this cluster.
    fn of(&self, cluster: u64) -> usize {
        let told = self.answers.lock().expect("nobody panics");
        let named =
            |answer: &&WatchResponse| answer.header.is_some_and(|header| header.cluster_id == cluster);
        told.iter().filter(named).count()
    }
}

/// Whether anybody watches before or not: then only a write has told what cluster ours is.
async fn without_quorum(is_watched: bool) {
    let ours = Cluster::start(Options::default()).await;
    let mut other = Cluster::start(Options::three()).await;
    let direct = Client::connect(&other.address(0)).await.expect("a member");
    let mut others_id = 0;
    for _ in 0..OTHERS_WRITES {
        let put = direct.put(b"k", b"other").await.expect("a put");
        others_id = put.header.expect("a header").cluster_id;
    }
    other.all_serve().await;
    let port = free_port();
    let target = |address: String| address.parse().expect("an address");
    let relay = Relay::start(port, target(ours.address(0)), None).await;
    let flags = if is_watched { &[][..] } else { &["--cache=off"] };
    let mut proxy = Proxy::start(&[relay.address()], flags).await;
    let client = Client::connect(proxy.address()).await.expect("the proxy");
    let put = client.put(b"k", b"ours").await.expect("a put");
    let ours_id = put.header.expect("a header").cluster_id;
    let wire = Wire::connect(proxy.address()).await.expect("the proxy");
    let mut old = None;
    if is_watched {
        let (mut watching, _) = Watching::one(&wire, since(1, on_prefix("k"))).await;
        assert_eq!(watching.next().await.events.len(), 1);
        old = Some(watching);
    }

    // A follower stays, so that it has no leader.
    let ids = other.ids().await;
    let stays = (other.leader_seen_by(0, &ids).await + 1) % 3;
    let gone = [(stays + 1) % 3, (stays + 2) % 3];
    for member in gone {
        other.kill(member);
    }
    let direct = Client::connect(&other.address(stays)).await.expect("a member");
    eventually("a member without a leader", SOON, async || {
        let status = direct.status().await.ok()?;
        (status.leader == 0).then_some(())
    })
    .await;
    relay.set(Mode::Refuse);
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(relay);
    let _relay = Relay::start(port, target(other.address(stays)), None).await;

    let mut told = Told::default();
    for start in [0, 1, 2, 10, 1_000] {
        told.listen(&wire, since(start, on_prefix("k")));
        let with_previous = WatchCreateRequest {
            prev_kv: true,
            ..since(start, on_prefix("k"))
        };
        told.listen(&wire, with_previous);
    }
    tokio::time::sleep(SILENCE).await;
    if let Some(old) = &mut old
        && let Ok(shown) = tokio::time::timeout(Duration::ZERO, old.answer()).await
    {
        panic!("the old watch is told {shown:?}");
    }
    let shown = told.answers.lock().expect("nobody panics").clone();
    assert!(shown.is_empty(), "{shown:?} for {others_id}, not {ours_id}");

    // It has a quorum again: now it is known that the store is another one.
    for member in gone {
        other.restart(member);
    }
    if let Some(old) = old {
        let ended = within("the end of the old watch", SOON, old.end()).await;
        assert_eq!(ended.code(), Some(14), "{ended:?}");
    }
    eventually("the other cluster's events", SOON, async || {
        (told.of(others_id) > 1).then_some(())
    })
    .await;
    assert_eq!(told.of(ours_id), 0);
    proxy.assert_sound();
}
