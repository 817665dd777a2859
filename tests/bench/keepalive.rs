//! lease-keepalive: heartbeats on one LeaseKeepAlive stream per connection.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse,
};
use etcd_proxy_tests::wire::{Call, Wire, frame_message};
use prost::Message;
use tokio::task::JoinSet;

use crate::{
    args::LoadArgs,
    load::{Failure, GRACE, connect_all, join_all, share},
    measure::{Recorder, Usage, describe},
};

/// Grants the leases, keeps `tasks` heartbeats under way until the window closes, revokes them.
pub(crate) async fn run(args: &LoadArgs) -> Result<(Arc<Recorder>, Usage), Failure> {
    let shape = &args.shape;
    // At least one heartbeat per stream, and a lease has at most one heartbeat under way.
    let connections = args.connections.min(shape.tasks);
    if shape.leases < shape.tasks {
        return Err(Failure::new("fewer leases than tasks"));
    }
    let ttl = shape.warmup + shape.duration + 4 * GRACE;
    let mut granting = JoinSet::new();
    for (index, wire) in connect_all(&args.endpoints, connections)
        .await?
        .into_iter()
        .enumerate()
    {
        let count = share(shape.leases, connections, index);
        granting.spawn(Leases::grant(wire, count, ttl.as_secs().cast_signed()));
    }
    let mut leases = Vec::with_capacity(connections);
    while let Some(granted) = granting.join_next().await {
        leases.push(granted.map_err(Failure::panicked)??);
    }

    let recorder = Recorder::new(shape.warmup, shape.duration);
    let usage = recorder.watch_processes(&args.pids);
    let mut tasks = JoinSet::new();
    for (index, leases) in leases.iter().enumerate() {
        let call = leases.wire.open(Rpc::LeaseKeepAlive.path(), &[]).await?;
        let pending_max = share(shape.tasks, connections, index);
        tasks.spawn(beat(call, Turns::new(&leases.ids), pending_max, recorder.clone()));
    }
    join_all(tasks, &recorder, GRACE).await?;
    let usage = usage
        .join()
        .map_err(|_| Failure::new("the sampling thread panicked"))??;
    for leases in leases {
        leases.revoke(&recorder).await;
    }
    Ok((recorder, usage))
}

#[derive(Debug)]
struct Leases {
    wire: Wire,
    ids: Vec<i64>,
}

impl Leases {
    async fn grant(wire: Wire, count: usize, ttl: i64) -> Result<Self, Failure> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let request = LeaseGrantRequest { ttl, id: 0 };
            let path = Rpc::LeaseGrant.path();
            let granted = wire.unary::<_, LeaseGrantResponse>(path, &[], &request).await;
            ids.push(granted.map_err(|reply| Failure::new(describe(&reply)))?.id);
        }
        Ok(Self { wire, ids })
    }

    /// Leaves nothing behind, or an error in the report.
    async fn revoke(self, recorder: &Recorder) {
        for id in self.ids {
            let request = LeaseRevokeRequest { id };
            let path = Rpc::LeaseRevoke.path();
            let revoked = self
                .wire
                .unary::<_, LeaseRevokeResponse>(path, &[], &request)
                .await;
            if let Err(reply) = revoked {
                recorder.error(&reply);
                return;
            }
        }
    }
}

/// Keeps `pending_max` heartbeats under way; after the window waits for what is still under way.
async fn beat(
    mut call: Call,
    mut turns: Turns,
    pending_max: usize,
    recorder: Arc<Recorder>,
) -> Result<(), Failure> {
    loop {
        while turns.pending.len() < pending_max
            && recorder.running()
            && let Some(id) = turns.next()
        {
            let request = frame_message(&LeaseKeepAliveRequest { id });
            if call.send_raw(request, false).await.is_err() {
                // Receiving tells why.
                break;
            }
        }
        if turns.pending.is_empty() {
            return Ok(());
        }
        let Some(message) = call.message().await else {
            recorder.problem("a keepalive stream ended", 1);
            recorder.error(&call.finish().await);
            return Ok(());
        };
        match LeaseKeepAliveResponse::decode(message) {
            Ok(response) => turns.answered(&response, &recorder),
            Err(error) => recorder.problem(format!("no keepalive response: {error}"), 1),
        }
    }
}

/// The leases of a stream, each with at most one heartbeat under way.
#[derive(Debug)]
struct Turns {
    waiting: VecDeque<i64>,
    /// When each heartbeat under way was sent.
    pending: HashMap<i64, Instant>,
}

impl Turns {
    fn new(leases: &[i64]) -> Self {
        Self {
            waiting: leases.iter().copied().collect(),
            pending: HashMap::new(),
        }
    }

    /// The lease whose turn it is; its heartbeat counts as sent.
    fn next(&mut self) -> Option<i64> {
        let id = self.waiting.pop_front()?;
        self.pending.insert(id, Instant::now());
        Some(id)
    }

    fn answered(&mut self, response: &LeaseKeepAliveResponse, recorder: &Recorder) {
        match self.pending.remove(&response.id) {
            Some(started) => {
                self.waiting.push_back(response.id);
                if response.ttl > 0 {
                    recorder.done(started);
                } else {
                    recorder.problem("a living lease was told to have ended", 1);
                }
            }
            None => recorder.problem("an answer to no heartbeat", 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_right_answers_are_operations() {
        let recorder = Recorder::new(Duration::ZERO, Duration::from_secs(3600));
        let mut turns = Turns::new(&[1, 2]);
        assert_eq!(
            (turns.next(), turns.next(), turns.next()),
            (Some(1), Some(2), None)
        );
        for (id, ttl) in [(2, 60), (2, 60), (1, 0), (3, 60)] {
            let response = LeaseKeepAliveResponse {
                id,
                ttl,
                header: None,
            };
            turns.answered(&response, &recorder);
        }
        assert!(turns.pending.is_empty());
        assert_eq!(
            (turns.next(), turns.next(), turns.next()),
            (Some(2), Some(1), None)
        );
        let counts = recorder.counts();
        assert_eq!(counts.operations, 1);
        assert_eq!(counts.problems["an answer to no heartbeat"], 2);
        assert_eq!(counts.problems["a living lease was told to have ended"], 1);
    }
}
