//! Calls that the member in use answers with UNAVAILABLE, asked of another one. If that answers, the one in use may have to lose
//! its place: its probes may say that all is well. But the reason may lie in the call, whoever made it, so a read of the proxy's
//! own decides.

use core::time::Duration;
use std::sync::Arc;

use etcd_proxy_core::endpoints::{ConnectionId, Event};
use etcd_proxy_core::grpc::Code;
use etcd_proxy_core::rpc::OTHER_CONNECT_TIMEOUT;

use super::Call;
use super::exchange::{Answer, Client, Payload, attempt};
use super::head::Head;
use super::unary::status;
use crate::rt::{self, Runtime};
use crate::settings::Endpoint;
use crate::upstream::{Connection, Report, Settings, UNPROBED_KEEPALIVE, cluster_of, is_unavailable};

/// How long the other member may take to answer. One that has no quorum doesn't answer either.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to another member than the one in use, for one call.
pub(super) async fn reach<R: Runtime>(call: &Call, target: &Endpoint) -> Option<Arc<Connection>> {
    let settings = Settings {
        // It is known to no probe.
        keepalive: Some(UNPROBED_KEEPALIVE),
        keepalive_without_calls: false,
        ..Settings::clone(&call.client.worker.uplink.settings)
    };
    // An id that no machine knows: events about it change nothing.
    let open = Connection::open::<R>(ConnectionId::default(), target.clone(), &settings);
    let opened = rt::timeout_at::<R, _>(call.deadline.within(OTHER_CONNECT_TIMEOUT), open).await;
    let (connection, driver) = opened.ok()?.ok()?;
    rt::spawn::<R>(async move {
        driver.run(|| ()).await;
    });
    Some(connection)
}

/// Asks one other member. One call of a worker does so at a time, and when it was in vain not again for a while: without a
/// quorum all members are the same.
pub(super) async fn ask<R: Runtime>(
    call: &mut Call,
    asked: &Arc<Connection>,
    head: &Head,
    payload: &Payload,
    client: &mut Client<'_, R>,
) -> Option<Answer> {
    let uplink = call.client.worker.uplink.clone();
    let others: Vec<_> = uplink
        .endpoints
        .iter()
        .filter(|target| *target != asked.target())
        .collect();
    let target = call.rng.choice(others)?;
    let mut turn = uplink.lane.other_member()?;
    let connection = reach::<R>(call, target).await?;
    let ours = asked.known_cluster();
    if ours.is_some() && cluster_of::<R>(&connection).await.ok().flatten() != ours {
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
    // Nobody waits for that; but it is done once at a time.
    let asked = asked.clone();
    rt::spawn::<R>(async move {
        if is_unavailable::<R>(&asked).await {
            // Nobody listens any more once the process is ending.
            let _ = uplink
                .reports
                .send(Report::Event(Event::Outdone(asked.id())))
                .await;
        }
        drop(turn);
    });
    Some(answer)
}
