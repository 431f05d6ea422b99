//! Not a plugin: starts a program as on a kernel, or in a container, that refuses something.
//!
//! A filter of system calls that the program inherits, and its plugins with it.

use std::ffi::OsStr;
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// The offsets of `struct seccomp_data`: the number, and the low halves of the first two arguments.
const NUMBER: u32 = 0;
const FIRST: u32 = 16;
const SECOND: u32 = 24;
/// SECCOMP_FILTER_FLAG_NEW_LISTENER.
const NEW_LISTENER: u32 = 8;

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn errno(error: i32) -> sock_filter {
    instruction(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32)
}

/// Refuses a call whose argument has one of these bits.
fn refuse_bits(number: libc::c_long, argument: u32, bits: u32, error: i32) -> Vec<sock_filter> {
    vec![
        load(NUMBER),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, number as u32),
        load(argument),
        instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, bits),
        instruction(BPF_JMP | BPF_JSET | BPF_K, 0, 1, bits),
        errno(error),
    ]
}

/// Refuses the three calls of Landlock.
fn refuse_landlock(error: i32) -> Vec<sock_filter> {
    let calls = [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    let mut program = vec![load(NUMBER)];
    for number in calls {
        program.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number as u32));
        program.push(errno(error));
    }
    program
}

fn program(missing: &str) -> Option<Vec<sock_filter>> {
    let user = libc::CLONE_NEWUSER as u32;
    let mut program = match missing {
        "landlock" => refuse_landlock(libc::ENOSYS),
        "landlock-in-a-container" => refuse_landlock(libc::EPERM),
        "user-namespaces" => [
            refuse_bits(libc::SYS_unshare, FIRST, user, libc::EPERM),
            refuse_bits(libc::SYS_clone, FIRST, user, libc::EPERM),
        ]
        .concat(),
        "listeners" => refuse_bits(libc::SYS_seccomp, SECOND, NEW_LISTENER, libc::EINVAL),
        _ => return None,
    };
    program.push(instruction(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    Some(program)
}

/// `MISSING PROGRAM ARGUMENTS...`
pub(crate) fn run(missing: &str, command: &OsStr, arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let Some(mut program) = program(missing) else {
        eprintln!("no kernel without `{missing}` can be simulated");
        return ExitCode::from(2);
    };
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: no pointer among the arguments.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `filter` has the address and the length of `program`, and both live until the call returns.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    if set != 0 {
        eprintln!("the filter can't be installed: {}", Error::last_os_error());
        return ExitCode::FAILURE;
    }
    let error = Command::new(command).args(arguments).exec();
    eprintln!("{}: {error}", command.display());
    ExitCode::FAILURE
}
