//! Streams: Watch, LeaseKeepAlive and the watch of Health.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{WatchRequest, watch_request::RequestUnion};
use etcd_proxy_proto::health::health_check_response::ServingStatus;
use etcd_proxy_proto::health::{HealthCheckRequest, HealthCheckResponse};
use prost::{DecodeError, Message};

use super::answer::serving;
use super::lease::KeepAlive;
use super::request::StreamMethod;
use super::types::{Action, Member, Metadata, StreamId};
use super::{Cluster, OVERHEAD_BYTES, Timer};
use crate::auth::Identity;
use crate::error::Error;
use crate::status::Status;
use crate::watch::{Settings, WatchStream};

/// A stream that is open.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) member: Member,
    require_leader: bool,
    pub(super) token: Option<Bytes>,
    /// Messages that may be sent.
    credit: u32,
    pub(super) half_closed: bool,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    HealthWatch(Option<HealthWatch>),
    KeepAlive(KeepAlive),
    /// The member hasn't read the call yet, or is at it now.
    Unread,
    Watch(Box<Watch>),
}

/// The one answer of a Health watch, until the client takes it.
#[derive(Debug)]
pub(super) struct HealthWatch(Option<HealthCheckResponse>);

/// The server's end of one Watch call.
#[derive(Debug)]
pub(super) struct Watch {
    requests: VecDeque<Bytes>,
    stream: WatchStream,
    /// What [`Timer::Watch`] is set to.
    timeout: Option<etcd_proxy_core::time::Instant>,
}

impl Stream {
    pub(super) fn backlog(&self) -> usize {
        match &self.kind {
            Kind::KeepAlive(keep_alive) => keep_alive.requests.len(),
            Kind::Watch(watch) => watch.requests.len(),
            Kind::HealthWatch(_) | Kind::Unread => 0,
        }
    }
}

impl Cluster {
    /// A streaming call is on its way to a member.
    pub(super) fn register(&mut self, id: StreamId, member: Member, metadata: &Metadata, credit: u32) {
        let stream = Stream {
            member,
            require_leader: metadata.require_leader,
            token: metadata.token.clone(),
            credit,
            half_closed: false,
            kind: Kind::Unread,
        };
        let old = self.streams.insert(id, stream);
        assert!(old.is_none(), "{id:?} is open already");
    }

