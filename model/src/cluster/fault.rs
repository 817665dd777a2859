//! What goes wrong with members' processes, and right again.

use alloc::vec::Vec;
use core::time::Duration;

use super::log::Log;
use super::node::Unread;
use super::types::{CallId, Event, Fault, Member, StreamId};
use super::{Cluster, Process, Timer};
use crate::auth::Tokens;
use crate::state::State;

impl Cluster {
    /// Every member's data directory is replaced by what [`committed`](Self::committed) was at some time: a copy is put back, or
    /// a snapshot is restored, of a new cluster with members of new ids if `is_new`. Members hold that when they start again.
    /// Terms and indexes of the log go on as if nothing had happened, which only tokens could tell, and those are gone.
    ///
    /// # Panics
    ///
    /// If a member's process runs.
    pub fn restore(&mut self, saved: &State, is_new: bool) {
        let is_down = |node: &super::Node| node.process == Process::Crashed;
        assert!(
            self.nodes.iter().all(is_down),
            "nobody's data is replaced while it runs"
        );
        if is_new {
            self.id = self.random.u64(1..);
        }
        let last = self.log.last();
        self.log = Log::new(last);
        let is_kept_by_member = self.nodes.len() == 1 && self.nodes[0].lag.is_zero();
        self.truth = (!is_kept_by_member).then(|| saved.clone());
        for node in &mut self.nodes {
            if is_new {
                node.id = self.random.u64(1..);
            }
            node.state = saved.clone();
            node.received = last;
            node.applied = last;
        }
    }

    /// What a [`Fault`] changes.
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(member) => self.crash(member),
            Fault::Start(member) => self.start(member),
            Fault::Freeze(member) => self.freeze(member),
            Fault::Thaw(member) => self.thaw(member),
            Fault::Isolate(member) => {
                self.nodes[member].isolated = true;
                self.review();
            }
            Fault::Heal(member) => {
                self.nodes[member].isolated = false;
                self.review();
            }
            Fault::Lag(member, lag) => self.lag(member, lag),
            Fault::LoseLeader => self.lose_leader(),
        }
    }

    fn crash(&mut self, member: Member) {
        if self.nodes[member].process == Process::Crashed {
            return;
        }
        let calls: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, call)| call.member == member)
            .map(|(s, _)| *s)
            .collect();
        for serial in calls {
            self.remove_call(serial);
        }
        // Calls that it hadn't read have no record yet.
        let streams: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.member == member)
            .collect();
        let streams: Vec<_> = streams.into_iter().map(|(id, _)| *id).collect();
        for stream in streams {
            self.remove_stream(stream);
        }
        for timer in [
            Timer::Apply(member),
            Timer::Leases(member),
            Timer::LeaderlessStreams(member),
        ] {
            self.timers.cancel(timer);
        }
        let tokens = Tokens::new(self.config.token_ttl);
        let node = &mut self.nodes[member];
        node.process = Process::Crashed;
        node.lead = None;
        node.elected = None;
        node.deadlines = None;
        node.leases_at = None;
        node.tokens = tokens;
        node.inbox.clear();
        node.missed.clear();
        if self.leader == Some(member) {
            self.resign();
        }
        self.review();
    }

    fn start(&mut self, member: Member) {
        if self.nodes[member].process == Process::Crashed {
            self.nodes[member].process = Process::Running;
            self.review();
        }
    }

    fn freeze(&mut self, member: Member) {
        if self.nodes[member].is_running() {
            self.nodes[member].process = Process::Frozen;
            self.review();
        }
    }

    fn thaw(&mut self, member: Member) {
        if self.nodes[member].process != Process::Frozen {
            return;
        }
        self.nodes[member].process = Process::Running;
        self.review();
        for timer in core::mem::take(&mut self.nodes[member].missed) {
            self.fire(timer);
        }
        for Unread { event, abandoned } in core::mem::take(&mut self.nodes[member].inbox) {
            match event {
                // Its client has left, but the member reads the request before it reads that.
                Event::Call {
                    path,
                    metadata,
                    message,
                    ..
                } if abandoned => {
                    let serial = self.accept(None, member, &path, metadata, message);
                    self.remove_call(serial);
                }
                event => self.serve(event),
            }
        }
    }

    fn lag(&mut self, member: Member, lag: Duration) {
        if self.nodes.len() == 1 && !lag.is_zero() && self.truth.is_none() {
            self.truth = Some(self.nodes[0].state.clone());
        }
        self.nodes[member].lag = lag;
        self.timers.cancel(Timer::Apply(member));
    }

    /// The client of a call is gone.
    pub(super) fn cancel(&mut self, call: CallId) {
        if let Some(serial) = self.call_ids.get(&call) {
            self.remove_call(*serial);
            return;
        }
        // Perhaps a frozen member has yet to read it. Then it either sees at once that the client has left, or later.
        for node in &mut self.nodes {
            let of_call = |unread: &Unread| {
                !unread.abandoned && matches!(unread.event, Event::Call { call: id, .. } if id == call)
            };
            if let Some(position) = node.inbox.iter().position(of_call) {
                if self.random.bool() {
                    node.inbox.remove(position);
                } else if let Some(unread) = node.inbox.get_mut(position) {
                    unread.abandoned = true;
                }
                return;
            }
        }
    }

    /// The client of a stream is gone.
    pub(super) fn reset(&mut self, stream: StreamId) {
        let Some(member) = self.streams.get(&stream).map(|stream| stream.member) else {
            return;
        };
        self.remove_stream(stream);
        let of_stream = |unread: &Unread| match &unread.event {
            Event::Open { stream: id, .. }
            | Event::Message { stream: id, .. }
            | Event::Credit { stream: id, .. }
            | Event::HalfClose(id) => *id == stream,
            _ => false,
        };
        self.nodes[member].inbox.retain(|unread| !of_stream(unread));
    }
}
