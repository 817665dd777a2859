//! put, get, del, txn, compaction.

use libtest_mimic::Trial;

use crate::{Shared, last_line, shared, world};

pub(crate) fn trials(world: &Shared) -> Vec<Trial> {
    vec![
        shared(world, "put_and_get", put_and_get),
        shared(world, "get_in_every_way", get_in_every_way),
        shared(world, "put_options", put_options),
        shared(world, "del", del),
        shared(world, "txn", txn),
        shared(world, "compaction", compaction),
    ]
}

async fn put_and_get(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    assert_eq!(ctl.ok(&["put", "pg", "first"]).await, "OK\n");
    assert_eq!(ctl.ok(&["get", "pg"]).await, "pg\nfirst\n");
    assert_eq!(world.direct().ok(&["get", "pg"]).await, "pg\nfirst\n");
    assert_eq!(
        ctl.ok(&["put", "pg", "second", "--prev-kv"]).await,
        "OK\npg\nfirst\n"
    );
    // The value from standard input, with bytes that are not text.
    let output = ctl.run_with_input(&["put", "pg/stdin"], "a\u{1}b\nc").await;
    assert!(output.is_ok(), "{output:?}");
    assert_eq!(
        ctl.ok(&["get", "pg/stdin", "--print-value-only"]).await,
        "a\u{1}b\nc\n"
    );
    assert_eq!(ctl.ok(&["get", "pg/none"]).await, "");
}

async fn get_in_every_way(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    for (key, value) in [
        ("a", "3"),
        ("b", "1"),
        ("c", "2"),
        ("b", "4"),
        ("d", ""),
        ("a", "0"),
    ] {
        ctl.ok(&["put", &format!("gw/{key}"), value]).await;
    }
    let header = ctl.ok(&["get", "gw/d", "-w=fields"]).await;
    let revision: i64 = header
        .lines()
        .find_map(|line| line.strip_prefix("\"Revision\" : ")?.parse().ok())
        .expect("a revision in the header");
    let old = format!("--rev={}", revision - 3);
    let future = format!("--rev={}", revision + 1000);

    let mut commands: Vec<Vec<&str>> = vec![
        vec!["get", "gw/a"],
        vec!["get", "gw/", "--prefix"],
        vec!["get", "gw/", "--prefix", "--keys-only"],
        vec!["get", "gw/", "--prefix", "--print-value-only"],
        vec!["get", "gw/", "--prefix", "--count-only", "-w=fields"],
        vec!["get", "gw/", "--prefix", "--limit=2", "-w=json"],
        vec!["get", "gw/b", "--from-key", "--limit=2"],
        vec!["get", "gw/a", "gw/c"],
        vec!["get", "gw/c", "gw/a"],
        vec!["get", "gw/", "--prefix", &old],
        vec!["get", "gw/", "--prefix", &future],
        vec!["get", "gw/", "--prefix", "--consistency=s"],
        vec!["get", "gw/", "--prefix", "-w=json"],
        vec!["get", "gw/", "--prefix", "-w=protobuf"],
        vec!["get", "gw/", "--prefix", "--hex"],
        vec!["get", ""],
        vec!["get", "gw/", "--prefix", "--order=ASCEND"],
        vec!["get", "gw/", "--prefix", "--order=DESCEND"],
        vec!["get", "gw/", "--prefix", "--order=SIDEWAYS"],
    ];
    for order in ["--order=ASCEND", "--order=DESCEND"] {
        for target in ["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"] {
            let sort = match target {
                "CREATE" => "--sort-by=CREATE",
                "KEY" => "--sort-by=KEY",
                "MODIFY" => "--sort-by=MODIFY",
                "VALUE" => "--sort-by=VALUE",
                _ => "--sort-by=VERSION",
            };
            commands.push(vec!["get", "gw/", "--prefix", order, sort]);
        }
    }
    for command in &commands {
        world.same(command).await;
    }
    // Not only alike: right.
    let sorted = [
        "get",
        "gw/",
        "--prefix",
        "--sort-by=VALUE",
        "--order=DESCEND",
        "--keys-only",
    ];
    assert_eq!(ctl.ok(&sorted).await, "gw/b\n\ngw/c\n\ngw/a\n\ngw/d\n\n");
    let failed = world.same(&["get", "gw/", "--prefix", &future]).await;
    assert_eq!(
        last_line(&failed),
        "Error: etcdserver: mvcc: required revision is a future revision"
    );
}

