//! What a run is made of, drawn from its seed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use etcd_proxy_core::endpoints;
use etcd_proxy_core::lease as router;
use etcd_proxy_core::watch as hub;
use etcd_proxy_model::cluster;
use fastrand::Rng;

use crate::client::{self, Target};
use crate::io::within;
use crate::leases;
use crate::proxy::read::Cached;
use crate::proxy::{self, read};
use crate::watches;
use crate::world::FaultKind;

/// Settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Seed of everything that is left to chance while it runs.
    pub seed: u64,
    /// The cluster.
    pub cluster: cluster::Config,
    /// Number of proxies.
    pub proxies: usize,
    /// Settings of each of them.
    pub proxy: proxy::Config,
    /// The clients.
    pub clients: Vec<client::Config>,
    /// One-way latency of the network's paths.
    pub latency: Range<Duration>,
    /// Which faults may happen.
    pub faults: Vec<FaultKind>,
    /// How many of them.
    pub faults_max: u32,
    /// Time between two of them.
    pub fault_pause: Range<Duration>,
    /// Whether users must authenticate.
    pub auth: bool,
    /// Whether users must authenticate at times. There are no streaming calls of clients then.
    pub switches_auth: bool,
    /// After which faults, by number, the store goes back, and how long members may take to start then.
    pub histories: BTreeMap<u32, Duration>,
}

const MS: fn(u64) -> Duration = Duration::from_millis;

impl Settings {
    /// A quiet world: `members` members, a proxy with one lane, a client that does as it is told, no faults.
    #[must_use]
    pub fn plain(members: usize) -> Self {
        Self {
            seed: 1,
            cluster: cluster::Config {
                members,
                seed: 1,
                ..cluster::Config::default()
            },
            proxies: 1,
            proxy: proxy::Config {
                endpoints: endpoints::Config::default(),
                watch: hub::Config::default(),
                lease: router::Config::default(),
                read: read::Config::off(),
                dial_timeout: Duration::from_secs(5),
                repeats_reports: false,
            },
            clients: vec![client::Config::scripted(0)],
            latency: MS(1)..MS(2),
            faults: Vec::new(),
            faults_max: 0,
            fault_pause: MS(100)..MS(1_000),
            auth: false,
            switches_auth: false,
            histories: BTreeMap::new(),
        }
    }

    /// The settings of a seed, without these kinds of faults.
    #[must_use]
    pub fn without(seed: u64, kinds: &[FaultKind]) -> Self {
        let mut settings = Self::of_seed(seed);
        settings.faults.retain(|kind| !kinds.contains(kind));
        if kinds.contains(&FaultKind::History) {
            settings.histories.clear();
        }
        settings
    }

    /// The settings of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let members = [1, 3, 3, 3, 5][rng.usize(..5)];
        let proxies = if rng.u8(..4) == 0 { 2 } else { 1 };
        let lanes = [1, 1, 2, 3][rng.usize(..4)];
        let latency_max = [1, 5, 20, 50][rng.usize(..4)];
        let clients = 1 + rng.usize(..4);
        let clients = (0..clients)
            .map(|index| any_client(rng, index, proxies, members))
            .collect();
        let mut settings = Self {
            seed: rng.u64(..),
            cluster: cluster::Config {
                members,
                seed: rng.u64(..),
                progress_interval: within(rng, MS(200)..MS(5_000)),
                watch_buffer_max: [1, 4, 128][rng.usize(..3)],
                ..cluster::Config::default()
            },
            proxies,
            proxy: proxy::Config {
                endpoints: any_endpoints(rng, lanes),
                watch: any_hub(rng),
                lease: router::Config::default(),
                read: any_cache(seed),
                dial_timeout: Duration::from_secs(5),
                repeats_reports: rng.bool(),
            },
            clients,
            latency: Duration::from_micros(100)..MS(latency_max),
            faults: any_faults(rng),
            faults_max: rng.u32(0..24),
            fault_pause: MS(20)..MS(rng.u64(100..4_000)),
            auth: rng.u8(..6) == 0,
            switches_auth: false,
            histories: any_histories(seed),
        };
        if settings.auth {
            // Few have users, and few of those lose a watcher to it.
            settings.faults.extend([FaultKind::Revoke; 2]);
        }
        if rng.bool() {
            settings.proxy.lease = any_router(rng);
        }
        for client in &mut settings.clients {
            if matches!(client.target, Target::Proxy(_)) && rng.u8(..4) > 0 {
                client.lease = any_leases(rng);
            }
        }
        if !settings.auth && Rng::with_seed(seed ^ 0x6175_7468).u8(..6) == 0 {
            settings.switches_auth = true;
            settings.faults.extend([FaultKind::SwitchAuth; 4]);
            for client in &mut settings.clients {
                client.watch = watches::Config::scripted();
                client.lease = leases::Config::scripted();
            }
        }
        settings
    }
}

