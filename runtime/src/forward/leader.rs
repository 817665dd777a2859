//! Calls that are for the leader: clients of a proxy can't choose their member.
//!
//! MoveLeader is carried out by the leader only. Status is how `etcdctl move-leader` looks for the leader among its
//! endpoints before it makes that call; the proxy is its only one.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use etcd_proxy_core::endpoints::ConnectionId;
use etcd_proxy_core::grpc::MESSAGE_PREFIX_LEN;
use etcd_proxy_core::method::Member;
use etcd_proxy_proto::etcdserverpb::StatusResponse;
use prost::Message as _;

use super::Call;
use super::answer::{GRPC_MESSAGE, GRPC_STATUS};
use super::exchange::{Answer, AnswerEnd, Client, Payload, Unanswered, attempt, trailers};
use super::head::Head;
use crate::cli;
use crate::rt::{self, Runtime};
use crate::upstream::{Connection, Settings};

/// How long reaching one of the other members may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one of the other members may take to answer, when the client sets no deadline: longer than a transfer of
/// leadership takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections made here are known to no probe; while a call is open they are pinged, no more often than etcd
/// servers allow.
const KEEPALIVE: cli::Keepalive = cli::Keepalive {
    interval: Duration::from_secs(10),
    timeout: Duration::from_secs(10),
};

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
    match call.method.member {
        Member::Leader if declines(&answer) => {
            let found = ask_others(call, asked, head, payload, client, |answer| !declines(answer)).await;
            found.map_or(answer, |(_, answer)| answer)
        }
        Member::SamePreferLeader if call.pinned_now && leads(&answer) == Some(false) => {
            match ask_others(call, asked, head, payload, client, |answer| {
                leads(answer) == Some(true)
            })
            .await
            {
                Some((leader, answer)) => {
                    call.client.pin(&leader);
                    answer
                }
                None => answer,
            }
        }
        _ => answer,
    }
}

/// Whether a member says that it isn't the leader: FAILED_PRECONDITION `etcdserver: not leader`.
fn declines(answer: &Answer) -> bool {
    trailers(answer).is_some_and(|trailers| {
        trailers
            .get(GRPC_STATUS)
            .is_some_and(|status| status.as_bytes() == b"9")
            && trailers
                .get(GRPC_MESSAGE)
                .is_some_and(|message| message.as_bytes() == b"etcdserver: not leader")
    })
}

/// Whether the member that gave this answer to Status is the leader; `None` if it doesn't say, or knows none.
fn leads(answer: &Answer) -> Option<bool> {
    let AnswerEnd::Complete(_) = answer.end else {
        return None;
    };
    let data = answer
        .chunks
        .iter()
        .flat_map(|chunk| &chunk[..])
        .copied()
        .collect::<BytesMut>()
        .freeze();
    if data.len() < MESSAGE_PREFIX_LEN || data[0] != 0 {
        // Empty, or compressed.
        return None;
    }
    let status = StatusResponse::decode(data.slice(MESSAGE_PREFIX_LEN..)).ok()?;
    (status.leader != 0).then_some(status.header?.member_id == status.leader)
}

/// Asks the other endpoints in turn until one gives the answer that is wanted. A call asked of the wrong member does
/// nothing there.
async fn ask_others<R: Runtime>(
    call: &Call,
    asked: &Connection,
    head: &Head,
    payload: &Payload,
    client: &mut Client<'_, R>,
    wanted: impl Fn(&Answer) -> bool,
) -> Option<(Arc<Connection>, Answer)> {
    let worker = &call.client.worker;
    let settings = Settings {
        keepalive: Some(KEEPALIVE),
        keepalive_without_calls: false,
        ..Settings::clone(&worker.settings)
    };
    let until = |patience: Duration| {
        let patience = Instant::now() + patience;
        call.deadline
            .at
            .map_or(patience, |deadline| deadline.min(patience))
    };
    for target in worker.endpoints.iter().filter(|target| *target != asked.target()) {
        // An id that no machine knows: events about it change nothing.
        let open = Connection::open::<R>(ConnectionId::default(), target.clone(), &settings);
        let Ok(Ok((connection, driver))) = rt::timeout_at::<R, _>(until(CONNECT_TIMEOUT), open).await else {
            continue;
        };
        rt::spawn::<R>(async move {
            driver.run(|| ()).await;
        });
        let request = head.again(&connection, call.deadline);
        let answer = attempt(call, &connection, request, payload, client);
        match rt::timeout_at::<R, _>(until(ANSWER_TIMEOUT), answer).await {
            Ok(Ok(answer)) if wanted(&answer) => return Some((connection, answer)),
            Ok(Err(Unanswered::ClientGone | Unanswered::Expired)) => return None,
            _ => connection.close(),
        }
    }
    None
}
