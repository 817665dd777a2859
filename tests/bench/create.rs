//! watch-create: how fast watchers on distinct keys come into being, and what they cost.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::etcdserverpb::{
    PutRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use etcd_proxy_tests::wire::{Call, Wire, frame_message};
use prost::Message;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    args::LoadArgs,
    load::{Failure, GRACE, connect_all, nonce, share},
    measure::{Recorder, Usage, describe},
};

/// Creates the watchers, measured; then puts every key once, unmeasured, to see that each watcher
/// gets exactly its event.
pub(crate) async fn run(args: &LoadArgs) -> Result<(Arc<Recorder>, Usage), Failure> {
    let shape = &args.shape;
    let (watchers, connections) = args.watchers();
    let prefix = format!("bench/watch/{}", nonce());
    let mut keys = (0..watchers).map(|key| Bytes::from(format!("{prefix}/{key:08}")));
    let mut streams = Vec::with_capacity(connections);
    for (index, wire) in connect_all(&args.endpoints, connections)
        .await?
        .into_iter()
        .enumerate()
    {
        let call = wire.open(Rpc::Watch.path(), &[]).await?;
        let keys = keys.by_ref().take(share(watchers, connections, index)).collect();
        streams.push(Stream { wire, call, keys });
    }

    let recorder = Recorder::new(Duration::ZERO, WINDOW_MAX);
    let usage = Usage::start(&args.pids)?;
    let mut creating = JoinSet::new();
    for (index, stream) in streams.into_iter().enumerate() {
        let pending_max = share(shape.tasks, connections, index).max(1);
        creating.spawn(stream.create(pending_max, recorder.clone()));
    }
    let mut created = Vec::with_capacity(connections);
    while let Some(ended) = creating.join_next().await {
        created.push(ended.map_err(Failure::panicked)??);
    }
    let usage = usage.end()?;

    let mut checking = JoinSet::new();
    for stream in created {
        checking.spawn(stream.check(recorder.clone()));
    }
    while let Some(ended) = checking.join_next().await {
        ended.map_err(Failure::panicked)??;
    }
    Ok((recorder, usage))
}

#[derive(Debug)]
struct Stream {
    wire: Wire,
    call: Call,
    keys: Vec<Bytes>,
}

impl Stream {
    /// Keeps up to `pending_max` creations under way until all are done. A stream's creations are
    /// answered in order, so the oldest pending one is the one that an answer is for.
    async fn create(mut self, pending_max: usize, recorder: Arc<Recorder>) -> Result<Created, Failure> {
        let mut keys = self.keys.into_iter();
        let mut pending = VecDeque::with_capacity(pending_max);
        let mut watchers = HashMap::new();
        loop {
            while pending.len() < pending_max
                && let Some(key) = keys.next()
            {
                let create = WatchCreateRequest {
                    key: key.clone(),
                    ..Default::default()
                };
                let create = WatchRequest {
                    request_union: Some(RequestUnion::CreateRequest(create)),
                };
                let started = Instant::now();
                self.call.send_raw(frame_message(&create), false).await?;
                pending.push_back((key, started));
            }
            let Some((key, started)) = pending.pop_front() else {
                break;
            };
            let Some(message) = self.call.message().await else {
                return Err(Failure::new(describe(&self.call.finish().await)));
            };
            let response = WatchResponse::decode(message)
                .map_err(|error| Failure::new(format!("no watch response: {error}")))?;
            if !response.created || response.canceled {
                return Err(Failure::new(format!("creating a watcher: got {response:?}")));
            }
            if watchers.insert(response.watch_id, key).is_some() {
                recorder.problem("watch ids given out twice", 1);
            } else {
                recorder.done(started);
            }
        }
        Ok(Created {
            wire: self.wire,
            call: self.call,
            watchers,
        })
    }
}

#[derive(Debug)]
struct Created {
    wire: Wire,
    call: Call,
    /// Keys by watch id.
    watchers: HashMap<i64, Bytes>,
}

impl Created {
    async fn check(mut self, recorder: Arc<Recorder>) -> Result<(), Failure> {
        let template = self.wire.template(Rpc::Put.path(), &[])?;
        for key in self.watchers.values() {
            let put = PutRequest {
                key: key.clone(),
                ..Default::default()
            };
            let put = self.wire.exchange(&template, frame_message(&put)).await;
            put.map_err(|reply| Failure::new(describe(&reply)))?;
        }
        let mut missing: HashSet<_> = self.watchers.values().cloned().collect();
        let events = async {
            while !missing.is_empty() {
                let Some(message) = self.call.message().await else {
                    recorder.problem("a watch stream ended", 1);
                    return;
                };
                match WatchResponse::decode(message) {
                    Ok(response) => check(&response, &self.watchers, &mut missing, &recorder),
                    Err(error) => recorder.problem(format!("no watch response: {error}"), 1),
                }
            }
        };
        // What is still missing afterwards never comes.
        let _ = timeout(GRACE, events).await;
        recorder.problem("events that were never delivered", missing.len() as u64);
        Ok(())
    }
}

fn check(
    response: &WatchResponse,
    watchers: &HashMap<i64, Bytes>,
    missing: &mut HashSet<Bytes>,
    recorder: &Recorder,
) {
    if response.created || response.canceled {
        recorder.problem("a watcher was created twice or cancelled", 1);
    }
    for event in &response.events {
        let key = event.kv.as_ref().map(|kv| &kv.key);
        if !key.is_some_and(|key| missing.remove(key)) {
            recorder.problem("events delivered again, or of keys not watched", 1);
        } else if watchers.get(&response.watch_id) != key {
            // Or the event was given to a wrong watcher: a client cannot tell.
            recorder.problem("creations answered in another order than asked", 1);
        }
    }
}

/// The window is as long as creating takes; a run has a limit of its own, which is shorter.
const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn each_watcher_gets_its_own_event_once() {
        // (watch id, key, problem)
        let rows = [
            (1, "a", None),
            (1, "a", Some("events delivered again, or of keys not watched")),
            (1, "z", Some("events delivered again, or of keys not watched")),
            (1, "b", Some("creations answered in another order than asked")),
        ];
        let watchers = HashMap::from([(1, "a".into()), (2, "b".into())]);
        let mut missing = watchers.values().cloned().collect();
        for (watch_id, key, problem) in rows {
            let recorder = Recorder::new(Duration::ZERO, WINDOW_MAX);
            let kv = KeyValue {
                key: key.into(),
                ..Default::default()
            };
            let event = Event {
                kv: Some(kv),
                ..Default::default()
            };
            let response = WatchResponse {
                watch_id,
                events: vec![event],
                ..Default::default()
            };
            check(&response, &watchers, &mut missing, &recorder);
            let counts = recorder.counts();
            assert_eq!(
                counts.problems.keys().next().map(String::as_str),
                problem,
                "{key}"
            );
        }
        assert!(missing.is_empty());
    }
}
