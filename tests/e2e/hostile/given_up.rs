//! Calls that their clients give up by the thousand, and a call whose request never ends.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use etcd_proxy_tests::{
    frames::{self, ACK, END_HEADERS, END_STREAM, PREFACE, RawClient, kind},
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{ANSWER_LIMIT, Upstream, attack, unharmed};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        trial("calls_given_up_by_others", given_up),
        attack(
            upstream,
            "endless_messages_in_a_unary_call",
            &[],
            endless_messages,
        ),
    ]
}

const PUT: &str = "/etcdserverpb.KV/Put";

/// A request that the member answers only after it was cancelled.
const HELD: &[u8] = b"\0\0\0\0\x04held";

/// What the member answers to everything, probes among it: a status that is nobody's failure.
const UNIMPLEMENTED: u32 = 12;

/// Calls of a round, all open at a time.
const BATCH: usize = 200;

/// More calls in all than a connection forgives by h2's default (1,024).
const ROUNDS: usize = 10;

/// What the member has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    held: AtomicUsize,
    cancelled: AtomicUsize,
}

/// A member that knows only frames: its answer to a cancelled call comes after the RST_STREAM, as
/// one that was on its way does. An HTTP/2 library would not let one write it.
async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        seen.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, Arc::clone(&seen)));
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Seen>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    let hello = [
        frames::encode(kind::SETTINGS, 0, 0, &[]),
        frames::encode(kind::WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()),
    ];
    stream.write_all(&hello.concat()).await?;
    let status = frames::block(&[
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "12"),
    ]);
    let answer = |id| frames::encode(kind::HEADERS, END_HEADERS | END_STREAM, id, &status);
    let mut held = HashSet::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let id = u32::from_be_bytes(id) & 0x7fff_ffff;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let written = match kind {
            kind::SETTINGS | kind::PING if flags & ACK == 0 => {
                let echoed: &[u8] = if kind == kind::PING { &payload } else { &[] };
                frames::encode(kind, ACK, 0, echoed)
            }
            kind::DATA => {
                if payload == HELD {
                    held.insert(id);
                    seen.held.fetch_add(1, Ordering::Relaxed);
                }
                if flags & END_STREAM == 0 || held.contains(&id) {
                    continue;
                }
                answer(id)
            }
            kind::RST_STREAM if held.remove(&id) => {
                seen.cancelled.fetch_add(1, Ordering::Relaxed);
                answer(id)
            }
            _ => continue,
        };
        stream.write_all(&written).await?;
    }
}

/// One client cancels thousands of calls. Those of another client, on the same connection to the
/// member, do not notice.
async fn given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("member's port");
    let address = listener.local_addr().expect("bound address").to_string();
    let seen = Arc::new(Seen::default());
    let mut member = JoinSet::new();
    member.spawn(accept(listener, Arc::clone(&seen)));
    // One worker has one connection of a kind to the member.
    let mut proxy = Proxy::start(&[address], &["--workers=1"]).await;

    let other = Wire::connect(proxy.address()).await.expect("connection");
    let call = async || {
        let messages = [Bytes::from_static(b"other")];
        let reply = other.call(PUT, &[], &messages);
        let reply = within("a call of another client", ANSWER_LIMIT, reply).await;
        assert_eq!(reply.code(), Some(UNIMPLEMENTED), "{reply:?}");
    };
    call().await;
    let before = seen.connections.load(Ordering::Relaxed);
    let mut watch = other
        .open("/v3electionpb.Election/Observe", &[])
        .await
        .expect("call");
    watch.send(Bytes::from_static(b"create")).await.expect("send");
    // Calls that may wait have a connection of their own.
    let connections = before + 1;
    reached(
        "the connection of the call that waits",
        &seen.connections,
        connections,
    )
    .await;

    let block = frames::call_headers(PUT, &[]);
    for round in 1..=ROUNDS {
        let mut client = RawClient::open(proxy.address()).await.expect("connection");
        let streams = || (0..BATCH as u32).map(|number| 2 * number + 1);
        let calls = streams().flat_map(|id| {
            [
                frames::encode(kind::HEADERS, END_HEADERS, id, &block),
                frames::encode(kind::DATA, END_STREAM, id, HELD),
            ]
            .concat()
        });
        client.send(&calls.collect::<Vec<_>>()).await.expect("send");
        reached("all calls arrive", &seen.held, round * BATCH).await;
        let cancels = streams().flat_map(|id| frames::encode(kind::RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        client.send(&cancels.collect::<Vec<_>>()).await.expect("send");
        reached("all calls are cancelled", &seen.cancelled, round * BATCH).await;
        call().await;
    }

    watch.half_close().expect("half-close");
    let reply = within("the end of the watch", ANSWER_LIMIT, watch.finish()).await;
    assert_eq!(reply.code(), Some(UNIMPLEMENTED), "{reply:?}");
    let log = proxy.log();
    assert!(!log.contains("endpoint failed"), "{log}");
    assert_eq!(
        seen.connections.load(Ordering::Relaxed),
        connections,
        "a connection was replaced"
    );
    proxy.assert_sound();
}

async fn reached(what: &str, counter: &AtomicUsize, count: usize) {
    eventually(what, ANSWER_LIMIT, async || {
        (counter.load(Ordering::Relaxed) >= count).then_some(())
    })
    .await;
}

/// Far more than the memory that [`unharmed`] allows.
const ENDLESS_BYTES: usize = 400 << 20;

/// A unary call has one message. What comes after it is not kept.
async fn endless_messages(proxy: Proxy) {
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let mut call = wire.open("/etcdserverpb.KV/Range", &[]).await.expect("call");
    let message = Bytes::from(vec![b'x'; 16_000]);
    let mut sent = 0;
    while sent < ENDLESS_BYTES {
        match tokio::time::timeout(Duration::from_secs(5), call.send(message.clone())).await {
            Ok(Ok(())) => sent += message.len(),
            // Refused, or not read any more: both are fine.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    // While the call is still there.
    unharmed(proxy).await;
    drop(call);
}
