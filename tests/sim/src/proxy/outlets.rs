//! Clients' streaming calls: what they send, and what waits for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_model::status::Status;

use crate::delivery::{Delivery, Frame, StreamNo};
use crate::io::Io;
use crate::net::{LinkId, Side};

/// How long it takes until what is put into an outbox is written.
const FLUSH_TAKES_MAX: Duration = Duration::from_micros(300);

/// Bytes before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// A streaming call of a client.
#[derive(Debug)]
struct Outlet<C> {
    /// What the machine calls it; none from when the machine ended it.
    client: Option<C>,
    /// Messages that the client has room for.
    window: u32,
    outbox: VecDeque<Bytes>,
    /// How it ends when all is written.
    end: Option<Status>,
    /// Nothing is read for now.
    paused: bool,
    /// What isn't read.
    inbox: VecDeque<Incoming>,
    /// It is about to be written.
    flushes: bool,
}

/// What a client sends.
#[derive(Debug)]
pub(super) enum Incoming {
    Message(Bytes),
    HalfClose,
}

/// What became of what waited for a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushed<C> {
    /// Bytes that have left, and whose they were.
    pub(super) taken: Option<(C, usize)>,
    /// There is more than the client has room for.
    pub(super) is_full: bool,
}

/// All calls of one machine, which calls them `C`.
#[derive(Debug)]
pub(super) struct Outlets<C> {
    /// The number of the proxy.
    proxy: usize,
    open: BTreeMap<(LinkId, StreamNo), Outlet<C>>,
    by_client: BTreeMap<C, (LinkId, StreamNo)>,
    /// Clients of which something may be read.
    readers: BTreeSet<C>,
}

impl<C: Copy + Ord + Debug> Outlets<C> {
    pub(super) fn new(proxy: usize) -> Self {
        Self {
            proxy,
            open: BTreeMap::new(),
            by_client: BTreeMap::new(),
            readers: BTreeSet::new(),
        }
    }

