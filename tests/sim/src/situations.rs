//! How often each situation came up: a rule that is never put to the test must show.

use etcd_proxy_core::endpoints::{CloseCause, FailureCause};
use etcd_proxy_core::retry::Failure;

macro_rules! situations {
    ($($name:ident = $text:literal,)*) => {
        /// What can come up in a run. All of it must, over many seeds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each has its text")]
        pub enum Situation {
            $($name,)*
        }

        impl Situation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Says it in words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

situations! {
    // The world.
    OneMember = "world: one member",
    ThreeMembers = "world: three members",
    FiveMembers = "world: five members",
    TwoProxies = "world: two proxies",
    ThreeLanes = "world: three lanes",
    AnswerDoubted = "an answer of a member that lags",
    AuthOn = "world: auth on",
    AuthSwitched = "world: auth is switched on and off",
    DirectClient = "world: a client without proxy",

    // What histories the store had.
    HistoryKept = "history: members restored, and nothing lost",
    HistoryNewCluster = "history: restored as a new cluster",
    HistoryNoticed = "history: another one noticed",
    HistoryPassed = "history: gone back, and past what a proxy knew before it could notice",
    HistoryRestored = "history: a former state put back",
    HistoryStale = "history: an answer to a question of a former one",
    HistoryWiped = "history: all data gone",

    // What was done to it.
    FaultBlackHole = "fault: a member can't be reached",
    FaultCancelWatcher = "fault: a watcher cancelled by its member",
    FaultClientLost = "fault: a client's connection breaks",
    FaultClusterGone = "fault: all members gone",
    FaultCompact = "fault: a compaction",
    FaultCut = "fault: a connection breaks",
    FaultEndWatch = "fault: a streaming call ended by its member",
    FaultFreeze = "fault: a member frozen",
    FaultGoAway = "fault: a member ends a connection in good order",
    FaultGoodbye = "fault: a member ends all its connections at once",
    FaultHistory = "fault: the store goes back",
    FaultIsolate = "fault: a member isolated",
    FaultKill = "fault: a member killed",
    FaultLag = "fault: a member lags",
    FaultLoseLeader = "fault: the leader resigns",
    FaultPowerOff = "fault: a host without power",
    FaultRefuse = "fault: a member refuses streams",
    FaultReplace = "fault: the list of members changes",
    FaultReset = "fault: a member resets streams",
    FaultRevoke = "fault: a permission revoked",
    FaultSlow = "fault: slow links",
    FaultSwitchAuth = "fault: users must authenticate for a while",
    FaultStall = "fault: a half-open connection",

    // What happened on the wire.
    AnswerReset = "a member reset a call it had processed",
    GoAwayAtOnce = "GOAWAY at once",
    GoAwayInTwoSteps = "GOAWAY in two steps",
    LeftOutOfGoAway = "a call left out of a GOAWAY",
    LostAnswer = "a write was applied and its answer lost",
    LostRequest = "a write was lost on its way",
    ReportRepeated = "a report repeated",
    StreamRefused = "a stream refused",

    LeaseEndedByMember = "a LeaseKeepAlive call ended by its member",
    WatchEndedByMember = "a Watch call ended by its member",
    WatcherCancelledByMember = "a member cancelled a watcher",

    // What the endpoint machine did.
    Chosen = "machine: a member chosen",
    ClosedConnectTimeout = "machine: gave up connecting",
    ClosedLeaderLost = "machine: left a member without leader",
    ClosedSilent = "machine: gave up a silent connection",
    ClosedUnneeded = "machine: closed a connection it didn't need",
    HiddenConnect = "machine: hid a member that can't be reached",
    HiddenLost = "machine: hid a member that broke a connection",
    HiddenRefusing = "machine: hid a member that keeps saying goodbye",
    HiddenSilent = "machine: hid a silent member",
    LeaderLost = "machine: the leader is lost",
    LeaderRegained = "machine: the leader is regained",
    Restored = "machine: a hidden member is back",

    // What calls met.
    ConnectionTakesNoMore = "call: its connection took no more",
    MemberMissedDeadline = "call: the member missed its deadline",
    FoundLeader = "call: the leader was found",
    LooksForLeader = "call: the leader is looked for",
    PinnedCall = "call: kept on its member",
    ReadLost = "call: a read's connection broke",
    ReadMoved = "call: a read was moved to another member",
    Refused = "call: refused, sent again",
    ResentNotSent = "call: left out, sent again",
    WaitsForConnection = "call: waits for a connection",
    WriteLost = "call: a write's connection broke",

    // What clients were told.
    ToldAsMemberSaid = "told: a status as the member said it",
    ToldBehind = "told: no member has come to what was shown",
    ToldConnectionLost = "told: the connection was lost",
    ToldDeadline = "told: the deadline has passed",
    ToldMayBeApplied = "told: it may have been carried out",
    ToldNoEndpoint = "told: no endpoint is reachable",
    ToldNoLeader = "told: no leader",
    ToldPermission = "told: not permitted, or not known",
    ToldReset = "told: a reset stream",
    Unavailable = "told: unavailable, in a member's words",
    Abandoned = "a client gave up, or lost its connection",
    ReadRepeated = "a read was answered at a later attempt",

    // What the watch hub met, and did.
    HubBehind = "hub: a watcher left the broadcast, for its client is slow",
    HubCatchUp = "hub: a catch-up",
    HubFromHistory = "hub: events from history",
    HubResumed = "hub: a watcher of the server's goes on elsewhere",
    HubShared = "hub: watchers that share one of the server's",
    WatchCheckExpired = "watch: a question without answer",
    WatchClientReadsOn = "watch: a client reads on",
    WatchClientSlow = "watch: more waits for a client than it has room for",
    WatchClientStops = "watch: a client stops reading",
    WatchHeaderRead = "watch: a header read for who may read nothing",
    WatchNoConnection = "watch: no connection in time",
    WatchPermissionAsked = "watch: a permission asked for",
    WatchRevisionRead = "watch: a revision read",
    WatchRevisionOfMember = "watch: a member asked for its revision, for want of a quorum",
    WatchToldHistory = "watch: ended, the store has gone back",
    WatchToldNoLeader = "watch: ended, no leader",
    WatchToldTimeout = "watch: ended, no answer in time",
    WatchToldToken = "watch: ended, the token isn't valid any more",

    // What the read cache met, and did.
    CacheHit = "cache: an answer of the cache's",
    CacheRefresh = "cache: an old answer asked for again",
    CacheShared = "cache: a read that shares another one's answer",
    CacheWait = "cache: a read that waits",

    // What the lease router met, and did.
    LeaseClientReadsOn = "lease: a client reads on",
    LeaseClientSlow = "lease: more answers wait for a client than it has room for",
    LeaseClientStops = "lease: a client stops reading",
    LeaseExpired = "lease: it ends",
    LeaseNoConnection = "lease: no connection in time",
    LeaseRevoked = "lease: it is revoked",
    LeaseToldAsMemberSaid = "lease: ended with a status as the member said it",
    LeaseToldDenied = "lease: ended, permission denied",
    LeaseToldNoLeader = "lease: ended, no leader",
    LeaseToldNobody = "lease: ended, for want of a user or a valid token",
    LeaseToldNonsense = "lease: ended, what came was no heartbeat",
    LeaseToldTimeout = "lease: ended, no answer in time",
    RouterResent = "router: a heartbeat sent again",
    RouterShared = "router: a heartbeat shared",
    RouterStall = "router: a stream given up that didn't answer",

    // What was checked.
    CheckedLeaseEnds = "checked: a lease ends after its last heartbeat",
    CheckedLeaseHalfClosed = "checked: a half-closed LeaseKeepAlive call ends when all is answered",
    CheckedLeaseKept = "checked: a lease lives on with its client",
    CheckedLeaseRenewed = "checked: a heartbeat renewed its lease",
    CheckedLeaseServed = "checked: a heartbeat that waits",
    CheckedLeaseShared = "checked: an answer that was to be shared",
    CheckedLeaseSurvives = "checked: a lease lives on though the member in use failed",
    CheckedLeaseUnknown = "checked: a heartbeat for a lease that there isn't",
    CheckedLeasesComplete = "checked: LeaseKeepAlive calls that are complete at the end",
    CheckedOneUpstreamWatcher = "checked: one of the server's watchers for a range",
    CheckedPutMany = "checked: a put of several keys",
    CheckedWatchBadToken = "checked: a watcher refused for its token",
    CheckedWatchCancelled = "checked: a watcher cancelled as it wished",
    CheckedWatchChosenId = "checked: a watcher with an id of the client's choice",
    CheckedWatchCompacted = "checked: a watcher cancelled for a compaction",
    CheckedWatchDenied = "checked: a watcher refused for its permission",
    CheckedWatchDuplicate = "checked: a watcher refused for its id",
    CheckedWatchEmptyRange = "checked: a watcher refused for its range",
    CheckedWatchEvents = "checked: events of a watcher",
    CheckedWatchFragment = "checked: a fragment",
    CheckedWatchFromNow = "checked: a watcher from now on",
    CheckedWatchFuture = "checked: a watcher from a revision to come",
    CheckedWatchManyEvents = "checked: several events at once",
    CheckedWatchNegative = "checked: a watcher refused for its start",
    CheckedWatchNobody = "checked: a watcher refused for want of a user",
    CheckedWatchNotified = "checked: a progress notification",
    CheckedWatchPast = "checked: a watcher from a past revision",
    CheckedWatchPrevious = "checked: previous pairs",
    CheckedWatchProgress = "checked: progress as asked for",
    CheckedWatchRevoked = "checked: a watcher cancelled for its permission",
    RevokedAndLost = "checked: Watch calls of those who may not any more, after a failover",
    CheckedWatchServed = "checked: nothing comes, and nothing is to come",
    CheckedWatchesComplete = "checked: Watch calls that are complete at the end",
    CheckedWatchesProgress = "checked: progress at the end",
    CheckedHitLinearizable = "checked: a linearizable answer of the cache's",
    CheckedHitOldRevision = "checked: an answer of the cache's of an old revision",
    CheckedKept = "checked: an answer that the cache keeps",
    CheckedHitSerializable = "checked: a serializable answer of the cache's",
    CheckedSharedRefusal = "checked: a shared refusal",
    CheckedShared = "checked: a shared answer",
    CheckedDelete = "checked: a delete",
    CheckedLeaderAnswers = "checked: the leader tells of its state",
    CheckedLinearizable = "checked: a linearizable read",
    CheckedOldRevision = "checked: a read of an old revision",
    CheckedPut = "checked: a put",
    CheckedRefusal = "checked: a refused write was not applied",
    CheckedSerializable = "checked: a serializable read",
    CheckedStaleSerializable = "checked: a serializable read behind the others",
    CheckedSticky = "checked: calls that stay on one member",
    CheckedTxnFailed = "checked: a transaction that didn't compare",
    CheckedTxnSucceeded = "checked: a transaction that compared",
    LeaderlessInUse = "checked: a member without leader in use",
    NobodyInUse = "checked: no member in use",
    SilentInUse = "checked: a dead or silent member in use",
    PromisedRead = "checked: a read during one member's failure",
    PromisedWrite = "checked: a write soon after one member's failure",
    Quiet = "checked: quiet at the end",
    WaitsThoughFit = "checked: calls that wait although the member in use is well",
    Rested = "checked: at rest after all faults",

    // Which failure of the member in use reads were to survive.
    EpisodeAbsent = "episode: another member has been dead or silent",
    EpisodeBlackHole = "episode: black hole",
    EpisodeCut = "episode: all its connections break",
    EpisodeFreeze = "episode: frozen",
    EpisodeGoAway = "episode: GOAWAY",
    EpisodeGoodbye = "episode: goodbye",
    EpisodeIsolate = "episode: isolated",
    EpisodeKill = "episode: killed",
    EpisodeLoseLeader = "episode: the leader resigns",
    EpisodePowerOff = "episode: power off",
    EpisodeSplit = "episode: all isolated, all but one find together",
}

/// How often each situation came up.
#[derive(Clone, Debug)]
pub struct Counts([u64; Situation::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Situation::ALL.len()])
    }
}

