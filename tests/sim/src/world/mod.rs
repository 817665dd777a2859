//! The world: all its parts, and the loop that brings each delivery to where it belongs.

mod faults;
mod leases;
mod past;
mod script;
mod setup;
mod story;
mod watches;

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_proxy_core::time::Instant;
pub use faults::FaultKind;
pub use script::{Manner, WatchCost};

use self::faults::Remedy;
use self::past::Past;
use crate::client::{self, Client};
use crate::delivery::{Delivery, Frame};
use crate::io::Io;
use crate::members::Members;
use crate::net::{LinkId, Peer, Side};
use crate::oracle::Oracle;
use crate::proxy::Proxy;
use crate::settings::Settings;
use crate::situations::{Counts, Situation};
use crate::trace::Lines;

/// How often the properties that need no event are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A run: members, proxies, clients, the network between them, the time, and the oracle that watches.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    io: Io,
    members: Members,
    proxies: Vec<Proxy>,
    clients: Vec<Client>,
    oracle: Oracle,
    remedies: BTreeMap<u64, Remedy>,
    next_remedy: u64,
    past: Past,
    /// What the cluster calls its members.
    member_ids: Vec<u64>,
    /// When all was well again after the last faults.
    rested_at: Instant,
}

impl World {
    /// A world in which nothing has happened yet but that the cluster runs, proxies start, and clients dial.
    #[must_use]
    pub fn new(settings: Settings, lines: Lines) -> Self {
        let mut io = Io::new(settings.seed, settings.latency.clone(), lines);
        let members = Members::new(&mut io, settings.cluster.clone());
        let count = settings.cluster.members;
        let proxies = (0..settings.proxies)
            .map(|index| Proxy::new(&mut io, index, settings.proxy, count))
            .collect();
        let clients = settings.clients.iter().cloned().enumerate();
        let clients = clients
            .map(|(index, config)| Client::new(index, config))
            .collect();
        let past = Past::new(&settings, members.cluster.committed());
        let mut world = Self {
            oracle: Oracle::new(&settings),
            past,
            settings,
            io,
            members,
            proxies,
            clients,
            remedies: BTreeMap::new(),
            next_remedy: 0,
            member_ids: Vec::new(),
            rested_at: Instant::ZERO,
        };
        world.set_bounds();
        world.count_settings();
        world.learn_ids();
        if world.settings.switches_auth {
            world.add_users();
            world.past = Past::new(&world.settings, world.members.cluster.committed());
        }
        if world.settings.auth {
            world.enable_auth();
            world.past = Past::new(&world.settings, world.members.cluster.committed());
        }
        for proxy in &mut world.proxies {
            proxy.begin(&mut world.io);
        }
        for (index, client) in world.clients.iter_mut().enumerate() {
            client.dial(&mut world.io);
            client::first_step(&mut world.io, index, &client.config);
        }
        world.io.after(LOOK_INTERVAL, Delivery::Look);
        world.heard();
        world
    }

    fn count_settings(&mut self) {
        self.io.count(match self.settings.cluster.members {
            1 => Situation::OneMember,
            2 | 3 => Situation::ThreeMembers,
            _ => Situation::FiveMembers,
        });
        let direct = |client: &Client| matches!(client.config.target, client::Target::Member(_));
        for (holds, situation) in [
            (self.settings.proxies > 1, Situation::TwoProxies),
            (self.settings.proxy.endpoints.lanes == 3, Situation::ThreeLanes),
            (self.settings.auth, Situation::AuthOn),
            (self.settings.switches_auth, Situation::AuthSwitched),
            (self.clients.iter().any(direct), Situation::DirectClient),
        ] {
            if holds {
                self.io.count(situation);
            }
        }
    }

