//! A Watch call with its messages decoded, and the account that a watcher gives of what it saw.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use bytes::Bytes;
use etcd_proxy_proto::{
    etcdserverpb::{
        WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use prost::Message as _;

use crate::{
    suite::within,
    wire::{Call, Reply, Wire},
};

/// The path of the call.
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// What takes longer hangs. Long enough for a failover on a machine that is busy with other things.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// A create request for one key.
#[must_use]
pub fn on_key(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

/// A create request for all keys that begin with `prefix`.
///
/// # Panics
/// If the prefix is empty or ends with the byte 255.
#[must_use]
pub fn on_prefix(prefix: &str) -> WatchCreateRequest {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix that isn't empty");
    *last = last.checked_add(1).expect("a last byte below 255");
    WatchCreateRequest {
        range_end: end.into(),
        ..on_key(prefix)
    }
}

/// The same request with a start revision.
#[must_use]
pub fn since(start_revision: i64, create: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..create
    }
}

/// An open Watch call.
#[derive(Debug)]
pub struct Watching {
    call: Call,
}

impl Watching {
    /// Opens a call without a request.
    ///
    /// # Panics
    /// When the connection has ended.
    pub async fn open(wire: &Wire, metadata: &[(&str, &str)]) -> Self {
        let call = wire.open(WATCH, metadata).await.expect("a Watch call");
        Self { call }
    }

    /// Opens a call with one watcher, and waits until it is created.
    ///
    /// # Panics
    /// When it is refused, or nothing comes within [`ANSWER_LIMIT`].
    pub async fn one(wire: &Wire, create: WatchCreateRequest) -> (Self, WatchResponse) {
        let mut watching = Self::open(wire, &[]).await;
        let created = watching.created(create).await;
        (watching, created)
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When the stream has ended.
    pub async fn send(&mut self, union: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(union),
        };
        self.send_message(request.encode_to_vec().into()).await;
    }

    /// Sends a message as it is.
    ///
    /// # Panics
    /// When the stream has ended.
    pub async fn send_message(&mut self, message: Bytes) {
        self.call.send(message).await.expect("an open stream");
    }

    /// Asks for a watcher.
    ///
    /// # Panics
    /// When the stream has ended.
    pub async fn create(&mut self, create: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create)).await;
    }

    /// As [`create`](Self::create), on a stream that may have ended.
    pub async fn try_create(&mut self, create: WatchCreateRequest) {
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // How the stream ended is told by what is received.
        let _ = self.call.send(request.encode_to_vec().into()).await;
    }

    /// Asks for a watcher and gives the next answer, which must say that it was created.
    ///
    /// # Panics
    /// When it says something else, or nothing within [`ANSWER_LIMIT`].
    pub async fn created(&mut self, create: WatchCreateRequest) -> WatchResponse {
        let shown = format!("{create:?}");
        self.create(create).await;
        let answer = self.next().await;
        assert!(answer.created && !answer.canceled, "{shown}: {answer:?}");
        answer
    }

    /// Asks for the end of a watcher.
    ///
    /// # Panics
    /// When the stream has ended.
    pub async fn cancel(&mut self, watch_id: i64) {
        let request = WatchCancelRequest { watch_id };
        self.send(RequestUnion::CancelRequest(request)).await;
    }

    /// Asks for the progress of all watchers of the stream.
    ///
    /// # Panics
    /// When the stream has ended.
    pub async fn ask_progress(&mut self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}))
            .await;
    }

    /// Ends the sending direction.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn half_close(&mut self) {
        self.call.half_close().expect("an open stream");
    }

    /// The next answer, or the end of the stream. Dropping the future loses nothing.
    ///
    /// # Errors
    /// What the stream ended with.
    ///
    /// # Panics
    /// When a message is no watch answer.
    pub async fn answer(&mut self) -> Result<WatchResponse, Reply> {
        match self.call.message().await {
            Some(message) => Ok(WatchResponse::decode(message).expect("a watch answer")),
            None => Err(self.call.ended().await),
        }
    }

    /// The next answer.
    ///
    /// # Panics
    /// When the stream ends, or nothing comes within [`ANSWER_LIMIT`].
    pub async fn next(&mut self) -> WatchResponse {
        match within("an answer on a Watch stream", ANSWER_LIMIT, self.answer()).await {
            Ok(answer) => answer,
            Err(end) => panic!("the Watch stream ended: {}", end.in_short()),
        }
    }

    /// Reads to the end of the stream.
    ///
    /// # Panics
    /// When it doesn't end within [`ANSWER_LIMIT`].
    pub async fn end(self) -> Reply {
        within("the end of a Watch stream", ANSWER_LIMIT, self.call.finish()).await
    }
}

