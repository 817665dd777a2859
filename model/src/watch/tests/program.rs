//! Generated programs against a naive history.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use etcd_proxy_proto::etcdserverpb::{
    WatchCreateRequest, WatchResponse, request_op::Request as Operation, watch_create_request::FilterType,
};
use etcd_proxy_proto::mvccpb::{Event, KeyValue, event::EventType};
use proptest::prelude::*;

use super::{World, delete, put, txn};

const KEYS: [&str; 4] = ["a", "aa", "b", "c"];
const RANGES: [(&str, &str); 6] = [
    ("a", ""),
    ("b", ""),
    ("a", "b"),
    ("aa", "c"),
    ("b", "\0"),
    ("", "\0"),
];

#[derive(Clone, Debug)]
enum Step {
    Cancel(usize),
    Compact(usize),
    Create {
        range: usize,
        /// Before the current revision; None for 0.
        back: Option<i64>,
        id: i64,
        no_put: bool,
        no_delete: bool,
        prev_kv: bool,
        fragment: bool,
    },
    Pass(u64),
    Progress,
    Take(usize),
    /// One bit a key: which are put, and which of the others deleted.
    Write(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let write = || (1_u8..16, 0_u8..16).prop_map(|(puts, deletes)| Step::Write(puts, deletes));
    let back = prop_oneof![Just(None), (-3_i64..12).prop_map(Some)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let create = (0..RANGES.len(), back, 0_i64..4, flags).prop_map(|(range, back, id, flags)| Step::Create {
        range,
        back,
        id,
        no_put: flags.0 && flags.1,
        no_delete: flags.0 && !flags.1,
        prev_kv: flags.2,
        fragment: flags.3,
    });
    prop_oneof![
        1 => (0_usize..4).prop_map(Step::Cancel),
        1 => (0_usize..8).prop_map(Step::Compact),
        3 => create,
        2 => (1_u64..200).prop_map(Step::Pass),
        1 => Just(Step::Progress),
        3 => (1_usize..6).prop_map(Step::Take),
        8 => write(),
    ]
}

/// What the client knows of one of its watchers.
#[derive(Debug)]
struct Seen {
    range: (&'static str, &'static str),
    filters: Vec<i32>,
    prev_kv: bool,
    fragment: bool,
    /// The next revision of interest.
    next: i64,
    /// Events of that revision which earlier fragments brought.
    part: usize,
    ended: bool,
}

#[derive(Default)]
struct Client {
    /// Every change there ever was, with the value before it.
    history: BTreeMap<i64, Vec<Event>>,
    current: BTreeMap<Vec<u8>, KeyValue>,
    watchers: BTreeMap<i64, Seen>,
    /// What creations and cancellations are to be answered with, in order.
    answers: VecDeque<Answer>,
    compacted: i64,
}

#[derive(Debug)]
enum Answer {
    Canceled { id: i64, revision: i64 },
    Created { id: i64, revision: i64, seen: Seen },
    Refused,
}

impl Client {
    fn record(&mut self, world: &World) {
        let from = self
            .history
            .last_key_value()
            .map_or(2, |(revision, _)| revision + 1);
        for (revision, mut event) in world.state.store().changes(from, b"\0", b"\0") {
            let kv = event.kv.clone().expect("an event has a key");
            event.prev_kv = self.current.remove(&kv.key[..]);
            if event.r#type() == EventType::Put {
                self.current.insert(kv.key.to_vec(), kv);
            }
            self.history.entry(revision).or_default().push(event);
        }
    }

    /// The events that a watcher is to get from where it is, until a revision.
    fn wanted(&self, seen: &Seen, until: i64) -> Vec<Event> {
        let (first, end) = seen.range;
        let first = if first.is_empty() { "\0" } else { first };
        let inside = |key: &[u8]| match end {
            "" => key == first.as_bytes(),
            "\0" => key >= first.as_bytes(),
            end => key >= first.as_bytes() && key < end.as_bytes(),
        };
        let wanted = |event: &&Event| {
            let filter = match event.r#type() {
                EventType::Put => FilterType::Noput,
                EventType::Delete => FilterType::Nodelete,
            };
            let key = &event.kv.as_ref().expect("an event has a key").key;
            inside(key) && !seen.filters.contains(&filter.into())
        };
        if until < seen.next {
            return Vec::new();
        }
        let events = self
            .history
            .range(seen.next..=until)
            .flat_map(|(_, events)| events);
        events.filter(wanted).skip(seen.part).cloned().collect()
    }

