//! Connections: in order, each way with a latency of its own, and all that can go wrong with them.

use std::ops::Range;
use std::time::Duration;

use etcd_proxy_core::time::Instant;

use crate::delivery::{Delivery, Frame};
use crate::io::Io;

/// How often a kernel asks whether the other side of a silent connection still knows of it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// How long a kernel goes on sending when nothing says that it arrives.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_millis(500);

/// A connection, from the wish to have it to its end. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(u32);

impl LinkId {
    pub(crate) fn number(self) -> u64 {
        self.0.into()
    }
}

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    /// The one that dialled.
    Dialler,
    /// The one that accepted.
    Acceptor,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Dialler, Self::Acceptor];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }
}

/// Who is at an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Client(usize),
    Proxy(usize),
    Member(usize),
}

#[derive(Clone, Debug, Default)]
struct Way {
    /// What was sent before arrives no later than this.
    arrived_by: Instant,
    /// Nothing comes through, since then; it is held until it does.
    stalled: Option<Instant>,
    held: Vec<Frame>,
    /// Nothing will ever come through.
    lost: bool,
    /// Whatever is sent from now on is lost, what is on its way isn't.
    closed: bool,
}

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) dialler: Peer,
    pub(crate) acceptor: Peer,
    /// Whether each side still has it.
    open: [bool; 2],
    /// To each side.
    ways: [Way; 2],
    latency: Range<Duration>,
    /// Factor of the latency.
    slowness: u32,
}

impl Link {
    pub(crate) fn peer(&self, side: Side) -> Peer {
        match side {
            Side::Dialler => self.dialler,
            Side::Acceptor => self.acceptor,
        }
    }

    fn latency(&self) -> Range<Duration> {
        self.latency.start * self.slowness..self.latency.end * self.slowness
    }

    pub(crate) fn is_open(&self, side: Side) -> bool {
        self.open[side as usize]
    }

    /// Whether whatever is sent on it arrives, in both directions.
    pub(crate) fn works(&self) -> bool {
        self.open == [true, true]
            && self
                .ways
                .iter()
                .all(|way| way.stalled.is_none() && !way.lost && !way.closed)
    }

    /// Whether nothing comes through to this side: what is sent is lost, or for a while no acknowledgement has come.
    fn is_stalled(&self, to: Side, now: Instant) -> bool {
        let unacknowledged = |since: Instant| now - since >= UNACKNOWLEDGED_MAX;
        self.ways[to as usize].stalled.is_some()
            || self.ways[to.other() as usize].stalled.is_some_and(unacknowledged)
    }
}

/// All connections of the world.
#[derive(Debug)]
pub(crate) struct Net {
    latency: Range<Duration>,
    links: Vec<Option<Link>>,
    open: usize,
}

impl Net {
    pub(crate) fn new(latency: Range<Duration>) -> Self {
        Self {
            latency,
            links: Vec::new(),
            open: 0,
        }
    }

    pub(crate) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links[id.0 as usize].as_ref()
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links[id.0 as usize].as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links
            .iter()
            .zip(0..)
            .filter_map(|(link, id)| Some((LinkId(id), link.as_ref()?)))
    }

    /// Connections that at least one side has.
    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// Connections between a proxy and this member that the member's machine takes part in.
    pub(crate) fn links_of(&self, member: usize) -> Vec<LinkId> {
        self.iter()
            .filter(|(_, link)| link.acceptor == Peer::Member(member))
            .map(|(id, _)| id)
            .collect()
    }

    fn shut(&mut self, id: LinkId, side: Side) {
        let Some(link) = self.link_mut(id) else { return };
        link.open[side as usize] = false;
        if link.open == [false, false] {
            self.links[id.0 as usize] = None;
            self.open -= 1;
        }
    }
}

impl Io {
    /// Asks for a connection. Answered with [`Delivery::Dialled`], if at all.
    pub(crate) fn dial(&mut self, dialler: Peer, acceptor: Peer) -> LinkId {
        let id = LinkId(u32::try_from(self.net.links.len()).expect("a run has few connections"));
        let base = self.within(self.net.latency.clone());
        self.net.links.push(Some(Link {
            dialler,
            acceptor,
            open: [true, false],
            ways: [Way::default(), Way::default()],
            // A path has a latency of its own, and varies around it.
            latency: base / 2..base + base / 2,
            slowness: 1,
        }));
        self.net.open += 1;
        let wait = self.within(base / 2..base + base / 2);
        self.after(wait, Delivery::Dial(id));
        id
    }

    /// The side that is asked for a connection says yes or no.
    pub(crate) fn accept(&mut self, id: LinkId, accepted: bool) {
        let Some(link) = self.net.link_mut(id) else { return };
        link.open[Side::Acceptor as usize] = accepted;
        let latency = link.latency();
        let wait = self.within(latency);
        let at = self.now + wait;
        if let Some(link) = self.net.link_mut(id) {
            link.ways[Side::Dialler as usize].arrived_by = at;
        }
        self.at(at, Delivery::Dialled(id, accepted));
    }

    /// Sends a frame to the other side.
    pub(crate) fn send(&mut self, id: LinkId, from: Side, frame: Frame) {
        let to = from.other();
        let Some(link) = self.net.link_mut(id) else { return };
        let way = &link.ways[to as usize];
        if way.closed || way.lost || !link.open[from as usize] {
            return;
        }
        let latency = link.latency();
        let wait = self.within(latency);
        let now = self.now;
        let Some(link) = self.net.link_mut(id) else { return };
        let way = &mut link.ways[to as usize];
        way.arrived_by = way.arrived_by.max(now + wait);
        let at = way.arrived_by;
        self.at(at, Delivery::Frame(id, to, frame));
    }