/// One event, small enough to be kept by the million.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// `mod_revision`.
    pub revision: i64,
    /// Of everything else in it but the previous value, which isn't there for everybody.
    pub digest: u64,
}

impl Mark {
    fn of(event: &Event) -> Self {
        let kv = event.kv.clone().unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        (event.r#type, &kv.key, &kv.value).hash(&mut hasher);
        (kv.create_revision, kv.version, kv.lease).hash(&mut hasher);
        Self {
            revision: kv.mod_revision,
            digest: hasher.finish(),
        }
    }
}

/// What one watcher was told.
#[derive(Clone, Debug, Default)]
pub struct Watcher {
    /// Header revision of its created answer.
    pub created: i64,
    /// Its events in the order in which they came.
    pub marks: Vec<Mark>,
    /// Revision up to which it has certainly seen everything: of events or of progress.
    pub position: i64,
    /// The last answer was a fragment, so its last revision may go on.
    unfinished: bool,
}

/// What all watchers of a stream were told, checked as it comes: each is created once, before its events; their
/// revisions go up, none is spread over answers that aren't fragments; no event is at or below a progress that was
/// told before; headers are real and never below what they are about.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// By watch id.
    pub watchers: BTreeMap<i64, Watcher>,
    /// The last progress of the whole stream (watch id -1).
    pub progress: i64,
}

