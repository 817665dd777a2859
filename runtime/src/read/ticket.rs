//! A call's ticket, which tells the cache how the call has ended, however that was.

use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc;
use etcd_proxy_core::history::Verdict;
use etcd_proxy_core::read::{Asked, CacheEffect, CacheRole, CacheTicket, Floor, ReadTicket, Reply};
use etcd_proxy_core::rpc::Rpc;

use super::ReadCache;

/// The ticket of a call that is forwarded. If it is dropped before the call's end is told, that isn't known.
pub(crate) struct HeldTicket {
    cache: Arc<ReadCache>,
    /// There until the cache is told.
    ticket: Option<CacheTicket>,
}

impl HeldTicket {
    /// The ticket of a call that is forwarded, other than a read that the cache has admitted. `request` is its message, if there
    /// is one that can be read.
    pub(crate) fn of(cache: &Arc<ReadCache>, role: CacheRole, rpc: Rpc, request: Option<&Bytes>) -> Self {
        let ticket = CacheTicket::of(role, rpc, request, cache.floor(), cache.is_off());
        cache.carry_out(ticket.begins());
        Self::new(cache, ticket)
    }

    /// The ticket of a read that the cache has admitted and that is forwarded, with its floor.
    pub(crate) fn of_read(
        cache: &Arc<ReadCache>,
        ticket: Option<ReadTicket>,
        floor: Floor,
        rpc: Rpc,
        request: &[u8],
    ) -> Self {
        Self::new(cache, CacheTicket::of_read(ticket, floor, rpc, request))
    }

    fn new(cache: &Arc<ReadCache>, ticket: CacheTicket) -> Self {
        Self {
            cache: cache.clone(),
            ticket: Some(ticket),
        }
    }

    /// Whether this answer to a read shows an older state than clients have seen, or may do so.
    pub(crate) fn is_old(&self, reply: &Reply<'_>) -> bool {
        self.ticket
            .as_ref()
            .is_some_and(|ticket| self.cache.is_old(ticket, reply))
    }

    /// What is known now, for the question that is asked because an answer was old.
    pub(crate) fn asks(&self) -> Asked {
        self.cache.asks()
    }

    /// Takes in the answer to that.
    pub(crate) fn refreshed(&self, asked: Asked, reply: &Reply<'_>) {
        if let Some(shows) = reply.shows_newest() {
            let _: Verdict = self.cache.judge_newest(asked, shows);
        }
    }

    /// Whether an answer can be too old.
    pub(crate) fn has_floor(&self) -> bool {
        self.ticket.as_ref().is_some_and(CacheTicket::has_floor)
    }

    /// Whether all of the answer counts, and not just its header.
    pub(crate) fn wants_all(&self) -> bool {
        self.ticket.as_ref().is_some_and(CacheTicket::wants_all)
    }

    /// The call is about to be answered with this.
    pub(crate) fn answered(mut self, reply: &Reply<'_>) {
        self.give_up(|cache, ticket| {
            let verdict = cache.judge_reply(ticket.asked(), ticket.reveals(reply));
            ticket.answered(reply, verdict)
        });
    }

    /// The call was not answered by the cluster, and is refused with this. So are others that wait for its answer.
    pub(crate) fn refused(mut self, status: &grpc::Status) {
        self.give_up(|_, ticket| ticket.refused(status.clone()));
    }

    fn give_up(&mut self, end: impl FnOnce(&ReadCache, CacheTicket) -> CacheEffect) {
        if let Some(ticket) = self.ticket.take() {
            self.cache.carry_out(end(&self.cache, ticket));
        }
    }
}

impl Drop for HeldTicket {
    fn drop(&mut self) {
        self.give_up(|_, ticket| ticket.abandoned());
    }
}
