//! The probing side: a static program that makes the system calls which its only argument spells, and prints what the
//! kernel answered.
//!
//! It is part of `photondb-plugin-host`, which the server has at hand as a static executable, and which becomes the
//! probe when it is executed *as the plugin*: its first argument, the plugin's name, then begins with [`PREFIX`], as no
//! plugin's name can. It gains nothing by that; whatever it tries, it tries with the rights of the plugin.
//!
//! Needs nothing but `std`, so that tests can compile this one file by itself. The script:
//!
//! ```text
//! chain | each | NAME [N]         stop at the first refusal | try every line | one of the deeds in `deed`
//! [+][N*]NUMBER ARG...            a line a call; `+`: tidies up after success; `N*`: so often, until it is refused
//! ARG: -1 | sHEX (a C string) | wN,N,.. (64-bit words) | bN (so many zero bytes) | rI (result of line I)
//!      | p[+N] (own process id) | t (thread pointer)
//! ```
//!
//! Printed is, for every line, `call INDEX RESULT NUMBER A0 .. A5`, in decimals; a deed prints `found TEXT` or
//! `nothing TEXT`, or such lines.

use std::env;
use std::hint::black_box;
use std::thread;
use std::time::Duration;

/// What the first argument of a probe begins with.
pub const PREFIX: &str = "probe ";
/// Calls of a chain that come after the one that counts.
pub const TIDY: char = '+';

/// The script, if this process is to be a probe.
pub fn asked() -> Option<String> {
    Some(env::args().next()?.strip_prefix(PREFIX)?.to_owned())
}

/// Does what the script says.
pub fn run(script: &str) {
    let mut lines = script.lines();
    match lines.next() {
        Some("chain") => calls(lines, true),
        Some("each") => calls(lines, false),
        Some(name) => deed(name),
        None => say("nothing was asked"),
    }
}

fn calls<'a>(lines: impl Iterator<Item = &'a str>, is_chain: bool) {
    let mut results = Vec::new();
    for (index, line) in lines.enumerate() {
        let Some(call) = Call::parse(line, &results) else { return say(&format!("cannot read {line}")) };
        let mut result = 0;
        for _ in 0..call.times {
            result = call.make();
            if is_refusal(result) {
                break;
            }
        }
        call.tell(index, result);
        results.push(result);
        if is_chain && is_refusal(result) {
            return;
        }
    }
}

/// What needs more than calls one after the other.
fn deed(name: &str) {
    let (name, number) = name.split_once(' ').unwrap_or((name, "0"));
    let number: u64 = number.parse().unwrap_or(0);
    match name {
        "int80" => say(&format!("found the 32-bit entry, which answered {}", int80())),
        "environment" => match env::vars_os().count() {
            0 => say("nothing in the environment"),
            count => say(&format!("found {count} environment variables")),
        },
        "descriptors" => descriptors(number),
        "capabilities" => capabilities(),
        "threads" => threads(number),
        "store" => store(number),
        _ => say("nothing known by this name"),
    }
}

/// Descriptors from `first` on that somebody left open.
fn descriptors(first: u64) {
    let open = (first..4096).filter(|fd| !is_refusal(raw(number::FCNTL, [*fd, 1, 0, 0, 0, 0])));
    match open.collect::<Vec<_>>().as_slice() {
        [] => say(&format!("nothing open from descriptor {first} on")),
        open => say(&format!("found open descriptors {open:?}")),
    }
}

/// What `capget` shows; refused calls show nothing.
fn capabilities() {
    let (header, mut sets) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    let call = Call {
        times: 1,
        number: number::CAPGET,
        arguments: [(&raw const header) as u64, (&raw mut sets) as u64, 0, 0, 0, 0],
    };
    let result = call.make();
    match (is_refusal(result), black_box(sets)) {
        (true, _) => call.tell(0, result),
        (false, [0, 0, 0, 0, 0, 0]) => say("nothing among its capabilities"),
        (false, sets) => say(&format!("found capabilities {sets:x?}")),
    }
}

/// As many threads as there may be, and a hundred more than `allowed`.
fn threads(allowed: u64) {
    let mut running = 1;
    while running < allowed + 100 {
        let sleeper = thread::Builder::new().stack_size(64 << 10).spawn(|| thread::sleep(Duration::from_secs(60)));
        match sleeper {
            Ok(_) => running += 1,
            Err(error) => {
                let [clone, errno] = [number::CLONE, u64::from(error.raw_os_error().unwrap_or(0).unsigned_abs())];
                return say(&format!("call 0 -{errno} {clone} 0 0 0 0 0 0"));
            }
        }
    }
    // A server that counts threads looks now and then.
    thread::sleep(Duration::from_secs(3));
    say(&format!("found {running} threads, where {allowed} were allowed"));
}

