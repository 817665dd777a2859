//! Reads that are forwarded, and those who wait for the answers to others.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

use super::Cache;
use super::state::{Flight, Place, Read, Waiter, enlist};
use crate::grpc::Code;
use crate::interval::Link;
use crate::read::refusal::is_shared;
use crate::read::reply;
use crate::read::request::identify;
use crate::read::types::{
    Actions, Admission, FLOOR_UNKNOWN, Header, ReadOutcome, ReadTicket, Reason, Resolution, WaiterId,
};
use crate::time::Instant;

/// Reads under way may take so much memory, whatever the cache may.
const FLIGHT_BYTES_MIN: usize = 1 << 20;

/// Where a read finds the one whose answer it shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// With this one.
    Joined(u32),
    /// With the one after this one.
    Next(u32),
}

impl Cache {
    /// A forwarded read has ended.
    pub fn complete_read(
        &mut self,
        now: Instant,
        ticket: ReadTicket,
        outcome: ReadOutcome,
        actions: &mut Actions,
    ) {
        let ReadTicket { flight, serial } = ticket;
        if self
            .flights
            .get(flight)
            .is_none_or(|flight| flight.serial != serial)
        {
            // Of another cache.
            return;
        }
        let mut flight = self.take_flight(flight);
        let mut waiting = core::mem::take(&mut flight.joined);
        let mut later = core::mem::take(&mut flight.next);
        let mut after_refusal = false;
        match outcome {
            ReadOutcome::Abandoned => {}
            ReadOutcome::Failed(status)
                if status.is(Code::Cancelled) || status.is(Code::DeadlineExceeded) => {}
            ReadOutcome::Failed(status) => {
                let is_compacted =
                    status.is(Code::OutOfRange) && status.message.ends_with("has been compacted");
                if status.is_denial() {
                    self.denied(now, actions);
                } else if is_compacted && flight.revision > 0 {
                    self.stats.invalidated += self.store.remove_compacted(flight.revision) as u64;
                }
                if is_shared(&status) {
                    // A member without a leader answers them all the same.
                    let is_unmoved = |waiter: &Waiter| {
                        status.is(Code::Unavailable) && !flight.serializable && waiter.read.serializable
                    };
                    let mut unmoved = Vec::new();
                    for id in waiting.drain(..) {
                        if self.waiters.get(id).is_some_and(is_unmoved) {
                            unmoved.push(id);
                        } else {
                            self.resolve(id, Resolution::Shared(Err(status.clone())), actions);
                        }
                    }
                    self.lead_one_of(now, unmoved, false, actions);
                } else if flight.after_refusal {
                    // Twice in a row: each finds out for itself.
                    for id in waiting.drain(..) {
                        self.go_alone(now, id, actions);
                    }
                } else {
                    after_refusal = true;
                }
            }
            ReadOutcome::TooLarge => {
                // What nobody holds can't be shared.
                waiting.append(&mut later);
                for id in waiting.drain(..) {
                    self.go_alone(now, id, actions);
                }
            }
            ReadOutcome::Answered(response) => {
                let mut revision = i64::MIN;
                if let Ok((header, body)) = reply::read_header(&response) {
                    if flight.history != self.history {
                        // Nothing follows from it for what comes later. Those who wait for it came before.
                        revision = header.revision;
                    } else if self.learn(header) {
                        revision = header.revision;
                        self.succeeded(now, &flight, header, actions);
                        self.admit(&flight, header, &response[body..]);
                    }
                }
                for id in core::mem::take(&mut waiting) {
                    // Those who wait for the answer to a linearizable read came before it was sent, or may be shown
                    // something old, but not older than what they have seen.
                    let is_newer =
                        |waiter: &Waiter| !waiter.read.serializable || waiter.read.floor <= revision;
                    if self.waiters.get(id).is_some_and(is_newer) {
                        self.resolve(id, Resolution::Shared(Ok(response.clone())), actions);
                    } else {
                        waiting.push(id);
                    }
                }
            }
        }
        // In the order in which they came.
        waiting.append(&mut later);
        self.lead_one_of(now, waiting, after_refusal, actions);
        self.settle(now, actions);
    }

