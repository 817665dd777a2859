//! What it costs the hub to give one event to many watchers: from the server's message to the frames for all clients,
//! without any IO. `cargo bench -p etcd-proxy-core`, with `-- --quick` for a first look.
//!
//! The throughput counts delivered events.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::{Action, Actions, Caller, ClientId, Config, Event, Header, Hub, UpstreamId};
use etcd_proxy_proto::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType,
    watch_request::RequestUnion,
};
use etcd_proxy_proto::mvccpb::{self, KeyValue};
use prost::Message;

const NOW: Instant = Instant::ZERO;
const KEY: Bytes = Bytes::from_static(b"key");

const COUNTS: [usize; 5] = [10, 100, 1000, 10_000, 100_000];

/// Bytes of a value unless its size is what is looked at.
const VALUE_BYTES: usize = 256;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("fan-out");
    for (name, clients, kind, value_bytes) in [
        ("a client each", None, Kind::Alike, VALUE_BYTES),
        ("10 clients", Some(10), Kind::Alike, VALUE_BYTES),
        ("an id each", None, Kind::IdEach, VALUE_BYTES),
        ("an id each, 64 KiB", None, Kind::IdEach, 64 << 10),
        ("4 variants", None, Kind::Variants, VALUE_BYTES),
    ] {
        for watchers in COUNTS {
            let clients = clients.unwrap_or(watchers);
            measure(&mut group, name, clients, watchers, kind, value_bytes);
        }
    }
    for watchers in COUNTS {
        measure_taken(&mut group, "taken as well", watchers);
    }
    group.finish();
    criterion.final_summary();
}

/// One event to all watchers, spread over the clients.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    clients: usize,
    watchers: usize,
    kind: Kind,
    value_bytes: usize,
) {
    group.throughput(Throughput::Elements(watchers as u64));
    group.bench_function(BenchmarkId::new(name, watchers), |bencher| {
        let (mut hub, mut server) = set_up(clients, watchers, kind);
        let mut actions = Actions::new();
        hub.handle(NOW, server.put(value_bytes), &mut actions);
        assert_eq!(actions.len(), watchers, "everybody gets it");
        bencher.iter_batched(
            || server.put(value_bytes),
            |event| {
                actions.clear();
                hub.handle(NOW, event, &mut actions);
            },
            BATCH,
        );
    });
}

/// The same, with a client for each watcher, and each client takes what it is sent.
fn measure_taken(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, watchers: usize) {
    group.throughput(Throughput::Elements(watchers as u64));
    group.bench_function(BenchmarkId::new(name, watchers), |bencher| {
        let (mut hub, mut server) = set_up(watchers, watchers, Kind::Alike);
        let (mut actions, mut none) = (Actions::new(), Actions::new());
        let before = hub.stats().outbox_bytes;
        bencher.iter_batched(
            || server.put(VALUE_BYTES),
            |event| {
                hub.handle(NOW, event, &mut actions);
                for action in actions.drain(..) {
                    if let Action::Deliver(client, frame) = action {
                        hub.handle(NOW, Event::ClientTook(client, frame.len()), &mut none);
                    }
                }
            },
            BATCH,
        );
        assert_eq!(hub.stats().outbox_bytes, before);
    });
}

/// Messages that are made before they are needed: some, so that reading the clock doesn't count, but not so many that
/// they fill the memory.
const BATCH: BatchSize = BatchSize::NumIterations(64);

/// How the watchers differ.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Only by the ids that the hub gives out, from 0 on for each client.
    Alike,
    /// By ids of their own, over all clients: no two frames are equal.
    IdEach,
    /// In turn: plain, with fragments, without deletions, with previous pairs.
    Variants,
}

