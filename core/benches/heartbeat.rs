//! One heartbeat through the lease router: a request, its answer, and what the client took of it.

use core::hint::black_box;
use core::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use etcd_proxy_core::lease::{
    Action, Actions, Caller, ClientId, Config, Event, Heartbeat, Router, UpstreamId,
};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, ResponseHeader};
use prost::Message as _;

const CLIENTS: usize = 100;
const LEASES: i64 = 1_000;

struct Bench {
    router: Router,
    now: Instant,
    clients: Vec<ClientId>,
    upstream: UpstreamId,
    requests: Vec<Bytes>,
    answers: Vec<Bytes>,
    actions: Actions,
}

impl Bench {
    fn new() -> Self {
        let mut router = Router::new(Config::default(), 1);
        let mut actions = Actions::new();
        let now = Instant::ZERO;
        let caller = |connection| Caller {
            connection,
            ..Caller::default()
        };
        let clients = (0..CLIENTS as u64).map(|at| router.open(now, caller(1 + at / 10), &mut actions));
        let clients: Vec<ClientId> = clients.collect();
        let request = |id| Bytes::from(LeaseKeepAliveRequest { id }.encode_to_vec());
        let answer = |id| {
            let header = ResponseHeader {
                revision: 7,
                ..Default::default()
            };
            let answer = LeaseKeepAliveResponse {
                header: Some(header),
                id,
                ttl: 60,
            };
            Bytes::from(answer.encode_to_vec())
        };
        router.handle(
            now,
            Event::ClientSent(clients[0], Heartbeat::read(request(1))),
            &mut actions,
        );
        let upstream = actions.iter().find_map(|action| match action {
            Action::OpenUpstream { upstream, .. } => Some(*upstream),
            _ => None,
        });
        let upstream = upstream.expect("a stream");
        router.handle(now, Event::UpstreamOpened(upstream), &mut actions);
        router.handle(now, Event::UpstreamSent(upstream, answer(1)), &mut actions);
        actions.clear();
        Self {
            router,
            now,
            clients,
            upstream,
            requests: (1..=LEASES).map(request).collect(),
            answers: (1..=LEASES).map(answer).collect(),
            actions,
        }
    }

    /// Every client has so many requests at a time, and then the answers come.
    fn round(&mut self, from: usize, each: usize) {
        self.now = self.now + Duration::from_micros(100);
        for (at, client) in self.clients.iter().enumerate() {
            for which in 0..each {
                let request = &self.requests[(from + at * each + which) % self.requests.len()];
                let event = Event::ClientSent(*client, Heartbeat::read(request.clone()));
                self.router.handle(self.now, event, &mut self.actions);
            }
        }
        for at in 0..CLIENTS * each {
            let answer = &self.answers[(from + at) % self.answers.len()];
            let event = Event::UpstreamSent(self.upstream, answer.clone());
            self.router.handle(self.now, event, &mut self.actions);
            let taken = self.actions.drain(..).filter_map(|action| match action {
                Action::Deliver(client, frame) => Some((client, frame.len())),
                _ => None,
            });
            let taken: Option<(ClientId, usize)> = taken.last();
            if let Some((client, bytes)) = taken {
                let event = Event::ClientTook(client, bytes);
                self.router.handle(self.now, event, &mut self.actions);
            }
        }
        black_box(&self.actions);
        self.actions.clear();
    }
}

fn heartbeat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("heartbeat");
    for each in [1, 2] {
        group.throughput(Throughput::Elements((CLIENTS * each) as u64));
        let mut bench = Bench::new();
        let mut from = 0;
        group.bench_function(format!("{each} of each client at a time"), |bencher| {
            bencher.iter(|| {
                bench.round(from, each);
                from += CLIENTS * each;
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    heartbeat(&mut criterion);
    criterion.final_summary();
}
