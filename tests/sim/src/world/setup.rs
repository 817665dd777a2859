//! What is done and learned before anything else happens.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_model::cluster::{Action, Actions, CallId, Event, Metadata};
use etcd_proxy_proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, StatusResponse,
};
use prost::Message;

use super::World;
use crate::delivery::CallTag;
use crate::op::{self, Op, PASSWORD, READER, USER};

/// How long the cluster may take for one of the steps.
const STEP_MAX: Duration = Duration::from_secs(30);

impl World {
    /// What the cluster calls its members.
    pub(super) fn learn_ids(&mut self) {
        for member in 0..self.members.hosts.len() {
            let answer = self.ask_member(member, Rpc::Status, Op::Status.message(CallTag::PROBE));
            let response = StatusResponse::decode(answer).expect("the model says what etcd says");
            self.member_ids
                .push(response.header.map_or(0, |header| header.member_id));
        }
    }

    /// There are users, one who may do everything and one who may read some of the keys.
    pub(super) fn add_users(&mut self) {
        for name in [USER, READER] {
            let add = AuthUserAddRequest {
                name: name.to_owned(),
                password: PASSWORD.to_owned(),
                ..AuthUserAddRequest::default()
            };
            let role = AuthRoleAddRequest {
                name: name.to_owned(),
            };
            let grant = AuthUserGrantRoleRequest {
                user: name.to_owned(),
                role: name.to_owned(),
            };
            self.ask_member(0, Rpc::UserAdd, add.encode_to_vec().into());
            self.ask_member(0, Rpc::RoleAdd, role.encode_to_vec().into());
            self.ask_member(0, Rpc::UserGrantRole, grant.encode_to_vec().into());
        }
        let permit = Op::Permit { allowed: true }.message(CallTag::PROBE);
        self.ask_member(0, Rpc::RoleGrantPermission, permit);
    }

    /// Users must authenticate; all clients get the tokens of both.
    pub(super) fn enable_auth(&mut self) {
        self.add_users();
        self.ask_member(0, Rpc::AuthEnable, AuthEnableRequest {}.encode_to_vec().into());
        let [token, reader_token] = [false, true].map(|reader| {
            let message = Op::Authenticate { reader }.message(CallTag::PROBE);
            op::token(self.ask_member(0, Rpc::Authenticate, message))
        });
        for client in &mut self.clients {
            client.token.clone_from(&token);
            client.reader_token.clone_from(&reader_token);
        }
    }

    /// Makes a call outside of all that is simulated.
    fn ask_member(&mut self, member: usize, rpc: Rpc, message: Bytes) -> Bytes {
        let mut actions = Actions::new();
        let call = CallId(u64::MAX);
        let event = Event::Call {
            call,
            member,
            path: rpc.path().to_owned(),
            metadata: Metadata::default(),
            message,
        };
        let cluster = &mut self.members.cluster;
        cluster.handle(self.io.now, event, &mut actions);
        let give_up = self.io.now + STEP_MAX;
        loop {
            for action in actions.drain(..) {
                if let Action::Reply { call: other, result } = action
                    && other == call
                {
                    return result.unwrap_or_else(|status| panic!("{rpc:?}: {status:?}"));
                }
            }
            let next = cluster.next_timeout().filter(|at| *at <= give_up);
            self.io.now = next.unwrap_or_else(|| panic!("{rpc:?} isn't answered"));
            cluster.handle(self.io.now, Event::Timeout, &mut actions);
        }
    }
}