impl Kind {
    fn create(self, watcher: usize) -> WatchCreateRequest {
        let mut create = WatchCreateRequest {
            key: KEY,
            ..WatchCreateRequest::default()
        };
        match (self, watcher % 4) {
            (Self::Alike, _) | (Self::Variants, 0) => {}
            (Self::IdEach, _) => create.watch_id = i64::try_from(watcher).expect("not so many") + 1,
            (Self::Variants, 1) => create.fragment = true,
            (Self::Variants, 2) => create.filters = vec![FilterType::Nodelete.into()],
            (Self::Variants, _) => create.prev_kv = true,
        }
        create
    }
}

/// A hub whose watchers are all in step with one source, and the server of that.
fn set_up(clients: usize, watchers: usize, kind: Kind) -> (Hub, Server) {
    let config = Config {
        // That clients are slow isn't what is measured.
        outbox_bytes_max: usize::MAX / 2,
        unsent_revisions_max: usize::MAX,
        outbox_bytes_total_max: usize::MAX,
        requests_max: watchers + 1,
        ..Config::default()
    };
    let mut hub = Hub::new(config, 1);
    let mut actions = Actions::new();
    let clients: Vec<ClientId> = (0..clients)
        .map(|_| hub.open(NOW, Caller::default(), &mut actions))
        .collect();
    for watcher in 0..watchers {
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(kind.create(watcher))),
        };
        let client = clients[watcher % clients.len()];
        let event = Event::ClientSent(client, request.encode_to_vec().into());
        hub.handle(NOW, event, &mut actions);
    }
    let mut server = Server {
        stream: UpstreamId::default(),
        watch_id: 0,
        revision: 1000,
    };
    let mut todo: VecDeque<Action> = actions.drain(..).collect();
    while let Some(action) = todo.pop_front() {
        if let Some(event) = server.answer(action) {
            hub.handle(NOW, event, &mut actions);
            todo.extend(actions.drain(..));
        }
    }
    let stats = hub.stats();
    assert_eq!(
        (stats.watchers, stats.behind, stats.live_sources),
        (watchers, 0, 1)
    );
    (hub, server)
}

/// A cluster, and the only watcher that it has.
#[derive(Debug)]
struct Server {
    stream: UpstreamId,
    watch_id: i64,
    revision: i64,
}

impl Server {
    fn answer(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::ReadRevision { check, .. } => {
                let header = Header {
                    cluster_id: CLUSTER,
                    member_id: MEMBER,
                    revision: self.revision,
                    raft_term: TERM,
                };
                Some(Event::Answered(check, Ok(header)))
            }
            Action::SendUpstream(stream, message) => {
                let request = WatchRequest::decode(message).expect("the hub writes what can be read");
                let Some(RequestUnion::CreateRequest(create)) = request.request_union else {
                    return None;
                };
                self.stream = stream;
                self.watch_id = create.watch_id;
                Some(self.say(WatchResponse {
                    created: true,
                    ..WatchResponse::default()
                }))
            }
            _ => None,
        }
    }

    /// The key is put once more.
    fn put(&mut self, value_bytes: usize) -> Event {
        self.revision += 1;
        let pair = KeyValue {
            key: KEY,
            create_revision: 5,
            mod_revision: self.revision,
            version: self.revision,
            value: vec![b'v'; value_bytes].into(),
            lease: 0,
        };
        let event = mvccpb::Event {
            kv: Some(pair),
            ..mvccpb::Event::default()
        };
        self.say(WatchResponse {
            events: vec![event],
            ..WatchResponse::default()
        })
    }

    fn say(&self, response: WatchResponse) -> Event {
        let header = ResponseHeader {
            cluster_id: CLUSTER,
            member_id: MEMBER,
            revision: self.revision,
            raft_term: TERM,
        };
        let response = WatchResponse {
            header: Some(header),
            watch_id: self.watch_id,
            ..response
        };
        Event::UpstreamSent(self.stream, response.encode_to_vec().into())
    }
}

/// As large as ids are.
const CLUSTER: u64 = 0xcdf8_181e_3277_7fcb;
const MEMBER: u64 = 0x8e9e_05c5_2164_694d;
const TERM: u64 = 3;
