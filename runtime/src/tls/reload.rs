//! When a file that has changed is taken, and when it is told that it can't be.

use core::time::Duration;
use std::time::Instant;

/// How long what is on the disk may be broken before it is told: files are written piece by piece, and a certificate comes
/// before its key or behind it.
const HALF_WRITTEN: Duration = Duration::from_secs(5);

/// What was read last, of files that are read again and again.
#[derive(Debug)]
pub(super) struct Rereader<C> {
    used: C,
    /// What was read last, if that can't be used.
    broken: Option<Broken<C>>,
}

#[derive(Debug)]
struct Broken<C> {
    read: Result<C, String>,
    why: String,
    since: Instant,
    is_told: bool,
}

/// What follows from what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<T> {
    /// Nothing.
    Same,
    /// This is to be used from now on.
    New(T),
    /// What was used before stays in use, and somebody must be told why.
    Broken(String),
}

impl<C: PartialEq + Clone> Rereader<C> {
    pub(super) fn new(used: C) -> Self {
        Self { used, broken: None }
    }

    /// Takes in what was read at a time; `build` makes of it what is used.
    pub(super) fn read<T>(
        &mut self,
        now: Instant,
        read: Result<C, String>,
        build: impl FnOnce(&C) -> Result<T, String>,
    ) -> Outcome<T> {
        if read.as_ref() == Ok(&self.used) {
            self.broken = None;
            return Outcome::Same;
        }
        if let Some(broken) = &mut self.broken
            && broken.read == read
        {
            if broken.is_told || now.saturating_duration_since(broken.since) < HALF_WRITTEN {
                return Outcome::Same;
            }
            broken.is_told = true;
            return Outcome::Broken(broken.why.clone());
        }
        let built = match &read {
            Ok(content) => build(content).map(|built| (built, content.clone())),
            Err(why) => Err(why.clone()),
        };
        match built {
            Ok((built, content)) => {
                self.used = content;
                self.broken = None;
                Outcome::New(built)
            }
            Err(why) => {
                self.broken = Some(Broken {
                    read,
                    why,
                    since: now,
                    is_told: false,
                });
                Outcome::Same
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(content: &u8) -> Result<u8, String> {
        if *content < 100 {
            Ok(*content)
        } else {
            Err(format!("{content} is broken"))
        }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_change_is_taken_once() {
        let start = Instant::now();
        let mut files = Rereader::new(1);
        assert_eq!(files.read(start, Ok(1), build), Outcome::Same);
        assert_eq!(files.read(start, Ok(2), build), Outcome::New(2));
        assert_eq!(files.read(start, Ok(2), build), Outcome::Same);
        assert_eq!(files.read(start, Ok(1), build), Outcome::New(1), "back again");
    }

    #[test]
    fn what_is_half_written_is_no_error_for_a_while() {
        let start = Instant::now();
        let mut files = Rereader::new(1);
        assert_eq!(files.read(start, Ok(100), build), Outcome::Same);
        assert_eq!(files.read(after(start, 4), Ok(100), build), Outcome::Same);
        assert_eq!(files.read(after(start, 4), Ok(2), build), Outcome::New(2));
        assert_eq!(files.read(after(start, 60), Ok(2), build), Outcome::Same);
    }

    #[test]
    fn what_stays_broken_is_told_once_for_each_change() {
        let start = Instant::now();
        let mut files = Rereader::new(1);
        assert_eq!(files.read(start, Ok(100), build), Outcome::Same);
        let told = files.read(after(start, 5), Ok(100), build);
        assert_eq!(told, Outcome::Broken("100 is broken".to_owned()));
        assert_eq!(files.read(after(start, 60), Ok(100), build), Outcome::Same);
        let gone = || Err("gone".to_owned());
        assert_eq!(files.read(after(start, 61), gone(), build), Outcome::Same);
        let told = files.read(after(start, 66), gone(), build);
        assert_eq!(told, Outcome::Broken("gone".to_owned()));
        assert_eq!(files.read(after(start, 67), gone(), build), Outcome::Same);
        assert_eq!(
            files.read(after(start, 68), Ok(1), build),
            Outcome::Same,
            "as it was"
        );
        assert_eq!(files.read(after(start, 69), Ok(100), build), Outcome::Same);
        let told = files.read(after(start, 74), Ok(100), build);
        assert_eq!(
            told,
            Outcome::Broken("100 is broken".to_owned()),
            "a change of its own"
        );
    }
}