    /// Calls that are open, or have something to be written; and those that the machine knows.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.open.len(), self.by_client.len())
    }

    pub(super) fn has(&self, link: LinkId, stream: StreamNo) -> bool {
        self.open.contains_key(&(link, stream))
    }

    pub(super) fn open(&mut self, link: LinkId, stream: StreamNo, client: C, window: u32) {
        let outlet = Outlet {
            client: Some(client),
            window,
            outbox: VecDeque::new(),
            end: None,
            paused: false,
            inbox: VecDeque::new(),
            flushes: false,
        };
        self.open.insert((link, stream), outlet);
        self.by_client.insert(client, (link, stream));
    }

    /// Something comes from a client. Tells whether there is something to read.
    pub(super) fn frame(&mut self, io: &mut Io, link: LinkId, frame: Frame) -> bool {
        let (stream, incoming) = match frame {
            Frame::Message(stream, message) => (stream, Incoming::Message(message)),
            Frame::HalfClose(stream) => (stream, Incoming::HalfClose),
            Frame::Window(stream, messages) => {
                if let Some(outlet) = self.open.get_mut(&(link, stream)) {
                    outlet.window += messages;
                    self.flush_soon(io, link, stream);
                }
                return false;
            }
            other => panic!("a streaming call isn't sent {other:?}"),
        };
        let Some(outlet) = self.open.get_mut(&(link, stream)) else {
            return false;
        };
        outlet.inbox.push_back(incoming);
        if let Some(client) = outlet.client {
            self.readers.insert(client);
        }
        outlet.client.is_some()
    }

    /// A client has ended its call, or its connection broke. Gives what the machine called it, if it hasn't ended it.
    pub(super) fn gone(&mut self, link: LinkId, stream: StreamNo) -> Option<C> {
        let client = self.open.remove(&(link, stream))?.client?;
        self.by_client.remove(&client);
        Some(client)
    }

    /// The calls on a connection.
    pub(super) fn of_link(&self, link: LinkId) -> Vec<StreamNo> {
        let range = (link, StreamNo(0))..=(link, StreamNo(u32::MAX));
        self.open.range(range).map(|((_, stream), _)| *stream).collect()
    }

    fn outlet(&mut self, client: C) -> Option<(LinkId, StreamNo, &mut Outlet<C>)> {
        let (link, stream) = *self.by_client.get(&client)?;
        let outlet = self.open.get_mut(&(link, stream))?;
        Some((link, stream, outlet))
    }

    pub(super) fn set_paused(&mut self, client: C, paused: bool) {
        let (_, _, outlet) = self.outlet(client).expect("only who is there is paused");
        assert_ne!(outlet.paused, paused, "{client:?} is told what it knows");
        outlet.paused = paused;
        if !paused {
            self.readers.insert(client);
        }
    }

    /// The next thing that a client has sent and the machine wants to know.
    pub(super) fn next_read(&mut self) -> Option<(C, Incoming)> {
        while let Some(client) = self.readers.pop_first() {
            let Some((_, _, outlet)) = self.outlet(client).filter(|(_, _, outlet)| !outlet.paused) else {
                continue;
            };
            if let Some(incoming) = outlet.inbox.pop_front() {
                self.readers.insert(client);
                return Some((client, incoming));
            }
        }
        None
    }

    /// Bytes that wait for a client, as the machine counts them.
    pub(super) fn bytes(&self, client: C) -> usize {
        self.by_client
            .get(&client)
            .map_or(0, |at| self.open[at].outbox.iter().map(Bytes::len).sum())
    }

    /// Bytes that wait for all clients.
    pub(super) fn all_bytes(&self) -> usize {
        self.by_client.keys().map(|client| self.bytes(*client)).sum()
    }

    /// A message, with its prefix, waits for its client.
    pub(super) fn put(&mut self, io: &mut Io, client: C, bytes: Bytes) {
        let length = u32::try_from(bytes.len() - PREFIX)
            .expect("a message is short")
            .to_be_bytes();
        assert_eq!(bytes[..PREFIX], [0, length[0], length[1], length[2], length[3]]);
        let (link, stream, outlet) = self.outlet(client).expect("nothing is for those who are gone");
        outlet.outbox.push_back(bytes);
        self.flush_soon(io, link, stream);
    }

    /// The machine ends a call, after all that waits for its client.
    pub(super) fn end(&mut self, io: &mut Io, client: C, status: Status) {
        let (link, stream, outlet) = self.outlet(client).expect("only what is there is ended");
        outlet.client = None;
        outlet.end = Some(status);
        outlet.inbox.clear();
        self.by_client.remove(&client);
        self.flush_soon(io, link, stream);
    }

    fn flush_soon(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        if let Some(outlet) = self.open.get_mut(&(link, stream))
            && !std::mem::replace(&mut outlet.flushes, true)
        {
            let wait = io.within(Duration::ZERO..FLUSH_TAKES_MAX);
            io.after(wait, Delivery::Flush(self.proxy, link, stream));
        }
    }

    /// What waits for a client is written, as far as it has room; then the end. `None` if there is no such call.
    pub(super) fn flush(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) -> Option<Flushed<C>> {
        let outlet = self.open.get_mut(&(link, stream))?;
        outlet.flushes = false;
        let mut taken = 0;
        while outlet.window > 0
            && let Some(bytes) = outlet.outbox.pop_front()
        {
            outlet.window -= 1;
            taken += bytes.len();
            let message = bytes.slice(PREFIX..);
            io.send(link, Side::Acceptor, Frame::Message(stream, message));
        }
        let flushed = Flushed {
            taken: outlet.client.filter(|_| taken > 0).map(|client| (client, taken)),
            is_full: !outlet.outbox.is_empty(),
        };
        if !flushed.is_full
            && let Some(status) = outlet.end.take()
        {
            io.send(link, Side::Acceptor, Frame::End(stream, status));
            self.open.remove(&(link, stream));
        }
        Some(flushed)
    }
}
