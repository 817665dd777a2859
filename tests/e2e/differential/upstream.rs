//! A scripted upstream: what reaches it, and what of its answers reaches the client.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_tests::{
    fake::{Fake, Step},
    frames::{self, END_HEADERS, END_STREAM, RawClient, kind},
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::{Reply, Wire},
};
use libtest_mimic::Trial;

use crate::pair::ANSWER_LIMIT;

pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
/// A stream that goes through as bytes, and has no end of its own.
pub(crate) const STREAM: &str = "/v3electionpb.Election/Observe";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("upstream_gets_metadata", gets_metadata),
        trial("upstream_gets_no_hop_by_hop_headers", gets_no_hop_by_hop_headers),
        trial("upstream_gets_deadline", gets_deadline),
        trial("upstream_answers", answers),
        trial("upstream_sees_cancel", sees_cancel),
        trial("upstream_sees_half_close", sees_half_close),
    ]
}

pub(crate) fn ok(message: &'static [u8]) -> Vec<Step> {
    vec![
        Step::HalfClosed,
        Step::Headers(Vec::new()),
        Step::Message(Bytes::from_static(message)),
        Step::Trailers(vec![("grpc-status", "0")]),
    ]
}

pub(crate) async fn in_front_of(fake: &Fake) -> (Proxy, Wire) {
    let proxy = Proxy::start(&[fake.address()], &[]).await;
    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    (proxy, wire)
}

pub(crate) async fn call(wire: &Wire, path: &str, metadata: &[(&str, &str)]) -> Reply {
    let messages = [Bytes::from_static(b"request")];
    let what = format!("{path} with {metadata:?}");
    within(&what, ANSWER_LIMIT, wire.call(path, metadata, &messages)).await
}

async fn gets_metadata() {
    let fake = Fake::playing(ok(b"answer")).await;
    let (mut proxy, wire) = in_front_of(&fake).await;
    let metadata = [
        ("token", "a token"),
        ("authorization", "Bearer x"),
        ("hasleader", "true"),
        ("client-api-version", "3.5.30"),
        ("x-custom", "one"),
        ("x-custom", "two"),
        ("x-empty", ""),
        ("x-custom-bin", "AAECAw"),
        ("grpc-trace-bin", "AAEC"),
        ("user-agent", "a test/1.0"),
        ("grpc-accept-encoding", "gzip"),
        ("baggage", "a=b"),
    ];
    for path in [RANGE, PUT, STREAM, "/no.such.Service/Method"] {
        let reply = call(&wire, path, &metadata).await;
        assert!(reply.is_ok(), "{path}: {reply:?}");
        assert_eq!(reply.messages, [Bytes::from_static(b"answer")], "{path}");
        let requests = fake.requests();
        let request = requests.iter().rfind(|request| request.path == path);
        let request = request.unwrap_or_else(|| panic!("{path} did not arrive"));
        for (name, _) in metadata {
            let sent: Vec<String> = metadata
                .iter()
                .filter(|(sent, _)| *sent == name)
                .map(|(_, value)| (*value).to_owned())
                .collect();
            assert_eq!(request.values(name), sent, "{path}: {name}");
        }
        assert_eq!(request.values("content-type"), ["application/grpc"], "{path}");
        assert_eq!(request.values("te"), ["trailers"], "{path}");
        assert_eq!(request.body, b"\0\0\0\0\x07request", "{path}");
        let known = ["content-type", "te"];
        for (name, value) in &request.headers {
            let sent = metadata.iter().any(|(sent, _)| sent == name);
            assert!(
                sent || known.contains(&name.as_str()),
                "{path}: added {name}: {value:?}"
            );
        }
    }
    // What a client left out stays out.
    let reply = call(&wire, RANGE, &[]).await;
    assert!(reply.is_ok(), "{reply:?}");
    let request = fake.requests().pop().expect("a request");
    assert!(request.values("user-agent").is_empty(), "{request:?}");
    assert!(request.values("grpc-timeout").is_empty(), "{request:?}");
    proxy.assert_sound();
}