    /// The cluster has answered a read without credentials.
    fn succeeded(&mut self, now: Instant, flight: &Flight, header: Header, actions: &mut Actions) {
        self.prove(flight.auth_epoch, !flight.serializable);
        // From a member that lags, or of a store that has gone back, it tells nothing of the watch. And a member that is cut off
        // from the others answers serializable reads all the same, and nothing tells that it is.
        if header.revision >= flight.began && !flight.serializable {
            self.confirm(now, flight.began_at, header.revision, false, actions);
        }
    }

    /// Caches an answer, if nothing can have made it wrong.
    fn admit(&mut self, flight: &Flight, header: Header, body: &[u8]) {
        let at = header.revision;
        let is_right = if flight.revision > 0 {
            flight.serializable && flight.revision > self.compacted
        } else {
            at >= flight.began.max(self.started) && flight.touched <= at
        };
        let is_wanted = flight.in_scope
            && self.is_serving()
            && flight.auth_epoch == self.auth_epoch
            && self.store.has_room_for(flight.ident.len(), body.len());
        if is_right && is_wanted {
            let read = (flight.hash, &*flight.ident, flight.revision);
            self.stats.admitted += 1;
            let tells_age = !flight.serializable || flight.revision > 0;
            let began = Some(flight.began_at).filter(|_| tells_age);
            self.stats.evicted += self.store.put(read, body, (at, began)) as u64;
        }
    }

    /// Has the read at hand share another one's answer, or forwards it.
    pub(super) fn share(&mut self, now: Instant, read: Read, request: &Bytes) -> Admission {
        if let Some(seat) = self.seat(now, &read) {
            return self.join(read, request, seat);
        }
        if self.flight_bytes > FLIGHT_BYTES_MIN.max(self.config.bytes_max / 4) {
            return self.bypass(Reason::Busy);
        }
        Admission::Forward(self.lead(now, &read, false))
    }

    /// Forwards the read at hand because the cache takes too long, unless too many are already.
    pub(super) fn fall_back_at_once(&mut self, now: Instant, read: Read, request: &Bytes) -> Admission {
        self.stats.fallbacks += 1;
        if let Some(seat) = self.seat(now, &read) {
            return self.join(read, request, seat);
        }
        if self.must_queue() && self.waiters.len() < self.config.waiters_max {
            let id = self.waiters.insert(Waiter {
                read,
                request: request.clone(),
                need: read.need(),
                place: Place::Queue,
            });
            self.queue.push_back(id);
            return Admission::Wait(id);
        }
        Admission::Forward(self.lead(now, &read, true))
    }

    /// A read that waited finds nothing, or has no patience left: it goes to the cluster.
    pub(super) fn miss(&mut self, now: Instant, id: WaiterId, is_fallback: bool, actions: &mut Actions) {
        let Some(waiter) = self.waiters.get(id) else {
            return;
        };
        let read = waiter.read;
        identify(&waiter.request, &mut self.ident).expect("it was read before");
        if let Some(seat) = self.seat(now, &read) {
            self.park(id, Place::Flight);
            self.sit(id, seat);
        } else if is_fallback && self.must_queue() {
            self.park(id, Place::Queue);
            self.queue.push_back(id);
        } else {
            let ticket = self.lead(now, &read, is_fallback);
            self.resolve(id, Resolution::Forward(ticket), actions);
        }
    }

    /// Lets those go on who queue, as far as there is room.
    pub(super) fn start_queued(&mut self, now: Instant, actions: &mut Actions) {
        while self.fallbacks < self.config.fallbacks_max
            && let Some(id) = self.queue.pop_front()
        {
            self.miss(now, id, true, actions);
        }
    }

    fn must_queue(&self) -> bool {
        self.fallbacks >= self.config.fallbacks_max && self.queue.len() < self.config.queue_max
    }

    /// Whose answer the read at hand may share. None that is older than an answer may be: nobody joins what hangs, and
    /// nobody who isn't allowed to see the answer.
    fn seat(&self, now: Instant, read: &Read) -> Option<Seat> {
        if read.floor == FLOOR_UNKNOWN && read.serializable {
            // Nobody knows which answer is new enough.
            return None;
        }
        let find = |serializable: bool| {
            let is_it = |id: &u32| {
                let flight = &self.flights[*id];
                flight.serializable == serializable
                    && *flight.ident == *self.ident
                    && flight.auth_epoch == self.auth_epoch
                    && flight.history == self.history
                    && now - flight.began_at <= self.config.staleness_max
            };
            self.flight_table.find(read.hash, is_it).copied()
        };
        if read.serializable {
            return find(true).or_else(|| find(false)).map(Seat::Joined);
        }
        let id = find(false)?;
        Some(if self.flights[id].serial > read.serial {
            Seat::Joined(id)
        } else {
            Seat::Next(id)
        })
    }

