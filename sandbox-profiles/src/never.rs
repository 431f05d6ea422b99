//! What no profile of an operator may allow, whatever it says: without these the other rules mean nothing.
//!
//! Calls that reach other processes or the kernel itself are refused by name. Calls that every program needs with some
//! arguments are the shipped profiles' own. For the rest, the compiled program is asked about the arguments that matter,
//! so it does not matter how a rule is written.

use crate::error::ProfileError;
use crate::profile::{Answer, Profile};
use crate::seccomp::{Instruction, Listener, Program, Regions};
use crate::syscalls::Arch;
use crate::verdict::{Call, Verdict, verdict};

/// Calls and the reason.
const NEVER: &[(&[&str], &str)] = &[
    (
        &[
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "process_madvise",
            "process_mrelease",
            "pidfd_open",
            "pidfd_getfd",
            "pidfd_send_signal",
            "kcmp",
            "kill",
            "tkill",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "setpriority",
            "sched_setaffinity",
            "sched_setscheduler",
            "sched_setparam",
            "sched_setattr",
            "ioprio_set",
            "migrate_pages",
            "move_pages",
        ],
        "it reaches other processes",
    ),
    (&["io_uring_setup", "io_uring_enter", "io_uring_register"], "it makes calls that no filter sees"),
    (
        &[
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "kexec_file_load",
            "reboot",
            "swapon",
            "swapoff",
            "acct",
            "quotactl",
            "quotactl_fd",
            "syslog",
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "adjtimex",
            "iopl",
            "ioperm",
            "modify_ldt",
            "vhangup",
            "nfsservctl",
            "lookup_dcookie",
        ],
        "it is the machine's, or kernel surface that no plugin needs",
    ),
    (
        &[
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "unshare",
            "setns",
            "open_by_handle_at",
            "name_to_handle_at",
            "fanotify_init",
            "fanotify_mark",
        ],
        "it changes or escapes what the process sees of the machine",
    ),
    (
        &[
            "setuid",
            "setgid",
            "setreuid",
            "setregid",
            "setresuid",
            "setresgid",
            "setgroups",
            "setfsuid",
            "setfsgid",
            "capset",
            "keyctl",
            "add_key",
            "request_key",
            "personality",
            "seccomp",
        ],
        "it is about rights",
    ),
    (
        &["fork", "vfork", "clone3", "execve", "execveat", "sendmsg"],
        "a plugin is one process and one program, and passes no descriptors; the host's own use is guarded by a secret",
    ),
    (
        &["clone", "prlimit64", "tgkill"],
        "the shipped profiles allow it with exactly the arguments that concern the process itself",
    ),
];

/// Arguments with which no program may let a call through. Those that do not matter are zero.
const NEVER_WITH: &[(&str, [u64; 4], &str)] = &[
    ("ioctl", [0, 0x5412, 0, 0], "TIOCSTI types into a terminal"),
    ("ioctl", [0, 0x541C, 0, 0], "TIOCLINUX does the same"),
    ("ioctl", [0, 0x5423, 0, 0], "TIOCSETD loads code into the kernel"),
    ("fcntl", [0, 8, 0, 0], "F_SETOWN signals others"),
    ("fcntl", [0, 10, 0, 0], "F_SETSIG signals others"),
    ("fcntl", [0, 15, 0, 0], "F_SETOWN_EX signals others"),
    ("prctl", [1, 0, 0, 0], "PR_SET_PDEATHSIG lets it outlive the server"),
    ("prctl", [35, 0, 0, 0], "PR_SET_MM rewrites what the kernel knows of the process"),
    ("prctl", [0x5961_6D61, 0, 0, 0], "PR_SET_PTRACER lets others in"),
    ("madvise", [0, 4096, 9, 0], "MADV_REMOVE punches holes into shared memory"),
    ("write", [5, 0, 1, 0], "descriptor 5 is the region that only the server writes"),
    ("mmap", [0, 4096, 3, 1], "a shared mapping of any descriptor is the permission `state`"),
];

/// Refuses entries of an operator's profile for calls that are not its to give.
pub(crate) fn check_entries(file: &str, profile: &Profile) -> Result<(), ProfileError> {
    let allowed = profile.allow.iter().flat_map(|allow| &allow.calls);
    let is_softer = |answer| !matches!(answer, Answer::Stop | Answer::Kill);
    let softened = profile.deny.iter().filter(|deny| is_softer(deny.answer)).flat_map(|deny| &deny.calls);
    for call in allowed.chain(softened) {
        if let Some((_, why)) = NEVER.iter().find(|(calls, _)| calls.contains(&call.as_str())) {
            return Err(ProfileError::NeverAllowed {
                file: file.to_owned(),
                call: call.clone(),
                why: (*why).to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses a program that lets an argument through that no profile may, and that `base` does not.
pub(crate) fn check_program(
    file: &str,
    arch: Arch,
    program: &Program,
    base: Option<&Program>,
) -> Result<(), ProfileError> {
    let finish = |program: &Program| program.finish(u32::MAX, 0, Regions::Inherited, Listener::Present);
    let (program, base) = (finish(program), base.map(finish));
    for (name, args, why) in NEVER_WITH {
        let is_new = base.as_ref().is_none_or(|base| !lets_through(base, arch, name, *args));
        if is_new && lets_through(&program, arch, name, *args) {
            let (file, call) = (file.to_owned(), (*name).to_owned());
            return Err(ProfileError::BadRule { file, call, message: format!("`when` must keep out that {why}") });
        }
    }
    Ok(())
}

fn lets_through(program: &[Instruction], arch: Arch, name: &str, [a, b, c, d]: [u64; 4]) -> bool {
    let args = [a, b, c, d, 0, 0];
    let call = |number| Call { arch: arch.audit(), number, args };
    arch.number(name).is_some_and(|number| verdict(program, &call(number)) == Verdict::Allow)
}
