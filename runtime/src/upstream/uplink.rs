//! The way to the cluster, as those see it who call it.

use core::fmt::Debug;
use core::time::Duration;
use std::sync::Arc;

use etcd_proxy_core::history::{Known, Shows, Verdict};

use super::client_turns::ClientTurns;
use super::suspicion::SETTLED_FOR;
use super::turn::Turns;
use super::{Lane, Reports, Settings};
use crate::settings::Endpoint;

/// How often, at most, a client's call is asked of another member in vain.
const OTHER_MEMBER_EVERY: Duration = Duration::from_millis(250);

/// All that it takes to call the cluster from one worker thread, for clients' calls and for the proxy's own.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) lane: Arc<Lane>,
    pub(crate) reports: Reports,
    pub(crate) settings: Arc<Settings>,
    pub(crate) endpoints: Arc<[Endpoint]>,
    /// Largest message of a client, in bytes: the proxy's own requests may hold keys of clients.
    pub(crate) request_bytes_max: u64,
    pub(crate) judge: Arc<dyn Judge>,
    pub(crate) turns: UplinkTurns,
}

/// What only so many calls of a worker do at a time.
#[derive(Debug)]
pub(crate) struct UplinkTurns {
    /// A client's call is asked of another member than the one in use.
    pub(crate) other_member: ClientTurns,
    /// It is found out whether the member in use serves.
    pub(super) suspicion: Turns,
}

impl Default for UplinkTurns {
    fn default() -> Self {
        Self {
            other_member: ClientTurns::new(OTHER_MEMBER_EVERY),
            suspicion: Turns::new(SETTLED_FOR),
        }
    }
}

/// Who knows which history the store has, and is told what answers show of it.
pub(crate) trait Judge: Debug + Send + Sync {
    /// What is known now: to be kept with each question, from before it is sent.
    fn known(&self) -> Known;

    /// Takes in what an answer shows, to a question that was asked when this was known. To be called before anything follows
    /// from it.
    fn judge(&self, asked: Known, shows: Shows) -> Verdict;
}
