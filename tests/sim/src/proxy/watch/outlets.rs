//! Clients' Watch calls: what they send, and what waits for them.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::watch::{Actions, Caller, ClientId, Event, Frame as HubFrame};
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::WatchResponse;
use prost::Message as _;

use crate::delivery::{Delivery, Frame, Opening, StreamNo, WatchAlarm};
use crate::io::Io;
use crate::net::{LinkId, Side};
use crate::proxy::Proxy;
use crate::situations::Situation;

/// How long it takes until what is put into an outbox is written.
const FLUSH_TAKES_MAX: Duration = Duration::from_micros(300);

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A Watch call of a client.
#[derive(Debug)]
pub(super) struct Outlet {
    /// What the hub calls it; none from when the hub ended it.
    pub(super) client: Option<ClientId>,
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
    /// What was put in last is a fragment, and not the last one.
    in_fragments: bool,
}

#[derive(Debug)]
enum Incoming {
    Message(Bytes),
    HalfClose,
}

impl Outlet {
    /// Bytes that wait for the client, as the hub counts them.
    pub(super) fn bytes(&self) -> usize {
        self.outbox.iter().map(Bytes::len).sum()
    }
}

impl Proxy {
    pub(in crate::proxy) fn watch_opened(
        &mut self,
        io: &mut Io,
        link: LinkId,
        stream: StreamNo,
        opening: &Rc<Opening>,
    ) {
        if !self.clients.contains_key(&link) {
            return;
        }
        let caller = Caller {
            credentials: opening.token.clone(),
            require_leader: opening.require_leader,
        };
        let mut actions = Actions::new();
        let client = self.watch.hub.open(io.now, caller, &mut actions);
        let outlet = Outlet {
            client: Some(client),
            window: opening.window,
            outbox: VecDeque::new(),
            end: None,
            paused: false,
            inbox: VecDeque::new(),
            flushes: false,
            in_fragments: false,
        };
        self.watch.outlets.insert((link, stream), outlet);
        self.watch.by_client.insert(client, (link, stream));
        self.carry_out_watch(io, actions);
        self.set_watch_timeout(io);
    }

    /// Something comes from the client of a Watch call. Tells whether there is such a call.
    pub(in crate::proxy) fn watch_frame(
        &mut self,
        io: &mut Io,
        link: LinkId,
        stream: StreamNo,
        frame: Frame,
    ) {
        let Some(outlet) = self.watch.outlets.get_mut(&(link, stream)) else {
            return;
        };
        match frame {
            Frame::Message(_, message) => outlet.inbox.push_back(Incoming::Message(message)),
            Frame::HalfClose(_) => outlet.inbox.push_back(Incoming::HalfClose),
            Frame::Window(_, messages) => {
                outlet.window += messages;
                return self.flush_soon(io, link, stream);
            }
            _ => return self.watch_gone(io, link, stream),
        }
        if let Some(client) = outlet.client {
            self.watch.readers.insert(client);
            self.run_hub(io);
        }
    }

    /// The client has ended its Watch call, or its connection broke.
    pub(in crate::proxy) fn watch_gone(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        if let Some(outlet) = self.watch.outlets.remove(&(link, stream))
            && let Some(client) = outlet.client
        {
            self.watch.by_client.remove(&client);
            self.tell(io, Event::ClientGone(client));
        }
    }

    /// The connection of a client is gone.
    pub(in crate::proxy) fn watches_gone(&mut self, io: &mut Io, link: LinkId) {
        let range = (link, StreamNo(0))..=(link, StreamNo(u32::MAX));
        let streams: Vec<StreamNo> = self
            .watch
            .outlets
            .range(range)
            .map(|((_, stream), _)| *stream)
            .collect();
        for stream in streams {
            self.watch_gone(io, link, stream);
        }
    }

