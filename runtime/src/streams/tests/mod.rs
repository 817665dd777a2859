//! The shell around a machine, with a machine that does as it is told.

mod client;
mod outbox;
mod upstream;

use core::time::Duration;

use etcd_proxy_core::grpc::framed;
use parking_lot::Mutex;
use slotmap::SlotMap;
use tokio::sync::mpsc;

use super::*;
use crate::rt::testing::{Testing, run, until};
use crate::shown::Shown;

slotmap::new_key_type! {
    struct ClientId;
    struct UpstreamId;
}

/// A machine whose actions are what a test wants. A client's message may be an order to it.
#[derive(Debug, Default)]
struct Fake {
    clients: SlotMap<ClientId, Caller>,
    upstreams: SlotMap<UpstreamId, ()>,
    happened: Arc<Mutex<Vec<String>>>,
    timeout: Option<Instant>,
    shown: i64,
}

impl Multiplexer for Fake {
    type ClientId = ClientId;
    type UpstreamId = UpstreamId;
    type Action = Wanted<Self>;
    type Question = &'static str;
    type Request = Bytes;

    const RPC: Rpc = Rpc::Watch;

    fn read(message: Bytes) -> Bytes {
        message
    }

    fn open(&mut self, _: Instant, caller: Caller, _: &mut Vec<Wanted<Self>>) -> ClientId {
        self.clients.insert(caller)
    }

    fn handle(&mut self, _: Instant, happened: Happened<Self>, actions: &mut Vec<Wanted<Self>>) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let told = match happened {
            Happened::ClientSent(client, message) => {
                match &message[..] {
                    b"end" => actions.push(Wanted::EndClient(client, Status::NO_LEADER)),
                    b"panic" => panic!("as it was told"),
                    b"pause" => actions.push(Wanted::Pause(client, true)),
                    [b'=', answer @ ..] => {
                        let answer = framed(answer);
                        actions.push(Wanted::Deliver(client, answer, Bytes::new()));
                    }
                    _ => {}
                }
                format!("sent {}", text(&message))
            }
            Happened::ClientHalfClosed(_) => "half-closed".to_owned(),
            Happened::ClientTook(_, bytes) => format!("took {bytes}"),
            Happened::ClientGone(_) => "gone".to_owned(),
            Happened::UpstreamOpened(_) => "opened".to_owned(),
            Happened::UpstreamSent(_, message) => format!("got {}", text(&message)),
            Happened::UpstreamEnded(_, status) => format!("ended {} {}", status.code, status.message),
            Happened::UpstreamSuperseded(_) => "superseded".to_owned(),
            Happened::Timeout => {
                self.timeout = None;
                "timeout".to_owned()
            }
        };
        self.happened.lock().push(told);
    }

    fn shown(&self) -> i64 {
        self.shown
    }

    fn history(&self) -> u64 {
        0
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    fn wanted(action: Wanted<Self>) -> Wanted<Self> {
        action
    }

    async fn prepare<R: Runtime>(streams: &Streams<Self>, _: UpstreamId, _: &Arc<Connection>) {
        streams.look(|machine| machine.happened.lock().push("prepared".to_owned()));
    }

    async fn ask<R: Runtime>(streams: &Streams<Self>, _: &Arc<Uplink>, question: &'static str) {
        streams.look(|machine| machine.happened.lock().push(format!("asked {question}")));
    }
}

/// What a test has of a machine.
struct World {
    streams: Arc<Streams<Fake>>,
    happened: Arc<Mutex<Vec<String>>>,
    shown: Arc<Shown>,
    workers: Vec<mpsc::UnboundedReceiver<Order<Fake>>>,
}

impl World {
    fn new() -> Self {
        let machine = Fake::default();
        let happened = machine.happened.clone();
        let shown = Arc::<Shown>::default();
        let (orders, workers) = (0..2).map(|_| mpsc::unbounded_channel()).unzip();
        Self {
            streams: Arc::new(Streams::new(machine, "fake", shown.clone(), orders)),
            happened,
            shown,
            workers,
        }
    }

    fn want(&self, wanted: Wanted<Fake>) {
        self.streams.tell(|_, _, actions| actions.push(wanted));
    }

    fn happened(&self) -> Vec<String> {
        self.happened.lock().clone()
    }

    async fn happens(&self, what: &str) {
        until(|| self.happened.lock().iter().any(|happened| happened == what)).await;
    }
}

#[test]
fn orders_go_to_each_worker_in_turn() {
    let mut world = World::new();
    for question in ["a", "b", "c", "d"] {
        world.want(Wanted::Ask(question));
    }
    let asked = world.workers.iter_mut().map(|worker| {
        core::iter::from_fn(|| worker.try_recv().ok())
            .map(|order| match order {
                Order::Ask(question) => question,
                Order::Open(_) => "open",
            })
            .collect::<Vec<_>>()
    });
    let asked: Vec<_> = asked.collect();
    assert_eq!(asked, [["b", "d"], ["a", "c"]]);
}

#[test]
fn what_is_shown_counts_before_it_goes_out() {
    let world = World::new();
    world.streams.tell(|machine, _, _| machine.shown = 7);
    assert_eq!(world.shown.known().revision, 7);
}

#[test]
fn the_timer_tells_the_machine_when_its_time_has_come() {
    run(async {
        let world = World::new();
        let streams = world.streams.clone();
        crate::rt::spawn::<Testing>(async move { streams.run_timer::<Testing>().await });
        // One that is set while the timer waits for nothing, and one that comes before what it waits for.
        for wait in [Duration::from_secs(3600), Duration::from_millis(20)] {
            world
                .streams
                .tell(|machine, now, _| machine.timeout = Some(now + wait));
            crate::rt::yield_now().await;
        }
        let began = std::time::Instant::now();
        world.happens("timeout").await;
        assert!(began.elapsed() >= Duration::from_millis(15));
    });
}

#[test]
fn a_machine_that_panicked_is_left_alone() {
    run(async {
        let world = World::new();
        let client = InnerClient::open(world.streams.clone());
        let failed = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            client.send(Bytes::from_static(b"panic"));
        }));
        assert!(failed.is_err());
        world.streams.failed().await;
        client.send(Bytes::from_static(b"=more"));
        assert!(world.happened().is_empty(), "what is left is not to be trusted");
    });
}

#[test]
fn a_client_within_the_process_gets_messages_and_the_end() {
    run(async {
        let world = World::new();
        let mut client = InnerClient::open(world.streams.clone());
        for message in ["=one", "=two", "end"] {
            client.send(Bytes::from(message));
        }
        assert_eq!(client.next().await, Ok(Bytes::from_static(b"one")));
        assert_eq!(client.next().await, Ok(Bytes::from_static(b"two")));
        assert_eq!(client.next().await, Err(Status::NO_LEADER));
        assert_eq!(client.next().await, Err(Status::NO_LEADER), "it stays so");
        drop(client);
        assert_eq!(
            world.happened(),
            ["sent =one", "sent =two", "sent end", "took 8", "took 8", "gone"]
        );
    });
}
