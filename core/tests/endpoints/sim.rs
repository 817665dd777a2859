//! A small world in virtual time: members, connections, latencies, and a driver of the machine.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::{Action, Config, ConnectionId, Endpoints, Event, Health, Lane};
use etcd_proxy_core::time::Instant;
use fastrand::Rng;

use crate::count::Counts;
use crate::oracle::{Oracle, SLACK};
use crate::trace::Trace;
use crate::world::{Link, Member, Mood, address, member_of};

/// Longest one-way latency of the world.
pub(crate) const LATENCY_MAX: Duration = Duration::from_millis(60);

/// Longest time that a slow member takes to answer a probe.
pub(crate) const LATE_MAX: Duration = Duration::from_secs(5);

/// How long after its GOAWAY's arrival, or after its worker left it, a connection still has calls.
const CALLS_MAX_MS: u64 = 8_000;

/// What is on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Coming {
    Dialled(ConnectionId, u32),
    ProbeArrives(ConnectionId),
    Answer(ConnectionId, Health),
    GoAway(ConnectionId),
    Broken(ConnectionId),
    /// The last call of a connection that takes no new ones is over.
    CallsOver(ConnectionId),
    Traffic(ConnectionId),
    Stale(ConnectionId),
}

pub(crate) struct Sim {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) config: Config,
    pub(crate) machine: Endpoints,
    pub(crate) oracle: Oracle,
    pub(crate) members: Vec<Member>,
    /// The members that the machine was told of.
    pub(crate) listed: Vec<usize>,
    pub(crate) links: BTreeMap<ConnectionId, Link>,
    pub(crate) counts: Counts,
    pub(crate) trace: Trace,
    /// How often the endpoint in use changed, or a worker lost its connection.
    pub(crate) moves: u64,
    pub(crate) first_choice: Option<usize>,
    /// Members reset some of the probes' streams.
    pub(crate) loses_probes: bool,
    queue: BTreeMap<(Instant, u64), Coming>,
    sequence: u64,
    timeout: Option<(Instant, Instant)>,
    busy: bool,
    /// Whether the driver reports reads at once or only before a timeout.
    eager: bool,
}

impl Sim {
    pub(crate) fn new(
        mut rng: Rng,
        config: Config,
        members: usize,
        listed: Vec<usize>,
        trace: Trace,
    ) -> Self {
        let addresses = listed.iter().map(|member| address(*member));
        let machine = Endpoints::new(config, rng.u64(..), addresses);
        let slow = rng.u8(..4) == 0;
        let members = (0..members).map(|_| Member::any(&mut rng, slow)).collect();
        Self {
            now: Instant::ZERO + Duration::from_secs(rng.u64(..100)),
            oracle: Oracle::new(config, &machine),
            config,
            machine,
            members,
            listed,
            links: BTreeMap::new(),
            counts: Counts::default(),
            trace,
            moves: 0,
            first_choice: None,
            loses_probes: false,
            queue: BTreeMap::new(),
            sequence: 0,
            timeout: None,
            busy: rng.bool(),
            eager: rng.bool(),
            rng,
        }
    }

