//! What a program answers to a call, without making it: the part of the kernel's BPF that our programs use.

use crate::seccomp::{Instruction, RET_ALLOW, RET_DATA, RET_ERRNO, RET_KILL_PROCESS, RET_USER_NOTIF, TELL};

/// A system call as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Its number.
    pub number: u32,
    /// All six registers.
    pub args: [u64; 6],
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It is stopped, and named by the listener.
    Stop,
    /// The process dies at once.
    Kill,
    /// It is refused with this errno.
    Errno(u32),
}

/// What a listener is to answer to a call that `program` tells it of and decides by itself; `None`: nothing is decided, or
/// the program does not tell of it.
pub fn told(program: &[Instruction], call: &Call) -> Option<Verdict> {
    let returned = returned(program, call);
    let is_told = returned & !RET_DATA == RET_USER_NOTIF && returned & TELL != 0;
    is_told.then(|| meaning(returned))
}

/// Runs `program`, as [`Program::finish`](crate::seccomp::Program::finish) gives it. Takes at most as many steps as there
/// are instructions, since jumps go forward; what no filter of ours contains is [`Verdict::Kill`], as in the kernel.
pub fn verdict(program: &[Instruction], call: &Call) -> Verdict {
    meaning(returned(program, call))
}

fn meaning(returned: u32) -> Verdict {
    let data = returned & RET_DATA;
    match returned & !RET_DATA {
        RET_ALLOW => Verdict::Allow,
        RET_USER_NOTIF if data == TELL => Verdict::Allow,
        RET_USER_NOTIF if data & TELL != 0 => Verdict::Errno(data & !TELL),
        RET_USER_NOTIF => Verdict::Stop,
        RET_ERRNO => Verdict::Errno(data),
        _ => Verdict::Kill,
    }
}

fn returned(program: &[Instruction], call: &Call) -> u32 {
    let load = |offset: u32| match offset {
        0 => call.number,
        4 => call.arch,
        _ => {
            let word = (offset / 4).checked_sub(4).and_then(|word| usize::try_from(word).ok());
            let argument = word.and_then(|word| Some((call.args.get(word / 2)?, word % 2)));
            argument.map_or(0, |(argument, half)| (argument >> (32 * half) & 0xFFFF_FFFF) as u32)
        }
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    while let Some(Instruction { code, jt, jf, k }) = program.get(at) {
        let jump = |condition| usize::from(if condition { *jt } else { *jf });
        at += 1;
        match code {
            0x20 => accumulator = load(*k),
            0x54 => accumulator &= k,
            0x05 => at = at.saturating_add(usize::try_from(*k).unwrap_or(usize::MAX)),
            0x15 => at += jump(accumulator == *k),
            0x25 => at += jump(accumulator > *k),
            0x35 => at += jump(accumulator >= *k),
            0x06 => return *k,
            _ => return RET_KILL_PROCESS,
        }
    }
    RET_KILL_PROCESS
}