/// Writes through a read-only mapping of descriptor `fd`.
fn store(fd: u64) {
    let base = raw(number::MMAP, [0, 4096, 1, 1, fd, 0]);
    if is_refusal(base) {
        return say("nothing to store to: it cannot be mapped");
    }
    raw(number::MPROTECT, [base as u64, 4096, 3, 0, 0, 0]);
    // SAFETY: mapped above, whole and page-aligned. That the kernel answers the store with SIGSEGV is what is probed.
    unsafe { std::ptr::write_volatile(base as *mut u8, 1) };
    say("found a way to store to it");
}

struct Call {
    times: u64,
    number: u64,
    arguments: [u64; 6],
}

impl Call {
    fn parse(line: &str, results: &[i64]) -> Option<Self> {
        let mut words = line.trim_start_matches(TIDY).split(' ');
        let first = words.next()?;
        let (times, number) = first.split_once('*').unwrap_or(("1", first));
        let mut arguments = [0; 6];
        for (place, word) in arguments.iter_mut().zip(words) {
            *place = argument(word, results)?;
        }
        Some(Self { times: times.parse().ok()?, number: number.parse::<i64>().ok()? as u64, arguments })
    }

    fn make(&self) -> i64 {
        raw(self.number, self.arguments)
    }

    fn tell(&self, index: usize, result: i64) {
        let [a, b, c, d, e, f] = self.arguments;
        say(&format!("call {index} {result} {} {a} {b} {c} {d} {e} {f}", self.number as i64));
    }
}

/// The value of an argument; what it points to is never freed.
fn argument(word: &str, results: &[i64]) -> Option<u64> {
    let rest = word.get(1..).unwrap_or_default();
    match word.as_bytes().first()? {
        b's' => {
            let digit = |at| u8::from_str_radix(rest.get(at..at + 2)?, 16).ok();
            let mut bytes = (0..rest.len()).step_by(2).map(digit).collect::<Option<Vec<u8>>>()?;
            bytes.push(0);
            Some(bytes.leak().as_ptr() as u64)
        }
        b'w' => {
            let words = rest.split(',').map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
            Some(words.leak().as_ptr() as u64)
        }
        b'b' => Some(vec![0_u64; rest.parse::<usize>().ok()?.div_ceil(8)].leak().as_ptr() as u64),
        b'r' => results.get(rest.parse::<usize>().ok()?).map(|result| *result as u64),
        b'p' => Some(u64::from(std::process::id()).wrapping_add(rest.parse().unwrap_or(0))),
        b't' => Some(thread_pointer()),
        _ => word.parse::<i64>().map(|value| value as u64).or_else(|_| word.parse()).ok(),
    }
}

fn is_refusal(result: i64) -> bool {
    (-4095..0).contains(&result)
}

fn say(line: &str) {
    let line = format!("{line}\n");
    raw(number::WRITE, [1, line.as_ptr() as u64, line.len() as u64, 0, 0, 0]);
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: u64 = 1;
    pub const MMAP: u64 = 9;
    pub const MPROTECT: u64 = 10;
    pub const CLONE: u64 = 56;
    pub const FCNTL: u64 = 72;
    pub const CAPGET: u64 = 125;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const WRITE: u64 = 64;
    pub const MMAP: u64 = 222;
    pub const MPROTECT: u64 = 226;
    pub const CLONE: u64 = 220;
    pub const FCNTL: u64 = 25;
    pub const CAPGET: u64 = 90;
}

/// One system call with these six registers, past every library; the result as the kernel gives it.
#[cfg(target_arch = "x86_64")]
fn raw(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: a probe makes calls that no library would, and may die of them: its scripts make none that change memory
    // which this program uses, but for stores into the buffers of the script, which nothing else refers to.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn raw(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: as on x86-64.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
        );
    }
    result
}

/// `getpid` by the entry for 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn int80() -> i32 {
    let result: i32;
    // SAFETY: changes no memory; the registers that the entry may change are named.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20 => result, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    result
}

#[cfg(not(target_arch = "x86_64"))]
fn int80() -> i32 {
    -38
}

/// What `arch_prctl(ARCH_SET_FS)` may be given without harm.
#[cfg(target_arch = "x86_64")]
fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: the first word of the thread block is its own address, by the ABI; reading it changes nothing.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    pointer
}

#[cfg(not(target_arch = "x86_64"))]
fn thread_pointer() -> u64 {
    0
}
