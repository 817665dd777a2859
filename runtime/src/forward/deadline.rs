//! The deadline of a call.

use std::time::Instant;

use etcd_proxy_core::grpc::{format_timeout, parse_timeout};
use http::{HeaderMap, HeaderValue};

/// The header a client gives its deadline in.
pub(super) const GRPC_TIMEOUT: &str = "grpc-timeout";

/// When the client stops waiting, by its `grpc-timeout`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Option<Instant>,
}

impl Deadline {
    /// Counts from now on. A header that isn't valid sets no deadline; the member will say what is wrong with it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let timeout = headers
            .get(GRPC_TIMEOUT)
            .and_then(|value| parse_timeout(value.as_bytes()));
        // A deadline beyond what a clock can show is none.
        Self {
            at: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }

    pub(super) fn has_passed(self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    /// The header for an attempt that is made now instead of when the call came.
    pub(super) fn remaining(self) -> Option<HeaderValue> {
        let left = self.at?.saturating_duration_since(Instant::now());
        HeaderValue::from_str(&format_timeout(left)).ok()
    }
}
