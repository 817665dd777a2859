//! What a test stands on: a member, and a proxy in front of it.

use std::{sync::Arc, time::Duration};

use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::trial,
    tap::Tap,
    watching::{Account, Watching},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::sync::OnceCell;

/// One member, shared by all tests that write under keys of their own and don't compact.
pub(crate) type Upstream = Arc<OnceCell<Cluster>>;

/// A member, directly and through a proxy of this test's own.
pub(crate) struct World {
    /// `host:port` of the member.
    pub(crate) member: String,
    /// What the keys of this test begin with.
    pub(crate) prefix: String,
    pub(crate) direct: Client,
    pub(crate) proxied: Client,
    pub(crate) proxy: Proxy,
    /// Between the two, if asked for.
    pub(crate) tap: Option<Tap>,
}

/// What is between the proxy and the member.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Between {
    Nothing,
    /// A tap that adds this to each direction's way.
    Tap(Duration),
}

impl World {
    /// Starts a proxy in front of a cluster of one.
    pub(crate) async fn start(name: &str, cluster: &Cluster, between: Between) -> Self {
        let member = cluster.address(0);
        let tap = match between {
            Between::Nothing => None,
            Between::Tap(one_way) => Some(Tap::start(&member, one_way).await),
        };
        let endpoint = tap.as_ref().map_or_else(|| member.clone(), Tap::address);
        let proxy = Proxy::start(&[endpoint], &[]).await;
        Self {
            direct: Client::connect(&member).await.expect("member"),
            proxied: Client::connect(proxy.address()).await.expect("proxy"),
            member,
            prefix: format!("{name}/"),
            proxy,
            tap,
        }
    }

    pub(crate) fn tap(&self) -> &Tap {
        self.tap.as_ref().expect("started with a tap")
    }

    /// A key of this test.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A connection of its own to the proxy.
    pub(crate) async fn wire(&self) -> Wire {
        Wire::connect(self.proxy.address()).await.expect("proxy")
    }

    /// A watcher through the proxy on a connection of its own.
    pub(crate) async fn watch(&self, create: WatchCreateRequest) -> (Watching, WatchResponse) {
        Watching::one(&self.wire().await, create).await
    }

    /// As [`watch`](Self::watch), with an account in which it is created.
    pub(crate) async fn follow(&self, create: WatchCreateRequest) -> Follower {
        let (watching, created) = self.watch(create).await;
        Follower::new(watching, &created)
    }

    /// Puts a key directly; gives its revision.
    pub(crate) async fn put(&self, key: &str, value: &str) -> i64 {
        put(&self.direct, key, value).await
    }
}

/// Puts a key; gives its revision.
pub(crate) async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let answer = client.put(key.as_bytes(), value.as_bytes()).await.expect("put");
    answer.header.expect("a header").revision
}

/// A stream and its account.
pub(crate) struct Follower {
    pub(crate) watching: Watching,
    pub(crate) account: Account,
}

impl Follower {
    pub(crate) fn new(watching: Watching, created: &WatchResponse) -> Self {
        let mut account = Account::default();
        account.take(created).expect("a fine created answer");
        Self { watching, account }
    }

    /// Reads until every watcher has seen an event at `revision` or above.
    pub(crate) async fn until(&mut self, revision: i64) {
        self.account
            .follow(&mut self.watching, revision)
            .await
            .expect("its events");
    }

    /// Takes the next answer in. Dropping the future loses nothing.
    pub(crate) async fn take(&mut self) {
        let answer = self.watching.next().await;
        self.account.take(&answer).expect("a fine answer");
    }

    /// Revisions that the only watcher was told of.
    pub(crate) fn revisions(&self) -> Vec<i64> {
        self.account
            .only()
            .marks
            .iter()
            .map(|mark| mark.revision)
            .collect()
    }
}

/// A test with a proxy of its own in front of the shared member.
pub(crate) fn scenario<F, Fut>(upstream: &Upstream, name: &'static str, between: Between, test: F) -> Trial
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = World>,
{
    let upstream = Arc::clone(upstream);
    trial(name, async move || {
        let cluster = upstream.get_or_init(|| Cluster::start(Options::default())).await;
        let mut world = test(World::start(name, cluster, between).await).await;
        world.proxy.assert_sound();
    })
}
