//! The member in use fails, as leader and as follower, in every way a member can.

use std::time::{Duration, Instant};

use etcd_proxy_proto::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse, RangeRequest};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    relay::Mode,
    suite::{eventually, trial, within},
};
use libtest_mimic::Trial;

use crate::load::{Load, Reads};

/// What happens to the member in use.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Frozen,
    /// Cut off from the other members; clients still reach it.
    Isolated,
    /// It hears the other members, and so knows of a leader; they don't hear it. Clients still reach it.
    Unheard,
    /// Clients reach it no more, and nothing tells them.
    BlackHoled,
    /// Its client port refuses, open connections are closed; it goes on as a member.
    Refusing,
}

/// What the member in use is.
#[derive(Clone, Copy, Debug)]
enum Role {
    Leader,
    Follower,
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, fault, role) in [
        ("leader_killed", Fault::Killed, Role::Leader),
        ("follower_killed", Fault::Killed, Role::Follower),
        ("leader_frozen", Fault::Frozen, Role::Leader),
        ("follower_frozen", Fault::Frozen, Role::Follower),
        ("leader_isolated", Fault::Isolated, Role::Leader),
        ("follower_isolated", Fault::Isolated, Role::Follower),
        ("leader_unheard", Fault::Unheard, Role::Leader),
        ("follower_unheard", Fault::Unheard, Role::Follower),
        ("leader_black_holed", Fault::BlackHoled, Role::Leader),
        ("follower_black_holed", Fault::BlackHoled, Role::Follower),
        ("follower_refusing", Fault::Refusing, Role::Follower),
    ] {
        trials.push(trial(name, move || survives(fault, role)));
    }
    trials.push(trial(
        "harness_isolates_exactly_one",
        harness_isolates_exactly_one,
    ));
    trials.push(trial("rolling_restart", rolling_restart));
    trials.push(trial("two_of_three_frozen", two_of_three_frozen));
    trials
}

/// The member whose answers come through the proxy.
pub(crate) async fn in_use(proxy: &Proxy, ids: &[u64]) -> usize {
    eventually("a read through the proxy", Duration::from_secs(15), async || {
        let client = Client::connect(proxy.address()).await.ok()?;
        let read = tokio::time::timeout(Duration::from_secs(10), client.get(b"x"));
        let header = read.await.ok()?.ok()?.header?;
        ids.iter().position(|id| *id == header.member_id)
    })
    .await
}

/// Makes a member the leader.
pub(crate) async fn lead(cluster: &Cluster, ids: &[u64], target: usize) {
    eventually("the wanted member leads", Duration::from_secs(20), async || {
        let leader = cluster.leader_seen_by(0, ids).await;
        if leader == target {
            return Some(());
        }
        let client = Client::connect(&cluster.address(leader)).await.ok()?;
        let request = MoveLeaderRequest {
            target_id: ids[target],
        };
        let path = "/etcdserverpb.Maintenance/MoveLeader";
        // It may fail if leadership has just moved by itself: looked at again.
        let _ = client
            .wire
            .unary::<_, MoveLeaderResponse>(path, &[], &request)
            .await;
        None
    })
    .await;
}

async fn survives(fault: Fault, role: Role) {
    let options = Options {
        client_relays: true,
        ..Options::three()
    };
    let mut cluster = Cluster::start(options).await;
    cluster.all_serve().await;
    let ids = cluster.ids().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let member = in_use(&proxy, &ids).await;
    let leader = match role {
        Role::Leader => member,
        Role::Follower => (member + 1) % 3,
    };
    lead(&cluster, &ids, leader).await;
    assert_eq!(
        in_use(&proxy, &ids).await,
        member,
        "the proxy changed members without a reason"
    );

    let load = Load::start(proxy.address(), Reads::Succeed).await;
    match fault {
        Fault::Killed => cluster.kill(member),
        Fault::Frozen => cluster.freeze(member),
        Fault::Isolated => cluster.isolate(member, Mode::BlackHole),
        Fault::Unheard => cluster.mute(member),
        Fault::BlackHoled => cluster.client_relay(member).set(Mode::BlackHole),
        Fault::Refusing => cluster.client_relay(member).set(Mode::Refuse),
    }
    load.goes_on(proxy.address(), 200).await;
    let other = in_use(&proxy, &ids).await;
    assert_ne!(other, member, "the failed member still answers");

    match fault {
        Fault::Killed => cluster.restart(member),
        Fault::Frozen => cluster.thaw(member),
        Fault::Isolated | Fault::Unheard => cluster.heal(member),
        Fault::BlackHoled | Fault::Refusing => cluster.client_relay(member).set(Mode::Forward),
    }
    cluster.all_serve().await;
    load.goes_on(proxy.address(), 100).await;
    load.check(&cluster.address(other)).await;
    proxy.assert_sound();
}

