//! Ping enforcement as grpc-go does it, and so every etcd server: a client that pings more often than
//! allowed collects strikes, and after more than two the connection ends with GOAWAY
//! `ENHANCE_YOUR_CALM`, debug data `too_many_pings` (gRFC A8 and A9).

use core::time::Duration;

use crate::time::Instant;

/// Strikes that are forgiven.
const STRIKES_MAX: u32 = 2;

/// How often a client without open calls may ping when it isn't allowed to: once in two hours (grpc-go).
const IDLE_PING_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);

/// The policy's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingPolicyConfig {
    /// The least time between two pings (`--grpc-keepalive-min-time`).
    pub interval_min: Duration,
    /// Whether a client may ping at that pace while it has no open call.
    pub permit_without_stream: bool,
}

/// The ping account of one client connection.
#[derive(Clone, Debug)]
pub struct PingPolicy {
    config: PingPolicyConfig,
    last_ping: Option<Instant>,
    strikes: u32,
    forgive: bool,
}

/// The client has used up its strikes; the connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyPings;

impl PingPolicy {
    /// A clean account.
    #[must_use]
    pub const fn new(config: PingPolicyConfig) -> Self {
        Self {
            config,
            last_ping: None,
            strikes: 0,
            forgive: false,
        }
    }

    /// Headers or data went out to the client: the next ping is free and clears the strikes.
    pub fn sent_message(&mut self) {
        self.forgive = true;
    }

    /// A ping came in while the client had `calls_open` calls open.
    ///
    /// # Errors
    /// When this ping is one too many.
    pub fn received_ping(&mut self, now: Instant, calls_open: usize) -> Result<(), TooManyPings> {
        let last = self.last_ping.replace(now);
        if core::mem::take(&mut self.forgive) {
            self.strikes = 0;
            return Ok(());
        }
        let interval_min = if calls_open == 0 && !self.config.permit_without_stream {
            IDLE_PING_INTERVAL
        } else {
            self.config.interval_min
        };
        if last.is_some_and(|last| now < last + interval_min) {
            self.strikes += 1;
        }
        if self.strikes > STRIKES_MAX {
            Err(TooManyPings)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PingPolicyConfig = PingPolicyConfig {
        interval_min: Duration::from_secs(5),
        permit_without_stream: false,
    };

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_third_strike_ends_the_connection() {
        let mut policy = PingPolicy::new(CONFIG);
        assert_eq!(policy.received_ping(at(0), 1), Ok(()));
        assert_eq!(policy.received_ping(at(1), 1), Ok(()));
        assert_eq!(policy.received_ping(at(2), 1), Ok(()));
        assert_eq!(policy.received_ping(at(3), 1), Err(TooManyPings));
    }

    #[test]
    fn a_polite_client_is_never_cut() {
        let mut policy = PingPolicy::new(CONFIG);
        for ping in 0..1000 {
            assert_eq!(policy.received_ping(at(ping * 5), 1), Ok(()));
        }
    }

    #[test]
    fn messages_clear_the_account() {
        let mut policy = PingPolicy::new(CONFIG);
        for ping in 0..1000 {
            policy.sent_message();
            assert_eq!(policy.received_ping(at(ping / 10), 0), Ok(()));
        }
    }

    #[test]
    fn an_idle_client_may_ping_every_two_hours_unless_permitted() {
        let mut strict = PingPolicy::new(CONFIG);
        let mut lenient = PingPolicy::new(PingPolicyConfig {
            permit_without_stream: true,
            ..CONFIG
        });
        let cut = (0..10).find(|ping| strict.received_ping(at(ping * 10), 0).is_err());
        assert_eq!(cut, Some(3));
        assert!((0..10).all(|ping| lenient.received_ping(at(ping * 10), 0).is_ok()));
    }
}