fn any_client(rng: &mut Rng, index: usize, proxies: usize, members: usize) -> client::Config {
    // The first one always goes through a proxy.
    let target = if index > 0 && rng.u8(..8) == 0 {
        Target::Member(rng.usize(..members))
    } else {
        Target::Proxy(rng.usize(..proxies))
    };
    let mut percent = |often: u8, most: u8| if rng.u8(..100) < often { rng.u8(..=most) } else { 0 };
    let mut config = client::Config {
        writes_percent: 20 + percent(100, 60),
        serializable_percent: percent(80, 100),
        deadlines_percent: percent(60, 70),
        gives_up_percent: percent(40, 20),
        require_leader_percent: percent(50, 60),
        odd_percent: percent(60, 15),
        ..client::Config::scripted(0)
    };
    config.target = target;
    config.patient = rng.bool();
    config.calls_max = rng.usize(1..6);
    config.keys = rng.u8(1..9);
    let pause = rng.u64(20..300);
    config.pause = Some(MS(pause / 4)..MS(pause));
    if matches!(config.target, Target::Proxy(_)) && rng.u8(..4) > 0 {
        config.watch = any_watches(rng);
    }
    config
}

fn any_watches(rng: &mut Rng) -> watches::Config {
    let pause = rng.u64(20..400);
    watches::Config {
        pause: Some(MS(pause / 4)..MS(pause)),
        calls_max: rng.usize(1..4),
        watchers_max: rng.usize(1..12),
        window: [4, 16, 64][rng.usize(..3)],
        stops_percent: [0, 3, 15][rng.usize(..3)],
        require_leader_percent: [0, 30, 100][rng.usize(..3)],
        reader_percent: [0, 50][rng.usize(..2)],
    }
}

fn any_leases(rng: &mut Rng) -> leases::Config {
    let pause = rng.u64(60..800);
    leases::Config {
        pause: Some(MS(pause / 4)..MS(pause)),
        calls_max: rng.usize(1..5),
        leases_max: rng.usize(1..6),
        ttl_max: [2, 5, 12, 30][rng.usize(..4)],
        window: [2, 8, 64][rng.usize(..3)],
        stops_percent: [0, 3, 15][rng.usize(..3)],
        require_leader_percent: [0, 50, 100][rng.usize(..3)],
        reader_percent: [0, 50][rng.usize(..2)],
    }
}

/// Small enough that every bound is met.
fn any_router(rng: &mut Rng) -> router::Config {
    let mut any = |choice: [usize; 3]| choice[rng.usize(..3)];
    let mut config = router::Config {
        requests_max: any([2, 16, 512]),
        outbox_bytes_max: any([50, 1_000, 64 << 10]),
        in_flight_max: any([1, 3, 1_024]),
        streams_max: any([1, 3, 8]),
        alone_max: any([1, 3, 16]),
        leases_max: any([1, 4, 1 << 20]),
        ..router::Config::default()
    };
    config.stall = within(rng, MS(200)..MS(600));
    config.careful = within(rng, MS(1_000)..MS(60_000));
    config.linger = within(rng, MS(200)..MS(5_000));
    if rng.u8(..4) == 0 {
        config.share_within = Some(within(rng, MS(10)..MS(400)));
    }
    config
}

