//! The history of the store, as the proxy knows it: what it judges answers by.

use etcd_proxy_core::history::{Known, Shows, Verdict};
use etcd_proxy_core::watch::Header;
use etcd_proxy_proto::etcdserverpb::ResponseHeader;
use prost::Message as _;

use super::Watching;
use crate::io::Io;
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
        self.history.known()
    }
}

impl Proxy {
    /// Takes in what an answer shows, before anything follows from it. The store of this world never goes back, however far
    /// members lag and whoever is cut off.
    pub(in crate::proxy) fn judge(
        &mut self,
        io: &mut Io,
        asked: Known,
        header: Option<Header>,
        is_newest: bool,
    ) {
        let Some(header) = header else {
            return;
        };
        let shows = Shows {
            cluster_id: header.cluster_id,
            revision: header.revision,
            is_newest,
        };
        match self.watch.history.answered(asked, shows) {
            Verdict::Another => panic!("{shows:?}, asked when {asked:?}, is taken for another history"),
            Verdict::Suspicious => io.count(Situation::AnswerDoubted),
            Verdict::Same | Verdict::Stale => {}
        }
    }
}
