//! One Watch stream with its watchers, and what each of them has seen.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use etcd_proxy_proto::{etcdserverpb::WatchResponse, mvccpb::Event};
use etcd_proxy_tests::wire::{Call, Wire};
use prost::Message;
use tokio::sync::watch;

use super::{Run, STAMP_BYTES};
use crate::{load::Failure, watchers};

#[derive(Debug)]
pub(super) struct Stream {
    /// Kept so that the connection lives as long as the stream.
    _wire: Wire,
    call: Call,
    seen: Seen,
}

/// The next sequence number of each watcher and writer, by watch id.
#[derive(Debug)]
pub(super) struct Seen(HashMap<i64, Vec<u64>>);

impl Stream {
    /// Creates the watchers and waits for all of them.
    pub(super) async fn open(
        wire: &Wire,
        range: (Bytes, Bytes),
        watchers: usize,
        writers: usize,
    ) -> Result<Self, Failure> {
        let (call, created) = watchers::create(wire, range, watchers).await?;
        let seen = Seen(created.into_keys().map(|id| (id, vec![0; writers])).collect());
        Ok(Self {
            _wire: wire.clone(),
            call,
            seen,
        })
    }

    /// Counts events until `stopped`.
    pub(super) async fn read(mut self, run: Arc<Run>, mut stopped: watch::Receiver<()>) -> Seen {
        loop {
            let message = tokio::select! {
                biased;
                message = self.call.message() => message,
                _ = stopped.changed() => return self.seen,
            };
            let Some(message) = message else {
                run.recorder.problem("a watch stream ended", 1);
                run.recorder.error(&self.call.finish().await);
                return self.seen;
            };
            match WatchResponse::decode(message) {
                Ok(response) => self.seen.take(&response, &run),
                Err(error) => run.recorder.problem(format!("no watch response: {error}"), 1),
            }
        }
    }
}

impl Seen {
    fn take(&mut self, response: &WatchResponse, run: &Run) {
        let recorder = &run.recorder;
        let Some(next) = self.0.get_mut(&response.watch_id) else {
            recorder.problem("a response for an unknown watcher", 1);
            return;
        };
        if response.created || response.canceled {
            let what = if response.created {
                "created twice"
            } else {
                "cancelled"
            };
            recorder.problem(format!("a watcher was {what}: {}", response.cancel_reason), 1);
        }
        for event in &response.events {
            let Some((number, time)) = stamp(event) else {
                recorder.problem("an event that nobody wrote", 1);
                continue;
            };
            let writers = next.len() as u64;
            let (writer, sequence) = ((number % writers) as usize, number / writers);
            let next = &mut next[writer];
            if sequence < *next {
                recorder.problem("events delivered again or out of order", 1);
                continue;
            }
            recorder.problem("events left out", sequence - *next);
            *next = sequence + 1;
            recorder.done(run.epoch + time);
            run.progress[writer].delivered(sequence);
        }
    }

    /// How many of `written` events are still to come, over all watchers.
    pub(super) fn missing_of(&self, written: &[u64]) -> u64 {
        let missing = |next: &Vec<u64>| -> u64 {
            let each = written.iter().zip(next);
            each.map(|(written, next)| written.saturating_sub(*next)).sum()
        };
        self.0.values().map(missing).sum()
    }
}

fn stamp(event: &Event) -> Option<(u64, Duration)> {
    let mut value = event.kv.as_ref()?.value.get(..STAMP_BYTES)?;
    Some((value.get_u64(), Duration::from_nanos(value.get_u64())))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use etcd_proxy_proto::mvccpb::KeyValue;

    use super::{
        super::{Progress, stamped},
        *,
    };
    use crate::measure::Recorder;

    fn events(watch_id: i64, sequences: &[u64]) -> WatchResponse {
        let event = |&sequence| Event {
            kv: Some(KeyValue {
                value: stamped(sequence, Duration::ZERO, 0),
                ..Default::default()
            }),
            ..Default::default()
        };
        let events = sequences.iter().map(event).collect();
        WatchResponse {
            watch_id,
            events,
            ..Default::default()
        }
    }

    #[test]
    fn lost_and_repeated_events_show() {
        // (batches of sequence numbers, delivered, left out, again, still missing of 4)
        type Row = (&'static [&'static [u64]], u64, u64, u64, u64);
        let rows: [Row; 6] = [
            (&[&[0, 1, 2, 3]], 4, 0, 0, 0),
            (&[&[0], &[1, 2], &[3]], 4, 0, 0, 0),
            (&[&[0, 1]], 2, 0, 0, 2),
            (&[&[0, 3]], 2, 2, 0, 0),
            (&[&[0, 1], &[1, 2], &[3]], 4, 0, 1, 0),
            (&[&[1, 0, 2, 3]], 3, 1, 1, 0),
        ];
        for (batches, delivered, left_out, again, missing) in rows {
            let run = Run {
                epoch: Instant::now(),
                progress: vec![Progress::new(1)],
                recorder: Recorder::new(Duration::ZERO, Duration::from_secs(3600)),
            };
            let mut seen = Seen(HashMap::from([(7, vec![0])]));
            for batch in batches {
                seen.take(&events(7, batch), &run);
            }
            let counts = run.recorder.counts();
            let problem = |what| counts.problems.get(what).copied().unwrap_or_default();
            assert_eq!(counts.operations, delivered, "{batches:?}");
            assert_eq!(problem("events left out"), left_out, "{batches:?}");
            assert_eq!(
                problem("events delivered again or out of order"),
                again,
                "{batches:?}"
            );
            assert_eq!(seen.missing_of(&[4]), missing, "{batches:?}");
        }
    }

    #[test]
    fn strangers_and_cancellations_show() {
        let run = Run {
            epoch: Instant::now(),
            progress: vec![Progress::new(1)],
            recorder: Recorder::new(Duration::ZERO, Duration::from_secs(3600)),
        };
        let mut seen = Seen(HashMap::from([(7, vec![0])]));
        seen.take(&events(8, &[0]), &run);
        seen.take(
            &WatchResponse {
                watch_id: 7,
                canceled: true,
                ..Default::default()
            },
            &run,
        );
        let unstamped = WatchResponse {
            watch_id: 7,
            events: vec![Event::default()],
            ..Default::default()
        };
        seen.take(&unstamped, &run);
        assert_eq!(run.recorder.counts().operations, 0);
        assert_eq!(run.recorder.counts().problems.len(), 3);
    }
}
