//! Looks after a running process: that it answers, and that it takes no more than it was granted.
//!
//! The limits of the kernel stop most excesses before. This finds the rest, and everything where there is no cgroup.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Cause;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::CALL_DEADLINE;
use super::instance::{Instance, Link};
use super::journal::Journal;
use super::plugin::{Command, Plugin};
use super::process::Doom;
use super::usage::{Usage, usage};

/// How often a plugin has to show that it is alive, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_DEADLINE: Duration = Duration::from_secs(3);
/// How often its calls and what it uses are looked at: memory that grows by 1 GiB/s is found within some 200 MiB.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What a plugin may still take to answer a call that was cancelled, and to leave when it is told to.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// A call that keeps a worker for so long is slow: four fifths of what it may take.
const SLOW: Duration = Duration::from_secs(CALL_DEADLINE.as_secs() * 4 / 5);
/// After so many slow calls in a row, the plugin is one that always answers just before the deadline.
const SLOW_CALLS: u32 = 3;
/// Processors that a plugin may use for itself, beside one for each lane with calls.
const OWN_SHARE: f64 = 0.5;
/// Processor time beyond that after which the operator is told ...
const NOTICED: Duration = Duration::from_millis(1500);
/// ... and after which the plugin is stopped. It is paid back at the rate of the unused share.
const TOO_MUCH: Duration = Duration::from_secs(5);

/// What a process was granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Private memory, in bytes.
    pub memory_bytes: u64,
    /// Threads, with those of the SDK.
    pub threads: u64,
    /// Lanes: workers that calls may keep busy.
    pub lanes: usize,
    /// The two regions, in bytes.
    pub region_bytes: u64,
}

/// Pings, until it does not answer.
pub(super) async fn ping(link: Rc<Link>, instance: Arc<Instance>) {
    let (cause, message) = loop {
        sleep(PING_EVERY).await;
        match timeout(PING_DEADLINE, link.client.ping_request().send().promise).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => {
                // Honest ones end with their connection; this task then ends with the process.
                sleep(GRACE).await;
                break (Cause::Protocol, "it broke the control connection and went on".to_owned());
            }
            Err(_) => {
                let seconds = PING_DEADLINE.as_secs();
                break (Cause::Deadline, format!("it did not answer a ping within {seconds} s"));
            }
        }
    };
    instance.doom(Doom { cause, message });
}

/// Looks at calls and at what it uses, until that is too much.
pub(super) async fn look(instance: Arc<Instance>, plugin: Arc<Plugin>, limits: Limits, journal: Arc<Journal>) {
    let (mut work, mut burned) = (Work::default(), Burned::default());
    let (mut calls_begun, mut was_working) = (0, true);
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let doom = loop {
        ticks.tick().await;
        let now = Instant::now();
        let previous = std::mem::replace(&mut calls_begun, instance.calls_begun());
        let worked =
            std::mem::replace(&mut was_working, instance.is_working()) || was_working || calls_begun != previous;
        let found = work.look(&instance.current(), calls_begun, now);
        if found.is_stuck {
            let message = "it did not answer a call within its deadline, nor within the grace period after it";
            break Doom { cause: Cause::Deadline, message: message.to_owned() };
        }
        if found.is_slow {
            plugin.send(Command::Slow(instance.number()));
        }
        let Some(usage) = usage(instance.pid()) else { continue };
        instance.observe(&usage);
        if let Some(doom) = excess(&usage, &limits, instance.attached_bytes()) {
            break doom;
        }
        match burned.add(usage.cpu, if worked { limits.lanes } else { 0 }, now) {
            Verdict::Fine => {}
            Verdict::Noticed => {
                plugin.counters().burned();
                let message = "it uses the processor while no call is on its way; it will be stopped if it goes on";
                journal.event(plugin.name(), "busy between calls", message);
            }
            Verdict::TooMuch => {
                let message = format!(
                    "it used {} s of processor time beyond the calls that it got: work only while a call is on its way",
                    TOO_MUCH.as_secs()
                );
                break Doom { cause: Cause::Limit, message };
            }
        }
    };
    instance.doom(doom);
}

