//! What fuzzed input says that clients, servers and the cluster do.

use arbitrary::Arbitrary;

use crate::wire::Writer;

#[derive(Arbitrary, Debug)]
pub(crate) struct Input {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) steps: Vec<Step>,
}

/// Numbers choose among sizes that make things happen.
#[derive(Arbitrary, Debug)]
pub(crate) struct Settings {
    pub(crate) outbox: u8,
    pub(crate) outbox_total: u8,
    pub(crate) requests: u8,
    pub(crate) watchers: u8,
    pub(crate) history: u8,
    pub(crate) history_total: u8,
    pub(crate) live_streams: u8,
    pub(crate) creates: u8,
    pub(crate) narrow_ranges: u8,
    pub(crate) fragment: u8,
    pub(crate) inline: u8,
    pub(crate) trusts_progress: bool,
}

/// Numbers choose among what there is at the time.
#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    Answer {
        which: u8,
        answer: Answer,
    },
    ClientGone(u8),
    ClientHalfClosed(u8),
    /// Anything, as a message.
    ClientRaw {
        client: u8,
        message: Vec<u8>,
    },
    ClientSent {
        client: u8,
        request: Request,
    },
    ClientTook {
        client: u8,
        bytes: u16,
    },
    ClientTookAll(u8),
    /// Something is written, and the servers tell those of one stream that watch it.
    Put {
        upstream: u8,
        key: u8,
        delete: bool,
        bytes: u8,
    },
    Open {
        token: u8,
        require_leader: bool,
    },
    /// What is known of the member that a stream leads to.
    ProgressTrusted {
        upstream: u8,
        trusted: bool,
    },
    /// A server says once more what it said last.
    ServerAgain(u8),
    /// A server takes the oldest create request of a stream.
    ServerCreated(u8),
    /// A server says how far all watchers of a stream are.
    ServerProgress(u8),
    /// Something about what is gone.
    Stale {
        which: u8,
        kind: u8,
    },
    /// The next timeout comes, this many microseconds late.
    Timeout {
        late_us: u8,
    },
    UpstreamEnded {
        upstream: u8,
        ending: u8,
    },
    UpstreamSuperseded(u8),
    UpstreamRaw {
        upstream: u8,
        message: Vec<u8>,
    },
    UpstreamSent {
        upstream: u8,
        response: Response,
    },
    /// Time passes, at most until the next timeout.
    Wait {
        ms: u16,
    },
}

#[derive(Arbitrary, Debug)]
pub(crate) enum Answer {
    Header(Revision),
    Status(u8),
}

#[derive(Arbitrary, Debug)]
pub(crate) enum Request {
    Cancel(i8),
    Create(Create),
    Progress,
    Unset,
}

#[derive(Arbitrary, Debug)]
pub(crate) struct Create {
    pub(crate) range: u8,
    pub(crate) start: Start,
    pub(crate) progress_notify: bool,
    /// NOPUT and NODELETE.
    pub(crate) filters: u8,
    pub(crate) prev_kv: bool,
    pub(crate) watch_id: i8,
    pub(crate) fragment: bool,
}

#[derive(Arbitrary, Debug)]
pub(crate) enum Start {
    Back(u8),
    Future(u8),
    Now,
    Raw(i64),
}

