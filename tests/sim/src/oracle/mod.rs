//! What must hold, whatever happens: judged from what clients asked and were told, what members were asked and said,
//! and the log of the model.

mod answers;
mod caching;
mod histories;
mod leasing;
mod ledger;
mod usage;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::history::Known;
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::store::Store;

use self::caching::{Cached, Caching};
use self::histories::{Histories, Number};
pub(crate) use self::leasing::Leasing;
pub use self::leasing::{Heartbeats, LeaseTold};
pub(crate) use self::usage::Usage;
pub(crate) use self::watching::Delivers;
use self::watching::Watching;
use crate::delivery::{Answer, CallTag};
use crate::io::{Io, Note};
use crate::members::Members;
use crate::net::LinkId;
use crate::op::{Key, Op};
use crate::settings::Settings;
use crate::situations::Situation;

/// How a call ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It hasn't yet.
    Open,
    /// It was answered.
    Answered(Answer),
    /// Its stream was reset.
    Reset,
    /// The client gave up, or its connection broke.
    Abandoned,
}

/// A call, from its client's wish to its end and after.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) op: Op,
    pub(crate) client: usize,
    /// Whether it goes to a member without a proxy.
    pub(crate) direct: bool,
    pub(crate) require_leader: bool,
    pub(crate) began: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) outcome: Outcome,
    pub(crate) ended: Option<Instant>,
    /// The history that the store had when it began, and the highest revision that anybody had been told of it.
    history: Number,
    floor: i64,
    /// The last revision that was committed then.
    committed: i64,
    /// The highest revision of each history that clients of its proxy had been shown then.
    shown: Vec<i64>,
    /// Up to which revision each history was compacted, as clients of its proxy had been told then.
    compacted: Vec<i64>,
    /// How its proxy has answered it without a member.
    cached: Option<Cached>,
    /// Its proxy has asked again, as the answer was old.
    refreshed: bool,
    /// What its proxy knew.
    known: Option<Known>,
    /// Its client's connection has made no call about a member before.
    first_about_member: bool,
    /// Attempts handed to a connection.
    pub(crate) sent: u32,
    /// Attempts that a member has begun to work on.
    pub(crate) reached: u32,
    /// Attempts of which the proxy knows that no member has worked on them.
    not_processed: u32,
    /// Attempts that no connection took.
    not_taken: u32,
    /// Attempts whose connections broke.
    lost: u32,
    /// Attempts that the proxy ended to make them elsewhere.
    moved: u32,
    /// What members answered, over which connection, and in which history.
    replies: Vec<(Answer, LinkId, Number)>,
    member_reset: bool,
    /// It was refused in a way that says that it wasn't carried out.
    refused: bool,
}

/// What reads, or all calls, are promised from a time on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// It holds for reads that began since then: earlier ones may have met other faults.
    pub(crate) reads_since: Instant,
    pub(crate) since: Instant,
    pub(crate) within: Duration,
    /// Writes as well.
    pub(crate) writes: bool,
}

/// How often a proxy has dialled and probed so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effort {
    /// To each member.
    pub(crate) dials: Vec<u32>,
    pub(crate) probes: u32,
}

impl Effort {
    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            dials: self
                .dials
                .iter()
                .zip(&before.dials)
                .map(|(now, before)| now - before)
                .collect(),
            probes: self.probes - before.probes,
        }
    }

    fn none(members: usize) -> Self {
        Self {
            dials: vec![0; members],
            probes: 0,
        }
    }
}

/// Where a client's calls go that must stay on one member.
#[derive(Clone, Copy, Debug)]
struct Sticky {
    /// The client's connection.
    over: LinkId,
    /// The proxy's.
    to: LinkId,
    since: Instant,
}

/// How many connections may break under one call.
const DEATHS_MAX: u32 = 2;

