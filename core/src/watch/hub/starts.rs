//! Create requests, from when they come until they are answered.

use alloc::borrow::Cow;
use alloc::collections::btree_map::Entry;
use alloc::format;
use alloc::string::String;

use super::Hub;
use super::checks::Verdict;
use super::state::{Doubt, NO_WATCHER, Place, Question, Start, Step, Timer, Watcher, WatcherId};
use super::work::Work;
use crate::grpc::{Code, MessageTooLarge};
use crate::time::Instant;
use crate::watch::batch::Variant;
use crate::watch::types::{Actions, ClientId, Header, Status};
use crate::watch::wire::request::{self, Create};
use crate::watch::wire::write;

impl Hub {
    /// Has a create request wait for a revision read after it came, and for permission. Refusals wait for a revision
    /// too: a server's have a header.
    pub(super) fn create(&mut self, now: Instant, id: ClientId, create: Create, actions: &mut Actions) {
        // Its own message for this watcher must be one that a server takes: else it ends the stream of all.
        let bytes = request::create_bytes_max(&create.range) as u64;
        if bytes > self.config.request_bytes_max {
            let bytes_max = self.config.request_bytes_max;
            let status = MessageTooLarge { bytes, bytes_max }.status();
            self.end_client(id, status, actions);
            return;
        }
        let client = &mut self.clients[id];
        let credentials = client.caller.credentials.clone();
        let refusal = if create.start < 0 {
            Some(String::from(
                "etcdserver: mvcc: required revision has been compacted",
            ))
        } else if client.watchers.len() + client.creating >= self.config.watchers_per_client_max {
            Some(String::from(
                "rpc error: code = ResourceExhausted desc = etcdserver: too many requests",
            ))
        } else {
            None
        };
        let needs_permission = refusal.is_none() && credentials.is_some();
        let range = create.range;
        let watcher = self.watchers.insert(Watcher {
            client: id,
            credentials: credentials.clone(),
            wire_id: NO_WATCHER,
            range: range.clone(),
            variant: Variant {
                no_put: create.no_put,
                no_delete: create.no_delete,
                prev_kv: create.prev_kv,
            },
            fragment: create.fragment,
            notify: create.progress_notify,
            active: false,
            start: create.start,
            next: create.start,
            sent: 0,
            unsent: 0,
            is_in_line: false,
            is_ahead: false,
            is_owed: false,
            live: None,
            doubt: Doubt::None,
            place: Place::Starting(Start {
                watch_id: create.watch_id,
                revision: create.start,
                header: None,
                is_permitted: !needs_permission,
                refusal,
            }),
        });
        client.steps.push_back(Step::Create(watcher));
        client.creating += 1;
        *client.ids_wanted.entry(create.watch_id).or_default() += 1;
        self.timers
            .set(Timer::Create(watcher), now + self.config.create_timeout);
        self.wonder(Question::revision(credentials.clone(), &range), watcher);
        if needs_permission {
            self.wonder(Question::permission(credentials, &range), watcher);
        }
    }

