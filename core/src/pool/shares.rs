//! How many calls each client may have in a line, and whose turn it is.

use alloc::collections::{BTreeMap, VecDeque};

use super::Client;

/// Clients that are looked at for who is next when a call ends.
const LOOKS_MAX: usize = 64;

/// Who has how many of a line's calls.
#[derive(Debug)]
pub(super) struct Shares<T> {
    taken: usize,
    clients: BTreeMap<Client, Share<T>>,
    /// Clients that wait, each once.
    turns: VecDeque<Client>,
}

#[derive(Debug)]
struct Share<T> {
    taken: usize,
    waiting: usize,
    in_turns: bool,
    turn: Option<T>,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self {
            taken: 0,
            clients: BTreeMap::new(),
            turns: VecDeque::new(),
        }
    }
}

impl<T> Default for Share<T> {
    fn default() -> Self {
        Self {
            taken: 0,
            waiting: 0,
            in_turns: false,
            turn: None,
        }
    }
}

impl<T: Clone> Shares<T> {
    /// Whether a client may have one more: it has fewer than are left of all.
    pub(super) fn may_take(&self, client: Client, capacity: usize) -> bool {
        let taken = self.clients.get(&client).map_or(0, |share| share.taken);
        taken < capacity.saturating_sub(self.taken)
    }

    pub(super) fn take(&mut self, client: Client) {
        self.taken += 1;
        self.clients.entry(client).or_default().taken += 1;
    }

    /// Returns how to tell who may go on now.
    pub(super) fn give_back(&mut self, client: Client, capacity: usize) -> Option<T> {
        self.taken = self.taken.saturating_sub(1);
        if let Some(share) = self.clients.get_mut(&client) {
            share.taken = share.taken.saturating_sub(1);
        }
        self.forget_idle(client);
        for _ in 0..self.turns.len().min(LOOKS_MAX) {
            let next = self.turns.pop_front()?;
            let Some(share) = self.clients.get_mut(&next) else {
                continue;
            };
            if share.waiting == 0 {
                share.in_turns = false;
                self.forget_idle(next);
                continue;
            }
            let turn = share.turn.clone();
            self.turns.push_back(next);
            if self.may_take(next, capacity) {
                return turn;
            }
        }
        None
    }

    pub(super) fn wait(&mut self, client: Client, turn: T) {
        let share = self.clients.entry(client).or_default();
        share.waiting += 1;
        share.turn = Some(turn);
        if !core::mem::replace(&mut share.in_turns, true) {
            self.turns.push_back(client);
        }
    }

    pub(super) fn stop_waiting(&mut self, client: Client) {
        if let Some(share) = self.clients.get_mut(&client) {
            share.waiting = share.waiting.saturating_sub(1);
        }
    }

    /// Forgets a client that has nothing. One that was in line for a turn is forgotten when that comes.
    fn forget_idle(&mut self, client: Client) {
        let idle = |share: &Share<T>| share.taken == 0 && share.waiting == 0 && !share.in_turns;
        if self.clients.get(&client).is_some_and(idle) {
            self.clients.remove(&client);
        }
    }
}
