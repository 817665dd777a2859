//! The deadline of a call.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::time::Instant;

use etcd_proxy_core::grpc::{format_timeout, parse_timeout};
use http::{HeaderMap, HeaderValue};

use crate::rt::Runtime;

/// The header a client gives its deadline in.
pub(super) const GRPC_TIMEOUT: &str = "grpc-timeout";

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

    pub(super) fn has_passed(self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    /// Whether so much time has passed that the member must be told.
    pub(super) fn has_shrunk(self) -> bool {
        self.at
            .is_some_and(|at| at.saturating_duration_since(Instant::now()) + GRACE / 10 < self.timeout)
    }

    /// The header for an attempt that is made now instead of when the call came.
    pub(super) fn remaining(self) -> Option<HeaderValue> {
        let left = self.at?.saturating_duration_since(Instant::now());
        HeaderValue::from_str(&format_timeout(left)).ok()
    }
}

/// How long after a call's deadline the proxy ends it itself. A member ends it at its deadline, in its own words;
/// this is for one that doesn't.
const GRACE: Duration = Duration::from_millis(100);

/// Fires when a call has outlived its deadline.
pub(super) struct Expiry<R: Runtime> {
    at: Option<Instant>,
    /// Set at the first wait: most calls are over before.
    alarm: Option<Pin<Box<R::Sleep>>>,
}

impl<R: Runtime> Expiry<R> {
    pub(super) fn new(deadline: Deadline) -> Self {
        Self {
            at: deadline.at.and_then(|at| at.checked_add(GRACE)),
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
