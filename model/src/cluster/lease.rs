//! What only the leader's lessor can answer, and what it does by itself.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveResponse, ResponseHeader,
};
use prost::Message;

use super::call::Stage;
use super::request::Request;
use super::stream::{Kind, undecodable};
use super::types::{Member, StreamId};
use super::{Cluster, Process, Serial, Timer};
use crate::auth::Identity;
use crate::error::Error;
use crate::lease::Renewal;
use crate::state::{Command, Entry};
use crate::status::Status;

/// How long a leader waits until it has applied what it knows to be committed (etcd: 1 s).
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The server's end of one LeaseKeepAlive call. Requests are answered one after the other.
#[derive(Debug, Default)]
pub(super) struct KeepAlive {
    pub(super) requests: VecDeque<Bytes>,
    renewing: Option<Renewing>,
    /// The answer to the last request, until the client takes it.
    answer: Option<Bytes>,
}

#[derive(Debug)]
struct Renewing {
    lease: i64,
    /// As it was when the request came.
    header: ResponseHeader,
    since: Instant,
    stuck: Option<Member>,
}

/// Who can be asked about leases on behalf of a member.
enum Lessor {
    /// This member.
    At(Member),
    /// Nobody, now.
    Nobody,
}

impl Cluster {
    /// Who answers for leases, as far as a member can reach it. `stuck` is who was asked already and hasn't answered.
    fn lessor(&self, member: Member, stuck: &mut Option<Member>) -> Lessor {
        if let Some(asked) = *stuck {
            let answers = self.nodes[asked].is_running() && self.is_connected(member, asked);
            if !answers && self.nodes[asked].process != Process::Crashed {
                return Lessor::Nobody;
            }
            *stuck = None;
        }
        let Some(lead) = self.nodes[member].lead else {
            return Lessor::Nobody;
        };
        let leader = &self.nodes[lead];
        if leader.process == Process::Crashed {
            // The connection is refused, and soon tried again.
            Lessor::Nobody
        } else if !leader.is_running() || !self.is_connected(member, lead) {
            *stuck = Some(lead);
            Lessor::Nobody
        } else if leader.lead == Some(lead) && leader.applied >= leader.received && leader.deadlines.is_some()
        {
            Lessor::At(lead)
        } else {
            Lessor::Nobody
        }
    }

    /// What a member that waited for a lessor since `since` answers now, or when to ask again.
    pub(super) fn lessor_timeout(&self, member: Member, since: Instant) -> Result<Status, Instant> {
        let node = &self.nodes[member];
        if node.lead == Some(member) && node.applied < node.received {
            return Ok(Error::TimeoutWaitingApplied.status());
        }
        let end = since + self.request_timeout();
        if end > self.now {
            Err(end)
        } else if node.lead.is_none() {
            Ok(Error::NoLeader.status())
        } else {
            Ok(Error::Timeout.status())
        }
    }

    /// LeaseTimeToLive, from its beginning or after a wait.
    pub(super) fn time_to_live(&mut self, serial: Serial) {
        let Some(user) = self.caller(serial, Error::status) else {
            return;
        };
        let Some(call) = self.calls.get_mut(&serial) else {
            return;
        };
        let Request::TimeToLive(request) = call.request else {
            return;
        };
        let (member, mut stuck) = (call.member, call.stuck);
        let state = &self.nodes[member].state;
        let lease = state.leases().get(request.id);
        let checked = state.auth().check_identified(user.as_ref()).and_then(|()| {
            let keys = lease
                .into_iter()
                .filter(|_| request.keys)
                .flat_map(|lease| &lease.keys);
            state.auth().check_lease_read(user.as_ref(), keys)
        });
        if let Err(error) = checked {
            return self.reply(serial, Err(error.status()));
        }
        let lessor = self.lessor(member, &mut stuck);
        let Lessor::At(leader) = lessor else {
            let call = self.enter(serial, Stage::Lessor);
            call.stuck = stuck;
            let since = call.since;
            if self.asking_leases.insert(serial) {
                self.timers.set(Timer::Call(serial), since + APPLY_TIMEOUT);
            }
            return;
        };
        let leader = &self.nodes[leader];
        let remaining = leader
            .deadlines
            .as_ref()
            .and_then(|deadlines| deadlines.remaining(self.now, request.id));
        let mut response = LeaseTimeToLiveResponse {
            header: Some(self.header(member)),
            id: request.id,
            ttl: -1,
            ..Default::default()
        };
        if let (Some(ttl), Some(lease)) = (remaining, leader.state.leases().get(request.id)) {
            response.ttl = ttl;
            response.granted_ttl = lease.ttl;
            if request.keys {
                response.keys = lease.keys.iter().cloned().collect();
            }
        }
        self.reply(serial, Ok(response.encode_to_vec().into()));
    }

