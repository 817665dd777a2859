//! mixed-5 and mixed-50: linearizable reads with some writes between them, and watchers of all that is written.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use etcd_proxy_proto::etcdserverpb::{PutResponse, WatchResponse};
use etcd_proxy_tests::wire::{Call, Wire};
use prost::Message;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant as TokioInstant, timeout_at},
};

use crate::{
    args::LoadArgs,
    load::{Failure, GRACE, connect_all, join_all, share},
    measure::{Recorder, Usage},
    unary::{Data, Operation, fill},
    watchers,
};

/// Puts the keys, opens the watchers, then keeps `tasks` calls under way until the window closes.
pub(crate) async fn run(args: &LoadArgs, writes_percent: usize) -> Result<(Arc<Recorder>, Usage), Failure> {
    let shape = &args.shape;
    let wires = connect_all(&args.endpoints, args.connections).await?;
    let data = Arc::new(Data::of(shape));
    fill(&wires, &data, shape.tasks).await?;

    let recorder = Recorder::new(shape.warmup, shape.duration);
    let (last, told) = watch::channel(None);
    let (watchers, streams) = args.watchers();
    let mut watching = JoinSet::new();
    for (index, wire) in wires.iter().take(streams).enumerate() {
        let watched = Watched::open(wire, share(watchers, streams, index)).await?;
        watching.spawn(watched.read(recorder.clone(), told.clone()));
    }
    drop(told);

    let usage = recorder.watch_processes(&args.pids);
    let newest = Arc::new(AtomicI64::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..shape.tasks {
        let calls = Calls {
            wire: wires[task % wires.len()].clone(),
            data: data.clone(),
            writes_percent,
            newest: newest.clone(),
            recorder: recorder.clone(),
        };
        // Every task walks through all keys, each from a place of its own.
        let first = task * data.keys.len() / shape.tasks;
        tasks.spawn(calls.repeat(first));
    }
    join_all(tasks, &recorder, GRACE).await?;
    // From here on the watchers know when they have everything.
    last.send_replace(Some(newest.load(Ordering::Relaxed)));
    join_all(watching, &recorder, GRACE).await?;
    let usage = usage
        .join()
        .map_err(|_| Failure::new("the sampling thread panicked"))??;
    Ok((recorder, usage))
}

/// What one task does.
struct Calls {
    wire: Wire,
    data: Arc<Data>,
    writes_percent: usize,
    /// The highest revision of a put so far.
    newest: Arc<AtomicI64>,
    recorder: Arc<Recorder>,
}

impl Calls {
    async fn repeat(self, first: usize) -> Result<(), Failure> {
        let read = Operation::Range { serializable: false };
        let put = self.wire.template(Operation::Put.path(), &[])?;
        let range = self.wire.template(read.path(), &[])?;
        for (number, key) in self.data.keys.iter().cycle().skip(first).enumerate() {
            if !self.recorder.running() {
                break;
            }
            let (operation, template) = if is_write(number + first, self.writes_percent) {
                (Operation::Put, &put)
            } else {
                (read, &range)
            };
            let request = operation.request(key, &self.data.value);
            let started = Instant::now();
            let answer = self.wire.exchange(template, request).await;
            if let (Operation::Put, Ok(message)) = (operation, &answer)
                && let Ok(put) = PutResponse::decode(message.clone())
            {
                let revision = put.header.map_or(0, |header| header.revision);
                self.newest.fetch_max(revision, Ordering::Relaxed);
            }
            let asked = (key, &self.data.value);
            operation.record(answer, asked, started, &self.recorder).await;
        }
        Ok(())
    }
}

/// Whether a task's call with this number is a write: so many of a hundred are, evenly.
fn is_write(number: usize, percent: usize) -> bool {
    (number + 1) * percent / 100 > number * percent / 100
}

/// A Watch stream whose watchers see all keys, and the last revision that each was told.
struct Watched {
    /// Kept so that the connection lives as long as the stream.
    _wire: Wire,
    call: Call,
    seen: HashMap<i64, i64>,
}

impl Watched {
    async fn open(wire: &Wire, watchers: usize) -> Result<Self, Failure> {
        // The character that follows the slash.
        let range = ("bench/key/".into(), "bench/key0".into());
        let (call, seen) = watchers::create(wire, range, watchers).await?;
        Ok(Self {
            _wire: wire.clone(),
            call,
            seen,
        })
    }

    /// Reads until each watcher has been told the last revision, once that is known.
    async fn read(
        mut self,
        recorder: Arc<Recorder>,
        mut last: watch::Receiver<Option<i64>>,
    ) -> Result<(), Failure> {
        let until = TokioInstant::from_std(recorder.until() + GRACE);
        let mut wanted = None;
        while wanted.is_none_or(|wanted| self.seen.values().any(|seen| *seen < wanted)) {
            let message = tokio::select! {
                biased;
                message = timeout_at(until, self.call.message()) => message,
                changed = last.changed(), if wanted.is_none() => {
                    // Without the number the run has failed elsewhere.
                    if changed.is_err() {
                        return Ok(());
                    }
                    wanted = *last.borrow();
                    continue;
                }
            };
            let Ok(message) = message else {
                recorder.problem("watchers that were not told of the last put", 1);
                return Ok(());
            };
            let Some(message) = message else {
                recorder.problem("a watch stream ended", 1);
                recorder.error(&self.call.finish().await);
                return Ok(());
            };
            match WatchResponse::decode(message) {
                Ok(response) => take(&mut self.seen, &response, &recorder),
                Err(error) => recorder.problem(format!("no watch response: {error}"), 1),
            }
        }
        Ok(())
    }
}

/// Notes the revisions of events, which are one put each.
fn take(seen: &mut HashMap<i64, i64>, response: &WatchResponse, recorder: &Recorder) {
    let Some(seen) = seen.get_mut(&response.watch_id) else {
        return recorder.problem("a response for an unknown watcher", 1);
    };
    if response.canceled {
        recorder.problem(format!("a watcher was cancelled: {}", response.cancel_reason), 1);
    }
    for event in &response.events {
        let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        if revision <= *seen {
            recorder.problem("events delivered again or out of order", 1);
        } else {
            // Nobody else writes, so that each revision is an event.
            recorder.problem("events left out", (revision - *seen - 1).unsigned_abs());
            *seen = revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etcd_proxy_proto::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn writes_are_spread_evenly() {
        for percent in [5, 50] {
            for first in [0, 7, 100] {
                let writes = (first..first + 100).filter(|number| is_write(*number, percent));
                assert_eq!(writes.count(), percent, "{first}");
            }
        }
        assert!((0..20).filter(|number| is_write(*number, 5)).count() == 1);
    }

    #[test]
    fn lost_and_repeated_events_show() {
        for (revisions, left_out, again, last) in [
            (&[6, 7, 8][..], 0, 0, 8),
            (&[7, 8], 1, 0, 8),
            (&[6, 6, 7], 0, 1, 7),
            (&[7, 6], 1, 1, 7),
        ] {
            let recorder = Recorder::new(Duration::ZERO, Duration::from_secs(3600));
            let mut seen = HashMap::from([(3, 5)]);
            let event = |revision: &i64| Event {
                kv: Some(KeyValue {
                    mod_revision: *revision,
                    ..Default::default()
                }),
                ..Default::default()
            };
            let response = WatchResponse {
                watch_id: 3,
                events: revisions.iter().map(event).collect(),
                ..Default::default()
            };
            take(&mut seen, &response, &recorder);
            let counts = recorder.counts();
            let problem = |what| counts.problems.get(what).copied().unwrap_or_default();
            assert_eq!(problem("events left out"), left_out, "{revisions:?}");
            assert_eq!(
                problem("events delivered again or out of order"),
                again,
                "{revisions:?}"
            );
            assert_eq!(seen[&3], last, "{revisions:?}");
        }
    }
}