    /// Takes in the answer to a question that a watcher waited for.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        id: WatcherId,
        verdict: &Verdict,
        question: &Question,
        losses: u64,
        actions: &mut Actions,
    ) {
        let Some(watcher) = self.watchers.get_mut(id) else {
            return;
        };
        let client = watcher.client;
        if !self.clients.contains_key(client) {
            return;
        }
        if let Verdict::TooLarge(status) = verdict {
            self.end_client(client, status.clone(), actions);
            return;
        }
        let Place::Starting(start) = &mut watcher.place else {
            self.doubt_answered(now, id, verdict, question, losses, actions);
            return;
        };
        match verdict {
            Verdict::Reached(header) => start.header = Some(*header),
            Verdict::Permitted => start.is_permitted = true,
            // There is none for anybody.
            Verdict::Refused(_) if *question == Question::Header => start.header = Some(Header::default()),
            Verdict::Refused(status) => {
                start.refusal.get_or_insert_with(|| refusal(status));
                if matches!(question, Question::Revision(..)) {
                    self.wonder(Question::Header, id);
                    return;
                }
            }
            Verdict::TooLarge(_) | Verdict::Unknown(_) => {}
        }
        if self.take_step(now, client, actions)
            && let Some(state) = self.clients.get_mut(client)
            && !state.steps.is_empty()
            && !core::mem::replace(&mut state.is_stepping, true)
        {
            // Those that follow may have waited for this one only.
            self.begin(Work::Steps(client));
        }
    }

    /// Answers the first request that waits, if it can be. Whether it was.
    pub(super) fn take_step(&mut self, now: Instant, id: ClientId, actions: &mut Actions) -> bool {
        let Some(client) = self.clients.get_mut(id) else {
            return false;
        };
        match client.steps.front().copied() {
            None => return false,
            Some(Step::Cancel(wire_id)) => {
                client.steps.pop_front();
                if let Some(watcher) = client.watchers.get(&wire_id).copied() {
                    self.canceled(watcher, 0, "", actions);
                }
            }
            Some(Step::Create(watcher)) => {
                let Place::Starting(start) = &self.watchers[watcher].place else {
                    unreachable!("it leaves the steps when it is created");
                };
                let (refused, watch_id) = (start.refusal.is_some(), start.watch_id);
                if start.header.is_none() || !(refused || start.is_permitted) {
                    return false;
                }
                client.steps.pop_front();
                client.creating -= 1;
                if let Entry::Occupied(mut wanted) = client.ids_wanted.entry(watch_id) {
                    *wanted.get_mut() -= 1;
                    if *wanted.get() == 0 {
                        wanted.remove();
                    }
                }
                self.created(now, watcher, actions);
            }
        }
        self.resume(id, actions);
        true
    }

    /// Answers a create request.
    fn created(&mut self, now: Instant, id: WatcherId, actions: &mut Actions) {
        self.timers.cancel(Timer::Create(id));
        let watcher = &mut self.watchers[id];
        let client_id = watcher.client;
        let place = core::mem::replace(&mut watcher.place, Place::Waiting);
        let Place::Starting(start) = place else {
            unreachable!("its only caller has looked");
        };
        // That of anybody's last answer is as true.
        let header = start.header.filter(|header| header.revision > 0);
        let header = header.unwrap_or(self.header);
        let watched = watcher.range.clone();
        let client = &mut self.clients[client_id];
        let was_denied = start.refusal.is_some() && start.revision >= 0;
        let wire_id = match start.refusal {
            Some(reason) => Err(Cow::Owned(reason)),
            None if watched.is_empty() => Err(Cow::Borrowed("mvcc: watcher range is empty")),
            None if start.watch_id != 0 && client.watchers.contains_key(&start.watch_id) => Err(
                Cow::Borrowed("mvcc: duplicate watch ID provided on the WatchStream"),
            ),
            None if start.watch_id != 0 => Ok(start.watch_id),
            None => {
                while client.watchers.contains_key(&client.next_id) {
                    client.next_id = client.next_id.wrapping_add(1);
                }
                client.next_id = client.next_id.wrapping_add(1);
                Ok(client.next_id.wrapping_sub(1))
            }
        };
        let header_sent = self.header_for(client_id, header);
        let (sent_id, reason) = match &wire_id {
            Ok(wire_id) => (*wire_id, ""),
            Err(reason) => (NO_WATCHER, reason.as_ref()),
        };
        let frame = write::created(header_sent, sent_id, reason);
        // A refusal may have the header of another cluster, whose revisions aren't those of this one.
        let reached = if self.is_foreign(header) {
            0
        } else {
            header_sent.revision
        };
        self.deliver(client_id, frame, reached, actions);
        let Ok(wire_id) = wire_id else {
            self.stats.denied += u64::from(was_denied);
            self.watchers.remove(id);
            self.stir_wish(client_id);
            return;
        };
        self.clients[client_id].watchers.insert(wire_id, id);
        // After what the client was told, which may be more than was read for it: a server's begin there, too.
        let follows = header_sent.revision.saturating_add(1);
        let watcher = &mut self.watchers[id];
        watcher.wire_id = wire_id;
        watcher.next = if start.revision == 0 {
            follows
        } else {
            start.revision
        };
        if watcher.notify {
            self.notified.insert(id);
        }
        if watcher.start >= follows {
            watcher.is_ahead = true;
            let starts = &mut self.clients[client_id].starts;
            *starts.entry(watcher.start).or_default() += 1;
        }
        self.arm_timers(now);
        self.attach(id, follows, actions);
        if start.revision > 0 && start.revision < self.compact_revision {
            self.stats.compacted += 1;
            self.canceled(id, self.compact_revision, "", actions);
        } else {
            self.advance(now, id, actions);
        }
    }

    /// A question isn't answered, for want of a leader. Who asked for one doesn't wait for it; others do.
    pub(super) fn fail_one(
        &mut self,
        watcher: WatcherId,
        question: &Question,
        status: &Status,
        actions: &mut Actions,
    ) {
        let Some(client) = self.watchers.get(watcher).map(|watcher| watcher.client) else {
            return;
        };
        if self.leader_clients.contains(&client) {
            self.end_client(client, status.clone(), actions);
        } else {
            self.wait_for(question.clone(), watcher);
        }
    }

    /// A create request has waited for too long. It waits on as long as its client has watchers that are served.
    pub(super) fn create_timed_out(&mut self, now: Instant, id: WatcherId, actions: &mut Actions) {
        let Some(watcher) = self.watchers.get(id) else {
            return;
        };
        let client = self.clients.get(watcher.client);
        if client.is_some_and(|client| client.shares.values().any(|share| share.running > 0)) {
            self.timers
                .set(Timer::Create(id), now + self.config.create_timeout);
            return;
        }
        let status = Status::of(Code::Unavailable, "etcdserver: request timed out");
        self.end_client(watcher.client, status, actions);
    }
}

/// A refusal as a cancel reason has it: how Go prints a gRPC status.
pub(super) fn refusal(status: &Status) -> String {
    let code = match Code::of_number(status.code) {
        Some(Code::InvalidArgument) => "InvalidArgument",
        Some(Code::Unauthenticated) => "Unauthenticated",
        _ => "PermissionDenied",
    };
    format!("rpc error: code = {code} desc = {}", status.message)
}
