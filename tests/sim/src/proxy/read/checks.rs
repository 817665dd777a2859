//! The cache's checks: unary calls, made as the hub's questions are.

use bytes::Bytes;
use etcd_proxy_core::history::Verdict;
use etcd_proxy_core::read::{Asked, CheckId, Event, Header, Status};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::RangeRequest;
use prost::Message as _;

use crate::delivery::Request;
use crate::io::{Io, Note};
use crate::proxy::Proxy;
use crate::proxy::watch::{Asker, question};

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: u8 = 14;

/// A check of the cache's, as far as the driver must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) struct CacheCheck {
    pub(in crate::proxy) id: CheckId,
    linearizable: bool,
    /// When it was first asked.
    at: Instant,
    /// The first answer was doubtful, and this one is to tell.
    decides: bool,
}

impl Proxy {
    pub(super) fn check_cache(&mut self, io: &mut Io, id: CheckId, linearizable: bool) {
        let trusts_progress = self.watch.trusts_progress();
        self.tell_cache(io, Event::LinearizableTrusted(trusts_progress));
        self.ask_for_cache(
            io,
            CacheCheck {
                id,
                linearizable,
                at: io.now,
                decides: false,
            },
        );
    }

    fn ask_for_cache(&mut self, io: &mut Io, check: CacheCheck) {
        let range = RangeRequest {
            key: Bytes::from_static(b"\0"),
            keys_only: true,
            serializable: !check.linearizable && !check.decides,
            ..RangeRequest::default()
        };
        let request = Request {
            require_leader: true,
            message: range.encode_to_vec().into(),
            ..question(None)
        };
        self.ask(io, Asker::Cache(check), request);
    }

    /// A check is answered, and its answer judged.
    pub(in crate::proxy) fn cache_checked(
        &mut self,
        io: &mut Io,
        check: CacheCheck,
        asked: Asked,
        answer: Result<(Header, Verdict), Status>,
    ) {
        let former = || Err(Status::new(UNAVAILABLE, "it is of a former history"));
        let decides = if check.decides {
            self.read.doubtful.remove(&check.id)
        } else {
            None
        };
        let result = match (answer, decides) {
            (Ok((_, Verdict::Same)), Some(header)) => Ok(header),
            (Ok(_), Some(_)) | (Ok((_, Verdict::Stale)), None) => former(),
            (Ok((header, verdict)), None) if verdict.is_in_question() && !check.linearizable => {
                self.read.doubtful.insert(check.id, header);
                return self.ask_for_cache(
                    io,
                    CacheCheck {
                        decides: true,
                        ..check
                    },
                );
            }
            (Ok((header, _)), None) => Ok(header),
            (Err(status), _) => Err(status),
        };
        if let (true, Ok(header)) = (check.linearizable, &result) {
            self.watch.shown_mut().learn(asked, header.revision);
            self.note_known(io);
        }
        if let Ok(header) = &result {
            io.notes.push(Note::Confirmed {
                proxy: self.index,
                at: check.at,
                revision: header.revision,
            });
        }
        self.tell_cache(io, Event::Checked(check.id, result));
    }

    /// What was known when a question is asked.
    pub(in crate::proxy) fn asks(&self) -> Asked {
        self.watch.shown().asks()
    }
}
