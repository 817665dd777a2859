use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::{debug, error, info, trace, warn};

use super::*;

#[test]
fn fields_keep_their_types() {
    let lines = logged(Level::Info, || {
        info!(
            logger = "proxy",
            text = "a\"b",
            shown = %"c",
            debugged = ?Some(1),
            yes = true,
            small = -3_i8,
            large = u64::MAX,
            huge = u128::MAX,
            half = 0.5,
            endless = f64::INFINITY,
            nothing = f64::NAN,
            error = &fmt_error() as &dyn std::error::Error,
            "hello {}",
            "world"
        );
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let object: Value = serde_json::from_str(line).unwrap();
    assert_eq!(object["level"], "info");
    assert_eq!(object["logger"], "proxy");
    assert_eq!(object["msg"], "hello world");
    assert_eq!(
        (&object["text"], &object["shown"], &object["debugged"]),
        (&"a\"b".into(), &"c".into(), &"Some(1)".into())
    );
    assert_eq!(
        (&object["yes"], &object["small"], &object["large"]),
        (&true.into(), &(-3).into(), &u64::MAX.into())
    );
    assert_eq!(
        (&object["half"], &object["endless"], &object["nothing"]),
        (&0.5.into(), &"+Inf".into(), &"NaN".into())
    );
    assert!(line.contains(&format!("\"huge\":{}", u128::MAX)), "{line}");
    assert_eq!(object["error"], fmt_error().to_string());
    let caller = object["caller"].as_str().unwrap();
    assert!(caller.starts_with("runtime/src/logging/tests.rs:"), "{caller}");
    assert_eq!(
        object["ts"].as_str().unwrap().len(),
        "2026-01-02T03:04:05.123456Z".len()
    );
}

#[test]
fn levels() {
    let all = || {
        trace!("trace");
        debug!("debug");
        info!("info");
        warn!("warn");
        error!("error");
    };
    for (level, expected) in [
        (Level::Debug, &["debug", "info", "warn", "error"][..]),
        (Level::Info, &["info", "warn", "error"]),
        (Level::Warn, &["warn", "error"]),
        (Level::Error, &["error"]),
    ] {
        let levels: Vec<_> = logged(level, all)
            .iter()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["level"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(levels, expected, "{level:?}");
    }
}

#[test]
fn what_is_not_logged_is_not_evaluated() {
    let lines = logged(Level::Info, || {
        debug!(value = %evaluated(), "x");
    });
    assert!(lines.is_empty());
}

#[test]
fn libraries_log_from_warn_up() {
    let lines = logged(Level::Debug, || {
        info!(target: "h2::codec", "frame");
        warn!(target: "h2::codec", "odd frame");
        debug!(target: "etcd_proxy_core::endpoints", "ours");
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("odd frame") && lines[1].contains("ours"));
}

#[test]
fn spans_change_nothing() {
    let lines = logged(Level::Debug, || {
        let _entered = tracing::error_span!("span", a = 1).entered();
        info!("inside");
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn a_flood_is_limited() {
    let lines = logged(Level::Info, || {
        for number in 0..100_000 {
            info!(number, "flood");
        }
        info!("another callsite");
    });
    // Each second that this took let a hundred and every hundredth through.
    let flood = lines.iter().filter(|line| line.contains("flood")).count();
    assert!((100 + 999..50_000).contains(&flood), "{flood} lines");
    assert!(lines.last().unwrap().contains("another callsite"));
}

/// [`init`] is for a whole process, so it is tried in one of its own.
#[test]
fn a_process_logs_to_standard_error() {
    let output = child(Stdio::piped());
    let lines = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let [first, panic, last] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(
        (&first["level"], &first["msg"]),
        (&"info".into(), &"before".into())
    );
    assert_eq!(
        (&panic["level"], &panic["msg"]),
        (&"error".into(), &"panic: on\npurpose".into())
    );
    assert_eq!(panic["thread"], "worker");
    let caller = panic["caller"].as_str().unwrap();
    assert!(caller.starts_with("runtime/src/logging/tests.rs:"), "{caller}");
    assert_eq!((&last["level"], &last["msg"]), (&"warn".into(), &"after".into()));
}

#[test]
fn a_closed_standard_error_is_no_trouble() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    child(writer.into());
}

#[test]
#[ignore = "run by the tests above, in a process of its own"]
fn in_a_process_of_its_own() {
    init(Format::Json, Level::Info).unwrap();
    assert_eq!(init(Format::Console, Level::Debug), Err(AlreadySet));
    info!("before");
    debug!("hidden");
    let worker = std::thread::Builder::new()
        .name("worker".into())
        .spawn(|| panic!("on\npurpose"))
        .unwrap();
    worker.join().unwrap_err();
    warn!("after");
}

/// Runs the test above in another process, to its successful end.
fn child(stderr: Stdio) -> Output {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "logging::tests::in_a_process_of_its_own"])
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
        .stderr(stderr)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{output:?}"
    );
    output
}

fn evaluated() -> &'static str {
    panic!("evaluated")
}

fn fmt_error() -> std::io::Error {
    std::io::Error::other("broken")
}

/// Lines that the code logs in this thread.
fn logged(level: Level, code: impl FnOnce()) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let log = Log::new(Format::Json, level, move |line: &[u8]| {
        let line = String::from_utf8(line.to_vec()).unwrap();
        assert!(line.ends_with('\n'));
        sink.lock().unwrap().push(line);
    });
    tracing::subscriber::with_default(log, code);
    Arc::try_unwrap(lines).unwrap().into_inner().unwrap()
}