/// What it has and must not have.
fn excess(usage: &Usage, limits: &Limits, attached_bytes: u64) -> Option<Doom> {
    let limit = |message| Some(Doom { cause: Cause::Limit, message });
    // Regions and columns are the server's. Further shared memory can only be its own.
    let own_shared = usage.shared.saturating_sub(limits.region_bytes.saturating_add(attached_bytes));
    let private = usage.anonymous.saturating_add(own_shared);
    if private > limits.memory_bytes {
        let granted = limits.memory_bytes;
        return limit(format!("it ran out of memory: it uses {private} bytes and was granted {granted}"));
    }
    if usage.threads > limits.threads {
        let (threads, most) = (usage.threads, limits.threads);
        return limit(format!("it has {threads} threads, and may have {most} with those of the SDK"));
    }
    None
}

/// What the workers of the lanes are at.
#[derive(Default)]
struct Work {
    lanes: Vec<Option<Current>>,
    calls_begun: u64,
    slow_calls: u32,
}

/// A call that a worker is at.
#[derive(Clone, Copy)]
struct Current {
    call: u64,
    since: Instant,
    given_up_since: Option<Instant>,
}

/// What a look at the workers found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    /// A worker is at a call for longer than a call may take, and did not answer when it was cancelled.
    is_stuck: bool,
    /// One more of too many slow calls has just ended.
    is_slow: bool,
}

impl Work {
    /// `current`: for each lane the call that its worker is at, and whether the caller gave it up. `calls_begun`: calls
    /// on all lanes so far.
    ///
    /// A worker with more calls than it can answer in time, who goes from one to the next, is neither stuck nor slow.
    fn look(&mut self, current: &[Option<(u64, bool)>], calls_begun: u64, now: Instant) -> Found {
        self.lanes.resize(current.len(), None);
        let mut found = Found::default();
        // Calls that came and went between two looks were quick.
        let mut is_any_quick = calls_begun > self.calls_begun && current.iter().all(Option::is_none);
        let mut slow = 0;
        for (known, current) in self.lanes.iter_mut().zip(current) {
            if let Some(ended) = known.filter(|known| current.is_none_or(|(call, _)| call != known.call)) {
                let is_slow = now.duration_since(ended.since) >= SLOW;
                slow += u32::from(is_slow);
                is_any_quick |= !is_slow;
            }
            *known = current.map(|(call, is_given_up)| {
                let known = known.filter(|known| known.call == call);
                let since = known.map_or(now, |known| known.since);
                let given_up_since = is_given_up.then(|| known.and_then(|known| known.given_up_since).unwrap_or(now));
                found.is_stuck |= now.duration_since(since) >= CALL_DEADLINE + GRACE
                    && given_up_since.is_some_and(|given_up| now.duration_since(given_up) >= GRACE);
                Current { call, since, given_up_since }
            });
        }
        self.calls_begun = calls_begun;
        self.slow_calls = match slow {
            0 if is_any_quick => 0,
            slow => self.slow_calls.saturating_add(slow),
        };
        found.is_slow = slow > 0 && self.slow_calls >= SLOW_CALLS;
        found
    }
}

/// Processor time beyond what the calls justify: a bucket that fills with what is used and empties at the rate of what
/// may be used.
#[derive(Default)]
struct Burned {
    last: Option<(Duration, Instant)>,
    seconds: f64,
    is_noticed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Noticed,
    TooMuch,
}

