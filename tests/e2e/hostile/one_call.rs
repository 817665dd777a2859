//! What one client's call is and has in it ends at that call: the connection to the member that it shares with others stays,
//! and so do others' answers and what is cached for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    frames::{self, END_HEADERS, END_STREAM, RawClient, kind},
    metrics,
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::{Reply, Wire},
};
use libtest_mimic::Trial;
use prost::Message as _;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{ANSWER_LIMIT, Upstream, attack, healthy, unharmed};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        trial("no_grpc_ends_its_own_call", no_grpc_ends_its_own_call),
        attack(upstream, "very_many_headers", &[], very_many_headers),
        attack(upstream, "other_paths", &[], other_paths),
        attack(upstream, "flushes_nothing", &[], flushes_nothing),
    ]
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const HEARTBEATS: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// A hop that counts the connections made to a member, and leaves their bytes alone.
struct Counted {
    address: String,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Counted {
    async fn start(member: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Arc::<AtomicUsize>::default();
        let mut task = JoinSet::new();
        let count = Arc::clone(&connections);
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let member = member.clone();
                open.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(member).await {
                        // However it ends, both ends see it.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self {
            address,
            connections,
            _task: task,
        }
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn range(key: &str) -> Bytes {
    let request = RangeRequest {
        key: key.to_owned().into(),
        serializable: true,
        ..RangeRequest::default()
    };
    request.encode_to_vec().into()
}

/// Frames of one call on stream 1.
fn call(path: &str, more: &[(&str, &str)], after: &[&[u8]]) -> Vec<u8> {
    let head = frames::encode(kind::HEADERS, END_HEADERS, 1, &frames::call_headers(path, more));
    [&[&head[..]], after].concat().concat()
}

/// Calls that a server ends its connection for, and others that it refuses: everybody's connection to the member stays.
async fn no_grpc_ends_its_own_call() {
    let cluster = Cluster::start(Options::default()).await;
    let member = Counted::start(cluster.address(0)).await;
    let proxy = Proxy::start(std::slice::from_ref(&member.address), &["--workers=1"]).await;
    healthy(&proxy).await;
    let neighbour = Client::connect(proxy.address()).await.expect("proxy");
    let over = Arc::new(AtomicBool::new(false));
    let writing = {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            let mut failed = Vec::new();
            let mut written = 0;
            while !over.load(Ordering::Relaxed) {
                match within("a neighbour's put", ANSWER_LIMIT, neighbour.put(b"other", b"v")).await {
                    Ok(_) => written += 1,
                    Err(reply) => failed.push(reply.in_short()),
                }
            }
            (written, failed)
        })
    };
    let message = |message: &[u8]| etcd_proxy_tests::wire::frame(message).to_vec();
    let data = frames::encode(kind::DATA, 0, 1, &message(&range("k")));
    let last = frames::encode(kind::DATA, END_STREAM, 1, &message(&range("k")));
    let put = PutRequest {
        key: "k".into(),
        ..PutRequest::default()
    };
    let put = frames::encode(kind::DATA, 0, 1, &message(&put.encode_to_vec()));
    let trailers = frames::encode(
        kind::HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &frames::block(&[("a", "b")]),
    );
    let none = frames::encode(kind::HEADERS, END_HEADERS | END_STREAM, 1, &[]);
    let attacks = [
        ("trailers of a read", call(RANGE, &[], &[&data, &trailers])),
        (
            "trailers of a write",
            call("/etcdserverpb.KV/Put", &[], &[&put, &trailers]),
        ),
        ("trailers without fields", call(RANGE, &[], &[&data, &none])),
        ("trailers at once", call(RANGE, &[], &[&trailers])),
        ("trailers of a watch", call(WATCH, &[], &[&trailers])),
        ("trailers of heartbeats", call(HEARTBEATS, &[], &[&trailers])),
        (
            "trailers of a compressed watch",
            call(WATCH, &[("grpc-encoding", "gzip")], &[&trailers]),
        ),
        (
            "trailers of a stream",
            call("/v3electionpb.Election/Observe", &[], &[&data, &trailers]),
        ),
        (
            "trailers of a snapshot",
            call("/etcdserverpb.Maintenance/Snapshot", &[], &[&trailers]),
        ),
        ("trailers of a stranger", call("/a.B/C", &[], &[&data, &trailers])),
        (
            "more DATA than content-length",
            call(RANGE, &[("content-length", "3")], &[&last]),
        ),
        (
            "less DATA than content-length",
            call(RANGE, &[("content-length", "9000")], &[&last]),
        ),
        (
            "a header for one hop",
            call(RANGE, &[("connection", "close")], &[&last]),
        ),
        ("te", call(RANGE, &[("te", "gzip")], &[&last])),
        (
            "a second authority",
            call(RANGE, &[(":authority", "b")], &[&last]),
        ),
        ("expect", call(RANGE, &[("expect", "100-continue")], &[&last])),
        ("no base64", call(RANGE, &[("a-bin", "!!")], &[&last])),
        ("no time", call(RANGE, &[("grpc-timeout", "x")], &[&last])),
        ("an asterisk", call("*", &[], &[&last])),
        ("no slash", call("etcdserverpb.KV/Range", &[], &[&last])),
        (
            "a whole address",
            call("http://localhost/etcdserverpb.KV/Range", &[], &[&last]),
        ),
    ];
    let mut before = 0;
    for round in 0..2 {
        if round == 1 {
            // By now there is one for each kind of calls.
            before = member.count();
        }
        for (name, bytes) in &attacks {
            let mut client = RawClient::open(proxy.address()).await.expect("connection");
            // The connection may end at any byte of it.
            let _ = client.send(bytes).await;
            let answered = client.find(|frame| {
                frame.kind == kind::GOAWAY
                    || (frame.stream == 1
                        && (frame.kind == kind::RST_STREAM
                            || (frame.kind == kind::HEADERS && frame.flags & END_STREAM != 0)))
            });
            let last = within(name, ANSWER_LIMIT, answered).await;
            if name.starts_with("trailers") {
                let reset = last.map(|frame| (frame.kind, frame.payload));
                // PROTOCOL_ERROR
                assert_eq!(reset, Some((kind::RST_STREAM, vec![0, 0, 0, 1])), "{name}");
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let (written, failed) = writing.await.expect("the neighbour");
    assert!(written > 0 && failed.is_empty(), "{written} written, {failed:?}");
    assert_eq!(member.count(), before, "connections to the member");
    unharmed(proxy).await;
}

/// As many headers as fit: refused, and nobody panics.
async fn very_many_headers(proxy: Proxy) {
    for count in [24_570, 24_574, 24_575, 24_576] {
        let names: Vec<String> = (0..count).map(|number| format!("{number:x}")).collect();
        let mut headers = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":path", RANGE),
            (":authority", "localhost"),
        ];
        headers.extend(names.iter().map(|name| (&**name, "")));
        let block = frames::block(&headers);
        let parts: Vec<&[u8]> = block.chunks(16_000).collect();
        let mut bytes = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let end = if index + 1 == parts.len() { END_HEADERS } else { 0 };
            bytes.extend(match index {
                0 => frames::encode(kind::HEADERS, end | END_STREAM, 1, part),
                _ => frames::encode(kind::CONTINUATION, end, 1, part),
            });
        }
        let mut client = RawClient::open(proxy.address()).await.expect("connection");
        client.send(&bytes).await.expect("all of it");
        let answer = client.find(|frame| frame.stream == 1 && frame.kind == kind::HEADERS);
        let answer = within("a refusal", ANSWER_LIMIT, answer).await;
        assert!(answer.is_some(), "{count} headers: the connection ended");
    }
    unharmed(proxy).await;
}

/// What looks like a path that is known isn't one; and whoever reads by it changes nothing for those who read by the right one.
async fn other_paths(proxy: Proxy) {
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    for (path, message) in [
        (
            "/etcdserverpb.KV/Range?x",
            "unknown method Range?x for service etcdserverpb.KV",
        ),
        (
            "/etcdserverpb.KV/Range?",
            "unknown method Range? for service etcdserverpb.KV",
        ),
        ("/etcdserverpb.KV/Range/", "unknown service etcdserverpb.KV/Range"),
        ("//etcdserverpb.KV/Range", "unknown service /etcdserverpb.KV"),
        ("/etcdserverpb.KV//Range", "unknown service etcdserverpb.KV/"),
        (
            "/etcdserverpb.KV/%52ange",
            "unknown method %52ange for service etcdserverpb.KV",
        ),
        (
            "/etcdserverpb.Watch/Watch?q",
            "unknown method Watch?q for service etcdserverpb.Watch",
        ),
        (
            "/etcdserverpb.Lease/LeaseKeepAlive?q",
            "unknown method LeaseKeepAlive?q for service etcdserverpb.Lease",
        ),
    ] {
        let reply: Reply = within(path, ANSWER_LIMIT, wire.call(path, &[], &[range("hot")])).await;
        assert_eq!(
            (reply.code(), reply.message()),
            (Some(12), Some(message.to_owned())),
            "{path}"
        );
    }
    // Each read misses, so that reads of the same key share.
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    let mut readers = JoinSet::new();
    for number in 0..8 {
        let address = proxy.address().to_owned();
        readers.spawn(async move {
            let wire = Wire::connect(&address).await.expect("connection");
            let mut refused = 0;
            let mut asked = 0;
            while tokio::time::Instant::now() < until {
                let path = if number < 2 {
                    "/etcdserverpb.KV/Range?x"
                } else {
                    RANGE
                };
                if number == 7 {
                    let put = PutRequest {
                        key: "hot".into(),
                        ..PutRequest::default()
                    };
                    let put = put.encode_to_vec().into();
                    wire.call("/etcdserverpb.KV/Put", &[], &[put]).await;
                }
                let reply = wire.call(path, &[], &[range("hot")]).await;
                refused += usize::from(number >= 2 && !reply.is_ok());
                asked += 1;
            }
            (asked, refused)
        });
    }
    let counts = readers.join_all().await;
    let refused: usize = counts.iter().map(|(_, refused)| refused).sum();
    assert!(counts.iter().all(|(asked, _)| *asked > 0), "{counts:?}");
    assert_eq!(refused, 0, "reads by the right path were refused: {counts:?}");
    unharmed(proxy).await;
}

async fn metric(proxy: &Proxy, name: &str) -> f64 {
    let name = format!("etcd_proxy_read_{name}");
    let text = metrics::text(proxy.address(), metrics::PROXY)
        .await
        .expect("metrics");
    metrics::sum_where(&text, &name, |_| true).expect("the metric")
}

/// Answers that can't be read, half-closes that come late, writes that change nothing, are refused or compressed: nobody loses
/// what is cached.
async fn flushes_nothing(proxy: Proxy) {
    let client = Client::connect(proxy.address()).await.expect("proxy");
    client.put(b"kept", b"v").await.expect("put");
    let read = RangeRequest {
        key: "kept".into(),
        serializable: true,
        ..RangeRequest::default()
    };
    eventually("the read is cached", ANSWER_LIMIT, async || {
        let before = metric(&proxy, "hits_serializable_total").await;
        client.range(&read).await.expect("a read");
        (metric(&proxy, "hits_serializable_total").await > before).then_some(())
    })
    .await;
    let lost = async || metric(&proxy, "flushes_total").await + metric(&proxy, "invalidated_total").await;
    let before = lost().await;
    let everything = RequestOp {
        request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
            key: b"\0"[..].into(),
            range_end: b"\0"[..].into(),
            ..DeleteRangeRequest::default()
        })),
    };
    let untaken: Bytes = TxnRequest {
        failure: vec![everything],
        ..TxnRequest::default()
    }
    .encode_to_vec()
    .into();
    let wire = &client.wire;
    for _ in 0..20 {
        let reply = wire
            .call(RANGE, &[("grpc-encoding", "gzip")], &[range("a")])
            .await;
        assert!(reply.is_ok() && reply.compressed > 0, "{reply:?}");
        assert!(wire.call(TXN, &[], std::slice::from_ref(&untaken)).await.is_ok());
        // A put without key is refused.
        let refused = wire.call("/etcdserverpb.KV/Put", &[], &[Bytes::new()]).await;
        assert_eq!(refused.code(), Some(3), "{refused:?}");
        let mut late = wire.open(RANGE, &[]).await.expect("a call");
        late.send(range("late")).await.expect("a message");
        let reply = within("an answer without half-close", ANSWER_LIMIT, late.finish()).await;
        assert!(reply.is_ok(), "{reply:?}");
        let read = within("a neighbour's read", ANSWER_LIMIT, client.range(&read)).await;
        assert_eq!(read.expect("a read").kvs.len(), 1);
    }
    assert_eq!(lost().await, before, "entries were dropped");
    unharmed(proxy).await;
}
