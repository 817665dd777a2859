//! The deadline of a call.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::time::Instant;

use etcd_proxy_core::grpc::header::GRPC_TIMEOUT;
use etcd_proxy_core::grpc::{DEADLINE_GRACE, format_timeout, has_shrunk, parse_timeout};
use http::{HeaderMap, HeaderValue};

use crate::rt::Runtime;

/// When the client stops waiting, by its `grpc-timeout`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Option<Instant>,
    timeout: Duration,
}

impl Deadline {
    /// Counts from now on. A header that isn't valid sets no deadline; the member will say what is wrong with it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let timeout = headers
            .get(GRPC_TIMEOUT)
            .and_then(|value| parse_timeout(value.as_bytes()));
        // A deadline beyond what a clock can show is none.
        let at = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self {
            at,
            timeout: timeout.unwrap_or_default(),
        }
    }

    /// The time until then, zero if it has passed; `None` without deadline.
    pub(super) fn left(self) -> Option<Duration> {
        Some(self.at?.saturating_duration_since(Instant::now()))
    }

    /// The time since then; `None` without deadline.
    pub(super) fn elapsed(self) -> Option<Duration> {
        Some(self.timeout.saturating_sub(self.left()?))
    }

    /// When so much time has passed from now on, or the deadline if that comes first.
    pub(super) fn within(self, patience: Duration) -> Instant {
        let end = Instant::now() + patience;
        self.at.map_or(end, |deadline| deadline.min(end))
    }

    /// Whether so much time has passed that the member must be told.
    pub(super) fn has_shrunk(self) -> bool {
        self.left().is_some_and(|left| has_shrunk(self.timeout, left))
    }

    /// The header for an attempt that is made now instead of when the call came.
    pub(super) fn remaining(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format_timeout(self.left()?)).ok()
    }
}

/// Fires when a call has outlived its deadline.
pub(super) struct Expiry<R: Runtime> {
    at: Option<Instant>,
    /// Set at the first wait: most calls are over before.
    alarm: Option<Pin<Box<R::Sleep>>>,
}

impl<R: Runtime> Expiry<R> {
    pub(super) fn new(deadline: Deadline) -> Self {
        Self {
            at: deadline.at.and_then(|at| at.checked_add(DEADLINE_GRACE)),
            alarm: None,
        }
    }

    /// Never completes for a call without deadline.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        self.alarm
            .get_or_insert_with(|| Box::pin(R::sleep_until(at)))
            .as_mut()
            .poll(cx)
    }
}

/// The call has outlived its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expired;

impl<R: Runtime> Expiry<R> {
    /// Runs `future` for as long as the call may live.
    pub(super) async fn bound<F: Future>(&mut self, future: F) -> Result<F::Output, Expired> {
        let mut future = core::pin::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(cx).map(|()| Err(Expired)),
        })
        .await
    }
}
