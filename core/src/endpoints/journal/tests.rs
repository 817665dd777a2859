use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};

use super::*;
use crate::endpoints::{Actions, Config, ConnectionId, Event, Health};

/// The machine in front of endpoints that refuse connections or answer at once.
struct World {
    machine: Endpoints,
    journal: Journal,
    now: Instant,
    names: BTreeMap<EndpointId, usize>,
    refusing: BTreeSet<usize>,
    /// Connections that are established, and where they lead.
    open: BTreeMap<ConnectionId, usize>,
    notes: Vec<Note>,
}

impl World {
    fn start(endpoints: usize, refusing: impl IntoIterator<Item = usize>) -> Self {
        let addresses = (0..endpoints).map(|number| Box::from(alloc::format!("{number}")));
        let machine = Endpoints::new(Config::default(), 1, addresses);
        let names = machine
            .known()
            .map(|(id, address)| (id, address.parse().unwrap()))
            .collect();
        let mut world = Self {
            machine,
            journal: Journal::default(),
            now: Instant::ZERO,
            names,
            refusing: refusing.into_iter().collect(),
            open: BTreeMap::new(),
            notes: Vec::new(),
        };
        world.handle(Event::Start);
        world
    }

    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Actions::new();
            self.machine.handle(self.now, event, &mut actions);
            for action in actions {
                self.journal
                    .heed(self.now, &action, &self.machine, &mut self.notes);
                match action {
                    Action::Connect {
                        connection, endpoint, ..
                    } => {
                        let address = self.machine.address(endpoint).unwrap();
                        let endpoint = *self
                            .names
                            .entry(endpoint)
                            .or_insert_with(|| address.parse().unwrap());
                        events.push_back(if self.refusing.contains(&endpoint) {
                            Event::ConnectFailed(connection)
                        } else {
                            self.open.insert(connection, endpoint);
                            Event::Connected(connection)
                        });
                    }
                    Action::Probe(connection) => {
                        events.push_back(Event::ProbeAnswered(connection, Health::Fit))
                    }
                    Action::Close(connection, _) => {
                        self.open.remove(&connection);
                    }
                    _ => {}
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.machine.next_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.handle(Event::Timeout);
        }
        self.now = end;
    }

    fn kill(&mut self, endpoint: usize) {
        self.refusing.insert(endpoint);
        let lost = self.open.iter().filter(|(_, to)| **to == endpoint);
        let lost: Vec<_> = lost.map(|(connection, _)| *connection).collect();
        for connection in lost {
            self.open.remove(&connection);
            self.handle(Event::Lost {
                connection,
                graceful: false,
            });
        }
    }

    fn id(&self, endpoint: usize) -> EndpointId {
        let mut names = self.names.iter();
        *names.find(|(_, name)| **name == endpoint).unwrap().0
    }

    fn current(&self) -> usize {
        self.names[&self.machine.current().unwrap()]
    }

    fn news(&mut self) -> Vec<News> {
        self.notes.drain(..).map(|note| note.news).collect()
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn an_outage_is_a_line_for_each_change_and_a_word_now_and_then() {
    let mut world = World::start(3, []);
    let first = world.current();
    assert_eq!(world.news(), [News::Chosen(world.id(first), None)]);
    for endpoint in 0..3 {
        world.kill(endpoint);
    }
    world.pass(secs(25));
    let news = world.news();
    let failed = news
        .iter()
        .filter(|news| matches!(news, News::Failed(..)))
        .count();
    assert_eq!(failed, 3, "{news:?}");
    let none = news.iter().filter(|news| **news == News::NoneReachable).count();
    assert_eq!(none, 1, "{news:?}");
    let mut still = 0;
    for news in &news {
        if let News::StillNoneReachable(lasts, attempts) = news {
            assert!(*lasts >= secs(5) && *attempts > 5, "{news:?}");
            still += 1;
        }
    }
    // After 5, 15, and 35 seconds.
    assert_eq!(still, 2, "{news:?}");
    // While one was still there it took over.
    assert!(news.len() <= 3 + 1 + 2 + 2, "{news:?}");

    world.refusing.remove(&2);
    world.pass(secs(3));
    let [News::Chosen(endpoint, Some(outage))] = world.news()[..] else {
        panic!("one line when it is over");
    };
    assert!(endpoint == world.id(2) && outage >= secs(24), "{outage:?}");
    world.refusing.remove(&1);
    world.pass(secs(3));
    let [News::Recovered(endpoint, after)] = world.news()[..] else {
        panic!("one line for the other one");
    };
    assert!(endpoint == world.id(1) && after >= secs(27), "{after:?}");
    // The one that is still down is no news.
    world.pass(secs(60));
    assert_eq!(world.news(), []);
}

#[test]
fn an_outage_of_a_day_takes_a_line_every_five_minutes() {
    let mut world = World::start(2, [0, 1]);
    world.pass(secs(24 * 60 * 60));
    let news = world.news();
    assert!((280..=310).contains(&news.len()), "{}", news.len());
    assert!(matches!(news.last(), Some(News::StillNoneReachable(lasts, _)) if *lasts > secs(86_000)));
}

#[test]
fn nobody_there_at_the_start_is_told_at_once() {
    let mut world = World::start(2, [0, 1]);
    world.pass(secs(1));
    let news = world.news();
    assert!(
        matches!(
            news[..],
            [News::Failed(..), News::Failed(..), News::NoneReachable]
        ),
        "{news:?}"
    );
}

/// Accepts, answers, and dies as soon as it is used.
#[test]
fn an_endpoint_that_comes_and_goes_fills_no_log() {
    let mut world = World::start(1, []);
    for _ in 0..100 {
        world.kill(0);
        world.refusing.clear();
        world.pass(secs(3));
        assert_eq!(world.current(), 0);
    }
    // Five minutes: of either kind six in each.
    assert!(world.notes.len() <= 6 * 2 * 6, "{}", world.notes.len());
    let told: u32 = world.notes.iter().map(|note| 1 + note.left_out).sum();
    // At most the last window's are still to be told.
    assert!(told >= 220, "{told} of 301");
}

#[test]
fn a_removed_endpoint_counts_for_nothing() {
    let mut world = World::start(2, [0, 1]);
    world.pass(secs(1));
    world.notes.clear();
    world.handle(Event::Replace(alloc::vec![Box::from("1"), Box::from("2")]));
    world.pass(secs(3));
    let news = world.news();
    assert!(
        matches!(news[..], [News::Chosen(endpoint, Some(_))] if endpoint == world.id(2)),
        "{news:?}"
    );
}
