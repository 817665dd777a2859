//! The model against a real etcd.
//!
//! Generated programs run on both, and everything they say is compared: answers field by field, statuses with
//! their messages, revisions, watch responses. What isn't compared, and what isn't called, is printed at the end,
//! with a table of what was done; what should have happened and did not is a failure.
//!
//! `MODEL_OPS`: how many operations, 14,000 unless set. `MODEL_SEED`: the first seed, 0 unless set; a failure names
//! the seed of its program, which runs alone with `MODEL_SEED=that MODEL_OPS=1`.

mod calls;
mod counts;

mod generate;
mod lanes;
mod model_side;
mod normal;
mod program;
mod real_side;
mod reduce;
mod report;
mod run;
mod scenes;
mod sides;

use std::{env, ops::Range, process};

use counts::Counts;
use etcd_proxy_tests::suite::{self, trial};
use libtest_mimic::Trial;
use run::Stop;

/// Programs in one test. A test must end within three minutes, with time left for making a failure shorter.
const PROGRAMS_PER_TEST: u64 = 10;

/// For CI: every kind of program several times, in half a minute.
const DEFAULT_OPS: u64 = 14_000;

/// What programs have on an average; see [`generate`].
const MEAN_OPS: u64 = 700;

fn main() {
    let first = setting("MODEL_SEED").unwrap_or(0);
    let ops = setting("MODEL_OPS").unwrap_or(DEFAULT_OPS);
    let end = first + ops.div_ceil(MEAN_OPS);
    let mut trials: Vec<Trial> = (first..end)
        .step_by(usize::try_from(PROGRAMS_PER_TEST).expect("small"))
        .map(|start| start..(start + PROGRAMS_PER_TEST).min(end))
        .map(|seeds| {
            let name = format!("programs_{}_to_{}", seeds.start, seeds.end - 1);
            trial(&name, move || programs(seeds))
        })
        .collect();
    trials.extend(scenes::trials());
    suite::main(2, trials, move || finish(end - first));
}

fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// Runs the programs of some seeds, one after the other.
async fn programs(seeds: Range<u64>) {
    for seed in seeds {
        let program = generate::program(seed);
        let mut slow = 0;
        let mut differences = Vec::new();
        loop {
            let mut counts = Counts::new();
            match run::run(&program, &mut counts).await {
                Ok(()) => {
                    counts.record(
                        differences
                            .into_iter()
                            .map(|(_, text)| format!("seed {seed}: {text}")),
                    );
                    break;
                }
                Err(Stop::TooSlow) => {
                    slow += 1;
                    assert!(
                        slow < 5,
                        "seed {seed}: this machine is too slow for leases of 2 s"
                    );
                }
                Err(Stop::Difference { at, text }) => {
                    differences.push((at, text.clone()));
                    if differences.len() == ATTEMPTS {
                        fail(program, at, text).await;
                    }
                }
            }
        }
    }
}

/// The model gives the same answers each time, a real etcd does not quite: a 3.5 server may decide about permissions
/// by a user's record from before the last change, depending on when it writes to its file (every 100 ms). So the
/// model is right if it says what a real etcd says in one of this many runs of a program. Each run that went another
/// way is told in the report, and there must be few.
const ATTEMPTS: usize = 3;

/// One run in so many may go another way than the model and a second run.
const PROGRAMS_PER_ODD_RUN: usize = 25;

async fn fail(program: program::Program, at: usize, text: String) -> ! {
    let (seed, kind, pace) = (program.seed, program.kind, program.pace);
    let op = program
        .ops
        .get(at)
        .map_or_else(|| "the end".to_owned(), |op| format!("{op:?}"));
    let (short, short_text) = reduce::reduce(program, at, text.clone()).await;
    let ops: Vec<String> = short
        .ops
        .iter()
        .map(|op| format!("    {:.1000}", brief(&format!("{op:?}"))))
        .collect();
    let report = format!(
        "seed {seed} ({kind:?}, {pace:?}), operation {at}:\n  {op}\n{text}\n\
         shorter, {} operations:\n{}\n{short_text}",
        ops.len(),
        ops.join("\n"),
    );
    panic!("{}", brief(&report));
}

/// The text with what is repeated in it (large values) cut down.
fn brief(text: &str) -> String {
    const LENGTH: usize = 8;
    let mut brief = String::new();
    let mut run = (' ', 0);
    for character in text.chars() {
        run = if character == run.0 {
            (character, run.1 + 1)
        } else {
            (character, 1)
        };
        if run.1 <= LENGTH {
            brief.push(character);
        } else if run.1 == LENGTH + 1 {
            brief.push('~');
        }
    }
    brief
}

/// The table. Fails the process if something is missing in it, provided that all programs ran.
fn finish(programs: u64) {
    let counts = Counts::total();
    if counts.programs == 0 {
        return;
    }
    let mut missing = report::report(&counts);
    if counts.odd_runs.len() > 1 + counts.programs / PROGRAMS_PER_ODD_RUN {
        missing.push("agreement at the first attempt: too many runs of the real etcd were odd".to_owned());
    }
    if counts.programs as u64 == programs && programs * MEAN_OPS >= DEFAULT_OPS && !missing.is_empty() {
        println!("\nwhat the programs should have met:\n{}", missing.join("\n"));
        process::exit(1);
    }
}
