//! Bytes that are no gRPC, no HTTP/2, or nothing at all.

use std::time::Duration;

use etcd_proxy_tests::{
    frames::{self, END_HEADERS, END_STREAM, PREFACE, RawClient, kind},
    proxy::Proxy,
    suite::within,
};
use libtest_mimic::Trial;

use crate::{ANSWER_LIMIT, Upstream, attack, healthy, unharmed};

/// Connections that say nothing, or not enough, are closed after this at the latest.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        attack(upstream, "garbage", &[], garbage),
        attack(upstream, "broken_frames", &[], broken_frames),
        attack(upstream, "http1", &[], http1),
        attack(upstream, "half_open", &[], half_open),
        attack(upstream, "headers_in_drips", &[], headers_in_drips),
        attack(upstream, "endless_headers", &[], endless_headers),
        attack(upstream, "empty_operation", &[], empty_operation),
    ]
}

/// A fixed sequence of bytes that look random.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = (0..count).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.collect()
}

async fn garbage(proxy: Proxy) {
    let tls = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".to_vec();
    let mut attempts = vec![
        tls,
        vec![0; 10_000],
        vec![0xff; 10_000],
        b"\r\n\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        b"PRI * HTTP/1.1\r\n\r\n".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
    ];
    for seed in 0..60 {
        attempts.push(noise(seed, 5_000));
        // Past the preface, noise is read as frames.
        attempts.push([PREFACE, &noise(seed, 5_000)].concat());
    }
    let mut open = Vec::new();
    for bytes in attempts {
        let mut client = RawClient::connect(proxy.address()).await.expect("connection");
        // The proxy may close in the middle of it.
        let _ = client.send(&bytes).await;
        open.push(client);
    }
    healthy(&proxy).await;
    for mut client in open {
        // Whether it is answered or not, it does not stay open for ever.
        let (_, ended) = client.read_to_end(SILENCE_LIMIT).await;
        assert!(
            ended,
            "a connection that sent garbage is still open after {SILENCE_LIMIT:?}"
        );
    }
    unharmed(proxy).await;
}

