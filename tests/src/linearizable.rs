//! Is the history of a register linearizable?
//!
//! A search for an order of all calls that a single register could have carried out one after the other, in which no call
//! comes before one that had returned when it began: Wing and Gong's, with Lowe's memory of the states from which it
//! leads nowhere. Keys are registers of their own, and a history of many is linearizable if that of each is (Herlihy
//! and Wing), so each is looked at for itself.

use std::{collections::HashSet, fmt};

/// What the register holds; None: no key.
pub type Value = Option<u64>;

/// What a call did, and what it was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// Delete; whether there was something, if it was answered.
    Delete(Option<bool>),
    /// Read, and what it was answered.
    Read(Value),
    /// Put `to` if it holds `from`. With what it found instead, if it was answered and found something else.
    Swap {
        /// What it must hold.
        from: Value,
        /// What it holds then.
        to: u64,
        /// None if there was no answer.
        outcome: Option<Result<(), Value>>,
    },
    /// Put.
    Write(u64),
}

impl Op {
    /// What the register holds afterwards; None if the call can't have had its answer then.
    fn apply(self, state: Value) -> Option<Value> {
        match self {
            Self::Delete(existed) => existed
                .is_none_or(|existed| existed == state.is_some())
                .then_some(None),
            Self::Read(seen) => (seen == state).then_some(state),
            Self::Swap { from, to, outcome } => {
                let swaps = state == from;
                let fits = match outcome {
                    None => true,
                    Some(Ok(())) => swaps,
                    Some(Err(found)) => !swaps && found == state,
                };
                fits.then_some(if swaps { Some(to) } else { state })
            }
            Self::Write(value) => Some(Some(value)),
        }
    }
}

/// A call of one client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call {
    /// When it began, in any unit.
    pub called: u64,
    /// When it was answered, not before it began. None: never, so it may have been carried out at any time since it began,
    /// or not at all.
    pub returned: Option<u64>,
    /// What it was.
    pub op: Op,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// How many calls could be put in order.
    pub ordered: usize,
    /// What the register held then.
    pub state: Value,
    /// The calls of which one would have had to come next.
    pub stuck: Vec<Call>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "after {} calls it holds {:?}, and then none of these fits:",
            self.ordered, self.state
        )?;
        for call in &self.stuck {
            writeln!(f, "  {call:?}")?;
        }
        Ok(())
    }
}

/// Looks for an order of a register's calls, in whatever order they are given. In the beginning it holds nothing.
///
/// The time that this takes grows with the calls that are under way at a time, and quickly with those that never returned.
///
/// # Errors
/// When there is none.
pub fn check(history: &[Call]) -> Result<(), Violation> {
    let mut search = Search::new(history);
    let mut farthest = None;
    loop {
        let horizon = search.horizon();
        if horizon == u64::MAX && search.first == search.answered {
            return Ok(());
        }
        if search.forward(horizon) {
            continue;
        }
        if farthest
            .as_ref()
            .is_none_or(|far: &Violation| far.ordered < search.path.len())
        {
            farthest = Some(search.violation(horizon));
        }
        if !search.back() {
            return Err(farthest.expect("it was stuck at least once"));
        }
    }
}

struct Search {
    /// Those that returned, as they began; then the others.
    calls: Vec<Call>,
    /// How many have returned.
    answered: usize,
    ordered: Vec<u64>,
    /// The first that has returned and isn't ordered.
    first: usize,
    state: Value,
    /// The calls in order, and what the register held before each.
    path: Vec<(usize, Value)>,
    /// The call that is tried next.
    next: usize,
    /// Where it has been: what was ordered, and what the register held.
    seen: HashSet<(Box<[u64]>, Value)>,
}

impl Search {
    fn new(history: &[Call]) -> Self {
        let mut calls = history.to_vec();
        calls.sort_by_key(|call| (call.returned.is_none(), call.called));
        Self {
            answered: calls.partition_point(|call| call.returned.is_some()),
            ordered: vec![0; calls.len().div_ceil(64)],
            calls,
            first: 0,
            state: None,
            path: Vec::new(),
            next: 0,
            seen: HashSet::new(),
        }
    }

    fn is_ordered(&self, index: usize) -> bool {
        self.ordered[index / 64] >> (index % 64) & 1 == 1
    }

