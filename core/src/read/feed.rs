//! What the watch hub tells a client that watches all that is cached, as the cache is told it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use super::types::{Event, Scope, WatchId};
use crate::backoff::backoff;
use crate::range::KeyRange;
use crate::watch::wire::request;
use crate::watch::wire::response::{Response, read_events};
use crate::wire::read::Malformed;

/// How long to wait before the watch is opened again after the hub has ended it. Doubled from one failure to the next: it
/// fails for as long as the cluster asks for credentials. Spread, as many proxies lose their watches at the same time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The watch id of what concerns all watchers of a stream.
const ALL_WATCHERS: i64 = -1;

/// The watch of all that is cached, as a client of the watch hub: what it sends, and what the cache is told of what it gets.
#[derive(Clone, Debug)]
pub struct Feed {
    watch: WatchId,
    ranges: Vec<KeyRange>,
    /// Watchers that aren't created yet.
    to_create: usize,
    /// The revision that each watcher is complete from: its events come after this.
    started: i64,
    /// Streams in a row on which the watch didn't start.
    failures: u32,
    rng: Rng,
}

/// What follows from a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum FeedStep {
    /// The stream is to be ended, for this reason.
    End(String),
    /// Nothing.
    Nothing,
    /// The cache is told this.
    Tell(Event),
}

/// The end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct FeedEnd {
    /// What the cache is told, if the watch had started.
    pub tell: Option<Event>,
    /// When the next stream is to be opened.
    pub pause: Duration,
}

impl Feed {
    /// The feed of this watch; `None` if nothing is cached. `seed` is for the waits between its streams.
    #[must_use]
    pub fn new(watch: WatchId, scope: &Scope, seed: u64) -> Option<Self> {
        let ranges = match scope {
            Scope::Everything => [KeyRange::everything()].into(),
            Scope::Ranges(ranges) => ranges.clone(),
            Scope::Nothing => return None,
        };
        Some(Self {
            watch,
            to_create: ranges.len(),
            ranges,
            started: 0,
            failures: 0,
            rng: Rng::with_seed(seed),
        })
    }

    /// A stream to the hub is opened: what is sent on it first.
    pub fn opened(&mut self) -> Vec<Bytes> {
        self.to_create = self.ranges.len();
        self.started = 0;
        let create = |range| request::create(range, 0, false, 0);
        self.ranges.iter().map(create).collect()
    }

    /// What is sent when the cache asks how far the watch has come.
    #[must_use]
    pub fn ask_progress() -> Bytes {
        request::progress()
    }

    /// The hub has sent a `WatchResponse`.
    pub fn received(&mut self, message: &Bytes) -> FeedStep {
        self.read(message)
            .unwrap_or_else(|_| FeedStep::End("the hub sent what can't be read".into()))
    }

    fn read(&mut self, message: &Bytes) -> Result<FeedStep, Malformed> {
        let response = Response::read(message)?;
        let (watch, revision) = (self.watch, response.header.revision);
        Ok(if response.canceled {
            FeedStep::End(match response.compact_revision {
                0 => response.cancel_reason,
                compacted => format!("compacted at revision {compacted}"),
            })
        } else if response.created {
            self.to_create = self.to_create.saturating_sub(1);
            self.started = self.started.max(revision);
            if self.to_create > 0 {
                return Ok(FeedStep::Nothing);
            }
            FeedStep::Tell(Event::WatchStarted {
                watch,
                revision: self.started,
            })
        } else if response.has_events {
            let (mut keys, mut last) = (Vec::new(), 0);
            read_events(message, |event| {
                keys.push(message.slice(event.key.0..event.key.1));
                last = event.revision;
            })?;
            FeedStep::Tell(Event::WatchChanged {
                watch,
                revision: last,
                keys,
            })
        } else if response.watch_id == ALL_WATCHERS || self.ranges.len() == 1 {
            FeedStep::Tell(Event::WatchProgressed { watch, revision })
        } else {
            // Of one watcher alone.
            FeedStep::Nothing
        })
    }

