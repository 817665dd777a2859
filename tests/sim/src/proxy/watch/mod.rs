//! The watch hub of a proxy, and what carries its actions out.

mod checks;
mod history;
mod outlets;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use etcd_proxy_core::history::Known;
use etcd_proxy_core::read::HighestShownRevision;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::{Action, Actions, Caller, ClientId, Config, Event, Hub, Stats, UpstreamId};
use etcd_proxy_model::status::Status;

use self::checks::Check;
pub(super) use self::checks::{Asker, question};
pub(super) use self::history::header_of;
use self::upstreams::Upstream;
pub(super) use self::upstreams::of_reset;
use super::Proxy;
use super::outlets::Outlets;
use crate::delivery::{Delivery, WatchAlarm};
use crate::io::{Io, Note};

/// How late the hub's timer fires.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

/// Portions of work that the hub may do in a row. A portion is one step at least.
const PORTIONS_MAX: usize = 100_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Watching {
    hub: Hub,
    /// What clients were shown, and of which history of the store.
    shown: HighestShownRevision,
    /// What the oracle was told of that.
    noted: Known,
    config: Config,
    /// What the hub hasn't been told yet: what is told while its actions are carried out comes after them.
    events: VecDeque<Event>,
    is_telling: bool,
    /// When the hub's timeout comes, by the last delivery made for it, and when it is due.
    timeout: Option<(Instant, Instant)>,
    /// Timeouts in a row that left something due.
    portions: usize,
    /// Clients' Watch calls.
    pub(super) outlets: Outlets<ClientId>,
    /// Those for whom the last message was a fragment, and not the last one.
    in_fragments: BTreeSet<ClientId>,
    upstreams: BTreeMap<UpstreamId, Upstream>,
    checks: BTreeMap<Asker, Check>,
    /// Numbers waits.
    waits: u32,
}

/// What the hub and its driver hold, to see whether they leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WatchHoldings {
    outlets: usize,
    upstreams: usize,
    checks: usize,
    clients: usize,
    watchers: usize,
    behind: usize,
    sources: usize,
    streams: usize,
    bytes: usize,
    timers: usize,
}

impl Watching {
    pub(super) fn new(config: Config, proxy: usize, seed: u64) -> Self {
        Self {
            hub: Hub::new(config, seed),
            shown: HighestShownRevision::default(),
            noted: Known::default(),
            config,
            events: VecDeque::new(),
            is_telling: false,
            timeout: None,
            portions: 0,
            outlets: Outlets::new(proxy),
            in_fragments: BTreeSet::new(),
            upstreams: BTreeMap::new(),
            checks: BTreeMap::new(),
            waits: 0,
        }
    }

    /// Whether members are taken to tell the truth about progress.
    pub(super) const fn trusts_progress(&self) -> bool {
        self.config.trusts_progress
    }

    /// Opens a stream of the proxy's own.
    pub(super) fn open_inner(&mut self, now: Instant, caller: Caller, actions: &mut Actions) -> ClientId {
        self.hub.open(now, caller, actions)
    }

    fn wait(&mut self) -> u32 {
        self.waits += 1;
        self.waits
    }
}

impl Proxy {
    /// The hub.
    pub(crate) fn hub(&self) -> &Hub {
        &self.watch.hub
    }

    /// Counters and gauges of the hub.
    pub(crate) fn watch_stats(&self) -> Stats {
        self.watch.hub.stats()
    }

    pub(crate) fn watch_holdings(&self) -> WatchHoldings {
        let watch = &self.watch;
        let stats = watch.hub.stats();
        let (open, known) = watch.outlets.len();
        WatchHoldings {
            outlets: open + known,
            upstreams: watch.upstreams.len(),
            checks: watch.checks.len(),
            clients: stats.clients,
            watchers: stats.watchers,
            behind: stats.behind,
            sources: stats.live_sources + stats.catch_up_sources,
            streams: stats.upstreams,
            bytes: stats.outbox_bytes + stats.history_bytes,
            timers: usize::from(watch.hub.next_timeout().is_some()),
        }
    }

    /// Bounds that the hub promises to keep.
    pub(crate) fn watch_is_bounded(&self) {
        let (watch, stats) = (&self.watch, self.watch.hub.stats());
        assert!(
            stats.history_bytes <= watch.config.history_bytes_total_max,
            "history of {} bytes",
            stats.history_bytes
        );
        let (feed_bytes, feeds) = self.feed_holds();
        let waiting = watch.outlets.all_bytes() + feed_bytes;
        assert_eq!(stats.outbox_bytes, waiting, "bytes that wait for clients");
        assert_eq!(
            stats.clients,
            watch.outlets.len().1 + feeds,
            "Watch calls of clients"
        );
    }

