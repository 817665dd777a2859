//! A call's share in the cache, from before it is forwarded to its end: what the cache is told of it.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use bytes::Bytes;

use super::reply::header_of;
use super::request::is_serializable;
use super::role::CacheRole;
use super::shown::{Floor, HighestShownRevision, Reveals};
use super::types::{FLOOR_UNKNOWN, ReadOutcome, ReadTicket, Status};
use super::writes::{Write, written};
use crate::grpc::MESSAGE_PREFIX_LEN;
use crate::history::{Known, Shows, Verdict, shows_newest};
use crate::rpc::Rpc;
use crate::wire::read::{Malformed, Reader};

/// What a call is to tell the cache when it ends. One that isn't given up in one of the three ways in which a call ends
/// ([`answered`](Self::answered), [`refused`](Self::refused), [`abandoned`](Self::abandoned)) leaves a read under way for ever.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the cache is to be told how the call ends"]
pub struct CacheTicket {
    kind: Kind,
    /// What the answer may not be older than. The revision is 0 for a call that isn't a read.
    floor: Floor,
    /// Whether its answer has all that was committed before it was sent.
    is_newest: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Auth,
    /// Up to this revision.
    Compact(i64),
    Read(ReadTicket),
    RevealsRevision,
    /// With its request.
    Write(Write, Bytes),
}

/// What came of an answer, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A message that is compressed.
    Compressed,
    /// A message without its prefix: the beginning of it, unless [all is wanted](CacheTicket::wants_all).
    Message(Bytes),
    /// No message.
    None,
}

impl Payload {
    /// The payload of an answer that begins with these bytes, with the prefix of its message.
    #[must_use]
    pub fn of(data: &Bytes) -> Self {
        match data.first() {
            None => Self::None,
            Some(0) => Self::Message(data.slice(MESSAGE_PREFIX_LEN.min(data.len())..)),
            Some(_) => Self::Compressed,
        }
    }
}

/// How a call was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The gRPC code; 0 if it wasn't told yet, because the answer is large.
    pub code: u8,
    /// The text of a status that isn't OK.
    pub message: Cow<'a, str>,
    /// The response.
    pub payload: Payload,
    /// Whether that is all of it.
    pub is_whole: bool,
}

impl Reply<'_> {
    /// What the reply shows, of a call that has all that was committed before if `is_newest`.
    #[must_use]
    pub fn reveals(&self, is_newest: bool) -> Reveals {
        match &self.payload {
            Payload::Compressed => Reveals::Unreadable,
            Payload::Message(message) => header_of(message).map_or(Reveals::Nothing, |header| {
                Reveals::Revision(Shows {
                    cluster_id: header.cluster_id,
                    revision: header.revision,
                    is_newest,
                })
            }),
            Payload::None => Reveals::Nothing,
        }
    }

    /// What the reply to a linearizable read shows that was sent because an earlier answer was old.
    #[must_use]
    pub fn shows_newest(&self) -> Option<Shows> {
        match self.reveals(true) {
            Reveals::Revision(shows) if self.code == 0 => Some(shows),
            _ => None,
        }
    }

    fn outcome(&self) -> ReadOutcome {
        match (self.code, &self.payload) {
            (0, Payload::Message(message)) if self.is_whole => ReadOutcome::Answered(message.clone()),
            (0, _) => ReadOutcome::TooLarge,
            (code, _) => ReadOutcome::Failed(Status {
                code,
                message: self.message.clone().into_owned().into(),
            }),
        }
    }
}

/// What the cache is told of a call.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum CacheEffect {
    /// [`Event::AuthMayHaveChanged`](super::Event::AuthMayHaveChanged).
    AuthMayHaveChanged,
    /// Revisions below this one are gone, of the history that this was known of:
    /// [`HighestShownRevision::compacted`] tells what follows.
    Compacted(Known, i64),
    /// [`Cache::complete_read`](super::Cache::complete_read).
    Completed(ReadTicket, ReadOutcome),
    /// Nothing.
    Nothing,
    /// [`Cache::written`](super::Cache::written).
    Written(Vec<Bytes>, i64),
}

impl CacheTicket {
    /// The ticket of a call that is forwarded, other than a read that the cache has admitted. `request` is its message, if
    /// there is one that can be read, and `floor` the one of the moment. The cache is told what [`begins`](Self::begins) says
    /// before the call is sent.
    pub fn of(role: CacheRole, rpc: Rpc, request: Option<&Bytes>, floor: Floor, is_off: bool) -> Self {
        let kind = match role {
            CacheRole::Compact => compacted(request).map_or(Kind::RevealsRevision, Kind::Compact),
            CacheRole::Write(write) if !is_off => request.map_or(Kind::RevealsRevision, |request| {
                Kind::Write(write, request.clone())
            }),
            CacheRole::Auth if !is_off => Kind::Auth,
            CacheRole::Auth
            | CacheRole::PersonalRead
            | CacheRole::Read
            | CacheRole::RevealsRevision
            | CacheRole::Write(_) => Kind::RevealsRevision,
        };
        let floor = match (role, request) {
            (CacheRole::PersonalRead | CacheRole::Read, Some(request)) => Self::floor_of(request, floor),
            _ => Floor { revision: 0, ..floor },
        };
        Self {
            kind,
            floor,
            is_newest: request.is_some_and(|request| shows_newest(rpc, request)),
        }
    }

