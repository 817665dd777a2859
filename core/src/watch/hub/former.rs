//! What is left of a history that is over. A client may have very many watchers, so it is forgotten in pieces, as
//! [work](super::work): nothing finds it meanwhile, for nothing that is looked up names it any more.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::fmt;
use core::iter::once;
use core::mem::take;

use super::Hub;
use super::late::Merges;
use super::state::{Client, Source, SourceId, Step, Upstream, WatcherId};
use super::turns::Turns;
use super::work::Work;
use crate::watch::index::RangeIndex;
use crate::watch::types::CheckId;

/// What is still to be forgotten.
pub(super) struct Former(VecDeque<Pieces>);

type Pieces = Box<dyn Iterator<Item = Piece> + Send>;

/// One thing. Those that are kept by their ids are still to be taken from there.
enum Piece {
    Check(CheckId),
    Source(SourceId),
    Watcher(WatcherId),
    Nothing,
}

/// How much of it is still among what is kept, so that it isn't counted as there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FormerCounts {
    pub(super) sources: usize,
    pub(super) watchers: usize,
}

impl fmt::Debug for Former {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Former").field(&self.0.len()).finish()
    }
}

impl Hub {
    /// Takes away all that names something of the history so far, and begins to forget it. Its streams are over already, with what
    /// is said here to be theirs.
    pub(super) fn begin_to_forget(
        &mut self,
        clients: VecDeque<Client>,
        upstreams: VecDeque<Upstream>,
        index_seed: u64,
    ) {
        let mut former = Former(VecDeque::new());
        former.add(clients.into_iter().flat_map(Client::pieces));
        former.add(upstreams.into_iter().flat_map(Upstream::pieces));
        former.add(take(&mut self.backlog).into_iter().flat_map(Work::pieces));
        former.add(take(&mut self.by_question).into_values().map(Piece::Check));
        let catch_ups = take(&mut self.catch_ups).into_values();
        former.add(catch_ups.flat_map(|catch_up| {
            let waiting = catch_up.waiting.into_iter().map(nothing);
            waiting
                .chain(catch_up.clients.into_iter().map(nothing))
                .chain(end())
        }));
        let index = core::mem::replace(&mut self.index, RangeIndex::new(index_seed));
        former.add(index.into_pieces().map(nothing));
        former.add(take(&mut self.timers).into_pieces().map(nothing));
        let turns: Turns = take(&mut self.turns);
        former.add(turns.into_pieces().map(nothing));
        former.add(take(&mut self.by_credentials).into_iter().map(nothing));
        former.add(take(&mut self.leader_clients).into_iter().map(nothing));
        former.add(take(&mut self.notified).into_iter().map(nothing));
        former.add(take(&mut self.wishing).into_iter().map(nothing));
        former.add(take(&mut self.due).into_iter().map(nothing));
        former.add(take(&mut self.suspects).into_iter().map(nothing));
        let stirred = take(&mut self.stirred);
        former.add(stirred.upstreams.into_iter().map(nothing));
        former.add(stirred.ranges.into_iter().map(nothing));
        former.add(stirred.owed.into_iter().map(nothing));
        former.add(stirred.wishing.into_iter().map(nothing));
        self.batches = VecDeque::new();
        // There are only a few.
        self.merges = Merges::default();
        self.former = FormerCounts {
            sources: self.sources.len(),
            watchers: self.watchers.len(),
        };
        self.begin(Work::Former(former));
    }

    /// Forgets the next thing. Whether there may be more.
    pub(super) fn forget_former(&mut self, former: &mut Former) -> bool {
        let Some(pieces) = former.0.front_mut() else {
            return false;
        };
        match pieces.next() {
            None => {
                former.0.pop_front();
            }
            Some(Piece::Nothing) => {}
            Some(Piece::Check(id)) => drop(self.checks.remove(id)),
            Some(Piece::Watcher(id)) => {
                self.former.watchers -= usize::from(self.watchers.remove(id).is_some());
            }
            Some(Piece::Source(id)) => {
                if let Some(source) = self.sources.remove(id) {
                    self.former.sources -= 1;
                    former.add(source.pieces());
                }
            }
        }
        true
    }
}

impl Former {
    fn add(&mut self, pieces: impl Iterator<Item = Piece> + Send + 'static) {
        self.0.push_back(Box::new(pieces));
    }
}

impl Client {
    fn pieces(self) -> impl Iterator<Item = Piece> + Send {
        let created = self.watchers.into_values().map(Piece::Watcher);
        let waiting = self.steps.into_iter().map(of_step);
        created
            .chain(waiting)
            .chain(self.ids_wanted.into_iter().map(nothing))
            .chain(self.shares.into_iter().map(nothing))
            .chain(self.starts.into_iter().map(nothing))
            .chain(self.deferred.into_iter().map(nothing))
            .chain(end())
    }
}

impl Upstream {
    fn pieces(self) -> impl Iterator<Item = Piece> + Send {
        let sources = self.sources.into_iter().map(Piece::Source);
        sources
            .chain(self.to_create.into_iter().map(nothing))
            .chain(self.by_wire_id.into_iter().map(nothing))
            .chain(end())
    }
}

impl Source {
    fn pieces(self) -> impl Iterator<Item = Piece> + Send {
        let history = self.history.into_batches().map(nothing);
        history
            .chain(self.members.into_iter().map(nothing))
            .chain(self.clients.into_iter().map(nothing))
            .chain(self.owners.into_iter().map(nothing))
            .chain(self.keys.into_iter().map(nothing))
            .chain(self.ranges.into_iter().map(nothing))
            .chain(end())
    }
}

impl Work {
    /// What a work that is given up was still to do with many. Watchers of clients that are gone have no other place.
    fn pieces(self) -> Pieces {
        match self {
            Self::Forget { created, starting } => Box::new(
                created
                    .map(Piece::Watcher)
                    .chain(starting.map(of_step))
                    .chain(end()),
            ),
            Self::Former(Former(former)) => Box::new(former.into_iter().flatten().chain(end())),
            Self::CatchUp(ranges) => Box::new(ranges.map(nothing).chain(end())),
            Self::Acquit(sources) => Box::new(sources.map(nothing).chain(end())),
            Self::End(clients, _) => Box::new(clients.map(nothing).chain(end())),
            _ => Box::new(end()),
        }
    }
}

fn of_step(step: Step) -> Piece {
    match step {
        Step::Create(watcher) => Piece::Watcher(watcher),
        Step::Cancel(_) => Piece::Nothing,
    }
}

/// Something that is forgotten with this.
fn nothing<T>(_: T) -> Piece {
    Piece::Nothing
}

/// A piece after all others, so that whoever has none is one as well.
fn end() -> impl Iterator<Item = Piece> + Send {
    once(Piece::Nothing)
}