    /// Asks again on behalf of all who wait for a lessor.
    pub(super) fn retry_leases(&mut self) {
        let running = |cluster: &Self, member: Member| cluster.nodes[member].is_running();
        let calls: Vec<_> = self.asking_leases.iter().copied().collect();
        for serial in calls {
            if self
                .calls
                .get(&serial)
                .is_some_and(|call| running(self, call.member))
            {
                self.time_to_live(serial);
            }
        }
        let streams: Vec<_> = self.renewing_leases.iter().copied().collect();
        for stream in streams {
            if self
                .streams
                .get(&stream)
                .is_some_and(|stream| running(self, stream.member))
            {
                self.pump(stream);
            }
        }
    }

    /// Takes a LeaseKeepAlive stream as far as it gets. Answers the status that it ends with, if it ends.
    pub(super) fn pump_keep_alive(&mut self, id: StreamId, keep_alive: &mut KeepAlive) -> Option<Status> {
        loop {
            if let Some(answer) = keep_alive.answer.take()
                && let Err(answer) = self.send(id, answer)
            {
                keep_alive.answer = Some(answer);
                return None;
            }
            let stream = self.streams.get(&id)?;
            let member = stream.member;
            if keep_alive.renewing.is_none() {
                let Some(message) = keep_alive.requests.pop_front() else {
                    return stream.half_closed.then_some(Status::OK);
                };
                if let Err(status) = self.check_size(&message) {
                    return Some(status);
                }
                let request = match LeaseKeepAliveRequest::decode(message) {
                    Ok(request) => request,
                    Err(error) => return Some(undecodable(&error)),
                };
                keep_alive.renewing = Some(Renewing {
                    lease: request.id,
                    header: self.header(member),
                    since: self.now,
                    stuck: None,
                });
            }
            let renewing = keep_alive.renewing.as_mut()?;
            match self.renew(id, member, renewing) {
                Some(Ok(ttl)) => {
                    let response = LeaseKeepAliveResponse {
                        header: Some(renewing.header),
                        id: renewing.lease,
                        ttl,
                    };
                    keep_alive.answer = Some(response.encode_to_vec().into());
                    keep_alive.renewing = None;
                    self.renewing_leases.remove(&id);
                    self.timers.cancel(Timer::KeepAlive(id));
                }
                Some(Err(error)) => return Some(error.status()),
                None => {
                    if self.renewing_leases.insert(id) {
                        self.timers
                            .set(Timer::KeepAlive(id), renewing.since + APPLY_TIMEOUT);
                    }
                    return None;
                }
            }
        }
    }

    /// Renews a lease: its TTL, 0 if there is none. None: not yet.
    fn renew(&mut self, id: StreamId, member: Member, renewing: &mut Renewing) -> Option<Result<i64, Error>> {
        let Lessor::At(leader) = self.lessor(member, &mut renewing.stuck) else {
            return None;
        };
        let token = self.streams.get(&id)?.token.clone();
        let user = match self.identify(member, token.as_ref()) {
            Ok(Identity::Anonymous) => None,
            Ok(Identity::User(user)) => Some(user),
            Ok(Identity::Later(_)) => return None,
            Err(error) => return Some(Err(error)),
        };
        let state = &self.nodes[member].state;
        let keys = state
            .leases()
            .get(renewing.lease)
            .into_iter()
            .flat_map(|lease| &lease.keys);
        let checked = state.auth().check_identified(user.as_ref());
        let checked = checked.and_then(|()| state.auth().check_lease_write(user.as_ref(), keys));
        if let Err(error) = checked {
            return Some(Err(error));
        }
        let node = &mut self.nodes[leader];
        match node
            .deadlines
            .as_mut()?
            .renew(self.now, renewing.lease, node.state.leases())
        {
            Renewal::Renewed(ttl) => Some(Ok(ttl)),
            Renewal::Unknown => Some(Ok(0)),
            Renewal::Ending => None,
        }
    }

    /// [`Timer::KeepAlive`].
    pub(super) fn renewal_timeout(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let Kind::KeepAlive(KeepAlive {
            renewing: Some(renewing),
            ..
        }) = &stream.kind
        else {
            return;
        };
        match self.lessor_timeout(stream.member, renewing.since) {
            Ok(status) => self.end(id, status),
            Err(later) => self.timers.set(Timer::KeepAlive(id), later),
        }
    }

    /// [`Timer::Leases`]: a leader revokes what has ended.
    pub(super) fn expire_leases(&mut self, member: Member) {
        let node = &mut self.nodes[member];
        node.leases_at = None;
        let Some(deadlines) = &mut node.deadlines else {
            return;
        };
        for lease in deadlines.expired(self.now) {
            let entry = Entry {
                user: None,
                command: Command::LeaseExpire(lease),
            };
            self.propose(member, entry, None);
        }
    }

    /// Keeps the timers of those that take themselves for leaders where their leases want them.
    pub(super) fn arm_leases(&mut self) {
        for (member, node) in self.nodes.iter_mut().enumerate() {
            let at = node
                .deadlines
                .as_ref()
                .and_then(|deadlines| deadlines.next_timeout());
            if at == node.leases_at || !node.is_running() {
                continue;
            }
            node.leases_at = at;
            match at {
                Some(at) => self.timers.set(Timer::Leases(member), at),
                None => self.timers.cancel(Timer::Leases(member)),
            }
        }
    }
}
