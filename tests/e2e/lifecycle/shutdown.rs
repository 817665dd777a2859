//! SIGTERM and SIGINT.

use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_proxy_tests::{
    fake::{Fake, Step},
    process::Signal,
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::{Call, Wire},
};
use libtest_mimic::Trial;
use tokio::{net::TcpStream, sync::watch};

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("sigterm_drains", || drains(Signal::TERM)),
        trial("sigint_drains", || drains(Signal::INT)),
        trial("idle_ends_at_once", idle_ends_at_once),
        trial("deadline_ends_what_does_not_end", deadline),
        trial("second_signal_ends_at_once", second_signal),
        trial("streams_end_with_unavailable", streams),
        trial("stops_without_an_upstream", without_upstream),
    ]
}

/// An upstream whose unary calls are answered when the gate opens, and whose watches stay.
async fn upstream() -> (Fake, watch::Sender<bool>) {
    let (gate, opened) = watch::channel(false);
    let fake = Fake::start(move |_, request| match request.path.as_str() {
        "/v3electionpb.Election/Observe" => vec![
            Step::Headers(Vec::new()),
            Step::Message(Bytes::from_static(b"created")),
            Step::Never,
        ],
        _ => vec![
            Step::Gate(opened.clone()),
            Step::Headers(Vec::new()),
            Step::Message(Bytes::from_static(b"answer")),
            Step::Trailers(vec![("grpc-status", "0")]),
        ],
    })
    .await;
    (fake, gate)
}

/// A put that has arrived at the upstream, and waits there.
async fn put_in_flight(fake: &Fake, wire: &Wire) -> Call {
    let mut call = wire.open("/etcdserverpb.KV/Put", &[]).await.expect("call");
    call.send(Bytes::from_static(b"request")).await.expect("send");
    call.half_close().expect("half-close");
    eventually("the call arrives upstream", ANSWER_LIMIT, async || {
        fake.requests().pop()
    })
    .await;
    call
}

async fn refuses(proxy: &Proxy) {
    eventually("new connections are refused", ANSWER_LIMIT, async || {
        TcpStream::connect(proxy.address()).await.is_err().then_some(())
    })
    .await;
}

/// The call in flight gets its answer, nobody else gets in, and the exit code is 0.
async fn drains(signal: Signal) {
    let (fake, gate) = upstream().await;
    let mut proxy = Proxy::start(&[fake.address()], &["--shutdown-timeout=30s"]).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let call = put_in_flight(&fake, &wire).await;
    proxy.process().signal(signal);
    refuses(&proxy).await;
    // GOAWAY: this connection takes no new call.
    eventually("GOAWAY", ANSWER_LIMIT, async || {
        match wire.open("/etcdserverpb.KV/Put", &[]).await {
            Ok(call) => {
                drop(call);
                None
            }
            Err(_) => Some(()),
        }
    })
    .await;
    assert!(proxy.process().exit_status().is_none(), "it left a call behind");
    gate.send_replace(true);
    let reply = within("the answer", ANSWER_LIMIT, call.finish()).await;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(reply.messages, [Bytes::from_static(b"answer")]);
    let end = within("the connection ends", ANSWER_LIMIT, wire.closed()).await;
    assert!(end.goaway.as_ref().is_none_or(|goaway| goaway.0 == 0), "{end:?}");
    let status = proxy.process().ended(ANSWER_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
}

/// Connections without a call are no reason to wait.
async fn idle_ends_at_once() {
    let (fake, _gate) = upstream().await;
    let mut proxy = Proxy::start(&[fake.address()], &["--shutdown-timeout=60s"]).await;
    let idle = Wire::connect(proxy.address()).await.expect("connection");
    let silent = TcpStream::connect(proxy.address()).await.expect("connection");
    proxy.process().signal(Signal::TERM);
    let status = proxy.process().ended(ANSWER_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    drop((idle, silent));
}

/// What has not ended at the deadline is ended, with UNAVAILABLE, and the exit code is 0 still.
async fn deadline() {
    let (fake, _gate) = upstream().await;
    let mut proxy = Proxy::start(&[fake.address()], &["--shutdown-timeout=1s"]).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let call = put_in_flight(&fake, &wire).await;
    let start = Instant::now();
    proxy.process().signal(Signal::TERM);
    let reply = within("the end of the call", ANSWER_LIMIT, call.finish()).await;
    let waited = start.elapsed();
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    assert!(
        waited >= Duration::from_millis(900),
        "ended after {waited:?}, before the deadline"
    );
    let status = proxy.process().ended(ANSWER_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
}

async fn second_signal() {
    let (fake, _gate) = upstream().await;
    let mut proxy = Proxy::start(&[fake.address()], &["--shutdown-timeout=10m"]).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let _call = put_in_flight(&fake, &wire).await;
    proxy.process().signal(Signal::TERM);
    refuses(&proxy).await;
    assert!(proxy.process().exit_status().is_none(), "it left a call behind");
    proxy.process().signal(Signal::TERM);
    // Whatever the code is, it says that this was not a clean end.
    let status = proxy.process().ended(ANSWER_LIMIT).await;
    assert_ne!(status.code(), Some(0), "{}", proxy.log());
}

/// A watch would never end by itself: its client is told to go elsewhere.
async fn streams() {
    let (fake, _gate) = upstream().await;
    let mut proxy = Proxy::start(&[fake.address()], &["--shutdown-timeout=2s"]).await;
    let mut watches = Vec::new();
    for _ in 0..3 {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        for _ in 0..3 {
            let mut watch = wire
                .open("/v3electionpb.Election/Observe", &[])
                .await
                .expect("watch");
            watch.send(Bytes::from_static(b"create")).await.expect("send");
            assert!(within("created", ANSWER_LIMIT, watch.message()).await.is_some());
            watches.push((wire.clone(), watch));
        }
    }
    proxy.process().signal(Signal::TERM);
    for (_wire, watch) in watches {
        let reply = within("the end of a watch", ANSWER_LIMIT, watch.finish()).await;
        assert_eq!(reply.code(), Some(14), "{reply:?}");
        assert!(reply.message().is_some_and(|text| !text.is_empty()), "{reply:?}");
    }
    let status = proxy.process().ended(ANSWER_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    for request in fake.requests() {
        assert!(
            request.reset.is_some(),
            "a watch was left open upstream: {request:?}"
        );
    }
}

async fn without_upstream() {
    let mut proxy = Proxy::start(&["127.0.0.1:9".to_owned()], &["--dial-timeout=60s"]).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let mut call = wire.open("/etcdserverpb.KV/Put", &[]).await.expect("call");
    call.send(Bytes::from_static(b"request")).await.expect("send");
    call.half_close().expect("half-close");
    // The answer to this one says that the proxy has read the one before.
    let metadata = [("grpc-timeout", "200m")];
    let messages = [Bytes::new()];
    let marker = wire.call("/etcdserverpb.KV/Put", &metadata, &messages);
    let marker = within("the second call", ANSWER_LIMIT, marker).await;
    assert!(matches!(marker.code(), Some(4 | 14)), "{marker:?}");
    proxy.process().signal(Signal::TERM);
    // 10 s is the default of --shutdown-timeout.
    let status = proxy.process().ended(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    let reply = within("the end", ANSWER_LIMIT, call.finish()).await;
    assert_eq!(reply.code(), Some(14), "{reply:?}");
}
