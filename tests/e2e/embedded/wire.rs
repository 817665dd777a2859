//! What is between HTTP/2 and a message: compared with a real etcd, frame by frame.

use bytes::Bytes;
use etcd_proxy_model::cluster::UNCOVERED;
use etcd_proxy_proto::etcdserverpb as pb;
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::{trial, within},
    wire::{Reply, Wire, frame_message},
};
use libtest_mimic::Trial;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{SOON, Way, World};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("wire/calls_end_as_with_etcd", calls_end_as_with_etcd),
        trial("wire/large_messages", large_messages),
        trial("wire/garbage", garbage),
        trial("wire/given_up", given_up),
        trial("wire/what_is_not_covered", what_is_not_covered),
    ]
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// One call: its path, its metadata, the bytes of its body, and whether the client half-closes.
type Call = (&'static str, &'static [(&'static str, &'static str)], Vec<u8>);

fn range() -> Vec<u8> {
    let request = pb::RangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    frame_message(&request).to_vec()
}

/// Bytes of a message that no protobuf parser takes.
fn undecodable() -> Vec<u8> {
    b"\0\0\0\0\x03\x0a\x05a".to_vec()
}

fn cases() -> Vec<Call> {
    let flagged = |flag: u8| {
        let mut bytes = range();
        bytes[0] = flag;
        bytes
    };
    let cut = |len: usize| {
        let mut bytes = range();
        bytes.truncate(len);
        bytes
    };
    let mut cases: Vec<Call> = vec![
        (RANGE, &[], range()),
        (RANGE, &[("content-type", "application/grpc+proto")], range()),
        (RANGE, &[("content-type", "application/grpc;x")], range()),
        (RANGE, &[("content-type", "application/grpc-web")], range()),
        (RANGE, &[("content-type", "application/json")], range()),
        (RANGE, &[("content-type", "")], range()),
        (RANGE, &[("grpc-encoding", "identity")], range()),
        (RANGE, &[("grpc-encoding", "snappy")], range()),
        (RANGE, &[("grpc-accept-encoding", "gzip")], range()),
        (RANGE, &[("hasleader", "true")], range()),
        (RANGE, &[("hasleader", "no")], range()),
        (RANGE, &[("token", "nonsense")], range()),
        (RANGE, &[("grpc-timeout", "0S")], range()),
        (RANGE, &[("grpc-timeout", "10S")], range()),
        (RANGE, &[("grpc-timeout", "99999999H")], range()),
        (RANGE, &[("grpc-timeout", "x")], range()),
        (RANGE, &[("grpc-timeout", "5s")], range()),
        (RANGE, &[("grpc-timeout", "xS")], range()),
        (RANGE, &[("grpc-timeout", "123456789S")], range()),
        (RANGE, &[], [range(), range()].concat()),
        (RANGE, &[], Vec::new()),
        (RANGE, &[], vec![0, 0, 0, 0, 0]),
        (WATCH, &[("grpc-timeout", "0S")], Vec::new()),
        (WATCH, &[("grpc-encoding", "snappy")], range()),
        (KEEP_ALIVE, &[], Vec::new()),
        (
            KEEP_ALIVE,
            &[],
            [vec![0, 0, 0, 0, 2, 8, 7], vec![0, 0, 0, 0, 0]].concat(),
        ),
        ("/etcdserverpb.KV/Nothing", &[], range()),
        ("/etcdserverpb.Nothing/Range", &[], range()),
        ("/etcdserverpb.Maintenance/Nothing", &[], range()),
        ("/a/b/c", &[], range()),
        ("/abc", &[], range()),
        ("/", &[], range()),
    ];
    for path in [RANGE, KEEP_ALIVE] {
        // Taken for the end of the messages. A watch would stay.
        cases.push((path, &[], cut(3)));
    }
    for path in [RANGE, WATCH, KEEP_ALIVE] {
        for bytes in [
            flagged(1),
            flagged(2),
            flagged(255),
            cut(5),
            cut(6),
            undecodable(),
            // One byte more than is taken, and as much as a prefix can say.
            vec![0, 0, 0x20, 0, 1],
            vec![0, 0xff, 0xff, 0xff, 0xff],
        ] {
            cases.push((path, &[], bytes));
        }
    }
    cases
}

/// What a client sees of a reply, without what is in its messages and without the words of Go's protobuf parser.
fn seen(mut reply: Reply) -> (Reply, usize) {
    let messages = reply.messages.len();
    reply.messages.clear();
    let fields = reply
        .headers
        .iter_mut()
        .chain(reply.trailers.iter_mut().flatten());
    for (name, value) in fields {
        for words in [
            "error unmarshalling request: ",
            "unmarshal the received message: ",
        ] {
            let text = String::from_utf8_lossy(value);
            if let Some(at) = text.find(words).filter(|_| name == "grpc-message") {
                value.truncate(at + words.len());
            }
        }
    }
    (reply, messages)
}

async fn ended(wire: &Wire, (path, metadata, bytes): &Call) -> (Reply, usize) {
    let mut call = wire.open(path, metadata).await.expect("call");
    // A server that has answered by now takes no more.
    let _ = call.send_raw(Bytes::from(bytes.clone()), true).await;
    seen(within(path, SOON, call.finish()).await)
}

async fn calls_end_as_with_etcd() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start(Way::Alone).await;
    let real = Wire::connect(&cluster.address(0)).await.expect("etcd");
    let ours = Wire::connect(etcd_address(&world)).await.expect("in-memory etcd");
    let proxied = Wire::connect(&world.address).await.expect("proxy");
    for case in cases() {
        let expected = ended(&real, &case).await;
        assert!(expected.0.code().is_some(), "{case:?}: {expected:?}");
        assert_eq!(ended(&ours, &case).await, expected, "{case:?}");
        // A proxy says for itself what is wrong with the size of a message.
        assert_eq!(
            ended(&proxied, &case).await.0.code(),
            expected.0.code(),
            "{case:?} through the proxy"
        );
    }
    world.assert_sound();
}

