//! The connections of a worker to the member in use, and which one takes a call.
//!
//! The first connection, the *main* one, is the endpoint machine's doing. Further ones are made on demand and closed when
//! they have been idle for a while. Each [`Class`] of calls has a *line* of connections of its own, the main one being the
//! first of [`Class::Prompt`]'s:
//!
//! - a line has one connection for as long as that has room. A server allows a number of calls on each connection
//!   (SETTINGS_MAX_CONCURRENT_STREAMS; etcd's `--max-concurrent-streams`), and a call beyond it would wait in line
//!   behind the others: for good, if those wait for what it would do;
//! - not all of that is clients': some is left for the proxy's own calls, and its streams that last take no more than
//!   half of a connection;
//! - the connections of a line are bounded in number, so all clients together have a bounded number of calls. A client may
//!   have as many of them as are still free: one alone gets half of all, and there is always one left for who has none.
//!   Whoever has its share waits for its turn.

mod shares;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use self::shares::Shares;
use crate::class::Class;
use crate::endpoints::ConnectionId;
use crate::time::Instant;

/// Most connections of each line, in the order of [`Class::ALL`]. Blocking calls are those that fill them.
const CONNECTIONS_MAX: [usize; 3] = [4, 4, 16];

/// How long a further connection stays without calls.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long after a connection couldn't be made another one is asked for.
const PAUSE: Duration = Duration::from_millis(500);

/// A server that allows as many calls on a connection doesn't limit them. Nothing is counted then.
const UNLIMITED: usize = 1 << 20;

/// What a pool must know of a connection.
pub trait Link {
    /// Which one it is.
    fn id(&self) -> ConnectionId;

    /// Whether it takes calls.
    fn is_open(&self) -> bool;

    /// Calls that are open on it.
    fn calls_open(&self) -> usize;

    /// How many of them the server allows; the largest number there is until it has said so.
    fn calls_max(&self) -> usize;
}

impl<L: Link> Link for Arc<L> {
    fn id(&self) -> ConnectionId {
        (**self).id()
    }

    fn is_open(&self) -> bool {
        (**self).is_open()
    }

    fn calls_open(&self) -> usize {
        (**self).calls_open()
    }

    fn calls_max(&self) -> usize {
        (**self).calls_max()
    }
}

/// Which client it is, by a number that no other client of the worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub u64);

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client.
    Client(Client),
    /// The proxy itself.
    Proxy,
    /// The proxy, which opens a stream that serves many clients and stays.
    Stream,
}

impl Asker {
    /// How many of the calls that a server allows on a connection may be open for this one to be made.
    const fn room(self, calls_max: usize) -> usize {
        let room = match self {
            Self::Client(_) => calls_max - calls_max / 8 - if calls_max > 1 { 1 } else { 0 },
            Self::Proxy => calls_max,
            Self::Stream => calls_max / 2,
        };
        if room == 0 { 1 } else { room }
    }
}

/// What a call is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<L> {
    /// Take this connection.
    Take {
        /// Which one.
        link: L,
        /// Whether the call is to be told of with [`Pool::begin`].
        counted: bool,
    },
    /// Ask for one more connection, which is nobody else's to do, and wait for a change.
    Want,
    /// Wait for a change: of the connections, or that half a second is over.
    Wait,
    /// Wait for the client's turn, or for a change.
    Turn,
}

/// One call of a client's, counted until it is given back.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    class: Class,
    client: Client,
    epoch: u64,
}

/// The connections of a worker. `T` is what a client is told with that its turn has come.
#[derive(Debug)]
pub struct Pool<L, T> {
    lines: [Line<L, T>; 3],
    /// Raised with each member and each main connection: what was counted before doesn't count any more.
    epoch: u64,
}

#[derive(Debug)]
struct Line<L, T> {
    entries: Vec<Entry<L>>,
    /// One more was asked for.
    wanted: bool,
    /// The last one couldn't be made; nothing is asked for until then.
    paused_until: Option<Instant>,
    shares: Shares<T>,
}

#[derive(Debug)]
struct Entry<L> {
    link: L,
    /// Since when it has been seen without calls.
    idle_since: Option<Instant>,
}

impl<L, T> Default for Pool<L, T> {
    fn default() -> Self {
        Self {
            lines: core::array::from_fn(|_| Line::default()),
            epoch: 0,
        }
    }
}

impl<L, T> Default for Line<L, T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            wanted: false,
            paused_until: None,
            shares: Shares::default(),
        }
    }
}

impl<L: Link + Clone, T: Clone> Pool<L, T> {
    /// There is another main connection, or none. Returns all that there were before.
    pub fn reset(&mut self, main: Option<L>) -> Vec<L> {
        self.epoch += 1;
        let former = core::mem::take(&mut self.lines);
        self.lines[Class::Prompt as usize]
            .entries
            .extend(main.map(Entry::new));
        former
            .into_iter()
            .flat_map(|line| line.entries.into_iter().map(|entry| entry.link))
            .collect()
    }

    /// The main connection.
    #[must_use]
    pub fn main(&self) -> Option<&L> {
        Some(&self.lines[Class::Prompt as usize].entries.first()?.link)
    }

    /// Whether there is a main connection that takes calls, and this one is none that does: neither that nor a further one.
    #[must_use]
    pub fn supersedes(&self, connection: ConnectionId) -> bool {
        let mut entries = self.lines.iter().flat_map(|line| &line.entries);
        self.main().is_some_and(Link::is_open)
            && !entries.any(|entry| entry.link.id() == connection && entry.link.is_open())
    }