    /// A frame has come so far. Gives it back if it has arrived.
    pub(crate) fn arrive(&mut self, id: LinkId, to: Side, frame: Frame) -> Option<Frame> {
        let now = self.now;
        let link = self.net.link_mut(id)?;
        let is_stalled = link.is_stalled(to, now);
        let way = &mut link.ways[to as usize];
        if way.lost {
            return None;
        }
        if is_stalled || !way.held.is_empty() {
            way.held.push(frame);
            return None;
        }
        if !link.open[to as usize] {
            // Nobody knows of this connection here: RST, which doesn't overtake what was sent before.
            let back = &mut link.ways[to.other() as usize];
            if frame != Frame::Gone && link.open[to.other() as usize] && !back.closed {
                back.closed = true;
                let at = back.arrived_by.max(now + link.latency.start);
                self.at(at, Delivery::Broken(id, to.other()));
            }
            return None;
        }
        if frame == Frame::Gone {
            self.net.shut(id, to);
        }
        Some(frame)
    }

    /// What was held up on the way to this side, in order.
    pub(crate) fn take_held(&mut self, id: LinkId, to: Side) -> Vec<Frame> {
        let now = self.now;
        let Some(link) = self.net.link_mut(id) else {
            return Vec::new();
        };
        if link.is_stalled(to, now) {
            return Vec::new();
        }
        std::mem::take(&mut link.ways[to as usize].held)
    }

    /// This side closes its end; the other side learns of it after all that was sent before.
    pub(crate) fn close(&mut self, id: LinkId, side: Side) {
        self.send(id, side, Frame::Gone);
        self.net.shut(id, side);
    }

    /// This side has forgotten the connection, and the other doesn't learn of it before it sends something, or its
    /// kernel asks.
    pub(crate) fn forget(&mut self, id: LinkId, side: Side) {
        self.net.shut(id, side);
        self.after(TCP_KEEPALIVE, Delivery::Keepalive(id, side.other()));
    }

    /// The kernel of this side asks whether the other side still knows of the connection.
    pub(crate) fn keepalive(&mut self, id: LinkId, side: Side) {
        let Some(link) = self.net.link(id) else { return };
        if !link.open[side as usize] || link.open[side.other() as usize] {
            return;
        }
        if link.ways.iter().any(|way| way.stalled.is_some()) {
            self.after(TCP_KEEPALIVE, Delivery::Keepalive(id, side));
        } else {
            let there_and_back = link.latency().start * 2;
            self.after(there_and_back, Delivery::Broken(id, side));
        }
    }

    /// Whether this side learns only now that the connection broke.
    pub(crate) fn learns_of_break(&mut self, id: LinkId, side: Side) -> bool {
        let open = self.net.link(id).is_some_and(|link| link.is_open(side));
        if open {
            self.net.shut(id, side);
        }
        open
    }

    /// The connection breaks. What is on its way is lost where `lost` (to the dialler, to the acceptor) says so;
    /// otherwise it arrives before the end does.
    pub(crate) fn break_link(&mut self, id: LinkId, lost: [bool; 2]) {
        if self.net.link(id).is_none_or(|link| link.open != [true, true]) {
            // It isn't one yet, or about to end.
            return;
        }
        for side in Side::BOTH {
            let Some(link) = self.net.link_mut(id) else { return };
            if !link.open[side as usize] || link.ways[side as usize].closed {
                continue;
            }
            let latency = link.latency();
            link.ways[side as usize].lost = lost[side as usize];
            if lost[side as usize] {
                let wait = self.within(latency);
                self.after(wait, Delivery::Broken(id, side));
            } else {
                self.send_even_if_shut(id, side);
            }
            if let Some(link) = self.net.link_mut(id) {
                link.ways[side as usize].closed = true;
            }
        }
    }

    fn send_even_if_shut(&mut self, id: LinkId, to: Side) {
        let Some(link) = self.net.link_mut(id) else { return };
        let at = link.ways[to as usize].arrived_by.max(self.now) + link.latency.start;
        link.ways[to as usize].arrived_by = at;
        self.at(at, Delivery::Frame(id, to, Frame::Gone));
    }

    /// From now on nothing comes through to this side, until [`Io::unstall`].
    pub(crate) fn stall(&mut self, id: LinkId, to: Side) {
        let now = self.now;
        if let Some(link) = self.net.link_mut(id) {
            link.ways[to as usize].stalled.get_or_insert(now);
        }
    }

    /// What was held up to this side comes through, as TCP sends it again.
    pub(crate) fn unstall(&mut self, id: LinkId, to: Side) {
        if let Some(link) = self.net.link_mut(id)
            && link.ways[to as usize].stalled.take().is_some()
        {
            for side in Side::BOTH {
                self.after(Duration::ZERO, Delivery::Drain(id, side));
            }
        }
    }

    /// Every frame on a connection takes so many times as long as usual from now on.
    pub(crate) fn slow_down(&mut self, id: LinkId, factor: u32) {
        if let Some(link) = self.net.link_mut(id) {
            link.slowness = factor;
        }
    }
}
