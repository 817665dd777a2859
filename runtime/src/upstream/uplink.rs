//! The way to the cluster, as those see it who call it.

use core::fmt::Debug;
use std::sync::Arc;

use etcd_proxy_core::history::{Known, Shows, Verdict};

use super::{Lane, Reports, Settings};
use crate::settings::Endpoint;

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
}

/// Who knows which history the store has, and is told what answers show of it.
pub(crate) trait Judge: Debug + Send + Sync {
    /// What is known now: to be kept with each question, from before it is sent.
    fn known(&self) -> Known;

    /// Takes in what an answer shows, to a question that was asked when this was known. To be called before anything follows
    /// from it.
    fn judge(&self, asked: Known, shows: Shows) -> Verdict;
}
