//! The endpoint machine under any sequence of events that a driver can bring about, judged after each by
//! the oracle of the simulation.
#![no_main]

#[path = "../../core/tests/endpoints/oracle/mod.rs"]
mod oracle;

use std::time::Duration;

use arbitrary::Arbitrary;
use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::{Config, ConnectionId, Endpoints, Event, Health};
use etcd_proxy_core::time::Instant;
use libfuzzer_sys::fuzz_target;

use oracle::Oracle;

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    lanes: u8,
    addresses: Vec<u8>,
    settings: Settings,
    steps: Vec<Step>,
}

/// Milliseconds.
#[derive(Arbitrary, Debug)]
struct Settings {
    connect_timeout: u16,
    stagger: u16,
    probe_interval: Option<u16>,
    probe_timeout: u16,
    challenge_interval: u16,
    backoff_min: u16,
    backoff_max: u16,
    graceful_age_min: u16,
    say: u16,
    endpoints_max: u8,
}

/// Numbers choose among what there is at the time.
#[derive(Arbitrary, Debug)]
enum Step {
    Active(u8),
    Connected(u8),
    ConnectFailed(u8),
    Doubt(u8),
    Draining(u8),
    /// All are members of one cluster: the oracle knows nothing of several.
    Identified(u8),
    Lost {
        which: u8,
        graceful: bool,
    },
    ProbeAnswered {
        which: u8,
        fit: bool,
    },
    ProbeLost(u8),
    Replace(Vec<u8>),
    /// An event about a connection that is gone.
    Stale {
        which: u8,
        kind: u8,
        flag: bool,
    },
    /// Time passes, at most until the next timeout.
    Wait {
        ms: u16,
    },
    Wanted {
        worker: u8,
        class: u8,
    },
    /// The next timeout comes, this many microseconds late.
    Timeout {
        late_us: u8,
    },
}

fuzz_target!(|input: Input| Driver::new(&input).run(input.steps));

/// The id of all members' cluster.
const CLUSTER: u64 = 7;

struct Driver {
    lanes: u32,
    machine: Endpoints,
    oracle: Oracle,
    now: Instant,
    gone: Vec<ConnectionId>,
}

impl Driver {
    fn new(input: &Input) -> Self {
        let ms = |number: u16| Duration::from_millis(number.into());
        let settings = &input.settings;
        let backoff_min = ms(settings.backoff_min.max(1));
        let config = Config {
            lanes: u32::from(input.lanes % 4) + 1,
            connect_timeout: ms(settings.connect_timeout),
            stagger: ms(settings.stagger),
            probe_interval: settings.probe_interval.map(ms),
            probe_timeout: ms(settings.probe_timeout),
            challenge_interval: ms(settings.challenge_interval),
            backoff_min,
            backoff_max: ms(settings.backoff_max).max(backoff_min),
            graceful_age_min: ms(settings.graceful_age_min),
            say: ms(settings.say),
            endpoints_max: usize::from(settings.endpoints_max % 8) + 1,
        };
        let machine = Endpoints::new(config, input.seed, addresses(&input.addresses));
        Self {
            lanes: config.lanes,
            oracle: Oracle::new(config, &machine),
            machine,
            now: Instant::ZERO,
            gone: Vec::new(),
        }
    }

    fn run(mut self, steps: Vec<Step>) {
        self.tell(Event::Start);
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: Step) {
        let open = |view: &oracle::View| view.opened_at.is_some();
        let event = match step {
            Step::Active(which) => self.pick(which, open).map(Event::Active),
            Step::Connected(which) => self.pick(which, |view| !open(view)).map(Event::Connected),
            Step::ConnectFailed(which) => self.pick(which, |view| !open(view)).map(Event::ConnectFailed),
            Step::Doubt(which) => self.pick(which, open).map(Event::Doubt),
            Step::Draining(which) => self
                .pick(which, |view| open(view) && !view.draining)
                .map(Event::Draining),
            Step::Identified(which) => self
                .pick(which, open)
                .map(|connection| Event::Identified(connection, CLUSTER)),
            Step::Lost { which, graceful } => self
                .pick(which, open)
                .map(|connection| Event::Lost { connection, graceful }),
            Step::ProbeAnswered { which, fit } => self
                .pick(which, |view| view.probe_sent.is_some() || view.draining)
                .map(|id| Event::ProbeAnswered(id, health(fit))),
            Step::ProbeLost(which) => self
                .pick(which, |view| view.probe_sent.is_some())
                .map(Event::ProbeLost),
            Step::Replace(list) => Some(Event::Replace(addresses(&list).collect())),
            Step::Stale { which, kind, flag } => self.stale(which, kind, flag),
            Step::Wanted { worker, class } => {
                // One that there isn't wants nothing.
                let worker = u32::from(worker) % (self.lanes + 1);
                let class = Class::ALL[usize::from(class) % Class::ALL.len()];
                Some(Event::Wanted(worker, class))
            }
            Step::Wait { ms } => {
                let until = self.now + Duration::from_millis(ms.into());
                self.now = self
                    .machine
                    .next_timeout()
                    .map_or(until, |at| at.max(self.now).min(until));
                None
            }
            Step::Timeout { late_us } => self.machine.next_timeout().map(|at| {
                self.now = self.now.max(at + Duration::from_micros(late_us.into()));
                Event::Timeout
            }),
        };
        if let Some(event) = event {
            self.tell(event);
        }
    }

    /// One of the connections of this kind.
    fn pick(&self, which: u8, kind: impl Fn(&oracle::View) -> bool) -> Option<ConnectionId> {
        let mut of_kind = self
            .oracle
            .views
            .iter()
            .filter(|(_, view)| kind(view))
            .map(|(id, _)| *id);
        let count = of_kind.clone().count();
        of_kind.nth(usize::from(which).checked_rem(count)?)
    }

    fn stale(&self, which: u8, kind: u8, flag: bool) -> Option<Event> {
        let id = self.gone[usize::from(which).checked_rem(self.gone.len())?];
        Some(match kind % 9 {
            0 => Event::Active(id),
            1 => Event::Connected(id),
            2 => Event::ConnectFailed(id),
            3 => Event::Doubt(id),
            4 => Event::Draining(id),
            5 => Event::ProbeAnswered(id, health(flag)),
            6 => Event::ProbeLost(id),
            7 => Event::Identified(id, CLUSTER),
            _ => Event::Lost {
                connection: id,
                graceful: flag,
            },
        })
    }

    fn tell(&mut self, event: Event) {
        let before: Vec<ConnectionId> = self.oracle.views.keys().copied().collect();
        let mut actions = Vec::new();
        self.machine.handle(self.now, event.clone(), &mut actions);
        self.oracle.judge(self.now, &event, &actions, &self.machine);
        self.gone.extend(
            before
                .into_iter()
                .filter(|id| !self.oracle.views.contains_key(id)),
        );
    }
}

fn addresses(list: &[u8]) -> impl Iterator<Item = Box<str>> {
    list.iter().map(|number| format!("member-{}", number % 16).into())
}

fn health(fit: bool) -> Health {
    if fit { Health::Fit } else { Health::Unfit }
}
