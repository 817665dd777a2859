//! Whether a member serves, and knows a leader.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use etcd_proxy_core::endpoints::{ConnectionId, Health};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::health::{HealthCheckRequest, HealthCheckResponse};

use super::ask::{NoAnswer, Options, ask};
use super::identity::stranger;
use super::{Connection, OnBehalf, Settings};
use crate::rt::{self, Runtime};

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The member has answered.
    Answer(Health),
    /// Somebody has answered who is no etcd; what.
    Stranger(String),
    /// The connection takes no new calls, so it can't be probed.
    Refusing,
    /// The connection has ended, the probe's stream was reset, or it found no way in time.
    Nothing,
}

/// Asks a member whether it serves and knows a leader. A member that doesn't answer is the endpoint machine's to give up.
///
/// An etcd server checks `hasleader` before anything else and answers health checks without credentials. On a
/// connection that has as many calls open as the member allows the probe would wait in line, so it takes a
/// connection of its own.
pub(super) async fn probe<R: Runtime>(
    connection: Arc<Connection>,
    settings: Arc<Settings>,
    patience: Duration,
) -> Found {
    if !connection.is_full() {
        return check::<R>(&connection, Options::unbounded()).await;
    }
    let until = Instant::now() + patience;
    let target = connection.target().clone();
    let opened = Connection::open::<R>(ConnectionId::default(), target, &settings);
    let Ok(Ok((aside, driver))) = rt::timeout_at::<R, _>(until, opened).await else {
        return Found::Nothing;
    };
    rt::spawn::<R>(async move {
        driver.run(|| ()).await;
    });
    check::<R>(&aside, Options::until(until)).await
}

async fn check<R: Runtime>(connection: &Arc<Connection>, options: Options) -> Found {
    let options = options.on_behalf(OnBehalf {
        credentials: None,
        require_leader: true,
    });
    let question = HealthCheckRequest::default();
    match ask::<R, _, HealthCheckResponse>(connection, Rpc::HealthCheck, &question, &options).await {
        Ok(answer) => Found::Answer(Health::of_serving_status(answer.status)),
        Err(NoAnswer::Status(status)) => Found::Answer(Health::of_error(status.code)),
        // No answer: perhaps the driver doesn't know of the end yet.
        Err(other) => match stranger(&other) {
            Some(what) => Found::Stranger(what),
            None if connection.is_refusing() && !connection.is_closed() => Found::Refusing,
            None => Found::Nothing,
        },
    }
}

#[cfg(test)]
mod tests;
