//! Real `etcdctl` through the proxy: every command works, and prints what it prints without a proxy.

mod access;
mod cluster;
mod kv;
mod leases;
mod watches;

use std::{sync::Arc, time::Duration};

use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    etcdctl::Etcdctl,
    process::Output,
    proxy::Proxy,
    suite::{self, trial},
};
use libtest_mimic::Trial;
use tokio::sync::OnceCell;

/// How long something that needs no waiting on etcd's side may take on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// One member with a proxy in front of it.
struct World {
    cluster: Cluster,
    proxy: Proxy,
}

impl World {
    async fn start() -> Self {
        let options = Options::default().flag("--experimental-watch-progress-notify-interval=1s");
        let cluster = Cluster::start(options).await;
        let proxy = Proxy::start(&cluster.endpoints(), &[]).await;
        Self { cluster, proxy }
    }

    /// Through the proxy.
    fn proxied(&self) -> Etcdctl {
        Etcdctl::new(self.proxy.address())
    }

    /// Without it.
    fn direct(&self) -> Etcdctl {
        Etcdctl::new(&self.cluster.address(0))
    }

    /// Asserts that a command which changes nothing ends alike with and without the proxy.
    /// `user` is `NAME:PASSWORD`, or empty.
    async fn same_as(&self, user: &str, args: &[&str]) -> Output {
        let (direct, proxied) = match user {
            "" => (self.direct(), self.proxied()),
            user => (self.direct().user(user), self.proxied().user(user)),
        };
        let direct = direct.run(args).await;
        let proxied = proxied.run(args).await;
        let command = args.join(" ");
        assert_eq!(direct.stdout, proxied.stdout, "standard output of {command}");
        assert_eq!(last_line(&direct), last_line(&proxied), "error of {command}");
        assert_eq!(direct.code, proxied.code, "exit code of {command}");
        proxied
    }

    async fn same(&self, args: &[&str]) -> Output {
        self.same_as("", args).await
    }
}

/// The error that etcdctl ends with. The lines before it are logs with addresses and times.
fn last_line(output: &Output) -> &str {
    output.stderr.lines().last().unwrap_or_default()
}

type Shared = Arc<OnceCell<World>>;

/// A test on the member that all such tests share; its keys start with the test's name.
fn shared<F, Fut>(world: &Shared, name: &'static str, test: F) -> Trial
where
    F: FnOnce(Shared) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let world = Arc::clone(world);
    trial(name, async move || {
        world.get_or_init(World::start).await;
        test(world).await;
    })
}

fn main() {
    let world = Shared::default();
    let mut trials = Vec::new();
    trials.extend(kv::trials(&world));
    trials.extend(watches::trials(&world));
    trials.extend(leases::trials(&world));
    trials.extend(cluster::trials(&world));
    trials.extend(access::trials());
    suite::main(1, trials, move || drop(world));
}

/// The world of a test that was started by [`shared`].
fn world(shared: &Shared) -> &World {
    shared.get().expect("initialised before the test")
}
