//! What a member answers out of what it has applied.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    AlarmMember, AlarmType, HashKvResponse, LeaseLeasesResponse, LeaseStatus, Member as ProtoMember,
    MemberListResponse, StatusResponse,
};
use etcd_proxy_proto::health::health_check_response::ServingStatus;
use etcd_proxy_proto::health::{HealthCheckResponse, HealthListResponse};
use prost::Message;

use super::request::{Local, Request};
use super::types::Member;
use super::{Cluster, Serial};
use crate::auth::{User, unmapped};
use crate::error::Error;
use crate::state::fill;
use crate::status::Status;

/// Size of a database that nothing was ever written to (etcd 3.5). It is never zero, and clients divide by it.
const FRESH_DATABASE_BYTES: u64 = 20 * 1024;

impl Cluster {
    /// Answers a call that its member answers itself.
    pub(super) fn answer_local(&mut self, serial: Serial) {
        let Some(call) = self.calls.get(&serial) else {
            return;
        };
        let member = call.member;
        let Request::Local(local) = &call.request else {
            return;
        };
        let user = match local {
            Local::Health(_) | Local::HealthList => None,
            local => match self.caller(serial, refusal(local)) {
                Some(user) => user,
                None => return,
            },
        };
        let Some(Request::Local(local)) = self.calls.get(&serial).map(|call| &call.request) else {
            return;
        };
        let refuse = refusal(local);
        let result = match local {
            Local::Health(request) if !request.service.is_empty() => Err(Status::new(5, "unknown service")),
            local => self.local(member, local, user.as_ref()).map_err(refuse),
        };
        self.reply(serial, result);
    }

    fn local(&self, member: Member, local: &Local, user: Option<&User>) -> Result<Bytes, Error> {
        let node = &self.nodes[member];
        let (store, leases, auth) = (node.state.store(), node.state.leases(), node.state.auth());
        let header = self.header(member);
        match local {
            Local::Defragment => {
                auth.check_admin(user)?;
                // Not even a header.
                Ok(Bytes::new())
            }
            Local::HashKv(revision) => {
                auth.check_admin(user)?;
                let hash = store.hash_kv(*revision)?;
                Ok(encode(&HashKvResponse {
                    header: Some(header),
                    hash: hash.hash,
                    compact_revision: hash.compacted,
                    ..Default::default()
                }))
            }
            Local::Health(_) => Ok(encode(&serving())),
            Local::HealthList => Ok(encode(&HealthListResponse {
                statuses: BTreeMap::from([(String::new(), serving())]),
            })),
            Local::Leases => {
                auth.check_identified(user)?;
                auth.check_lease_read(user, leases.iter().flat_map(|(_, lease)| &lease.keys))?;
                let ids = match &node.deadlines {
                    Some(deadlines) => deadlines.by_end(),
                    None => leases.iter().map(|(id, _)| id).collect(),
                };
                Ok(encode(&LeaseLeasesResponse {
                    header: Some(header),
                    leases: ids.into_iter().map(|id| LeaseStatus { id }).collect(),
                }))
            }
            Local::MemberList(_) => {
                auth.check_identified(user)?;
                Ok(encode(&MemberListResponse {
                    // The one header without a revision.
                    header: Some(etcd_proxy_proto::etcdserverpb::ResponseHeader {
                        revision: 0,
                        ..header
                    }),
                    members: self.members(),
                }))
            }
            Local::Range(request) => {
                auth.check_range(user, &request.key, &request.range_end)?;
                let mut response = store.range(request)?;
                fill(&mut response.header, header);
                Ok(encode(&response))
            }
            Local::Status => {
                auth.check_admin(user)?;
                Ok(encode(&self.status(member)))
            }
            Local::Txn(request) => {
                let lease_keys = |id| leases.get(id).into_iter().flat_map(|lease| &lease.keys);
                auth.check_txn(user, request, &lease_keys)?;
                let mut response = store.read_txn(request)?;
                fill(&mut response.header, header);
                Ok(encode(&response))
            }
        }
    }

    fn status(&self, member: Member) -> StatusResponse {
        let node = &self.nodes[member];
        let size = FRESH_DATABASE_BYTES.saturating_add(node.state.store().size());
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let mut errors = Vec::new();
        if node.lead.is_none() {
            errors.push(String::from("etcdserver: no leader"));
        }
        errors.extend(node.state.alarms().map(|alarm| describe(&alarm)));
        StatusResponse {
            header: Some(self.header(member)),
            version: String::from(self.config.version),
            db_size: size,
            leader: node.lead.map_or(0, |leader| self.nodes[leader].id),
            raft_index: node.received,
            raft_term: node.term,
            raft_applied_index: node.applied,
            errors,
            db_size_in_use: size,
            ..Default::default()
        }
    }

    fn members(&self) -> Vec<ProtoMember> {
        let single = self.nodes.len() == 1;
        let members = self.nodes.iter().enumerate().map(|(member, node)| ProtoMember {
            id: node.id,
            name: if single {
                String::from("default")
            } else {
                format!("m{member}")
            },
            peer_ur_ls: alloc::vec![match self.config.peer_urls.get(member) {
                Some(url) => url.clone(),
                None => format!("http://m{member}:2380"),
            }],
            client_ur_ls: self.config.client_urls.get(member).into_iter().cloned().collect(),
            is_learner: false,
        });
        let mut members: Vec<_> = members.collect();
        members.sort_unstable_by_key(|member| member.id);
        members
    }
}

/// The words in which a member refuses.
fn refusal(local: &Local) -> fn(Error) -> Status {
    match local {
        Local::Defragment | Local::HashKv(_) => unmapped,
        _ => Error::status,
    }
}

pub(super) fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    }
}

/// As gogo/protobuf prints an alarm.
fn describe(alarm: &AlarmMember) -> String {
    let mut text = String::new();
    if alarm.member_id != 0 {
        text = format!("memberID:{} ", alarm.member_id);
    }
    if let Ok(alarm) = AlarmType::try_from(alarm.alarm)
        && alarm != AlarmType::None
    {
        text += &format!("alarm:{} ", alarm.as_str_name());
    }
    text
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}
