//! The histories that the store has had, and which of them each proxy is in, as far as can be told from outside.
//!
//! What was told before a store went back may be of two histories: up to a revision they have everything in common. A proxy that
//! has seen no more needn't notice; one that has seen more must, unless the store passes that before it could.

use std::collections::BTreeMap;

use etcd_proxy_core::history::Known;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::Header;

use super::ledger::Ledger;
use crate::client::Target;
use crate::members::Members;
use crate::net::LinkId;
use crate::settings::Settings;

/// The number of a history, from 0.
pub(super) type Number = usize;

/// What is true of one history.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) ledger: Ledger,
    /// Up to this revision all is as in the one before.
    common: i64,
    /// Cluster and member, as headers have them.
    pub(super) ids: Vec<(u64, u64)>,
    /// The highest revision that anybody was told of.
    pub(super) told: i64,
    /// When the store came to it.
    began: Instant,
    /// The highest revision that the clients of each proxy were shown.
    shown: Vec<i64>,
    /// The last compaction that the clients of each proxy were told of.
    compacted: Vec<i64>,
}

impl Story {
    fn cluster_id(&self) -> u64 {
        self.ids.first().map_or(0, |(cluster, _)| *cluster)
    }
}

/// What a proxy knows.
#[derive(Clone, Debug, Default)]
struct Knowledge {
    known: Known,
    /// What it is in began with an answer of this history.
    number: Number,
    /// The highest revision that it has seen since then, by history.
    seen: BTreeMap<Number, i64>,
    /// The store has passed what it knew, and it may never notice.
    is_misled: bool,
    noticed: Option<Instant>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Histories {
    /// The last one goes on.
    all: Vec<Story>,
    proxies: Vec<Knowledge>,
    /// Each client's proxy.
    of_clients: Vec<Option<usize>>,
    /// What each connection to a member tells of: members are killed when they go back.
    of_links: BTreeMap<LinkId, Number>,
}

impl Histories {
    pub(super) fn new(settings: &Settings) -> Self {
        let of_clients = settings.clients.iter().map(|client| match client.target {
            Target::Proxy(proxy) => Some(proxy),
            Target::Member(_) => None,
        });
        Self {
            all: vec![Story {
                ledger: Ledger::default(),
                common: 0,
                ids: Vec::new(),
                told: 0,
                began: Instant::ZERO,
                shown: vec![0; settings.proxies],
                compacted: vec![0; settings.proxies],
            }],
            proxies: vec![Knowledge::default(); settings.proxies],
            of_clients: of_clients.collect(),
            of_links: BTreeMap::new(),
        }
    }

    pub(super) fn now(&self) -> Number {
        self.all.len() - 1
    }

    pub(super) fn of(&self, number: Number) -> &Story {
        &self.all[number]
    }

    pub(super) fn current(&self) -> &Story {
        self.of(self.now())
    }

    pub(super) fn of_mut(&mut self, number: Number) -> &mut Story {
        &mut self.all[number]
    }

