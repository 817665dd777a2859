//! Calls on their way through, between a client and members of the tests'.

mod parts;
mod streams;
mod unary;

use core::pin::Pin;

use etcd_proxy_core::grpc::framed;
use etcd_proxy_core::grpc::header::{GRPC_MESSAGE, GRPC_STATUS};
use etcd_proxy_core::http2::PingPolicyConfig;
use etcd_proxy_core::lease::{Config as LeaseConfig, Router};
use etcd_proxy_core::read::{Cache, Config as ReadConfig, Scope};
use etcd_proxy_core::watch::{Config as WatchConfig, Hub};
use h2::client::SendRequest;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::grpc::{CallEnds, Ended, Outcome};
use crate::lease::LeaseRouter;
use crate::read::ReadCache;
use crate::rt;
use crate::rt::testing::{Testing, run, until};
use crate::settings::Limits;
use crate::shutdown::Phase;
use crate::upstream::testing::{Cluster, Heard, Member, Says};
use crate::watch::WatchHub;

/// Notes the calls that have ended.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<Ended>>);

impl CallEnds for Noted {
    fn ended(&self, call: &Ended) {
        self.0.lock().push(*call);
    }
}

/// A client connection, the proxy between, and members.
struct World {
    cluster: Cluster,
    /// The connection for calls that may be answered with much.
    bulk: Option<Arc<Connection>>,
    reads: Arc<ReadCache>,
    worker: Arc<Worker>,
    phase: watch::Sender<Phase>,
    noted: Arc<Noted>,
    sender: SendRequest<Bytes>,
}

impl World {
    /// Members of which the first one is in use, with a connection for each class of calls.
    async fn of(members: &[&Member]) -> Self {
        let cluster = Cluster::of(members).await;
        let mut bulk = None;
        if let Some(member) = members.first() {
            for (class, number) in [(Class::Blocking, 2), (Class::Bulk, 3)] {
                let id = slotmap::KeyData::from_ffi(1 << 32 | number);
                let connection = member.connect_as(id.into()).await;
                bulk = Some(connection.clone());
                cluster.join(class, connection);
            }
        }
        let shown = Arc::default();
        let (orders, _) = mpsc::unbounded_channel();
        let hub = Hub::new(WatchConfig::default(), 1);
        let hub = Arc::new(WatchHub::new(hub, "watch", Arc::clone(&shown), vec![orders]));
        let (orders, _) = mpsc::unbounded_channel();
        let router = Router::new(LeaseConfig::default(), 1);
        let router = Arc::new(LeaseRouter::new(
            router,
            "lease",
            Arc::clone(&shown),
            vec![orders],
        ));
        let (orders, _) = mpsc::unbounded_channel();
        let config = ReadConfig {
            scope: Scope::Nothing,
            ..ReadConfig::default()
        };
        let cache = Cache::new(config, 1);
        let reads = ReadCache::new(
            cache,
            Scope::Nothing,
            shown,
            hub.clone(),
            router.clone(),
            vec![orders],
        );
        let reads = Arc::new(reads);
        let (phase, shutdown) = watch::channel(Phase::Serving);
        let noted = Arc::<Noted>::default();
        let worker = Worker {
            uplink: cluster.uplink.clone(),
            watch: hub,
            lease: router,
            reads: reads.clone(),
            limits: Limits {
                request_bytes_max: 1000,
                response_bytes_max: 2000,
                connection_window_bytes: 1 << 20,
                concurrent_streams_max: 100,
                pings: PingPolicyConfig {
                    interval_min: Duration::ZERO,
                    permit_without_stream: true,
                },
                keepalive: None,
            },
            shutdown,
            call_ends: Some(noted.clone()),
        };
        let worker = Arc::new(worker);
        let client = Arc::new(ClientConnection::new(worker.clone()));
        let (here, there) = tokio::io::duplex(1 << 20);
        rt::spawn::<Testing>(async move {
            let mut connection = h2::server::handshake(there).await.expect("a client");
            while let Some(Ok((request, respond))) = connection.accept().await {
                rt::spawn::<Testing>(forward::<Testing>(client.clone(), request, respond));
            }
        });
        let (sender, connection) = h2::client::handshake(here).await.expect("a server");
        rt::spawn::<Testing>(async move { drop(connection.await) });
        Self {
            cluster,
            bulk,
            reads,
            worker,
            phase,
            noted,
            sender,
        }
    }

    /// Opens a call.
    fn open(&self, rpc: Rpc, headers: &[(&'static str, &'static str)]) -> Open {
        let mut request = Request::post(format!("http://proxy{}", rpc.path()))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let (response, requests) = self
            .sender
            .clone()
            .send_request(request, false)
            .expect("it is sent");
        Open { requests, response }
    }

    /// Makes a unary call to its end.
    async fn call(&self, rpc: Rpc, headers: &[(&'static str, &'static str)], message: &[u8]) -> Answered {
        let mut open = self.open(rpc, headers);
        open.requests
            .send_data(framed(message), true)
            .expect("it is sent");
        open.answer().await
    }

    async fn outcome(&self) -> Outcome {
        until(|| !self.noted.0.lock().is_empty()).await;
        self.noted.0.lock()[0].outcome
    }
}

/// A call that is open.
struct Open {
    requests: SendStream<Bytes>,
    response: ResponseFuture,
}

/// What a client has got.
#[derive(Debug, PartialEq, Eq)]
struct Answered {
    data: Vec<u8>,
    end: Result<(u8, String), Reason>,
}

impl Answered {
    fn status(status: &Status) -> Self {
        Self {
            data: Vec::new(),
            end: Ok((status.code, status.message.clone().into_owned())),
        }
    }

    fn message(message: &[u8]) -> Self {
        Self {
            data: framed(message).to_vec(),
            end: Ok((0, String::new())),
        }
    }

    fn reset(reason: Reason) -> Self {
        Self {
            data: Vec::new(),
            end: Err(reason),
        }
    }
}

impl Open {
    async fn answer(&mut self) -> Answered {
        let mut data = Vec::new();
        let end = self.read(&mut data).await;
        let end = end.map_err(|error| error.reason().expect("a reset"));
        Answered { data, end }
    }

    async fn read(&mut self, data: &mut Vec<u8>) -> Result<(u8, String), h2::Error> {
        let response = Pin::new(&mut self.response).await?;
        let in_head = status(response.headers());
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            let _ = body.flow_control().release_capacity(chunk.len());
            data.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok(in_head
            .or_else(|| status(&trailers))
            .unwrap_or((255, String::new())))
    }
}

fn status(fields: &HeaderMap) -> Option<(u8, String)> {
    let field = |name| fields.get(name)?.to_str().ok();
    let code = field(GRPC_STATUS)?.parse().expect("a code");
    let message = field(GRPC_MESSAGE).unwrap_or_default();
    Some((code, etcd_proxy_core::grpc::decode_message(message).into_owned()))
}

/// What a member does with one call after another; the last of it with all that follow.
fn in_turn(says: &[Says]) -> impl Fn(&Heard) -> Says + Send + Sync + use<> {
    let left = Mutex::new(says.iter().rev().cloned().collect::<Vec<_>>());
    move |_| {
        let mut left = left.lock();
        let last = left.pop().expect("the last one stays");
        if left.is_empty() {
            left.push(last.clone());
        }
        last
    }
}
