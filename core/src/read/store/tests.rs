use alloc::string::ToString as _;

use etcd_proxy_proto::etcdserverpb::RangeRequest;
use fastrand::Rng;
use prost::Message as _;

use super::*;
use crate::range::KeyRange;

const CAPACITY: usize = 1 << 17;

fn ident(key: &[u8], end: &[u8], revision: i64) -> Vec<u8> {
    let request = RangeRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        revision,
        ..RangeRequest::default()
    };
    let mut ident = Vec::new();
    request::identify(&request.encode_to_vec(), &mut ident).expect("prost writes well");
    ident
}

/// Any function will do, if it isn't too bad.
fn hash(ident: &[u8]) -> u64 {
    siphasher::sip::SipHasher13::new_with_keys(1, 2).hash(ident)
}

fn put(store: &mut Store, ident: &[u8], body: usize, at: i64) -> usize {
    let revision = revision_of(ident);
    let evicted = store.put(
        (hash(ident), ident, revision),
        &vec![0; body],
        (at, Some(Instant::ZERO)),
    );
    store.check();
    evicted
}

/// Only of those that `ident` above makes.
fn revision_of(ident: &[u8]) -> i64 {
    let numbers = ident.len() - 2;
    if ident[numbers..] == [0, 0] {
        return 0;
    }
    i64::from_le_bytes(ident[numbers - 8..numbers].try_into().expect("eight of them"))
}

fn key(number: usize) -> Vec<u8> {
    ident(number.to_string().as_bytes(), b"", 0)
}

impl Store {
    fn has(&self, ident: &[u8]) -> bool {
        self.find(hash(ident), ident).is_some()
    }

    /// Every part of it tells of the same entries.
    fn check(&self) {
        assert!(
            self.bytes() <= self.bytes_max || self.len() == 0,
            "{} bytes",
            self.bytes()
        );
        let ids = self.entries.ids();
        let mut queued = Vec::new();
        for (queue, is_main) in [(self.small, false), (self.main, true)] {
            let (mut at, mut newer, mut bytes) = (queue.newest, NONE, 0);
            while at != NONE {
                let entry = &self.entries[at];
                assert_eq!((entry.is_main, entry.newer), (is_main, newer));
                bytes += entry.weight();
                queued.push(at);
                (newer, at) = (at, entry.older);
            }
            assert_eq!((queue.oldest, queue.bytes), (newer, bytes));
        }
        queued.sort_unstable();
        assert_eq!(queued, ids);
        assert_eq!(self.table.len(), ids.len());
        let mut indexed = Vec::new();
        let everything = KeyRange::everything();
        let span = Span::of_range(&everything).expect("there are some");
        self.tree.find(&self.entries, span, &mut indexed);
        indexed.extend(self.fixed.iter().map(|(_, id)| *id));
        indexed.sort_unstable();
        let has_keys = |id: &u32| {
            let entry = &self.entries[*id];
            entry.is_fixed() || request::span_of(&entry.ident).is_some()
        };
        assert_eq!(indexed, ids.into_iter().filter(has_keys).collect::<Vec<_>>());
    }
}

#[test]
fn all_parts_agree_whatever_happens() {
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let mut store = Store::new(CAPACITY, seed);
        for step in 0..1500 {
            let one = [b'a' + rng.u8(..26), b'a' + rng.u8(..26)];
            let two = [b'a' + rng.u8(..26)];
            match rng.u8(..20) {
                0 => {
                    let range = KeyRange::new(one.to_vec().into(), two.to_vec().into());
                    if let Some(span) = Span::of_range(&range) {
                        let before = rng.i64(..1500);
                        store.remove_changed(span, before);
                        for id in store.entries.ids() {
                            let entry = store.entry(id);
                            let (key, end) = request::keys_of(&entry.ident);
                            let is_single = end.is_empty() && !entry.is_fixed();
                            assert!(!(is_single && range.contains(key) && entry.at < before));
                        }
                    }
                }
                1 => {
                    let revision = rng.i64(..200);
                    store.remove_compacted(revision);
                    assert!(store.fixed.iter().all(|(kept, _)| *kept > revision));
                }
                2 if rng.u8(..20) == 0 => {
                    store.clear();
                    assert_eq!(store.len(), 0);
                }
                3..8 => {
                    if let Some(id) = rng.choice(store.entries.ids()) {
                        store.count_hit(id);
                    }
                }
                kind => {
                    let ident = match kind {
                        8 | 9 => ident(&one, b"", rng.i64(1..200)),
                        10 => ident(&one, b"\0", 0),
                        11 | 12 => ident(&one, &two, 0),
                        _ => ident(&one, b"", 0),
                    };
                    let body = rng.usize(..1500);
                    assert!(store.has_room_for(ident.len(), body));
                    put(&mut store, &ident, body, step);
                    assert!(store.has(&ident), "what was put last is there");
                }
            }
            store.check();
        }
    }
}