impl Counts {
    pub(crate) fn add(&mut self, situation: Situation) {
        self.0[situation as usize] += 1;
    }

    pub(crate) fn add_many(&mut self, situation: Situation, times: u64) {
        self.0[situation as usize] += times;
    }

    /// How often it came up.
    #[must_use]
    pub fn of(&self, situation: Situation) -> u64 {
        self.0[situation as usize]
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// What never came up.
    pub fn missing(&self) -> impl Iterator<Item = Situation> {
        Situation::ALL
            .iter()
            .copied()
            .filter(|situation| self.of(*situation) == 0)
    }

    /// One line each.
    #[must_use]
    pub fn report(&self) -> String {
        let line = |situation: &Situation| {
            let count = self.of(*situation);
            let mark = if count == 0 { "  <- never" } else { "" };
            format!("{count:>10}  {}{mark}\n", situation.text())
        };
        Situation::ALL.iter().map(line).collect()
    }

    pub(crate) fn note_close(&mut self, cause: CloseCause) {
        self.add(match cause {
            CloseCause::ConnectTimeout => Situation::ClosedConnectTimeout,
            CloseCause::Foreign | CloseCause::LeaderLost => Situation::ClosedLeaderLost,
            CloseCause::Silent => Situation::ClosedSilent,
            CloseCause::Unneeded => Situation::ClosedUnneeded,
        });
    }

    pub(crate) fn note_hidden(&mut self, cause: FailureCause) {
        self.add(match cause {
            FailureCause::Connect => Situation::HiddenConnect,
            FailureCause::Lost => Situation::HiddenLost,
            FailureCause::Refusing => Situation::HiddenRefusing,
            FailureCause::Silent => Situation::HiddenSilent,
            _ => return,
        });
    }

    pub(crate) fn note_failure(&mut self, failure: Failure, repeatable: bool) {
        self.add(match failure {
            Failure::NotSent => Situation::ResentNotSent,
            Failure::Refused => Situation::Refused,
            Failure::ConnectionLost if repeatable => Situation::ReadLost,
            Failure::MovedAway if repeatable => Situation::ReadMoved,
            Failure::ConnectionLost | Failure::MovedAway => Situation::WriteLost,
            Failure::Unavailable => Situation::Unavailable,
        });
    }
}
