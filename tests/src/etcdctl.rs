//! Real `etcdctl` and `etcdutl`.

use std::{path::PathBuf, time::Duration};

use crate::{
    etcd::bin_dir,
    everywhere::everywhere,
    process::{Output, Process, run},
};

/// No command of these tests needs longer; one that hangs is killed and its test fails.
const LIMIT: Duration = Duration::from_secs(30);

/// `etcdctl` against one address.
#[derive(Clone, Debug)]
pub struct Etcdctl {
    address: String,
    flags: Vec<String>,
    user: Option<String>,
}

impl Etcdctl {
    /// For `host:port`.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            flags: Vec::new(),
            user: None,
        }
    }

    /// The same with more flags of its own.
    #[must_use]
    pub fn flags(&self, flags: &[String]) -> Self {
        Self {
            flags: flags.to_vec(),
            ..self.clone()
        }
    }

    /// The same with `--user=NAME:PASSWORD`.
    #[must_use]
    pub fn user(&self, user: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            ..self.clone()
        }
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let mut all = match everywhere() {
            Some(everywhere) => everywhere.etcdctl(&self.address),
            None => Vec::new(),
        };
        let scheme = if all.is_empty() { "" } else { "https://" };
        all.push(format!("--endpoints={scheme}{}", self.address));
        all.extend(self.flags.iter().cloned());
        all.extend(self.user.iter().map(|user| format!("--user={user}")));
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        all
    }

    /// Runs it to its end with an empty input.
    ///
    /// # Panics
    /// If it can't be started.
    pub async fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, "").await
    }

    /// Runs it to its end with `input` on standard input.
    ///
    /// # Panics
    /// If it can't be started.
    pub async fn run_with_input(&self, args: &[&str], input: &str) -> Output {
        let (args, input) = (self.args(args), input.to_owned());
        let program = bin_dir().join("etcdctl");
        let env = [("ETCDCTL_API", "3")];
        tokio::task::spawn_blocking(move || run(&program, &args, &env, &input, LIMIT))
            .await
            .expect("etcdctl runs")
    }

    /// Runs it and gives its standard output.
    ///
    /// # Panics
    /// If it fails; the message has everything it printed.
    pub async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.is_ok(), "etcdctl {}: {output:?}", args.join(" "));
        output.stdout
    }

    /// Starts it and lets it run, its output going to `log`.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn start(&self, args: &[&str], log: &std::path::Path) -> Process {
        let name = format!("etcdctl {}", args.join(" "));
        let program = bin_dir().join("etcdctl");
        let env = [("ETCDCTL_API", "3")];
        Process::start_with_env(&name, &program, &self.args(args), &env, log)
    }
}

/// Runs `etcdutl` and gives its standard output.
///
/// # Panics
/// If it can't be started or fails.
pub async fn etcdutl(args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let program: PathBuf = bin_dir().join("etcdutl");
    let output = tokio::task::spawn_blocking(move || run(&program, &args, &[], "", LIMIT))
        .await
        .expect("etcdutl runs");
    assert!(output.is_ok(), "etcdutl: {output:?}");
    output.stdout
}
