//! A member that allows few calls at a time on a connection, and one that sends idle ones away.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use etcd_proxy_proto::v3electionpb::LeaderRequest;
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    frames::{self, ACK, END_HEADERS, END_STREAM, RawClient, kind},
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::Wire,
};
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use libtest_mimic::Trial;
use prost::Message as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    pair::ANSWER_LIMIT,
    upstream::{PUT, STREAM, call},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("upstream_stream_limit_queue", queue),
        trial("upstream_stream_limit_reached", streams),
        trial("upstream_sends_idle_connection_away", sent_away),
    ]
}

/// Probes are made faster than by default. All calls are one worker's.
const FLAGS: [&str; 3] = [
    "--workers=1",
    "--endpoint-probe-interval=200ms",
    "--endpoint-probe-timeout=1s",
];

/// For a call that nothing answers by itself.
const UNKNOWN: &str = "/x.Y/Z";

/// What the member answers to everything, probes among it: a status that is nobody's failure.
const UNIMPLEMENTED: u32 = 12;

/// What the member shares with the test.
struct State {
    streams_max: u32,
    connections: AtomicUsize,
    /// Bodies as far as they came, without empty ones.
    bodies: Mutex<Vec<Vec<u8>>>,
    /// The round of GOAWAY.
    away: watch::Sender<usize>,
}

impl State {
    fn arrived(&self, body: &[u8]) -> bool {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.iter().any(|arrived| arrived == body)
    }
}

/// A member that ends when dropped.
struct Member {
    address: String,
    state: Arc<State>,
    _task: JoinSet<()>,
}

impl Member {
    async fn start(streams_max: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("member's port");
        let address = listener.local_addr().expect("bound address").to_string();
        let state = Arc::new(State {
            streams_max,
            connections: AtomicUsize::new(0),
            bodies: Mutex::default(),
            away: watch::channel(0).0,
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _task: task,
        }
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut away = state.away.subscribe();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(state.streams_max);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    state.connections.fetch_add(1, Ordering::Relaxed);
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            _ = away.changed() => connection.graceful_shutdown(),
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    calls.spawn(answer(request, respond, Arc::clone(&state)));
                }
                Some(Err(_)) | None => return,
            }
        }
    }
}

/// Answers when the request is complete.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<State>) {
    let mut body = request.into_body();
    while let Some(Ok(chunk)) = body.data().await {
        if !chunk.is_empty() {
            let mut bodies = state.bodies.lock().unwrap_or_else(PoisonError::into_inner);
            bodies.push(chunk.to_vec());
        }
    }
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", UNIMPLEMENTED)
        .body(())
        .expect("a valid response");
    // The client may have given the call up, which is its right.
    let _ = respond.send_response(response, true);
}

/// How many endless calls one client may have at a member that allows two on a connection: one of them on each connection,
/// of which there are 16 at most, and not more than are left for others.
const SHARE: u8 = 8;

