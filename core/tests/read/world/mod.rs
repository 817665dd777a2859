//! The cache in a world of naive members and clients. Every action becomes something that happens later.

mod back;
pub(crate) mod reads;
mod watch;
mod writes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::history::{History, Known};
use etcd_proxy_core::read::{
    Action, Actions, Cache, CheckId, Config, Event, Header, Resolution, Status, WaiterId, WatchId,
};
use etcd_proxy_core::time::Instant;
use fastrand::Rng;

use crate::agenda::Entry;
use crate::cluster::Cluster;
use crate::oracle::Told;

pub(crate) use reads::{Reader, State as ReaderState};
pub(crate) use watch::{Item, Stream};
use writes::Own;

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum What {
    /// Somebody outside acts; see `sim.rs`.
    Act,
    /// A member comes to a state.
    Apply(usize, usize),
    AuthArrive,
    AuthEnd,
    Cancel(usize),
    CheckArrive(CheckId, bool, u64),
    CheckReply(CheckId, Result<Header, Status>, Option<u64>),
    Fault,
    /// The hub notices that the store has gone back.
    HubNotices,
    ProgressArrive(u64),
    ReadArrive(usize),
    ReadReply(usize, Result<Bytes, Status>),
    /// The end of all faults.
    Undo,
    WatchDeliver(u64, WatchId, Item),
    WatchLost(u64, WatchId),
    WatchOpen(u64),
    WriteArrive(usize),
    WriteReply(usize, Option<i64>, i64),
    WriteTimeout(usize),
}

/// How bad the world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Longest way from here to there, in microseconds.
    pub(crate) latency: u64,
    /// The same for watches.
    pub(crate) watch_latency: u64,
    /// How far members but the first may be behind, in microseconds.
    pub(crate) lag: u64,
    /// Of a thousand calls, so many take a hundred times as long.
    pub(crate) slow: u64,
    /// Of a thousand checks, so many fail, and so many never end.
    pub(crate) checks_failing: u64,
    pub(crate) checks_lost: u64,
    /// Of a thousand writes, so many lose their answer, and may be carried out later.
    pub(crate) writes_lost: u64,
    /// No member can be reached.
    pub(crate) is_down: bool,
    pub(crate) is_leaderless: bool,
    /// Questions for progress stay without answer.
    pub(crate) is_silent: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency: 1000,
            watch_latency: 1000,
            lag: 0,
            slow: 0,
            checks_failing: 0,
            checks_lost: 0,
            writes_lost: 0,
            is_down: false,
            is_leaderless: false,
            is_silent: false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) cache: Cache,
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) step: u64,
    pub(crate) rng: Rng,
    heap: BinaryHeap<Reverse<Entry<What>>>,
    pub(crate) cluster: Cluster,
    pub(crate) faults: Faults,
    pub(crate) readers: Vec<Reader>,
    waiting: BTreeMap<WaiterId, usize>,
    /// Forwarded reads, and checks, that aren't over.
    pub(crate) flying: BTreeSet<usize>,
    pub(crate) own: Vec<Own>,
    pub(crate) stream: Stream,
    /// What is known of the store, with the highest revision shown to anybody.
    pub(crate) history: History,
    /// What was known when checks were sent.
    checks_asked: BTreeMap<CheckId, Known>,
    /// When the store last went back, and the step of that; and how often it has.
    pub(crate) back_at: Instant,
    pub(crate) back_step: u64,
    pub(crate) era: u64,
    /// Of its own, so that what other seeds do stays the same.
    pub(crate) back_rng: Rng,
    /// The highest revision shown to anybody, also where it couldn't be read.
    pub(crate) floor: i64,
    /// The last step at which something was shown that couldn't be read, unless something newer is known since.
    pub(crate) unread: u64,
    /// Whether the cache is told of it. If not, all rules but that one must still hold.
    pub(crate) is_floor_told: bool,
    pub(crate) told: Told,
    /// Reads that were sent to members.
    pub(crate) sent: u64,
    /// Everything the cache did, for comparing runs.
    pub(crate) trace: u64,
    /// Print everything.
    pub(crate) is_loud: bool,
}