    /// The ticket of a read that the cache has admitted and that is forwarded, with the floor that it has.
    pub fn of_read(ticket: Option<ReadTicket>, floor: Floor, rpc: Rpc, request: &[u8]) -> Self {
        Self {
            kind: ticket.map_or(Kind::RevealsRevision, Kind::Read),
            floor,
            is_newest: shows_newest(rpc, request),
        }
    }

    /// The floor of a read that comes at this moment.
    #[must_use]
    pub fn floor_of(request: &[u8], now: Floor) -> Floor {
        if is_serializable(request) {
            now
        } else {
            now.of_linearizable()
        }
    }

    /// What the cache is told before the call is sent.
    pub const fn begins(&self) -> CacheEffect {
        match self.kind {
            Kind::Auth => CacheEffect::AuthMayHaveChanged,
            _ => CacheEffect::Nothing,
        }
    }

    /// Whether an answer can be too old.
    #[must_use]
    pub const fn has_floor(&self) -> bool {
        self.floor.revision > 0
    }

    /// What was known when the call came.
    #[must_use]
    pub const fn asked(&self) -> Known {
        self.floor.known
    }

    /// Whether all of the answer counts, and not just its header.
    #[must_use]
    pub const fn wants_all(&self) -> bool {
        matches!(self.kind, Kind::Read(_))
    }

    /// Whether this answer to a read shows an older state than clients have seen, or another cluster's, or may do so: the member
    /// in use is behind the one before, or isn't one of the same store.
    #[must_use]
    pub fn is_old(&self, reply: &Reply<'_>, shown: &HighestShownRevision) -> bool {
        if reply.code != 0 || reply.payload == Payload::None {
            return false;
        }
        if self.floor.revision == FLOOR_UNKNOWN {
            return true;
        }
        match reply.reveals(false) {
            Reveals::Nothing => false,
            Reveals::Revision(shows) => shown.is_doubtful(self.asked(), shows),
            Reveals::Unreadable => !self.is_newest,
        }
    }

    /// What the answer shows that the call is about to get: to be judged
    /// ([`HighestShownRevision::reveals`]) before the ticket is given up for it.
    #[must_use]
    pub fn reveals(&self, reply: &Reply<'_>) -> Reveals {
        reply.reveals(self.is_newest)
    }

    /// The call is about to be answered with this, which was judged so.
    pub fn answered(self, reply: &Reply<'_>, verdict: Verdict) -> CacheEffect {
        match self.kind {
            Kind::Auth => CacheEffect::AuthMayHaveChanged,
            Kind::Compact(revision) if reply.code == 0 && verdict != Verdict::Stale => {
                CacheEffect::Compacted(self.floor.known, revision)
            }
            Kind::Compact(_) | Kind::RevealsRevision => CacheEffect::Nothing,
            Kind::Read(ticket) => CacheEffect::Completed(ticket, reply.outcome()),
            Kind::Write(write, request) => {
                if let (0, Payload::Message(response)) = (reply.code, &reply.payload)
                    && let Some(header) = header_of(response)
                {
                    let keys = written(write, &request, response);
                    if !keys.is_empty() {
                        return CacheEffect::Written(keys, header.revision);
                    }
                }
                CacheEffect::Nothing
            }
        }
    }

    /// The call was not answered by the cluster, and is refused with this. So are others that wait for its answer.
    pub fn refused(self, status: Status) -> CacheEffect {
        match self.kind {
            Kind::Read(ticket) => CacheEffect::Completed(ticket, ReadOutcome::Failed(status)),
            _ => self.abandoned(),
        }
    }

    /// How the call ends isn't known.
    pub fn abandoned(self) -> CacheEffect {
        match self.kind {
            Kind::Auth => CacheEffect::AuthMayHaveChanged,
            Kind::Read(ticket) => CacheEffect::Completed(ticket, ReadOutcome::Abandoned),
            // What is compacted without being told is noticed as soon as what others compact. What a write has changed the
            // watch tells.
            Kind::Compact(_) | Kind::RevealsRevision | Kind::Write(..) => CacheEffect::Nothing,
        }
    }
}

/// The revision that a `CompactionRequest` compacts to.
fn compacted(request: Option<&Bytes>) -> Option<i64> {
    let read = |request: &[u8]| -> Result<i64, Malformed> {
        let mut revision = 0;
        let mut reader = Reader::all("CompactionRequest", request);
        while let Some(field) = reader.next()? {
            if field.number == 1 {
                revision = field.int64("Revision")?;
            }
        }
        Ok(revision)
    };
    read(request?).ok()
}

#[cfg(test)]
mod tests;
