//! What a test stands on: a member with a proxy in front of it, leases, and streams of heartbeats.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse,
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    metrics,
    proxy::Proxy,
    suite::{trial, within},
    wire::{Call, Reply, Wire},
};
use libtest_mimic::Trial;
use prost::Message as _;
use tokio::sync::OnceCell;

/// The path of the call.
pub(crate) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// What takes longer hangs. Long enough for a failover on a machine that is busy with other things.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// "At once", as far as it can be told on a busy machine; far below a third of the TTL of the leases it is used for.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);

/// UNAVAILABLE.
pub(crate) const UNAVAILABLE: u32 = 14;

/// One member, shared by all tests that only use leases and keys of their own.
pub(crate) type Upstream = Arc<OnceCell<Cluster>>;

/// A member, directly and through a proxy of this test's own.
pub(crate) struct World {
    /// `host:port` of the member.
    pub(crate) member: String,
    pub(crate) direct: Client,
    pub(crate) proxied: Client,
    pub(crate) proxy: Proxy,
}

impl World {
    /// Starts a proxy in front of a cluster of one.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let member = cluster.address(0);
        let proxy = Proxy::start(&cluster.endpoints(), &[]).await;
        Self {
            direct: Client::connect(&member).await.expect("member"),
            proxied: Client::connect(proxy.address()).await.expect("proxy"),
            member,
            proxy,
        }
    }

    /// Both ways to the member, with their names.
    pub(crate) fn sides(&self) -> [(&'static str, &Wire); 2] {
        [("direct", &self.direct.wire), ("proxied", &self.proxied.wire)]
    }

    /// A connection of its own to the proxy.
    pub(crate) async fn wire(&self) -> Wire {
        Wire::connect(self.proxy.address()).await.expect("proxy")
    }
}

/// A test with a proxy of its own in front of the shared member.
pub(crate) fn scenario<F, Fut>(upstream: &Upstream, name: &'static str, test: F) -> Trial
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = World>,
{
    let upstream = Arc::clone(upstream);
    trial(name, async move || {
        let cluster = upstream.get_or_init(|| Cluster::start(Options::default())).await;
        let mut world = test(World::start(cluster).await).await;
        world.proxy.assert_sound();
    })
}

/// A heartbeat's message.
pub(crate) fn heartbeat(id: i64) -> Bytes {
    LeaseKeepAliveRequest { id }.encode_to_vec().into()
}

/// What a stream's messages say.
pub(crate) fn decoded(messages: &[Bytes]) -> Vec<LeaseKeepAliveResponse> {
    let decode =
        |message: &Bytes| LeaseKeepAliveResponse::decode(message.clone()).expect("a heartbeat's answer");
    messages.iter().map(decode).collect()
}

/// Grants a lease whose id the server chooses; `ttl` in seconds.
pub(crate) async fn grant(wire: &Wire, metadata: &[(&str, &str)], ttl: i64) -> i64 {
    let request = LeaseGrantRequest { ttl, id: 0 };
    let granted: LeaseGrantResponse = wire
        .unary("/etcdserverpb.Lease/LeaseGrant", metadata, &request)
        .await
        .expect("a lease");
    granted.id
}

/// Revokes a lease.
pub(crate) async fn revoke(wire: &Wire, id: i64) {
    let request = LeaseRevokeRequest { id };
    let _: LeaseRevokeResponse = wire
        .unary("/etcdserverpb.Lease/LeaseRevoke", &[], &request)
        .await
        .expect("revoked");
}

/// Seconds that a lease has left, rounded down; -1 if there is none.
pub(crate) async fn left(wire: &Wire, id: i64) -> i64 {
    let request = LeaseTimeToLiveRequest { id, keys: false };
    let answer: LeaseTimeToLiveResponse = wire
        .unary("/etcdserverpb.Lease/LeaseTimeToLive", &[], &request)
        .await
        .expect("time to live");
    answer.ttl
}

/// Puts a key under a lease (0: under none); gives its revision.
pub(crate) async fn put(wire: &Wire, metadata: &[(&str, &str)], key: &str, lease: i64) -> i64 {
    let request = PutRequest {
        key: key.to_owned().into(),
        lease,
        ..Default::default()
    };
    let answer: PutResponse = wire
        .unary("/etcdserverpb.KV/Put", metadata, &request)
        .await
        .expect("put");
    answer.header.expect("a header").revision
}

/// A stream of heartbeats.
pub(crate) struct Beats {
    call: Call,
}

impl Beats {
    pub(crate) async fn open(wire: &Wire, metadata: &[(&str, &str)]) -> Self {
        let call = wire.open(KEEP_ALIVE, metadata).await.expect("a call");
        Self { call }
    }

    /// Sends a heartbeat.
    pub(crate) async fn ask(&mut self, id: i64) {
        self.call.send(heartbeat(id)).await.expect("an open stream");
    }

    /// Sends a heartbeat on a stream that may have ended; how it did is looked at later.
    pub(crate) async fn try_ask(&mut self, id: i64) {
        let _ = self.call.send(heartbeat(id)).await;
    }

    /// The next answer, or how the stream ended.
    pub(crate) async fn answer(&mut self) -> Result<LeaseKeepAliveResponse, Box<Reply>> {
        match within("an answer", ANSWER_LIMIT, self.call.message()).await {
            Some(message) => Ok(LeaseKeepAliveResponse::decode(message).expect("a heartbeat's answer")),
            None => Err(Box::new(self.end().await)),
        }
    }

    /// Sends a heartbeat and gives the TTL of its answer, in seconds.
    pub(crate) async fn beat(&mut self, id: i64) -> i64 {
        self.ask(id).await;
        match self.answer().await {
            Ok(answer) => {
                assert_eq!(answer.id, id, "an answer for another lease");
                answer.ttl
            }
            Err(end) => panic!("the stream ended: {}", end.in_short()),
        }
    }

    pub(crate) fn half_close(&mut self) {
        self.call.half_close().expect("an open stream");
    }

    /// Reads to the end.
    pub(crate) async fn end(&mut self) -> Reply {
        within("the end of the stream", ANSWER_LIMIT, self.call.ended()).await
    }
}

/// What a member counted of its heartbeat streams since it started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Streams that are open now.
    pub(crate) open: u64,
    /// Heartbeats that came.
    pub(crate) heartbeats: u64,
}

impl Counts {
    /// Asks the member at `host:port`; None when it doesn't answer.
    pub(crate) async fn of(member: &str) -> Option<Self> {
        let text = metrics::text(member, metrics::MEMBER).await.ok()?;
        let of_heartbeats = |name: &str| {
            let is_one = |labels: &str| labels.contains("grpc_method=\"LeaseKeepAlive\"");
            metrics::sum_where(&text, name, is_one).map(|value| value as u64)
        };
        let started = of_heartbeats("grpc_server_started_total")?;
        // None until one has ended, if the member doesn't name what it didn't count.
        let ended = of_heartbeats("grpc_server_handled_total").unwrap_or(0);
        Some(Self {
            open: started.saturating_sub(ended),
            heartbeats: of_heartbeats("grpc_server_msg_received_total").unwrap_or(0),
        })
    }
}
