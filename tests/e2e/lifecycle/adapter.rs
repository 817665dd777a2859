//! Which runtime is in the binary: tokio's in `etcd-proxy`, and nothing of it in `etcd-proxy-async-std`.

use std::{fs, time::Duration};

use etcd_proxy_tests::{
    proxy::{Proxy, binary},
    suite::{eventually, trial},
};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("symbols_of_the_runtime", symbols),
        trial("threads_of_the_runtime", threads),
    ]
}

/// Parts of mangled names: modules that exist only where tokio's features `rt`, `net` and `time` are on.
const TOKIO_MODULES: [&str; 5] = [
    "5tokio7runtime9scheduler",
    "5tokio7runtime2io",
    "5tokio7runtime4time",
    "5tokio3net3tcp",
    "5tokio4time",
];

fn is_async_std() -> bool {
    let path = binary();
    let name = path.file_name().expect("a binary has a name").to_string_lossy();
    name.contains("async-std")
}

async fn symbols() {
    let image = fs::read(binary()).expect("read the binary");
    let has = |text: &str| memchr::memmem::find(&image, text.as_bytes()).is_some();
    assert!(
        has("5tokio4sync"),
        "the binary has lost its symbols: this test would see nothing"
    );
    for module in TOKIO_MODULES {
        assert_eq!(
            has(module),
            !is_async_std(),
            "{module}; was the binary built alone, with `cargo build -p`?"
        );
    }
    assert_eq!(has("8async_io7reactor"), is_async_std());
}

/// Resolving a name takes a thread of the runtime's own in both.
async fn threads() {
    let mut proxy = Proxy::start(&["localhost:1".to_owned()], &[]).await;
    let tasks = format!("/proc/{}/task", proxy.process().pid());
    let names = || -> Vec<String> {
        let threads = fs::read_dir(&tasks).expect("threads of the proxy").flatten();
        // A thread may end meanwhile.
        threads
            .filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok())
            .collect()
    };
    let wanted = if is_async_std() { "blocking" } else { "tokio" };
    let what = format!("a thread named {wanted}");
    let seen = eventually(&what, Duration::from_secs(10), async || {
        let names = names();
        names.iter().any(|name| name.starts_with(wanted)).then_some(names)
    })
    .await;
    let workers = seen.iter().filter(|name| name.starts_with("worker-")).count();
    let cores = std::thread::available_parallelism()
        .expect("number of cores")
        .get();
    assert_eq!(workers, cores, "{seen:?}");
    if is_async_std() {
        assert!(!seen.iter().any(|name| name.contains("tokio")), "{seen:?}");
        // The threads of async-std's global executor would take the reactor away from the workers.
        assert!(!seen.iter().any(|name| name.starts_with("async-std")), "{seen:?}");
    }
    proxy.assert_sound();
}
