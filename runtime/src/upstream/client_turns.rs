//! What few of a worker's calls do at a time, one for each client, and a client not again right after it was in vain.
//!
//! A client whose calls are all in vain keeps no turn from others: it has one, and all such clients together have no more than
//! half of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_proxy_core::pool::Client;
use parking_lot::Mutex;

/// Turns at a time. One that was in vain counts until the next one may come, so that this bounds how many come in a second.
const ALL_MAX: usize = 8;

/// How many of them those may have whose last one was in vain.
const IN_VAIN_MAX: usize = ALL_MAX / 2;

/// For how many times the wait after a turn in vain it is known whose it was.
const KNOWN_FOR: u32 = 40;

/// Whose turns there are.
#[derive(Clone, Debug)]
pub(crate) struct ClientTurns {
    every: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Clients that have a turn, and until when those wait whose turn was in vain.
    taken: BTreeMap<Client, Option<Instant>>,
    /// Clients whose last turn was in vain, and until when that is known.
    in_vain: BTreeMap<Client, Instant>,
}

impl ClientTurns {
    /// Turns of which a client's next one comes no earlier than `every` after one that was in vain.
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            state: Arc::default(),
        }
    }

    /// A turn for a client; none if it has one or had one in vain a moment ago, or there are too many of others.
    pub(crate) fn take(&self, client: Client) -> Option<ClientTurn> {
        self.state.lock().take(client, Instant::now())?;
        Some(ClientTurn {
            turns: self.clone(),
            client,
            was_worth_it: false,
        })
    }
}

impl State {
    fn take(&mut self, client: Client, now: Instant) -> Option<()> {
        self.taken
            .retain(|_, until| until.is_none_or(|until| until > now));
        self.in_vain.retain(|_, until| *until > now);
        let is_in_vain = self.in_vain.contains_key(&client);
        let in_vain = self
            .taken
            .keys()
            .filter(|client| self.in_vain.contains_key(client));
        let has_room = self.taken.len() < ALL_MAX && (!is_in_vain || in_vain.count() < IN_VAIN_MAX);
        if !has_room || self.taken.contains_key(&client) {
            return None;
        }
        self.taken.insert(client, None);
        Some(())
    }

    fn end(&mut self, client: Client, was_worth_it: bool, every: Duration, now: Instant) {
        if was_worth_it {
            self.taken.remove(&client);
            self.in_vain.remove(&client);
        } else {
            self.taken.insert(client, Some(now + every));
            self.in_vain.insert(client, now + every * KNOWN_FOR);
        }
    }
}

/// A turn. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct ClientTurn {
    turns: ClientTurns,
    client: Client,
    was_worth_it: bool,
}

impl ClientTurn {
    /// It was not in vain, so that the next one needs no wait.
    pub(crate) fn was_worth_it(&mut self) {
        self.was_worth_it = true;
    }
}

impl Drop for ClientTurn {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        state.end(self.client, self.was_worth_it, self.turns.every, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    fn clients(numbers: core::ops::Range<u64>) -> impl Iterator<Item = Client> {
        numbers.map(Client)
    }

    #[test]
    fn a_client_has_one_and_not_again_at_once() {
        let turns = ClientTurns::new(Duration::from_secs(3600));
        let mut first = turns.take(Client(1)).expect("nobody has one");
        assert!(turns.take(Client(1)).is_none(), "it has one");
        drop(turns.take(Client(2)).expect("it is another one's"));
        assert!(turns.take(Client(2)).is_none(), "that was in vain");
        first.was_worth_it();
        drop(first);
        let second = turns.take(Client(1)).expect("the first wasn't in vain");
        drop(second);
        assert!(turns.take(Client(1)).is_none(), "the second was");
    }

    /// Whoever always asks in vain takes turns from those who do so as well, and from nobody else.
    #[test]
    fn those_in_vain_leave_turns_to_others() {
        let (mut state, mut now) = (State::default(), Instant::now());
        for client in clients(0..8) {
            state.take(client, now).expect("there are eight");
            state.end(client, false, EVERY, now);
        }
        assert!(state.take(Client(100), now).is_none(), "there are no more");
        now += EVERY;
        let again: Vec<_> = clients(0..8)
            .filter(|client| state.take(*client, now).is_some())
            .collect();
        assert_eq!(again.len(), IN_VAIN_MAX);
        for client in clients(100..100 + 4) {
            state.take(client, now).expect("it had none in vain");
        }
        // Who has found an answer is one of those again.
        state.end(Client(100), true, EVERY, now);
        state.take(Client(100), now).expect("there is its own");
    }

    #[test]
    fn nothing_is_kept_of_who_is_gone() {
        let (mut state, mut now) = (State::default(), Instant::now());
        for client in clients(0..1_000) {
            state.take(client, now).expect("one at a time");
            state.end(client, false, EVERY, now);
            now += EVERY;
        }
        assert!(state.in_vain.len() <= KNOWN_FOR as usize + 1);
        state.take(Client(5), now).expect("all have ended");
        state.end(Client(5), true, EVERY, now);
        now += EVERY * KNOWN_FOR;
        state.take(Client(6), now).expect("all have ended");
        assert_eq!((state.taken.len(), state.in_vain.len()), (1, 0));
    }
}