/// The longest that a call without a deadline may take.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) records: Vec<Record>,
    histories: Histories,
    pub(crate) promise: Option<Promise>,
    pub(crate) efforts: Vec<Effort>,
    pub(crate) usage: Usage,
    pub(crate) watching: Watching,
    pub(crate) leasing: Leasing,
    pub(crate) caching: Caching,
    /// When they were last looked at.
    efforts_before: Vec<Effort>,
    dial_timeout: Duration,
    /// How often one member may be dialled in five seconds.
    dials_max: u32,
    /// Where each client's calls go that must stay on one member.
    sticky: BTreeMap<usize, Sticky>,
    /// The connection that each client has.
    pub(crate) client_links: BTreeMap<usize, LinkId>,
    /// Connections of clients over which a call about a member was made.
    asked_about_member: BTreeSet<LinkId>,
    /// Calls that haven't ended.
    open: BTreeSet<CallTag>,
}

impl Oracle {
    pub(crate) fn new(settings: &Settings) -> Self {
        let (proxies, members) = (settings.proxies, settings.cluster.members);
        Self {
            records: Vec::new(),
            histories: Histories::new(settings),
            promise: None,
            efforts: vec![Effort::none(members); proxies],
            usage: Usage::new(proxies, members),
            watching: Watching::new(settings),
            leasing: Leasing::new(settings),
            caching: Caching::new(settings),
            efforts_before: vec![Effort::none(members); proxies],
            dial_timeout: settings.proxy.dial_timeout,
            // A wait at its cap is a second, and a success costs a candidate and a connection for each lane.
            dials_max: 14 * (1 + settings.proxy.endpoints.lanes),
            sticky: BTreeMap::new(),
            client_links: BTreeMap::new(),
            asked_about_member: BTreeSet::new(),
            open: BTreeSet::new(),
        }
    }

    /// A client makes a call.
    pub(crate) fn began(
        &mut self,
        now: Instant,
        client: usize,
        direct: bool,
        op: Op,
        timeout: Option<Duration>,
        require_leader: bool,
    ) -> CallTag {
        if let Op::LeaseRevoke { lease } = op {
            self.leasing.revokes(lease);
        }
        let first_about_member = op.is_about_member()
            && self
                .client_links
                .get(&client)
                .is_some_and(|link| self.asked_about_member.insert(*link));
        self.records.push(Record {
            op,
            first_about_member,
            client,
            direct,
            require_leader,
            began: now,
            deadline: timeout.map(|timeout| now + timeout),
            outcome: Outcome::Open,
            ended: None,
            history: self.histories.now(),
            floor: self.histories.current().told,
            committed: self.histories.ledger().revision(),
            shown: self.histories.shown_by(client),
            compacted: self.histories.compacted_by(client),
            cached: None,
            refreshed: false,
            known: self.histories.known_to(client),
            sent: 0,
            reached: 0,
            not_processed: 0,
            not_taken: 0,
            lost: 0,
            moved: 0,
            replies: Vec::new(),
            member_reset: false,
            refused: false,
        });
        let tag = CallTag(self.records.len() as u64);
        self.open.insert(tag);
        tag
    }

    pub(crate) fn record(&self, call: CallTag) -> &Record {
        &self.records[call.0 as usize - 1]
    }

    fn record_mut(&mut self, call: CallTag) -> &mut Record {
        &mut self.records[call.0 as usize - 1]
    }

    /// Number of calls that haven't ended.
    pub(crate) fn open_calls(&self) -> usize {
        self.open.len()
    }

    /// Whether a call like this hasn't ended.
    pub(crate) fn is_open(&self, op: &Op) -> bool {
        self.open.iter().any(|call| self.record(*call).op == *op)
    }

    /// When this key was last modified; 0 if it is absent.
    pub(crate) fn modified(&self, key: Key) -> i64 {
        self.histories.ledger().modified(&key.bytes())
    }

    pub(crate) fn revision(&self) -> i64 {
        self.histories.ledger().revision()
    }

    /// The last compaction; 0 before the first.
    pub(crate) fn compacted(&self) -> i64 {
        self.histories.ledger().compacted()
    }

