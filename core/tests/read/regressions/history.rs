//! A store that goes back, or is another one: nothing of the former one is shown, and nothing of it comes back. Row 99.

use bytes::Bytes;
use etcd_proxy_core::read::{
    Action, Actions, Admission, Cache, CheckId, Config, Event, Header, ReadOutcome, ReadTicket, Resolution,
    WatchId,
};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use prost::Message as _;

use crate::world::ms;

const OURS: u64 = 7;
const OTHER: u64 = 8;

/// A cache by itself.
struct Bare {
    cache: Cache,
    now: Instant,
    actions: Actions,
    watch: WatchId,
}

fn header(cluster_id: u64, revision: i64) -> Header {
    Header {
        cluster_id,
        member_id: 1,
        revision,
        raft_term: 2,
    }
}

/// A response, which names its revision in what it says, too.
fn response(cluster_id: u64, revision: i64) -> Bytes {
    let response = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id,
            member_id: 1,
            revision,
            raft_term: 2,
        }),
        count: revision,
        ..RangeResponse::default()
    };
    response.encode_to_vec().into()
}

impl Bare {
    /// Its watch is at this revision.
    fn new(revision: i64) -> Self {
        let mut cache = Cache::new(Config::default(), 1);
        let mut actions = Actions::new();
        let now = Instant::ZERO + ms(1000);
        let first = Bytes::from(read("first", true).encode_to_vec());
        let Admission::Forward(ticket) = cache.admit_read(now, &first, 0, &mut actions) else {
            panic!("there is nothing to answer it with");
        };
        cache.complete_read(now, ticket, ReadOutcome::Abandoned, &mut actions);
        let watch = actions.drain(..).find_map(|action| match action {
            Action::OpenWatch(watch) => Some(watch),
            _ => None,
        });
        let mut bare = Self {
            cache,
            now,
            actions,
            watch: watch.expect("it watches"),
        };
        bare.starts(revision);
        bare
    }

    fn starts(&mut self, revision: i64) {
        let watch = self.watch;
        self.tell(Event::WatchStarted { watch, revision });
    }

    fn tell(&mut self, event: Event) {
        self.cache.handle(self.now, event, &mut self.actions);
    }

    fn read(&mut self, serializable: bool, floor: i64) -> Admission {
        self.now = self.now + ms(1);
        let request = read("k", serializable).encode_to_vec().into();
        self.cache
            .admit_read(self.now, &request, floor, &mut self.actions)
    }

    fn forwarded(&mut self, floor: i64) -> ReadTicket {
        match self.read(false, floor) {
            Admission::Forward(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, ticket: ReadTicket, cluster_id: u64, revision: i64) {
        self.now = self.now + ms(1);
        let outcome = ReadOutcome::Answered(response(cluster_id, revision));
        self.cache
            .complete_read(self.now, ticket, outcome, &mut self.actions);
    }

    /// The revision that a serializable read is answered with.
    fn shown(&mut self, floor: i64) -> i64 {
        match self.read(true, floor) {
            Admission::Hit(answer) => {
                assert_eq!(answer.history, self.cache.history());
                let body = RangeResponse::decode(&[&answer.head[5..], &answer.body[..]].concat()[..]);
                body.expect("the cache writes well").count
            }
            other => panic!("{other:?}"),
        }
    }

    fn check(&mut self) -> CheckId {
        let check = self.actions.drain(..).find_map(|action| match action {
            Action::Check { check, .. } => Some(check),
            _ => None,
        });
        check.expect("it asks")
    }

    /// The new store's watch starts, and what it has is cached.
    fn goes_on(&mut self, revision: i64) {
        let watch = self.watch;
        self.tell(Event::WatchLost(watch));
        self.starts(revision);
        let ticket = self.forwarded(revision);
        self.answer(ticket, OURS, revision);
        assert_eq!(self.shown(revision), revision);
    }
}

fn read(key: &str, serializable: bool) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        serializable,
        ..RangeRequest::default()
    }
}

fn with_entry() -> Bare {
    let mut bare = Bare::new(3000);
    let ticket = bare.forwarded(3000);
    bare.answer(ticket, OURS, 3000);
    assert_eq!(bare.shown(3000), 3000);
    bare
}

