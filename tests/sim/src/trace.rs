//! A record of a run: always its hash, its lines only when they are asked for.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};

use etcd_proxy_core::time::Instant;

/// What becomes of the lines of a trace. They cost most of a run's time, so a run that fails is run again for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lines {
    /// They are never made.
    #[default]
    Off,
    /// The last ones are kept, this many.
    Tail(usize),
    /// They go to standard output as they come.
    Print,
}

#[derive(Debug)]
pub(crate) struct Trace {
    hash: Mix,
    lines: Lines,
    tail: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(lines: Lines) -> Self {
        Self {
            hash: Mix(0x9e37_79b9_7f4a_7c15),
            lines,
            tail: VecDeque::new(),
        }
    }

    /// Takes something into the hash, and makes a line of it.
    pub(crate) fn note(&mut self, now: Instant, what: &(impl Hash + fmt::Debug)) {
        now.hash(&mut self.hash);
        what.hash(&mut self.hash);
        if self.lines != Lines::Off {
            self.line(format!("{now:?}  {what:?}"));
        }
    }

    /// Makes a line of something that follows from what was noted before.
    pub(crate) fn remark(&mut self, now: Instant, what: fmt::Arguments<'_>) {
        if self.lines != Lines::Off {
            self.line(format!("{now:?}      {what}"));
        }
    }

    fn line(&mut self, line: String) {
        match self.lines {
            Lines::Off => {}
            Lines::Print => println!("{line}"),
            Lines::Tail(max) => {
                self.tail.push_back(line);
                if self.tail.len() > max {
                    self.tail.pop_front();
                }
            }
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.0
    }

    pub(crate) fn into_tail(self) -> Vec<String> {
        self.tail.into()
    }
}

/// A fast hash that is the same in every process. Nobody attacks it.
#[derive(Debug)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9fb2_1c65_1e98_df25);
        self.0 ^= self.0 >> 32;
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