    /// Lets everything happen that happens before `until`.
    pub(crate) fn run_until(&mut self, until: Instant) {
        loop {
            let coming = self.queue.first_key_value().map(|(key, _)| key.0);
            let timeout = self.timeout.map(|(_, at)| at);
            let Some(next) = [coming, timeout].into_iter().flatten().min() else {
                break;
            };
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            self.check_silence();
            if timeout == Some(next) {
                self.report_reads();
                self.deliver(Event::Timeout);
            } else if let Some((_, coming)) = self.queue.pop_first() {
                self.arrive(coming);
            }
        }
        self.now = until;
        self.check_silence();
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Gives the machine an event and carries out what it asks for.
    pub(crate) fn deliver(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.trace.line(format_args!("{:?} {event:?}", self.now));
        self.counts
            .note_answer(self.now, &event, &self.config, &self.oracle);
        self.machine.handle(self.now, event.clone(), &mut actions);
        for action in &actions {
            self.trace.line(format_args!("          {action:?}"));
        }
        let before = self.oracle.current;
        self.oracle.judge(self.now, &event, &actions, &self.machine);
        self.counts
            .note_actions(&actions, before.map(|(id, _)| id), &self.config, &self.oracle);
        for action in actions {
            self.carry_out(action);
        }
        self.retire();
        let due = self.machine.next_timeout();
        if self.timeout.map(|(due, _)| due) != due {
            let late = Duration::from_micros(self.rng.u64(..SLACK.as_micros() as u64));
            self.timeout = due.map(|due| (due, (due + late).max(self.now)));
        }
        if event == Event::Timeout && due.is_some_and(|due| due <= self.now) {
            panic!("the timeout did nothing");
        }
    }

    /// The member in use.
    pub(crate) fn in_use(&self) -> Option<usize> {
        self.machine
            .current()
            .and_then(|endpoint| Some(member_of(self.machine.address(endpoint)?)))
    }

    /// Whether every worker's calls go to a connection of this member that works.
    pub(crate) fn served_by(&self, member: usize) -> bool {
        self.oracle.serving.iter().all(|serving| {
            serving.is_some_and(|id| {
                let link = &self.links[&id];
                link.member == member && !link.broken && !link.draining && link.mute_since.is_none()
            })
        })
    }

    pub(crate) fn links_of(&self, member: usize) -> Vec<ConnectionId> {
        self.links
            .iter()
            .filter(|(_, link)| link.member == member)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Any further connection that takes calls.
    pub(crate) fn any_joined(&mut self) -> Option<ConnectionId> {
        let joined: Vec<ConnectionId> = self.oracle.joined.iter().copied().collect();
        self.rng.choice(joined)
    }

    /// Some worker wants one more connection, if there is such a worker.
    pub(crate) fn want(&mut self) {
        let worker = self.rng.u32(..=self.config.lanes);
        let class = Class::ALL[self.rng.usize(..3)];
        self.deliver(Event::Wanted(worker, class));
    }

    /// Any connection that serves.
    pub(crate) fn any_serving(&mut self) -> Option<ConnectionId> {
        let serving: Vec<ConnectionId> = self.oracle.serving.iter().copied().flatten().collect();
        self.rng.choice(serving)
    }

    /// The longest that a connection may stay silent before it is given up.
    pub(crate) fn silence_max(&self) -> Option<Duration> {
        let interval = self.config.probe_interval?;
        Some(interval.max(self.config.probe_timeout / 4) + self.config.probe_timeout + 3 * SLACK)
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect {
                connection,
                endpoint,
                lane,
            } => {
                let address = self
                    .machine
                    .address(endpoint)
                    .expect("only known ones are dialled");
                let link = Link::new(member_of(address), lane);
                self.links.insert(connection, link);
                self.soon(connection, Coming::Dialled(connection, 0));
            }
            Action::Probe(id) => self.soon(id, Coming::ProbeArrives(id)),
            Action::Close(id, _) => {
                self.links.remove(&id);
                if self.rng.u8(..4) == 0 {
                    self.within(0..3_000, Coming::Stale(id));
                }
            }
            Action::Withdraw { .. } | Action::Serve { .. } => self.moves += 1,
            Action::Join { connection, .. } => {
                self.counts.add("joined");
                // Nobody needs it for long.
                self.within(0..CALLS_MAX_MS * 3, Coming::CallsOver(connection));
            }
            Action::NotJoined { .. } => self.counts.add("not joined"),
            Action::Chosen(_) => {
                self.moves += 1;
                if self.first_choice.is_none() {
                    self.first_choice = self.in_use();
                }
            }
            Action::Hidden { .. }
            | Action::Restored(_)
            | Action::LeaderLost(_)
            | Action::LeaderRegained(_)
            | Action::Foreign { .. }
            | Action::Followed { .. } => {}
        }
    }

    /// Connections that no worker uses any more end when their last call does.
    fn retire(&mut self) {
        let mut retired = Vec::new();
        for (id, link) in &mut self.links {
            let used = self.oracle.in_lane(*id) || self.oracle.joined.contains(id);
            let left = link.lane != Lane::Candidate && link.open && !used;
            if left && !link.draining {
                link.draining = true;
                retired.push(*id);
            }
        }
        for id in retired {
            self.within(0..CALLS_MAX_MS, Coming::CallsOver(id));
        }
    }

    fn arrive(&mut self, coming: Coming) {
        match coming {
            Coming::Dialled(id, tries) => self.dialled(id, tries),
            Coming::ProbeArrives(id) => {
                let Some(link) = self.links.get_mut(&id).filter(|link| !link.broken) else {
                    return;
                };
                if link.mute_since.is_some() {
                    link.held_probe = true;
                    return;
                }
                let health = if self.members[link.member].leader {
                    Health::Fit
                } else {
                    Health::Unfit
                };
                if self.members[link.member].slow {
                    return self.within(0..LATE_MAX.as_millis() as u64, Coming::Answer(id, health));
                }
                self.soon(id, Coming::Answer(id, health));
            }
            Coming::Answer(id, health) => {
                let Some(link) = self.links.get_mut(&id).filter(|link| !link.broken) else {
                    return;
                };
                if link.silenced || self.members[link.member].mood == Mood::BlackHole {
                    link.held_probe = true;
                    return;
                }
                self.heard(id);
                if self.loses_probes && self.rng.bool() {
                    // The member reset its stream.
                    self.counts.add("probe lost");
                    self.deliver(Event::Active(id));
                    return self.deliver(Event::ProbeLost(id));
                }
                self.deliver(Event::ProbeAnswered(id, health));
            }
            Coming::GoAway(id) => self.go_away(id),
            Coming::Broken(id) => {
                if self.links.remove(&id).is_some() {
                    self.counts.add("connection broken");
                    self.deliver(Event::Lost {
                        connection: id,
                        graceful: false,
                    });
                }
            }
            Coming::CallsOver(id) => {
                if self.links.remove(&id).is_some() {
                    let graceful = self.rng.bool();
                    self.deliver(Event::Lost {
                        connection: id,
                        graceful,
                    });
                }
            }
            Coming::Traffic(id) => self.traffic(id),
            Coming::Stale(id) => self.deliver_stale(id),
        }
    }

    fn dialled(&mut self, id: ConnectionId, tries: u32) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match self.members[link.member].mood {
            Mood::Dead => {
                self.links.remove(&id);
                return self.deliver(Event::ConnectFailed(id));
            }
            // SYN is sent again for a while.
            Mood::BlackHole if tries < 20 => {
                return self.after(Duration::from_secs(1), Coming::Dialled(id, tries + 1));
            }
            Mood::BlackHole => {
                self.links.remove(&id);
                return self.deliver(Event::ConnectFailed(id));
            }
            Mood::Goodbye => {
                self.within(0..200, Coming::GoAway(id));
            }
            Mood::Up | Mood::Frozen => {}
        }
        self.links.get_mut(&id).expect("still there").open = true;
        self.note_silence(id);
        self.deliver(Event::Connected(id));
        if self.busy {
            self.within(1..500, Coming::Traffic(id));
        }
    }