    /// The member reads a streaming call.
    pub(super) fn open(&mut self, id: StreamId, path: &str) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let (member, require_leader) = (stream.member, stream.require_leader);
        let method = match StreamMethod::of(path) {
            Ok(method) => method,
            Err(status) => return self.end(id, status),
        };
        // Calls with one request are refused once it has come, but nothing can come in between.
        if require_leader && self.nodes[member].lead.is_none() {
            return self.end(id, Error::NoLeader.status());
        }
        let kind = match method {
            StreamMethod::HealthWatch => Kind::HealthWatch(None),
            StreamMethod::LeaseKeepAlive => Kind::KeepAlive(KeepAlive::default()),
            StreamMethod::Watch => {
                let settings = Settings {
                    buffer_max: self.config.watch_buffer_max,
                    progress_interval: self.config.progress_interval,
                    response_bytes_max: self.config.request_bytes_max.saturating_add(OVERHEAD_BYTES),
                };
                let store = self.nodes[member].state.store();
                let watch = Watch {
                    requests: VecDeque::new(),
                    stream: WatchStream::new(self.now, store, &settings, &mut self.random),
                    timeout: None,
                };
                Kind::Watch(Box::new(watch))
            }
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.kind = kind;
        }
    }

    /// The member reads a message of a stream.
    pub(super) fn receive(&mut self, id: StreamId, message: Bytes) {
        let sized = self.check_size(&message);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let refused = match &mut stream.kind {
            Kind::KeepAlive(keep_alive) => {
                keep_alive.requests.push_back(message);
                None
            }
            Kind::Watch(watch) => {
                watch.requests.push_back(message);
                None
            }
            // This one takes one request.
            Kind::HealthWatch(Some(_)) | Kind::Unread => return,
            Kind::HealthWatch(watch) => match HealthCheckRequest::decode(message) {
                _ if sized.is_err() => sized.err(),
                Err(error) => Some(undecodable(&error)),
                Ok(request) => {
                    let unknown = HealthCheckResponse {
                        status: ServingStatus::ServiceUnknown.into(),
                    };
                    let answer = if request.service.is_empty() {
                        serving()
                    } else {
                        unknown
                    };
                    *watch = Some(HealthWatch(Some(answer)));
                    None
                }
            },
        };
        match refused {
            Some(status) => self.end(id, status),
            None => self.pump(id),
        }
    }

    /// The client has said all it wants to say.
    pub(super) fn half_close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.half_closed = true;
        match &stream.kind {
            Kind::HealthWatch(None) => self.end(id, NO_REQUEST),
            _ => self.pump(id),
        }
    }

    /// The client takes more.
    pub(super) fn credit(&mut self, id: StreamId, messages: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.credit = stream.credit.saturating_add(messages);
            self.pump(id);
        }
    }

    /// Takes a stream as far as it gets.
    pub(super) fn pump(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let mut kind = core::mem::replace(&mut stream.kind, Kind::Unread);
        let ended = match &mut kind {
            Kind::HealthWatch(watch) => {
                if let Some(HealthWatch(answer)) = watch
                    && let Some(response) = answer
                    && self.send(id, response.encode_to_vec().into()).is_ok()
                {
                    *answer = None;
                }
                None
            }
            Kind::KeepAlive(keep_alive) => self.pump_keep_alive(id, keep_alive),
            Kind::Unread => None,
            Kind::Watch(watch) => self.pump_watch(id, watch),
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.kind = kind;
        }
        if let Some(status) = ended {
            self.end(id, status);
        }
    }

    fn pump_watch(&mut self, id: StreamId, watch: &mut Watch) -> Option<Status> {
        self.drain_watch(id, watch);
        while !watch.stream.is_blocked()
            && let Some(message) = watch.requests.front()
        {
            if let Err(status) = self.check_size(message) {
                return Some(status);
            }
            let request = match WatchRequest::decode(message.clone()) {
                Ok(request) => request,
                Err(error) => return Some(undecodable(&error)),
            };
            let stream = self.streams.get(&id)?;
            let (member, token) = (stream.member, stream.token.clone());
            let mut user = Ok(None);
            if let Some(RequestUnion::CreateRequest(request)) = &request.request_union {
                user = match self.identify(member, token.as_ref()) {
                    Ok(Identity::Anonymous) => Ok(None),
                    Ok(Identity::User(user)) => Ok(Some(user)),
                    Ok(Identity::Later(_)) => {
                        // Until the member knows the token.
                        self.nodes[member].interest.wait(id, true);
                        break;
                    }
                    Err(error) => Err(error),
                };
                let interest = &mut self.nodes[member].interest;
                interest.wait(id, false);
                // There is no empty key: it stands for the first one there can be.
                let first = Bytes::from_static(b"\0");
                let key = if request.key.is_empty() {
                    &first
                } else {
                    &request.key
                };
                interest.watch(id, key, &request.range_end);
            }
            watch.requests.pop_front();
            let state = &self.nodes[member].state;
            watch
                .stream
                .handle(self.now, state.store(), request, |key, range_end| {
                    state.auth().check_range(user?.as_ref(), key, range_end)
                });
            self.drain_watch(id, watch);
        }
        let timeout = watch.stream.next_timeout();
        if timeout != watch.timeout {
            watch.timeout = timeout;
            match timeout {
                Some(at) => self.timers.set(Timer::Watch(id), at),
                None => self.timers.cancel(Timer::Watch(id)),
            }
        }
        None
    }

    fn drain_watch(&mut self, id: StreamId, watch: &mut Watch) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let member = stream.member;
        let mut room = stream.credit;
        let header = self.header(member);
        let mut sent = Vec::new();
        let store = self.nodes[member].state.store();
        while let Some(response) = watch.stream.pump(self.now, store, &header, room > 0) {
            room -= 1;
            sent.push(Bytes::from(response.encode_to_vec()));
        }
        for message in sent {
            // There was room for it.
            let _ = self.send(id, message);
        }
    }

    /// Sends a message, or gives it back if the client takes none now.
    pub(super) fn send(&mut self, id: StreamId, message: Bytes) -> Result<(), Bytes> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.credit > 0 => stream.credit -= 1,
            _ => return Err(message),
        }
        self.out.push(Action::Send { stream: id, message });
        Ok(())
    }

    /// The member ends a stream.
    pub(super) fn end(&mut self, stream: StreamId, status: Status) {
        self.remove_stream(stream);
        self.out.push(Action::End { stream, status });
    }

    /// Forgets a stream.
    pub(super) fn remove_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.nodes[stream.member].interest.remove(id);
        self.renewing_leases.remove(&id);
        self.timers.cancel(Timer::Watch(id));
        self.timers.cancel(Timer::KeepAlive(id));
    }

    /// [`Timer::LeaderlessStreams`].
    pub(super) fn end_leaderless_streams(&mut self, member: Member) {
        if self.nodes[member].lead.is_some() {
            // It was frozen when the time was over, and found a leader then.
            return;
        }
        let requiring = self.streams.iter().filter(|(_, stream)| {
            stream.member == member && stream.require_leader && !matches!(stream.kind, Kind::Unread)
        });
        let requiring: Vec<_> = requiring.map(|(id, _)| *id).collect();
        for stream in requiring {
            self.end(stream, Error::NoLeader.status());
        }
    }
}

/// How grpc-go ends a call with one request that brought none.
const NO_REQUEST: Status = Status::new(2, "EOF");

/// How grpc-go ends a stream on which something came that is no request.
pub(super) fn undecodable(error: &DecodeError) -> Status {
    Status {
        code: 13,
        message: format!("grpc: failed to unmarshal the received message: {error}").into(),
    }
}