/// RFC 9113 section 8.2.2: a request with such a header is malformed. Whether it is refused or
/// forwarded without them, they must not arrive.
async fn gets_no_hop_by_hop_headers() {
    let fake = Fake::playing(ok(b"answer")).await;
    let (mut proxy, wire) = in_front_of(&fake).await;
    for (name, value) in [
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
    ] {
        let mut client = RawClient::open(proxy.address()).await.expect("proxy");
        let headers = frames::call_headers(RANGE, &[(name, value), ("x-case", name)]);
        let call = [
            frames::encode(kind::HEADERS, END_HEADERS, 1, &headers),
            frames::encode(kind::DATA, END_STREAM, 1, b"\0\0\0\0\0"),
        ];
        client.send(&call.concat()).await.expect("send");
        let ended = client.find(|frame| {
            let last = frame.kind == kind::HEADERS && frame.flags & END_STREAM != 0;
            last || frame.kind == kind::RST_STREAM || frame.kind == kind::GOAWAY
        });
        within(&format!("an answer to a call with {name}"), ANSWER_LIMIT, ended).await;
        for request in fake.requests() {
            assert!(request.values(name).is_empty(), "{name} arrived: {request:?}");
        }
    }
    assert!(call(&wire, RANGE, &[]).await.is_ok());
    proxy.assert_sound();
}

fn timeout_nanos(text: &str) -> u128 {
    let (digits, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => panic!("unit of {text}"),
    };
    assert!(digits.len() <= 8, "{text} has more than 8 digits");
    digits.parse::<u128>().expect("digits") * unit
}

async fn gets_deadline() {
    let fake = Fake::start(|_, request| match request.values("x-never").is_empty() {
        true => ok(b"answer"),
        false => vec![Step::Never],
    })
    .await;
    let (mut proxy, wire) = in_front_of(&fake).await;
    for timeout in ["30S", "5000000u", "99999999m", "20000000000n"] {
        let metadata = [("grpc-timeout", timeout)];
        if timeout.len() > 9 {
            // More digits than gRPC allows: up to the proxy, but no 20 seconds of waiting.
            call(&wire, RANGE, &metadata).await;
            continue;
        }
        let reply = call(&wire, RANGE, &metadata).await;
        assert!(reply.is_ok(), "{timeout}: {reply:?}");
        let request = fake.requests().pop().expect("a request");
        let [forwarded] = &request.values("grpc-timeout")[..] else {
            panic!("no deadline or several arrived: {request:?}");
        };
        let (sent, arrived) = (timeout_nanos(timeout), timeout_nanos(forwarded));
        assert!(
            arrived <= sent && arrived > sent / 2,
            "{timeout} became {forwarded}"
        );
    }
    // An upstream that does not keep it: the call ends all the same, on both sides.
    for path in [RANGE, PUT] {
        let reply = call(&wire, path, &[("grpc-timeout", "300m"), ("x-never", path)]).await;
        let expected = reply.code() == Some(4) || reply.reset == Some(8);
        assert!(expected, "DEADLINE_EXCEEDED or CANCEL, not {reply:?}");
        eventually("the upstream's stream is reset", ANSWER_LIMIT, async || {
            let requests = fake.requests();
            let mut stuck = requests
                .iter()
                .filter(|request| request.values("x-never") == [path]);
            stuck.all(|request| request.reset.is_some()).then_some(())
        })
        .await;
    }
    proxy.assert_sound();
}

