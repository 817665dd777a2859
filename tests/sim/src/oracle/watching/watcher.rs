//! What one watcher must see: exactly the changes of its range, from its start, in order, once.

use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchResponse, watch_create_request::FilterType};
use etcd_proxy_proto::mvccpb::{Event, event::EventType};

use crate::oracle::ledger::{Ledger, Logged};

/// A watcher that a client asked for.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    pub(crate) request: WatchCreateRequest,
    pub(super) asked: Instant,
    /// The store's revision when it was asked for.
    pub(super) asked_at: i64,
    /// When it was created; until then, when it was asked for.
    pub(super) created: Instant,
    /// The first revision that hasn't come completely.
    pub(super) next: i64,
    /// Events of revision `next` that have come already, in fragments.
    part: usize,
    /// Up to here nothing is to come.
    quiet_to: i64,
    /// Events that have come.
    pub(super) events: u64,
    /// The client has asked for its end since it was told of its creation.
    pub(super) is_cancelled: bool,
}

impl Watcher {
    pub(super) fn new(now: Instant, revision: i64, request: WatchCreateRequest) -> Self {
        Self {
            asked: now,
            asked_at: revision,
            created: now,
            next: request.start_revision,
            part: 0,
            quiet_to: 0,
            events: 0,
            is_cancelled: false,
            request,
        }
    }

    /// Whether there can be no key in its range.
    pub(super) fn is_empty_range(&self) -> bool {
        let (key, end) = self.bounds();
        !end.is_empty() && end != b"\0" && end <= key
    }

    fn bounds(&self) -> (&[u8], &[u8]) {
        let key: &[u8] = if self.request.key.is_empty() {
            b"\0"
        } else {
            &self.request.key
        };
        (key, &self.request.range_end)
    }

    /// Its range as a permission for it is asked for.
    pub(super) fn range(&self) -> (&[u8], &[u8]) {
        self.bounds()
    }

    fn wants(&self, logged: &Logged) -> bool {
        let (key, end) = self.bounds();
        let changed: &[u8] = logged.event.kv.as_ref().map_or(b"", |kv| &kv.key);
        let within = match end {
            b"" => changed == key,
            b"\0" => changed >= key,
            end => key <= changed && changed < end,
        };
        let filter = match logged.event.r#type() {
            EventType::Put => FilterType::Noput,
            EventType::Delete => FilterType::Nodelete,
        };
        within && !self.request.filters.contains(&filter.into())
    }

    fn to_come<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = &'a Logged> {
        let changes = ledger.changes_from(self.next).iter();
        changes.filter(|logged| self.wants(logged)).skip(self.part)
    }

    /// It is created, at a revision. A watcher from now on begins right after it.
    pub(super) fn begins(&mut self, now: Instant, revision: i64) {
        self.created = now;
        if self.request.start_revision == 0 {
            self.next = revision + 1;
        }
    }

    /// Takes in events: they are the next ones, and whole revisions unless the client takes fragments.
    pub(super) fn take(&mut self, ledger: &Ledger, response: &WatchResponse) -> Result<(), String> {
        ensure!(
            self.request.fragment || !response.fragment,
            "a fragment for who didn't ask for them: {self:?}"
        );
        let mut to_come = self.to_come(ledger).peekable();
        let mut last = 0;
        for event in &response.events {
            let Some(expected) = to_come.next() else {
                return Err(format!("nothing is to come, and {event:?} comes: {self:?}"));
            };
            last = expected.revision;
            let is_that = event.r#type == expected.event.r#type && event.kv == expected.event.kv;
            ensure!(
                is_that,
                "{:?} is to come next, and {event:?} comes: {self:?}",
                expected.event
            );
            self.is_true_previous(ledger, event)?;
        }
        let is_split = to_come.peek().is_some_and(|logged| logged.revision == last);
        ensure!(
            !is_split || response.fragment,
            "revision {last} is split: {self:?}"
        );
        drop(to_come);
        self.events += response.events.len() as u64;
        if is_split {
            let here = response.events.iter().filter(|event| revision_of(event) == last);
            self.part = here.count() + if self.next == last { self.part } else { 0 };
            self.next = last;
        } else {
            self.part = 0;
            self.next = last + 1;
        }
        Ok(())
    }

    /// The previous pair is there if it was asked for and there was one, unless it was compacted.
    fn is_true_previous(&self, ledger: &Ledger, event: &Event) -> Result<(), String> {
        let Some(kv) = &event.kv else { return Ok(()) };
        let before = kv.mod_revision - 1;
        let previous = ledger.at(&kv.key, before).filter(|_| self.request.prev_kv);
        let may_lack = before < ledger.compacted();
        ensure!(
            event.prev_kv.as_ref() == previous || may_lack && event.prev_kv.is_none(),
            "{event:?} follows on {previous:?}: {self:?}"
        );
        Ok(())
    }

    /// Who is cut off now and goes on behind the revision of the header misses nothing.
    pub(super) fn goes_on_behind(&self, ledger: &Ledger, revision: i64) -> Result<(), String> {
        if let Some(missed) = self.to_come(ledger).next() {
            ensure!(
                missed.revision > revision,
                "whoever goes on behind {revision} misses {missed:?}: {self:?}"
            );
        }
        Ok(())
    }

    /// It is told of progress: everything up to this revision has come.
    pub(super) fn reaches(&mut self, ledger: &Ledger, revision: i64) -> Result<(), String> {
        if let Some(missing) = self.to_come(ledger).next() {
            ensure!(
                missing.revision > revision,
                "progress to {revision}, but {missing:?} hasn't come: {self:?}"
            );
        }
        ensure!(
            self.request.start_revision <= revision,
            "progress to {revision} before its start: {self:?}"
        );
        if revision >= self.next {
            (self.next, self.part) = (revision + 1, 0);
        }
        Ok(())
    }

    /// When the next change was committed that is to come.
    pub(super) fn waits_since(&mut self, ledger: &Ledger) -> Option<Instant> {
        let from = self.next.max(self.quiet_to + 1);
        let changes = ledger.changes_from(from).iter();
        let part = if from == self.next { self.part } else { 0 };
        let mut wanted = changes.filter(|logged| self.wants(logged)).skip(part);
        match wanted.next() {
            Some(logged) => Some(logged.at),
            None => {
                drop(wanted);
                self.quiet_to = ledger.revision();
                None
            }
        }
    }
}

pub(super) fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
