//! Ping enforcement on a client connection, beneath HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::http2::{FrameKind, FrameScanner, PREFACE, PingPolicy, PingPolicyConfig, go_away_frame};
use etcd_proxy_core::time;

/// HTTP/2 error code `ENHANCE_YOUR_CALM`: RFC 9113, section 7.
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What grpc clients look for in a GOAWAY to know that they must ping less often (gRFC A8).
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// Watches the frames of a connection in both directions: `h2` answers PINGs by itself and doesn't tell of
/// them, so they are seen here, on their way in.
#[derive(Debug)]
pub(crate) struct PingGuard {
    policy: PingPolicy,
    calls_open: Arc<AtomicUsize>,
    started: Instant,
    preface_left: usize,
    inbound: FrameScanner,
    outbound: FrameScanner,
    verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Too many pings; the GOAWAY isn't written yet.
    Condemned,
    /// The GOAWAY was handed out.
    Gone,
}

impl PingGuard {
    /// A guard for a connection whose number of open calls is kept in `calls_open`.
    pub(crate) fn new(config: PingPolicyConfig, calls_open: Arc<AtomicUsize>) -> Self {
        Self {
            policy: PingPolicy::new(config),
            calls_open,
            started: Instant::now(),
            preface_left: PREFACE.len(),
            inbound: FrameScanner::default(),
            outbound: FrameScanner::default(),
            verdict: Verdict::Fine,
        }
    }

    pub(crate) fn received(&mut self, bytes: &[u8]) {
        let skip = self.preface_left.min(bytes.len());
        self.preface_left -= skip;
        let (policy, calls_open, started) = (&mut self.policy, &self.calls_open, self.started);
        let mut too_many = false;
        self.inbound.scan(&bytes[skip..], |kind, _| {
            if kind == FrameKind::Ping {
                let now = time::Instant::ZERO + started.elapsed();
                too_many |= policy
                    .received_ping(now, calls_open.load(Ordering::Relaxed))
                    .is_err();
            }
        });
        if too_many && self.verdict == Verdict::Fine {
            self.verdict = Verdict::Condemned;
        }
    }

    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        let policy = &mut self.policy;
        self.outbound.scan(bytes, |kind, _| {
            if kind == FrameKind::Message {
                policy.sent_message();
            }
        });
    }

    /// Whether the connection must end.
    pub(crate) fn condemned(&self) -> bool {
        self.verdict != Verdict::Fine
    }

    /// Whether what was sent so far ends with a whole frame.
    pub(crate) fn at_boundary(&self) -> bool {
        self.outbound.at_boundary()
    }

    /// Whether the GOAWAY is still to come, and could now.
    pub(crate) fn waits_for_boundary(&mut self) -> bool {
        self.verdict == Verdict::Condemned && self.at_boundary()
    }

    /// The last frame of a condemned connection: the GOAWAY once, nothing afterwards, `None` while a frame is
    /// only half written.
    pub(crate) fn goodbye(&mut self) -> Option<Bytes> {
        match self.verdict {
            Verdict::Condemned if self.at_boundary() => {
                self.verdict = Verdict::Gone;
                Some(go_away_frame(ENHANCE_YOUR_CALM, TOO_MANY_PINGS).into())
            }
            Verdict::Gone => Some(Bytes::new()),
            Verdict::Condemned | Verdict::Fine => None,
        }
    }
}
