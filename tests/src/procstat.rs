//! What a process has used so far, read from `/proc` (Linux only).

use std::{fs, io, time::Duration};

/// CPU time and memory of a process at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProcStat {
    /// User and system time of all threads, ended ones too, in steps of 10 ms.
    pub cpu: Duration,
    /// Memory in RAM now (`VmRSS`), in KiB.
    pub rss_kib: u64,
    /// The most there ever was in RAM (`VmHWM`), in KiB.
    pub rss_peak_kib: u64,
}

impl ProcStat {
    /// Reads `/proc/PID/stat` and `/proc/PID/status`.
    ///
    /// # Errors
    /// When there is no such process, or it has ended and nobody waited for it yet.
    pub fn of(pid: u32) -> io::Result<Self> {
        let read = |file: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}"));
            text.map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let found = cpu(&stat).zip(kib(&status, "VmRSS:").zip(kib(&status, "VmHWM:")));
        let Some((cpu, (rss_kib, rss_peak_kib))) = found else {
            // A zombie has no memory lines.
            return Err(io::Error::other(format!("process {pid} has ended")));
        };
        Ok(Self {
            cpu,
            rss_kib,
            rss_peak_kib,
        })
    }
}

/// `utime` and `stime`, fields 14 and 15 of proc_pid_stat(5).
fn cpu(stat: &str) -> Option<Duration> {
    // Field 2 is the program's name in parentheses and may hold anything; field 3 follows it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(14 - 3);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * MILLIS_PER_TICK))
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

/// Linux tells CPU times to programs in hundredths of a second (`USER_HZ`) on every architecture
/// that etcd is built for.
const MILLIS_PER_TICK: u64 = 10;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn odd_names_do_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 11 0 0 0 250 31 5 6 20 0 9 0 100 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_millis(2810)));
        assert_eq!(cpu("7 (a) S 1"), None);
    }

    #[test]
    fn memory_lines() {
        let status = "Name:\tetcd\nVmHWM:\t   21404 kB\nVmRSS:\t    9000 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(9000));
        assert_eq!(kib(status, "VmHWM:"), Some(21404));
        assert_eq!(kib(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_spends_time_and_memory() {
        let pid = std::process::id();
        let before = ProcStat::of(pid).unwrap();
        let start = Instant::now();
        let mut spent = before;
        while spent.cpu == before.cpu {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "busy for 30 s and no CPU time"
            );
            spent = ProcStat::of(pid).unwrap();
        }
        assert!(spent.cpu > before.cpu);
        assert!(spent.rss_kib > 0 && spent.rss_peak_kib > 0);
    }

    #[test]
    fn no_such_process() {
        // Above the largest pid that Linux gives out (2^22).
        assert!(ProcStat::of(1 << 23).is_err());
    }
}