    fn flip(&mut self, index: usize) {
        self.ordered[index / 64] ^= 1 << (index % 64);
    }

    /// When the first of the others must have been carried out: what began later can't be next.
    fn horizon(&self) -> u64 {
        let mut horizon = u64::MAX;
        for index in self.first..self.answered {
            let call = &self.calls[index];
            if call.called > horizon {
                break;
            }
            if !self.is_ordered(index) {
                horizon = horizon.min(call.returned.unwrap_or(u64::MAX));
            }
        }
        horizon
    }

    /// The calls that can be next, from `from` on.
    fn candidates(&self, from: usize, horizon: u64) -> impl Iterator<Item = usize> {
        let answered = (from.max(self.first)..self.answered)
            .take_while(move |index| self.calls[*index].called <= horizon);
        let others = (from.max(self.answered)..self.calls.len())
            .filter(move |index| self.calls[*index].called <= horizon);
        answered.chain(others).filter(|index| !self.is_ordered(*index))
    }

    /// Puts one more call in order, if that leads to somewhere new.
    fn forward(&mut self, horizon: u64) -> bool {
        let candidates: Vec<usize> = self.candidates(self.next, horizon).collect();
        for index in candidates {
            let Some(state) = self.calls[index].op.apply(self.state) else {
                continue;
            };
            // One that nobody heard of, and that changes nothing, needn't be there.
            if index >= self.answered && state == self.state {
                continue;
            }
            self.flip(index);
            if !self.seen.insert((self.ordered.clone().into(), state)) {
                self.flip(index);
                continue;
            }
            self.path.push((index, self.state));
            self.state = state;
            while self.first < self.answered && self.is_ordered(self.first) {
                self.first += 1;
            }
            self.next = 0;
            return true;
        }
        false
    }

    /// Takes the last one back. False if there is none.
    fn back(&mut self) -> bool {
        let Some((index, state)) = self.path.pop() else {
            return false;
        };
        self.flip(index);
        self.state = state;
        if index < self.answered {
            self.first = self.first.min(index);
        }
        self.next = index + 1;
        true
    }

