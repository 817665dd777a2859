//! What a test stands on: a member with a proxy in front of it, reads, and what proxy and member count.

use std::{io, sync::Arc, time::Duration};

use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse};
use etcd_proxy_tests::{
    client::{Answer, Client},
    etcd::{Cluster, Options},
    metrics::{self, watchers},
    proxy::Proxy,
    suite::{eventually, trial},
};
use libtest_mimic::Trial;
use tokio::sync::OnceCell;

/// What takes longer hangs. Long enough for a failover on a machine that is busy with other things.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// How old an answer to a serializable read may be: the flag's default.
pub(crate) const STALENESS: Duration = Duration::from_secs(1);

/// One member, shared by all tests that only use keys of their own.
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
}

impl World {
    /// Starts a proxy in front of a cluster of one.
    pub(crate) async fn start(name: &str, cluster: &Cluster, flags: &[&str]) -> Self {
        let member = cluster.address(0);
        let proxy = Proxy::start(&cluster.endpoints(), flags).await;
        Self {
            direct: Client::connect(&member).await.expect("member"),
            proxied: Client::connect(proxy.address()).await.expect("proxy"),
            member,
            prefix: format!("{name}/"),
            proxy,
        }
    }

    /// A key of this test.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A connection of its own to the proxy.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.proxy.address()).await.expect("proxy")
    }

    /// A metric of the proxy's, without `etcd_proxy_read_`.
    pub(crate) async fn read_metric(&self, name: &str) -> f64 {
        let name = format!("etcd_proxy_read_{name}");
        metric(self.proxy.address(), metrics::PROXY, &name, "")
            .await
            .expect("metrics of the proxy")
    }

    /// Reads answered from the cache so far.
    pub(crate) async fn hits(&self) -> f64 {
        hits(&self.proxy).await
    }

    /// Reads until an answer comes from the cache, and gives that one. Nobody else may be reading.
    pub(crate) async fn warm(&self, request: &RangeRequest) -> RangeResponse {
        warm(&self.proxy, &self.proxied, request).await
    }

    /// Range calls that the member has answered.
    pub(crate) async fn member_reads(&self) -> u64 {
        let (name, label) = ("grpc_server_handled_total", "grpc_method=\"Range\"");
        let count = metric(&self.member, metrics::MEMBER, name, label).await;
        count.expect("metrics of the member") as u64
    }
}

/// Reads that a proxy has answered from its cache, under the name that it has at the existing proxy.
pub(crate) async fn hits(proxy: &Proxy) -> f64 {
    let name = "etcd_grpc_proxy_cache_hits_total";
    metric(proxy.address(), metrics::PROXY, name, "")
        .await
        .expect("metrics of the proxy")
}

/// Reads until an answer comes from the cache, and gives that one.
pub(crate) async fn warm(proxy: &Proxy, client: &Client, request: &RangeRequest) -> RangeResponse {
    eventually("an answer from the cache", ANSWER_LIMIT, async || {
        let before = hits(proxy).await;
        let answer = client.range(request).await.expect("a read");
        (hits(proxy).await > before).then_some(answer)
    })
    .await
}

/// The sum of all lines of a metric that hold `label`. A counter that isn't there hasn't counted yet, but something must be
/// there.
///
/// # Errors
/// When nothing answers at `address`.
pub(crate) async fn metric(address: &str, path: &str, name: &str, label: &str) -> io::Result<f64> {
    let text = metrics::text(address, path).await?;
    match metrics::sum_where(&text, name, |labels| labels.contains(label)) {
        Some(value) => Ok(value),
        None if !label.is_empty() => Ok(0.0),
        None => Err(io::Error::other(format!("{address}{path} has no {name}"))),
    }
}

/// A test with a proxy of its own in front of the shared member.
pub(crate) fn scenario<F, Fut>(
    upstream: &Upstream,
    name: &'static str,
    flags: &'static [&'static str],
    test: F,
) -> Trial
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = World>,
{
    let upstream = Arc::clone(upstream);
    trial(name, async move || {
        let cluster = upstream.get_or_init(|| Cluster::start(Options::default())).await;
        let mut world = test(World::start(name, cluster, flags).await).await;
        world.proxy.assert_sound();
    })
}

/// The member that a proxy's cache watches. There must be no other watches than the caches'.
pub(crate) async fn serving(cluster: &Cluster) -> usize {
    eventually("a member with a watcher", ANSWER_LIMIT, async || {
        for index in 0..cluster.size() {
            let count = watchers(&cluster.address(index)).await;
            if count.is_ok_and(|count| count > 0) {
                return Some(index);
            }
        }
        None
    })
    .await
}

/// A linearizable read of one key.
pub(crate) fn one(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

/// A linearizable read of the keys from `key` on and before `end`.
pub(crate) fn range(key: &[u8], end: &[u8]) -> RangeRequest {
    RangeRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        ..Default::default()
    }
}

/// A linearizable read of all keys with a prefix, which must end with a byte below 255.
pub(crate) fn prefix(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    range(prefix.as_bytes(), &end)
}

/// The same read, serializable.
pub(crate) fn serializable(request: &RangeRequest) -> RangeRequest {
    RangeRequest {
        serializable: true,
        ..request.clone()
    }
}

/// The revision in the header.
pub(crate) fn revision(answer: &RangeResponse) -> i64 {
    answer.header.as_ref().expect("a header").revision
}

/// The value of the only key, as a number that a test wrote; None if there is no key.
pub(crate) fn number(answer: &RangeResponse) -> Option<u64> {
    assert!(answer.kvs.len() <= 1, "{} keys", answer.kvs.len());
    let text = std::str::from_utf8(&answer.kvs.first()?.value).expect("text");
    Some(text.parse().expect("a number"))
}

/// Puts a key; gives its revision.
pub(crate) async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let answer = client.put(key.as_bytes(), value.as_bytes()).await.expect("put");
    answer.header.expect("a header").revision
}

/// A call of a method such as `KV/Txn`, without credentials.
///
/// # Errors
/// With all that came back.
pub(crate) async fn call<Q, R>(client: &Client, method: &str, request: &Q) -> Answer<R>
where
    Q: prost::Message,
    R: prost::Message + Default,
{
    let path = format!("/etcdserverpb.{method}");
    client.wire.unary(&path, &[], request).await.map_err(Box::new)
}
