//! The history that the proxy is in: a line of revisions of one cluster, of which nothing is ever taken back.
//!
//! A store can go back all the same: a snapshot is restored, or an older data directory is put in its place, or a member of
//! another cluster answers at the same address. What was known before is then true of nothing. A *history* is a cluster's id
//! and the highest revision that was seen of it, and this is the rule:
//!
//! - Whatever a member shows was committed before. So an answer that shows what is newest (a linearizable read, a write)
//!   and was asked for after a revision was seen can't show less, however far members lag. If it does, or names another
//!   cluster, the store has **another history**, which begins with this answer.
//! - Any other answer that shows less may come from a member that lags. It is **suspicious** if it is about a time after
//!   that revision was seen, and a reason to ask a question whose answer decides.
//! - An answer that was asked for in a former history is **stale**: nothing follows from it.
//!
//! A revision that the store doesn't have, from a member that is out of its mind, is undone by the same rule: the next answer
//! that shows what is newest shows less. One that no store can have ([`is_plausible`]) counts for nothing.

use crate::rpc::Rpc;
use crate::wire::read::{Malformed, Reader};

/// The highest revision that is believed. A store with a revision for each nanosecond would be there in 146 years.
const REVISION_MAX: i64 = 1 << 62;

/// Whether a store can have this revision: they begin with 1.
#[must_use]
pub const fn is_plausible(revision: i64) -> bool {
    0 < revision && revision <= REVISION_MAX
}

/// What a history is known by, when a question is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The number of the history.
    pub history: u64,
    /// The highest revision that was seen of it; 0 if none was.
    pub revision: i64,
}

/// What an answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shows {
    /// The cluster's id in its header; 0 if there is none.
    pub cluster_id: u64,
    /// The revision in its header; one that isn't [plausible](is_plausible) shows nothing.
    pub revision: i64,
    /// Whether it has all that was committed when it was asked for.
    pub is_newest: bool,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The store has another history from now on.
    Another,
    /// As it must be.
    Same,
    /// It was asked for in a former history.
    Stale,
    /// An answer of another cluster that doesn't show what is newest: that cluster need not be the one that is there, but no
    /// member that lags gives it either.
    Foreign,
    /// An answer that may be of another history, or of a member that lags.
    Suspicious,
}

impl Verdict {
    /// Whether nothing follows from an answer with this verdict before what is newest was asked for as well.
    #[must_use]
    pub const fn is_in_question(self) -> bool {
        matches!(self, Self::Foreign | Self::Suspicious)
    }

    /// Whether an answer that is [in question](Self::is_in_question) may be used, by the verdict on what is newest, `None` if
    /// nobody told. Then a member that lags will do for those who need no leader, as they ask for no more than what a member of
    /// the cluster has.
    #[must_use]
    pub const fn is_settled_by(self, newest: Option<Self>, needs_leader: bool) -> bool {
        match newest {
            Some(newest) => matches!(newest, Self::Same),
            None => !needs_leader && matches!(self, Self::Suspicious),
        }
    }
}

/// See the [module documentation](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    /// 0 as long as none was seen.
    cluster_id: u64,
    known: Known,
}

impl History {
    /// A history of which nothing was seen, with number 0.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cluster_id: 0,
            known: Known {
                history: 0,
                revision: 0,
            },
        }
    }

    /// What is to be kept of a question, from before it is sent.
    #[must_use]
    pub const fn known(&self) -> Known {
        self.known
    }

    /// The cluster's id; 0 if none was seen.
    #[must_use]
    pub const fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// A revision that is about to be shown, or was seen where no header names a cluster, in the history with this number.
    pub const fn raise(&mut self, history: u64, revision: i64) {
        if history == self.known.history && revision > self.known.revision && is_plausible(revision) {
            self.known.revision = revision;
        }
    }

    /// Whether an answer to a question that was asked when this was known is of another history, or of a member that lags.
    #[must_use]
    pub const fn is_doubtful(&self, asked: Known, shows: Shows) -> bool {
        asked.history == self.known.history
            && is_plausible(shows.revision)
            && (self.is_foreign(shows) || shows.revision < asked.revision)
    }

    const fn is_foreign(&self, shows: Shows) -> bool {
        shows.cluster_id != 0 && self.cluster_id != 0 && shows.cluster_id != self.cluster_id
    }

    /// An answer has come to a question that was asked when this was known.
    pub const fn answered(&mut self, asked: Known, shows: Shows) -> Verdict {
        if asked.history != self.known.history {
            return Verdict::Stale;
        }
        if !is_plausible(shows.revision) {
            return Verdict::Same;
        }
        if self.is_doubtful(asked, shows) {
            if !shows.is_newest {
                return if self.is_foreign(shows) {
                    Verdict::Foreign
                } else {
                    Verdict::Suspicious
                };
            }
            self.cluster_id = shows.cluster_id;
            self.known = Known {
                history: self.known.history + 1,
                revision: shows.revision,
            };
            return Verdict::Another;
        }
        if self.cluster_id == 0 {
            self.cluster_id = shows.cluster_id;
        }
        self.raise(asked.history, shows.revision);
        Verdict::Same
    }
}

/// Whether a server answers this call only when it has all that was committed before. `message` is the request without its
/// gRPC prefix. A transaction that only reads serializably isn't one, and neither is an empty one.
#[must_use]
pub fn shows_newest(rpc: Rpc, message: &[u8]) -> bool {
    let all = |name| Reader::all(name, message);
    match rpc {
        Rpc::Put | Rpc::DeleteRange => true,
        Rpc::Range => is_linearizable(all("RangeRequest")) == Ok(true),
        Rpc::Txn => has_newest(message, all("TxnRequest")) == Ok(true),
        _ => false,
    }
}

/// Whether a `RangeRequest` isn't serializable. The last value of a field counts.
fn is_linearizable(mut request: Reader<'_>) -> Result<bool, Malformed> {
    let mut serializable = 0;
    while let Some(field) = request.next()? {
        if field.number == 7 {
            serializable = field.varint("Serializable")?;
        }
    }
    Ok(serializable == 0)
}

/// Whether an operation of a `TxnRequest` isn't a serializable read. A server doesn't look into transactions inside it.
fn has_newest(message: &[u8], mut request: Reader<'_>) -> Result<bool, Malformed> {
    while let Some(field) = request.next()? {
        // Its operations, if it succeeds and if it fails.
        if !matches!(field.number, 2 | 3) {
            continue;
        }
        let at = field.bytes("RequestOp")?;
        let mut operation = Reader::new("RequestOp", message, at);
        let mut is_newest = false;
        while let Some(field) = operation.next()? {
            // One of them; the last one counts.
            is_newest = match field.number {
                1 => {
                    let at = field.bytes("RequestRange")?;
                    is_linearizable(Reader::new("RangeRequest", message, at))?
                }
                2..=4 => true,
                _ => is_newest,
            };
        }
        if is_newest {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
