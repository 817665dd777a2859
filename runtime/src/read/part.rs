//! A call's part in the cache, from before it is forwarded to its end.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::{self, MESSAGE_PREFIX_LEN};
use etcd_proxy_core::history::{Known, Shows, Verdict, shows_newest};
use etcd_proxy_core::read::{
    Event, FLOOR_UNKNOWN, ReadOutcome, ReadTicket, Write, header_of, is_serializable, written,
};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::watch::Status;
use etcd_proxy_proto::etcdserverpb::CompactionRequest;
use prost::Message as _;

use super::{ReadCache, Role};
use crate::shown::Mark;

/// What is to be told to the cache when a call ends. If it is dropped before, the call's end isn't known.
pub(crate) struct Part {
    cache: Arc<ReadCache>,
    kind: Option<Kind>,
    /// What was known before the call came: what clients had been shown, and of which history.
    asked: Known,
    /// What clients had been shown, if the call is a read that may be asked again, so that it is shown nothing older; or 0.
    floor: i64,
    /// Whether its answer has all that was committed before.
    is_newest: bool,
}

enum Kind {
    Read(ReadTicket),
    /// Its request.
    Write(Write, Bytes),
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
    pub(crate) fn of(cache: &Arc<ReadCache>, role: Role, rpc: Rpc, request: Option<&Bytes>) -> Self {
        let (asked, floor) = cache.floor();
        let kind = match role {
            Role::Compact => compacted(request).map_or(Kind::Shows, Kind::Compact),
            Role::Write(write) if !cache.is_off() => {
                request.map_or(Kind::Shows, |request| Kind::Write(write, request.clone()))
            }
            Role::Auth if !cache.is_off() => {
                cache.tell(Event::AuthMayHaveChanged);
                Kind::Auth
            }
            Role::Auth | Role::Range | Role::Read | Role::Shows | Role::Write(_) => Kind::Shows,
        };
        let floor = match (role, request) {
            (Role::Range | Role::Read, Some(request)) if is_serializable(request) => floor,
            (Role::Range | Role::Read, Some(_)) => asked.revision,
            _ => 0,
        };
        Self {
            cache: cache.clone(),
            kind: Some(kind),
            asked,
            floor,
            is_newest: request.is_some_and(|request| shows_newest(rpc, request)),
        }
    }

    /// The part of a read that the cache has admitted and that is forwarded, with the ticket that it has, and what was known
    /// when it came.
    pub(crate) fn read(
        cache: &Arc<ReadCache>,
        ticket: Option<ReadTicket>,
        (asked, floor): (Known, i64),
        rpc: Rpc,
        request: &Bytes,
    ) -> Self {
        Self {
            cache: cache.clone(),
            kind: Some(ticket.map_or(Kind::Shows, Kind::Read)),
            asked,
            floor,
            is_newest: shows_newest(rpc, request),
        }
    }

    /// Whether this answer to a read shows an older state than clients have seen, or another cluster's, or may do so: the member
    /// in use is behind the one before, or isn't one of the same store.
    pub(crate) fn is_old(&self, reply: &Reply<'_>) -> bool {
        if reply.code != 0 || reply.data.is_empty() {
            return false;
        }
        match reply.message() {
            _ if self.floor == FLOOR_UNKNOWN => true,
            Some(message) => {
                let shows = shows(Some(&message), false);
                shows.is_some_and(|shows| self.cache.is_doubtful(self.asked, shows))
            }
            // It is compressed.
            None => !self.is_newest,
        }
    }

    /// What is known now, for the question that is asked because an answer was old.
    pub(crate) fn asks(&self) -> (Known, Mark) {
        (self.cache.known(), self.cache.mark())
    }

    /// The answer to that, which has all that was committed when it was asked.
    pub(crate) fn refreshed(&self, (asked, mark): (Known, Mark), reply: &Reply<'_>) {
        if let Some(shows) = shows(reply.message().as_ref(), true).filter(|_| reply.code == 0)
            && self.cache.judge(asked, shows) != Verdict::Stale
        {
            self.cache.learn(mark, asked.history, shows.revision);
        }
    }

    /// Whether an answer can be too old.
    pub(crate) const fn has_floor(&self) -> bool {
        self.floor > 0
    }

    /// The call is about to be answered with this.
    pub(crate) fn answered(mut self, reply: &Reply<'_>) {
        let Some(kind) = self.kind.take() else { return };
        let message = reply.message();
        let shows = shows(message.as_ref(), self.is_newest);
        let revision = shows.map(|shows| shows.revision);
        let mut is_stale = false;
        match shows {
            Some(shows) => is_stale = self.cache.judge(self.asked, shows) == Verdict::Stale,
            // It is compressed: it shows something, and nobody knows how old that is.
            None if message.is_none() && !reply.data.is_empty() => self.cache.show_unread(),
            // There are answers without a revision.
            None => {}
        }
        if is_stale {
            // It may be of the history that the store has now, and nobody knows.
            self.cache.show_unread();
        }
        match kind {
            Kind::Read(ticket) => self.cache.complete_read(ticket, read_outcome(reply, message)),
            Kind::Write(write, request) => {
                if let (0, Some(revision), Some(response)) = (reply.code, revision, message) {
                    let keys = written(write, &request, &response);
                    if !keys.is_empty() {
                        self.cache.written(&keys, revision);
                    }
                }
            }
            Kind::Compact(to) if reply.code == 0 && !is_stale => self.cache.compacted(self.asked, to),
            Kind::Auth => self.cache.tell(Event::AuthMayHaveChanged),
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

    /// Whether all of the answer counts, and not just its header.
    pub(crate) fn wants_all(&self) -> bool {
        matches!(self.kind, Some(Kind::Read(_)))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match self.kind.take() {
            Some(Kind::Read(ticket)) => self.cache.complete_read(ticket, ReadOutcome::Abandoned),
            Some(Kind::Auth) => self.cache.tell(Event::AuthMayHaveChanged),
            // What is compacted without being told is noticed as soon as what others compact.
            // What a write has changed the watch tells.
            Some(Kind::Compact(_) | Kind::Shows | Kind::Write(..)) | None => {}
        }
    }
}

/// What an answer shows, if it has a revision.
fn shows(message: Option<&Bytes>, is_newest: bool) -> Option<Shows> {
    let header = header_of(message?)?;
    Some(Shows {
        cluster_id: header.cluster_id,
        revision: header.revision,
        is_newest,
    })
}

/// The revision that a request compacts to.
fn compacted(request: Option<&Bytes>) -> Option<i64> {
    let request = CompactionRequest::decode(request?.clone()).ok()?;
    Some(request.revision)
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
