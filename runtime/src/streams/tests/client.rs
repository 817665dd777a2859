use core::pin::Pin;

use etcd_proxy_core::grpc::header::{GRPC_MESSAGE, GRPC_STATUS};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::sync::watch;

use super::*;
use crate::grpc::{CallEnds, Ended, Head, Outcome, Record, Responder, Uploads};
use crate::rt;
use crate::shutdown::Phase;

/// Notes the calls that have ended.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<Ended>>);

impl CallEnds for Noted {
    fn ended(&self, call: &Ended) {
        self.0.lock().push(*call);
    }
}

/// A client with a call that the machine serves.
struct Client {
    requests: SendStream<Bytes>,
    response: ResponseFuture,
    phase: watch::Sender<Phase>,
    noted: Arc<Noted>,
}

/// Opens a call, with a window of so many bytes for its answer.
async fn call(world: &World, window: u32, headers: &[(&'static str, &'static str)]) -> Client {
    let (here, there) = tokio::io::duplex(1 << 20);
    let (phase, shutdown) = watch::channel(Phase::Serving);
    let streams = world.streams.clone();
    let noted = Arc::<Noted>::default();
    let ends = noted.clone();
    rt::spawn::<Testing>(async move {
        let mut connection = h2::server::handshake(there).await.expect("a client");
        while let Some(Ok((request, respond))) = connection.accept().await {
            let (streams, shutdown, ends) = (streams.clone(), shutdown.clone(), ends.clone());
            rt::spawn::<Testing>(async move {
                let uploads = Uploads::default();
                let client = CallerConnection {
                    number: 5,
                    uploads: &uploads,
                    request_bytes_max: 100,
                    shutdown,
                };
                let responder = Responder::new(respond, Record::new(Rpc::Watch, Some(ends)));
                let head = Head::of(Rpc::Watch, &request).expect("a head that is valid");
                serve::<Testing, _>(client, streams, head, request, responder).await;
            });
        }
    });
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (mut sender, connection) = builder.handshake(here).await.expect("a server");
    rt::spawn::<Testing>(async move { drop(connection.await) });
    let mut request =
        Request::post("http://x/etcdserverpb.Watch/Watch").header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a request");
    let (response, requests) = sender.send_request(request, false).expect("it is sent");
    Client {
        requests,
        response,
        phase,
        noted,
    }
}

impl Client {
    fn send(&mut self, message: &str) {
        let sent = self.requests.send_data(framed(message.as_bytes()), false);
        sent.expect("it is sent");
    }

    /// All of the answer: its data, and how it ended.
    async fn answer(&mut self) -> (String, Result<(u8, String), Reason>) {
        let response = match Pin::new(&mut self.response).await {
            Ok(response) => response,
            Err(error) => return (String::new(), Err(error.reason().expect("a reset"))),
        };
        let ended = status(response.headers());
        let mut body = response.into_body();
        let mut data = Vec::new();
        while let Some(chunk) = body.data().await {
            match chunk {
                Ok(chunk) => take(&mut body, &mut data, &chunk),
                Err(error) => return (text(&data), Err(error.reason().expect("a reset"))),
            }
        }
        let trailers = body.trailers().await.expect("it ends well");
        let ended = ended.or_else(|| status(&trailers?));
        (text(&data), Ok(ended.expect("a status")))
    }
}

fn take(body: &mut RecvStream, data: &mut Vec<u8>, chunk: &Bytes) {
    data.extend_from_slice(chunk);
    let _ = body.flow_control().release_capacity(chunk.len());
}

fn status(fields: &HeaderMap) -> Option<(u8, String)> {
    let field = |name| fields.get(name)?.to_str().ok();
    let code = field(GRPC_STATUS)?.parse().expect("a code");
    Some((code, field(GRPC_MESSAGE).unwrap_or_default().to_owned()))
}

fn text(data: &[u8]) -> String {
    data.iter()
        .filter(|byte| **byte > b' ')
        .map(|byte| char::from(*byte))
        .collect()
}

const NO_LEADER: &str = "etcdserver: no leader";

#[test]
fn messages_go_to_the_machine_and_its_answers_to_the_client() {
    run(async {
        let world = World::new();
        let mut client = call(&world, 65535, &[("token", "secret"), ("hasleader", "true")]).await;
        for message in ["=one", "=two", "end"] {
            client.send(message);
        }
        let answered = client.answer().await;
        assert_eq!(answered, ("onetwo".to_owned(), Ok((14, NO_LEADER.to_owned()))));
        world.happens("gone").await;
        let mut happened = world.happened();
        let took: usize = happened
            .extract_if(.., |happened| happened.starts_with("took "))
            .map(|took| took[5..].parse::<usize>().expect("bytes"))
            .sum();
        assert_eq!(happened, ["sent =one", "sent =two", "sent end", "gone"]);
        assert!(
            took <= 16,
            "two messages of three bytes with their prefixes, not {took}"
        );
        let callers = world
            .streams
            .look(|machine| machine.clients.values().cloned().collect::<Vec<_>>());
        assert_eq!(callers[0].connection, 5);
        assert_eq!(callers[0].credentials.as_deref(), Some(&b"secret"[..]));
        assert!(callers[0].require_leader);
        until(|| !client.noted.0.lock().is_empty()).await;
        let noted = client.noted.0.lock()[0];
        assert_eq!(noted.outcome, Outcome::Status(14));
        assert_eq!((noted.request_bytes, noted.response_bytes), (26, 16));
    });
}

