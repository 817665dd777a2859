//! A cluster that is about to lose its leader, and streams that want one.

use crate::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    wire::{Reply, Wire},
};

/// Metadata of a call that is for a member with a leader only.
pub const REQUIRE_LEADER: [(&str, &str); 1] = [("hasleader", "true")];

/// Three members with a proxy in front of them, of which two are to die.
#[derive(Debug)]
pub struct Leaderless {
    /// All of them.
    pub cluster: Cluster,
    /// The proxy.
    pub proxy: Proxy,
    /// A connection to the proxy.
    pub proxied: Wire,
    /// A connection to the member that stays.
    pub direct: Client,
    dead: [usize; 2],
}

impl Leaderless {
    /// Starts them. The member that stays is no leader, so that it loses one.
    ///
    /// # Panics
    /// If they can't be reached.
    pub async fn prepare() -> Self {
        let mut cluster = Cluster::start(Options::three()).await;
        cluster.all_serve().await;
        let ids = cluster.ids().await;
        let stays = (cluster.leader_seen_by(0, &ids).await + 1) % 3;
        let proxy = Proxy::start(&cluster.endpoints(), &[]).await;
        Self {
            direct: Client::connect(&cluster.address(stays)).await.expect("member"),
            proxied: Wire::connect(proxy.address()).await.expect("proxy"),
            cluster,
            proxy,
            dead: [(stays + 1) % 3, (stays + 2) % 3],
        }
    }

    /// The connections that streams are opened on, with their names: two streams through the proxy share what it has.
    #[must_use]
    pub fn sides(&self) -> [(&'static str, &Wire); 3] {
        [
            ("direct", &self.direct.wire),
            ("proxied", &self.proxied),
            ("proxied too", &self.proxied),
        ]
    }

    /// Kills all members but one.
    pub fn lose(&mut self) {
        for member in self.dead {
            self.cluster.kill(member);
        }
    }

    /// Starts them again.
    pub async fn restore(&mut self) {
        for member in self.dead {
            self.cluster.restart(member);
        }
        self.cluster.all_serve().await;
    }
}

/// Asserts that a stream ended as a server ends it for want of a leader.
///
/// # Panics
/// If it didn't.
pub fn says_no_leader(name: &str, end: &Reply) {
    const UNAVAILABLE: u32 = 14;
    let said = (end.code(), end.message());
    let expected = (Some(UNAVAILABLE), Some("etcdserver: no leader".to_owned()));
    assert_eq!(said, expected, "{name}: {}", end.in_short());
}