    fn receive(&mut self, response: &WatchResponse) {
        let id = response.watch_id;
        let revision = response
            .header
            .as_ref()
            .expect("every response has a header")
            .revision;
        if response.created {
            assert!(response.events.is_empty());
            match self.answers.pop_front() {
                Some(Answer::Created {
                    id: expected,
                    revision: at,
                    seen,
                }) => {
                    assert_eq!((id, revision, response.canceled), (expected, at, false));
                    assert!(self.watchers.insert(id, seen).is_none());
                }
                Some(Answer::Refused) => assert_eq!((id, response.canceled), (-1, true)),
                other => panic!("{response:?} instead of {other:?}"),
            }
            return;
        }
        if id == -1 {
            // Whoever has started has everything.
            for seen in self.watchers.values() {
                assert!(
                    !seen.ended && self.wanted(seen, revision).is_empty(),
                    "{seen:?} at {revision}"
                );
            }
            return;
        }
        if response.compact_revision != 0 {
            let seen = self.watchers.get_mut(&id).expect("it was created");
            assert!(response.canceled && revision == 0 && !seen.ended && seen.part == 0);
            assert!(seen.next < response.compact_revision && response.compact_revision <= self.compacted);
            seen.ended = true;
            return;
        }
        if response.canceled {
            match self.answers.pop_front() {
                Some(Answer::Canceled {
                    id: expected,
                    revision: at,
                }) => {
                    assert_eq!((id, revision), (expected, at));
                    assert!(self.watchers.remove(&id).is_some());
                }
                other => panic!("{response:?} instead of {other:?}"),
            }
            return;
        }
        self.receive_events(response, revision);
    }

