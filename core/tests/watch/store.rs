//! The history of a key space: what every watcher must see, and nothing else.

use std::collections::BTreeMap;

use etcd_proxy_proto::mvccpb::{Event, KeyValue, event::EventType};

/// What a cluster is called, if it isn't another one.
pub(crate) const CLUSTER: u64 = 77;

/// All that ever happened. Revision 1 is the empty store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) cluster: u64,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    /// With previous pairs, in the order of revisions.
    pub(crate) log: Vec<Event>,
    current: BTreeMap<Vec<u8>, KeyValue>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            cluster: CLUSTER,
            revision: 1,
            compacted: 0,
            log: Vec::new(),
            current: BTreeMap::new(),
        }
    }

    /// One revision that changes these keys: a put if there is a value, else a delete if there is such a key.
    pub(crate) fn write(&mut self, changes: &[(&str, Option<&str>)]) -> i64 {
        let revision = self.revision + 1;
        let before = self.log.len();
        for (key, value) in changes {
            let prev = self.current.get(key.as_bytes()).cloned();
            let (kind, kv) = match value {
                Some(value) => {
                    let kv = KeyValue {
                        key: key.as_bytes().to_vec().into(),
                        create_revision: prev.as_ref().map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: prev.as_ref().map_or(1, |kv| kv.version + 1),
                        value: value.as_bytes().to_vec().into(),
                        lease: 0,
                    };
                    self.current.insert(key.as_bytes().to_vec(), kv.clone());
                    (EventType::Put, kv)
                }
                None if prev.is_some() => {
                    self.current.remove(key.as_bytes());
                    let kv = KeyValue {
                        key: key.as_bytes().to_vec().into(),
                        mod_revision: revision,
                        ..KeyValue::default()
                    };
                    (EventType::Delete, kv)
                }
                None => continue,
            };
            self.log.push(Event {
                r#type: kind.into(),
                kv: Some(kv),
                prev_kv: prev,
            });
        }
        if self.log.len() > before {
            self.revision = revision;
        }
        self.revision
    }
}

pub(crate) fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// Whether a range of a request has a key; written down once more, not the core's.
pub(crate) fn has_key(key: &[u8], end: &[u8], asked: &[u8]) -> bool {
    let key = if key.is_empty() { b"\0" } else { key };
    match end {
        b"" => asked == key,
        b"\0" => asked >= key,
        _ => key <= asked && asked < end,
    }
}

pub(crate) fn matches(key: &[u8], end: &[u8], event: &Event) -> bool {
    event.kv.as_ref().is_some_and(|kv| has_key(key, end, &kv.key))
}
