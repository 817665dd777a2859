//! user, role, auth.

use etcd_proxy_tests::suite::trial;
use libtest_mimic::Trial;

use crate::{World, last_line};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("auth", auth)]
}

/// On a member of its own: nothing else works while authentication is on.
async fn auth() {
    let world = World::start().await;
    let ctl = world.proxied();
    assert_eq!(
        ctl.ok(&["user", "add", "root:rootpw"]).await,
        "User root created\n"
    );
    assert_eq!(
        ctl.ok(&["user", "add", "alice:alicepw"]).await,
        "User alice created\n"
    );
    assert_eq!(ctl.ok(&["role", "add", "root"]).await, "Role root created\n");
    assert_eq!(ctl.ok(&["role", "add", "reader"]).await, "Role reader created\n");
    ctl.ok(&[
        "role",
        "grant-permission",
        "reader",
        "read",
        "open/",
        "--prefix=true",
    ])
    .await;
    ctl.ok(&["role", "grant-permission", "reader", "readwrite", "own"])
        .await;
    ctl.ok(&["user", "grant-role", "root", "root"]).await;
    ctl.ok(&["user", "grant-role", "alice", "reader"]).await;
    ctl.ok(&["put", "open/a", "visible"]).await;
    ctl.ok(&["put", "secret", "hidden"]).await;
    for command in [
        &["user", "list"][..],
        &["user", "get", "alice"],
        &["user", "get", "nobody"],
        &["user", "add", "alice:again"],
        &["role", "list"],
        &["role", "get", "reader"],
        &["role", "get", "nothing"],
        &["role", "add", "reader"],
        &["auth", "status"],
    ] {
        world.same(command).await;
    }
    assert_eq!(ctl.ok(&["auth", "enable"]).await, "Authentication Enabled\n");

    let (root, alice) = ("root:rootpw", "alice:alicepw");
    for user in ["", root, alice, "alice:wrong", "nobody:pw"] {
        for command in [
            &["get", "open/a"][..],
            &["get", "open/", "--prefix"],
            &["get", "open/a", "--consistency=s"],
            &["get", "secret"],
            &["get", "secret", "--consistency=s"],
            &["get", "", "--from-key"],
            &["put", "open/a", "not allowed"],
            &["user", "list"],
            &["role", "get", "reader"],
            &["member", "list"],
            &["alarm", "list"],
            &["lease", "list"],
            &["auth", "status"],
        ] {
            if user == root && command[0] == "put" {
                continue; // Allowed, and must not change the state between the two.
            }
            world.same_as(user, command).await;
        }
    }
    let denied = ctl.user(alice).run(&["get", "secret"]).await;
    assert_eq!(last_line(&denied), "Error: etcdserver: permission denied");
    let anonymous = ctl.run(&["get", "secret"]).await;
    assert_eq!(last_line(&anonymous), "Error: etcdserver: user name is empty");
    assert_eq!(ctl.user(alice).ok(&["put", "own", "mine"]).await, "OK\n");
    assert_eq!(ctl.user(alice).ok(&["get", "own"]).await, "own\nmine\n");
    // A watch outside of what is allowed fails, one inside works.
    let watch = world.same_as(alice, &["watch", "secret"]).await;
    assert!(watch.stderr.contains("permission denied"), "{watch:?}");
    let log = world.cluster.dir().join("watch.log");
    let inside = ctl.user(alice).start(&["watch", "own", "--rev=1"], &log);
    etcd_proxy_tests::suite::eventually("alice's watch sees her key", crate::SOON, async || {
        inside.log().contains("PUT\nown\nmine\n").then_some(())
    })
    .await;

    let ctl = ctl.user(root);
    let changed = ctl.run_with_input(&["user", "passwd", "alice", "--interactive=false"], "newpw\n");
    let changed = changed.await;
    assert!(changed.is_ok(), "{changed:?}");
    world.same_as("alice:newpw", &["get", "open/a"]).await;
    world.same_as(alice, &["get", "open/a"]).await;
    ctl.ok(&["role", "revoke-permission", "reader", "own"]).await;
    ctl.ok(&["user", "revoke-role", "alice", "reader"]).await;
    let denied = world.same_as("alice:newpw", &["get", "open/a"]).await;
    assert_eq!(last_line(&denied), "Error: etcdserver: permission denied");
    ctl.ok(&["user", "delete", "alice"]).await;
    ctl.ok(&["role", "delete", "reader"]).await;
    assert_eq!(ctl.ok(&["auth", "disable"]).await, "Authentication Disabled\n");
    assert_eq!(world.proxied().ok(&["get", "secret"]).await, "secret\nhidden\n");
}
