//! A run of one seed, and what is said of one that fails.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::settings::Settings;
use crate::situations::Counts;
use crate::trace::Lines;
use crate::world::{FaultKind, World};

/// Lines of the trace that a failure shows.
const TAIL_LINES: usize = 60;

/// What is left of a run in which all went as it must.
#[derive(Clone, Debug)]
pub struct Passed {
    /// How often each situation came up.
    pub counts: Counts,
    /// A hash of all that happened.
    pub hash: u64,
}

/// A run in which something happened that must not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Kinds of faults that were left out.
    pub without: Vec<FaultKind>,
    /// What happened.
    pub what: String,
    /// The last lines of its trace.
    pub tail: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:#?}", Settings::without(self.seed, &self.without))?;
        writeln!(f, "the last lines of its trace:")?;
        for line in &self.tail {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "seed {} fails: {}", self.seed, self.what)?;
        write!(
            f,
            "replay it with: cargo run --profile ci -p etcd-proxy-sim -- --seed {} --trace",
            self.seed
        )?;
        for kind in &self.without {
            write!(f, " --without {}", kind.name())?;
        }
        Ok(())
    }
}

/// Runs a seed, without these kinds of faults.
///
/// # Errors
/// When something happens that must not.
pub fn run(seed: u64, without: &[FaultKind], lines: Lines) -> Result<Passed, Failure> {
    attempt(seed, without, lines).map_err(|what| {
        let tail = if lines == Lines::Off {
            tail(seed, without)
        } else {
            Vec::new()
        };
        let without = without.to_vec();
        Failure {
            seed,
            without,
            what,
            tail,
        }
    })
}

/// Runs a seed twice, and compares.
///
/// # Errors
/// When something happens that must not, or the two runs differ.
pub fn run_twice(seed: u64, without: &[FaultKind]) -> Result<Passed, Failure> {
    let first = run(seed, without, Lines::Off)?;
    let second = run(seed, without, Lines::Off)?;
    if first.hash == second.hash {
        Ok(first)
    } else {
        Err(Failure {
            seed,
            without: without.to_vec(),
            what: format!("two runs differ: {:x} and {:x}", first.hash, second.hash),
            tail: Vec::new(),
        })
    }
}

fn attempt(seed: u64, without: &[FaultKind], lines: Lines) -> Result<Passed, String> {
    caught(|| {
        let mut world = World::new(Settings::without(seed, without), lines);
        world.live();
        Passed {
            counts: world.counts().clone(),
            hash: world.hash(),
        }
    })
}

/// The end of the trace of a run that fails.
fn tail(seed: u64, without: &[FaultKind]) -> Vec<String> {
    let mut world = None;
    let _ = caught(|| {
        let settings = Settings::without(seed, without);
        world.insert(World::new(settings, Lines::Tail(TAIL_LINES))).live();
    });
    world.map(World::into_tail).unwrap_or_default()
}

thread_local! {
    /// What the last panic on this thread said, while it is to be kept quiet.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs something that may panic, and gives what the panic said instead of printing it.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if QUIET.with_borrow(|quiet| *quiet) {
                PANIC.set(Some(panic.to_string()));
            } else {
                usual(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(before);
    result.map_err(|_| {
        PANIC
            .take()
            .unwrap_or_else(|| "a panic that says nothing".to_owned())
    })
}