/// Keys that are read again and again stay when very many others are read once.
#[test]
fn a_scan_displaces_little() {
    let mut store = Store::new(CAPACITY, 1);
    let read = |store: &mut Store, ident: &[u8]| match store.find(hash(ident), ident) {
        Some(id) => {
            store.count_hit(id);
            true
        }
        None => {
            put(store, ident, 100, 1);
            false
        }
    };
    let mut misses = 0;
    for number in 0..20_000 {
        read(&mut store, &key(number));
        // A hundred of them, one for every key of the scan.
        misses += usize::from(!read(&mut store, &key(1_000_000 + number % 100)));
    }
    assert!(misses < 120, "{misses}");
    assert!(store.len() > 300, "{}", store.len());
}

/// What comes back soon after it was displaced unread is taken for what is read again.
#[test]
fn what_comes_back_is_kept() {
    let mut store = Store::new(CAPACITY, 1);
    put(&mut store, &key(1), 100, 1);
    let mut number = 1000;
    while store.has(&key(1)) {
        number += 1;
        put(&mut store, &key(number), 100, 1);
    }
    put(&mut store, &key(1), 100, 1);
    for number in 0..300 {
        put(&mut store, &key(2000 + number), 100, 1);
    }
    assert!(store.has(&key(1)));
}

/// Large answers make room for themselves, and don't push out many small ones that are read.
#[test]
fn bytes_count_not_entries() {
    let mut store = Store::new(CAPACITY, 1);
    assert!(!store.has_room_for(20, CAPACITY / 64));
    for number in 0..100 {
        put(&mut store, &key(number), 10, 1);
        let id = store.find(hash(&key(number)), &key(number)).expect("it is there");
        store.count_hit(id);
    }
    for number in 100..1000 {
        put(&mut store, &key(number), 1500, 1);
    }
    let kept = (0..100).filter(|number| store.has(&key(*number))).count();
    assert_eq!(kept, 100);
    assert!(store.bytes() > CAPACITY * 9 / 10);
}

#[test]
fn the_newer_answer_stays() {
    let mut store = Store::new(CAPACITY, 1);
    let ident = key(1);
    put(&mut store, &ident, 10, 5);
    put(&mut store, &ident, 20, 4);
    let at = |store: &Store| {
        let entry = store.entry(store.find(hash(&ident), &ident).expect("it is there"));
        (entry.body.len(), entry.at)
    };
    assert_eq!(at(&store), (10, 5));
    put(&mut store, &ident, 30, 6);
    assert_eq!((at(&store), store.len()), ((30, 6), 1));
    let everything = KeyRange::everything();
    let span = Span::of_range(&everything).expect("there are some");
    assert_eq!(store.remove_changed(span, 6), 0, "it was read at this revision");
    assert_eq!(store.remove_changed(span, 7), 1);
}

/// A tiny cache keeps nothing, and does no harm.
#[test]
fn no_bytes_at_all() {
    for bytes_max in [0, 1, 100] {
        let mut store = Store::new(bytes_max, 1);
        assert!(!store.has_room_for(8, 0));
        let ident = key(1);
        store.put((hash(&ident), &ident, 0), b"body", (1, Some(Instant::ZERO)));
        assert_eq!(store.len(), 0);
    }
}

/// When all entries are gone, so is what they took.
#[test]
fn nothing_is_left_behind() {
    let mut store = Store::new(CAPACITY, 1);
    let before = store.bytes();
    for number in 0..1000 {
        put(&mut store, &key(number), 10, 1);
    }
    assert!(store.bytes() > CAPACITY / 2);
    let everything = KeyRange::everything();
    let span = Span::of_range(&everything).expect("there are some");
    assert!(store.remove_changed(span, 2) > PLACES_KEPT);
    store.check();
    assert_eq!((store.len(), store.bytes()), (0, before));
    put(&mut store, &key(1), 10, 1);
    assert!(store.has(&key(1)));
}