/// The harness itself: an isolated leader is replaced, sees no leader, and is a follower when healed.
async fn harness_isolates_exactly_one() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let ids = cluster.ids().await;
    let old = cluster.leader_seen_by(0, &ids).await;
    cluster.isolate(old, Mode::BlackHole);
    let (a, b) = ((old + 1) % 3, (old + 2) % 3);
    eventually("the others elect", Duration::from_secs(20), async || {
        let leader = cluster.leader_seen_by(a, &ids).await;
        (leader != old && leader == cluster.leader_seen_by(b, &ids).await).then_some(())
    })
    .await;
    let address = cluster.address(old);
    eventually(
        "the isolated member sees no leader",
        Duration::from_secs(20),
        async || {
            let status = Client::connect(&address).await.ok()?.status().await.ok()?;
            (status.leader == 0).then_some(())
        },
    )
    .await;
    cluster.heal(old);
    eventually("it is back", Duration::from_secs(20), async || {
        (cluster.leader_seen_by(old, &ids).await == cluster.leader_seen_by(a, &ids).await).then_some(())
    })
    .await;
    cluster.all_serve().await;
}

/// Every member is restarted in turn, as an upgrade does it.
async fn rolling_restart() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let load = Load::start(proxy.address(), Reads::Succeed).await;
    for member in [0, 1, 2, 0] {
        cluster.kill(member);
        load.goes_on(proxy.address(), 50).await;
        cluster.restart(member);
        cluster.all_serve().await;
    }
    load.goes_on(proxy.address(), 50).await;
    load.check(&cluster.address(0)).await;
    proxy.assert_sound();
}

/// The only live member has no quorum and no leader, and answers what needs none. It is found while the others are as silent as
/// the one that was in use.
async fn two_of_three_frozen() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let ids = cluster.ids().await;
    // Less than one frozen candidate takes to be given up: who waits for that refuses the read.
    let flags = ["--cache=off", "--dial-timeout=2s"];
    let mut proxy = Proxy::start(&cluster.endpoints(), &flags).await;
    let client = Client::connect(proxy.address()).await.expect("proxy");
    client.put(b"k", b"v").await.expect("put");
    let frozen = in_use(&proxy, &ids).await;
    let live = (frozen + 1) % 3;
    let both = [frozen, (frozen + 2) % 3];
    for member in both {
        cluster.freeze(member);
    }
    let read = RangeRequest {
        key: "k".into(),
        serializable: true,
        ..RangeRequest::default()
    };
    let since = Instant::now();
    let answered_by = async || {
        let answer = within("an answer", Duration::from_secs(30), client.range(&read)).await;
        let answer = answer.unwrap_or_else(|reply| panic!("{}", reply.in_short()));
        answer.header.expect("a header").member_id
    };
    // A process doesn't stop at the very moment.
    eventually("an answer of the live one", Duration::from_secs(30), async || {
        (answered_by().await == ids[live]).then_some(())
    })
    .await;
    eprintln!(
        "two of three frozen: the first answer after {:?}",
        since.elapsed()
    );
    for _ in 0..5 {
        assert_eq!(answered_by().await, ids[live]);
    }
    for member in both {
        cluster.thaw(member);
    }
    cluster.writable().await;
    let load = Load::start(proxy.address(), Reads::Succeed).await;
    load.goes_on(proxy.address(), 50).await;
    load.check(&cluster.address(live)).await;
    proxy.assert_sound();
}