async fn put_options(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    let lease = crate::leases::grant(&ctl, 600).await;
    assert_eq!(
        ctl.ok(&["put", "po", "v", &format!("--lease={lease}")]).await,
        "OK\n"
    );
    assert_eq!(ctl.ok(&["put", "po", "w", "--ignore-lease"]).await, "OK\n");
    assert_eq!(ctl.ok(&["put", "po", "--ignore-value"]).await, "OK\n");
    assert_eq!(ctl.ok(&["get", "po"]).await, "po\nw\n");
    // The last put took the lease away; the one before had kept it.
    let json: serde_json::Value =
        serde_json::from_str(&ctl.ok(&["get", "po", "-w=json"]).await).expect("JSON");
    assert_eq!(json["kvs"][0].get("lease"), None, "{json}");
    assert_eq!(json["kvs"][0]["version"], 3, "{json}");

    world.same(&["put", "po", "v", "--lease=123456"]).await;
    world.same(&["put", "po/none", "--ignore-value"]).await;
    world.same(&["put", "", "v"]).await;
    let failed = world.same(&["put", "po", "v", "--lease=123456"]).await;
    assert_eq!(last_line(&failed), "Error: etcdserver: requested lease not found");
}

async fn del(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    for key in ["a", "b", "c", "d", "e"] {
        ctl.ok(&["put", &format!("del/{key}"), key]).await;
    }
    assert_eq!(ctl.ok(&["del", "del/a"]).await, "1\n");
    assert_eq!(ctl.ok(&["del", "del/a"]).await, "0\n");
    assert_eq!(ctl.ok(&["del", "del/b", "--prev-kv"]).await, "1\ndel/b\nb\n");
    assert_eq!(ctl.ok(&["del", "del/c", "del/d"]).await, "1\n");
    assert_eq!(ctl.ok(&["del", "del/", "--prefix"]).await, "2\n");
    assert_eq!(world.direct().ok(&["get", "del/", "--prefix"]).await, "");
    world.same(&["del", ""]).await;
}

async fn txn(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    ctl.ok(&["put", "txn/a", "1"]).await;
    let script = "value(\"txn/a\") = \"1\"\nmod(\"txn/a\") > \"0\"\n\n\
                  put txn/b \"2 2\"\nget txn/a\ndel txn/none\n\n\
                  put txn/c 3\n\n";
    let done = ctl.run_with_input(&["txn"], script).await;
    assert_eq!(done.stdout, "SUCCESS\n\nOK\n\ntxn/a\n1\n\n0\n", "{done:?}");
    assert_eq!(world.direct().ok(&["get", "txn/b"]).await, "txn/b\n2 2\n");

    let script = "version(\"txn/a\") = \"99\"\n\nput txn/d 1\n\nput txn/c 3\nget txn/c\n\n";
    let done = ctl.run_with_input(&["txn"], script).await;
    assert_eq!(done.stdout, "FAILURE\n\nOK\n\ntxn/c\n3\n", "{done:?}");
    assert_eq!(ctl.ok(&["get", "txn/d"]).await, "");

    let script = "\nput txn/e 1\nput txn/e 2\n\n\n";
    let (direct, proxied) = (world.direct(), world.proxied());
    let direct = direct.run_with_input(&["txn"], script).await;
    let proxied = proxied.run_with_input(&["txn"], script).await;
    assert_eq!(
        last_line(&proxied),
        "Error: etcdserver: duplicate key given in txn request"
    );
    assert_eq!(last_line(&direct), last_line(&proxied));
    assert_eq!(direct.code, proxied.code);
}

async fn compaction(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    ctl.ok(&["put", "comp", "1"]).await;
    let fields = ctl.ok(&["put", "comp", "2", "-w=fields"]).await;
    let revision: i64 = fields
        .lines()
        .find_map(|line| line.strip_prefix("\"Revision\" : ")?.parse().ok())
        .expect("a revision in the header");
    let compacted = ctl.ok(&["compaction", &revision.to_string(), "--physical"]).await;
    assert_eq!(compacted, format!("compacted revision {revision}\n"));
    let read = world
        .same(&["get", "comp", &format!("--rev={}", revision - 1)])
        .await;
    assert_eq!(
        last_line(&read),
        "Error: etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(
        ctl.ok(&["get", "comp", &format!("--rev={revision}")]).await,
        "comp\n2\n"
    );
    world.same(&["compaction", &revision.to_string()]).await;
    world.same(&["compaction", "999999999"]).await;
}