impl Account {
    /// Takes an answer in.
    ///
    /// # Errors
    /// When it breaks a rule or cancels a watcher.
    pub fn take(&mut self, answer: &WatchResponse) -> Result<(), String> {
        let id = answer.watch_id;
        let header = answer.header.unwrap_or_default();
        let broken = |rule: &str| Err(format!("watcher {id}: {rule}: {:.400}", format!("{answer:?}")));
        if answer.canceled {
            return broken("cancelled");
        }
        if header.cluster_id == 0 || header.member_id == 0 || header.raft_term == 0 || header.revision == 0 {
            return broken("not a real header");
        }
        if answer.created {
            let watcher = Watcher {
                created: header.revision,
                ..Watcher::default()
            };
            if !answer.events.is_empty() || self.watchers.insert(id, watcher).is_some() {
                return broken("created twice, or with events");
            }
            return Ok(());
        }
        if answer.events.is_empty() {
            return match id {
                -1 => {
                    self.progress = self.progress.max(header.revision);
                    for watcher in self.watchers.values_mut() {
                        watcher.position = watcher.position.max(header.revision);
                    }
                    Ok(())
                }
                _ => match self.watchers.get_mut(&id) {
                    Some(watcher) => {
                        watcher.position = watcher.position.max(header.revision);
                        Ok(())
                    }
                    None => broken("progress before it was created"),
                },
            };
        }
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return broken("events before it was created");
        };
        let goes_on = std::mem::replace(&mut watcher.unfinished, answer.fragment);
        for (index, event) in answer.events.iter().enumerate() {
            let mark = Mark::of(event);
            let same = mark.revision == watcher.position && (index > 0 || goes_on);
            if mark.revision <= watcher.position && !same {
                return broken("an event at or below what it has seen");
            }
            watcher.position = mark.revision;
            watcher.marks.push(mark);
        }
        if header.revision < watcher.position {
            return broken("a header below its events");
        }
        Ok(())
    }

    /// Reads answers until every watcher of the account has seen an event at `revision` or above. Gives the first
    /// answer that breaks a rule as an error.
    ///
    /// # Errors
    /// What went wrong, also the end of the stream and silence for [`ANSWER_LIMIT`].
    pub async fn follow(&mut self, watching: &mut Watching, revision: i64) -> Result<(), String> {
        let behind = |account: &Self| {
            let last = |watcher: &Watcher| watcher.marks.last().map_or(0, |mark| mark.revision);
            account.watchers.values().any(|watcher| last(watcher) < revision)
        };
        while self.watchers.is_empty() || behind(self) {
            match tokio::time::timeout(ANSWER_LIMIT, watching.answer()).await {
                Ok(Ok(answer)) => self.take(&answer)?,
                Ok(Err(end)) => return Err(format!("the stream ended: {}", end.in_short())),
                Err(_) => {
                    let positions: Vec<i64> =
                        self.watchers.values().map(|watcher| watcher.position).collect();
                    return Err(format!(
                        "nothing for {ANSWER_LIMIT:?}, waiting for {revision}, at {positions:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The only watcher.
    ///
    /// # Panics
    /// If there is another number of them.
    #[must_use]
    pub fn only(&self) -> &Watcher {
        assert_eq!(self.watchers.len(), 1, "watchers");
        self.watchers.values().next().expect("one watcher")
    }
}

/// The events of a range from `create.start_revision` to the one at `until`, asked of a member directly.
///
/// # Panics
/// If the member doesn't tell them.
pub async fn history(member: &str, create: WatchCreateRequest, until: i64) -> Vec<Mark> {
    let wire = Wire::connect(member).await.expect("a member");
    let mut watching = Watching::open(&wire, &[]).await;
    let mut account = Account::default();
    watching.create(create).await;
    account.follow(&mut watching, until).await.expect("the log");
    account.only().marks.clone()
}

/// Compares what a watcher saw with the log; tells the first difference.
///
/// # Errors
/// Where they differ.
pub fn compare(seen: &[Mark], log: &[Mark]) -> Result<(), String> {
    let differs = seen.iter().zip(log).position(|(seen, log)| seen != log);
    let at = match differs {
        Some(at) => at,
        None if seen.len() == log.len() => return Ok(()),
        None => seen.len().min(log.len()),
    };
    Err(format!(
        "event {at} of {} (log: {}): saw {:?} instead of {:?}",
        seen.len(),
        log.len(),
        seen.get(at),
        log.get(at)
    ))
}

/// The part of a log from `revision` on.
#[must_use]
pub fn from(log: &[Mark], revision: i64) -> &[Mark] {
    &log[log.partition_point(|mark| mark.revision < revision)..]
}

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::{etcdserverpb::ResponseHeader, mvccpb::KeyValue};

    use super::*;

    fn answer(id: i64, revisions: &[i64]) -> WatchResponse {
        let event = |revision: &i64| Event {
            kv: Some(KeyValue {
                mod_revision: *revision,
                ..Default::default()
            }),
            ..Default::default()
        };
        WatchResponse {
            header: Some(ResponseHeader {
                cluster_id: 1,
                member_id: 2,
                revision: 100,
                raft_term: 3,
            }),
            watch_id: id,
            events: revisions.iter().map(event).collect(),
            ..Default::default()
        }
    }

    fn created(id: i64) -> WatchResponse {
        WatchResponse {
            created: true,
            ..answer(id, &[])
        }
    }

    /// The error of the last answer; those before it must be fine.
    fn last(answers: &[WatchResponse]) -> Option<String> {
        let mut account = Account::default();
        let (last, before) = answers.split_last().expect("an answer");
        for answer in before {
            account.take(answer).expect("what comes before");
        }
        account.take(last).err()
    }

    #[test]
    fn an_account_that_is_in_order() {
        let fragment = WatchResponse {
            fragment: true,
            ..answer(0, &[4, 5])
        };
        let fine = [
            created(0),
            answer(0, &[2, 2, 3]),
            fragment,
            answer(0, &[5]),
            answer(-1, &[]),
            answer(0, &[101]),
        ];
        let mut fine = fine.to_vec();
        fine[5].header.as_mut().expect("a header").revision = 101;
        assert_eq!(last(&fine), None);
    }

    #[test]
    fn what_an_account_refuses() {
        let forged = WatchResponse {
            header: None,
            ..answer(0, &[2])
        };
        let low = WatchResponse {
            header: Some(ResponseHeader {
                revision: 1,
                ..answer(0, &[]).header.expect("a header")
            }),
            ..answer(0, &[2])
        };
        let cancelled = WatchResponse {
            canceled: true,
            ..answer(0, &[])
        };
        for (name, answers) in [
            ("twice", vec![created(0), created(0)]),
            ("early", vec![created(1), answer(0, &[2])]),
            ("again", vec![created(0), answer(0, &[2]), answer(0, &[2])]),
            ("back", vec![created(0), answer(0, &[3, 2])]),
            ("overtaken", vec![created(0), answer(-1, &[]), answer(0, &[100])]),
            ("told", vec![created(0), answer(0, &[]), answer(0, &[99])]),
            ("forged", vec![created(0), forged]),
            ("low", vec![created(0), low]),
            ("cancelled", vec![created(0), cancelled]),
        ] {
            assert!(last(&answers).is_some(), "{name}");
        }
    }

    #[test]
    fn comparing() {
        let mark = |revision| Mark { revision, digest: 0 };
        let log = [2, 3, 3, 5].map(mark);
        assert_eq!(compare(&log, &log), Ok(()));
        assert!(compare(&log[1..], &log).is_err());
        assert!(compare(&log[..3], &log).is_err());
        assert!(compare(&log, &log[..3]).is_err());
        assert_eq!(from(&log, 3), &log[1..]);
        assert_eq!(from(&log, 4), &log[3..]);
        assert_eq!(from(&log, 6), &[]);
    }
}