impl World {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        Self {
            cache: Cache::new(config.clone(), seed),
            config,
            now: Instant::ZERO + Duration::from_secs(1),
            step: 0,
            rng: Rng::with_seed(seed),
            heap: BinaryHeap::new(),
            cluster: Cluster::new(3),
            faults: Faults::default(),
            readers: Vec::new(),
            waiting: BTreeMap::new(),
            flying: BTreeSet::new(),
            own: Vec::new(),
            stream: Stream::default(),
            history: History::new(),
            checks_asked: BTreeMap::new(),
            back_at: Instant::ZERO,
            back_step: 0,
            era: 0,
            back_rng: Rng::with_seed(seed ^ 0x4157_0247),
            floor: 0,
            unread: 0,
            is_floor_told: true,
            told: Told::default(),
            sent: 0,
            trace: 0,
            is_loud: false,
        }
    }

    pub(crate) fn later(&mut self, after: Duration, what: What) {
        self.at(self.now + after, what);
    }

    fn at(&mut self, at: Instant, what: What) {
        self.step += 1;
        let number = self.step;
        self.heap.push(Reverse(Entry { at, number, what }));
    }

    fn latency(&mut self) -> Duration {
        let longest = self.faults.latency;
        let micros = self.rng.u64(longest / 2..=longest);
        let factor = if self.rng.u64(..1000) < self.faults.slow {
            100
        } else {
            1
        };
        Duration::from_micros(micros * factor)
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.is_loud {
            eprintln!("{:?} {event:?}", self.now);
        }
        if event == Event::AuthMayHaveChanged {
            self.doubt();
        }
        let mut actions = Actions::new();
        self.cache.handle(self.now, event, &mut actions);
        self.carry_out(actions);
    }

    fn note(&mut self, what: &dyn std::fmt::Debug) {
        let text = format!("{:?} {what:?}", self.now);
        if self.is_loud {
            eprintln!("{text}");
        }
        for byte in text.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn carry_out(&mut self, actions: Actions) {
        for action in actions {
            self.note(&action);
            match action {
                Action::AskProgress(watch) => self.ask_progress(watch),
                Action::Check { check, linearizable } => {
                    self.told.asks(check, self.now);
                    self.checks_asked.insert(check, self.history.known());
                    self.step += 1;
                    let (after, step) = (self.latency(), self.step);
                    self.later(after, What::CheckArrive(check, linearizable, step));
                }
                Action::CloseWatch(watch) => self.close_watch(watch),
                Action::OpenWatch(watch) => self.open_watch(watch),
                Action::Resolve(id, resolution) => {
                    let reader = self.waiting.remove(&id).expect("it waits, and once");
                    match resolution {
                        Resolution::Answer(answer) => self.serve(reader, &answer),
                        Resolution::Forward(ticket) => self.forward(reader, Some(ticket)),
                        Resolution::Shared(result) => self.share(reader, result),
                    }
                }
            }
        }
    }

    /// The cluster may ask for credentials from now on, as far as the proxy knows.
    fn doubt(&mut self) {
        self.step += 1;
        self.told.doubt = self.step;
    }

    /// A linearizable read without credentials that was sent at this step has been allowed.
    fn prove(&mut self, sent: u64) {
        self.told.proof = self.told.proof.max(sent);
        if sent > self.unread {
            self.unread = 0;
        }
    }

    pub(crate) fn change_cluster(&mut self) {
        let index = self.cluster.states.len() - 1;
        for member in 0..self.cluster.applied.len() {
            let lag = if member == 0 {
                0
            } else {
                self.rng.u64(..=self.faults.lag)
            };
            if lag == 0 {
                self.apply(member, index);
            } else {
                self.later(Duration::from_micros(lag), What::Apply(member, index));
            }
        }
    }

    fn apply(&mut self, member: usize, index: usize) {
        self.cluster.apply(self.now, member, index);
        self.feed_watch(member);
    }

    /// The next thing that happens until then, if it is somebody's outside.
    pub(crate) fn next(&mut self, until: Instant) -> Option<What> {
        loop {
            let at = self.heap.peek().map(|Reverse(entry)| entry.at);
            let timeout = self.cache.next_timeout().map(|at| at.max(self.now));
            let first = at.into_iter().chain(timeout).min().filter(|at| *at <= until);
            let Some(first) = first else {
                self.now = until;
                return None;
            };
            self.now = first;
            if at != Some(first) {
                self.tell(Event::Timeout);
                self.check_bounds();
                continue;
            }
            let Reverse(entry) = self.heap.pop().expect("just seen");
            match entry.what {
                what @ (What::Act | What::Fault | What::Undo) => return Some(what),
                what => self.happen(what),
            }
            self.check_bounds();
        }
    }

    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Lets time pass, when nobody acts.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next(until).is_some() {}
    }

    fn happen(&mut self, what: What) {
        if self.is_loud {
            eprintln!("{:?} {what:?}", self.now);
        }
        match what {
            What::Act | What::Fault | What::Undo => {}
            What::Apply(member, index) => self.apply(member, index),
            What::AuthArrive => {
                self.cluster.push(|state| state.auth = true);
                self.change_cluster();
                let after = self.latency();
                self.later(after, What::AuthEnd);
            }
            What::AuthEnd => self.tell(Event::AuthMayHaveChanged),
            What::Cancel(reader) => self.cancel(reader),
            What::CheckArrive(id, linearizable, sent) => self.check_arrives(id, linearizable, sent),
            What::CheckReply(id, result, proof) => {
                if matches!(&result, Err(status) if status.code == 3) {
                    self.doubt();
                }
                let asked = self.checks_asked.remove(&id).expect("it was asked once");
                let result = self.judged_check(asked, proof.is_some(), result);
                if let Some(sent) = proof.filter(|_| result.is_ok()) {
                    self.prove(sent);
                }
                self.told.check_told(id, &result);
                self.tell(Event::Checked(id, result));
            }
            What::HubNotices => self.notice(),
            What::ProgressArrive(generation) => self.progress_arrives(generation),
            What::ReadArrive(reader) => self.read_arrives(reader),
            What::ReadReply(reader, result) => self.read_replied(reader, result),
            What::WatchDeliver(generation, watch, item) => self.deliver(generation, watch, item),
            What::WatchLost(generation, watch) => self.lose_watch(generation, watch),
            What::WatchOpen(generation) => self.watch_opens(generation),
            What::WriteArrive(own) => self.write_arrives(own),
            What::WriteReply(own, revision, deleted) => self.write_replied(own, revision, deleted),
            What::WriteTimeout(own) => self.write_timeout(own),
        }
    }

    fn check_arrives(&mut self, id: CheckId, linearizable: bool, sent: u64) {
        if self.rng.u64(..1000) < self.faults.checks_lost {
            return;
        }
        let member = self.cluster.member();
        // They ask for a leader, all of them.
        let is_down = self.faults.is_down || self.faults.is_leaderless;
        let result = if is_down || self.rng.u64(..1000) < self.faults.checks_failing {
            Err(Status::new(14, "etcdserver: no leader"))
        } else {
            self.catch_up(member, linearizable);
            let state = self.cluster.state_of(member);
            if state.auth {
                Err(crate::cluster::denied())
            } else {
                Ok(Cluster::header(state.revision, member))
            }
        };
        let proof = Some(sent).filter(|_| linearizable && result.is_ok());
        let after = self.latency();
        self.later(after, What::CheckReply(id, result, proof));
    }

    /// Before a member answers linearizably it comes to the last state.
    fn catch_up(&mut self, member: usize, linearizable: bool) {
        if linearizable {
            let last = self.cluster.states.len() - 1;
            self.apply(member, last);
        }
    }
}
