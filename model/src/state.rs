//! The replicated state: what the log of a cluster is applied to.

use alloc::collections::BTreeSet;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::alarm_request::AlarmAction;
use etcd_proxy_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, PutRequest, PutResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use prost::Message;

use crate::auth::{self, Auth, User};
use crate::error::Error;
use crate::lease::Leases;
use crate::store::{Store, Writer, check_lease, has_put};

/// What goes through the log, with who asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Who proposed it, as known when it was proposed; None without a token.
    pub user: Option<User>,
    /// What to do.
    pub command: Command,
}

/// What goes through the log. Requests were [validated](crate::store::validate) before.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Alarm, its GET included.
    Alarm(AlarmRequest),
    /// A call of the Auth service.
    Auth(auth::Request),
    /// Compact.
    Compact(CompactionRequest),
    /// DeleteRange.
    DeleteRange(DeleteRangeRequest),
    /// LeaseGrant; the id was chosen before, 0 is none.
    LeaseGrant(LeaseGrantRequest),
    /// A lease has ended. Nobody's permissions matter.
    LeaseExpire(i64),
    /// LeaseRevoke.
    LeaseRevoke(LeaseRevokeRequest),
    /// What a new leader commits first.
    NoOp,
    /// Put.
    Put(PutRequest),
    /// Txn, unless it [reads only](crate::store::is_read_only).
    Txn(TxnRequest),
}

/// What applying answers. Headers say the revision where it matters; the rest is the answering member's: see
/// [`Response::encode`].
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To [`Command::Alarm`].
    Alarm(AlarmResponse),
    /// To [`Command::Auth`].
    Auth(auth::Response),
    /// To [`Command::Compact`].
    Compact(CompactionResponse),
    /// To [`Command::DeleteRange`].
    DeleteRange(DeleteRangeResponse),
    /// To [`Command::LeaseGrant`].
    LeaseGrant(LeaseGrantResponse),
    /// To [`Command::LeaseRevoke`] and [`Command::LeaseExpire`].
    LeaseRevoke(LeaseRevokeResponse),
    /// To [`Command::NoOp`], which nobody asked for.
    NoOp,
    /// To [`Command::Put`].
    Put(PutResponse),
    /// To [`Command::Txn`].
    Txn(TxnResponse),
}

impl Response {
    /// The response message, encoded. `member` is the header as the answering member would fill it in; its revision
    /// counts where the response has none of its own.
    #[must_use]
    pub fn encode(self, member: ResponseHeader) -> Bytes {
        fn encode<M: Message>(
            mut message: M,
            header: fn(&mut M) -> &mut Option<ResponseHeader>,
            member: ResponseHeader,
        ) -> Bytes {
            fill(header(&mut message), member);
            message.encode_to_vec().into()
        }
        match self {
            Self::Alarm(message) => encode(message, |message| &mut message.header, member),
            Self::Auth(response) => response.encode(member),
            Self::Compact(message) => encode(message, |message| &mut message.header, member),
            Self::DeleteRange(message) => encode(message, |message| &mut message.header, member),
            Self::LeaseGrant(message) => encode(message, |message| &mut message.header, member),
            Self::LeaseRevoke(message) => encode(message, |message| &mut message.header, member),
            Self::NoOp => Bytes::new(),
            Self::Put(message) => encode(message, |message| &mut message.header, member),
            Self::Txn(message) => encode(message, |message| &mut message.header, member),
        }
    }
}

/// Fills in the header of an answer as the answering member does; a revision that is there already stays.
pub fn fill(header: &mut Option<ResponseHeader>, member: ResponseHeader) {
    let revision = header.as_ref().map_or(0, |header| header.revision);
    *header = Some(ResponseHeader {
        revision: if revision == 0 { member.revision } else { revision },
        ..member
    });
}

/// How entries are applied. An alarm changes that until the last one of its kind is called off, and so does another
/// alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As asked.
    Normal,
    /// NOSPACE was raised last.
    Capped,
    /// CORRUPT was raised last.
    Corrupt,
}

/// What a member holds. Members that applied the same entries hold the same.
#[derive(Clone, Debug)]
pub struct State {
    alarms: BTreeSet<(AlarmType, u64)>,
    auth: Auth,
    index: u64,
    leases: Leases,
    mode: Mode,
    store: Store,
    ttl_min: i64,
}

impl Default for State {
    /// With the smallest TTL of a server with the default election timeout.
    fn default() -> Self {
        Self::new(2)
    }
}

impl State {
    /// Nothing. `ttl_min` is the smallest TTL that leases get, in seconds: see [`ttl_min`](crate::lease::ttl_min).
    #[must_use]
    pub fn new(ttl_min: i64) -> Self {
        Self {
            alarms: BTreeSet::new(),
            auth: Auth::new(),
            index: 0,
            leases: Leases::default(),
            mode: Mode::Normal,
            store: Store::new(),
            ttl_min,
        }
    }

    /// The keys.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The leases.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Users, roles and whether they matter.
    #[must_use]
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// The alarms that are raised: which, and by the member with which id.
    pub fn alarms(&self) -> impl Iterator<Item = AlarmMember> {
        self.alarms.iter().map(|(alarm, member)| AlarmMember {
            member_id: *member,
            alarm: (*alarm).into(),
        })
    }