fn etcd_address(world: &World) -> &str {
    let (_, address) = world.etcd.as_ref().expect("a process of its own");
    address
}

/// Sizes at and around etcd's limits, there and back.
async fn large_messages() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start(Way::Alone).await;
    let real = Wire::connect(&cluster.address(0)).await.expect("etcd");
    let ours = Wire::connect(etcd_address(&world)).await.expect("in-memory etcd");
    for size in [
        1_000_000, 1_572_800, 1_572_864, 1_600_000, 2_097_000, 2_097_152, 3_000_000,
    ] {
        let put = pb::PutRequest {
            key: "big".into(),
            value: vec![7; size].into(),
            ..Default::default()
        };
        let get = pb::RangeRequest {
            key: "big".into(),
            ..Default::default()
        };
        let mut outcomes = Vec::new();
        for wire in [&real, &ours] {
            let put = wire
                .unary::<_, pb::PutResponse>("/etcdserverpb.KV/Put", &[], &put)
                .await
                .map(drop)
                .map_err(|reply| (reply.code(), reply.message()));
            let got: pb::RangeResponse = wire.unary(RANGE, &[], &get).await.expect("range");
            let len = got.kvs.first().map(|kv| kv.value.len());
            outcomes.push((put, len));
        }
        assert_eq!(outcomes[0], outcomes[1], "{size} bytes");
    }
    world.assert_sound();
}

/// Bytes that are no HTTP/2, and HTTP/2 that is no gRPC: nobody else notices.
async fn garbage() {
    let mut world = World::start(Way::Alone).await;
    let address = etcd_address(&world).to_owned();
    for bytes in [
        &b"\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(&address).await.expect("connection");
        socket.write_all(bytes).await.expect("write");
        drop(socket);
    }
    let wire = Wire::connect(&address).await.expect("connection");
    for seed in 0u32..300 {
        // A sequence without a pattern that a parser could like (Knuth's multiplicative hash).
        let bytes: Vec<u8> = (0..64u32)
            .map(|at| ((seed * 64 + at).wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let mut body = vec![0, 0, 0, 0, 64];
        body.extend(bytes);
        for path in [
            RANGE,
            WATCH,
            KEEP_ALIVE,
            "/etcdserverpb.KV/Txn",
            "/etcdserverpb.KV/Put",
            "/etcdserverpb.Auth/Authenticate",
            "/etcdserverpb.Maintenance/Status",
        ] {
            let mut call = wire.open(path, &[("grpc-timeout", "5S")]).await.expect("call");
            call.send_raw(body.clone().into(), true).await.expect("send");
            if path == WATCH {
                // It may well have become a watch, which would stay.
                drop(call);
            } else {
                let reply = within(path, SOON, call.finish()).await;
                assert!(reply.code().is_some(), "{reply:?}");
            }
        }
    }
    drop(wire);
    assert_eq!(world.ctl().ok(&["put", "still", "here"]).await, "OK\n");
    world.assert_sound();
}

/// A call that outlives its deadline is reset, as grpc-go does; one that is cancelled is forgotten.
async fn given_up() {
    let mut world = World::start(Way::Alone).await;
    let wire = Wire::connect(etcd_address(&world)).await.expect("connection");
    let watch = wire
        .open(WATCH, &[("grpc-timeout", "100m")])
        .await
        .expect("watch");
    let reply = within("the deadline", SOON, watch.finish()).await;
    const CANCEL: u32 = 8;
    assert_eq!(reply.reset, Some(CANCEL), "{reply:?}");

    // A request that never comes.
    let call = wire.open(RANGE, &[("grpc-timeout", "100m")]).await.expect("call");
    let reply = within("the deadline", SOON, call.finish()).await;
    assert_eq!(reply.reset, Some(CANCEL), "{reply:?}");

    let mut calls = Vec::new();
    for _ in 0..500 {
        let mut watch = wire.open(WATCH, &[]).await.expect("watch");
        watch.send(create("g").into()).await.expect("send");
        calls.push(watch);
    }
    for watch in &mut calls {
        assert!(within("created", SOON, watch.message()).await.is_some());
    }
    drop(calls);
    wire.kill();
    assert_eq!(world.ctl().ok(&["put", "g", "x"]).await, "OK\n");
    world.assert_sound();
}

fn create(key: &str) -> Vec<u8> {
    use prost::Message as _;
    let create = pb::WatchCreateRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    }
    .encode_to_vec()
}

/// RPCs that the model leaves out are refused and say so, as is gzip, which etcd takes.
async fn what_is_not_covered() {
    const UNIMPLEMENTED: Option<u32> = Some(12);
    let mut world = World::start(Way::Alone).await;
    let wire = Wire::connect(etcd_address(&world)).await.expect("connection");
    for path in UNCOVERED.iter().map(|rpc| rpc.path()) {
        let reply = wire.call(path, &[], &[Bytes::new()]).await;
        assert_eq!(reply.code(), UNIMPLEMENTED, "{path}: {reply:?}");
    }
    let reply = wire
        .call(RANGE, &[("grpc-encoding", "gzip")], &[Bytes::new()])
        .await;
    assert_eq!(reply.code(), UNIMPLEMENTED, "{reply:?}");
    assert_eq!(
        reply.message().as_deref(),
        Some("grpc: Decompressor is not installed for grpc-encoding \"gzip\"")
    );
    world.assert_sound();
}
