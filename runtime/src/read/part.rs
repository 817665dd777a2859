//! A call's part in the cache, from before it is forwarded to its end.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::{self, MESSAGE_PREFIX_LEN};
use etcd_proxy_core::range::KeyRange;
use etcd_proxy_core::read::{
    Event, ReadOutcome, ReadTicket, Write, WriteOutcome, WriteTicket, revision_of, written,
};
use etcd_proxy_core::watch::Status;
use etcd_proxy_proto::etcdserverpb::CompactionRequest;
use prost::Message as _;

use super::{ReadCache, Role};

/// What is to be told to the cache when a call ends. If it is dropped before, the call's end isn't known.
pub(crate) struct Part {
    cache: Arc<ReadCache>,
    kind: Option<Kind>,
    /// Clients had been shown this revision before the call came, if the call is a read.
    floor: i64,
}

enum Kind {
    Read(ReadTicket),
    Write(WriteTicket),
    /// Up to this revision.
    Compact(i64),
    Auth,
    /// It shows a revision.
    Shows,
}

/// How a call was answered.
pub(crate) struct Reply<'a> {
    /// 0 if it wasn't told yet, because the answer is large.
    pub(crate) code: u8,
    pub(crate) message: Cow<'a, str>,
    /// What came of it, with its prefix; the beginning, unless all of it is wanted.
    pub(crate) data: Bytes,
    /// That is all of it.
    pub(crate) is_whole: bool,
}

impl Reply<'_> {
    /// The message, as far as it came, if it isn't compressed.
    fn message(&self) -> Option<Bytes> {
        (self.data.first() == Some(&0)).then(|| self.data.slice(MESSAGE_PREFIX_LEN.min(self.data.len())..))
    }
}

impl Part {
    /// The part of a call that is forwarded, other than a read's that the cache has admitted. `request` is its message, if
    /// there is one that can be read.
    pub(crate) fn of(cache: &Arc<ReadCache>, role: Role, request: Option<&Bytes>) -> Self {
        let kind = match role {
            Role::Compact => compacted(request).map(Kind::Compact).or(Some(Kind::Shows)),
            _ if cache.is_off() => None,
            Role::Write(write) => cache.admit_write(&ranges(write, request)).map(Kind::Write),
            Role::Auth => {
                cache.tell(Event::Unsure);
                Some(Kind::Auth)
            }
            Role::Read | Role::Shows => Some(Kind::Shows),
            Role::None => None,
        };
        Self {
            cache: cache.clone(),
            kind,
            floor: match request {
                Some(_) if role == Role::Read => cache.shown(),
                _ => 0,
            },
        }
    }

    /// The part of a read that is forwarded, with the ticket that it has, and the floor that it came with.
    pub(crate) fn read(cache: &Arc<ReadCache>, ticket: Option<ReadTicket>, floor: i64) -> Self {
        Self {
            cache: cache.clone(),
            kind: Some(ticket.map_or(Kind::Shows, Kind::Read)),
            floor,
        }
    }

    /// Whether this is the answer to a read that shows an older state than clients have seen: the member in use is behind
    /// the one before.
    pub(crate) fn is_old(&self, reply: &Reply<'_>) -> bool {
        let revision = || revision_of(&reply.message()?);
        reply.code == 0 && revision().is_some_and(|revision| revision < self.floor)
    }

    /// Whether an answer can be too old.
    pub(crate) const fn has_floor(&self) -> bool {
        self.floor > 0
    }

    /// The call is about to be answered with this.
    pub(crate) fn answered(mut self, reply: &Reply<'_>) {
        let Some(kind) = self.kind.take() else { return };
        let message = reply.message();
        let revision = message.as_ref().and_then(|message| revision_of(message));
        match revision {
            Some(revision) => self.cache.show(revision),
            // It is compressed: it shows something, and nobody knows how old that is.
            None if message.is_none() && !reply.data.is_empty() => self.cache.tell(Event::Unsure),
            // There are answers without a revision.
            None => {}
        }
        match kind {
            Kind::Read(ticket) => self.cache.complete_read(ticket, read_outcome(reply, message)),
            Kind::Write(ticket) => self
                .cache
                .complete_write(ticket, WriteOutcome::of(reply.code, revision)),
            Kind::Compact(to) if reply.code == 0 => self.cache.compacted(to),
            Kind::Auth => self.cache.tell(Event::Unsure),
            Kind::Compact(_) | Kind::Shows => {}
        }
    }

    /// The call was not answered by the cluster, and is refused with this. So are others that wait for its answer.
    pub(crate) fn refused(mut self, status: &grpc::Status) {
        if let Some(Kind::Read(ticket)) = self.kind.take_if(|kind| matches!(kind, Kind::Read(_))) {
            let status = Status {
                code: status.code().number(),
                message: status.message().to_owned().into(),
            };
            self.cache.complete_read(ticket, ReadOutcome::Failed(status));
        }
    }

    /// The call was answered, but nobody knows with what.
    pub(crate) fn unseen(self) {
        if self.kind.is_some() {
            self.cache.tell(Event::Unsure);
        }
    }

    /// Whether all of the answer counts, and not just its header.
    pub(crate) fn wants_all(&self) -> bool {
        matches!(self.kind, Some(Kind::Read(_)))
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_none(&self) -> bool {
        self.kind.is_none()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match self.kind.take() {
            Some(Kind::Read(ticket)) => self.cache.complete_read(ticket, ReadOutcome::Abandoned),
            Some(Kind::Write(ticket)) => self.cache.complete_write(ticket, WriteOutcome::Unknown),
            Some(Kind::Auth) => self.cache.tell(Event::Unsure),
            // What is compacted without being told is noticed as soon as what others compact.
            Some(Kind::Compact(_) | Kind::Shows) | None => {}
        }
    }
}

/// The revision that a request compacts to.
fn compacted(request: Option<&Bytes>) -> Option<i64> {
    let request = CompactionRequest::decode(request?.clone()).ok()?;
    Some(request.revision)
}

/// What a write may change. Everything if its message can't be read.
fn ranges(write: Write, request: Option<&Bytes>) -> Vec<KeyRange> {
    request.map_or_else(|| vec![KeyRange::everything()], |request| written(write, request))
}

fn read_outcome(reply: &Reply<'_>, message: Option<Bytes>) -> ReadOutcome {
    match (reply.code, message) {
        (0, Some(message)) if reply.is_whole => ReadOutcome::Answered(message),
        (0, _) => ReadOutcome::TooLarge,
        (code, _) => ReadOutcome::Failed(Status {
            code,
            message: reply.message.clone().into_owned().into(),
        }),
    }
}
