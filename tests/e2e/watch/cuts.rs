//! The upstream's end of a Watch call, in every form: nobody behind the proxy may notice. Rows 3 and 4.

use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;
use etcd_proxy_tests::{
    suite::eventually,
    tap::Cut,
    watching::{ANSWER_LIMIT, on_key, on_prefix, since},
};
use libtest_mimic::Trial;

use crate::{
    world::{Between, Follower, Upstream, World, scenario},
    writers::{Log, Writers},
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    let tap = Between::Tap(Duration::ZERO);
    vec![
        scenario(upstream, "cut_with_each_code", tap, each_code),
        scenario(upstream, "cut_by_the_transport", tap, transport),
        scenario(upstream, "cut_at_birth", tap, at_birth),
        scenario(upstream, "cut_while_catching_up", tap, while_catching_up),
        scenario(upstream, "draining_is_left", tap, draining),
    ]
}

/// All codes there are, and two there aren't.
const CODES: std::ops::RangeInclusive<u8> = 0..=18;

/// Watchers of several kinds that live through everything a test does.
struct Witnesses {
    start: i64,
    followers: Vec<Follower>,
}

impl Witnesses {
    async fn start(world: &World) -> Self {
        let start = world.put(&world.key("first"), "").await + 1;
        let key = world.key("k");
        let mut followers = Vec::new();
        for create in [
            on_prefix(&world.prefix),
            on_key(&key),
            WatchCreateRequest {
                prev_kv: true,
                progress_notify: true,
                ..on_prefix(&world.prefix)
            },
            since(start, on_key(&key)),
        ] {
            followers.push(world.follow(create).await);
        }
        Self { start, followers }
    }

    /// Puts the key that all of them watch, and waits until all know.
    async fn go_on(&mut self, world: &World, value: &str) {
        let revision = world.put(&world.key("k"), value).await;
        for follower in &mut self.followers {
            follower.until(revision).await;
        }
    }

    /// Every event once, in order. That none was created twice was checked as the answers came.
    async fn check(mut self, world: &World) {
        let last = world.put(&world.key("k"), "last").await;
        let log = Log::read(&world.member, &world.prefix).await;
        let key =
            etcd_proxy_tests::watching::history(&world.member, since(1, on_key(&world.key("k"))), last).await;
        let key = Log { marks: key };
        for (index, follower) in self.followers.iter_mut().enumerate() {
            let whole = index % 2 == 0;
            let (log, until) = if whole {
                (&log, log.last_revision())
            } else {
                (&key, last)
            };
            follower.until(until).await;
            log.is(&follower.account.only().marks, self.start)
                .expect("its events");
        }
    }
}

/// Cuts, and sees that those who were there go on and that new ones are served.
async fn survive(world: &World, witnesses: &mut Witnesses, name: &str, cut: impl FnOnce(&World)) {
    world.put(&world.key("before"), name).await;
    cut(world);
    world.put(&world.key("meanwhile"), name).await;
    witnesses.go_on(world, name).await;
    for create in [on_key(&world.key("new")), on_key(&world.key(name))] {
        let mut new = world.follow(create.clone()).await;
        let key = String::from_utf8_lossy(&create.key).into_owned();
        let revision = world.put(&key, name).await;
        new.until(revision).await;
        assert_eq!(new.revisions(), [revision]);
    }
}

async fn each_code(world: World) -> World {
    let mut witnesses = Witnesses::start(&world).await;
    for code in CODES {
        let name = format!("code {code}");
        let cut = Cut::Status(code, "as the test has it");
        survive(&world, &mut witnesses, &name, |world| world.tap().cut(cut)).await;
    }
    // etcd's own words.
    for (code, message) in [
        (1, "etcdserver: watch canceled"),
        (14, "etcdserver: no leader"),
        (8, "etcdserver: too many requests"),
        (16, "etcdserver: invalid auth token"),
    ] {
        let cut = Cut::Status(code, message);
        survive(&world, &mut witnesses, message, |world| world.tap().cut(cut)).await;
    }
    witnesses.check(&world).await;
    world
}