#[test]
fn a_half_close_is_told_once_and_the_answer_goes_on() {
    run(async {
        let world = World::new();
        let mut client = call(&world, 65535, &[]).await;
        client.send("hello");
        client.requests.send_data(Bytes::new(), true).expect("it is sent");
        world.happens("half-closed").await;
        let id = world
            .streams
            .look(|machine| machine.clients.keys().next().expect("there is one"));
        world.want(Wanted::Deliver(id, framed(b"late"), Bytes::new()));
        world.want(Wanted::EndClient(id, Status::OK));
        assert_eq!(client.answer().await, ("late".to_owned(), Ok((0, String::new()))));
        world.happens("gone").await;
        let half_closes = world
            .happened()
            .iter()
            .filter(|happened| *happened == "half-closed")
            .count();
        assert_eq!(half_closes, 1);
    });
}

#[test]
fn a_client_that_cancels_is_gone() {
    run(async {
        let world = World::new();
        let mut client = call(&world, 65535, &[]).await;
        client.send("hello");
        world.happens("sent hello").await;
        client.requests.send_reset(Reason::CANCEL);
        world.happens("gone").await;
        // What the machine has for it goes nowhere.
        let id = world
            .streams
            .look(|machine| machine.clients.keys().next().expect("there is one"));
        world.want(Wanted::Deliver(id, framed(b"late"), Bytes::new()));
        until(|| !client.noted.0.lock().is_empty()).await;
        assert_eq!(client.noted.0.lock()[0].outcome, Outcome::ClientGone);
    });
}

#[test]
fn a_client_that_is_paused_is_not_read() {
    run(async {
        let world = World::new();
        let mut client = call(&world, 65535, &[]).await;
        client.send("pause");
        world.happens("sent pause").await;
        client.send("=more");
        rt::sleep::<Testing>(Duration::from_millis(30)).await;
        assert_eq!(world.happened(), ["sent pause"]);
        let id = world
            .streams
            .look(|machine| machine.clients.keys().next().expect("there is one"));
        world.want(Wanted::Pause(id, false));
        world.happens("sent =more").await;
    });
}

#[test]
fn what_a_client_doesnt_read_counts_as_not_taken() {
    run(async {
        let world = World::new();
        let mut client = call(&world, 10, &[]).await;
        client.send("=0123456789");
        world.happens("took 10").await;
        rt::sleep::<Testing>(Duration::from_millis(20)).await;
        assert!(!world.happened().iter().any(|happened| happened == "took 5"));
        client.send("end");
        let answered = client.answer().await;
        assert_eq!(answered.0, "0123456789");
        world.happens("gone").await;
    });
}

#[test]
fn a_call_ends_with_the_process_and_at_its_deadline() {
    run(async {
        let world = World::new();
        let mut client = call(&world, 65535, &[]).await;
        client.send("hello");
        world.happens("sent hello").await;
        client.phase.send_replace(Phase::Draining);
        let stopped = (14, "etcdserver: server stopped".to_owned());
        assert_eq!(client.answer().await, (String::new(), Ok(stopped)));

        let mut client = call(&world, 65535, &[("grpc-timeout", "30m")]).await;
        client.send("=one");
        let expired = (String::from("one"), Err(Reason::CANCEL));
        assert_eq!(client.answer().await, expired);
    });
}

#[test]
fn a_client_that_breaks_the_protocol_is_refused() {
    run(async {
        let world = World::new();
        let mut client = call(&world, 65535, &[]).await;
        client.send(&"x".repeat(101));
        let too_large = "grpc: received message larger than max (101 vs. 100)".to_owned();
        assert_eq!(client.answer().await, (String::new(), Ok((8, too_large))));

        let mut client = call(&world, 65535, &[]).await;
        client
            .requests
            .send_trailers(HeaderMap::new())
            .expect("it is sent");
        assert_eq!(
            client.answer().await,
            (String::new(), Err(Reason::PROTOCOL_ERROR))
        );

        let mut client = call(&world, 65535, &[]).await;
        let cut = Bytes::from_static(b"\0\0\0\0\x05x");
        client.requests.send_data(cut, true).expect("it is sent");
        let (_, ended) = client.answer().await;
        assert_eq!(ended, Ok((13, "unexpected EOF".to_owned())));
    });
}
