//! Too many streams, too many resets.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_tests::{
    fake::{Fake, Step},
    frames::{self, END_HEADERS, END_STREAM, RawClient, kind},
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::{ANSWER_LIMIT, Upstream, attack, healthy, unharmed};

/// Streams opened at once, by one client that ignores the limit.
const FLOOD: u32 = 100_000;

/// What the proxy is told to allow per connection.
const LIMIT: usize = 100;

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        trial("stream_flood", stream_flood),
        attack(
            upstream,
            "streams_queue_at_the_limit",
            &["--max-concurrent-streams=5"],
            queue,
        ),
        attack(upstream, "reset_storm", &[], reset_storm),
        attack(upstream, "connection_storm", &[], connection_storm),
        attack(upstream, "settings_and_ping_flood", &[], control_flood),
    ]
}

/// The limit is announced and holds, counted where it matters: at the upstream.
async fn stream_flood() {
    let fake = Fake::start(|_, request| match request.path.as_str() {
        "/v3electionpb.Election/Observe" => vec![Step::Headers(Vec::new()), Step::Never],
        _ => vec![
            Step::Headers(Vec::new()),
            Step::Message(Bytes::new()),
            Step::Trailers(vec![("grpc-status", "0")]),
        ],
    })
    .await;
    let flag = format!("--max-concurrent-streams={LIMIT}");
    let mut proxy = Proxy::start(&[fake.address()], &[&flag]).await;
    let mut flood = RawClient::open(proxy.address()).await.expect("connection");
    let settings = flood
        .find(|frame| frame.kind == kind::SETTINGS && frame.flags & 1 == 0)
        .await;
    let settings = settings.expect("the proxy's settings").payload;
    let announced = settings.chunks_exact(6).find(|entry| entry[..2] == [0, 3]);
    let announced = announced.map(|entry| u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]));
    assert_eq!(announced, Some(LIMIT as u32), "SETTINGS_MAX_CONCURRENT_STREAMS");

    let watches = || {
        let requests = fake.requests();
        requests
            .iter()
            .filter(|request| request.path.ends_with("/Observe"))
            .count()
    };
    let block = frames::call_headers("/v3electionpb.Election/Observe", &[]);
    for number in 0..FLOOD {
        if number == LIMIT as u32 {
            // So far all was allowed.
            eventually(
                "the allowed streams reach the upstream",
                ANSWER_LIMIT,
                async || (watches() == LIMIT).then_some(()),
            )
            .await;
        }
        let open = frames::encode(kind::HEADERS, END_HEADERS, 2 * number + 1, &block);
        // It may be thrown out before it is through.
        match tokio::time::timeout(ANSWER_LIMIT, flood.send(&open)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let wire = Wire::connect(proxy.address()).await.expect("another client");
    let messages = [Bytes::new()];
    let call = wire.call("/etcdserverpb.KV/Put", &[], &messages);
    let reply = within("an answer to another client", ANSWER_LIMIT, call).await;
    assert!(reply.is_ok(), "{reply:?}");
    // All that arrived, dead or alive: a limit that lets the next one in for each that it refuses
    // would be none.
    assert_eq!(
        watches(),
        LIMIT,
        "so many of {FLOOD} streams reached the upstream"
    );
    drop(flood);
    eventually("the flooder's calls are cancelled", ANSWER_LIMIT, async || {
        let requests = fake.requests();
        let mut watches = requests.iter().filter(|request| request.path.ends_with("/Watch"));
        watches.all(|request| request.reset.is_some()).then_some(())
    })
    .await;
    let resident = proxy.process().memory_kib("VmHWM");
    assert!(resident < crate::SANE_KIB, "the proxy took {resident} KiB");
    proxy.assert_sound();
}

/// A client that keeps to the limit gets all of its calls through.
async fn queue(proxy: Proxy) {
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    // Let the proxy's settings arrive; before that a client may open as many as it likes.
    assert!(
        wire.call("/etcdserverpb.KV/Put", &[], &[Bytes::from_static(b"\x0a\x01q")])
            .await
            .is_ok()
    );
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500 {
        let wire = wire.clone();
        calls.spawn(async move {
            let message = Bytes::from(format!("\u{a}\u{4}q{number:03}"));
            wire.call("/etcdserverpb.KV/Put", &[], &[message]).await
        });
    }
    while let Some(reply) = within("all 500 calls", ANSWER_LIMIT, calls.join_next()).await {
        let reply = reply.expect("a call");
        assert!(reply.is_ok(), "{reply:?}");
    }
    unharmed(proxy).await;
}

/// Open and reset, open and reset (CVE-2023-44487). The connection may be thrown out.
async fn reset_storm(proxy: Proxy) {
    for path in [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.Watch/Watch",
        "/v3electionpb.Election/Observe",
        "/no.such.Service/M",
    ] {
        let mut storm = RawClient::open(proxy.address()).await.expect("connection");
        let block = frames::call_headers(path, &[]);
        for number in 0..30_000 {
            let stream = 2 * number + 1;
            let pair = [
                frames::encode(kind::HEADERS, END_HEADERS, stream, &block),
                frames::encode(kind::DATA, END_STREAM, stream, b"\0\0\0\0\x03\x0a\x01a"),
                frames::encode(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ];
            match tokio::time::timeout(ANSWER_LIMIT, storm.send(&pair.concat())).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        healthy(&proxy).await;
    }
    unharmed(proxy).await;
}

/// Connections come and go in every state.
async fn connection_storm(mut proxy: Proxy) {
    let open_files = |proxy: &mut Proxy| {
        let folder = format!("/proc/{}/fd", proxy.process().pid());
        std::fs::read_dir(folder).expect("the proxy runs").count()
    };
    let before = open_files(&mut proxy);
    for number in 0..2_000 {
        let mut client = RawClient::connect(proxy.address()).await.expect("connection");
        match number % 3 {
            0 => {}
            1 => client.send(b"PRI * HTTP/2.0\r\n").await.expect("send"),
            _ => {
                let block = frames::call_headers("/etcdserverpb.Watch/Watch", &[]);
                let open = [
                    frames::PREFACE.to_vec(),
                    frames::encode(kind::SETTINGS, 0, 0, &[]),
                    frames::encode(kind::HEADERS, END_HEADERS, 1, &block),
                ];
                client.send(&open.concat()).await.expect("send");
            }
        }
    }
    eventually(
        "all connections are closed",
        Duration::from_secs(30),
        async || (open_files(&mut proxy) <= before + 10).then_some(()),
    )
    .await;
    unharmed(proxy).await;
}

/// Frames that must be answered, from a client that does not read the answers.
async fn control_flood(proxy: Proxy) {
    for frame in [
        frames::encode(kind::SETTINGS, 0, 0, &[]),
        frames::encode(kind::PING, 0, 0, b"pingpong"),
        frames::encode(kind::SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff"),
    ] {
        let mut flood = RawClient::open(proxy.address()).await.expect("connection");
        let many = frame.repeat(1_000);
        for _ in 0..300 {
            match tokio::time::timeout(Duration::from_secs(3), flood.send(&many)).await {
                Ok(Ok(())) => {}
                // Thrown out, or not read any more: both are fine.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        healthy(&proxy).await;
    }
    unharmed(proxy).await;
}
