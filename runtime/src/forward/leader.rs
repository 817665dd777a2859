//! Calls that are for the leader: clients of a proxy can't choose their member.
//!
//! MoveLeader is carried out by the leader only. Status is how `etcdctl move-leader` looks for the leader among its
//! endpoints before it makes that call; the proxy is its only one.

use std::sync::Arc;

use bytes::BytesMut;
use etcd_proxy_core::grpc::MESSAGE_PREFIX_LEN;
use etcd_proxy_core::grpc::header::GRPC_MESSAGE;
use etcd_proxy_core::rpc::{Member, OTHER_ANSWER_TIMEOUT, OTHER_CONNECT_TIMEOUT, Said};
use etcd_proxy_proto::etcdserverpb::StatusResponse;
use prost::Message as _;

use super::Call;
use super::exchange::{Answer, AnswerEnd, Client, Payload, Unanswered, attempt, trailers};
use super::head::Head;
use crate::grpc::code_of;
use crate::rt::{self, Runtime};
use crate::upstream::Connection;

/// Replaces the answer of the member in use by the leader's, where that is what the client needs and the leader can be
/// reached among the endpoints.
pub(super) async fn redirect<R: Runtime>(
    call: &Call,
    asked: &Connection,
    head: &Head,
    payload: &Payload,
    client: &mut Client<'_, R>,
    answer: Answer,
) -> Answer {
    let member = call.rpc.member();
    // What most answers say isn't worth a look.
    if !matches!(member, Member::Leader | Member::SamePreferLeader)
        || !member.asks_others(call.pinned_now, said(&answer))
    {
        return answer;
    }
    match ask_others(call, asked, head, payload, client).await {
        Some((found, answer)) => {
            if member.is_sticky() {
                call.client.pin(&found);
            }
            answer
        }
        None => answer,
    }
}

/// What an answer says of the member that gave it.
fn said(answer: &Answer) -> Said {
    let AnswerEnd::Complete(_) = answer.end else {
        return Said::Nothing;
    };
    let field = |name| trailers(answer).and_then(|trailers| trailers.get(name));
    let code = trailers(answer).and_then(code_of);
    if let Some(code) = code.filter(|code| *code != 0) {
        return Said::by_error(
            code,
            field(GRPC_MESSAGE).map_or(b"", |message| message.as_bytes()),
        );
    }
    let data = answer
        .chunks
        .iter()
        .flat_map(|chunk| &chunk[..])
        .copied()
        .collect::<BytesMut>()
        .freeze();
    if data.len() < MESSAGE_PREFIX_LEN || data[0] != 0 {
        // Empty, or compressed.
        return Said::Nothing;
    }
    match StatusResponse::decode(data.slice(MESSAGE_PREFIX_LEN..)) {
        Ok(StatusResponse {
            header: Some(header),
            leader,
            ..
        }) => Said::by_status(header.member_id, leader),
        _ => Said::Nothing,
    }
}

/// Asks the other endpoints in turn until one gives the answer that is wanted.
async fn ask_others<R: Runtime>(
    call: &Call,
    asked: &Connection,
    head: &Head,
    payload: &Payload,
    client: &mut Client<'_, R>,
) -> Option<(Arc<Connection>, Answer)> {
    let uplink = &call.client.worker.uplink;
    for target in uplink.others(asked) {
        let until = call.deadline.within(OTHER_CONNECT_TIMEOUT);
        let Some(connection) = uplink.reach::<R>(target, until).await else {
            continue;
        };
        let request = head.again(&connection, call.deadline);
        let answer = attempt(call, &connection, request, payload, client);
        match rt::timeout_at::<R, _>(call.deadline.within(OTHER_ANSWER_TIMEOUT), answer).await {
            Ok(Ok(answer)) if call.rpc.member().is_found(said(&answer)) => {
                return Some((connection, answer));
            }
            Ok(Err(Unanswered::ClientGone | Unanswered::Expired)) => return None,
            _ => connection.close(),
        }
    }
    None
}
