use core::time::Duration;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::http2::PingPolicyConfig;
use etcd_proxy_core::rpc::Rpc;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{Notify, oneshot, watch};

use super::*;
use crate::grpc::{Record, Responder};
use crate::metrics::tests::metrics;
use crate::rt;
use crate::rt::testing::{Testing, run, until};
use crate::settings::Limits;
use crate::shutdown::Phase;
use crate::tls::Wire;

/// A client's end of a connection, and what the test holds of the other one.
struct Served {
    client: DuplexStream,
    phase: watch::Sender<Phase>,
    /// Notified to have calls answered.
    answers: Arc<Notify>,
    calls: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

fn serve() -> Served {
    let limits = Limits {
        request_bytes_max: 1000,
        response_bytes_max: 1000,
        connection_window_bytes: 1 << 20,
        concurrent_streams_max: 3,
        pings: PingPolicyConfig {
            interval_min: Duration::ZERO,
            permit_without_stream: true,
        },
        keepalive: None,
    };
    let (client, server) = tokio::io::duplex(1 << 20);
    let (phase, shutdown) = watch::channel(Phase::Serving);
    let (answers, calls) = (Arc::<Notify>::default(), Arc::<AtomicUsize>::default());
    let (wait, count) = (answers.clone(), calls.clone());
    let call = move |_request, respond| {
        count.fetch_add(1, Ordering::Relaxed);
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Responder::new(respond, Record::new(Rpc::Put, None)).refuse(&Status::OK);
        }
    };
    let (told, ended) = oneshot::channel();
    let metrics = Some(Arc::new(metrics()));
    rt::spawn::<Testing>(async move {
        connection::serve::<Testing, _>(Wire::Plain(server), None, limits, metrics, shutdown, call).await;
        let _ = told.send(());
    });
    Served {
        client,
        phase,
        answers,
        calls,
        ended,
    }
}

/// What comes of a connection that begins like this, until it is closed.
async fn answered(begins: &[u8]) -> String {
    let mut served = serve();
    // In pieces: what it is must be told from whatever has come.
    for piece in begins.chunks(7) {
        // Nobody may listen any more.
        let _ = served.client.write_all(piece).await;
        rt::yield_now().await;
    }
    let mut all = Vec::new();
    served.client.read_to_end(&mut all).await.expect("it is closed");
    served.ended.await.expect("it ends");
    String::from_utf8_lossy(&all).into_owned()
}

const METRIC: &str = "etcd_proxy_watch_client_watchers 0";

#[test]
fn http1_clients_get_metrics() {
    run(async {
        let get = |method, path| format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let page = answered(get("GET", "/proxy/metrics").as_bytes()).await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains(METRIC),
            "{page}"
        );
        assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
        let page = answered(get("HEAD", "/proxy/metrics").as_bytes()).await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && !page.contains(METRIC),
            "{page}"
        );
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/proxy/metrics/"),
            ("POST", "/proxy/metrics"),
        ] {
            let page = answered(get(method, path).as_bytes()).await;
            assert!(page.starts_with("HTTP/1.1 404 Not Found\r\n"), "{page}");
            assert!(page.ends_with("404 page not found\n"), "{page}");
            assert!(page.contains("x-content-type-options: nosniff"), "{page}");
        }
    });
}

#[test]
fn who_speaks_something_else_is_hung_up_on() {
    run(async {
        for begins in [
            &b"\x16\x03\x01\x02\x00\x01"[..],
            b"\x00\x01\x02",
            b"lower case is no method",
            b"GET\x01",
        ] {
            assert_eq!(answered(begins).await, "", "{}", begins.escape_ascii());
        }
        for begins in [&b"GET / HTTP/7\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX"] {
            let told = answered(begins).await;
            assert!(told.starts_with("HTTP/1.1 400"), "{told}");
        }
    });
}

#[test]
fn a_process_that_ends_waits_for_nobody_who_has_said_nothing() {
    run(async {
        let (served, began) = (serve(), Instant::now());
        served.phase.send_replace(Phase::Draining);
        served.ended.await.expect("it ends");
        // Nor for an HTTP/1 connection between two requests.
        let mut served = serve();
        served
            .client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("it is taken");
        let mut some = [0; 16];
        served.client.read_exact(&mut some).await.expect("an answer");
        served.phase.send_replace(Phase::Draining);
        served.ended.await.expect("it ends");
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn open_calls_may_finish_when_the_process_ends() {
    run(async {
        let served = serve();
        let (mut sender, connection) = h2::client::handshake(served.client).await.expect("a server");
        let closed = Arc::new(AtomicBool::new(false));
        let tell = closed.clone();
        rt::spawn::<Testing>(async move {
            let _ = connection.await;
            tell.store(true, Ordering::Relaxed);
        });
        let request = Request::post("http://x/etcdserverpb.KV/Put")
            .body(())
            .expect("a request");
        let (response, _) = sender.send_request(request, true).expect("it is sent");
        until(|| served.calls.load(Ordering::Relaxed) == 1).await;
        served.phase.send_replace(Phase::Draining);
        rt::sleep::<Testing>(Duration::from_millis(20)).await;
        assert!(sender.ready().await.is_err(), "no new ones are taken");
        assert!(!closed.load(Ordering::Relaxed), "its call is still open");
        served.answers.notify_waiters();
        assert!(response.await.is_ok());
        served.ended.await.expect("it ends");
    });
}

#[test]
fn calls_of_a_connection_run_beside_one_another_up_to_the_limit() {
    run(async {
        let served = serve();
        let (sender, connection) = h2::client::handshake(served.client).await.expect("a server");
        rt::spawn::<Testing>(async move { drop(connection.await) });
        let mut responses = Vec::new();
        for _ in 0..5 {
            let request = Request::post("http://x/etcdserverpb.KV/Put")
                .body(())
                .expect("a request");
            responses.push(sender.clone().send_request(request, true).expect("it is sent").0);
            rt::sleep::<Testing>(Duration::from_millis(5)).await;
        }
        assert_eq!(served.calls.load(Ordering::Relaxed), 3);
        served.answers.notify_waiters();
        until(|| served.calls.load(Ordering::Relaxed) == 5).await;
    });
}

#[test]
fn what_is_open_is_counted() {
    let count = Arc::<AtomicUsize>::default();
    let (one, two) = (Open::new(&count), Open::new(&count));
    assert_eq!(count.load(Ordering::Relaxed), 2);
    drop(one);
    assert_eq!(count.load(Ordering::Relaxed), 1);
    drop(two);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}
