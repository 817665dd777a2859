//! The deadline of a call that is answered here.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::time::Instant;

use crate::rt::Runtime;

/// The deadline of a call. As grpc-go, this server ends a call that outlives it with RST_STREAM(CANCEL).
pub(crate) enum Expiry<R: Runtime> {
    /// Not waited for yet: most calls are over before.
    Unset(Option<Instant>),
    Set(Pin<Box<R::Sleep>>),
}

impl<R: Runtime> Expiry<R> {
    pub(crate) const fn new(deadline: Option<Instant>) -> Self {
        Self::Unset(deadline)
    }

    /// Never completes for a call without deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Unset(None) => Poll::Pending,
            Self::Unset(Some(at)) => {
                let mut sleep = Box::pin(R::sleep_until(*at));
                let polled = sleep.as_mut().poll(cx);
                *self = Self::Set(sleep);
                polled
            }
            Self::Set(sleep) => sleep.as_mut().poll(cx),
        }
    }
}
