//! What can be done to the world.

use etcd_proxy_core::endpoints::{ConnectionId, Event, Health};

use crate::sim::{Coming, Sim};
use crate::world::{Link, Mood, address};

impl Sim {
    pub(crate) fn set_mood(&mut self, member: usize, mood: Mood) {
        self.trace
            .line(format_args!("{:?} member {member} {mood:?}", self.now));
        self.members[member].mood = mood;
        let ids: Vec<ConnectionId> = self.links_of(member);
        for id in ids {
            match mood {
                Mood::Dead => self.break_link(id),
                Mood::Goodbye => self.soon(id, Coming::GoAway(id)),
                Mood::Up | Mood::Frozen | Mood::BlackHole => {}
            }
            self.note_silence(id);
            let link = &mut self.links.get_mut(&id).expect("it is one of its links");
            if link.mute_since.is_none() && std::mem::take(&mut link.held_probe) {
                self.soon(id, Coming::ProbeArrives(id));
            }
        }
    }

    pub(crate) fn set_leader(&mut self, member: usize, leader: bool) {
        self.trace
            .line(format_args!("{:?} member {member} leader: {leader}", self.now));
        self.members[member].leader = leader;
    }

    pub(crate) fn replace(&mut self, listed: Vec<usize>) {
        let removed = self.in_use().is_some_and(|member| !listed.contains(&member));
        if listed.is_empty() {
            self.counts.add("empty replace");
        } else {
            if removed {
                self.counts.add("removed the endpoint in use");
            }
            let open = |link: &Link| link.open && !listed.contains(&link.member);
            if self.links.values().any(open) {
                self.counts.add("removed with open connections");
            }
            self.listed.clone_from(&listed);
        }
        self.deliver(Event::Replace(listed.into_iter().map(address).collect()));
    }

    pub(crate) fn break_link(&mut self, id: ConnectionId) {
        let link = self.links.get_mut(&id).expect("only links are broken");
        if link.open && !link.broken {
            link.broken = true;
            self.soon(id, Coming::Broken(id));
        }
    }

    pub(crate) fn drain_link(&mut self, id: ConnectionId) {
        self.soon(id, Coming::GoAway(id));
    }

    pub(crate) fn silence_link(&mut self, id: ConnectionId) {
        self.counts.add("connection silenced");
        self.links.get_mut(&id).expect("only links are silenced").silenced = true;
        self.note_silence(id);
    }

    /// Breaks what would stay silent for ever, as TCP does in the end.
    pub(crate) fn break_silent(&mut self) {
        let silent: Vec<ConnectionId> = self
            .links
            .iter()
            .filter(|(_, link)| link.mute_since.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.break_link(id);
        }
    }

    /// An event about a connection that is gone.
    pub(crate) fn deliver_stale(&mut self, id: ConnectionId) {
        self.counts.add("stale event");
        let health = if self.rng.bool() {
            Health::Fit
        } else {
            Health::Unfit
        };
        let event = match self.rng.u8(..8) {
            0 => Event::Connected(id),
            1 => Event::ConnectFailed(id),
            2 => Event::Draining(id),
            3 => Event::Active(id),
            4 => Event::ProbeAnswered(id, health),
            5 => Event::Doubt(id),
            6 => Event::ProbeLost(id),
            _ => Event::Lost {
                connection: id,
                graceful: self.rng.bool(),
            },
        };
        self.deliver(event);
    }
}