    /// Tells the hub something, and carries out what it wants done.
    pub(super) fn tell(&mut self, io: &mut Io, event: Event) {
        self.watch.events.push_back(event);
        self.run_hub(io);
    }

    /// Tells the hub all that it hasn't been told.
    fn run_hub(&mut self, io: &mut Io) {
        if std::mem::replace(&mut self.watch.is_telling, true) {
            return;
        }
        while let Some(event) = self.watch.events.pop_front().or_else(|| self.next_read()) {
            io.trace
                .remark(io.now, format_args!("hub {}: {event:?}", self.index));
            let mut actions = Actions::new();
            self.watch.hub.handle(io.now, event, &mut actions);
            // Before anything goes out.
            let (history, revision) = (self.watch.hub.history(), self.watch.hub.revision());
            self.will_show(io, history, revision);
            self.carry_out_watch(io, actions);
        }
        self.watch.is_telling = false;
        self.set_watch_timeout(io);
    }

    pub(super) fn carry_out_watch(&mut self, io: &mut Io, actions: Actions) {
        for action in actions {
            io.trace
                .remark(io.now, format_args!("hub {}: {action:?}", self.index));
            match action {
                Action::Deliver(client, frame) if self.is_feed(client) => self.feed_sent(io, &frame),
                Action::EndClient(client, _) if self.is_feed(client) => self.feed_ended(io),
                // What it sends is nothing that must be held back.
                Action::PauseClient(client) | Action::ResumeClient(client) if self.is_feed(client) => {}
                Action::Deliver(client, frame) => self.put_out(io, client, &frame),
                Action::EndClient(client, status) => {
                    let status = Status {
                        code: status.code,
                        message: status.message,
                    };
                    self.watch.in_fragments.remove(&client);
                    self.watch.outlets.end(io, client, status);
                }
                Action::PauseClient(client) => self.watch.outlets.set_paused(client, true),
                Action::ResumeClient(client) => self.watch.outlets.set_paused(client, false),
                Action::OpenUpstream {
                    upstream,
                    kind,
                    credentials,
                } => {
                    let note = Note::UpstreamOpened {
                        proxy: self.index,
                        upstream,
                        kind,
                    };
                    io.notes.push(note);
                    self.open_upstream(io, upstream, kind, credentials);
                }
                Action::SendUpstream(upstream, message) => {
                    io.notes.push(Note::UpstreamAsked {
                        proxy: self.index,
                        upstream,
                        message: message.clone(),
                    });
                    self.send_upstream(io, upstream, message);
                }
                Action::CloseUpstream(upstream) => {
                    let proxy = self.index;
                    io.notes.push(Note::UpstreamGone { proxy, upstream });
                    self.close_upstream(io, upstream);
                }
                Action::ReadRevision {
                    check,
                    credentials,
                    key,
                    of_member,
                } => self.read_revision(io, check, credentials, key, of_member),
                Action::AskPermission {
                    check,
                    credentials,
                    key,
                    range_end,
                } => self.ask_permission(io, check, credentials, key, range_end),
                Action::ReadHeader(check) => self.read_header(io, check),
            }
        }
    }

    fn set_watch_timeout(&mut self, io: &mut Io) {
        let due = self.watch.hub.next_timeout();
        if self.watch.timeout.map(|(due, _)| due) == due {
            return;
        }
        self.watch.timeout = due.map(|due| {
            let at = due.max(io.now) + io.within(Duration::ZERO..TIMER_LATE_MAX);
            io.at(at, Delivery::WatchAlarm(self.index, WatchAlarm::Hub));
            (due, at)
        });
    }

    pub(crate) fn watch_alarm(&mut self, io: &mut Io, alarm: WatchAlarm) {
        match alarm {
            WatchAlarm::Hub => {
                if self.watch.timeout.is_none_or(|(_, at)| at != io.now) {
                    return;
                }
                self.watch.timeout = None;
                if self.watch.hub.next_timeout().is_some_and(|due| due <= io.now) {
                    self.tell(io, Event::Timeout);
                    // Work goes on in portions, each a timer that is due at once; but it comes to its end.
                    let is_due = self.watch.hub.next_timeout().is_some_and(|due| due <= io.now);
                    self.watch.portions = if is_due { self.watch.portions + 1 } else { 0 };
                    assert!(
                        self.watch.portions < PORTIONS_MAX,
                        "a timer of the hub is due for ever"
                    );
                }
                self.set_watch_timeout(io);
            }
            WatchAlarm::NoConnection(wait) => self.no_connection(io, wait),
            WatchAlarm::CheckDeadline(wait) => self.check_expired(io, wait),
        }
    }
}