    /// The index of the last entry that was applied.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Applies the entry at `index` of the log.
    ///
    /// # Errors
    ///
    /// As etcd has them; nothing but the index has changed then.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<Response, Error> {
        self.index = index;
        let user = entry.user.as_ref();
        self.permit(user, &entry.command)?;
        self.check_alarms(&entry.command)?;
        match &entry.command {
            Command::Alarm(request) => Ok(Response::Alarm(self.alarm(request))),
            Command::Auth(request) => self.apply_auth(index, user, request).map(Response::Auth),
            Command::Compact(request) => {
                self.store.compact(request.revision)?;
                Ok(Response::Compact(CompactionResponse {
                    header: self.header(),
                }))
            }
            Command::DeleteRange(request) => {
                let mut writer = Writer::new(&mut self.store, &mut self.leases);
                let response = writer.delete_range(request);
                writer.finish();
                Ok(Response::DeleteRange(response))
            }
            Command::LeaseGrant(request) => self.lease_grant(request).map(Response::LeaseGrant),
            Command::LeaseExpire(id) => self.lease_revoke(*id).map(Response::LeaseRevoke),
            Command::LeaseRevoke(request) => self.lease_revoke(request.id).map(Response::LeaseRevoke),
            Command::NoOp => Ok(Response::NoOp),
            Command::Put(request) => {
                check_lease(request, &self.leases)?;
                let mut writer = Writer::new(&mut self.store, &mut self.leases);
                // A put that fails has changed nothing.
                let response = writer.put(request)?;
                writer.finish();
                Ok(Response::Put(response))
            }
            Command::Txn(request) => Writer::new(&mut self.store, &mut self.leases)
                .txn(request)
                .map(Response::Txn),
        }
    }

    fn permit(&self, user: Option<&User>, command: &Command) -> Result<(), Error> {
        if !self.auth.enabled() {
            return Ok(());
        }
        // What a server asks before it proposes.
        match command {
            Command::Alarm(request) if request.action == AlarmAction::Get as i32 => {
                self.auth.check_identified(user)?;
            }
            Command::Alarm(_) | Command::Compact(_) => self.auth.check_admin(user)?,
            Command::LeaseGrant(_) | Command::LeaseRevoke(_) => self.auth.check_identified(user)?,
            _ => {}
        }
        // With an alarm raised, etcd 3.5 doesn't ask what it asks when it applies.
        if self.mode != Mode::Normal {
            return Ok(());
        }
        let lease_keys = |id| self.leases.get(id).into_iter().flat_map(|lease| &lease.keys);
        match command {
            Command::DeleteRange(request) => self.auth.check_delete_range(user, request),
            Command::LeaseRevoke(request) => self.auth.check_lease_write(user, lease_keys(request.id)),
            Command::Put(request) => self.auth.check_put(user, request, lease_keys(request.lease)),
            Command::Txn(request) => self.auth.check_txn(user, request, &lease_keys),
            // Auth asks itself.
            _ => Ok(()),
        }
    }

    /// What raised alarms forbid.
    fn check_alarms(&self, command: &Command) -> Result<(), Error> {
        match (self.mode, command) {
            (
                Mode::Corrupt,
                Command::Compact(_)
                | Command::DeleteRange(_)
                | Command::LeaseExpire(_)
                | Command::LeaseGrant(_)
                | Command::LeaseRevoke(_)
                | Command::Put(_)
                | Command::Txn(_),
            ) => Err(Error::Corrupt),
            (Mode::Capped, Command::LeaseGrant(_) | Command::Put(_)) => Err(Error::NoSpace),
            (Mode::Capped, Command::Txn(request)) if has_put(request) => Err(Error::NoSpace),
            _ => Ok(()),
        }
    }

    fn apply_auth(
        &mut self,
        index: u64,
        user: Option<&User>,
        request: &auth::Request,
    ) -> Result<auth::Response, Error> {
        if self.mode == Mode::Normal {
            return self.auth.apply(index, user, request);
        }
        // See permit: whoever asks may do what the administrator may.
        let root = User {
            name: "root".into(),
            revision: self.auth.revision(),
        };
        self.auth.apply(index, Some(&root), request)
    }

    fn alarm(&mut self, request: &AlarmRequest) -> AlarmResponse {
        let mut response = AlarmResponse::default();
        let Ok(alarm) = AlarmType::try_from(request.alarm) else {
            return response;
        };
        let member = AlarmMember {
            member_id: request.member_id,
            alarm: alarm.into(),
        };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                // NONE asks for all.
                let asked =
                    |raised: &AlarmMember| alarm == AlarmType::None || raised.alarm == i32::from(alarm);
                response.alarms = self.alarms().filter(asked).collect();
            }
            Ok(AlarmAction::Activate) if alarm != AlarmType::None => {
                if !self.raised(alarm) {
                    self.mode = if alarm == AlarmType::Corrupt {
                        Mode::Corrupt
                    } else {
                        Mode::Capped
                    };
                }
                self.alarms.insert((alarm, member.member_id));
                response.alarms.push(member);
            }
            Ok(AlarmAction::Deactivate) if self.alarms.remove(&(alarm, member.member_id)) => {
                if !self.raised(alarm) {
                    self.mode = Mode::Normal;
                }
                response.alarms.push(member);
            }
            _ => {}
        }
        response
    }

    fn raised(&self, alarm: AlarmType) -> bool {
        self.alarms.iter().any(|(raised, _)| *raised == alarm)
    }

    fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        let ttl = self.leases.grant(request.id, request.ttl, self.ttl_min)?;
        Ok(LeaseGrantResponse {
            header: self.header(),
            id: request.id,
            ttl,
            ..Default::default()
        })
    }

    fn lease_revoke(&mut self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let lease = self.leases.remove(id).ok_or(Error::LeaseNotFound)?;
        let mut writer = Writer::new(&mut self.store, &mut self.leases);
        for key in lease.keys {
            writer.delete(key);
        }
        writer.finish();
        Ok(LeaseRevokeResponse {
            header: self.header(),
        })
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.store.revision(),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests;