/// The answers of all shapes, seen by a client of the upstream itself and by one of the proxy.
async fn answers() {
    let long: &'static str = Box::leak("long ".repeat(5_000).into_boxed_str());
    let scripts: Vec<(&str, Vec<Step>)> = vec![
        ("ok", ok(b"answer")),
        (
            "custom headers and trailers",
            vec![
                Step::Headers(vec![
                    ("x-head", "1"),
                    ("x-head", "2"),
                    ("x-head-bin", "AAEC"),
                    ("date", "today"),
                    ("server", "fake"),
                ]),
                Step::Message(Bytes::from_static(b"answer")),
                Step::Trailers(vec![
                    ("grpc-status", "0"),
                    ("x-tail", "1"),
                    ("x-tail", "2"),
                    ("x-tail-bin", "AAEC"),
                ]),
            ],
        ),
        (
            "trailers only, with details",
            vec![Step::Trailers(vec![
                ("grpc-status", "9"),
                ("grpc-message", "50%25 of%0Aa line %E2%82%AC"),
                ("grpc-status-details-bin", "CAkSBGFiYw"),
                ("x-tail", "1"),
            ])],
        ),
        (
            "an error after a message",
            vec![
                Step::Headers(Vec::new()),
                Step::Message(Bytes::from_static(b"partial")),
                Step::Trailers(vec![
                    ("grpc-status", "13"),
                    ("grpc-message", "broken"),
                    ("grpc-status-details-bin", "CA0"),
                ]),
            ],
        ),
        (
            "an error after headers",
            vec![
                Step::Headers(vec![("x-head", "1")]),
                Step::Trailers(vec![("grpc-status", "5"), ("grpc-message", "")]),
            ],
        ),
        (
            "an unknown code",
            vec![Step::Trailers(vec![("grpc-status", "99")])],
        ),
        (
            "a code that is no number",
            vec![Step::Trailers(vec![("grpc-status", "x")])],
        ),
        (
            "a long message",
            vec![Step::Trailers(vec![("grpc-status", "3"), ("grpc-message", long)])],
        ),
        (
            "no message",
            vec![
                Step::Headers(Vec::new()),
                Step::Trailers(vec![("grpc-status", "0")]),
            ],
        ),
        (
            "a stream of messages, one of them empty and one in pieces",
            vec![
                Step::Headers(Vec::new()),
                Step::Message(Bytes::from_static(b"one")),
                Step::Message(Bytes::new()),
                Step::Raw(Bytes::from_static(b"\0\0\0")),
                Step::Raw(Bytes::from_static(b"\0\x04fo")),
                Step::Raw(Bytes::from_static(b"ur")),
                Step::Message(Bytes::from_static(b"five")),
                Step::Trailers(vec![("grpc-status", "0")]),
            ],
        ),
        (
            "compressed",
            vec![
                Step::Headers(vec![("grpc-encoding", "gzip")]),
                Step::Raw(Bytes::from_static(b"\x01\0\0\0\x03zip")),
                Step::Trailers(vec![("grpc-status", "0")]),
            ],
        ),
        (
            "an answer of 3 MB",
            vec![
                Step::Headers(Vec::new()),
                Step::Message(Bytes::from(vec![7; 3_000_000])),
                Step::Trailers(vec![("grpc-status", "0")]),
            ],
        ),
    ];
    let mut count = 0;
    for (name, steps) in scripts {
        let fake = Fake::playing(steps).await;
        let direct = Wire::connect(&fake.address()).await.expect("upstream");
        let (mut proxy, proxied) = in_front_of(&fake).await;
        for path in [
            RANGE,
            PUT,
            STREAM,
            "/etcdserverpb.Maintenance/Snapshot",
            "/no.such.S/M",
        ] {
            let expected = call(&direct, path, &[]).await;
            let seen = call(&proxied, path, &[]).await;
            assert_eq!(expected, seen, "{name}: {path}");
            count += 1;
        }
        proxy.assert_sound();
    }
    eprintln!("differential upstream answers: {count} cases equal");
}

