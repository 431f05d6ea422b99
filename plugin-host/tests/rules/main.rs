//! Every rule of every shipped profile and permission, tried on the real kernel: with arguments that it allows, with
//! each argument changed, with high halves set; and every call number there is, with zeros.
//!
//! What a call should get is found by reading the profile a second time, slowly and from its TOML ([`reading`]), and by
//! the C types of the calls' arguments ([`KERNEL_INTS`]): not from the compiled program.
//!
//! The listener here answers a stopped call with an errno of its own ([`STOPPED`]), so that one process can try hundreds
//! of calls; only what kills needs a process each.

#[expect(unsafe_code, reason = "the seccomp listener is answered by ioctl")]
mod listener;
mod reading;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fmt;

use photondb_sandbox_profiles::Profiles;
use photondb_sandbox_profiles::profile::{ArgName, Condition, Width};
use photondb_sandbox_profiles::syscalls::{Arch, constant};

use listener::{Batch, Died, STOPPED};
use reading::{Class, Reading};

const TWO_TO_32: u64 = 1 << 32;
/// Arguments that the kernel takes as 32 bits, whatever the register holds, by `include/linux/syscalls.h`: every
/// other one that a shipped rule compares is a `long`, a size or a pointer.
const KERNEL_INTS: &[(&str, usize)] = &[
    ("write", 0),
    ("writev", 0),
    ("ioctl", 1),
    ("fcntl", 1),
    // Declared as a `long`, and truncated by `fget`.
    ("mmap", 4),
    ("madvise", 2),
    ("futex", 1),
    ("sched_getaffinity", 0),
    ("arch_prctl", 0),
    ("clock_gettime", 0),
    ("clock_nanosleep", 0),
    ("tgkill", 0),
    ("prlimit64", 0),
    ("openat", 2),
    ("open", 1),
    ("setsockopt", 1),
    ("setsockopt", 2),
    ("getsockopt", 1),
    ("getsockopt", 2),
    ("shutdown", 1),
    ("fallocate", 0),
    ("fallocate", 1),
    ("unlinkat", 2),
    ("renameat2", 4),
    ("flock", 1),
    ("fchmod", 0),
    ("ftruncate", 0),
    ("pwrite64", 0),
    ("pwritev", 0),
    ("fsync", 0),
    ("fdatasync", 0),
    ("sync_file_range", 0),
    ("accept4", 3),
];

/// One call to be tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Try {
    number: i64,
    arguments: [u64; 6],
}

/// How many rules were walked, and what was not as it should be.
#[derive(Default)]
struct Walk {
    rules: usize,
    calls: usize,
    unexpected: Vec<String>,
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules walked, {} calls tried, {} unexpected", self.rules, self.calls, self.unexpected.len())
    }
}

fn value(condition: &[photondb_sandbox_profiles::profile::Value]) -> impl Iterator<Item = u64> {
    condition.iter().map(reading::number)
}

/// Values that satisfy a condition: each of `is`, or the least and the most that `has` and `within` allow.
fn allowed_values(condition: &Condition) -> Vec<u64> {
    let union = |values: &[photondb_sandbox_profiles::profile::Value]| value(values).fold(0, |sum, value| sum | value);
    if !condition.is.is_empty() {
        let ignored = union(&condition.ignoring);
        return value(&condition.is).flat_map(|is| BTreeSet::from([is, is | ignored])).collect();
    }
    let (has, within) = (union(&condition.has), union(&condition.within));
    let most = if condition.within.is_empty() { has } else { has | within };
    BTreeSet::from([has, most]).into_iter().filter(|it| !value(&condition.not).any(|not| not == *it)).collect()
}

/// Values beside an allowed one: each bit flipped, which takes away what is demanded and adds what is not.
fn neighbours(value: u64, condition: &Condition) -> impl Iterator<Item = u64> {
    let bits = if condition.width == Width::Int { 32 } else { 64 };
    (0..bits).map(move |bit| value ^ (1 << bit)).chain(condition.not.iter().map(reading::number).collect::<Vec<_>>())
}

/// Everything to try for one alternative of `call`.
fn tries(call: &str, number: i64, alternative: &[(ArgName, Condition)]) -> Vec<Try> {
    let base = base_arguments(call);
    let mut vectors = vec![base];
    for (name, condition) in alternative {
        let index = *name as usize;
        let values = allowed_values(condition);
        vectors = vectors
            .iter()
            .flat_map(|vector| {
                values.iter().map(move |value| {
                    let mut vector = *vector;
                    vector[index] = *value;
                    vector
                })
            })
            .collect();
    }
    let mut tried = Vec::new();
    for vector in vectors {
        tried.push(vector);
        for (name, condition) in alternative {
            let index = *name as usize;
            let mut change = |value| {
                let mut changed = vector;
                changed[index] = value;
                tried.push(changed);
            };
            neighbours(vector[index], condition).for_each(&mut change);
            change(vector[index].wrapping_add(TWO_TO_32));
            change(vector[index] | 0xFFFF_FFFF_0000_0000);
        }
    }
    tried.into_iter().map(|arguments| Try { number, arguments }).collect()
}

