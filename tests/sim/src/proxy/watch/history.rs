//! The history of the store, as the proxy knows it: what it judges answers by.

use etcd_proxy_core::history::{Known, Shows, Verdict};
use etcd_proxy_core::read::{AnotherHistory, HighestShownRevision, Reveals};
use etcd_proxy_core::watch::Header;
use etcd_proxy_proto::etcdserverpb::ResponseHeader;
use prost::Message as _;

use super::Watching;
use crate::io::{Io, Note};
use crate::proxy::Proxy;
use crate::situations::Situation;

/// The part of a response that matters.
#[derive(Clone, PartialEq, prost::Message)]
struct OnlyHeader {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// The header of a response, if it can be read.
pub(in crate::proxy) fn header_of(message: &[u8]) -> Option<Header> {
    let header = OnlyHeader::decode(message).ok()?.header.unwrap_or_default();
    Some(Header {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    })
}

impl Watching {
    /// What is to be kept with each question.
    pub(in crate::proxy) const fn known(&self) -> Known {
        self.shown.known()
    }

    /// What clients were shown.
    pub(in crate::proxy) const fn shown(&self) -> &HighestShownRevision {
        &self.shown
    }

    pub(in crate::proxy) const fn shown_mut(&mut self) -> &mut HighestShownRevision {
        &mut self.shown
    }
}

impl Proxy {
    /// Takes in what an answer shows, before anything follows from it.
    pub(in crate::proxy) fn judge(
        &mut self,
        io: &mut Io,
        asked: Known,
        header: Option<Header>,
        is_newest: bool,
    ) -> Verdict {
        let Some(header) = header else {
            return Verdict::Same;
        };
        let shows = Shows {
            cluster_id: header.cluster_id,
            revision: header.revision,
            is_newest,
        };
        let verdict = self.watch.shown.answered(asked, shows);
        self.follow_verdict(io, verdict, Reveals::Revision(shows));
        verdict
    }

    /// Tells the machines what follows from an answer for all of them.
    pub(in crate::proxy) fn follow_verdict(&mut self, io: &mut Io, verdict: Verdict, reveals: Reveals) {
        match verdict {
            Verdict::Another => {
                let (proxy, link) = (self.index, self.heard_from);
                let link = link.expect("members have said something");
                let header = match reveals {
                    Reveals::Revision(shows) => Header {
                        cluster_id: shows.cluster_id,
                        revision: shows.revision,
                        ..Header::default()
                    },
                    Reveals::Nothing | Reveals::Unreadable => Header::default(),
                };
                io.notes.push(Note::AnotherHistory { proxy, header, link });
                self.note_known(io);
                let another = AnotherHistory(self.watch.known().history);
                self.tell(io, another.for_hub());
                self.tell_router(io, another.for_router());
                self.tell_cache_history(io, another);
            }
            Verdict::Foreign | Verdict::Suspicious => io.count(Situation::AnswerDoubted),
            Verdict::Stale => io.count(Situation::HistoryStale),
            Verdict::Same => {}
        }
        self.note_known(io);
    }

    /// What is about to be shown is known, before it goes out.
    pub(in crate::proxy) fn will_show(&mut self, io: &mut Io, history: u64, revision: i64) {
        self.watch.shown.raise(history, revision);
        self.note_known(io);
    }

    pub(in crate::proxy) fn note_known(&mut self, io: &mut Io) {
        let known = self.watch.known();
        if std::mem::replace(&mut self.watch.noted, known) != known {
            let (proxy, link) = (self.index, self.heard_from);
            let link = link.expect("members have said something");
            io.notes.push(Note::Known { proxy, known, link });
        }
    }
}
