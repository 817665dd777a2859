//! An upstream that records what reaches it and plays scripted answers.
//!
//! For what a real etcd never does: details in a status, custom headers and trailers, RST_STREAM with
//! a chosen code, GOAWAY. `Maintenance/Status`, `Health/Check` and `KV/Txn` are answered as by a member that has
//! a leader, and not recorded, so that a proxy which looks at its endpoints finds this one healthy.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb as pb;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use prost::Message as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{suite::free_port, wire::frame};

/// Enough for frames to leave a connection that nothing holds back.
const FLUSH_TIME: Duration = Duration::from_millis(30);

/// One request as it reached the upstream.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// For example `/etcdserverpb.KV/Range`.
    pub path: String,
    /// `:authority`.
    pub authority: String,
    /// All headers in the order in which they came.
    pub headers: Vec<(String, Vec<u8>)>,
    /// DATA bytes, prefixes included.
    pub body: Vec<u8>,
    /// The client half-closed.
    pub half_closed: bool,
    /// Code of a RST_STREAM from the client; other ends of the connection count as `u32::MAX`.
    pub reset: Option<u32>,
}

impl Recorded {
    /// All values of a header.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(header, _)| header == name);
        named
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }
}

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Response headers. `content-type: application/grpc` is added unless it is named; `:status` may
    /// be among them and is 200 otherwise.
    Headers(Vec<(&'static str, &'static str)>),
    /// One message behind a 5-byte prefix.
    Message(Bytes),
    /// DATA bytes as they are.
    Raw(Bytes),
    /// Waits until the client half-closed.
    HalfClosed,
    /// Waits until the value is `true`.
    Gate(watch::Receiver<bool>),
    /// Trailers, after which the stream has ended. Without `Headers` before it: trailers-only.
    Trailers(Vec<(&'static str, &'static str)>),
    /// An empty DATA frame with END_STREAM: the end without trailers.
    End,
    /// RST_STREAM.
    Reset(u32),
    /// GOAWAY for new streams; the connection closes when its streams have ended.
    GoAway,
    /// Closes the connection without a word.
    Hangup,
    /// Leaves the stream open until the client gives up.
    Never,
}

/// What decides about answers: the number of this call among those that are recorded (from 0), and its head.
pub type Script = Arc<dyn Fn(usize, &Recorded) -> Vec<Step> + Send + Sync>;

struct Shared {
    script: Script,
    /// It says of itself that it can't do a member's work.
    is_learner: bool,
    requests: Mutex<Vec<Recorded>>,
    count: AtomicUsize,
}

impl Shared {
    fn update(&self, index: usize, change: impl FnOnce(&mut Recorded)) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut requests[index]);
    }
}

