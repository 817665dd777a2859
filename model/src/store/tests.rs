use alloc::vec::Vec;

use etcd_proxy_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

use super::*;
use crate::error::Error;
use crate::lease::Leases;

mod against_naive;
mod hashes;
mod ranges;
mod speed;
mod txns;

/// A store with its leases.
#[derive(Default)]
pub(super) struct World {
    pub(super) store: Store,
    pub(super) leases: Leases,
}

impl World {
    pub(super) fn writer(&mut self) -> Writer<'_> {
        Writer::new(&mut self.store, &mut self.leases)
    }

    pub(super) fn put(&mut self, key: &str, value: &str) {
        let request = PutRequest {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let mut writer = self.writer();
        writer.put(&request).unwrap();
        writer.finish();
    }

    pub(super) fn delete(&mut self, key: &str, range_end: &str) -> i64 {
        let request = DeleteRangeRequest {
            key: key.as_bytes().to_vec().into(),
            range_end: range_end.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let mut writer = self.writer();
        let response = writer.delete_range(&request);
        writer.finish();
        response.deleted
    }
}

pub(super) fn all() -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    }
}

/// `key@mod_revision` of puts, `-key@mod_revision` of deletes.
pub(super) fn events(store: &Store, from: i64) -> Vec<alloc::string::String> {
    let changes = store.changes(from, b"\0", b"\0");
    let text = changes.map(|(revision, event)| {
        let kv = event.kv.unwrap();
        assert_eq!(kv.mod_revision, revision);
        let sign = if event.r#type == 1 { "-" } else { "" };
        alloc::format!("{sign}{}@{revision}", core::str::from_utf8(&kv.key).unwrap())
    });
    text.collect()
}

#[test]
fn starts_at_revision_one_and_was_never_compacted() {
    let store = Store::new();
    assert_eq!(store.revision(), 1);
    assert_eq!(store.compacted(), -1);
    assert_eq!(store.range(&all()).unwrap().header.unwrap().revision, 1);
}

#[test]
fn what_changes_nothing_makes_no_revision() {
    let mut world = World::default();
    assert_eq!(world.delete("a", ""), 0);
    assert_eq!(world.delete("b", "a"), 0);
    assert_eq!(world.store.revision(), 1);
}

#[test]
fn compactions_and_their_errors() {
    let mut world = World::default();
    assert_eq!(world.store.compact(-1), Err(Error::Compacted));
    assert_eq!(world.store.compact(0), Ok(()));
    assert_eq!(world.store.compact(0), Err(Error::Compacted));
    world.put("a", "1");
    world.put("a", "2");
    assert_eq!(world.store.compact(4), Err(Error::FutureRevision));
    assert_eq!(world.store.compact(3), Ok(()));
    assert_eq!(world.store.compact(3), Err(Error::Compacted));
    assert_eq!(world.store.at(b"a", 2), None);
    assert_eq!(world.store.at(b"a", 3).unwrap().value, "2");
    let past = RangeRequest { revision: 2, ..all() };
    assert_eq!(world.store.range(&past), Err(Error::Compacted));
}

#[test]
fn what_is_left_of_the_compacted_revision() {
    let mut world = World::default();
    world.put("d", "1");
    let mut writer = world.writer();
    let put = |key: &'static str| PutRequest {
        key: key.into(),
        ..Default::default()
    };
    writer.put(&put("x")).unwrap();
    writer.put(&put("y")).unwrap();
    writer.delete("y".into());
    writer.delete("d".into());
    writer.finish();
    world.put("x", "1");
    assert_eq!(events(&world.store, 3), ["x@3", "y@3", "-y@3", "-d@3", "x@4"]);
    // As seen with etcd 3.5.30: what the same revision changed again is gone, deletes of that revision stay.
    world.store.compact(3).unwrap();
    assert_eq!(events(&world.store, 0), ["x@3", "-y@3", "-d@3", "x@4"]);
    world.store.compact(4).unwrap();
    assert_eq!(events(&world.store, 0), ["x@4"]);
    assert_eq!(world.store.size(), 2);
}

#[test]
fn size_follows_what_is_kept() {
    let mut world = World::default();
    world.put("key", "value");
    assert_eq!(world.store.size(), 8);
    world.put("key", "");
    assert_eq!(world.store.size(), 11);
    world.delete("key", "");
    assert_eq!(world.store.size(), 14);
    world.store.compact(4).unwrap();
    assert_eq!(world.store.size(), 3);
    world.put("other", "");
    world.store.compact(5).unwrap();
    assert_eq!(world.store.size(), 5);
}
