//! `etcdctl` commands: each prints what it prints with a real etcd.

use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    etcdctl::Etcdctl,
    suite::TempDir,
};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{World, both, last_line};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(both("put_get_del_txn", put_get_del_txn));
    trials.extend(both("compaction", compaction));
    trials.extend(both("auth", auth));
    trials.extend(both("members_and_status", members_and_status));
    trials.extend(both("what_is_not_there", what_is_not_there));
    trials
}

/// A command, as `etcdctl` takes it.
#[derive(Clone, Copy)]
struct Command {
    /// `NAME:PASSWORD`, or empty.
    user: &'static str,
    args: &'static [&'static str],
    input: &'static str,
}

const fn run(args: &'static [&'static str]) -> Command {
    Command {
        user: "",
        args,
        input: "",
    }
}

const fn input(args: &'static [&'static str], input: &'static str) -> Command {
    Command {
        user: "",
        args,
        input,
    }
}

/// Runs the commands in order with a real etcd and with the in-memory one, and compares what each prints.
async fn same(world: &mut World, commands: impl IntoIterator<Item = Command>) {
    let cluster = Cluster::start(Options::default()).await;
    let ends = [Etcdctl::new(&cluster.address(0)), world.ctl()];
    for Command { user, args, input } in commands {
        let mut outputs = Vec::new();
        for ctl in &ends {
            let ctl = if user.is_empty() {
                ctl.clone()
            } else {
                ctl.user(user)
            };
            outputs.push(ctl.run_with_input(args, input).await);
        }
        let [real, ours] = &outputs[..] else {
            unreachable!()
        };
        let command = format!("{user} {}", args.join(" "));
        assert_eq!(real.stdout, ours.stdout, "standard output of {command}: {ours:?}");
        assert_eq!(last_line(real), last_line(ours), "error of {command}");
        assert_eq!(real.code, ours.code, "exit code of {command}");
    }
    world.assert_sound();
}

async fn put_get_del_txn(mut world: World) {
    const COMMANDS: &[Command] = &[
        run(&["put", "a", "3"]),
        run(&["put", "b", "1"]),
        run(&["put", "c", "2"]),
        run(&["put", "b", "4", "--prev-kv"]),
        run(&["put", "d", ""]),
        input(&["put", "e"], "from standard input\n\u{1}"),
        run(&["get", "a"]),
        run(&["get", "none"]),
        run(&["get", "a", "c"]),
        run(&["get", "c", "a"]),
        run(&["get", "", "--prefix"]),
        run(&["get", "", "--prefix", "--keys-only"]),
        run(&["get", "", "--prefix", "--count-only", "-w=simple"]),
        run(&["get", "", "--prefix", "--limit=2"]),
        run(&["get", "b", "--from-key"]),
        run(&["get", "", "--prefix", "--consistency=s"]),
        run(&["get", "", "--prefix", "--sort-by=VALUE", "--order=DESCEND"]),
        run(&["get", "", "--prefix", "--sort-by=CREATE", "--order=ASCEND"]),
        run(&["get", "", "--prefix", "--sort-by=MODIFY", "--order=DESCEND"]),
        run(&["get", "", "--prefix", "--sort-by=VERSION", "--order=ASCEND"]),
        run(&["get", "", "--prefix", "--sort-by=KEY", "--order=DESCEND"]),
        run(&["get", "a", "--rev=999999"]),
        run(&["get", ""]),
        run(&["put", "", "x"]),
        run(&["put", "none", "--ignore-value"]),
        run(&["put", "a", "--ignore-value"]),
        run(&["put", "a", "v", "--lease=123456"]),
        run(&["get", "a"]),
        input(
            &["txn"],
            "value(\"a\") = \"3\"\nmod(\"a\") > \"0\"\n\nput t/b \"2 2\"\nget a\ndel none\n\nput t/c 3\n\n",
        ),
        input(
            &["txn"],
            "version(\"a\") = \"99\"\n\nput t/d 1\n\nput t/c 3\nget t/c\n\n",
        ),
        input(&["txn"], "\nput t/e 1\nput t/e 2\n\n\n"),
        run(&["get", "t/", "--prefix"]),
        run(&["del", "a"]),
        run(&["del", "a"]),
        run(&["del", "b", "--prev-kv"]),
        run(&["del", "c", "d"]),
        run(&["del", "t/", "--prefix"]),
        run(&["del", ""]),
        run(&["get", "", "--prefix"]),
    ];
    same(&mut world, COMMANDS.iter().copied()).await;
}