/// Revisions are near to the store's, or anything.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Revision {
    Back(u8),
    /// And the store goes there.
    Next(u8),
    Raw(i64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum WatchId {
    /// That the hub has chosen.
    Known(u8),
    NoWatcher,
    Raw(i64),
}

#[derive(Arbitrary, Debug)]
pub(crate) struct Response {
    pub(crate) header: Option<Revision>,
    pub(crate) watch_id: WatchId,
    pub(crate) created: bool,
    pub(crate) canceled: bool,
    pub(crate) compacted: Option<Revision>,
    pub(crate) reason: u8,
    pub(crate) fragment: bool,
    pub(crate) events: Vec<EventOf>,
    /// A byte of the message is another one, or what follows is missing.
    pub(crate) damage: Option<(u16, Option<u8>)>,
}

#[derive(Arbitrary, Debug)]
pub(crate) struct EventOf {
    pub(crate) delete: bool,
    pub(crate) key: u8,
    pub(crate) revision: Revision,
    pub(crate) bytes: u8,
    pub(crate) prev: bool,
}

pub(crate) const KEYS: [&str; 6] = ["a", "b", "b1", "b2", "c", "\0"];

/// Key and range end; the last two are empty.
pub(crate) const RANGES: [(&str, &str); 11] = [
    ("a", ""),
    ("b", ""),
    ("b1", ""),
    ("b", "c"),
    ("b", "b2"),
    ("b1", "b3"),
    ("a", "\0"),
    ("", "\0"),
    ("", ""),
    ("b", "b"),
    ("c", "a"),
];

pub(crate) const TOKENS: [Option<&str>; 4] = [None, None, Some("one"), Some("two")];

/// How streams end and questions are answered.
pub(crate) const STATUSES: [(u8, &str); 9] = [
    (0, ""),
    (1, "context canceled"),
    (3, "etcdserver: user name is empty"),
    (7, "etcdserver: permission denied"),
    (11, "etcdserver: mvcc: required revision is a future revision"),
    (13, "somehow"),
    (14, "etcdserver: no leader"),
    (14, "etcdserver: request timed out"),
    (16, "etcdserver: invalid auth token"),
];

pub(crate) const REASONS: [&str; 5] = [
    "",
    "somehow",
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
    "etcdserver: invalid auth token",
    "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
];

/// One of a list.
pub(crate) fn one_of<T: Copy>(list: &[T], which: u8) -> T {
    list[usize::from(which) % list.len()]
}

impl Request {
    /// `revision` is the store's.
    pub(crate) fn encode(&self, revision: i64) -> Vec<u8> {
        let mut message = Writer::default();
        match self {
            Self::Cancel(id) => {
                let mut cancel = Writer::default();
                cancel.number(1, (*id).into());
                message.bytes(2, &cancel.0);
            }
            Self::Create(create) => {
                message.bytes(1, &create.encode(revision));
            }
            Self::Progress => {
                message.bytes(3, &[]);
            }
            Self::Unset => {}
        }
        message.0
    }
}

impl Create {
    fn encode(&self, revision: i64) -> Vec<u8> {
        let (key, end) = one_of(&RANGES, self.range);
        let mut create = Writer::default();
        create
            .bytes(1, key.as_bytes())
            .bytes(2, end.as_bytes())
            .number(3, self.start(revision))
            .number(4, self.progress_notify.into());
        for filter in self.filters() {
            create.number(5, filter);
        }
        create
            .number(6, self.prev_kv.into())
            // The answer for all watchers could be taken for that of one with the id -1.
            .number(7, (self.watch_id & !1).into())
            .number(8, self.fragment.into());
        create.0
    }

    pub(crate) fn start(&self, revision: i64) -> i64 {
        match self.start {
            Start::Back(by) => (revision - i64::from(by)).max(1),
            Start::Future(by) => revision + 1 + i64::from(by % 8),
            Start::Now => 0,
            Start::Raw(start) => start,
        }
    }

    /// 0 for puts, 1 for deletions.
    pub(crate) fn filters(&self) -> impl Iterator<Item = i64> + use<> {
        let filters = self.filters;
        (0..2).filter(move |filter| filters >> 6 >> filter & 1 == 1)
    }
}

/// An event of a response.
pub(crate) fn event(response: &mut Writer, key: &str, revision: i64, delete: bool, bytes: u8, prev: bool) {
    let mut pair = Writer::default();
    pair.bytes(1, key.as_bytes()).number(3, revision);
    if !delete {
        pair.bytes(5, &[b'v'].repeat(bytes.into()));
    }
    let mut event = Writer::default();
    if delete {
        event.number(1, 1);
    }
    event.bytes(2, &pair.0);
    if prev {
        event.bytes(3, &pair.0);
    }
    response.bytes(11, &event.0);
}

/// The header of a response.
pub(crate) fn header(response: &mut Writer, revision: i64) {
    let mut header = Writer::default();
    header.number(1, 77).number(2, 1).number(3, revision).number(4, 3);
    response.bytes(1, &header.0);
}
