//! Clients' LeaseKeepAlive calls.

use std::rc::Rc;

use bytes::Bytes;
use etcd_proxy_core::lease::{Actions, Caller, ClientId, Event, Heartbeat};
use etcd_proxy_model::status::Status;

use crate::delivery::{Frame, LeaseTag, Opening, StreamNo};
use crate::io::{Io, LeaseNote, Note};
use crate::net::LinkId;
use crate::proxy::Proxy;
use crate::proxy::outlets::{Flushed, Incoming, PREFIX};
use crate::situations::Situation;

/// An answer with its prefix is shorter.
const ANSWER_BYTES_MAX: usize = 100;

impl Proxy {
    pub(in crate::proxy) fn lease_opened(
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
        let client = self.lease.router.open(io.now, caller, &mut actions);
        let tag = opening.tag.expect("every call of a client has one");
        self.lease.tags.insert(client, tag);
        self.lease.outlets.open(link, stream, client, opening.window);
        self.note_lease(io, client, LeaseNote::Known);
        self.carry_out_lease(io, actions);
        self.set_lease_timeout(io);
    }

    pub(super) fn note_lease(&self, io: &mut Io, client: ClientId, what: LeaseNote) {
        let lease: LeaseTag = self.lease.tags[&client];
        io.notes.push(Note::Lease { lease, what });
    }

    /// Something comes from the client of a LeaseKeepAlive call, if it is one.
    pub(in crate::proxy) fn lease_frame(&mut self, io: &mut Io, link: LinkId, frame: Frame) {
        if self.lease.outlets.frame(io, link, frame) {
            self.run_router(io);
        }
    }

    /// The client has ended its LeaseKeepAlive call, or its connection broke.
    pub(in crate::proxy) fn lease_gone(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        if let Some(client) = self.lease.outlets.gone(link, stream) {
            self.note_lease(io, client, LeaseNote::Left);
            self.lease.tags.remove(&client);
            self.tell_router(io, Event::ClientGone(client));
        }
    }

    /// The connection of a client is gone.
    pub(in crate::proxy) fn leases_gone(&mut self, io: &mut Io, link: LinkId) {
        for stream in self.lease.outlets.of_link(link) {
            self.lease_gone(io, link, stream);
        }
    }

    /// The next thing that a client has sent and the router wants to know.
    pub(super) fn next_heartbeat(&mut self, io: &mut Io) -> Option<Event> {
        let (client, incoming) = self.lease.outlets.next_read()?;
        Some(match incoming {
            Incoming::Message(message) => {
                self.note_lease(io, client, LeaseNote::Heard(message.clone()));
                Event::ClientSent(client, Heartbeat::read(message))
            }
            Incoming::HalfClose => Event::ClientHalfClosed(client),
        })
    }

    pub(super) fn put_answer(&mut self, io: &mut Io, client: ClientId, message: Bytes) {
        self.note_lease(io, client, LeaseNote::Put(message.slice(PREFIX..)));
        let room = self.lease.config.outbox_bytes_max + self.lease.config.requests_max * ANSWER_BYTES_MAX;
        self.lease.outlets.put(io, client, message);
        let waiting = self.lease.outlets.bytes(client);
        assert!(waiting <= room, "{waiting} bytes wait for {client:?}");
    }

    pub(super) fn end_heartbeats(&mut self, io: &mut Io, client: ClientId, status: Status) {
        self.note_lease(io, client, LeaseNote::EndPut(status.clone()));
        self.lease.tags.remove(&client);
        self.lease.outlets.end(io, client, status);
    }

    /// What waits for a client is written.
    pub(in crate::proxy) fn lease_flush(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        let Some(Flushed { taken, is_full }) = self.lease.outlets.flush(io, link, stream) else {
            return;
        };
        if is_full {
            io.count(Situation::LeaseClientSlow);
        }
        if let Some((client, bytes)) = taken {
            self.tell_router(io, Event::ClientTook(client, bytes));
        }
    }
}
