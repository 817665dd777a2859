//! Streaming calls as a member's gRPC server sees them.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::cluster::{Event, Metadata, StreamId};
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{
    WatchCancelRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use prost::Message as _;

use super::Members;
use crate::delivery::{Frame, Opening, Reason, StreamNo};
use crate::io::{Io, Note};
use crate::net::{LinkId, Side};
use crate::situations::Situation;

/// A streaming call that the model works on.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) member: usize,
    link: LinkId,
    stream: StreamNo,
    rpc: Rpc,
    /// The watcher that was created last on it.
    created: Option<i64>,
    /// When the heartbeats came that aren't answered.
    heartbeats: VecDeque<Instant>,
}

impl Frame {
    /// Maps the model's end of a stream to what is sent: the stream is named later.
    pub(super) fn end(status: Status) -> impl FnOnce(StreamNo) -> Self {
        move |stream| Self::End(stream, status)
    }
}

impl Members {
    /// Streaming calls that are open.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn opened(&mut self, io: &mut Io, link: LinkId, stream: StreamNo, opening: &Rc<Opening>) {
        let Some(member) = self.takes(io, link, stream) else {
            return;
        };
        self.next_call += 1;
        let id = StreamId(self.next_call);
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.streams.insert(stream, id);
        }
        let served = Served {
            member,
            link,
            stream,
            rpc: opening.rpc,
            created: None,
            heartbeats: VecDeque::new(),
        };
        self.streams.insert(id, served);
        let event = Event::Open {
            stream: id,
            member,
            path: opening.rpc.path().into(),
            metadata: Metadata {
                token: opening.token.clone(),
                require_leader: opening.require_leader,
            },
            credit: opening.window,
        };
        self.step(io, event);
    }

    /// A message comes on a stream.
    pub(super) fn stream_message(&mut self, io: &mut Io, link: LinkId, stream: StreamNo, message: Bytes) {
        let streams = self.connections.get(&link).map(|connection| &connection.streams);
        let id = streams.and_then(|streams| streams.get(&stream)).copied();
        if let Some(served) = id.and_then(|id| self.streams.get_mut(&id))
            && served.rpc == Rpc::LeaseKeepAlive
        {
            served.heartbeats.push_back(io.now);
        }
        self.stream_event(io, link, stream, |stream| Event::Message { stream, message });
    }

    /// Something comes on a stream, if it is one that is open.
    pub(super) fn stream_event(
        &mut self,
        io: &mut Io,
        link: LinkId,
        stream: StreamNo,
        event: impl FnOnce(StreamId) -> Event,
    ) {
        let streams = self.connections.get(&link).map(|connection| &connection.streams);
        if let Some(id) = streams.and_then(|streams| streams.get(&stream)).copied() {
            self.step(io, event(id));
        }
    }

    /// The caller is gone.
    pub(super) fn forget_stream(&mut self, io: &mut Io, id: StreamId) {
        if self.streams.remove(&id).is_some() {
            self.step(io, Event::Reset(id));
        }
    }

    pub(super) fn stream_sends(&mut self, io: &mut Io, id: StreamId, message: Bytes) {
        let Some(served) = self.streams.get_mut(&id) else {
            return;
        };
        if served.rpc == Rpc::LeaseKeepAlive {
            let reached = served.heartbeats.pop_front();
            io.notes.push(Note::Renewed {
                reached: reached.expect("an answer is to a heartbeat"),
                message: message.clone(),
            });
        } else if let Ok(response) = WatchResponse::decode(message.clone())
            && response.created
            && !response.canceled
        {
            served.created = Some(response.watch_id);
        }
        io.send(
            served.link,
            Side::Acceptor,
            Frame::Message(served.stream, message),
        );
    }

    /// The server ends a stream.
    pub(super) fn stream_ends(&mut self, io: &mut Io, id: StreamId, frame: impl FnOnce(StreamNo) -> Frame) {
        let Some(Served { link, stream, .. }) = self.streams.remove(&id) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.streams.remove(&stream);
        }
        io.send(link, Side::Acceptor, frame(stream));
        self.close_if_done(io, link);
    }

    /// A running member's streaming calls.
    fn streams_of(&self, member: usize) -> Vec<StreamId> {
        if self.hosts[member].frozen {
            return Vec::new();
        }
        let streams = self.streams.iter().filter(|(_, served)| served.member == member);
        streams.map(|(id, _)| *id).collect()
    }

    /// A member ends one of its streaming calls, somehow.
    pub(crate) fn end_any_stream(&mut self, io: &mut Io, member: usize) {
        let streams = self.streams_of(member);
        let Some(id) = io.rng.choice(streams) else { return };
        self.step(io, Event::Reset(id));
        let frame: Box<dyn FnOnce(StreamNo) -> Frame> = match io.rng.u8(..20) {
            code @ 0..17 => Box::new(Frame::end(Status {
                code,
                message: "somehow".into(),
            })),
            17 => Box::new(|stream| Frame::Reset(stream, Reason::Cancel)),
            18 => Box::new(|stream| Frame::Reset(stream, Reason::Internal)),
            _ => Box::new(|stream| Frame::Reset(stream, Reason::Refused)),
        };
        io.count(if self.streams[&id].rpc == Rpc::LeaseKeepAlive {
            Situation::LeaseEndedByMember
        } else {
            Situation::WatchEndedByMember
        });
        self.stream_ends(io, id, frame);
    }

    /// A member ends all its calls of this RPC with this status. Tells how many.
    pub(crate) fn end_streams(&mut self, io: &mut Io, member: usize, rpc: Rpc, status: &Status) -> usize {
        let mut streams = self.streams_of(member);
        streams.retain(|id| self.streams[id].rpc == rpc);
        for id in &streams {
            self.step(io, Event::Reset(*id));
            self.stream_ends(io, *id, Frame::end(status.clone()));
        }
        streams.len()
    }

    /// A member cancels one of its watchers, and doesn't say why.
    pub(crate) fn cancel_any_watcher(&mut self, io: &mut Io, member: usize) {
        let mut streams = self.streams_of(member);
        streams.retain(|id| self.streams[id].created.is_some());
        let Some(id) = io.rng.choice(streams) else { return };
        let Some(watch_id) = self.streams.get(&id).and_then(|served| served.created) else {
            return;
        };
        io.count(Situation::WatcherCancelledByMember);
        let union = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
        let request = WatchRequest {
            request_union: Some(union),
        };
        let message = request.encode_to_vec().into();
        self.step(io, Event::Message { stream: id, message });
    }
}
