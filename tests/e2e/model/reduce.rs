//! Makes a program that shows a difference shorter.

use std::time::{Duration, Instant};

use crate::{
    counts::Counts,
    program::Program,
    run::{Stop, run},
};

/// Every attempt is a fresh etcd; a test must end within three minutes.
const LIMIT: Duration = Duration::from_secs(90);

/// Drops operations as long as some difference stays, which need not be the first one. Gives the program and
/// what it shows.
pub(crate) async fn reduce(mut program: Program, mut at: usize, mut text: String) -> (Program, String) {
    let began = Instant::now();
    program.ops.truncate(at + 1);
    let mut chunk = program.ops.len().div_ceil(2);
    loop {
        let mut dropped = false;
        // From the end: what is just before a difference has more to do with it.
        let mut end = program.ops.len();
        while end > 0 {
            if began.elapsed() > LIMIT {
                return (program, text);
            }
            let start = end.saturating_sub(chunk);
            let mut shorter = program.clone();
            shorter.ops.drain(start..end);
            if let Err(Stop::Difference {
                at: new_at,
                text: new_text,
            }) = run(&shorter, &mut Counts::new()).await
            {
                at = new_at;
                text = new_text;
                program = shorter;
                program.ops.truncate(at + 1);
                dropped = true;
            }
            end = start.min(program.ops.len());
        }
        if chunk == 1 && !dropped {
            return (program, text);
        }
        chunk = chunk.div_ceil(2).max(1);
    }
}
