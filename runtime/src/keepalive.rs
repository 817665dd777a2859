//! HTTP/2 keepalive PINGs, on both sides of the proxy, with grpc-go's settings. Whether the peer was silent is looked at
//! once an interval, so silence is noticed up to an interval later than grpc-go would.

use core::task::{Context, Poll, ready};
use std::time::Instant;

use h2::{Ping, PingPong};

use crate::rt::{Alarm, Runtime};
use crate::settings;
use crate::transport::ReadCount;

/// Pings a peer that has been silent for a while, and tells when it doesn't answer.
pub(crate) struct Keepalive<R: Runtime> {
    pings: PingPong,
    times: settings::Keepalive,
    /// Whether a peer is pinged while no call is open.
    without_calls: bool,
    reads: ReadCount,
    reads_seen: u64,
    alarm: Alarm<R>,
    waiting: bool,
    measuring: bool,
    /// The PING of a measurement was answered.
    measured: bool,
}

/// The peer didn't answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerSilent;

impl<R: Runtime> Keepalive<R> {
    pub(crate) fn new(
        pings: PingPong,
        times: settings::Keepalive,
        without_calls: bool,
        reads: ReadCount,
    ) -> Self {
        let reads_seen = reads.get();
        Self {
            pings,
            times,
            without_calls,
            reads,
            reads_seen,
            alarm: Alarm::new(times.interval),
            waiting: false,
            measuring: false,
            measured: false,
        }
    }

    /// Sends a PING to see how long its answer takes. False if one is unanswered already.
    pub(crate) fn measure(&mut self) -> bool {
        let sends = !self.waiting && !self.measuring && self.pings.send_ping(Ping::opaque()).is_ok();
        self.measuring |= sends;
        sends
    }

    /// Whether the PING of a measurement has been answered since this was last asked.
    pub(crate) fn take_measured(&mut self) -> bool {
        core::mem::take(&mut self.measured)
    }

    /// Never completes while the peer lives; `calls_open` tells whether a call is open on the connection.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, calls_open: impl Fn() -> bool) -> Poll<PeerSilent> {
        loop {
            // There is one PING at a time.
            if (self.waiting || self.measuring) && self.pings.poll_pong(cx).is_ready() {
                self.measured |= core::mem::take(&mut self.measuring);
                if self.waiting {
                    self.rest();
                }
            }
            ready!(self.alarm.poll(cx));
            let reads = self.reads.get();
            let alive = core::mem::replace(&mut self.reads_seen, reads) != reads;
            if alive || (!self.waiting && !self.without_calls && !calls_open()) {
                self.rest();
            } else if self.waiting {
                return Poll::Ready(PeerSilent);
            } else {
                // An error only says that an earlier ping is still unanswered: then that one counts.
                let _ = self.pings.send_ping(Ping::opaque());
                self.waiting = true;
                self.alarm.reset(Instant::now() + self.times.timeout);
            }
        }
    }

    fn rest(&mut self) {
        self.waiting = false;
        self.alarm.reset(Instant::now() + self.times.interval);
    }
}
