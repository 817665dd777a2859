use core::task::Context;
use core::task::Waker;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::Code;
use etcd_proxy_core::rpc::Rpc;
use futures_util::future::join;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;

use super::*;
use crate::grpc::{CallEnds, End, Ended, Head, Record, status_fields};

/// Notes the calls that have ended.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<Ended>>);

impl CallEnds for Noted {
    fn ended(&self, call: &Ended) {
        self.0.lock().push(*call);
    }
}

/// What a client has seen of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct SeenAnswer {
    http_status: u16,
    data: Vec<u8>,
    grpc_status: Option<String>,
    grpc_message: Option<String>,
    reset: Option<Reason>,
}

/// Polls until it is ready: nothing here waits for a clock or a socket.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = core::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
    panic!("it is stuck");
}

/// Has a call answered, and tells what its client has seen and what was noted of it.
fn answered<F: Future<Output = ()>>(answer: impl FnOnce(Responder) -> F) -> (SeenAnswer, Ended) {
    let noted = Arc::new(Noted::default());
    let listener: Arc<dyn CallEnds> = noted.clone();
    let (client, server) = tokio::io::duplex(1 << 20);
    let serving = async move {
        let mut connection = h2::server::handshake(server).await.unwrap();
        let (_, respond) = connection.accept().await.unwrap().unwrap();
        let responder = Responder::new(respond, Record::new(Rpc::Put, Some(listener)));
        let mut answering = core::pin::pin!(answer(responder));
        let mut is_answered = false;
        poll_fn(|cx| {
            is_answered = is_answered || answering.as_mut().poll(cx).is_ready();
            connection.poll_closed(cx).map(drop)
        })
        .await;
    };
    let calling = async move {
        let (mut sender, mut connection) = h2::client::handshake(client).await.unwrap();
        let request = Request::post("http://x/etcdserverpb.KV/Put").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let mut reading = core::pin::pin!(read(response));
        poll_fn(|cx| {
            if let Poll::Ready(seen) = reading.as_mut().poll(cx) {
                return Poll::Ready(seen);
            }
            let _ = core::pin::Pin::new(&mut connection).poll(cx);
            Poll::Pending
        })
        .await
    };
    let (seen, ()) = run(join(calling, serving));
    let noted = noted.0.lock();
    let [ended] = noted[..] else {
        panic!("told once, not {noted:?}")
    };
    assert_eq!(ended.rpc, Rpc::Put);
    (seen, ended)
}

async fn read(response: h2::client::ResponseFuture) -> SeenAnswer {
    let mut seen = SeenAnswer::default();
    let response = match response.await {
        Ok(response) => response,
        Err(error) => {
            seen.reset = error.reason();
            return seen;
        }
    };
    seen.http_status = response.status().as_u16();
    seen.note(response.headers());
    let mut body = response.into_body();
    loop {
        match body.data().await {
            Some(Ok(data)) => seen.data.extend_from_slice(&data),
            Some(Err(error)) => {
                seen.reset = error.reason();
                return seen;
            }
            None => break,
        }
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        seen.note(&trailers);
    }
    seen
}

impl SeenAnswer {
    fn note(&mut self, fields: &HeaderMap) {
        let field = |name| fields.get(name).map(|value| value.to_str().unwrap().to_owned());
        self.grpc_status = self.grpc_status.take().or_else(|| field("grpc-status"));
        self.grpc_message = self.grpc_message.take().or_else(|| field("grpc-message"));
    }
}

fn complete(chunks: &[&'static [u8]], trailers: Option<HeaderMap>) -> Answer {
    Answer {
        head: Response::new(()),
        chunks: chunks
            .iter()
            .map(|chunk| Bytes::from_static(chunk))
            .collect::<VecDeque<_>>(),
        end: AnswerEnd::Complete(trailers),
    }
}

#[test]
fn an_answer_goes_out_as_it_is() {
    let answer = complete(&[b"\0\0\0\0\x03", b"abc"], Some(status_fields(&Status::OK)));
    let (seen, ended) = answered(async |mut responder| {
        responder.record.received(7);
        Conclusion::Answer(answer).give(responder).await;
    });
    assert_eq!((seen.http_status, &seen.data[..]), (200, &b"\0\0\0\0\x03abc"[..]));
    assert_eq!(seen.grpc_status.as_deref(), Some("0"));
    assert_eq!(ended.outcome, Outcome::Status(0));
    assert_eq!((ended.request_bytes, ended.response_bytes), (7, 8));
}

#[test]
fn an_answer_without_a_body_has_its_status_in_its_head() {
    let mut head = Response::new(());
    *head.headers_mut() = status_fields(&Status::of(
        Code::NotFound,
        "etcdserver: requested lease not found",
    ));
    let answer = Answer {
        head,
        ..complete(&[], None)
    };
    let (seen, ended) = answered(async |responder| Conclusion::Answer(answer).give(responder).await);
    assert_eq!(seen.grpc_status.as_deref(), Some("5"));
    assert_eq!((ended.outcome, ended.response_bytes), (Outcome::Status(5), 0));
}

#[test]
fn an_answer_may_have_no_status() {
    let answer = complete(&[b"abc"], None);
    let (seen, ended) = answered(async |responder| Conclusion::Answer(answer).give(responder).await);
    assert_eq!((&seen.data[..], seen.grpc_status), (&b"abc"[..], None));
    assert_eq!((ended.outcome, ended.response_bytes), (Outcome::NoStatus, 3));
}

#[test]
fn a_status_of_the_proxys_own_is_told_and_noted() {
    let status = Status::of(Code::Unavailable, "etcd-proxy: no endpoint is reachable");
    let (seen, ended) = answered(async |responder| Conclusion::Status(status).give(responder).await);
    assert_eq!(seen.grpc_status.as_deref(), Some("14"));
    assert_eq!(
        seen.grpc_message.as_deref(),
        Some("etcd-proxy: no endpoint is reachable")
    );
    assert_eq!(ended.outcome, Outcome::Status(14));
}

#[test]
fn a_reset_is_passed_on() {
    let (seen, ended) =
        answered(async |responder| Conclusion::Reset(Reason::PROTOCOL_ERROR).give(responder).await);
    assert_eq!(seen.reset, Some(Reason::PROTOCOL_ERROR));
    assert_eq!(ended.outcome, Outcome::Reset(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_call_that_nobody_waits_for_gets_nothing() {
    let (_, ended) = answered(async |responder| Conclusion::Nothing.give(responder).await);
    assert_eq!(ended.outcome, Outcome::ClientGone);
}

/// A stream that a machine answers: its first message begins the answer.
#[test]
fn a_stream_is_noted_as_well() {
    let request = Request::post("http://x/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let head = Head::of(Rpc::Put, &request).unwrap();
    let (seen, ended) = answered(async |responder| {
        let mut answer = crate::grpc::Answer::Waiting { responder, head };
        let mut chunk = Bytes::from_static(b"\0\0\0\0\x01x");
        let sent = poll_fn(|cx| answer.poll_send(cx, &mut chunk)).await;
        assert!(sent.is_ok() && chunk.is_empty());
        answer.finish(End::Status(Status::NO_LEADER), 9);
    });
    assert_eq!(&seen.data[..], b"\0\0\0\0\x01x");
    assert_eq!(seen.grpc_message.as_deref(), Some("etcdserver: no leader"));
    assert_eq!(ended.outcome, Outcome::Status(14));
    assert_eq!((ended.request_bytes, ended.response_bytes), (9, 6));
}