/// A call that waits for its client's turn gets it, also when another one came to wait after it.
async fn queue() {
    for another in [false, true] {
        let member = Member::start(2).await;
        let mut proxy = Proxy::start(std::slice::from_ref(&member.address), &FLAGS).await;
        let mut client = RawClient::open(proxy.address()).await.expect("proxy");
        let block = frames::call_headers(UNKNOWN, &[]);
        let open = |id, flags, body: &[u8]| {
            [
                frames::encode(kind::HEADERS, END_HEADERS, id, &block),
                frames::encode(kind::DATA, flags, id, body),
            ]
            .concat()
        };
        // These stay open.
        for number in 0..SHARE {
            let (id, body) = (u32::from(number) * 2 + 1, [0, 0, 0, 0, 1, b'a' + number]);
            client.send(&open(id, 0, &body)).await.expect("send");
            eventually("a call arrives", ANSWER_LIMIT, async || {
                member.state.arrived(&body).then_some(())
            })
            .await;
        }
        let next_id = u32::from(SHARE) * 2 + 1;
        let next = b"\0\0\0\0\x05next!";
        client.send(&open(next_id, END_STREAM, next)).await.expect("send");
        read(&mut client).await;
        if another {
            client
                .send(&open(next_id + 2, 0, b"\0\0\0\0\x06after!"))
                .await
                .expect("send");
            read(&mut client).await;
        }
        assert!(!member.state.arrived(next), "more calls than one client may have");
        let cancel = frames::encode(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
        client.send(&cancel).await.expect("send");
        let ended = client.find(|frame| frame.stream == next_id && frame.flags & END_STREAM != 0);
        let what = format!("the call is answered, with another one after it: {another}");
        let ended = within(&what, ANSWER_LIMIT, ended).await;
        assert_eq!(ended.map(|frame| frame.kind), Some(kind::HEADERS), "{what}");
        assert!(member.state.arrived(next), "{what}");
        proxy.assert_sound();
    }
}

/// Waits until the proxy has read everything that was sent so far, and has had some turns to act on
/// it: settings are acknowledged in order. Pings would be, too, but it allows only few of them.
async fn read(client: &mut RawClient) {
    for _ in 0..5 {
        let settings = frames::encode(kind::SETTINGS, 0, 0, &[]);
        client.send(&settings).await.expect("send");
        let acknowledged = client.find(|frame| frame.kind == kind::SETTINGS && frame.flags & ACK != 0);
        let acknowledged = within("an acknowledgement", ANSWER_LIMIT, acknowledged).await;
        assert!(acknowledged.is_some(), "the connection ended");
    }
}

/// Two streams leave no room for a probe on their connection, which is no reason to give it up.
async fn streams() {
    let cluster = Cluster::start(Options::default().flag("--max-concurrent-streams=2")).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &FLAGS).await;
    let client = Client::connect(proxy.address()).await.expect("proxy");
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = client.wire.open(STREAM, &[]).await.expect("a call");
        // Quiet until somebody is elected.
        let request = LeaderRequest { name: "k".into() };
        let message = request.encode_to_vec().into();
        stream.send(message).await.expect("send");
        stream.half_close().expect("half-close");
        streams.push(stream);
    }
    let start = Instant::now();
    // Many times the interval and the time limit of probes.
    while start.elapsed() < Duration::from_secs(8) {
        let log = proxy.log();
        assert!(!log.contains("endpoint failed"), "{log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let direct = Client::connect(&cluster.address(0)).await.expect("member");
    direct.put(b"k/1", b"v").await.expect("put");
    for mut stream in streams {
        let elected = within("a leader", ANSWER_LIMIT, stream.message()).await;
        assert!(elected.is_some(), "{:?}", stream.finish().await);
    }
    proxy.assert_sound();
}

/// A member that sends connections away sooner than this is one that refuses them.
const AGE: Duration = Duration::from_secs(2);

/// GOAWAY with NO_ERROR is how a server balances load: the next call finds another connection.
async fn sent_away() {
    let member = Member::start(100).await;
    let mut proxy = Proxy::start(std::slice::from_ref(&member.address), &FLAGS).await;
    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    for round in 0..3 {
        let reply = call(&wire, PUT, &[]).await;
        assert_eq!(reply.code(), Some(UNIMPLEMENTED), "round {round}: {reply:?}");
        tokio::time::sleep(AGE).await;
        let before = member.connections();
        member.state.away.send_modify(|count| *count += 1);
        eventually("there is another connection", ANSWER_LIMIT, async || {
            let reply = call(&wire, PUT, &[]).await;
            assert_eq!(reply.code(), Some(UNIMPLEMENTED), "round {round}: {reply:?}");
            (member.connections() > before).then_some(())
        })
        .await;
        let log = proxy.log();
        assert!(!log.contains("endpoint failed"), "round {round}: {log}");
    }
    proxy.assert_sound();
}