async fn compaction(mut world: World) {
    let ctl = world.ctl();
    ctl.ok(&["put", "k", "1"]).await;
    let json: Value = serde_json::from_str(&ctl.ok(&["put", "k", "2", "-w=json"]).await).expect("JSON");
    let revision = json["header"]["revision"].as_i64().expect("a revision");
    // A store begins at revision 1, and nobody but this test has written.
    assert_eq!(revision, 3);
    assert_eq!(ctl.ok(&["get", "k", "--rev=2"]).await, "k\n1\n");
    assert_eq!(
        ctl.ok(&["compaction", "3", "--physical"]).await,
        "compacted revision 3\n"
    );
    for (args, error) in [
        (
            &["get", "k", "--rev=2"][..],
            "Error: etcdserver: mvcc: required revision has been compacted",
        ),
        (
            &["compaction", "3"],
            "Error: etcdserver: mvcc: required revision has been compacted",
        ),
        (
            &["compaction", "99"],
            "Error: etcdserver: mvcc: required revision is a future revision",
        ),
    ] {
        let output = ctl.run(args).await;
        assert!(!output.is_ok(), "{output:?}");
        assert_eq!(last_line(&output), error, "{args:?}");
    }
    assert_eq!(ctl.ok(&["get", "k", "--rev=3"]).await, "k\n2\n");
    world.assert_sound();
}

async fn auth(mut world: World) {
    const BEFORE: &[Command] = &[
        run(&["auth", "status"]),
        run(&["auth", "enable"]),
        run(&["user", "add", "root:rootpw"]),
        run(&["user", "add", "alice:alicepw"]),
        run(&["user", "add", "alice:again"]),
        run(&["role", "add", "root"]),
        run(&["role", "add", "reader"]),
        run(&["role", "add", "reader"]),
        run(&[
            "role",
            "grant-permission",
            "reader",
            "read",
            "open/",
            "--prefix=true",
        ]),
        run(&["role", "grant-permission", "reader", "readwrite", "own"]),
        run(&["user", "grant-role", "root", "root"]),
        run(&["user", "grant-role", "alice", "reader"]),
        run(&["user", "grant-role", "alice", "nothing"]),
        run(&["user", "list"]),
        run(&["user", "get", "alice"]),
        run(&["user", "get", "nobody"]),
        run(&["role", "list"]),
        run(&["role", "get", "reader"]),
        run(&["role", "get", "nothing"]),
        run(&["put", "open/a", "visible"]),
        run(&["put", "secret", "hidden"]),
        run(&["auth", "enable"]),
    ];
    const EACH: &[&[&str]] = &[
        &["get", "open/a"],
        &["get", "open/", "--prefix"],
        &["get", "open/a", "--consistency=s"],
        &["get", "secret"],
        &["get", "", "--from-key"],
        &["put", "own", "mine"],
        &["put", "open/b", "not by everyone"],
        &["del", "secret/none"],
        &["user", "list"],
        &["role", "get", "reader"],
        &["alarm", "list"],
        &["lease", "list"],
        &["auth", "status"],
    ];
    const AFTER: &[Command] = &[
        Command {
            user: "root:rootpw",
            args: &["user", "passwd", "alice", "--interactive=false"],
            input: "newpw\n",
        },
        Command {
            user: "alice:newpw",
            args: &["get", "open/a"],
            input: "",
        },
        Command {
            user: "alice:alicepw",
            args: &["get", "open/a"],
            input: "",
        },
        Command {
            user: "root:rootpw",
            args: &["role", "revoke-permission", "reader", "own"],
            input: "",
        },
        Command {
            user: "alice:newpw",
            args: &["get", "own"],
            input: "",
        },
        Command {
            user: "root:rootpw",
            args: &["user", "revoke-role", "alice", "reader"],
            input: "",
        },
        Command {
            user: "root:rootpw",
            args: &["user", "delete", "alice"],
            input: "",
        },
        Command {
            user: "root:rootpw",
            args: &["auth", "disable"],
            input: "",
        },
        run(&["get", "secret"]),
    ];
    let users = ["", "root:rootpw", "alice:alicepw", "alice:wrong", "nobody:pw"];
    let each = users.into_iter().flat_map(|user| {
        EACH.iter().map(move |args| Command {
            user,
            args,
            input: "",
        })
    });
    let all = BEFORE.iter().copied().chain(each).chain(AFTER.iter().copied());
    same(&mut world, all).await;
}