    /// The stream has ended.
    pub fn ended(&mut self) -> FeedEnd {
        let has_started = self.to_create == 0;
        self.failures = if has_started { 0 } else { self.failures + 1 };
        FeedEnd {
            tell: has_started.then_some(Event::WatchLost(self.watch)),
            pause: backoff(&mut self.rng, PAUSE_MIN, PAUSE_MAX, self.failures),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use etcd_proxy_proto::etcdserverpb::watch_request::RequestUnion;
    use etcd_proxy_proto::etcdserverpb::{
        ResponseHeader, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    };
    use etcd_proxy_proto::mvccpb::{Event as Change, KeyValue, event::EventType};
    use prost::Message as _;

    use super::*;

    const WATCH: WatchId = WatchId(3);

    fn prefixes(prefixes: &[&[u8]]) -> Scope {
        Scope::Ranges(prefixes.iter().map(|prefix| KeyRange::prefix(prefix)).collect())
    }

    fn feed(scope: &Scope) -> Feed {
        let mut feed = Feed::new(WATCH, scope, 1).expect("something is cached");
        feed.opened();
        feed
    }

    fn response(revision: i64) -> WatchResponse {
        WatchResponse {
            header: Some(ResponseHeader {
                revision,
                ..ResponseHeader::default()
            }),
            ..WatchResponse::default()
        }
    }

    fn created(revision: i64) -> WatchResponse {
        WatchResponse {
            created: true,
            ..response(revision)
        }
    }

    fn tell(feed: &mut Feed, response: &WatchResponse) -> FeedStep {
        feed.received(&response.encode_to_vec().into())
    }

    fn started(revision: i64) -> FeedStep {
        FeedStep::Tell(Event::WatchStarted {
            watch: WATCH,
            revision,
        })
    }

    #[test]
    fn requests() {
        assert!(Feed::new(WATCH, &Scope::Nothing, 1).is_none());
        for (scope, keys) in [
            (Scope::Everything, vec![("\0", "\0")]),
            (prefixes(&[b"a", b"b/"]), vec![("a", "b"), ("b/", "b0")]),
        ] {
            let requests = Feed::new(WATCH, &scope, 1).expect("something").opened();
            let expected = keys.iter().map(|(key, end)| {
                let create = WatchCreateRequest {
                    key: key.as_bytes().into(),
                    range_end: end.as_bytes().into(),
                    progress_notify: true,
                    ..WatchCreateRequest::default()
                };
                RequestUnion::CreateRequest(create)
            });
            let read = requests.iter().map(|request| {
                let request = WatchRequest::decode(&request[..]).expect("well-formed");
                request.request_union.expect("it asks for something")
            });
            assert!(read.eq(expected), "{scope:?}");
        }
        assert_eq!(
            WatchRequest::decode(&Feed::ask_progress()[..]),
            Ok(WatchRequest {
                request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            })
        );
    }

    #[test]
    fn a_watch_starts_with_its_last_watcher_at_the_newest_revision() {
        assert_eq!(tell(&mut feed(&Scope::Everything), &created(5)), started(5));
        let mut feed = feed(&prefixes(&[b"a", b"b", b"c"]));
        for _ in 0..2 {
            assert_eq!(tell(&mut feed, &created(5)), FeedStep::Nothing);
            assert_eq!(tell(&mut feed, &created(9)), FeedStep::Nothing);
            assert_eq!(tell(&mut feed, &created(7)), started(9));
            feed.opened();
        }
    }

    /// The header of events may tell of more than they are.
    #[test]
    fn changes_are_of_their_last_revision() {
        let change = |key: &'static [u8], mod_revision, kind: EventType| Change {
            r#type: kind.into(),
            kv: Some(KeyValue {
                key: key.into(),
                mod_revision,
                ..KeyValue::default()
            }),
            prev_kv: None,
        };
        let changes = WatchResponse {
            events: vec![
                change(b"a", 6, EventType::Put),
                change(b"b", 6, EventType::Delete),
                change(b"a", 7, EventType::Put),
            ],
            ..response(12)
        };
        let expected = FeedStep::Tell(Event::WatchChanged {
            watch: WATCH,
            revision: 7,
            keys: vec!["a".into(), "b".into(), "a".into()],
        });
        assert_eq!(tell(&mut feed(&Scope::Everything), &changes), expected);
        assert_eq!(tell(&mut feed(&prefixes(&[b"a", b"b"])), &changes), expected);
    }

    #[test]
    fn progress_of_one_among_several_watchers_tells_nothing() {
        let of_one = response(8);
        let of_all = WatchResponse {
            watch_id: -1,
            ..response(8)
        };
        let progressed = FeedStep::Tell(Event::WatchProgressed {
            watch: WATCH,
            revision: 8,
        });
        let one = || feed(&prefixes(&[b"a"]));
        let two = || feed(&prefixes(&[b"a", b"b"]));
        assert_eq!(tell(&mut one(), &of_one), progressed);
        assert_eq!(tell(&mut one(), &of_all), progressed);
        assert_eq!(tell(&mut two(), &of_one), FeedStep::Nothing);
        assert_eq!(tell(&mut two(), &of_all), progressed);
    }

    #[test]
    fn feeds_of_many_proxies_are_not_opened_again_in_step() {
        let pauses: alloc::collections::BTreeSet<_> = (0..20)
            .map(|seed| {
                let mut feed = Feed::new(WATCH, &Scope::Everything, seed).expect("something is cached");
                feed.opened();
                feed.ended().pause
            })
            .collect();
        assert!(pauses.len() > 15, "{pauses:?}");
    }

    #[test]
    fn ends() {
        let cancelled = |compact_revision, cancel_reason: &str| WatchResponse {
            canceled: true,
            compact_revision,
            cancel_reason: cancel_reason.into(),
            ..response(0)
        };
        let end = |reason: &str| FeedStep::End(reason.into());
        let mut feed = feed(&Scope::Everything);
        assert_eq!(tell(&mut feed, &cancelled(4, "")), end("compacted at revision 4"));
        // A server says that a watcher is created, and refused, in one.
        let refused = WatchResponse {
            created: true,
            ..cancelled(0, "denied")
        };
        assert_eq!(tell(&mut feed, &refused), end("denied"));
        let nonsense = feed.received(&Bytes::from_static(b"\xff"));
        assert_eq!(nonsense, end("the hub sent what can't be read"));
        let is_about = |pause: Duration, millis| {
            let longest = Duration::from_millis(millis);
            assert!(
                pause <= longest && pause >= longest / 2,
                "{pause:?} of {longest:?}"
            );
        };
        for millis in [200, 400, 800, 1600, 3200, 5000, 5000] {
            let FeedEnd { tell, pause } = feed.ended();
            assert_eq!(tell, None);
            is_about(pause, millis);
            feed.opened();
        }
        assert_eq!(tell(&mut feed, &created(5)), started(5));
        let lost = feed.ended();
        assert_eq!(lost.tell, Some(Event::WatchLost(WATCH)));
        is_about(lost.pause, 100);
    }
}
