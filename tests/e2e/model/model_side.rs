//! The model, driven by a clock of its own.

use std::{collections::BTreeMap, mem, time::Duration};

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::cluster::{Action, CallId, Cluster, Config, Event, Metadata, StreamId};

use crate::sides::{By, MAX_REQUEST_BYTES, MAX_TXN_OPS, Outcome, Status};

/// Time that passes with every operation.
const STEP: Duration = Duration::from_micros(200);

/// No call may need more of the model's time than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A one-member cluster.
pub(crate) struct Model {
    cluster: Cluster,
    started: Instant,
    now: Instant,
    next_id: u64,
    replies: BTreeMap<u64, Outcome>,
    streams: BTreeMap<u64, Stream>,
}

/// What came on a stream and was not taken yet.
#[derive(Debug, Default)]
struct Stream {
    messages: Vec<Bytes>,
    end: Option<Status>,
}

impl Model {
    pub(crate) fn new(seed: u64, config: Config, client_url: &str) -> Self {
        let started = Instant::from_nanos(1_000_000_000);
        let config = Config {
            seed,
            request_bytes_max: MAX_REQUEST_BYTES,
            txn_operations_max: MAX_TXN_OPS,
            client_urls: vec![client_url.to_owned()],
            ..config
        };
        let mut model = Self {
            cluster: Cluster::new(started, config),
            started,
            now: started,
            next_id: 0,
            replies: BTreeMap::new(),
            streams: BTreeMap::new(),
        };
        model.pass(Duration::from_millis(1));
        model
    }

    /// The model's time since it began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.started
    }

    /// Lets time pass, with everything that falls due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.cluster.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.event(Event::Timeout);
        }
        self.now = until;
    }

    fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.cluster.handle(self.now, event, &mut actions);
        for action in actions {
            match action {
                Action::Reply { call, result } => {
                    let outcome = result.map_err(|status| Status::new(status.code.into(), &status.message));
                    let twice = self.replies.insert(call.0, outcome);
                    assert!(twice.is_none(), "two replies for one call");
                }
                Action::Send { stream, message } => self.stream(stream).messages.push(message),
                Action::End { stream, status } => {
                    let end = Status::new(status.code.into(), &status.message);
                    let twice = self.stream(stream).end.replace(end);
                    assert!(twice.is_none(), "two ends of one stream");
                }
            }
        }
    }

    fn stream(&mut self, stream: StreamId) -> &mut Stream {
        let stream = self
            .streams
            .get_mut(&stream.0)
            .expect("actions for an open stream");
        assert!(stream.end.is_none(), "an action after the end of a stream");
        stream
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A unary call, to its end.
    pub(crate) fn call(&mut self, path: &str, by: &By, message: Bytes) -> Outcome {
        self.pass(STEP);
        let id = self.id();
        self.event(Event::Call {
            call: CallId(id),
            member: 0,
            path: path.to_owned(),
            metadata: metadata(by, false),
            message,
        });
        let limit = self.now + ANSWER_LIMIT;
        loop {
            if let Some(outcome) = self.replies.remove(&id) {
                return outcome;
            }
            let due = self.cluster.next_timeout().filter(|due| *due <= limit);
            let Some(due) = due else {
                panic!("the model doesn't answer {path} within {ANSWER_LIMIT:?}");
            };
            self.pass(due - self.now);
        }
    }

    /// Opens a stream on which the member may send some messages, and more after [`allow`](Self::allow).
    pub(crate) fn open(&mut self, path: &str, by: &By, require_leader: bool, credit: u32) -> StreamId {
        self.pass(STEP);
        let stream = StreamId(self.id());
        self.streams.insert(stream.0, Stream::default());
        self.event(Event::Open {
            stream,
            member: 0,
            path: path.to_owned(),
            metadata: metadata(by, require_leader),
            credit,
        });
        stream
    }

    /// Lets the member send more messages on a stream.
    pub(crate) fn allow(&mut self, stream: StreamId, messages: u32) {
        if self.end(stream).is_none() {
            self.event(Event::Credit { stream, messages });
        }
    }

    /// Sends a message on a stream, unless it has ended.
    pub(crate) fn send(&mut self, stream: StreamId, message: Bytes) {
        self.pass(STEP);
        if self.end(stream).is_none() {
            self.event(Event::Message { stream, message });
        }
    }

    pub(crate) fn half_close(&mut self, stream: StreamId) {
        self.pass(STEP);
        if self.end(stream).is_none() {
            self.event(Event::HalfClose(stream));
        }
    }

    pub(crate) fn close(&mut self, stream: StreamId) {
        self.pass(STEP);
        if self.end(stream).is_none() {
            self.event(Event::Reset(stream));
        }
        self.streams.remove(&stream.0);
    }

    /// Takes what came on a stream.
    pub(crate) fn take(&mut self, stream: StreamId) -> Vec<Bytes> {
        let stream = self.streams.get_mut(&stream.0).expect("an open stream");
        mem::take(&mut stream.messages)
    }

    /// How a stream ended.
    pub(crate) fn end(&self, stream: StreamId) -> Option<&Status> {
        self.streams[&stream.0].end.as_ref()
    }
}

fn metadata(by: &By, require_leader: bool) -> Metadata {
    Metadata {
        token: by.as_ref().map(|(_, token)| Bytes::from(token.clone())),
        require_leader,
    }
}