impl Burned {
    /// `cpu`: all that was used so far; `busy`: lanes that had calls since the last time.
    fn add(&mut self, cpu: Duration, busy: usize, now: Instant) -> Verdict {
        let Some((last_cpu, last)) = self.last.replace((cpu, now)) else { return Verdict::Fine };
        let used = cpu.saturating_sub(last_cpu).as_secs_f64();
        let may_use = (OWN_SHARE + busy as f64) * now.duration_since(last).as_secs_f64();
        self.seconds = (self.seconds + used - may_use).max(0.0);
        if self.seconds >= TOO_MUCH.as_secs_f64() {
            return Verdict::TooMuch;
        }
        let is_news = self.seconds >= NOTICED.as_secs_f64() && !self.is_noticed;
        self.is_noticed = self.seconds > 0.0 && (self.is_noticed || is_news);
        if is_news { Verdict::Noticed } else { Verdict::Fine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: f64) -> Duration {
        Duration::from_secs_f64(number)
    }

    #[test]
    fn a_worker_is_stuck_at_one_call_and_not_at_many() {
        let start = Instant::now();
        let mut work = Work::default();
        for second in 0..100_u32 {
            let (now, call) = (start + seconds(f64::from(second)), u64::from(second / 3));
            assert_eq!(
                work.look(&[Some((call, true)), None], call, now),
                Found::default(),
                "goes from one to the next"
            );
            assert!(!Work::default().look(&[Some((1, true))], 1, now).is_stuck, "seen for the first time");
        }
        for second in 100..160 {
            let now = start + seconds(f64::from(second));
            assert!(!work.look(&[None, Some((7, false))], 40, now).is_stuck, "somebody waits still");
        }
        let now = start + seconds(160.0);
        assert!(!work.look(&[None, Some((7, true))], 40, now).is_stuck, "it may notice that it was cancelled");
        assert!(work.look(&[None, Some((7, true))], 40, now + GRACE).is_stuck);
    }

    #[test]
    fn answers_that_always_come_late_are_slow() {
        let (mut now, mut work) = (Instant::now(), Work::default());
        let mut call = |number: u64, takes: Option<f64>| {
            if let Some(takes) = takes {
                work.look(&[Some((number, false))], number, now);
                now += seconds(takes);
            }
            let found = work.look(&[None], number, now);
            now += seconds(1.0);
            found.is_slow
        };
        assert!(!call(1, Some(4.5)) && !call(2, Some(4.5)));
        assert!(!call(3, Some(0.5)), "a quick one between");
        assert!(!call(4, Some(4.5)) && !call(5, Some(4.9)));
        assert!(call(6, Some(4.1)), "the third in a row");
        assert!(call(7, Some(4.1)), "and each one after it");
        assert!(!call(8, Some(0.1)) && !call(9, Some(4.1)) && !call(10, Some(4.1)));
        assert!(!call(11, None), "one that came and went between two looks is quick");
        assert!(!call(12, Some(4.1)));
    }

    #[test]
    fn work_between_calls_is_noticed_and_then_too_much() {
        let start = Instant::now();
        let run = |cores: f64, busy: usize| {
            let (mut burned, mut verdicts) = (Burned::default(), Vec::new());
            for tick in 0..200 {
                let at = f64::from(tick) * 0.2;
                let verdict = burned.add(seconds(at * cores), busy, start + seconds(at));
                if verdict != Verdict::Fine {
                    verdicts.push((verdict, at.round() as u32));
                }
                if verdict == Verdict::TooMuch {
                    break;
                }
            }
            verdicts
        };
        assert_eq!(run(0.4, 0), [], "less than its own share");
        assert_eq!(run(1.0, 0), [(Verdict::Noticed, 3), (Verdict::TooMuch, 10)]);
        assert_eq!(run(3.0, 0), [(Verdict::Noticed, 1), (Verdict::TooMuch, 2)]);
        assert_eq!(run(1.4, 1), [], "a lane was busy");
        assert_eq!(run(2.5, 1), [(Verdict::Noticed, 2), (Verdict::TooMuch, 5)], "more than its lanes could use");
    }

    #[test]
    fn a_burst_is_paid_back() {
        let (start, mut burned) = (Instant::now(), Burned::default());
        for burst in 0..50 {
            let at = start + seconds(f64::from(burst) * 10.0);
            let used = seconds(f64::from(burst) * 2.0);
            assert_eq!(burned.add(used, 0, at), Verdict::Fine);
            assert_eq!(burned.add(used + seconds(2.0), 0, at + seconds(2.0)), Verdict::Fine);
        }
    }

    #[test]
    fn memory_and_threads_beyond_the_grant_are_named() {
        let limits = Limits { memory_bytes: 64 << 20, threads: 17, lanes: 1, region_bytes: 16 << 20 };
        let within = Usage { anonymous: 60 << 20, shared: 26 << 20, threads: 17, ..Usage::default() };
        let message = |usage: Usage| excess(&usage, &limits, 10 << 20).map(|doom| doom.message).unwrap_or_default();
        assert_eq!(message(within), "");
        assert!(message(Usage { anonymous: 65 << 20, ..within }).contains("out of memory"));
        assert!(message(Usage { shared: 31 << 20, ..within }).contains("out of memory"), "shared memory of its own");
        assert!(message(Usage { threads: 18, ..within }).contains("18 threads, and may have 17"));
    }
}
