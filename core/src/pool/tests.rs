use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use slotmap::SlotMap;

use super::*;

/// A connection of these tests.
#[derive(Clone, Debug)]
struct Line {
    id: ConnectionId,
    open: Rc<Cell<bool>>,
    calls: Rc<Cell<usize>>,
    max: usize,
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Link for Line {
    fn id(&self) -> ConnectionId {
        self.id
    }

    fn is_open(&self) -> bool {
        self.open.get()
    }

    fn calls_open(&self) -> usize {
        self.calls.get()
    }

    fn calls_max(&self) -> usize {
        self.max
    }
}

/// A worker's pool, whose member grants every wish at once unless it is `stingy`.
struct Hand {
    pool: Pool<Line, u64>,
    ids: SlotMap<ConnectionId, ()>,
    max: usize,
    now: Instant,
    stingy: bool,
    wishes: usize,
}

/// A call that is open.
struct Open {
    link: Line,
    ticket: Option<Ticket>,
}

const A: Asker = Asker::Client(Client(1));
const B: Asker = Asker::Client(Client(2));

impl Hand {
    fn new(max: usize) -> Self {
        let mut hand = Self {
            pool: Pool::default(),
            ids: SlotMap::with_key(),
            max,
            now: Instant::ZERO,
            stingy: false,
            wishes: 0,
        };
        let main = hand.link();
        assert_eq!(hand.pool.reset(Some(main)), vec![]);
        hand
    }

    fn link(&mut self) -> Line {
        Line {
            id: self.ids.insert(()),
            open: Rc::new(Cell::new(true)),
            calls: Rc::default(),
            max: self.max,
        }
    }

    fn choose(&mut self, class: Class, asker: Asker) -> Choice<Line> {
        let now = self.now;
        self.pool.choose(class, asker, None, || now)
    }

    /// Opens a call, if it needn't wait.
    fn open(&mut self, class: Class, asker: Asker) -> Option<Open> {
        loop {
            match self.choose(class, asker) {
                Choice::Take { link, counted } => {
                    link.calls.set(link.calls.get() + 1);
                    let ticket = match asker {
                        Asker::Client(client) if counted => Some(self.pool.begin(class, client)),
                        _ => None,
                    };
                    return Some(Open { link, ticket });
                }
                Choice::Want if self.stingy => self.pool.not_joined(class, self.now),
                Choice::Want => {
                    self.wishes += 1;
                    let link = self.link();
                    self.pool.join(class, link);
                }
                Choice::Wait | Choice::Turn => return None,
            }
        }
    }

    fn open_all(&mut self, class: Class, asker: Asker) -> Vec<Open> {
        core::iter::from_fn(|| self.open(class, asker))
            .take(100_000)
            .collect()
    }

    fn close(&mut self, open: Open) -> Option<u64> {
        open.link.calls.set(open.link.calls.get() - 1);
        open.ticket.and_then(|ticket| self.pool.end(&ticket))
    }

