//! Runs many seeds, or one with its trace.

use std::io::{IsTerminal as _, Write as _};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use etcd_proxy_sim::{Counts, Failure, FaultKind, Lines, Settings, run, run_twice};

/// From this many seeds on every situation must have come up.
const SEEDS_FOR_ALL: u64 = 500;

/// Failures after which no more seeds are run.
const FAILURES_MAX: usize = 20;

#[derive(Debug, Parser)]
#[command(
    name = "sim",
    about = "The proxy's core in a simulated world, many seeds or one."
)]
struct Args {
    /// How many seeds to run, each twice: both runs must be the same.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Threads; as many as there are processors if it isn't given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Run this one seed only.
    #[arg(long, conflicts_with_all = ["seeds", "start", "jobs"])]
    seed: Option<u64>,
    /// Print all that happens in it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Kinds of faults to leave out: History, say, or Kill. Seeds are others without any but History.
    #[arg(long, value_parser = FaultKind::of_name)]
    without: Vec<FaultKind>,
    /// Run each seed once only: twice as many in the same time.
    #[arg(long)]
    once: bool,
    /// Go on after failures, and only count them.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => one(seed, &args.without, args.trace),
        None => many(&args),
    }
}

fn one(seed: u64, without: &[FaultKind], trace: bool) -> ExitCode {
    println!("{:#?}", Settings::without(seed, without));
    let lines = if trace { Lines::Print } else { Lines::Off };
    match run(seed, without, lines) {
        Ok(passed) => {
            println!(
                "{}seed {seed} passes, hash {:016x}",
                passed.counts.report(),
                passed.hash
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Default)]
struct Sum {
    counts: Counts,
    failures: Vec<Failure>,
    failed: u64,
    passed: u64,
}

fn many(args: &Args) -> ExitCode {
    let jobs = args
        .jobs
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZero::get);
    let next = AtomicU64::new(args.start);
    let end = args.start.saturating_add(args.seeds);
    let sum = Mutex::new(Sum::default());
    let began = Instant::now();
    let lock = || sum.lock().expect("nobody panics while holding it");
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let result = if args.once {
                        run(seed, &args.without, Lines::Off)
                    } else {
                        run_twice(seed, &args.without)
                    };
                    let mut sum = lock();
                    match result {
                        Ok(passed) => {
                            sum.passed += 1;
                            sum.counts.merge(&passed.counts);
                        }
                        Err(failure) => {
                            sum.failed += 1;
                            if sum.failures.len() < FAILURES_MAX {
                                sum.failures.push(failure);
                            } else if !args.keep_going {
                                next.store(end, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
        show_progress(args.seeds, began, || {
            let sum = lock();
            let over = sum.passed + sum.failed >= args.seeds || next.load(Ordering::Relaxed) >= end;
            (sum.passed + sum.failed, sum.failed, over)
        });
    });
    let sum = sum.into_inner().expect("nobody panics while holding it");
    report(args, &sum, began.elapsed())
}

fn report(args: &Args, sum: &Sum, took: Duration) -> ExitCode {
    if let Some(first) = sum.failures.iter().min_by_key(|failure| failure.seed) {
        println!("{first}\n");
        for failure in &sum.failures {
            let line = failure.what.lines().nth(1).unwrap_or(&failure.what);
            println!(
                "seed {}: {}",
                failure.seed,
                line.chars().take(160).collect::<String>()
            );
        }
    }
    print!("{}", sum.counts.report());
    println!(
        "{} seeds passed and {} failed in {:.1} s, each run {} ({:.0} seeds/s)",
        sum.passed,
        sum.failed,
        took.as_secs_f64(),
        if args.once { "once" } else { "twice" },
        (sum.passed + sum.failed) as f64 / took.as_secs_f64()
    );
    let missing: Vec<&str> = sum.counts.missing().map(|situation| situation.text()).collect();
    if sum.failed > 0 {
        return ExitCode::FAILURE;
    }
    if args.seeds >= SEEDS_FOR_ALL && args.without.is_empty() && !missing.is_empty() {
        println!("never came up: {missing:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// One line that says how far it is, on a terminal.
fn show_progress(seeds: u64, began: Instant, state: impl Fn() -> (u64, u64, bool)) {
    let mut err = std::io::stderr();
    if !err.is_terminal() {
        return;
    }
    const WIDTH: u64 = 40;
    loop {
        let (done, failed, over) = state();
        let filled = done * WIDTH / seeds.max(1);
        let bar: String = (0..WIDTH).map(|at| if at < filled { '#' } else { '.' }).collect();
        let rate = done as f64 / began.elapsed().as_secs_f64().max(0.001);
        let _ = write!(
            err,
            "\r[{bar}] {done}/{seeds} seeds, {failed} failed, {rate:.0}/s "
        );
        let _ = err.flush();
        if over {
            let _ = writeln!(err);
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