async fn sees_cancel() {
    let fake = Fake::start(|_, request| match request.path.as_str() {
        STREAM => vec![
            Step::Headers(Vec::new()),
            Step::Message(Bytes::from_static(b"created")),
            Step::Never,
        ],
        _ => vec![Step::Never],
    })
    .await;
    let (mut proxy, wire) = in_front_of(&fake).await;
    let arrived = async |number: usize| {
        eventually("the call arrives", ANSWER_LIMIT, async || {
            (fake.requests().len() == number).then_some(())
        })
        .await;
    };
    let reset = async |index: usize, what: &str| {
        eventually(what, Duration::from_secs(3), async || {
            fake.requests()[index].reset
        })
        .await
    };

    let mut unary = wire.open(PUT, &[]).await.expect("a call");
    unary.send(Bytes::from_static(b"x")).await.expect("send");
    unary.half_close().expect("half-close");
    arrived(1).await;
    unary.reset(h2::Reason::CANCEL);
    assert_eq!(reset(0, "a cancelled unary call is cancelled upstream").await, 8);

    let mut stream = wire.open(STREAM, &[]).await.expect("a call");
    stream.send(Bytes::from_static(b"x")).await.expect("send");
    assert_eq!(stream.message().await.as_deref(), Some(&b"created"[..]));
    drop(stream);
    assert_eq!(reset(1, "a dropped stream is cancelled upstream").await, 8);

    // A connection that dies cancels all of its calls; calls of other connections go on.
    let other = Wire::connect(proxy.address()).await.expect("proxy");
    let mut kept = other.open(STREAM, &[]).await.expect("a call");
    kept.send(Bytes::from_static(b"kept")).await.expect("send");
    assert_eq!(kept.message().await.as_deref(), Some(&b"created"[..]));
    let mut calls = Vec::new();
    for number in 0..10 {
        let mut call = wire.open(STREAM, &[]).await.expect("a call");
        call.send(Bytes::from_static(b"x")).await.expect("send");
        arrived(4 + number).await;
        calls.push(call);
    }
    wire.kill();
    for index in 3..13 {
        reset(index, "a call of a dead connection is cancelled upstream").await;
    }
    assert_eq!(
        fake.requests()[2].reset,
        None,
        "a call of another connection was cancelled"
    );
    proxy.assert_sound();
}

/// Upstream answers before, and after, the client's half-close.
async fn sees_half_close() {
    let fake = Fake::start(|_, request| match request.values("x-wait").is_empty() {
        true => vec![
            Step::Headers(Vec::new()),
            Step::Message(Bytes::from_static(b"early")),
            Step::Trailers(vec![("grpc-status", "0")]),
        ],
        false => [
            vec![
                Step::Headers(Vec::new()),
                Step::Message(Bytes::from_static(b"first")),
            ],
            vec![Step::HalfClosed, Step::Message(Bytes::from_static(b"then"))],
            vec![Step::Trailers(vec![("grpc-status", "0")])],
        ]
        .concat(),
    })
    .await;
    let (mut proxy, wire) = in_front_of(&fake).await;
    let mut call = wire.open(STREAM, &[("x-wait", "1")]).await.expect("a call");
    call.send(Bytes::from_static(b"a")).await.expect("send");
    assert_eq!(call.message().await.as_deref(), Some(&b"first"[..]));
    call.send(Bytes::from_static(b"b")).await.expect("send");
    eventually("both messages arrive", ANSWER_LIMIT, async || {
        let request = fake.requests().pop()?;
        assert!(!request.half_closed, "half-closed too early");
        (request.body == b"\0\0\0\0\x01a\0\0\0\0\x01b").then_some(())
    })
    .await;
    call.half_close().expect("half-close");
    let reply = within("the end", ANSWER_LIMIT, call.finish()).await;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(reply.messages, [Bytes::from_static(b"then")]);

    // The server ends the call while the client is still sending.
    let call = wire.open(STREAM, &[]).await.expect("a call");
    let reply = within("the end", ANSWER_LIMIT, call.finish()).await;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(reply.messages, [Bytes::from_static(b"early")]);
    proxy.assert_sound();
}