    /// The log as it is now.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.current().ledger
    }

    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        let now = self.now();
        &mut self.all[now].ledger
    }

    /// What the cluster calls its members now.
    pub(super) fn note_ids(&mut self, members: &Members) {
        let now = self.now();
        if self.all[now].ids.is_empty() {
            let hosts = 0..members.hosts.len();
            self.all[now].ids = hosts.map(|member| members.cluster.ids(member)).collect();
        }
    }

    /// The store has gone back to a revision, with what was compacted then.
    pub(super) fn begins(&mut self, now: Instant, revision: i64, compacted: i64) {
        let former = self.current();
        let story = Story {
            ledger: former.ledger.until(revision, compacted),
            common: revision,
            ids: Vec::new(),
            told: former.told.min(revision),
            began: now,
            shown: vec![0; former.shown.len()],
            compacted: vec![0; former.compacted.len()],
        };
        self.all.push(story);
    }

    /// Clients of a client's proxy are shown this, now or later.
    pub(super) fn is_shown(&mut self, number: Number, client: usize, revision: i64) {
        if let Some(proxy) = self.of_clients[client] {
            let shown = &mut self.all[number].shown[proxy];
            *shown = revision.max(*shown);
        }
    }

    /// A client is told that revisions below this one are gone.
    pub(super) fn is_compacted(&mut self, number: Number, client: usize, revision: i64) {
        if let Some(proxy) = self.of_clients[client] {
            let compacted = &mut self.all[number].compacted[proxy];
            *compacted = revision.max(*compacted);
        }
    }

    fn by_history(&self, client: usize, of: impl Fn(&Story, usize) -> i64) -> Vec<i64> {
        self.of_clients[client].map_or(Vec::new(), |proxy| {
            self.all.iter().map(|story| of(story, proxy)).collect()
        })
    }

    /// The highest revisions of each history that clients of a client's proxy were shown.
    pub(super) fn shown_by(&self, client: usize) -> Vec<i64> {
        self.by_history(client, |story, proxy| story.shown[proxy])
    }

    /// The last compactions of each history that clients of a client's proxy were told of.
    pub(super) fn compacted_by(&self, client: usize) -> Vec<i64> {
        self.by_history(client, |story, proxy| story.compacted[proxy])
    }

    /// The history that the store had at a time, and how far it had come.
    pub(super) fn committed_at(&self, at: Instant) -> (Number, i64) {
        let number = self.all.partition_point(|story| story.began <= at).max(1) - 1;
        (number, self.all[number].ledger.revision_at(at))
    }

    /// Up to which revision a history has everything in common with a later one.
    pub(super) fn common(&self, from: Number, to: Number) -> i64 {
        let later = self.all[from + 1..=to].iter();
        later.map(|story| story.common).min().unwrap_or(i64::MAX)
    }

    fn is_same_cluster(&self, from: Number, to: Number) -> bool {
        self.of(from).cluster_id() == self.of(to).cluster_id()
    }

    /// Whether who was told of this revision of a history may take what comes of a later one for the same. Nothing was told yet
    /// if it is 0.
    pub(super) fn goes_on(&self, told: i64, from: Number, to: Number) -> bool {
        told == 0 || told <= self.common(from, to) && self.is_same_cluster(from, to)
    }

    /// Whether a header is of another cluster, which is there since a history has ended.
    pub(super) fn is_of_next_cluster(&self, number: Number, ids: (u64, u64)) -> bool {
        let mut later = self.all[number..].iter();
        let is_own = later.next().is_some_and(|own| own.ids.contains(&ids));
        !is_own && later.any(|story| story.ids.contains(&ids))
    }

    /// A call's write, in any history.
    pub(super) fn written(&self, call: crate::delivery::CallTag) -> Option<i64> {
        self.all.iter().find_map(|story| story.ledger.written(call))
    }

    /// An acknowledged delete takes its place in a history, and in those that have it in common.
    pub(super) fn claim_delete(&mut self, number: Number, key: &[u8], revision: i64) -> bool {
        let is_there = self.all[number].ledger.claim_delete(key, revision);
        for later in number + 1..self.all.len() {
            if revision <= self.common(number, later) {
                self.all[later].ledger.claim_delete(key, revision);
            }
        }
        is_there
    }

    pub(super) fn proxy_of(&self, client: usize) -> Option<usize> {
        self.of_clients[client]
    }

    /// What a client's proxy knows.
    pub(super) fn known_to(&self, client: usize) -> Option<Known> {
        self.proxy_of(client).map(|proxy| self.proxies[proxy].known)
    }

    /// The histories that a proxy may be in.
    pub(super) fn possible(&self, proxy: usize) -> impl Iterator<Item = Number> + use<> {
        self.proxies[proxy].number..self.all.len()
    }

    /// Whether a proxy can't know which history the store has.
    pub(super) fn is_misled(&self, proxy: usize) -> bool {
        self.proxies[proxy].is_misled
    }

    /// Whether a proxy has noticed another history since then.
    pub(super) fn has_noticed(&self, proxy: usize, since: Instant) -> bool {
        self.proxies[proxy].noticed.is_some_and(|at| at >= since)
    }

    /// A member accepts a connection.
    pub(super) fn accepted(&mut self, link: LinkId) {
        self.of_links.insert(link, self.now());
    }

    /// A proxy knows more, by what has come over this connection.
    pub(super) fn knows(&mut self, proxy: usize, known: Known, link: LinkId) {
        let number = self.of_links[&link];
        self.proxies[proxy].known = known;
        self.proxies[proxy].seen.insert(number, known.revision);
    }

    /// A proxy takes an answer that has come over this connection for one of another history. It must be one.
    pub(super) fn noticed(&mut self, now: Instant, proxy: usize, header: Header, link: LinkId) {
        let number = self.of_links[&link];
        let knowledge = &self.proxies[proxy];
        let is_consistent =
            |(seen, revision): (&Number, &i64)| self.goes_on(*revision, *seen, number.max(*seen));
        assert!(
            !knowledge.seen.iter().all(is_consistent),
            "{header:?} of history {number} is taken for one of another by {knowledge:?}"
        );
        self.proxies[proxy] = Knowledge {
            known: knowledge.known,
            number,
            seen: BTreeMap::new(),
            is_misled: false,
            noticed: Some(now),
        };
    }

    /// Sees who can't notice any more that the store has gone back. Gives their proxies.
    pub(super) fn misled(&mut self) -> Vec<usize> {
        let (now, revision) = (self.now(), self.ledger().revision());
        let is_passed = |knowledge: &Knowledge| {
            let mut lost = knowledge.seen.iter();
            knowledge.known.revision <= revision
                && lost.any(|(seen, at)| *at > self.common(*seen, now) && self.is_same_cluster(*seen, now))
        };
        let proxies = self.proxies.iter().enumerate();
        let misled = proxies.filter(|(_, knowledge)| !knowledge.is_misled && is_passed(knowledge));
        let misled: Vec<usize> = misled.map(|(proxy, _)| proxy).collect();
        for proxy in &misled {
            self.proxies[*proxy].is_misled = true;
        }
        misled
    }
}
