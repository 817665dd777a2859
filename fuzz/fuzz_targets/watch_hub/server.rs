//! What servers say, right or wrong, and what they are asked.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use etcd_proxy_core::watch::{Event, UpstreamId, UpstreamKind};

use crate::Driver;
use crate::client::Range;
use crate::grammar::{KEYS, REASONS, Response, WatchId, event, header, one_of};
use crate::pick;
use crate::wire::{self, Writer};

/// A Watch call to a server.
pub(crate) struct Stream {
    pub(crate) kind: UpstreamKind,
    pub(crate) credentials: Option<Bytes>,
    /// Create requests without answer.
    pub(crate) creating: VecDeque<(i64, Range)>,
    /// Watch ids with their ranges, also those that are cancelled.
    pub(crate) watching: BTreeMap<i64, Range>,
    /// The last message from it, if one came.
    pub(crate) said: Option<Vec<u8>>,
}

impl Stream {
    pub(crate) fn take(&mut self, message: &[u8]) {
        let create = wire::bytes(message, 1);
        if !create.is_empty() {
            assert!(wire::number(create, 3) >= 0, "the hub knows where it is");
            let watch_id = wire::number(create, 7);
            let is_new = self.creating.iter().all(|(known, _)| *known != watch_id);
            assert!(is_new && watch_id > 0 && !self.watching.contains_key(&watch_id));
            let range = Range::new(wire::bytes(create, 1), wire::bytes(create, 2));
            self.creating.push_back((watch_id, range));
        }
    }
}

impl Driver {
    pub(crate) fn put(&mut self, upstream: u8, key: u8, delete: bool, bytes: u8) {
        let Some(id) = self.stream(upstream) else {
            return;
        };
        self.revision = self.revision.saturating_add(1);
        let key = one_of(&KEYS, key);
        let watching = self.streams[&id].watching.iter();
        let watching = watching.filter(|(_, range)| range.contains(key.as_bytes()));
        let watching: Vec<i64> = watching.map(|(watch_id, _)| *watch_id).collect();
        for watch_id in watching {
            let mut message = Writer::default();
            header(&mut message, self.revision);
            message.number(2, watch_id);
            event(&mut message, key, self.revision, delete, bytes, false);
            // What it says first may end it.
            if self.streams.contains_key(&id) {
                self.upstream_sent(id, message.0);
            }
        }
    }

    pub(crate) fn server_created(&mut self, upstream: u8) {
        let Some(id) = self.stream(upstream) else {
            return;
        };
        let stream = self.streams.get_mut(&id).expect("just chosen");
        if let Some((watch_id, range)) = stream.creating.pop_front() {
            stream.watching.insert(watch_id, range);
            let mut message = Writer::default();
            header(&mut message, self.revision);
            message.number(2, watch_id).number(3, 1);
            self.upstream_sent(id, message.0);
        }
    }

    pub(crate) fn server_progress(&mut self, upstream: u8) {
        if let Some(id) = self.stream(upstream) {
            let mut message = Writer::default();
            header(&mut message, self.revision);
            message.number(2, -1);
            self.upstream_sent(id, message.0);
        }
    }

    pub(crate) fn upstream_sent(&mut self, id: UpstreamId, message: Vec<u8>) {
        self.streams.get_mut(&id).expect("it is open").said = Some(message.clone());
        self.tell(Event::UpstreamSent(id, message.into()));
    }

    pub(crate) fn response(&mut self, id: UpstreamId, response: &Response) -> Vec<u8> {
        let watch_id = match response.watch_id {
            WatchId::Known(which) => {
                let stream = &self.streams[&id];
                let creating = stream.creating.iter().map(|(watch_id, _)| *watch_id);
                let known: Vec<i64> = creating.chain(stream.watching.keys().copied()).collect();
                pick(&known, which).map_or(0, |index| known[index])
            }
            WatchId::NoWatcher => -1,
            WatchId::Raw(watch_id) => watch_id,
        };
        let mut message = Writer::default();
        if let Some(revision) = response.header {
            header(&mut message, self.resolve(revision));
        }
        message.number(2, watch_id);
        message.number(3, response.created.into());
        message.number(4, response.canceled.into());
        if let Some(revision) = response.compacted {
            message.number(5, self.resolve(revision));
        }
        if response.canceled {
            message.bytes(6, one_of(&REASONS, response.reason).as_bytes());
        }
        message.number(7, response.fragment.into());
        for said in &response.events {
            let revision = self.resolve(said.revision);
            let key = one_of(&KEYS, said.key);
            event(&mut message, key, revision, said.delete, said.bytes, said.prev);
        }
        let mut message = message.0;
        if let Some((at, byte)) = response.damage
            && let Some(at) = usize::from(at).checked_rem(message.len())
        {
            match byte {
                Some(byte) => message[at] = byte,
                None => message.truncate(at),
            }
        }
        message
    }
}
