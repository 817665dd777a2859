//! The table at the end, and what must be in it.

use std::{collections::BTreeSet, fmt::Write};

use etcd_proxy_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::{
    calls,
    counts::{Counts, Kind},
    normal::NOT_COMPARED,
    run::{KEEP_ALIVE, WATCH},
    scenes::HEALTH,
};

/// Prints what was done. Gives what should have happened and did not.
pub(crate) fn report(counts: &Counts) -> Vec<String> {
    println!("\n{}", table(counts));
    let mut missing = Vec::new();
    for (name, succeeds, fails) in KINDS {
        let none = Kind::default();
        let kind = counts.kinds.get(name).unwrap_or(&none);
        if succeeds && kind.succeeded == 0 {
            missing.push(format!("no {name} succeeded"));
        }
        if fails && kind.failures() == 0 {
            missing.push(format!("no {name} failed"));
        }
    }
    for name in counts.kinds.keys() {
        if !KINDS.iter().any(|(known, ..)| known == name) {
            missing.push(format!("{name} is in no list of what must happen"));
        }
    }
    for (situation, count) in &counts.situations {
        if *count == 0 {
            missing.push(format!("it never happened: {situation}"));
        }
    }
    for message in MESSAGES {
        let mut kinds = counts.kinds.values();
        if !kinds.any(|kind| kind.failed.contains_key(message)) {
            missing.push(format!("nothing failed with: {message}"));
        }
    }
    missing
}

fn table(counts: &Counts) -> String {
    let mut table = format!(
        "{} programs, {} operations on the model and on a real etcd\n\n",
        counts.programs,
        counts.operations()
    );
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(table, "{text}").expect("a String takes it");
    line(format_args!(
        "{:24} {:>9} {:>9}",
        "operation", "succeeded", "failed"
    ));
    for (name, kind) in &counts.kinds {
        let failures = kind.failures();
        line(format_args!("{name:24} {:9} {failures:9}", kind.succeeded));
        for (message, count) in &kind.failed {
            line(format_args!("{:34} {count:9}  {message}", ""));
        }
    }
    line(format_args!("\nsituation"));
    for (situation, count) in &counts.situations {
        line(format_args!("{situation:44} {count:9}"));
    }
    if !counts.odd_runs.is_empty() {
        line(format_args!("\nonly in one of several runs of the real etcd"));
        for text in &counts.odd_runs {
            line(format_args!("{text:.2000}"));
        }
    }
    line(format_args!("\nnot compared"));
    for (what, how) in NOT_COMPARED {
        line(format_args!("{what}: {how}"));
    }
    line(format_args!("\nnot called"));
    for path in not_called() {
        line(format_args!("{path}"));
    }
    table
}

/// Methods of the API that no program calls.
fn not_called() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the compiler's own output");
    let mut paths = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.insert(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    for called in calls::PATHS.iter().chain(&[WATCH, KEEP_ALIVE, HEALTH]) {
        assert!(paths.remove(*called), "{called} is no method");
    }
    paths
}

/// Kinds of operations, whether some must succeed, and whether some must fail.
const KINDS: [(&str, bool, bool); 40] = [
    ("Alarm", true, true),
    ("AuthDisable", true, true),
    ("AuthEnable", true, true),
    ("AuthStatus", true, true),
    ("Authenticate", true, true),
    ("Compact", true, true),
    ("Defragment", true, true),
    ("DeleteRange", true, true),
    ("HashKV", true, true),
    ("LeaseGrant", true, true),
    ("LeaseKeepAlive", true, true),
    ("LeaseLeases", true, true),
    ("LeaseRevoke", true, true),
    ("LeaseTimeToLive", true, true),
    ("MemberList", true, true),
    ("MoveLeader", true, true),
    ("Put", true, true),
    ("Range", true, true),
    ("RoleAdd", true, true),
    ("RoleDelete", true, true),
    ("RoleGet", true, true),
    ("RoleGrantPermission", true, true),
    ("RoleList", true, true),
    ("RoleRevokePermission", true, true),
    ("Status", true, true),
    ("Txn", true, true),
    ("UserAdd", true, true),
    ("UserChangePassword", true, true),
    ("UserDelete", true, true),
    ("UserGet", true, true),
    ("UserGrantRole", true, true),
    ("UserList", true, true),
    ("UserRevokeRole", true, true),
    ("watch cancel", true, false),
    ("watch close", true, false),
    ("watch create", true, true),
    ("watch half-close", true, false),
    ("watch nothing", true, false),
    ("watch open", true, false),
    ("watch progress", true, false),
];

/// Messages that failures must have had.
const MESSAGES: [&str; 8] = [
    "etcdserver: duplicate key given in txn request",
    "etcdserver: key is not provided",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
    "etcdserver: permission denied",
    "etcdserver: requested lease not found",
    "etcdserver: too large lease TTL",
    "etcdserver: too many operations in txn request",
];
