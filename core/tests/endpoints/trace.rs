//! A record of a run: always its hash, its lines only when they are asked for.

use std::fmt::{self, Write};

/// FNV-1a over all lines; the lines themselves go to stderr when the run is a replay.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            print,
        }
    }

    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) {
        if self.print {
            eprintln!("{line}");
        }
        let _ = writeln!(self, "{line}");
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}
