mod program;
mod scenes;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, ResponseHeader, TxnRequest,
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    request_op::Request as Operation, watch_request::RequestUnion,
};
use etcd_proxy_proto::mvccpb::{Event, event::EventType};

use super::{Settings, WatchStream};
use crate::error::Error;
use crate::state::{Command, Entry, State};

const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What a member tells of itself.
const HEADER: ResponseHeader = ResponseHeader {
    cluster_id: 1,
    member_id: 2,
    revision: 0,
    raft_term: 3,
};

/// A member and one stream.
struct World {
    now: Instant,
    state: State,
    stream: WatchStream,
}

impl World {
    fn new(buffer_max: usize, response_bytes_max: usize) -> Self {
        let state = State::default();
        let settings = Settings {
            buffer_max,
            progress_interval: PROGRESS_INTERVAL,
            response_bytes_max,
        };
        let now = Instant::from_nanos(1);
        let mut random = fastrand::Rng::with_seed(7);
        let stream = WatchStream::new(now, state.store(), &settings, &mut random);
        Self { now, state, stream }
    }

    /// Applies a command and lets the stream know.
    fn apply(&mut self, command: Command) {
        let entry = Entry { user: None, command };
        let result = self.state.apply(self.state.index() + 1, &entry);
        assert!(result.is_ok(), "{entry:?}: {result:?}");
        assert_eq!(self.pump(false), None);
    }

    fn put(&mut self, key: &str, value: &str) {
        self.apply(Command::Put(put(key, value)));
    }

    fn delete(&mut self, key: &str) {
        self.apply(Command::DeleteRange(delete(key)));
    }

    fn compact(&mut self, revision: i64) {
        let physical = false;
        self.apply(Command::Compact(CompactionRequest { revision, physical }));
    }

    fn handle(&mut self, request: RequestUnion, check: Result<(), Error>) {
        let request = WatchRequest {
            request_union: Some(request),
        };
        self.stream
            .handle(self.now, self.state.store(), request, |_, _| check);
    }

    fn create(&mut self, request: WatchCreateRequest) {
        self.handle(RequestUnion::CreateRequest(request), Ok(()));
    }

    fn cancel(&mut self, watch_id: i64) {
        self.handle(
            RequestUnion::CancelRequest(WatchCancelRequest { watch_id }),
            Ok(()),
        );
    }

    fn progress(&mut self) {
        self.handle(RequestUnion::ProgressRequest(WatchProgressRequest {}), Ok(()));
    }

    fn pump(&mut self, room: bool) -> Option<WatchResponse> {
        self.stream.pump(self.now, self.state.store(), &HEADER, room)
    }

    /// Lets this much time pass, timers and all.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.stream.next_timeout().filter(|at| *at <= end) {
            assert!(at > self.now, "a timer must not stand still");
            self.now = at;
            assert_eq!(self.pump(false), None);
        }
        self.now = end;
    }

    /// Everything that there is to send.
    fn responses(&mut self) -> Vec<WatchResponse> {
        core::iter::from_fn(|| self.pump(true)).collect()
    }

    /// What is sent within a quarter of a second, in short.
    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..3 {
            lines.extend(self.responses().iter().map(line));
            self.pass(Duration::from_millis(100));
        }
        lines
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    }
}

fn txn(operations: impl IntoIterator<Item = Operation>) -> Command {
    let operations = operations.into_iter();
    Command::Txn(TxnRequest {
        success: operations
            .map(|request| RequestOp {
                request: Some(request),
            })
            .collect(),
        ..Default::default()
    })
}

fn watch(key: &'static str, range_end: &'static str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    }
}

/// A response in one line: the revision, the watcher, then what it says.
fn line(response: &WatchResponse) -> String {
    let header = response.header.as_ref().expect("every response has a header");
    assert_eq!(
        ResponseHeader {
            revision: 0,
            ..*header
        },
        HEADER
    );
    let mut line = format!("{} #{}", header.revision, response.watch_id);
    if response.created {
        line += " created";
    }
    if response.canceled {
        line += " canceled";
    }
    if response.compact_revision != 0 {
        line += &format!(" compacted {}", response.compact_revision);
    }
    if !response.cancel_reason.is_empty() {
        line += &format!(" ({})", response.cancel_reason);
    }
    if response.fragment {
        line += " fragment";
    }
    let events = response.events.iter().map(event);
    line + &events.collect::<String>()
}

fn event(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("every event has a key");
    let sign = match event.r#type() {
        EventType::Put => '+',
        EventType::Delete => '-',
    };
    let key = core::str::from_utf8(&kv.key).expect("keys are text here");
    let previous = event.prev_kv.as_ref();
    let previous = previous.map_or_else(String::new, |previous| format!("<{}", previous.mod_revision));
    format!(" {sign}{key}@{}{previous}", kv.mod_revision)
}