    /// All members hold what the store was at this revision, with what was compacted then.
    pub(crate) fn restored(&mut self, io: &mut Io, members: &Members, revision: i64, compacted: i64) {
        self.histories.begins(io.now, revision, compacted);
        self.histories.note_ids(members);
        self.watches_restored();
        self.leasing.restored(io, members);
        self.watching.changed_auth(io.now);
    }

    /// Takes in what happened.
    pub(crate) fn hear(&mut self, io: &mut Io, members: &Members) {
        self.histories.note_ids(members);
        self.read_log(io.now, members.cluster.committed().store());
        self.usage.note_leader(io.now, members.cluster.leader().is_some());
        self.note_state(io.now, members);
        self.note_leases(io, members);
        let mut notes = std::mem::take(&mut io.notes);
        for note in notes.drain(..) {
            match note {
                Note::Dialling { proxy, member } => self.efforts[proxy].dials[member] += 1,
                Note::Probing { proxy } => self.efforts[proxy].probes += 1,
                Note::Sent { call }
                | Note::Reached { call }
                | Note::Replied { call, .. }
                | Note::MemberReset { call }
                | Note::NotProcessed { call }
                    if call.is_own() => {}
                Note::Watch { watch, what } => self.hear_watch(io, members, watch, what),
                Note::Lease { lease, what } => self.leasing.hear(io, self.watching.leaderless(), lease, what),
                Note::LeaseUpstream {
                    proxy,
                    upstream,
                    what,
                } => self.leasing.hear_upstream(io, proxy, upstream, what),
                Note::Renewed { reached, message } => self.leasing.renewed(io.now, reached, &message),
                Note::UpstreamOpened {
                    proxy,
                    upstream,
                    kind,
                } => self.watching.upstreams.opened(proxy, upstream, kind),
                Note::UpstreamAsked {
                    proxy,
                    upstream,
                    message,
                } => self.watching.upstreams.asked(io, proxy, upstream, message),
                Note::UpstreamSaid {
                    proxy,
                    upstream,
                    message,
                } => self.watching.upstreams.said(proxy, upstream, message),
                Note::UpstreamGone { proxy, upstream } => {
                    self.watching.upstreams.gone(proxy, upstream);
                    let revision = self.histories.ledger().revision();
                    self.watching.upstream_gone(io, revision, proxy);
                }
                Note::MemberAsked => self.watching.member_asked = Some(io.now),
                Note::Sent { call } => self.sent(io, call),
                Note::Reached { call } => self.reached(call),
                Note::Replied { call, answer, link } => {
                    let history = self.histories.now();
                    if let (Op::Compact { revision }, Ok(_)) = (&self.record(call).op, &answer) {
                        let revision = *revision;
                        self.histories.of_mut(history).ledger.note_compaction(revision);
                    }
                    self.record_mut(call).replies.push((answer, link, history));
                }
                Note::Accepted { link } => self.histories.accepted(link),
                Note::Known { proxy, known, link } => self.histories.knows(proxy, known, link),
                Note::AnotherHistory { proxy, header, link } => {
                    io.count(Situation::HistoryNoticed);
                    self.histories.noticed(io.now, proxy, header, link);
                    self.caching.noticed(proxy);
                }
                Note::MemberReset { call } => self.record_mut(call).member_reset = true,
                Note::NotProcessed { call } => self.record_mut(call).not_processed += 1,
                Note::TakenAlong { call, to } => self.taken_along(io.now, call, to),
                Note::Lost { call } => self.lost(call),
                Note::Moved { call } => self.record_mut(call).moved += 1,
                Note::NotTaken { call } => self.record_mut(call).not_taken += 1,
                Note::Hit { call, message } => self.hit(io, call, message),
                Note::Confirmed { proxy, at, revision } => {
                    self.caching.note_confirmed(io.now, proxy, at, revision);
                }
                Note::Kept {
                    call,
                    message,
                    watched,
                } => self.kept(io, call, &message, watched),
                Note::Shared { call, leader, answer } => self.shared(io, call, leader, answer),
                Note::Refreshes { call } => self.record_mut(call).refreshed = true,
                Note::Answered { call, answer } => self.answered(io, members, call, answer),
                Note::AnsweredByReset { call } => {
                    io.count(Situation::ToldReset);
                    let record = self.end(io.now, call, Outcome::Reset);
                    assert!(
                        record.member_reset,
                        "{call:?} was reset, but by no member: {record:?}"
                    );
                }
                Note::Abandoned { call } => {
                    io.count(Situation::Abandoned);
                    self.end(io.now, call, Outcome::Abandoned);
                }
            }
        }
        io.notes = notes;
        let misled = self.histories.misled();
        self.watches_misled(io, &misled);
    }