/// A running upstream on 127.0.0.1. It stops when dropped.
pub struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Fake {
    /// Starts it. Must run on a tokio runtime.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(script: impl Fn(usize, &Recorded) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start_as(false, Arc::new(script)).await
    }

    /// Starts a learner: whatever it is asked it refuses, as etcd 3.5 does.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn learner() -> Self {
        Self::start_as(true, Arc::new(|_, _| learners_answer())).await
    }

    async fn start_as(is_learner: bool, script: Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", free_port()))
            .await
            .expect("fake's port");
        let address = listener.local_addr().expect("bound address");
        let shared = Arc::new(Shared {
            script,
            is_learner,
            requests: Mutex::default(),
            count: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            task,
        }
    }

    /// Plays the same answer to every call.
    pub async fn playing(steps: Vec<Step>) -> Self {
        Self::start(move |_, _| steps.clone()).await
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Every request so far but those for `Maintenance/Status`, `Health/Check` and `KV/Txn`.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a stream asks of its connection.
#[derive(Clone, Copy, Default, PartialEq)]
enum Order {
    #[default]
    Serve,
    GoAway,
    Hangup,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the upstream: a task set aborts its tasks when dropped.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let (order, mut orders) = watch::channel(Order::default());
    let order = Arc::new(order);
    let Ok(mut connection) = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_header_list_size(1 << 20)
        .handshake::<_, Bytes>(stream)
        .await
    else {
        return;
    };
    loop {
        tokio::select! {
            biased;
            _ = orders.changed() => {
                if *orders.borrow_and_update() == Order::Hangup {
                    return;
                }
                connection.graceful_shutdown();
            }
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    tokio::spawn(answer(request, respond, Arc::clone(&shared), Arc::clone(&order)));
                }
                Some(Err(_)) | None => return,
            }
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    order: Arc<watch::Sender<Order>>,
) {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if let Some(message) = of_a_healthy_member(&path) {
        let well = vec![
            Step::Headers(Vec::new()),
            Step::Message(message),
            Step::Trailers(vec![("grpc-status", "0")]),
        ];
        let steps = if shared.is_learner {
            learners_answer()
        } else {
            well
        };
        let (_sender, half_closed) = watch::channel(true);
        play(steps, respond, half_closed, &order, |_| ()).await;
        return;
    }
    let recorded = Recorded {
        path,
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect(),
        ..Recorded::default()
    };
    let number = shared.count.fetch_add(1, Ordering::Relaxed);
    let steps = (shared.script)(number, &recorded);
    let index = {
        let mut requests = shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(recorded);
        requests.len() - 1
    };
    let (sender, half_closed) = watch::channel(false);
    // Receiving goes on after the answer is complete: a reset that comes later is recorded, too.
    tokio::spawn(receive(body, sender, Arc::clone(&shared), index));
    // After a half-close only the sending side learns of a reset.
    let given_up = |code| shared.update(index, |request| request.reset = Some(code));
    play(steps, respond, half_closed, &order, given_up).await;
}

/// What a healthy member says of its store.
const HEADER: pb::ResponseHeader = pb::ResponseHeader {
    cluster_id: 1,
    member_id: 1,
    revision: 1,
    raft_term: 2,
};

/// What a learner of etcd 3.5 answers.
fn learners_answer() -> Vec<Step> {
    vec![Step::Trailers(vec![
        ("grpc-status", "14"),
        ("grpc-message", "etcdserver: rpc not supported for learner"),
    ])]
}

/// The answer to what a proxy may ask on its own.
fn of_a_healthy_member(path: &str) -> Option<Bytes> {
    match path {
        "/etcdserverpb.Maintenance/Status" => {
            let status = pb::StatusResponse {
                header: Some(HEADER),
                version: "3.5.30".to_owned(),
                leader: 1,
                raft_index: 10,
                raft_term: 2,
                raft_applied_index: 10,
                ..Default::default()
            };
            Some(status.encode_to_vec().into())
        }
        // Which cluster it is of: an empty transaction tells, without credentials.
        "/etcdserverpb.KV/Txn" => {
            let response = pb::TxnResponse {
                header: Some(HEADER),
                ..Default::default()
            };
            Some(response.encode_to_vec().into())
        }
        // SERVING
        "/grpc.health.v1.Health/Check" => Some(Bytes::from_static(b"\x08\x01")),
        _ => None,
    }
}

async fn receive(mut body: RecvStream, half_closed: watch::Sender<bool>, shared: Arc<Shared>, index: usize) {
    while let Some(chunk) = body.data().await {
        match chunk {
            Ok(bytes) => {
                // An error here means that the stream is over, which the next read tells.
                let _ = body.flow_control().release_capacity(bytes.len());
                shared.update(index, |request| request.body.extend_from_slice(&bytes));
            }
            Err(error) => {
                let code = error.reason().map_or(u32::MAX, u32::from);
                shared.update(index, |request| request.reset = Some(code));
                return;
            }
        }
    }
    shared.update(index, |request| request.half_closed = true);
    half_closed.send_replace(true);
}

/// Plays the steps. An error of the stream ends it: what the client did is recorded elsewhere.
async fn play(
    steps: Vec<Step>,
    mut respond: SendResponse<Bytes>,
    mut half_closed: watch::Receiver<bool>,
    order: &watch::Sender<Order>,
    given_up: impl FnOnce(u32) + Send,
) {
    let mut stream: Option<SendStream<Bytes>> = None;
    for step in steps {
        let done = match step {
            Step::Headers(headers) => respond
                .send_response(head(&headers), false)
                .map(|opened| stream = Some(opened)),
            Step::Message(message) => {
                let stream = stream.as_mut().expect("Headers come first");
                stream.send_data(frame(&message), false)
            }
            Step::Raw(bytes) => {
                let stream = stream.as_mut().expect("Headers come first");
                stream.send_data(bytes, false)
            }
            Step::HalfClosed => {
                if half_closed.wait_for(|done| *done).await.is_err() {
                    return;
                }
                Ok(())
            }
            Step::Gate(mut gate) => {
                if gate.wait_for(|open| *open).await.is_err() {
                    return;
                }
                Ok(())
            }
            Step::Trailers(trailers) => match stream.as_mut() {
                Some(stream) => stream.send_trailers(map(&trailers)),
                None => respond.send_response(head(&trailers), true).map(|_| ()),
            },
            Step::End => {
                let stream = stream.as_mut().expect("Headers come first");
                stream.send_data(Bytes::new(), true)
            }
            Step::Reset(code) => {
                if stream.is_some() {
                    // h2 drops what is queued for a stream that is reset; let it out first.
                    tokio::time::sleep(FLUSH_TIME).await;
                }
                let reason = Reason::from(code);
                match stream.as_mut() {
                    Some(stream) => stream.send_reset(reason),
                    None => respond.send_reset(reason),
                }
                Ok(())
            }
            Step::GoAway => {
                order.send_replace(Order::GoAway);
                Ok(())
            }
            Step::Hangup => {
                order.send_replace(Order::Hangup);
                Ok(())
            }
            Step::Never => {
                let reset = match stream.as_mut() {
                    Some(stream) => std::future::poll_fn(|cx| stream.poll_reset(cx)).await,
                    None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
                };
                given_up(reset.map_or(u32::MAX, u32::from));
                return;
            }
        };
        if done.is_err() {
            return;
        }
    }
}

fn head(headers: &[(&'static str, &'static str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = map(headers);
    if let Some((_, status)) = headers.iter().find(|(name, _)| *name == ":status") {
        *response.status_mut() = status.parse().expect("a status of three digits");
    }
    let content_type = HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .entry(http::header::CONTENT_TYPE)
        .or_insert(content_type);
    response
}

fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| *name != ":status") {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}