    fn main(&self) -> Line {
        self.pool.main().expect("there is one").clone()
    }
}

#[test]
fn each_class_has_connections_of_its_own() {
    let mut hand = Hand::new(usize::MAX);
    let links: Vec<Line> = Class::ALL
        .into_iter()
        .map(|class| hand.open(class, A).expect("there is room").link)
        .collect();
    assert_eq!(links[0], hand.main());
    assert!(links[1] != links[0] && links[2] != links[0] && links[1] != links[2]);
    for (class, link) in Class::ALL.into_iter().zip(links) {
        for asker in [A, B, Asker::Proxy, Asker::Stream] {
            assert_eq!(hand.open(class, asker).expect("there is room").link, link);
        }
    }
    assert_eq!(
        hand.wishes, 2,
        "a server without limit has one connection of each class"
    );
}

#[test]
fn a_full_connection_is_followed_by_another() {
    let mut hand = Hand::new(40);
    let first = hand.open(Class::Blocking, A).expect("there is room").link;
    for _ in 1..34 {
        assert_eq!(hand.open(Class::Blocking, A).expect("room").link, first);
    }
    let next = hand.open(Class::Blocking, A).expect("another one").link;
    assert_ne!(next, first);
    assert!(first.calls.get() < 40, "there is room for a probe");
    // Those that are full are left alone, and the first with room is taken, so that later ones fall idle.
    first.calls.set(3);
    assert_eq!(hand.open(Class::Blocking, A).expect("room").link, first);
}

#[test]
fn one_client_leaves_room_for_others() {
    for class in Class::ALL {
        for max in [1, 2, 3, 10, 40, 1000] {
            let mut hand = Hand::new(max);
            let all = capacity(class, max);
            let held = hand.open_all(class, A);
            assert_eq!(held.len(), all.div_ceil(2), "{class:?} {max}");
            let main = hand.main().calls.get();
            assert!(main <= max, "{main} of {max}");
            // Each gets less than the one before, and each gets some, as long as there are any.
            let mut left = all - held.len();
            let mut client = 2;
            while left > 0 {
                let got = hand.open_all(class, Asker::Client(Client(client))).len();
                assert!(
                    got > 0,
                    "{class:?} {max}: nothing for client {client}, {left} left"
                );
                left -= got;
                client += 1;
            }
            assert_eq!(hand.open_all(class, Asker::Client(Client(client))).len(), 0);
        }
    }
}

#[test]
fn the_others_never_wait_behind_blocking_calls() {
    let mut hand = Hand::new(40);
    for client in 0..1000 {
        hand.open_all(Class::Blocking, Asker::Client(Client(client)));
    }
    assert_eq!(hand.choose(Class::Blocking, A), Choice::Turn);
    assert_eq!(hand.main().calls.get(), 0);
    for asker in [A, Asker::Proxy, Asker::Stream] {
        assert_eq!(hand.open(Class::Prompt, asker).expect("room").link, hand.main());
    }
    assert!(hand.open(Class::Bulk, B).is_some());
}

/// Streams that last leave half of a connection, clients leave some to the proxy.
#[test]
fn something_is_left_for_the_proxy() {
    let mut hand = Hand::new(40);
    for _ in 0..20 {
        assert_eq!(
            hand.open(Class::Prompt, Asker::Stream).expect("room").link,
            hand.main()
        );
    }
    assert_ne!(
        hand.open(Class::Prompt, Asker::Stream).expect("room").link,
        hand.main()
    );
    for client in 10..100 {
        hand.open_all(Class::Prompt, Asker::Client(Client(client)));
    }
    assert_eq!(hand.main().calls.get(), 34);
    for _ in 34..40 {
        assert_eq!(
            hand.open(Class::Prompt, Asker::Proxy).expect("room").link,
            hand.main()
        );
    }
    // And when everything is full it still gets something.
    for _ in 0..1000 {
        assert!(hand.open(Class::Prompt, Asker::Proxy).is_some());
        assert!(hand.open(Class::Prompt, Asker::Stream).is_some());
    }
}

#[test]
fn turns_go_round() {
    let mut hand = Hand::new(8);
    let mut held: Vec<Vec<Open>> = Vec::new();
    for client in 1..=3 {
        held.push(hand.open_all(Class::Bulk, Asker::Client(Client(client))));
    }
    let mut waiting = Vec::new();
    for client in [1, 1, 1, 2, 3] {
        waiting.push(hand.pool.wait(Class::Bulk, Client(client), client));
    }
    let mut told = Vec::new();
    // The last client's calls end one after the other.
    for open in held.remove(2) {
        told.extend(hand.close(open));
    }
    assert!(told.contains(&3), "{told:?}: it has least");
    for open in held.remove(0) {
        told.extend(hand.close(open));
    }
    assert!(told.contains(&1) && told.contains(&2), "{told:?}");
    for ticket in waiting {
        hand.pool.stop_waiting(&ticket);
    }
    for open in held.remove(0) {
        assert_eq!(hand.close(open), None, "nobody waits");
    }
    assert!(hand.open(Class::Bulk, A).is_some());
}

#[test]
fn clients_that_have_nothing_are_forgotten() {
    let mut hand = Hand::new(8);
    for client in 0..1000 {
        let client = Client(client);
        let open = hand.open(Class::Blocking, Asker::Client(client)).expect("room");
        let ticket = hand.pool.wait(Class::Blocking, client, 0);
        hand.pool.stop_waiting(&ticket);
        hand.close(open);
        let other = hand.open(Class::Blocking, B).expect("room");
        hand.close(other);
    }
    let line = &hand.pool.lines[Class::Blocking as usize];
    assert!(alloc::format!("{line:?}").len() < 1000, "{line:?}");
}

#[test]
fn without_a_further_connection() {
    let mut hand = Hand::new(40);
    hand.stingy = true;
    // A list goes where it went before there were further connections.
    assert_eq!(hand.open(Class::Bulk, A).expect("room").link, hand.main());
    // What would stay waits.
    assert!(hand.open(Class::Blocking, A).is_none());
    assert_eq!(hand.choose(Class::Blocking, A), Choice::Wait);
    hand.now = hand.now + PAUSE;
    assert_eq!(hand.choose(Class::Blocking, A), Choice::Want, "it is tried again");
    assert_eq!(hand.choose(Class::Blocking, B), Choice::Wait, "once");
    hand.pool.not_asked(Class::Blocking);
    assert_eq!(hand.choose(Class::Blocking, B), Choice::Want);
}

#[test]
fn connections_that_end_are_replaced() {
    let mut hand = Hand::new(40);
    let first = hand.open(Class::Blocking, A).expect("room").link;
    let now = hand.now;
    let avoid = |hand: &mut Hand, class, link: &Line| hand.pool.choose(class, A, Some(link.id), || now);
    assert_eq!(avoid(&mut hand, Class::Blocking, &first), Choice::Want);
    hand.pool.not_asked(Class::Blocking);
    first.open.set(false);
    let second = hand.open(Class::Blocking, A).expect("another").link;
    assert_ne!(second, first);
    let main = hand.main();
    assert_eq!(avoid(&mut hand, Class::Prompt, &main), Choice::Wait);
    // Without main connection there is nothing to ask for: its member may be gone.
    main.open.set(false);
    for class in Class::ALL {
        assert_eq!(hand.choose(class, A), Choice::Wait, "{class:?}");
    }
}

#[test]
fn another_member_has_connections_of_its_own() {
    let mut hand = Hand::new(4);
    let held = hand.open_all(Class::Blocking, A);
    let mut former = hand.pool.reset(None);
    assert_eq!(former.len(), 1 + 8);
    assert_eq!(hand.choose(Class::Prompt, A), Choice::Wait);
    let main = hand.link();
    former.extend(hand.pool.reset(Some(main)));
    assert_eq!(former.len(), 9);
    let again = hand.open_all(Class::Blocking, A);
    assert_eq!(again.len(), held.len(), "what is open elsewhere doesn't count");
    for open in held {
        assert_eq!(hand.close(open), None);
    }
    assert!(hand.open(Class::Blocking, A).is_none(), "nor does its end");
    assert!(again.iter().all(|open| !former.contains(&open.link)));
}

/// A stream on a further connection stays there beside the main one.
#[test]
fn what_takes_calls_is_not_superseded() {
    let mut hand = Hand::new(40);
    let bulk = hand.open(Class::Bulk, Asker::Stream).expect("room").link;
    let main = hand.main();
    assert!(!hand.pool.supersedes(main.id) && !hand.pool.supersedes(bulk.id));
    bulk.open.set(false);
    assert!(hand.pool.supersedes(bulk.id) && !hand.pool.supersedes(main.id));
    hand.pool.reset(None);
    assert!(!hand.pool.supersedes(main.id), "there is nowhere to go");
    let next = hand.link();
    hand.pool.reset(Some(next));
    assert!(hand.pool.supersedes(main.id));
}

#[test]
fn idle_connections_are_let_go() {
    let mut hand = Hand::new(4);
    let mut held = hand.open_all(Class::Blocking, A);
    let list = hand.open(Class::Bulk, A).expect("room");
    let bulk = list.link.clone();
    assert!(hand.pool.has_further());
    hand.now = hand.now + IDLE_MAX * 2;
    assert_eq!(hand.pool.tidy(hand.now), vec![], "all of them have calls");
    hand.close(list);
    let last = held.pop().expect("some");
    let link = last.link.clone();
    hand.close(last);
    assert_eq!(hand.pool.tidy(hand.now), vec![]);
    hand.now = hand.now + IDLE_MAX / 2;
    let used = hand.open(Class::Bulk, A).expect("room");
    assert_eq!(hand.pool.tidy(hand.now), vec![]);
    hand.close(used);
    assert_eq!(hand.pool.tidy(hand.now), vec![]);
    hand.now = hand.now + IDLE_MAX / 2;
    assert_eq!(link.calls.get(), 2, "others use it still");
    assert_eq!(hand.pool.tidy(hand.now), vec![], "it was used meanwhile");
    hand.now = hand.now + IDLE_MAX / 2;
    assert_eq!(hand.pool.tidy(hand.now), vec![bulk]);
    for open in held {
        hand.close(open);
    }
    hand.pool.tidy(hand.now);
    hand.now = hand.now + IDLE_MAX;
    let main = hand.main();
    assert!(!hand.pool.tidy(hand.now).contains(&main));
    assert!(!hand.pool.has_further());
}
