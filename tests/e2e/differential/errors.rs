//! Unknown services and methods, wrong HTTP, limits of headers.

use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;

use crate::pair::{Case, Pair, Step};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("unknown_methods", unknown_methods),
        trial("odd_headers", odd_headers),
    ]
}

async fn unknown_methods() {
    let mut pair = Pair::start("unknown methods", Options::default()).await;
    for (path, message) in [
        (
            "/etcdserverpb.KV/Nothing",
            Some("unknown method Nothing for service etcdserverpb.KV"),
        ),
        ("/no.such.Service/Method", Some("unknown service no.such.Service")),
        (
            "/etcdserverpb.KV/range",
            Some("unknown method range for service etcdserverpb.KV"),
        ),
        ("/etcdserverpb.KV/", None),
        ("/etcdserverpb.KV", None),
        ("/", None),
        ("//", None),
        ("/etcdserverpb.KV/Range/", None),
        ("/etcdserverpb.KV//Range", None),
        ("/etcdserverpb.KV/Range?query=1", None),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None),
        ("/etcdserverpb.KV/%52ange", None),
    ] {
        let case = Case::bytes("unary", path, &b""[..]);
        match message {
            Some(message) => pair.error(12, message, case).await,
            None => {
                pair.check(case).await;
            }
        }
        let steps = vec![
            Step::Send((&b"one"[..]).into()),
            Step::Send((&b"two"[..]).into()),
            Step::HalfClose,
            Step::Finish,
        ];
        pair.check(Case::stream("client stream", path, steps)).await;
    }
    pair.finish();
}

async fn odd_headers() {
    let mut pair = Pair::start("odd headers", Options::default()).await;
    pair.put("a", "1").await;
    let read = || Case::bytes("read", "/etcdserverpb.KV/Range", &b"\x0a\x01a"[..]);
    for (name, value) in [
        ("content-type", "application/grpc+proto"),
        ("content-type", "application/grpc;charset=utf-8"),
        ("content-type", "application/grpc+json"),
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
        ("content-type", ""),
        ("grpc-encoding", "identity"),
        ("grpc-encoding", "gzip"),
        ("grpc-encoding", "nonsense"),
        ("grpc-accept-encoding", "gzip,identity,deflate"),
        ("grpc-timeout", "30S"),
        ("grpc-timeout", "1H"),
        ("grpc-timeout", "99999999H"),
        ("grpc-timeout", "123456789S"),
        ("grpc-timeout", "x"),
        ("grpc-timeout", ""),
        ("grpc-timeout", "5"),
        ("grpc-timeout", "-5S"),
        ("user-agent", "a test/1.0"),
        ("client-api-version", "3.5"),
        ("client-api-version", "unknown"),
        ("hasleader", "true"),
        ("hasleader", "false"),
        ("x-custom", "a value"),
        ("x-custom-bin", "AAEC"),
        ("x-custom-bin", "not base64!"),
        ("grpc-trace-bin", "AAEC"),
        ("grpc-tags-bin", "AAEC"),
        ("grpc-unknown", "reserved"),
        ("accept-encoding", "identity"),
        ("content-length", "8"),
    ] {
        let mut case = read().with(name, value);
        case.name = format!("{name}: {value}");
        pair.check(case).await;
    }
    // The server's timer races with its handler: it answers, or cancels the stream, whichever comes first.
    for value in ["1n", "1u"] {
        let mut case = read().with("grpc-timeout", value);
        case.name = format!("grpc-timeout: {value}");
        pair.each(case, |reply| {
            reply.reset == Some(8) || matches!(reply.code(), Some(0 | 1 | 4))
        })
        .await;
    }
    for size in [4_000, 16_000, 60_000] {
        let mut case = read().with("x-large", &"v".repeat(size));
        case.name = format!("{size} bytes in one header");
        pair.ok(case).await;
        let mut case = read();
        for number in 0..size / 100 {
            case = case.with(&format!("x-{number}"), &"v".repeat(60));
        }
        case.name = format!("{} headers", size / 100);
        pair.ok(case).await;
    }
    pair.finish();
}