    /// A connection that was asked for is there.
    pub fn join(&mut self, class: Class, link: L) {
        let line = &mut self.lines[class as usize];
        line.wanted = false;
        line.paused_until = None;
        line.entries.push(Entry::new(link));
    }

    /// A connection that was asked for can't be had.
    pub fn not_joined(&mut self, class: Class, now: Instant) {
        let line = &mut self.lines[class as usize];
        line.wanted = false;
        line.paused_until = Some(now + PAUSE);
    }

    /// A connection that was wanted couldn't even be asked for.
    pub fn not_asked(&mut self, class: Class) {
        self.lines[class as usize].wanted = false;
    }

    /// Where a call goes, other than to `avoid`. The time is only asked for when there is no room.
    pub fn choose(
        &mut self,
        class: Class,
        asker: Asker,
        avoid: Option<ConnectionId>,
        now: impl FnOnce() -> Instant,
    ) -> Choice<L> {
        let Some(main) = self.main().filter(|main| main.is_open()) else {
            // The machine will bring one.
            return Choice::Wait;
        };
        let calls_max = main.calls_max();
        let main_usable = Some(main.id()) != avoid;
        let line = &mut self.lines[class as usize];
        let mut counted = false;
        if calls_max < UNLIMITED
            && let Asker::Client(client) = asker
        {
            counted = true;
            if !line.shares.may_take(client, capacity(class, calls_max)) {
                return Choice::Turn;
            }
        }
        let usable = |link: &L| link.is_open() && Some(link.id()) != avoid;
        let has_room = |link: &L| usable(link) && link.calls_open() < asker.room(link.calls_max());
        if let Some(entry) = line.entries.iter().find(|entry| has_room(&entry.link)) {
            let link = entry.link.clone();
            return Choice::Take { link, counted };
        }
        if class == Class::Prompt && !main_usable {
            return Choice::Wait;
        }
        let now = now();
        // The main one is open.
        line.entries.retain(|entry| entry.link.is_open());
        let paused = line.paused_until.is_some_and(|until| now < until);
        let more = line.entries.len() < CONNECTIONS_MAX[class as usize];
        if more && line.wanted {
            return Choice::Wait;
        }
        if more && !paused {
            line.wanted = true;
            return Choice::Want;
        }
        if more && class == Class::Blocking {
            // It may stay for good where it is, so better later than in another's way.
            return Choice::Wait;
        }
        if !more && counted {
            // The proxy's own calls have taken a part of what is there.
            return Choice::Turn;
        }
        // Better in line than not at all.
        let links = line.entries.iter().map(|entry| &entry.link);
        let others = links
            .filter(|link| usable(link))
            .min_by_key(|link| link.calls_open());
        let found = others.cloned();
        match found.or_else(|| self.main().filter(|_| main_usable).cloned()) {
            Some(link) => Choice::Take { link, counted },
            None => Choice::Wait,
        }
    }

    /// A call that is counted is being opened.
    #[must_use]
    pub fn begin(&mut self, class: Class, client: Client) -> Ticket {
        self.lines[class as usize].shares.take(client);
        let epoch = self.epoch;
        Ticket { class, client, epoch }
    }

    /// A call that was counted is over. Returns how to tell the client whose turn it is.
    #[must_use]
    pub fn end(&mut self, ticket: &Ticket) -> Option<T> {
        if ticket.epoch != self.epoch {
            return None;
        }
        let calls_max = self.main().map_or(usize::MAX, Link::calls_max);
        let capacity = capacity(ticket.class, calls_max);
        let shares = &mut self.lines[ticket.class as usize].shares;
        shares.give_back(ticket.client, capacity)
    }

    /// A call waits for its client's turn, of which `turn` tells. To be followed by [`Pool::stop_waiting`] with what this
    /// returns.
    #[must_use]
    pub fn wait(&mut self, class: Class, client: Client, turn: T) -> Ticket {
        self.lines[class as usize].shares.wait(client, turn);
        let epoch = self.epoch;
        Ticket { class, client, epoch }
    }

    /// A call waits no longer.
    pub fn stop_waiting(&mut self, ticket: &Ticket) {
        if ticket.epoch == self.epoch {
            self.lines[ticket.class as usize]
                .shares
                .stop_waiting(ticket.client);
        }
    }

    /// Looks after the further connections, every now and then. Returns those that are to be let go of: they have ended,
    /// or nobody needs them.
    pub fn tidy(&mut self, now: Instant) -> Vec<L> {
        let mut left = Vec::new();
        for (line, class) in self.lines.iter_mut().zip(Class::ALL) {
            let first = usize::from(class == Class::Prompt);
            let further = line.entries.iter_mut().skip(first);
            for entry in further {
                if entry.link.calls_open() > 0 {
                    entry.idle_since = None;
                } else {
                    entry.idle_since.get_or_insert(now);
                }
            }
            let mut at = first;
            while at < line.entries.len() {
                let entry = &line.entries[at];
                let idle = entry.idle_since.is_some_and(|since| now >= since + IDLE_MAX);
                if idle || !entry.link.is_open() {
                    left.push(line.entries.remove(at).link);
                } else {
                    at += 1;
                }
            }
        }
        left
    }

    /// Whether there are further connections.
    #[must_use]
    pub fn has_further(&self) -> bool {
        self.lines.iter().map(|line| line.entries.len()).sum::<usize>() > 1
    }
}

impl<L> Entry<L> {
    const fn new(link: L) -> Self {
        Self {
            link,
            idle_since: None,
        }
    }
}

/// Calls that clients may have in a line.
fn capacity(class: Class, calls_max: usize) -> usize {
    Asker::Client(Client(0))
        .room(calls_max)
        .saturating_mul(CONNECTIONS_MAX[class as usize])
}

#[cfg(test)]
mod tests;
