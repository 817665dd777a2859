//! Clients that write under a prefix until they are told to stop, and the log of what they wrote.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, TxnResponse, request_op::Request,
};
use etcd_proxy_tests::{
    client::Client,
    suite::eventually,
    watching::{ANSWER_LIMIT, Mark, compare, from, history, on_prefix, since},
    wire::Wire,
};
use tokio::task::JoinHandle;

use crate::world::put;

/// Pause between two writes of a writer: writers that take all the CPU leave none to those who are tested.
const PACE: Duration = Duration::from_millis(4);

/// A write that takes longer is given up; whether it was applied doesn't matter here.
const WRITE_LIMIT: Duration = Duration::from_secs(3);

/// Keys that each writer writes to.
const KEYS: usize = 40;

/// Running writers.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
    prefix: String,
}

impl Writers {
    /// Starts `count` writers, each against all `members` in turn when one doesn't answer.
    pub(crate) fn start(members: &[String], prefix: &str, count: usize) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..count)
            .map(|number| {
                let (members, prefix) = (members.to_vec(), format!("{prefix}w{number}/"));
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                tokio::spawn(write(members, prefix, number, stop, acknowledged))
            })
            .collect();
        Self {
            stop,
            acknowledged,
            tasks,
            prefix: prefix.to_owned(),
        }
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) async fn wrote(&self, count: usize) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually("the writers write", ANSWER_LIMIT, async || {
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Stops them, writes a last key, and reads everything under the prefix from a member.
    pub(crate) async fn stop(self, member: &str) -> Log {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer");
        }
        assert!(
            self.acknowledged.load(Ordering::Relaxed) > 0,
            "nothing was written"
        );
        Log::read(member, &self.prefix).await
    }
}

async fn write(
    members: Vec<String>,
    prefix: String,
    number: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) {
    let mut member = number;
    let mut wire: Option<Wire> = None;
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let once = async {
            let connection = match wire.take() {
                Some(wire) => wire,
                None => Wire::connect(&members[member % members.len()]).await.ok()?,
            };
            let request = operation(&prefix, count);
            let path = "/etcdserverpb.KV/Txn";
            let answer = connection.unary::<_, TxnResponse>(path, &[], &request).await;
            answer.ok().map(|_| connection)
        };
        wire = tokio::time::timeout(WRITE_LIMIT, once).await.ok().flatten();
        match wire {
            Some(_) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            None => member += 1,
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Mostly one put; now and then several keys at one revision, or a delete.
fn operation(prefix: &str, count: usize) -> TxnRequest {
    let key = |index: usize| format!("{prefix}{:03}", index % KEYS).into();
    let put = |index: usize| RequestOp {
        request: Some(Request::RequestPut(PutRequest {
            key: key(index),
            value: format!("value {count} of {prefix}").into(),
            ..Default::default()
        })),
    };
    let delete = RequestOp {
        request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key(count + 20),
            ..Default::default()
        })),
    };
    let success = match count % 10 {
        3 => vec![put(count), put(count + 1), put(count + 2)],
        7 => vec![put(count), delete],
        _ => vec![put(count)],
    };
    TxnRequest {
        success,
        ..Default::default()
    }
}

/// Everything that happened under a prefix, as a member tells it directly.
pub(crate) struct Log {
    pub(crate) marks: Vec<Mark>,
}

impl Log {
    /// Writes a last key under the prefix and reads everything up to it.
    pub(crate) async fn read(member: &str, prefix: &str) -> Self {
        let client = Client::connect(member).await.expect("member");
        let last = put(&client, &format!("{prefix}last"), "last").await;
        let marks = history(member, since(1, on_prefix(prefix)), last).await;
        Self { marks }
    }

    pub(crate) fn last_revision(&self) -> i64 {
        self.marks.last().expect("the last key").revision
    }

    /// Whether a watcher from `start` saw exactly what was to be seen.
    pub(crate) fn is(&self, seen: &[Mark], start: i64) -> Result<(), String> {
        compare(seen, from(&self.marks, start)).map_err(|error| format!("from {start}: {error}"))
    }

    /// Whether a watcher that started somewhere between two revisions saw everything from its start on.
    pub(crate) fn is_suffix(&self, seen: &[Mark], earliest: i64, latest: i64) -> Result<(), String> {
        let first = seen.first().map_or(latest, |mark| mark.revision);
        if first < earliest {
            return Err(format!("saw {first}, which was before {earliest}"));
        }
        self.is(seen, first.min(latest))
    }
}