async fn members_and_status(mut world: World) {
    let ctl = world.ctl();
    let list: Value = serde_json::from_str(&ctl.ok(&["member", "list", "-w=json"]).await).expect("JSON");
    let members = list["members"].as_array().expect("members");
    assert_eq!(members.len(), 1, "{list}");
    let url = members[0]["clientURLs"][0].as_str().expect("a client URL");
    // There is one address, and it is no other member's.
    assert_eq!(members[0]["peerURLs"][0], url, "{list}");
    let address = url.strip_prefix("http://").expect("plain text").to_owned();
    // Nobody has written yet. etcdctl from 3.6 on divides by the size, and panics if it is 0.
    let status = ctl.ok(&["endpoint", "status", "-w=json"]).await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    for size in ["dbSize", "dbSizeInUse"] {
        assert!(status[0]["Status"][size].as_u64() > Some(0), "{size}: {status}");
    }
    // Whoever goes there reaches the same etcd.
    ctl.ok(&["put", "through", "the proxy"]).await;
    assert_eq!(
        Etcdctl::new(&address).ok(&["get", "through"]).await,
        "through\nthe proxy\n"
    );
    let listening = world
        .etcd
        .as_ref()
        .map_or(&world.address, |(_, listening)| listening);
    assert_eq!(&address, listening, "{list}");

    let status = ctl.ok(&["endpoint", "status", "-w=json"]).await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let status = &status[0]["Status"];
    assert_eq!(status["version"], "3.5.30", "{status}");
    assert_eq!(status["leader"], members[0]["ID"], "{status}");
    assert_eq!(status["header"]["member_id"], members[0]["ID"], "{status}");

    let health = ctl.run(&["endpoint", "health"]).await;
    let printed = format!("{}{}", health.stdout, health.stderr);
    assert!(health.is_ok() && printed.contains(" is healthy: "), "{health:?}");
    world.assert_sound();
}

/// What the model doesn't cover says so, and harms nobody.
async fn what_is_not_there(mut world: World) {
    let ctl = world.ctl();
    let dir = TempDir::new("snapshot");
    let path = dir.path().join("snapshot");
    let path = path.to_str().expect("a path of this test is text");
    // There is no database to save: a file without one must not come about.
    let output = ctl.run(&["snapshot", "save", path]).await;
    assert!(!output.is_ok(), "{output:?}");
    assert!(!std::path::Path::new(path).exists(), "{output:?}");
    assert!(
        output
            .stderr
            .contains("the in-memory etcd does not cover this call"),
        "the reason is missing: {output:?}"
    );
    for args in [
        &["member", "add", "m9", "--peer-urls=http://127.0.0.1:1"][..],
        &["member", "remove", "1"],
    ] {
        let output = ctl.run(args).await;
        assert!(!output.is_ok(), "{output:?}");
        assert!(
            output
                .stderr
                .contains("the in-memory etcd does not cover this call"),
            "the reason is missing: {output:?}"
        );
    }
    assert_eq!(ctl.ok(&["put", "after", "it"]).await, "OK\n");
    world.assert_sound();
}