#[test]
fn nothing_of_the_former_history_is_shown() {
    let mut bare = with_entry();
    bare.tell(Event::History(1));
    assert_eq!(bare.cache.stats().entries, 0);
    // Nor when its watch still tells something, which it does until the hub has ended it.
    let watch = bare.watch;
    bare.tell(Event::WatchStarted {
        watch,
        revision: 3000,
    });
    let ticket = bare.forwarded(23);
    bare.answer(ticket, OURS, 23);
    assert_eq!(bare.cache.stats().entries, 0);
    bare.goes_on(23);
    // Told once more, it is nothing new.
    bare.tell(Event::History(1));
    assert_eq!(bare.shown(23), 23);
}

/// A read that was sent before, and is answered when all is forgotten.
#[test]
fn an_answer_from_before_is_no_entry() {
    let mut bare = Bare::new(3000);
    let ticket = bare.forwarded(3000);
    bare.tell(Event::History(1));
    bare.starts(23);
    bare.answer(ticket, OURS, 3000);
    assert_eq!(bare.cache.stats().entries, 0);
    bare.goes_on(23);
}

/// Nobody shares the answer to a read that was sent in the former history.
#[test]
fn nobody_joins_a_read_from_before() {
    let mut bare = Bare::new(3000);
    let _before = bare.forwarded(3000);
    bare.tell(Event::History(1));
    bare.starts(23);
    let _after = bare.forwarded(23);
}

/// Who waits goes to the cluster, whatever it was that he had to be shown at least.
#[test]
fn those_who_wait_go_to_the_cluster() {
    let mut bare = with_entry();
    for (serializable, floor) in [(true, 4000), (false, 3000)] {
        let Admission::Wait(waiter) = bare.read(serializable, floor) else {
            panic!("it has to wait");
        };
        let check = (!serializable).then(|| bare.check());
        let history = bare.cache.history() + 1;
        bare.tell(Event::History(history));
        let resolved = bare.actions.drain(..).find_map(|action| match action {
            Action::Resolve(id, resolution) if id == waiter => Some(resolution),
            _ => None,
        });
        let Some(Resolution::Forward(ticket)) = resolved else {
            panic!("{resolved:?}");
        };
        // The answer to a check from before tells nothing.
        if let Some(check) = check {
            bare.tell(Event::Checked(check, Ok(header(OURS, 5000))));
        }
        bare.answer(ticket, OURS, 23);
        bare.goes_on(3000);
    }
}

#[test]
fn compaction_is_forgotten() {
    let mut bare = with_entry();
    bare.cache.compacted(2900);
    bare.tell(Event::History(1));
    bare.goes_on(23);
    let request = RangeRequest {
        revision: 20,
        ..read("k", true)
    };
    let request = Bytes::from(request.encode_to_vec());
    let Admission::Forward(ticket) = bare.cache.admit_read(bare.now, &request, 0, &mut bare.actions) else {
        panic!("it isn't cached yet");
    };
    bare.answer(ticket, OURS, 23);
    let again = bare.cache.admit_read(bare.now, &request, 0, &mut bare.actions);
    assert!(matches!(again, Admission::Hit(_)), "{again:?}");
}

/// A member of another cluster, or one that is out of its mind, changes nothing.
#[test]
fn what_is_of_no_store_of_ours_counts_for_nothing() {
    for (cluster_id, revision) in [(OTHER, 5000), (OURS, i64::MAX), (OURS, -5)] {
        let mut bare = Bare::new(3000);
        let ticket = bare.forwarded(3000);
        bare.answer(ticket, OURS, 3000);
        bare.now = bare.now + ms(5000);
        let Admission::Wait(_) = bare.read(true, 3000) else {
            panic!("it may be too old");
        };
        let check = bare.check();
        bare.tell(Event::Checked(check, Ok(header(cluster_id, revision))));
        let resolved = bare.actions.drain(..).find_map(|action| match action {
            Action::Resolve(_, Resolution::Forward(ticket)) => Some(ticket),
            _ => None,
        });
        bare.answer(resolved.expect("it asks the cluster"), cluster_id, revision);
        assert_eq!(bare.cache.stats().watched, 3000);
        bare.now = bare.now + ms(200);
        let Admission::Wait(_) = bare.read(true, 3000) else {
            panic!("it may be too old");
        };
        let check = bare.check();
        bare.tell(Event::Checked(check, Ok(header(OURS, 3000))));
        assert_eq!(bare.shown(3000), 3000);
    }
}
