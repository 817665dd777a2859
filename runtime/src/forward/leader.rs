//! MoveLeader: only the leader carries it out, and clients of a proxy can't choose their member.

use core::time::Duration;
use std::time::Instant;

use etcd_proxy_core::endpoints::ConnectionId;
use h2::server::SendResponse;

use super::Call;
use super::answer::{GRPC_MESSAGE, GRPC_STATUS};
use super::head::Head;
use super::unary::{Answer, Outcome, Payload, attempt, trailers};
use crate::rt::{self, Runtime};
use crate::upstream::Connection;

/// How long reaching one of the other members may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a member says that it isn't the leader: FAILED_PRECONDITION `etcdserver: not leader`.
pub(super) fn is_elsewhere(answer: &Answer) -> bool {
    trailers(answer).is_some_and(|trailers| {
        trailers
            .get(GRPC_STATUS)
            .is_some_and(|status| status.as_bytes() == b"9")
            && trailers
                .get(GRPC_MESSAGE)
                .is_some_and(|message| message.as_bytes() == b"etcdserver: not leader")
    })
}

/// Asks the other endpoints in turn until one doesn't decline: a member that isn't the leader declines without
/// doing anything. `None` if no other endpoint could be asked, or all declined.
pub(super) async fn ask<R: Runtime>(
    call: &Call,
    asked: &Connection,
    head: &Head,
    payload: &Payload,
    respond: &mut SendResponse<bytes::Bytes>,
) -> Option<Answer> {
    let worker = &call.client.worker;
    for target in worker.endpoints.iter().filter(|target| *target != asked.target()) {
        let patience = Instant::now() + CONNECT_TIMEOUT;
        let until = call
            .deadline
            .at
            .map_or(patience, |deadline| deadline.min(patience));
        // A connection that no machine knows of: events about its id change nothing.
        let open = Connection::open::<R>(ConnectionId::default(), target.clone(), &worker.settings);
        let Ok(Ok((connection, driver))) = rt::timeout_at::<R, _>(until, open).await else {
            continue;
        };
        rt::spawn::<R>(async move {
            driver.run().await;
        });
        let request = head.again(&connection, call.deadline);
        // A member that is frozen can't be told from one that takes its time: bounded as any call, by the client's
        // deadline, and here by the time a transfer of leadership takes at most on etcd's side.
        let transfer = rt::timeout_at::<R, _>(
            call.deadline
                .at
                .unwrap_or_else(|| Instant::now() + TRANSFER_TIMEOUT),
            attempt(call, &connection, request, payload, respond),
        );
        match transfer.await {
            Ok(Outcome::Answer(answer)) if !is_elsewhere(&answer) => return Some(answer),
            Ok(Outcome::ClientGone) => return None,
            _ => connection.close(),
        }
    }
    None
}

/// How long a member is waited for when the client set no deadline.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);
