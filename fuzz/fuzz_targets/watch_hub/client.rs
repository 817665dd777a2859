//! A client, and what holds of all that it is sent, whatever servers say.

use std::collections::{BTreeMap, VecDeque};

use etcd_proxy_core::watch::{ClientId, Frame};

use crate::grammar::{Create, RANGES, one_of};
use crate::wire::{bytes, number, repeated};

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) is_paused: bool,
    /// Bytes that it hasn't taken.
    pub(crate) queued: usize,
    /// It has sent anything that isn't known to be a request: what it asked for isn't known any more.
    pub(crate) is_odd: bool,
    /// Create requests without answer.
    pub(crate) creating: VecDeque<Wanted>,
    pub(crate) watching: BTreeMap<i64, Wanted>,
    /// The highest revision in a header.
    revision: i64,
    /// The last frame was no last fragment, and of this watcher.
    split: Option<i64>,
}

/// What was asked for, and what is to come.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    range: Range,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    fragment: bool,
    notify: bool,
    /// No event has a lower revision. 0 before it is created, if it is to begin with what follows.
    next: i64,
}

/// The keys of a watch request.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    key: Vec<u8>,
    end: Vec<u8>,
}

impl Range {
    pub(crate) fn new(key: &[u8], end: &[u8]) -> Self {
        Self {
            key: if key.is_empty() { vec![0] } else { key.into() },
            end: end.into(),
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match &self.end[..] {
            b"" => key == self.key,
            b"\0" => key >= &self.key[..],
            end => (&self.key[..]..end).contains(&key),
        }
    }
}

impl Wanted {
    pub(crate) fn of(create: &Create, revision: i64) -> Self {
        let (key, end) = one_of(&RANGES, create.range);
        Self {
            range: Range::new(key.as_bytes(), end.as_bytes()),
            no_put: create.filters().any(|filter| filter == 0),
            no_delete: create.filters().any(|filter| filter == 1),
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            notify: create.progress_notify,
            next: create.start(revision),
        }
    }

    /// Takes an event; answers its revision.
    fn take(&self, event: &[u8], has_lied: bool) -> i64 {
        // Parts of the same message are as good as one after the other.
        let pair = repeated(event, 2).concat();
        // The hub passes on what a server says, and looks only at what it needs.
        if !has_lied {
            assert!(
                self.range.contains(bytes(&pair, 1)),
                "isn't watched: {event:?} {self:?}"
            );
            assert!(self.prev_kv || bytes(event, 3).is_empty(), "nobody asked for it");
        }
        let is_delete = number(event, 1) == 1;
        let is_unwanted = if is_delete { self.no_delete } else { self.no_put };
        assert!(!is_unwanted, "{event:?} {self:?}");
        number(&pair, 3)
    }
}

impl Client {
    pub(crate) const fn new(id: ClientId) -> Self {
        Self {
            id,
            is_paused: false,
            queued: 0,
            is_odd: false,
            creating: VecDeque::new(),
            watching: BTreeMap::new(),
            revision: 0,
            split: None,
        }
    }

    /// Looks at a frame as it is put into the outbox, which holds `outbox_max` and one more. `has_lied`: of the servers.
    pub(crate) fn see(&mut self, frame: &Frame, outbox_max: usize, has_lied: bool) {
        let message = [&frame.head[..], &frame.tail[..]].concat();
        let length = u32::try_from(message.len() - 5).expect("small");
        assert_eq!(message[0], 0);
        assert_eq!(message[1..5], length.to_be_bytes());
        let message = &message[5..];
        let before = self.queued;
        self.queued += frame.len();

        let revision = number(bytes(message, 1), 3);
        let id = number(message, 2);
        let (created, canceled) = (number(message, 3) != 0, number(message, 4) != 0);
        let compacted = number(message, 5);
        let is_fragment = number(message, 7) != 0;
        let events = repeated(message, 11);
        let has_none = canceled && (compacted > 0 || created && revision == 0);
        if !has_none {
            assert!(revision >= self.revision, "headers went back");
            self.revision = revision;
        }
        if self.is_odd {
            return;
        }
        let split = self.split.take();
        assert!(
            split.is_none_or(|split| split == id && !events.is_empty()),
            "something came between fragments"
        );
        if created {
            let wanted = self.creating.pop_front().expect("created when asked for, once");
            assert!(events.is_empty() && compacted == 0);
            if canceled {
                assert_eq!(id, -1);
            } else {
                let follows = revision.saturating_add(1);
                let next = if wanted.next == 0 { follows } else { wanted.next };
                let before = self.watching.insert(id, Wanted { next, ..wanted });
                assert!(before.is_none(), "the id is taken");
            }
        } else if canceled {
            assert!(events.is_empty());
            assert!(self.watching.remove(&id).is_some(), "there is no such watcher");
        } else if events.is_empty() {
            assert!(!is_fragment);
            if id == -1 {
                assert!(self.creating.is_empty() && !self.watching.is_empty());
            } else {
                assert!(self.watching[&id].notify);
            }
            for (other, wanted) in &mut self.watching {
                if id == -1 || id == *other {
                    wanted.next = wanted.next.max(revision.saturating_add(1));
                }
            }
        } else {
            assert!(before < outbox_max || split.is_some(), "the outbox was full");
            let wanted = self
                .watching
                .get_mut(&id)
                .expect("it is created and not cancelled");
            let mut last = wanted.next;
            for event in events {
                let at = wanted.take(event, has_lied);
                assert!(at >= last, "revision {at}, but it has had those before {last}");
                last = at;
            }
            assert!(revision >= last, "the header is older than its events");
            assert!(!is_fragment || wanted.fragment, "nobody asked for fragments");
            wanted.next = if is_fragment { last } else { last.saturating_add(1) };
            self.split = is_fragment.then_some(id);
        }
    }
}