/// Small enough that every bound is met, and quick enough that the end comes soon.
fn any_hub(rng: &mut Rng) -> hub::Config {
    let mut any = |choice: [usize; 3]| choice[rng.usize(..3)];
    let mut config = hub::Config {
        outbox_bytes_max: any([300, 2_000, 4 << 20]),
        outbox_bytes_total_max: any([1_000, 10_000, 256 << 20]),
        requests_max: any([2, 16, 128]),
        history_bytes_max: any([1, 2_000, 4 << 20]),
        history_bytes_total_max: any([3_000, 20_000, 256 << 20]),
        live_streams_max: any([1, 2, 4]),
        catch_up_streams_max: any([1, 2, 64]),
        catch_ups_per_client_max: any([1, 2, 1024]),
        creates_in_flight_max: any([1, 4, 1024]),
        narrow_ranges_max: any([0, 2, 64]),
        fragment_bytes: any([100, 1_000, 2 << 20]),
        inline_bytes_max: any([0, 100, 2_048]),
        ..hub::Config::default()
    };
    // With a generator of its own, so that seeds stay what they were.
    let mut others = rng.clone();
    config.steps_max = others.choice([1, 8, 64]).expect("not empty");
    config.unsent_revisions_max = others.choice([0, 2, 8]).expect("not empty");
    config.batch_bytes_max = others.choice([1, 1_000, 2 << 20]).expect("not empty");
    config.linger = within(rng, MS(100)..MS(2_000));
    config.position_interval = within(rng, MS(500)..MS(4_000));
    config.progress_notify_interval = within(rng, MS(300)..MS(3_000));
    config.trusts_progress = rng.u8(..10) > 0;
    if rng.u8(..3) == 0 {
        config.create_timeout = within(rng, MS(3_000)..MS(10_000));
    }
    config
}

/// Small enough that every bound is met. With a generator of its own, so that clients and faults stay what they were.
fn any_cache(seed: u64) -> read::Config {
    let rng = &mut Rng::with_seed(seed ^ 0x0063_6163_6865);
    let mut any = |choice: [u64; 3]| choice[rng.usize(..3)];
    read::Config {
        staleness_max: MS(any([200, 1_000, 3_000])),
        wait_max: MS(any([20, 100, 400])),
        idle: MS(any([500, 2_000, 5_000])),
        fallbacks_max: any([1, 3, 64]) as usize,
        bytes_max: any([20_000, 200_000, 64 << 20]) as usize,
        batch_min: any([1, 2, 16]) as usize,
        cached: match rng.u8(..8) {
            0 => Cached::Nothing,
            1 | 2 => Cached::Some,
            _ => Cached::Everything,
        },
    }
}

fn any_endpoints(rng: &mut Rng, lanes: u32) -> endpoints::Config {
    let mut config = endpoints::Config {
        lanes,
        ..endpoints::Config::default()
    };
    if rng.u8(..4) == 0 {
        config.connect_timeout = within(rng, MS(300)..MS(2_000));
        config.stagger = within(rng, MS(20)..MS(400));
        config.probe_interval = Some(within(rng, MS(300)..MS(1_500)));
        config.probe_timeout = within(rng, MS(600)..MS(2_500));
        config.challenge_interval = within(rng, MS(300)..MS(1_500));
        config.backoff_min = within(rng, MS(20)..MS(200));
        config.backoff_max = within(rng, MS(500)..MS(1_500));
    }
    config
}

/// Some kinds of faults, mostly not all.
fn any_faults(rng: &mut Rng) -> Vec<FaultKind> {
    let share = rng.u8(20..=100);
    let drawn = |_: &&FaultKind| rng.u8(..100) < share;
    let others = [FaultKind::History, FaultKind::SwitchAuth];
    let kinds = FaultKind::ALL.iter().filter(|kind| !others.contains(kind));
    kinds.filter(drawn).copied().collect()
}

/// In some runs the store goes back once or twice. With a generator of its own, so that other seeds stay what they were.
fn any_histories(seed: u64) -> BTreeMap<u32, Duration> {
    let rng = &mut Rng::with_seed(seed ^ 0x6261_636b);
    let times = [0, 0, 0, 1, 1, 2][rng.usize(..6)];
    let mut any = |_| {
        let restart = [2, 500, 4_000][rng.usize(..3)];
        (rng.u32(..12), within(rng, MS(1)..MS(restart)))
    };
    (0..times).map(&mut any).collect()
}