    fn outlet(&mut self, client: ClientId) -> Option<(LinkId, StreamNo, &mut Outlet)> {
        let (link, stream) = *self.watch.by_client.get(&client)?;
        let outlet = self.watch.outlets.get_mut(&(link, stream))?;
        Some((link, stream, outlet))
    }

    pub(super) fn set_paused(&mut self, client: ClientId, paused: bool) {
        let (_, _, outlet) = self.outlet(client).expect("the hub pauses only who is there");
        assert_ne!(outlet.paused, paused, "{client:?} is told what it knows");
        outlet.paused = paused;
    }

    /// The next thing that a client has sent and the hub wants to know.
    pub(super) fn next_read(&mut self) -> Option<Event> {
        while let Some(client) = self.watch.readers.pop_first() {
            let Some((_, _, outlet)) = self.outlet(client).filter(|(_, _, outlet)| !outlet.paused) else {
                continue;
            };
            if let Some(incoming) = outlet.inbox.pop_front() {
                self.watch.readers.insert(client);
                return Some(match incoming {
                    Incoming::Message(message) => Event::ClientSent(client, message),
                    Incoming::HalfClose => Event::ClientHalfClosed(client),
                });
            }
        }
        None
    }

    pub(super) fn put_out(&mut self, io: &mut Io, client: ClientId, frame: &HubFrame) {
        let outbox_max = self.watch.config.outbox_bytes_max;
        let (link, stream, outlet) = self.outlet(client).expect("nothing is for those who are gone");
        let bytes = Bytes::from([&frame.head[..], &frame.tail[..]].concat());
        let length = u32::try_from(bytes.len() - PREFIX)
            .expect("a message is short")
            .to_be_bytes();
        assert_eq!(bytes[..PREFIX], [0, length[0], length[1], length[2], length[3]]);
        let response = WatchResponse::decode(&bytes[PREFIX..]).expect("the hub writes what can be read");
        let in_fragments = std::mem::replace(&mut outlet.in_fragments, response.fragment);
        if !response.events.is_empty() && !in_fragments {
            assert!(
                outlet.bytes() < outbox_max,
                "{client:?} is sent events, and {} bytes wait already",
                outlet.bytes()
            );
        }
        outlet.outbox.push_back(bytes);
        self.flush_soon(io, link, stream);
    }

    pub(super) fn end_outlet(&mut self, io: &mut Io, client: ClientId, status: Status) {
        let (link, stream, outlet) = self.outlet(client).expect("the hub ends only what is there");
        outlet.client = None;
        outlet.end = Some(status);
        outlet.inbox.clear();
        self.watch.by_client.remove(&client);
        self.flush_soon(io, link, stream);
    }

    fn flush_soon(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        if let Some(outlet) = self.watch.outlets.get_mut(&(link, stream))
            && !std::mem::replace(&mut outlet.flushes, true)
        {
            let wait = io.within(Duration::ZERO..FLUSH_TAKES_MAX);
            let alarm = WatchAlarm::Flush(link, stream);
            io.after(wait, Delivery::WatchAlarm(self.index, alarm));
        }
    }

    pub(super) fn flush(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        let Some(outlet) = self.watch.outlets.get_mut(&(link, stream)) else {
            return;
        };
        outlet.flushes = false;
        let mut taken = 0;
        while outlet.window > 0
            && let Some(bytes) = outlet.outbox.pop_front()
        {
            outlet.window -= 1;
            taken += bytes.len();
            io.send(
                link,
                Side::Acceptor,
                Frame::Message(stream, bytes.slice(PREFIX..)),
            );
        }
        if !outlet.outbox.is_empty() {
            io.count(Situation::WatchClientSlow);
        } else if let Some(status) = outlet.end.take() {
            io.send(link, Side::Acceptor, Frame::End(stream, status));
            self.watch.outlets.remove(&(link, stream));
            return;
        }
        if let Some(client) = outlet.client
            && taken > 0
        {
            self.tell(io, Event::ClientTook(client, taken));
        }
    }
}