    /// The time of the world.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.io.now
    }

    /// How often each situation has come up.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.io.counts
    }

    /// A hash of all that has happened.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.io.trace.hash()
    }

    /// The last lines of the trace, if they are kept.
    #[must_use]
    pub fn into_tail(self) -> Vec<String> {
        self.io.trace.into_tail()
    }

    /// Lets everything happen that happens until then.
    ///
    /// # Panics
    /// When something happens that must not.
    pub fn run_until(&mut self, until: Instant) {
        while self.io.queue.next_at().is_some_and(|at| at <= until) {
            let (at, delivery) = self.io.queue.pop().expect("it has a next one");
            self.io.now = at;
            self.io.trace.note(at, &delivery);
            self.deliver(delivery);
            self.heard();
        }
        self.io.now = until;
    }

    /// Lets everything happen that happens in this time.
    ///
    /// # Panics
    /// When something happens that must not.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.io.now + time);
    }

    /// The oracle hears what has happened.
    fn heard(&mut self) {
        self.oracle.hear(&mut self.io, &self.members);
    }

    fn deliver(&mut self, delivery: Delivery) {
        let io = &mut self.io;
        match delivery {
            Delivery::Dial(link) => self.dial_arrives(link),
            Delivery::Dialled(link, accepted) => self.dial_answered(link, accepted),
            Delivery::Frame(link, to, frame) => {
                let Some(peer) = io.net.link(link).map(|link| link.peer(to)) else {
                    return;
                };
                if let Some(frame) = io.arrive(link, to, frame) {
                    self.hand_over(link, peer, to, frame);
                }
            }
            Delivery::Drain(link, to) => {
                let Some(peer) = io.net.link(link).map(|link| link.peer(to)) else {
                    return;
                };
                for frame in io.take_held(link, to) {
                    if let Some(frame) = self.io.arrive(link, to, frame) {
                        self.hand_over(link, peer, to, frame);
                    }
                }
            }
            Delivery::Broken(link, side) => self.breaks(link, side),
            Delivery::Keepalive(link, side) => io.keepalive(link, side),
            Delivery::LastGoAway(link) => self.members.last_go_away(io, link),
            Delivery::MemberDeadline(call) => self.members.deadline(io, call),
            Delivery::ClusterTimeout => self.members.timed_out(io),
            Delivery::MachineTimeout(proxy) => self.proxies[proxy].timed_out(io),
            Delivery::Report(proxy, report) => self.proxies[proxy].reported(io, report),
            Delivery::Alarm(proxy, call, alarm) => self.proxies[proxy].alarm(io, call, alarm),
            Delivery::WatchAlarm(proxy, alarm) => self.proxies[proxy].watch_alarm(io, alarm),
            Delivery::ReadAlarm(proxy, alarm) => self.proxies[proxy].read_alarm(io, alarm),
            Delivery::LeaseAlarm(proxy, alarm) => self.proxies[proxy].lease_alarm(io, alarm),
            Delivery::Flush(proxy, link, stream) => self.proxies[proxy].flush(io, link, stream),
            Delivery::AsidePing(proxy, link) => self.proxies[proxy].aside_ping(io, link),
            Delivery::Client(client, step) => {
                self.clients[client].step(io, &mut self.oracle, step);
            }
            Delivery::Remedy(number) => self.remedy(number),
            Delivery::Look => {
                self.oracle.look(io, &self.members, &self.proxies);
                io.after(LOOK_INTERVAL, Delivery::Look);
            }
        }
    }

    fn dial_arrives(&mut self, link: LinkId) {
        let Some(peer) = self.io.net.link(link).map(|link| link.acceptor) else {
            return;
        };
        match peer {
            Peer::Member(member) => self.members.dialled(&mut self.io, link, member),
            Peer::Proxy(proxy) => self.proxies[proxy].client_dialled(&mut self.io, link),
            Peer::Client(_) => {}
        }
    }

    fn dial_answered(&mut self, link: LinkId, accepted: bool) {
        let found = self.io.net.link(link).filter(|link| link.is_open(Side::Dialler));
        let Some(peer) = found.map(|link| link.dialler) else {
            return;
        };
        let io = &mut self.io;
        match peer {
            Peer::Client(client) => self.clients[client].dialled(io, &mut self.oracle, link, accepted),
            Peer::Proxy(proxy) => self.proxies[proxy].dialled(io, link, accepted),
            Peer::Member(_) => {}
        }
    }

    fn hand_over(&mut self, link: LinkId, peer: Peer, to: Side, frame: Frame) {
        let io = &mut self.io;
        match peer {
            Peer::Client(client) => self.clients[client].frame(io, &self.oracle, link, frame),
            Peer::Proxy(proxy) => self.proxies[proxy].frame(io, link, to, frame),
            Peer::Member(_) => self.members.frame(io, link, frame),
        }
    }

    fn breaks(&mut self, link: LinkId, side: Side) {
        let Some(peer) = self.io.net.link(link).map(|link| link.peer(side)) else {
            return;
        };
        let io = &mut self.io;
        if !io.learns_of_break(link, side) {
            return;
        }
        match peer {
            Peer::Client(client) => self.clients[client].frame(io, &self.oracle, link, Frame::Gone),
            Peer::Proxy(proxy) => self.proxies[proxy].broken(io, link, side),
            Peer::Member(_) => self.members.broken(io, link),
        }
    }
}