/// Arguments that make an allowed call harmless: it may run.
fn base_arguments(call: &str) -> [u64; 6] {
    match call {
        // Signal 0 to its own only thread.
        "tgkill" => [0, reading::OWN, 0, 0, 0, 0],
        // Where it is already.
        "arch_prctl" => [0, reading::THREAD, 0, 0, 0, 0],
        // An address outside the program's half: the kernel looks at it after the filter.
        "clone" => [0, 0, 0, 0, 1 << 63, 0],
        _ => [0; 6],
    }
}

/// Calls that the kernel makes past every filter (`seccomp: passthrough uretprobe systemcall`, Linux 6.14): it made the
/// page from which they may come, and answers any other caller with SIGILL.
fn passes_every_filter(name: &str) -> bool {
    matches!(name, "uretprobe" | "uprobe")
}

/// Calls that are not made although they are allowed: they end or change the process that would go on.
fn is_terminal(name: &str) -> bool {
    matches!(name, "exit" | "exit_group" | "rt_sigreturn" | "fork" | "vfork" | "pause" | "rt_sigsuspend")
}

/// The walk over one profile with `permissions`.
fn walk(profile: &str, permissions: &[&str], walk: &mut Walk) {
    let arch = Arch::current().expect("a supported architecture");
    let reading = Reading::of(&Profiles::builtin(), profile, permissions);
    let what =
        if permissions.is_empty() { profile.to_owned() } else { format!("{profile} + {}", permissions.join(" + ")) };
    let confinement = support::confinement_with(profile, permissions);
    let batch = Batch::new(confinement);

    // Every number, with zeros.
    let numbers = (0..=600).chain([1000, 0x3FFF_FFFF, 0x4000_0000, 0x4000_0027, 0x4000_0101, 0x7FFF_FFFF, -1, -2]);
    let zeros = numbers.map(|number| Try { number, arguments: [0; 6] });
    let mut all: Vec<Try> = zeros.collect();
    for (call, alternatives) in reading.conditional(arch) {
        let Some(number) = arch.number(call) else { continue };
        for alternative in alternatives {
            walk.rules += 1;
            for (name, condition) in &alternative {
                let is_int = KERNEL_INTS.contains(&(call, *name as usize));
                let said = condition.width == Width::Int;
                if is_int != said {
                    walk.unexpected.push(format!("{what}: {call} {name:?} is declared {:?}", condition.width));
                }
            }
            all.extend(tries(call, i64::from(number), &alternative));
        }
    }
    all.sort();
    all.dedup();
    walk.calls += all.len();

    let class = |it: &Try| reading.class(arch, it.number, it.arguments);
    let name = |it: &Try| u32::try_from(it.number).ok().and_then(|number| arch.name(number)).unwrap_or("?");
    let is_alone = |it: &Try| {
        let is_last = class(it) == Class::Allow && is_terminal(name(it));
        class(it) == Class::Kill || is_last || passes_every_filter(name(it))
    };
    let (alone, together): (Vec<_>, Vec<_>) = all.into_iter().partition(is_alone);
    for chunk in together.chunks(400) {
        for (it, result) in chunk.iter().zip(batch.run(chunk)) {
            let class = class(it);
            let fits = match (class, result) {
                (_, None) => false,
                (Class::Stop, Some(result)) => result == -STOPPED,
                (Class::Errno(errno), Some(result)) => result == -i64::from(errno),
                // Whatever the kernel says to such arguments, it is not what the filter would.
                (Class::Allow, Some(result)) => result != -STOPPED && !reading.is_refusal(arch, it.number, result),
                (Class::Kill, _) => false,
            };
            if !fits {
                walk.unexpected.push(format!("{what}: {} {it:x?} should be {class:?}, was {result:?}", name(it)));
            }
        }
    }
    for it in &alone {
        let died = batch.run_alone(it);
        let fits = match class(it) {
            Class::Kill => died == Died::OfTheFilter,
            _ => died != Died::OfTheFilter,
        };
        if !fits {
            walk.unexpected.push(format!("{what}: {} {it:x?} should be {:?}, was {died:?}", name(it), class(it)));
        }
    }
    if arch == Arch::x86_64 && batch.int80() != Died::OfTheFilter {
        walk.unexpected.push(format!("{what}: int 0x80 went through"));
    }
}

#[test]
fn every_rule_of_every_profile_is_what_the_kernel_enforces() {
    let mut total = Walk::default();
    for profile in Profiles::builtin().names() {
        let mut one = Walk::default();
        walk(profile, &[], &mut one);
        println!("rule walker: {profile}: {one}");
        total.rules += one.rules;
        total.calls += one.calls;
        total.unexpected.append(&mut one.unexpected);
    }
    println!("rule walker: {total}");
    assert!(total.unexpected.is_empty(), "{:#?}", &total.unexpected[..total.unexpected.len().min(40)]);
}

#[test]
fn every_rule_of_every_permission_is_what_the_kernel_enforces() {
    let mut total = Walk::default();
    for permissions in [&["state"][..], &["connect"], &["state", "connect"]] {
        walk("strict", permissions, &mut total);
    }
    println!("rule walker: permissions: {total}");
    assert!(total.unexpected.is_empty(), "{:#?}", &total.unexpected[..total.unexpected.len().min(40)]);
}

#[test]
fn the_slow_reading_knows_the_constants() {
    assert_eq!(constant("OWN_PID"), Ok(reading::OWN), "the walker puts the probe's id in its place");
}