    fn receive_events(&mut self, response: &WatchResponse, revision: i64) {
        let seen = &self.watchers[&response.watch_id];
        assert!(!seen.ended && !response.events.is_empty());
        let revision_of = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let last = revision_of(&response.events[response.events.len() - 1]);
        assert!(last <= revision);
        let wanted = self.wanted(seen, last);
        let (got, rest) = wanted
            .split_at_checked(response.events.len())
            .expect("nothing is sent twice");
        for (event, expected) in response.events.iter().zip(got) {
            assert_eq!((event.r#type(), &event.kv), (expected.r#type(), &expected.kv));
            match &event.prev_kv {
                Some(_) => assert!(seen.prev_kv && event.prev_kv == expected.prev_kv),
                // What is asked for may be compacted.
                None => assert!(
                    !seen.prev_kv || expected.prev_kv.is_none() || revision_of(event) - 1 < self.compacted
                ),
            }
        }
        assert!(rest.is_empty() || response.fragment, "a revision is split");
        assert!(!response.fragment || seen.fragment);
        let part = wanted.len() - rest.len();
        let of_last = got.iter().filter(|event| revision_of(event) == last).count();
        let continued = if seen.next == last { seen.part } else { 0 };
        let seen = self
            .watchers
            .get_mut(&response.watch_id)
            .expect("it was there above");
        assert_eq!(part, got.len());
        (seen.next, seen.part) = if rest.is_empty() {
            (last + 1, 0)
        } else {
            (last, continued + of_last)
        };
    }
}

/// The ids that are taken on the server, and the next it gives.
#[derive(Default)]
struct Ids {
    taken: Vec<i64>,
    next: i64,
}

impl Ids {
    fn take(&mut self, asked: i64) -> Option<i64> {
        let id = if asked == 0 {
            while self.taken.contains(&self.next) {
                self.next += 1;
            }
            self.next += 1;
            self.next - 1
        } else if self.taken.contains(&asked) {
            return None;
        } else {
            asked
        };
        self.taken.push(id);
        Some(id)
    }
}

fn create(world: &mut World, client: &mut Client, ids: &mut Ids, step: &Step) {
    let &Step::Create {
        range,
        back,
        id,
        no_put,
        no_delete,
        prev_kv,
        fragment,
    } = step
    else {
        unreachable!("only called with creations");
    };
    let revision = world.state.store().revision();
    let start_revision = back.map_or(0, |back| (revision - back).max(1));
    let mut filters = Vec::new();
    if no_put {
        filters.push(FilterType::Noput.into());
    }
    if no_delete {
        filters.push(FilterType::Nodelete.into());
    }
    let range = RANGES[range];
    let answer = match ids.take(id) {
        None => Answer::Refused,
        Some(id) => Answer::Created {
            id,
            revision,
            seen: Seen {
                range,
                filters: filters.clone(),
                prev_kv,
                fragment,
                next: if start_revision == 0 {
                    revision + 1
                } else {
                    start_revision
                },
                part: 0,
                ended: false,
            },
        },
    };
    client.answers.push_back(answer);
    world.create(WatchCreateRequest {
        key: range.0.into(),
        range_end: range.1.into(),
        start_revision,
        filters,
        prev_kv,
        watch_id: id,
        fragment,
        ..Default::default()
    });
}

fn receive_all(world: &mut World, client: &mut Client) {
    for response in world.responses() {
        client.receive(&response);
    }
}

fn play(buffer_max: usize, response_bytes_max: usize, steps: &[Step]) {
    let mut world = World::new(buffer_max, response_bytes_max);
    let (mut client, mut ids) = (Client::default(), Ids::default());
    client.compacted = -1;
    for step in steps {
        match step {
            Step::Cancel(which) => {
                let Some(&id) = ids.taken.get(*which) else {
                    continue;
                };
                ids.taken.remove(*which);
                let revision = world.state.store().revision();
                client.answers.push_back(Answer::Canceled { id, revision });
                world.cancel(id);
            }
            Step::Compact(back) => {
                let revision = world.state.store().revision() - i64::try_from(*back).expect("a small number");
                if revision > client.compacted.max(1) {
                    client.compacted = revision;
                    world.compact(revision);
                }
            }
            Step::Create { .. } => create(&mut world, &mut client, &mut ids, step),
            Step::Pass(millis) => world.pass(Duration::from_millis(*millis)),
            Step::Progress => world.progress(),
            Step::Take(count) => {
                for _ in 0..*count {
                    let response = world.pump(true);
                    response.iter().for_each(|response| client.receive(response));
                }
            }
            Step::Write(puts, deletes) => {
                let operations = KEYS.iter().enumerate().filter_map(|(i, key)| {
                    if puts >> i & 1 == 1 {
                        Some(Operation::RequestPut(put(key, "value")))
                    } else {
                        (deletes >> i & 1 == 1).then(|| Operation::RequestDeleteRange(delete(key)))
                    }
                });
                world.apply(txn(operations));
                client.record(&world);
            }
        }
    }
    // In the end everybody has everything, or was told that it is gone.
    let rounds = (0..1000).take_while(|_| {
        receive_all(&mut world, &mut client);
        world.pass(Duration::from_millis(100));
        !client.answers.is_empty() || world.stream.next_timeout().is_some() || !world.stream.held.is_empty()
    });
    assert!(rounds.count() < 1000, "it never ends");
    receive_all(&mut world, &mut client);
    let revision = world.state.store().revision();
    for (id, seen) in &client.watchers {
        assert!(
            seen.ended || client.wanted(seen, revision).is_empty(),
            "{id} lacks events: {seen:?}"
        );
    }
    assert!(
        client
            .watchers
            .keys()
            .eq(ids.taken.iter().collect::<alloc::collections::BTreeSet<_>>())
    );
}

proptest! {
    #[test]
    fn every_watcher_gets_what_it_asked_for(
        buffer_max in 1_usize..5,
        response_bytes_max in 20_usize..300,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        play(buffer_max, response_bytes_max, &steps);
    }
}
