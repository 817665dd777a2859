//! Clients' Watch calls.

use std::rc::Rc;

use bytes::Bytes;
use etcd_proxy_core::watch::{Actions, Caller, ClientId, Event, Frame as HubFrame};
use etcd_proxy_proto::etcdserverpb::WatchResponse;
use prost::Message as _;

use crate::delivery::{Frame, Opening, StreamNo};
use crate::io::Io;
use crate::net::LinkId;
use crate::proxy::Proxy;
use crate::proxy::outlets::{Flushed, Incoming, PREFIX};
use crate::situations::Situation;

impl Proxy {
    pub(in crate::proxy) fn watch_opened(
        &mut self,
        io: &mut Io,
        link: LinkId,
        stream: StreamNo,
        opening: &Rc<Opening>,
    ) {
        let caller = Caller {
            connection: link.number(),
            credentials: opening.token.clone(),
            require_leader: opening.require_leader,
        };
        let mut actions = Actions::new();
        let client = self.watch.hub.open(io.now, caller, &mut actions);
        self.watch.outlets.open(link, stream, client, opening.window);
        self.carry_out_watch(io, actions);
        self.set_watch_timeout(io);
    }

    /// Something comes from the client of a Watch call.
    pub(in crate::proxy) fn watch_frame(&mut self, io: &mut Io, link: LinkId, frame: Frame) {
        if self.watch.outlets.frame(io, link, frame) {
            self.run_hub(io);
        }
    }

    /// The client has ended its Watch call, or its connection broke.
    pub(in crate::proxy) fn watch_gone(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        if let Some(client) = self.watch.outlets.gone(link, stream) {
            self.watch.in_fragments.remove(&client);
            self.tell(io, Event::ClientGone(client));
        }
    }

    /// The connection of a client is gone.
    pub(in crate::proxy) fn watches_gone(&mut self, io: &mut Io, link: LinkId) {
        for stream in self.watch.outlets.of_link(link) {
            self.watch_gone(io, link, stream);
        }
    }

    /// The next thing that a client has sent and the hub wants to know.
    pub(super) fn next_read(&mut self) -> Option<Event> {
        let (client, incoming) = self.watch.outlets.next_read()?;
        Some(match incoming {
            Incoming::Message(message) => Event::ClientSent(client, message),
            Incoming::HalfClose => Event::ClientHalfClosed(client),
        })
    }

    pub(super) fn put_out(&mut self, io: &mut Io, client: ClientId, frame: &HubFrame) {
        let bytes = Bytes::from([&frame.head[..], &frame.tail[..]].concat());
        let response = WatchResponse::decode(&bytes[PREFIX..]).expect("the hub writes what can be read");
        let fragments = &mut self.watch.in_fragments;
        let in_fragments = if response.fragment {
            !fragments.insert(client)
        } else {
            fragments.remove(&client)
        };
        if !response.events.is_empty() && !in_fragments {
            let waiting = self.watch.outlets.bytes(client);
            assert!(
                waiting < self.watch.config.outbox_bytes_max,
                "{client:?} is sent events, and {waiting} bytes wait already"
            );
        }
        self.watch.outlets.put(io, client, bytes);
    }

    /// What waits for a client is written.
    pub(in crate::proxy) fn watch_flush(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        let Some(Flushed { taken, is_full }) = self.watch.outlets.flush(io, link, stream) else {
            return;
        };
        if is_full {
            io.count(Situation::WatchClientSlow);
        }
        if let Some((client, bytes)) = taken {
            self.tell(io, Event::ClientTook(client, bytes));
        }
    }
}