    fn read_log(&mut self, now: Instant, store: &Store) {
        for writer in self.histories.ledger_mut().read(now, store) {
            let record = self.record(writer);
            assert!(
                !record.refused,
                "{writer:?} was refused, and is in the log: {record:?}"
            );
        }
    }

    fn end(&mut self, now: Instant, call: CallTag, outcome: Outcome) -> &mut Record {
        self.open.remove(&call);
        let record = self.record_mut(call);
        assert_eq!(record.outcome, Outcome::Open, "{call:?} ends a second time");
        record.outcome = outcome;
        record.ended = Some(now);
        record
    }

    /// The calls about a member that follow this one go where it found the leader.
    fn taken_along(&mut self, now: Instant, call: CallTag, to: LinkId) {
        let client = self.record(call).client;
        if let Some(over) = self.client_links.get(&client).copied() {
            self.sticky.insert(client, Sticky { over, to, since: now });
        }
    }

    /// A connection broke under a call. Some requests kill the member that serves them.
    fn lost(&mut self, call: CallTag) {
        let record = self.record_mut(call);
        record.lost += 1;
        assert!(
            record.lost <= DEATHS_MAX || record.refreshed,
            "{call:?} was taken through the cluster: {record:?}"
        );
    }

    fn reached(&mut self, call: CallTag) {
        let record = self.record_mut(call);
        record.reached += 1;
        assert!(
            record.reached == 1 || record.op.is_repeatable(),
            "{call:?} must not be made twice, and reached a member {} times: {record:?}",
            record.reached
        );
        assert!(
            !record.refused,
            "{call:?} was refused, and reached a member: {record:?}"
        );
    }

    /// A proxy has handed a call to a connection.
    fn sent(&mut self, io: &mut Io, call: CallTag) {
        let record = self.record_mut(call);
        record.sent += 1;
        if record.sent == 2 && record.op.is_read() {
            io.count(Situation::ReadRepeated);
        }
    }

    /// At the end of a run, when nothing can change any more: every delete of the log has somebody who may have made
    /// it, and every write that was acknowledged is there.
    pub(crate) fn settle(&mut self, now: Instant, store: &Store) {
        self.read_log(now, store);
        let mut deletes: BTreeMap<Bytes, usize> = BTreeMap::new();
        for record in &self.records {
            if let Op::Delete { key } = record.op
                && record.reached > 0
                && !matches!(&record.outcome, Outcome::Answered(Ok(_)))
            {
                *deletes.entry(key.bytes()).or_default() += 1;
            }
        }
        for (key, unclaimed) in self.histories.ledger().unclaimed_deletes() {
            let unsure = deletes.get(key).copied().unwrap_or_default();
            assert!(
                unclaimed <= unsure,
                "{key:?} was deleted {unclaimed} times more than was acknowledged, but {unsure} calls are unsure"
            );
        }
    }

    /// No call is open.
    ///
    /// # Panics
    /// When one is.
    pub(crate) fn all_ended(&self) {
        if let Some(call) = self.open.first() {
            panic!("{call:?} never ends: {:?}", self.record(*call));
        }
    }
}
