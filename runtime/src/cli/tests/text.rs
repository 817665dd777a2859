//! Help, version and completions.

use super::stopped;
use crate::cli::flags::FLAGS;
use crate::cli::{Exit, render};

#[test]
fn help_and_usage() {
    let root = stopped(&["--help"], &[]);
    assert!(
        root.stdout.contains("Usage: etcd-proxy [COMMAND]"),
        "{}",
        root.stdout
    );
    for arguments in [&[][..], &["-h"], &["help"], &["help", "-h"]] {
        assert_eq!(stopped(arguments, &[]), root, "{arguments:?}");
    }
    assert_eq!((root.code, root.stderr.as_str()), (0, ""));

    let start = stopped(&["start", "--help"], &[]);
    assert_eq!((start.code, start.stderr.as_str()), (0, ""));
    for arguments in [
        &["start", "-h"][..],
        &["start", "--namespace=x", "-hh", "extra"],
        &["help", "start"],
        &["help", "grpc-proxy", "start"],
        &["grpc-proxy", "start", "--help"],
    ] {
        assert_eq!(stopped(arguments, &[]), start, "{arguments:?}");
    }
    for flag in FLAGS {
        assert!(
            start.stdout.contains(&format!("  --{}", flag.name)),
            "--{}",
            flag.name
        );
        assert!(
            start.stdout.contains(&format!("env: {}]", flag.variable())),
            "--{}",
            flag.name
        );
    }
    assert!(
        start
            .stdout
            .contains("[default: 2h0m0s, env: ETCD_PROXY_GRPC_KEEPALIVE_INTERVAL]")
    );
    assert!(start.stdout.lines().all(|line| line.chars().count() <= 100));

    assert_eq!(
        stopped(&["grpc-proxy"], &[]),
        stopped(&["help", "grpc-proxy"], &[])
    );
    assert_eq!(stopped(&["grpc-proxy"], &[]), stopped(&["grpc-proxy", "-h"], &[]));
    let exit = stopped(&["grpc-proxy", "--bogus", "start"], &[]);
    assert_eq!(
        (exit.code, exit.stderr.lines().next()),
        (1, Some("Error: unknown flag: --bogus"))
    );
    let exit = stopped(&["--bogus", "start"], &[]);
    assert_eq!(
        (exit.code, exit.stderr.lines().next()),
        (1, Some("Error: unknown flag: --bogus"))
    );
}

#[test]
fn version_and_completions() {
    let version = format!("etcd-proxy {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        stopped(&["version"], &[]),
        Exit {
            code: 0,
            stdout: version.clone(),
            stderr: String::new()
        }
    );
    assert_eq!(stopped(&["--version"], &[]).stdout, version);

    for shell in render::SHELLS.split(", ") {
        let exit = stopped(&["completion", shell], &[]);
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
        // fish writes long flags without their dashes.
        for flag in FLAGS {
            assert!(exit.stdout.contains(flag.name), "{shell}: --{}", flag.name);
        }
    }
    let exit = stopped(&["completion", "tcsh"], &[]);
    assert_eq!(exit.code, 1);
    assert!(
        exit.stderr.contains("bash, elvish, fish, powershell, zsh"),
        "{}",
        exit.stderr
    );
    assert_eq!(stopped(&["completion"], &[]).code, 1);
    assert_eq!(stopped(&["completion", "--help"], &[]).code, 0);
}