    fn go_away(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if !link.open || link.broken || link.mute_since.is_some() || self.oracle.views[&id].draining {
            return;
        }
        let opened = self.oracle.views[&id].opened_at.expect("it is open");
        let young = now < opened + self.config.graceful_age_min;
        self.counts.add(if young {
            "connection drained young"
        } else {
            "connection drained old"
        });
        link.draining = true;
        self.heard(id);
        if self.rng.u8(..4) == 0 {
            // It had no calls: the end comes with the announcement.
            self.links.remove(&id);
            return self.deliver(Event::Lost {
                connection: id,
                graceful: true,
            });
        }
        self.deliver(Event::Draining(id));
        self.within(0..CALLS_MAX_MS, Coming::CallsOver(id));
    }

    fn traffic(&mut self, id: ConnectionId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.broken) else {
            return;
        };
        let leader = self.members[link.member].leader;
        if link.mute_since.is_none() {
            self.heard(id);
            if self.eager {
                self.deliver(Event::Active(id));
            } else if let Some(link) = self.links.get_mut(&id) {
                link.unreported = true;
            }
            if !leader && !self.oracle.views[&id].draining {
                self.counts.add("call on a member without leader");
                self.doubt(id);
            }
        }
        self.within(1..500, Coming::Traffic(id));
    }

    fn report_reads(&mut self) {
        let ids: Vec<ConnectionId> = self.links.keys().copied().collect();
        for id in ids {
            self.report_read(id);
        }
    }

    fn report_read(&mut self, id: ConnectionId) {
        let link = self.links.get_mut(&id);
        if link.is_some_and(|link| std::mem::take(&mut link.unreported)) {
            self.deliver(Event::Active(id));
        }
    }

    pub(crate) fn doubt(&mut self, id: ConnectionId) {
        self.report_read(id);
        self.deliver(Event::Doubt(id));
    }

    /// Something was read, so silence can't have begun before.
    fn heard(&mut self, id: ConnectionId) {
        let now = self.now;
        if let Some(since) = self.links.get_mut(&id).and_then(|link| link.mute_since.as_mut()) {
            *since = now;
        }
    }

    pub(crate) fn note_silence(&mut self, id: ConnectionId) {
        let link = self.links.get_mut(&id).expect("only links fall silent");
        let mute = link.open && (link.silenced || self.members[link.member].mute());
        link.mute_since = mute.then(|| link.mute_since.unwrap_or(self.now));
    }

    /// What is silent is given up in time, and what isn't established in time too.
    fn check_silence(&mut self) {
        let Some(silence_max) = self.silence_max() else {
            return;
        };
        for (id, link) in &self.links {
            let view = &self.oracle.views[id];
            if !link.open {
                let latest = view.asked_at + self.config.connect_timeout + SLACK;
                assert!(
                    self.now <= latest,
                    "{id:?} should have been given up while connecting"
                );
            }
            let Some(since) = link.mute_since.filter(|_| !view.draining && !link.broken) else {
                continue;
            };
            assert!(
                self.now <= since + silence_max,
                "{id:?} is silent since {since:?} and still kept at {:?}",
                self.now
            );
        }
    }

    /// Something about a connection, one latency from now.
    pub(crate) fn soon(&mut self, id: ConnectionId, coming: Coming) {
        let latency = self.members[self.links[&id].member].latency_ms.clone();
        self.within(latency, coming);
    }

    fn within(&mut self, ms: Range<u64>, coming: Coming) {
        let wait = self.rng_ms(ms);
        self.after(wait, coming);
    }

    fn after(&mut self, wait: Duration, coming: Coming) {
        self.sequence += 1;
        self.queue.insert((self.now + wait, self.sequence), coming);
    }

    pub(crate) fn rng_ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }
}