async fn transport(world: World) -> World {
    let mut witnesses = Witnesses::start(&world).await;
    // NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM, HTTP_1_1_REQUIRED and one unknown.
    for code in [0, 2, 7, 8, 11, 13, 77] {
        let name = format!("reset {code}");
        survive(&world, &mut witnesses, &name, |world| {
            world.tap().cut(Cut::Reset(code))
        })
        .await;
    }
    survive(&world, &mut witnesses, "no trailers", |world| {
        world.tap().cut(Cut::Bare)
    })
    .await;
    survive(&world, &mut witnesses, "goaway", |world| world.tap().go_away()).await;
    survive(&world, &mut witnesses, "tcp reset", |world| {
        world.tap().reset_connections()
    })
    .await;
    survive(&world, &mut witnesses, "goaway and reset", |world| {
        world.tap().go_away();
        world.tap().reset_connections();
    })
    .await;
    witnesses.check(&world).await;
    world
}

/// Calls that are refused as soon as they come, several times in a row.
/// A member says goodbye and goes on serving what is open: watches go over to the next connection, since nobody could tell
/// whether the former one still lives.
async fn draining(world: World) -> World {
    let mut witnesses = Witnesses::start(&world).await;
    for round in 0..3 {
        let before = world.tap().record();
        world.tap().go_away();
        eventually("watches on the next connection", ANSWER_LIMIT, async || {
            let record = world.tap().record();
            let has_moved = record.used_watches > before.used_watches;
            (has_moved && record.open_watches <= before.open_watches).then_some(())
        })
        .await;
        witnesses.go_on(&world, &format!("goaway {round}")).await;
    }
    witnesses.check(&world).await;
    world
}

async fn at_birth(world: World) -> World {
    let mut witnesses = Witnesses::start(&world).await;
    for cuts in [
        vec![Cut::Status(14, "etcdserver: leader changed"); 3],
        vec![
            Cut::Status(1, "gone"),
            Cut::Status(7, "not now"),
            Cut::Status(2, "what"),
        ],
        vec![
            Cut::Reset(7),
            Cut::Reset(8),
            Cut::Bare,
            Cut::Status(12, "unknown service"),
        ],
    ] {
        let name = format!("{:?}", cuts[0]);
        world.tap().refuse(cuts);
        survive(&world, &mut witnesses, &name, |world| {
            world.tap().cut(Cut::Status(13, "first"))
        })
        .await;
        eventually("all refusals are used up", ANSWER_LIMIT, async || {
            world.tap().has_refused().then_some(())
        })
        .await;
    }
    witnesses.check(&world).await;
    world
}

/// Streams that break again and again while watchers are thousands of revisions behind and writers write.
async fn while_catching_up(world: World) -> World {
    let first = world.put(&world.key("first"), "").await;
    let mut followers = vec![(first + 1, world.follow(on_prefix(&world.prefix)).await)];
    let writers = Writers::start(std::slice::from_ref(&world.member), &world.prefix, 3);
    for round in 0..12 {
        for back in [0, 1] {
            let start = first + i64::from(back) * 50;
            followers.push((start, world.follow(since(start, on_prefix(&world.prefix))).await));
        }
        match round % 4 {
            0 => world.tap().cut(Cut::Status(14, "again")),
            1 => world.tap().reset_connections(),
            2 => world.tap().cut(Cut::Reset(2)),
            _ => world.tap().cut(Cut::Status(1, "again")),
        }
        writers.wrote(40).await;
        let (_, live) = &mut followers[0];
        let revision = world.put(&world.key("round"), "").await;
        live.until(revision).await;
    }
    let log = writers.stop(&world.member).await;
    for (start, mut follower) in followers {
        follower.until(log.last_revision()).await;
        log.is(&follower.account.only().marks, start).expect("its events");
    }
    world
}
