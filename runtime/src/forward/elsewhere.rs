//! Calls that the member in use answers with UNAVAILABLE, asked of another one.

use core::time::Duration;
use std::sync::Arc;

use etcd_proxy_core::grpc::Code;
use etcd_proxy_core::rpc::OTHER_CONNECT_TIMEOUT;

use super::Call;
use super::exchange::{Answer, Client, Payload, attempt};
use super::head::Head;
use super::unary::status;
use crate::rt::{self, Runtime};
use crate::upstream::Connection;

/// How long the other member may take to answer. One that has no quorum doesn't answer either.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks one other member. One call of a client does so at a time, and when it was in vain not again for a while: without a
/// quorum all members are the same. How many clients' calls of a worker do is bounded as well.
pub(super) async fn ask<R: Runtime>(
    call: &mut Call,
    asked: &Arc<Connection>,
    head: &Head,
    payload: &Payload,
    client: &mut Client<'_, R>,
) -> Option<Answer> {
    let uplink = call.client.worker.uplink.clone();
    let others: Vec<_> = uplink.others(asked).collect();
    let target = call.rng.choice(others)?;
    let mut turn = uplink.turns.other_member.take(call.client.id())?;
    let until = call.deadline.within(OTHER_CONNECT_TIMEOUT);
    let connection = uplink.reach::<R>(target, until).await?;
    if !uplink.is_of_cluster_of::<R>(&connection, asked).await {
        connection.close();
        return None;
    }
    let request = head.again(&connection, call.deadline);
    let answer = attempt(call, &connection, request, payload, client);
    let answer = rt::timeout_at::<R, _>(call.deadline.within(ANSWER_TIMEOUT), answer).await;
    let is_one = |answer: &Answer| status(answer) != Some(Code::Unavailable.number());
    let Some(answer) = answer.ok().and_then(Result::ok).filter(is_one) else {
        connection.close();
        return None;
    };
    turn.was_worth_it();
    Some(answer)
}