async fn broken_frames(proxy: Proxy) {
    let call = frames::call_headers("/etcdserverpb.KV/Range", &[]);
    let headers = |flags, stream, block: &[u8]| frames::encode(kind::HEADERS, flags, stream, block);
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("DATA on stream 0", frames::encode(kind::DATA, 0, 0, b"x")),
        ("DATA on an idle stream", frames::encode(kind::DATA, 0, 1, b"x")),
        ("HEADERS on stream 0", headers(END_HEADERS, 0, &call)),
        ("HEADERS on an even stream", headers(END_HEADERS, 2, &call)),
        (
            "HEADERS that are no HPACK",
            headers(END_HEADERS, 1, &noise(1, 100)),
        ),
        (
            "an index into nothing",
            headers(END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0x7f]),
        ),
        (
            "CONTINUATION without HEADERS",
            frames::encode(kind::CONTINUATION, 4, 1, &call),
        ),
        ("PING of 3 bytes", frames::encode(kind::PING, 0, 0, b"abc")),
        (
            "SETTINGS of 5 bytes",
            frames::encode(kind::SETTINGS, 0, 0, b"abcde"),
        ),
        ("SETTINGS on a stream", frames::encode(kind::SETTINGS, 0, 1, &[])),
        (
            "a window of more than 2^31",
            frames::encode(kind::SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"),
        ),
        (
            "WINDOW_UPDATE by 0",
            frames::encode(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        (
            "RST_STREAM of an idle stream",
            frames::encode(kind::RST_STREAM, 0, 9, &[0; 4]),
        ),
        ("a frame of 16 MiB", b"\xff\xff\xff\0\0\0\0\0\x01".to_vec()),
        (
            "window overflow",
            frames::encode(kind::WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff").repeat(3),
        ),
        (
            "a header name in capitals",
            headers(
                END_HEADERS | END_STREAM,
                1,
                &frames::call_headers("/etcdserverpb.KV/Range", &[("X-Upper", "1")]),
            ),
        ),
        (
            "no pseudo headers",
            headers(END_HEADERS | END_STREAM, 1, &frames::block(&[("a", "b")])),
        ),
        (
            "a path that is none",
            headers(END_HEADERS | END_STREAM, 1, &frames::call_headers("\u{1} x", &[])),
        ),
        (
            "more DATA than content-length",
            [
                headers(
                    END_HEADERS,
                    1,
                    &frames::call_headers("/etcdserverpb.KV/Range", &[("content-length", "1")]),
                ),
                frames::encode(kind::DATA, END_STREAM, 1, b"\0\0\0\0\0"),
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in attacks {
        let mut client = RawClient::open(proxy.address()).await.expect("connection");
        // The connection may end at any byte of it.
        let _ = client.send(&bytes).await;
        let refused = client.find(|frame| {
            // As an answer counts an error of the stream or of the connection, or an HTTP error.
            matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY)
                || (frame.kind == kind::HEADERS && frame.flags & END_STREAM != 0)
        });
        within(&format!("a reaction to {name}"), ANSWER_LIMIT, refused).await;
        healthy(&proxy).await;
    }
    unharmed(proxy).await;
}

async fn http1(proxy: Proxy) {
    for (request, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 404",
        ),
        (
            "GET /v3/kv/range HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 404",
        ),
        (
            "POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\
             Connection: close\r\n\r\n{}",
            "HTTP/1.1 4",
        ),
        ("HEAD / HTTP/1.0\r\n\r\n", "HTTP/1."),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
          HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            "HTTP/1.1 404",
        ),
        ("GET  / HTTP/9.9\r\n\r\n", "HTTP/1.1 4"),
        ("GET / HTTP/1.1\r\nbroken header\r\n\r\n", "HTTP/1.1 400"),
    ] {
        let mut client = RawClient::connect(proxy.address()).await.expect("connection");
        client.send(request.as_bytes()).await.expect("send");
        let (answer, ended) = client.read_to_end(SILENCE_LIMIT).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(ended, "still open after {request:?}: {answer:?}");
        assert!(answer.starts_with(expected), "{request:?}: {answer:?}");
    }
    // A header that has no end.
    let mut client = RawClient::connect(proxy.address()).await.expect("connection");
    let _ = client.send(b"GET / HTTP/1.1\r\nX: ").await;
    for _ in 0..200 {
        if client.send(&[b'a'; 10_000]).await.is_err() {
            break;
        }
    }
    let (_, ended) = client.read_to_end(SILENCE_LIMIT).await;
    assert!(ended, "an endless HTTP/1 header is still being read");
    unharmed(proxy).await;
}

async fn half_open(proxy: Proxy) {
    let mut silent = Vec::new();
    for number in 0..400 {
        let mut client = RawClient::connect(proxy.address()).await.expect("connection");
        let sent: &[u8] = match number % 4 {
            0 => b"",
            1 => b"PR",
            2 => b"GE",
            _ => &PREFACE[..20],
        };
        client.send(sent).await.expect("send");
        silent.push(client);
    }
    healthy(&proxy).await;
    for (number, mut client) in silent.into_iter().enumerate() {
        let (_, ended) = client.read_to_end(SILENCE_LIMIT).await;
        assert!(ended, "connection {number} is still open after {SILENCE_LIMIT:?}");
    }
    unharmed(proxy).await;
}

/// Headers that come a byte at a time do not keep others from being served.
async fn headers_in_drips(proxy: Proxy) {
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(RawClient::open(proxy.address()).await.expect("connection"));
    }
    let block = frames::call_headers("/etcdserverpb.KV/Range", &[("x-filler", &"y".repeat(200))]);
    let call = frames::encode(kind::HEADERS, END_HEADERS, 1, &block);
    for byte in &call[..call.len() - 1] {
        for client in &mut clients {
            // A proxy may lose its patience.
            let _ = client.send(&[*byte]).await;
        }
    }
    healthy(&proxy).await;
    unharmed(proxy).await;
}

/// One header block in ever more CONTINUATION frames (CVE-2024-27316 and its like).
async fn endless_headers(proxy: Proxy) {
    let mut client = RawClient::open(proxy.address()).await.expect("connection");
    let first = frames::call_headers("/etcdserverpb.KV/Range", &[]);
    client
        .send(&frames::encode(kind::HEADERS, 0, 1, &first))
        .await
        .expect("send");
    let more = frames::block(&[("x-filler", &"y".repeat(10_000))]);
    let more = frames::encode(kind::CONTINUATION, 0, 1, &more);
    let mut sent = 0_u64;
    while sent < 500_000_000 {
        match tokio::time::timeout(ANSWER_LIMIT, client.send(&more)).await {
            Ok(Ok(())) => sent += more.len() as u64,
            Ok(Err(_)) => break,
            // Not read any more: as good as refused.
            Err(_) => break,
        }
    }
    assert!(sent < 500_000_000, "500 MB of headers were swallowed");
    unharmed(proxy).await;
}

/// This one kills the existing proxy.
async fn empty_operation(proxy: Proxy) {
    let client = etcd_proxy_tests::client::Client::connect(proxy.address())
        .await
        .expect("proxy");
    for message in [&b"\x12\x00"[..], b"\x1a\x00", b"\x12\x04\x22\x02\x12\x00"] {
        let messages = [bytes::Bytes::copy_from_slice(message)];
        let reply = client.wire.call("/etcdserverpb.KV/Txn", &[], &messages).await;
        assert_eq!(reply.code(), Some(3), "{reply:?}");
    }
    unharmed(proxy).await;
}