/// The number of members and the one that is chosen first when all are well and equally near.
pub(crate) fn first_choice(seed: u64) -> (usize, usize) {
    let mut rng = Rng::with_seed(seed);
    let members = rng.usize(1..=5);
    let mut sim = Sim::new(
        rng,
        Config::default(),
        members,
        (0..members).collect(),
        Trace::new(false),
    );
    sim.deliver(Event::Start);
    sim.run_for(Duration::from_secs(1));
    (members, sim.first_choice.expect("all are well"))
}

/// One of five members is well; nothing comes from the others.
pub(crate) fn search_among_silent_members(seed: u64) {
    let config = Config::default();
    let mut sim = Sim::new(
        Rng::with_seed(seed),
        config,
        5,
        (0..5).collect(),
        Trace::new(false),
    );
    let fit = sim.rng.usize(..5);
    for member in (0..5).filter(|member| *member != fit) {
        let mood = if sim.rng.bool() {
            Mood::Frozen
        } else {
            Mood::BlackHole
        };
        sim.set_mood(member, mood);
    }
    sim.deliver(Event::Start);
    sim.run_for(config.stagger * 4 + LATENCY_MAX * 4);
    assert!(
        sim.served_by(fit),
        "seed {seed}: {:?} in use, not {fit}",
        sim.in_use()
    );
}