    fn join(&mut self, read: Read, request: &Bytes, seat: Seat) -> Admission {
        if self.waiters.len() >= self.config.waiters_max {
            return self.bypass(Reason::Busy);
        }
        let id = self.waiters.insert(Waiter {
            read,
            request: request.clone(),
            need: read.need(),
            place: Place::Flight,
        });
        self.sit(id, seat);
        Admission::Wait(id)
    }

    fn sit(&mut self, id: WaiterId, seat: Seat) {
        let list = match seat {
            Seat::Joined(flight) => &mut self.flights[flight].joined,
            Seat::Next(flight) => &mut self.flights[flight].next,
        };
        enlist(list, &self.waiters, id);
    }

    /// Forwards the first of these reads, and has the others wait for its answer: all of them came before. If one of them is
    /// linearizable, it is one of those.
    fn lead_one_of(
        &mut self,
        now: Instant,
        mut waiting: Vec<WaiterId>,
        after_refusal: bool,
        actions: &mut Actions,
    ) {
        waiting.retain(|id| self.waiters.contains_key(*id));
        if waiting.is_empty() {
            return;
        }
        let is_linearizable = |id: &WaiterId| !self.waiters[*id].read.serializable;
        let leader = waiting.remove(waiting.iter().position(is_linearizable).unwrap_or(0));
        let read = self.waiters[leader].read;
        identify(&self.waiters[leader].request, &mut self.ident).expect("it was read before");
        let ticket = self.lead(now, &read, false);
        let flight = &mut self.flights[ticket.flight];
        flight.joined = waiting;
        flight.after_refusal = after_refusal;
        self.resolve(leader, Resolution::Forward(ticket), actions);
    }

    /// Forwards a read, whoever else asks the same.
    fn go_alone(&mut self, now: Instant, id: WaiterId, actions: &mut Actions) {
        let Some(waiter) = self.waiters.get(id) else {
            return;
        };
        let read = waiter.read;
        identify(&waiter.request, &mut self.ident).expect("it was read before");
        let ticket = self.lead(now, &read, false);
        self.resolve(id, Resolution::Forward(ticket), actions);
    }

    /// Forwards the read at hand.
    fn lead(&mut self, now: Instant, read: &Read, is_fallback: bool) -> ReadTicket {
        let serial = self.next_serial();
        let flight = Flight {
            serial,
            ident: Box::from(&self.ident[..]),
            hash: read.hash,
            serializable: read.serializable,
            revision: read.revision,
            in_scope: read.in_scope,
            began_at: now,
            began: if self.is_up() {
                self.watched.max(self.newest_event)
            } else {
                0
            },
            touched: 0,
            auth_epoch: self.auth_epoch,
            history: self.history,
            is_fallback,
            after_refusal: false,
            joined: Vec::new(),
            next: Vec::new(),
            link: Link::default(),
        };
        self.stats.forwarded += 1;
        self.flight_bytes += flight.bytes();
        self.fallbacks += usize::from(is_fallback);
        let is_touchable = flight.touchable().is_some();
        let id = self.flights.insert(flight);
        let flights = &self.flights;
        self.flight_table
            .insert_unique(read.hash, id, |id| flights[*id].hash);
        if is_touchable {
            self.flight_tree.insert(&mut self.flights, id);
        }
        ReadTicket { flight: id, serial }
    }

    fn take_flight(&mut self, id: u32) -> Flight {
        if let Ok(place) = self
            .flight_table
            .find_entry(self.flights[id].hash, |other| *other == id)
        {
            place.remove();
        }
        if self.flights[id].touchable().is_some() {
            self.flight_tree.remove(&mut self.flights, id);
        }
        let flight = self.flights.remove(id).expect("it was there just now");
        self.flight_bytes -= flight.bytes();
        self.fallbacks -= usize::from(flight.is_fallback);
        flight
    }
}