    fn violation(&self, horizon: u64) -> Violation {
        Violation {
            ordered: self.path.len(),
            state: self.state,
            stuck: self
                .candidates(0, horizon)
                .map(|index| self.calls[index])
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(called: u64, returned: u64, op: Op) -> Call {
        Call {
            called,
            returned: Some(returned),
            op,
        }
    }

    fn lost(called: u64, op: Op) -> Call {
        Call {
            called,
            returned: None,
            op,
        }
    }

    const fn swap(from: Value, to: u64, outcome: Option<Result<(), Value>>) -> Op {
        Op::Swap { from, to, outcome }
    }

    #[test]
    fn histories_of_a_register() {
        for history in [
            vec![],
            vec![call(0, 1, Op::Read(None))],
            vec![call(0, 1, Op::Write(1)), call(2, 3, Op::Read(Some(1)))],
            // At the same time, in either order.
            vec![
                call(0, 5, Op::Write(1)),
                call(1, 2, Op::Read(Some(1))),
                call(3, 4, Op::Read(Some(1))),
            ],
            vec![
                call(0, 5, Op::Write(1)),
                call(1, 2, Op::Read(None)),
                call(3, 4, Op::Read(Some(1))),
            ],
            // One that returned when the next began.
            vec![call(0, 1, Op::Write(1)), call(1, 2, Op::Read(None))],
            // Carried out long after its client gave up, or never.
            vec![
                lost(0, Op::Write(1)),
                call(1, 2, Op::Read(None)),
                call(3, 4, Op::Read(Some(1))),
            ],
            vec![lost(0, Op::Write(1)), call(1, 2, Op::Read(None))],
            vec![
                call(0, 1, swap(None, 1, Some(Ok(())))),
                lost(2, swap(Some(1), 2, None)),
                call(3, 4, swap(Some(1), 3, Some(Err(Some(2))))),
                call(5, 6, Op::Delete(Some(true))),
                call(7, 8, Op::Delete(Some(false))),
            ],
        ] {
            assert_eq!(check(&history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn histories_that_no_register_has() {
        for (ordered, history) in [
            (0, vec![call(0, 1, Op::Read(Some(1)))]),
            // Old, lost, back and forth.
            (1, vec![call(0, 1, Op::Write(1)), call(2, 3, Op::Read(None))]),
            (
                2,
                vec![
                    call(0, 1, Op::Write(1)),
                    call(2, 3, Op::Write(2)),
                    call(4, 5, Op::Read(Some(1))),
                ],
            ),
            (
                2,
                vec![
                    call(0, 9, Op::Write(1)),
                    call(1, 2, Op::Read(Some(1))),
                    call(3, 4, Op::Read(None)),
                ],
            ),
            // It can be carried out once only.
            (
                3,
                vec![
                    lost(0, Op::Write(1)),
                    call(1, 2, Op::Read(Some(1))),
                    call(3, 4, Op::Delete(None)),
                    call(5, 6, Op::Read(Some(1))),
                ],
            ),
            // Not before it began.
            (0, vec![call(0, 1, Op::Read(Some(1))), lost(2, Op::Write(1))]),
            (
                1,
                vec![call(0, 1, Op::Write(1)), call(2, 3, Op::Delete(Some(false)))],
            ),
            (
                1,
                vec![
                    call(0, 1, swap(None, 1, Some(Ok(())))),
                    call(2, 3, swap(None, 2, Some(Ok(())))),
                ],
            ),
            (
                1,
                vec![
                    call(0, 1, Op::Write(1)),
                    call(2, 3, swap(Some(1), 2, Some(Err(Some(1))))),
                ],
            ),
        ] {
            let violation = check(&history).expect_err("no register has this");
            assert_eq!(violation.ordered, ordered, "{history:?}: {violation}");
            assert!(!violation.to_string().is_empty());
        }
    }

    /// All orders, tried one by one.
    fn any_order(history: &[Call], left: &[usize], state: Value) -> bool {
        if left.iter().all(|index| history[*index].returned.is_none()) {
            return true;
        }
        left.iter().any(|&index| {
            let call = &history[index];
            let is_free = left
                .iter()
                .all(|other| history[*other].returned.is_none_or(|end| end >= call.called));
            let rest: Vec<usize> = left.iter().copied().filter(|other| *other != index).collect();
            is_free
                && call
                    .op
                    .apply(state)
                    .is_some_and(|state| any_order(history, &rest, state))
        })
    }

    #[test]
    fn agrees_with_trying_all_orders() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut pick = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut verdicts = [0; 2];
        for _ in 0..20_000 {
            let history: Vec<Call> = (0..2 + pick(5))
                .map(|_| {
                    let mut value = || pick(3).checked_sub(1);
                    let (a, b) = (value(), value());
                    let is_lost = pick(5) == 0;
                    let number = pick(2);
                    let op = match pick(6) {
                        0 | 1 => Op::Write(number),
                        2 => Op::Delete((!is_lost).then_some(pick(2) == 0)),
                        3 => {
                            let outcome = if pick(2) == 0 { Ok(()) } else { Err(b) };
                            swap(a, number, (!is_lost).then_some(outcome))
                        }
                        _ => Op::Read(a),
                    };
                    let called = pick(12);
                    Call {
                        called,
                        returned: (!is_lost).then_some(called + 1 + pick(6)),
                        op,
                    }
                })
                .collect();
            let all: Vec<usize> = (0..history.len()).collect();
            let expected = any_order(&history, &all, None);
            assert_eq!(check(&history).is_ok(), expected, "{history:?}");
            verdicts[usize::from(expected)] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 1000), "{verdicts:?}");
    }

    /// Long ones with few calls at a time take little.
    #[test]
    fn long_histories() {
        let mut history = Vec::new();
        for at in 0..20_000 {
            let op = if at % 2 == 0 {
                Op::Write(at)
            } else {
                Op::Read(Some(at - 1))
            };
            history.push(call(at * 10, at * 10 + 5, op));
            if at % 2000 == 0 {
                history.push(lost(at * 10, Op::Write(1_000_000 + at)));
            }
        }
        assert_eq!(check(&history), Ok(()));
        history.push(call(200_100, 200_101, Op::Read(Some(7))));
        // Each of the lost ones may come at any time, so this takes all the combinations of them at the end.
        assert!(check(&history[19_000..]).is_err());
    }
}
