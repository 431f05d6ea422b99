//! What the kernel says of a process: memory, threads, processor time.

use std::fs;
use std::time::Duration;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pages that are in memory, in bytes.
    pub resident: u64,
    /// Anonymous memory, in bytes: what is in memory and what was swapped out.
    pub anonymous: u64,
    /// Shared memory that no file on a disk backs, in bytes: regions, and what it may have made itself.
    pub shared: u64,
    /// Threads.
    pub threads: u64,
    /// Processor time of all its threads, those that ended included.
    pub cpu: Duration,
}

/// What the process uses now; `None` once it has ended.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&status, &stat, rustix::param::clock_ticks_per_second())
}

fn parse(status: &str, stat: &str, ticks_per_second: u64) -> Option<Usage> {
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    // A process that has ended and was not reaped has no memory any more.
    let kibibytes = |key| number(key).map(|kibibytes| kibibytes << 10);
    // Behind the name, which is in parentheses and may contain anything.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = ticks(11)?.saturating_add(ticks(12)?);
    Some(Usage {
        resident: kibibytes("VmRSS")?,
        anonymous: kibibytes("RssAnon")?.saturating_add(kibibytes("VmSwap").unwrap_or(0)),
        shared: kibibytes("RssShmem").unwrap_or(0),
        threads: number("Threads")?,
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_understood() {
        let status =
            "Name:\ta b) c\nVmRSS:\t    100 kB\nRssAnon:\t 30 kB\nRssShmem:\t 50 kB\nVmSwap:\t 7 kB\nThreads:\t3\n";
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 3 0 100 1 2";
        let usage = Usage {
            resident: 100 << 10,
            anonymous: 37 << 10,
            shared: 50 << 10,
            threads: 3,
            cpu: Duration::from_millis(1750),
        };
        assert_eq!(parse(status, stat, 100), Some(usage));
        assert_eq!(parse("Name: gone\nState: Z\nThreads: 1\n", stat, 100), None, "it has ended");
        assert_eq!(parse(status, "12 (", 100), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage(std::process::id()).expect("it runs");
        assert!(usage.resident > 0 && usage.anonymous > 0 && usage.threads > 0, "{usage:?}");
    }
}
