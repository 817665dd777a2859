//! The hosts on which members run, and what happens to them.

use etcd_proxy_core::time::Instant;
use etcd_proxy_model::cluster::Fault;

use super::Members;
use crate::delivery::Frame;
use crate::io::Io;
use crate::net::{LinkId, Side};

/// How a member's host is.
#[derive(Debug)]
pub(crate) struct Host {
    /// The process runs.
    pub(crate) up: bool,
    /// The process gets no CPU; its kernel takes connections and data all the same.
    pub(crate) frozen: bool,
    /// Nothing comes through from or to it.
    pub(crate) unreachable: bool,
    /// It accepts connections, and ends them at once.
    pub(crate) says_goodbye: bool,
    /// It refuses this share of calls until then.
    pub(crate) refuses_percent: u8,
    pub(crate) refuses_until: Instant,
    /// It resets this share of the calls that it has processed until then.
    pub(crate) resets_percent: u8,
    pub(crate) resets_until: Instant,
    /// What the frozen process hasn't read.
    pub(super) inbox: Vec<(LinkId, Frame)>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            up: true,
            frozen: false,
            unreachable: false,
            says_goodbye: false,
            refuses_percent: 0,
            refuses_until: Instant::ZERO,
            resets_percent: 0,
            resets_until: Instant::ZERO,
            inbox: Vec::new(),
        }
    }
}

impl Host {
    pub(super) fn answers(&self) -> bool {
        self.up && !self.frozen && !self.unreachable && !self.says_goodbye
    }
}

impl Members {
    /// The process dies: its kernel ends its connections.
    pub(crate) fn kill(&mut self, io: &mut Io, member: usize) {
        for link in self.die(io, member) {
            io.close(link, Side::Acceptor);
        }
    }

    /// The host loses power: nobody says so.
    pub(crate) fn power_off(&mut self, io: &mut Io, member: usize) {
        for link in self.die(io, member) {
            io.forget(link, Side::Acceptor);
        }
        self.set_unreachable(io, member, true);
    }

    fn die(&mut self, io: &mut Io, member: usize) -> Vec<LinkId> {
        let links: Vec<LinkId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.member == member)
            .map(|(link, _)| *link)
            .collect();
        for link in &links {
            let Some(gone) = self.connections.remove(link) else {
                continue;
            };
            for call in gone.calls.into_values() {
                self.calls.remove(&call);
            }
            for stream in gone.streams.into_values() {
                self.streams.remove(&stream);
            }
        }
        self.hosts[member].up = false;
        self.hosts[member].frozen = false;
        self.hosts[member].inbox.clear();
        self.fault(io, Fault::Crash(member));
        links
    }

    /// The process runs again, and its host can be reached.
    pub(crate) fn start(&mut self, io: &mut Io, member: usize) {
        self.hosts[member].up = true;
        self.fault(io, Fault::Start(member));
        self.set_unreachable(io, member, false);
    }

    pub(crate) fn freeze(&mut self, io: &mut Io, member: usize) {
        if self.hosts[member].up {
            self.hosts[member].frozen = true;
            self.fault(io, Fault::Freeze(member));
        }
    }

    pub(crate) fn thaw(&mut self, io: &mut Io, member: usize) {
        if !std::mem::take(&mut self.hosts[member].frozen) {
            return;
        }
        self.fault(io, Fault::Thaw(member));
        for (link, frame) in std::mem::take(&mut self.hosts[member].inbox) {
            self.frame(io, link, frame);
        }
    }

    /// Nothing comes through from or to the member's clients, or again all that was held up.
    pub(crate) fn set_unreachable(&mut self, io: &mut Io, member: usize, unreachable: bool) {
        if std::mem::replace(&mut self.hosts[member].unreachable, unreachable) == unreachable {
            return;
        }
        for link in io.net.links_of(member) {
            for side in Side::BOTH {
                if unreachable {
                    io.stall(link, side);
                } else {
                    io.unstall(link, side);
                }
            }
        }
    }

    /// It accepts connections from now on only to end them, or no longer.
    pub(crate) fn set_says_goodbye(&mut self, io: &mut Io, member: usize, says_goodbye: bool) {
        self.hosts[member].says_goodbye = says_goodbye;
        if says_goodbye {
            for link in io.net.links_of(member) {
                self.say_goodbye(io, link, true);
            }
        }
    }
}
