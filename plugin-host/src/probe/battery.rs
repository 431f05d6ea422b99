//! The attempts, in the order of the attack families: files, other processes, signals and scheduling, network,
//! execution and privilege, exotic parts of the kernel, shared memory, exhaustion.
//!
//! Each is harmless where it succeeds: it asks for the server's limits with a limit that the server has anyway, sends
//! signal 0, makes what exists already, or gives an argument for which the kernel refuses only after it has let the
//! caller through (`reached`).

use libc::{
    EAFNOSUPPORT, EBADF, EBUSY, EEXIST, EFAULT, EINVAL, EIO, EISDIR, ENODATA, ENODEV, ENOENT, ENOEXEC, ENOTCONN,
    ENOTTY, EOPNOTSUPP, EPROTONOSUPPORT, ESPIPE,
};
use photondb_sandbox_profiles::confinement::fd;

use super::attempt::Argument::{self, Is, Own, Result, Server, ServerClock, ServerGroup, Text, Words, Zeros};
use super::attempt::Attempt;
use super::attempt::Step::{self, Call, Deed, DeedWithThreads, Number, Repeat};
use super::outcome::Wall;

const CWD: Argument = Is(-100);
const NONE: Argument = Is(0);
const ALL_ONES: u64 = u64::MAX;
const TWO_TO_32: i64 = 1 << 32;
/// The first descriptor that no plugin is given.
const FIRST_FOREIGN: &str = "descriptors 7";
const SERVER_REGION: Argument = Is(fd::SERVER_REGION as i64);
const PLUGIN_REGION: Argument = Is(fd::PLUGIN_REGION as i64);
const CONTROL: Argument = Is(fd::CONTROL as i64);
const PASSING: Argument = Is(fd::PASSING as i64);
/// `struct sockaddr_un` for a socket at `/x`, in two words.
const SOME_SOCKET: Argument = Words(&[0x782F_0001, 0]);
/// `struct iovec` of eight bytes at an address where nothing is.
const NOWHERE: Argument = Words(&[4096, 8]);

const fn attempt(id: &'static str, name: &'static str, behind: Wall, steps: &'static [Step]) -> Attempt {
    Attempt { id, name, steps, tidy: &[], reached: &[], behind }
}

impl Attempt {
    const fn reached(mut self, errors: &'static [i32]) -> Self {
        self.reached = errors;
        self
    }

    const fn tidied(mut self, steps: &'static [Step]) -> Self {
        self.tidy = steps;
        self
    }
}

/// Every attempt.
pub fn all() -> impl Iterator<Item = &'static Attempt> {
    [FILES, PROCESSES, SIGNALS, NETWORK, PRIVILEGE, KERNEL, MEMORY, EXHAUSTION].into_iter().flatten()
}

/// Not an attack: shows that a probe runs in this confinement at all, without which nothing else means anything.
pub const CONTROL_ATTEMPT: Attempt =
    attempt("0", "ask for its own process id, which every profile allows", Wall::Kernel, &[Call("getpid", &[])]);

#[rustfmt::skip]
const FILES: &[Attempt] = &[
    attempt("A1a", "read /etc/passwd", Wall::Landlock, &[Call("openat", &[CWD, Text("/etc/passwd"), NONE])]),
    attempt("A1b", "read the server's binary", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/proc/SERVER/exe"), NONE])]),
    attempt("A1c", "make a file in /tmp", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/tmp"), Is(0o20200002), Is(0o600)])]),
    attempt("A1d", "read /etc/passwd by openat2", Wall::Landlock,
        &[Call("openat2", &[CWD, Text("/etc/passwd"), Words(&[0, 0, 0]), Is(24)])]),
    attempt("A1e", "open by file handle", Wall::Kernel,
        &[Call("open_by_handle_at", &[CWD, Words(&[0x1_0000_0008, 0]), NONE])]).reached(&[EBADF]),
    attempt("A2", "open / as a path, then a file below it", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/"), Is(0o10000000)]), Call("openat", &[Result(0), Text("etc/passwd"), NONE])]),
    attempt("A3a", "open the server's memory", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/proc/SERVER/mem"), NONE])]),
    attempt("A3b", "read the server's environment", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/proc/SERVER/environ"), NONE])]),
    attempt("A3c", "read the server's memory map", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/proc/SERVER/maps"), NONE])]),
    attempt("A3d", "list the server's descriptors", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/proc/SERVER/fd"), Is(0o200000)])]),
    attempt("A4a", "reopen the server's region for writing", Wall::Seal,
        &[Call("openat", &[CWD, Text("/proc/self/fd/5"), Is(2)]),
          Call("mmap", &[NONE, Is(4096), Is(3), Is(1), Result(0), NONE])]),
    attempt("A4b", "reopen its standard input", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/proc/self/fd/0"), Is(2)])]),
    attempt("A7", "rename a file", Wall::Landlock,
        &[Call("renameat2", &[CWD, Text("/dev/null"), CWD, Text("/dev/null"), NONE])]).reached(&[EBUSY]),
    attempt("A8", "truncate a file by path", Wall::Landlock,
        &[Call("truncate", &[Text("/dev/null"), NONE])]).reached(&[EINVAL]),
    attempt("A10a", "look at a file by path", Wall::Seccomp,
        &[Call("newfstatat", &[CWD, Text("/etc/passwd"), Zeros(256), NONE])]),
    attempt("A10b", "look at a file system", Wall::Seccomp, &[Call("statfs", &[Text("/"), Zeros(256)])]),
    attempt("A10c", "watch a directory", Wall::Seccomp,
        &[Call("inotify_init1", &[NONE]), Call("inotify_add_watch", &[Result(0), Text("/"), Is(1)])]),
    attempt("A10d", "list a directory", Wall::Landlock,
        &[Call("openat", &[CWD, Text("/"), Is(0o200000)]), Call("getdents64", &[Result(0), Zeros(1024), Is(1024)])]),
    attempt("A10e", "read extended attributes", Wall::Seccomp,
        &[Call("getxattr", &[Text("/etc/passwd"), Text("user.x"), NONE, NONE])]).reached(&[ENODATA, EOPNOTSUPP]),
    attempt("A11a", "change a file's mode", Wall::Seccomp,
        &[Call("fchmodat", &[CWD, Text("/dev/null"), Is(0o666)])]),
    attempt("A11b", "change a file's times", Wall::Seccomp,
        &[Call("utimensat", &[CWD, Text("/dev/null"), NONE, NONE])]),
    attempt("A11c", "remove a file", Wall::Landlock,
        &[Call("unlinkat", &[CWD, Text("/"), NONE])]).reached(&[EISDIR, EBUSY]),
    attempt("A11d", "link to a file", Wall::Landlock,
        &[Call("linkat", &[CWD, Text("/dev/null"), CWD, Text("/dev/null"), NONE])]).reached(&[EEXIST]),
    attempt("A12a", "make a device", Wall::Landlock,
        &[Call("mknodat", &[CWD, Text("/dev/null"), Is(0o20600), Is(0x103)])]).reached(&[EEXIST]),
    attempt("A12b", "make a directory", Wall::Landlock,
        &[Call("mkdirat", &[CWD, Text("/"), Is(0o700)])]).reached(&[EEXIST]),
];

#[rustfmt::skip]
const PROCESSES: &[Attempt] = &[
    attempt("B1a", "trace the server", Wall::Landlock,
        &[Call("ptrace", &[Is(0x4206), Server(0), NONE, NONE])]),
    attempt("B1b", "have itself traced", Wall::Seccomp, &[Call("ptrace", &[NONE, NONE, NONE, NONE])]),
    attempt("B2a", "read the server's memory", Wall::Landlock,
        &[Call("process_vm_readv", &[Server(0), NOWHERE, Is(1), NOWHERE, Is(1), NONE])]).reached(&[EFAULT]),
    attempt("B2b", "write the server's memory", Wall::Landlock,
        &[Call("process_vm_writev", &[Server(0), NOWHERE, Is(1), NOWHERE, Is(1), NONE])]).reached(&[EFAULT]),
    attempt("B3a", "get a handle of the server", Wall::Seccomp, &[Call("pidfd_open", &[Server(0), NONE])]),
    attempt("B3b", "take the server's descriptors", Wall::Landlock,
        &[Call("pidfd_open", &[Server(0), NONE]), Call("pidfd_getfd", &[Result(0), NONE, NONE])]),
    attempt("B4", "compare its kernel objects with the server's", Wall::Landlock,
        &[Call("kcmp", &[Own, Server(0), Is(1), NONE, NONE])]),
    attempt("B5", "use descriptors that the server left open", Wall::Descriptors, &[Deed(FIRST_FOREIGN)]),
    attempt("B6", "read secrets from its environment", Wall::Descriptors, &[Deed("environment")]),
    attempt("B7", "have its memory dumped", Wall::Rlimit,
        &[Call("prlimit64", &[NONE, Is(4), Words(&[ALL_ONES, ALL_ONES]), NONE])]),
    attempt("B8", "advise the kernel about the server's memory", Wall::Landlock,
        &[Call("pidfd_open", &[Server(0), NONE]),
          Call("process_madvise", &[Result(0), NOWHERE, Is(1), Is(20), NONE])]).reached(&[EFAULT, EINVAL]),
];

#[rustfmt::skip]
const SIGNALS: &[Attempt] = &[
    attempt("C1a", "signal the server", Wall::Landlock, &[Call("kill", &[Server(0), NONE])]),
    attempt("C1b", "signal a thread of the server", Wall::Landlock,
        &[Call("tgkill", &[Server(0), Server(0), NONE])]),
    attempt("C1c", "signal the server by its thread id alone", Wall::Landlock,
        &[Call("tkill", &[Server(0), NONE])]),
    attempt("C1d", "signal the server by a handle", Wall::Landlock,
        &[Call("pidfd_open", &[Server(0), NONE]), Call("pidfd_send_signal", &[Result(0), NONE, NONE, NONE])]),
    attempt("C1e", "queue a signal for the server", Wall::Landlock,
        &[Call("rt_sigqueueinfo", &[Server(0), NONE, Words(&[0, 0xFFFF_FFFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])])]),
    attempt("C2a", "signal everybody", Wall::Landlock, &[Call("kill", &[Is(-1), NONE])]),
    attempt("C2b", "signal the server's process group", Wall::Landlock,
        &[Call("kill", &[ServerGroup, NONE])]),
    attempt("C3", "signal the first process", Wall::Landlock, &[Call("kill", &[Is(1), NONE])]),
    attempt("C4a", "have the server signalled about a socket", Wall::Landlock,
        &[Call("fcntl", &[CONTROL, Is(8), Server(0)])]),
    attempt("C4b", "choose the signal of a socket", Wall::Seccomp,
        &[Call("fcntl", &[CONTROL, Is(10), Is(9)])]),
    attempt("C4c", "make a socket send signals", Wall::Seccomp,
        &[Call("fcntl", &[CONTROL, Is(4), Is(0o20000)])]),
    attempt("C5a", "read the server's limits", Wall::Kernel,
        &[Call("prlimit64", &[Server(0), Is(7), NONE, Zeros(16)])]),
    attempt("C5b", "set the server's limits", Wall::Kernel,
        &[Call("prlimit64", &[Server(0), Is(4), Words(&[0, 0]), NONE])]),
    attempt("C6a", "change the server's priority", Wall::Seccomp,
        &[Call("setpriority", &[NONE, Server(0), NONE])]),
    attempt("C6b", "bind the server to processors", Wall::Seccomp,
        &[Call("sched_setaffinity", &[Server(0), Is(8), Words(&[ALL_ONES])])]),
    attempt("C6c", "change the server's scheduling", Wall::Seccomp,
        &[Call("sched_setscheduler", &[Server(0), NONE, Zeros(8)])]),
    attempt("C6d", "change the server's disk priority", Wall::Seccomp,
        &[Call("ioprio_set", &[Is(1), Server(0), Is(0x4004)])]),
    attempt("C6e", "ask where the server runs", Wall::Seccomp,
        &[Call("sched_getaffinity", &[Server(0), Is(128), Zeros(128)])]),
    attempt("C8a", "outlive the server", Wall::Namespace, &[Call("prctl", &[Is(1), NONE])]),
    attempt("C8b", "begin another session", Wall::Seccomp, &[Call("setsid", &[])]),
    attempt("C10a", "fork", Wall::Seccomp, &[Call("clone", &[Is(17), NONE, NONE, NONE, NONE])]),
    attempt("C10b", "start a process as a library would", Wall::Seccomp,
        &[Call("clone3", &[Words(&[0, 0, 0, 0, 17, 0, 0, 0]), Is(64)])]),
];

#[rustfmt::skip]
const NETWORK: &[Attempt] = &[
    attempt("D1a", "open a TCP socket", Wall::Namespace, &[Call("socket", &[Is(2), Is(1), NONE])]),
    attempt("D1b", "open a TCP socket of IPv6", Wall::Namespace,
        &[Call("socket", &[Is(10), Is(1), NONE])]).reached(&[EAFNOSUPPORT]),
    attempt("D2a", "open a UDP socket", Wall::Namespace, &[Call("socket", &[Is(2), Is(2), NONE])]),
    attempt("D2b", "open a raw socket", Wall::Kernel, &[Call("socket", &[Is(2), Is(3), Is(255)])]),
    attempt("D2c", "open a netlink socket", Wall::Namespace,
        &[Call("socket", &[Is(16), Is(3), NONE])]).reached(&[EPROTONOSUPPORT]),
    attempt("D2d", "open a socket to the machine's host", Wall::Seccomp,
        &[Call("socket", &[Is(40), Is(1), NONE])]).reached(&[EAFNOSUPPORT]),
    attempt("D2e", "open a socket of the kernel's ciphers", Wall::Seccomp,
        &[Call("socket", &[Is(38), Is(5), NONE])]).reached(&[EAFNOSUPPORT]),
    attempt("D3a", "open a Unix socket", Wall::Seccomp, &[Call("socket", &[Is(1), Is(1), NONE])]),
    attempt("D3b", "make a pair of sockets", Wall::Seccomp,
        &[Call("socketpair", &[Is(1), Is(1), NONE, Zeros(8)])]),
    attempt("D3c", "send to another socket by its address", Wall::Seccomp,
        &[Call("sendto", &[PASSING, Zeros(8), Is(1), Is(0x4040), SOME_SOCKET, Is(5)])]).reached(&[libc::EISCONN, libc::ECONNREFUSED, ENOENT]),
    attempt("D7a", "connect its control socket elsewhere", Wall::Seccomp,
        &[Call("connect", &[CONTROL, SOME_SOCKET, Is(5)])]).reached(&[libc::EISCONN, libc::ECONNREFUSED, ENOENT]),
    attempt("D7b", "listen on its control socket", Wall::Seccomp,
        &[Call("listen", &[CONTROL, Is(1)])]).reached(&[EINVAL]),
    attempt("D7c", "set options of its control socket", Wall::Seccomp,
        &[Call("setsockopt", &[CONTROL, Is(1), Is(8), Words(&[1 << 20]), Is(4)])]),
    attempt("D7d", "half close its control socket", Wall::Seccomp, &[Call("shutdown", &[CONTROL, Is(2)])]),
    attempt("D9", "pass descriptors to the server", Wall::Seccomp,
        &[Call("sendmsg", &[PASSING, Zeros(56), Is(0x4040)])]).reached(&[ENOTCONN]),
    attempt("D10", "send many messages at once", Wall::Seccomp,
        &[Call("sendmmsg", &[PASSING, Zeros(64), Is(1), Is(0x4040)])]).reached(&[ENOTCONN]),
];

#[rustfmt::skip]
const PRIVILEGE: &[Attempt] = &[
    attempt("E1a", "execute /bin/true", Wall::Landlock, &[Call("execve", &[Text("/bin/true"), NONE, NONE])]),
    attempt("E1b", "execute /bin/true as the host executes plugins", Wall::Landlock,
        &[Call("execveat", &[Is(7), Text("/bin/true"), NONE, NONE, Is(0x1000), Is(1)])]),
    attempt("E2", "execute what it has in memory", Wall::Seccomp,
        &[Call("memfd_create", &[Text("x"), NONE]),
          Call("execveat", &[Result(0), Text(""), NONE, NONE, Is(0x1000)])]).reached(&[ENOEXEC]),
    attempt("E3", "execute descriptor 7 once more", Wall::Descriptors,
        &[Call("execveat", &[Is(7), Text(""), NONE, NONE, Is(0x1000)])]),
    attempt("E4a", "make a user namespace", Wall::Seccomp, &[Call("unshare", &[Is(0x1000_0000)])]),
    attempt("E4b", "make a mount namespace", Wall::Kernel, &[Call("unshare", &[Is(0x2_0000)])]),
    attempt("E4c", "make a process in a user namespace", Wall::Seccomp,
        &[Call("clone", &[Is(0x1000_0011), NONE, NONE, NONE, NONE])]),
    attempt("E4d", "enter a namespace", Wall::Kernel, &[Call("setns", &[NONE, NONE])]).reached(&[EINVAL]),
    attempt("E5a", "mount", Wall::Kernel,
        &[Call("mount", &[Text("none"), Text("/"), Text("nonesuch"), NONE, NONE])]).reached(&[ENODEV]),
    attempt("E5b", "unmount", Wall::Kernel, &[Call("umount2", &[Text("/"), Is(0x8000)])]).reached(&[EINVAL]),
    attempt("E5c", "change its root directory", Wall::Kernel, &[Call("chroot", &[Text("/")])]),
    attempt("E5d", "copy a mount tree", Wall::Kernel, &[Call("open_tree", &[CWD, Text("/"), Is(1)])]),
    attempt("E6a", "become root", Wall::Kernel, &[Call("setresuid", &[NONE, NONE, NONE])]),
    attempt("E6b", "join root's group", Wall::Kernel, &[Call("setgroups", &[Is(1), Words(&[0])])]),
    attempt("E6c", "take capabilities", Wall::Kernel,
        &[Call("capset", &[Words(&[0x2008_0522]), Words(&[ALL_ONES, ALL_ONES, ALL_ONES])])]),
    attempt("E6d", "have capabilities", Wall::Kernel, &[Deed("capabilities")]),
    attempt("E6e", "keep capabilities over a change of user", Wall::Seccomp,
        &[Call("prctl", &[Is(8), Is(1)])]),
    attempt("E8a", "map memory that is writable and executable", Wall::Seccomp,
        &[Call("mmap", &[NONE, Is(4096), Is(7), Is(0x22), Is(-1), NONE])]),
    attempt("E8b", "make written memory executable", Wall::Seccomp,
        &[Call("mmap", &[NONE, Is(4096), Is(3), Is(0x22), Is(-1), NONE]),
          Call("mprotect", &[Result(0), Is(4096), Is(5)])]),
    attempt("E8c", "map its region executable", Wall::Seccomp,
        &[Call("mmap", &[NONE, Is(4096), Is(5), Is(1), PLUGIN_REGION, NONE])]),
    attempt("E8d", "make memory executable by protection key", Wall::Seccomp,
        &[Call("mmap", &[NONE, Is(4096), Is(3), Is(0x22), Is(-1), NONE]),
          Call("pkey_mprotect", &[Result(0), Is(4096), Is(5), Is(-1)])]),
    attempt("E8e", "have all readable memory executable", Wall::Seccomp,
        &[Call("personality", &[Is(0x40_0000)])]),
    attempt("E9a", "enter the kernel as a 32-bit program", Wall::Seccomp, &[Deed("int80")]),
    attempt("E9b", "call by an x32 number", Wall::Seccomp, &[Number(0x4000_0027, &[])]),
    attempt("E9c", "call a negative number", Wall::Seccomp, &[Number(-1, &[])]),
    attempt("E10a", "read the server's limits, with a high half", Wall::Kernel,
        &[Call("prlimit64", &[Server(TWO_TO_32), Is(7), NONE, Zeros(16)])]),
    attempt("E10b", "signal the server, with a high half", Wall::Landlock,
        &[Call("tgkill", &[Server(TWO_TO_32), Server(0), NONE])]),
    attempt("E10c", "write to the server's region, with a high half", Wall::Seal,
        &[Call("write", &[Is(5 + TWO_TO_32), Zeros(8), Is(8)])]),
    attempt("E10d", "push characters into a terminal, with a high half", Wall::Seccomp,
        &[Call("ioctl", &[NONE, Is(0x5412 + TWO_TO_32), Text("x")])]).reached(&[ENOTTY, EIO]),
    attempt("E12a", "make itself dumpable", Wall::Seccomp, &[Call("prctl", &[Is(4), Is(1)])]),
    attempt("E12b", "let others trace it", Wall::Seccomp,
        &[Call("prctl", &[Is(0x5961_6D61), Is(-1)])]).reached(&[EINVAL]),
    attempt("E12c", "install a filter of its own", Wall::Seccomp,
        &[Call("seccomp", &[Is(1), NONE, NONE])]).reached(&[EFAULT]),
    attempt("E12d", "move a segment base", Wall::Seccomp, &[Call("arch_prctl", &[Is(0x1001), NONE])]),
];

#[rustfmt::skip]
const KERNEL: &[Attempt] = &[
    attempt("F1a", "set up io_uring", Wall::Seccomp, &[Call("io_uring_setup", &[Is(8), Zeros(120)])]),
    attempt("F1b", "enter io_uring", Wall::Seccomp,
        &[Call("io_uring_enter", &[NONE, NONE, NONE, NONE, NONE, NONE])]).reached(&[EOPNOTSUPP, EBADF]),
    attempt("F1c", "register with io_uring", Wall::Seccomp,
        &[Call("io_uring_register", &[NONE, NONE, NONE, NONE])]).reached(&[EOPNOTSUPP, EBADF]),
    attempt("F2", "handle its own page faults", Wall::Seccomp, &[Call("userfaultfd", &[Is(1)])]),
    attempt("F4a", "load a program into the kernel", Wall::Kernel,
        &[Call("bpf", &[NONE, Zeros(72), Is(72)])]).reached(&[EINVAL]),
    attempt("F4b", "count events", Wall::Kernel,
        &[Call("perf_event_open", &[Words(&[0x80_0000_0001, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), NONE, Is(-1), Is(-1), NONE])]).reached(&[ENOENT, EINVAL]),
    attempt("F6a", "make System V shared memory", Wall::Seccomp,
        &[Call("shmget", &[NONE, Is(4096), Is(0o1600)])]).tidied(&[Call("shmctl", &[Result(0), NONE, NONE])]),
    attempt("F6b", "make System V semaphores", Wall::Seccomp,
        &[Call("semget", &[NONE, Is(1), Is(0o1600)])]).tidied(&[Call("semctl", &[Result(0), NONE, NONE, NONE])]),
    attempt("F6c", "make a message queue", Wall::Rlimit,
        &[Call("mq_open", &[Text("photondb-probe"), Is(0o102), Is(0o600), NONE])]).tidied(&[Call("mq_unlink", &[Text("photondb-probe")])]),
    attempt("F7a", "find the session's keys", Wall::Seccomp, &[Call("keyctl", &[NONE, Is(-3), NONE])]),
    attempt("F7b", "add a key", Wall::Seccomp,
        &[Call("add_key", &[Text("user"), Text("photondb-probe"), Text("x"), Is(1), Is(-2)])]),
    attempt("F8a", "take a priority-inheriting lock", Wall::Seccomp,
        &[Call("futex", &[Zeros(8), Is(6), NONE, NONE])]),
    attempt("F8b", "requeue waiters", Wall::Seccomp,
        &[Call("futex", &[Zeros(8), Is(3), NONE, NONE, Zeros(8)])]),
    attempt("F9a", "read the server's processor clock", Wall::Seccomp,
        &[Call("clock_gettime", &[ServerClock, Zeros(16)])]),
    attempt("F9b", "make a timer", Wall::Seccomp, &[Call("timer_create", &[NONE, NONE, Zeros(8)])]),
    attempt("F9c", "make a timer descriptor", Wall::Seccomp, &[Call("timerfd_create", &[NONE, NONE])]),
    attempt("F9d", "set the clock", Wall::Kernel, &[Call("clock_settime", &[NONE, NONE])]).reached(&[EFAULT]),
    attempt("F10a", "push characters into a terminal", Wall::Seccomp,
        &[Call("ioctl", &[NONE, Is(0x5412), Text("x")])]).reached(&[ENOTTY, EIO]),
    attempt("F10b", "steer the console", Wall::Seccomp,
        &[Call("ioctl", &[NONE, Is(0x541C), Text("x")])]).reached(&[ENOTTY]),
    attempt("F11a", "read the kernel's log", Wall::Kernel, &[Call("syslog", &[Is(10), NONE, NONE])]),
    attempt("F11b", "load a module", Wall::Kernel,
        &[Call("finit_module", &[NONE, Text(""), NONE])]).reached(&[ENOEXEC, EINVAL, EBADF]),
    attempt("F11c", "restart the machine", Wall::Kernel,
        &[Call("reboot", &[NONE, NONE, NONE, NONE])]).reached(&[EINVAL]),
    attempt("F11d", "get access to ports", Wall::Kernel, &[Call("iopl", &[Is(3)])]),
    attempt("F11e", "watch all files", Wall::Kernel, &[Call("fanotify_init", &[NONE, NONE])]),
    attempt("F11f", "have secret memory", Wall::Seccomp, &[Call("memfd_secret", &[NONE])]),
    attempt("F12", "call a number that is newer than the filter", Wall::Kernel, &[Number(1000, &[])]),
];

#[rustfmt::skip]
const MEMORY: &[Attempt] = &[
    attempt("H1a", "truncate the server's region", Wall::Seal, &[Call("ftruncate", &[SERVER_REGION, NONE])]),
    attempt("H1b", "truncate its own region", Wall::Seal, &[Call("ftruncate", &[PLUGIN_REGION, NONE])]),
    attempt("H2", "grow its own region", Wall::Seal, &[Call("ftruncate", &[PLUGIN_REGION, Is(1 << 40)])]),
    attempt("H3a", "write to the server's region", Wall::Seal,
        &[Call("write", &[SERVER_REGION, Zeros(8), Is(8)])]),
    attempt("H3b", "write to the server's region at a place", Wall::Seal,
        &[Call("pwrite64", &[SERVER_REGION, Zeros(8), Is(8), NONE])]),
    attempt("H3c", "map the server's region for writing", Wall::Seal,
        &[Call("mmap", &[NONE, Is(4096), Is(3), Is(1), SERVER_REGION, NONE])]),
    attempt("H3d", "make its view of the server's region writable", Wall::Seal,
        &[Call("mmap", &[NONE, Is(4096), Is(1), Is(1), SERVER_REGION, NONE]),
          Call("mprotect", &[Result(0), Is(4096), Is(3)])]),
    attempt("H3e", "store into the server's region", Wall::Seal, &[Deed("store 5")]),
    attempt("H3f", "copy a file into the server's region", Wall::Seal,
        &[Call("sendfile", &[SERVER_REGION, PLUGIN_REGION, NONE, Is(8)])]),
    attempt("H3g", "copy a range into the server's region", Wall::Seal,
        &[Call("copy_file_range", &[PLUGIN_REGION, NONE, SERVER_REGION, NONE, Is(8), NONE])]),
    attempt("H3h", "splice into the server's region", Wall::Seal,
        &[Call("splice", &[PLUGIN_REGION, NONE, SERVER_REGION, NONE, Is(8), NONE])]).reached(&[EINVAL, ESPIPE]),
    attempt("H4a", "punch a hole into the server's region", Wall::Seal,
        &[Call("fallocate", &[SERVER_REGION, Is(3), NONE, Is(4096)])]),
    attempt("H4b", "punch a hole into its own region", Wall::Seccomp,
        &[Call("fallocate", &[PLUGIN_REGION, Is(3), NONE, Is(4096)])]),
    attempt("H4c", "take pages out of the server's region", Wall::Seal,
        &[Call("mmap", &[NONE, Is(4096), Is(1), Is(1), SERVER_REGION, NONE]),
          Call("madvise", &[Result(0), Is(4096), Is(9)])]),
    attempt("H4d", "take pages out of its own region", Wall::Seccomp,
        &[Call("mmap", &[NONE, Is(4096), Is(3), Is(1), PLUGIN_REGION, NONE]),
          Call("madvise", &[Result(0), Is(4096), Is(9)])]),
    attempt("H5", "seal its own region further", Wall::Seal,
        &[Call("fcntl", &[PLUGIN_REGION, Is(1033), Is(8)])]),
    attempt("H20", "change the mode of the server's region", Wall::Seccomp,
        &[Call("fchmod", &[SERVER_REGION, Is(0o777)])]),
];

#[rustfmt::skip]
const EXHAUSTION: &[Attempt] = &[
    attempt("G1", "fork without end", Wall::Rlimit,
        &[Repeat(1000, "clone", &[Is(17), NONE, NONE, NONE, NONE])]),
    attempt("G2", "start threads without end", Wall::Rlimit, &[DeedWithThreads("threads")]),
    attempt("G3", "take memory without end", Wall::Rlimit,
        &[Repeat(4096, "mmap", &[NONE, Is(1 << 30), Is(3), Is(0x4022), Is(-1), NONE])]),
    attempt("G4a", "make a memory file", Wall::Rlimit, &[Call("memfd_create", &[Text("x"), NONE])]),
    attempt("G4b", "fill a pipe", Wall::Seccomp, &[Call("pipe2", &[Zeros(8), NONE])]),
    attempt("G4c", "share memory that no limit counts", Wall::Seccomp,
        &[Call("mmap", &[NONE, Is(4096), Is(3), Is(0x21), Is(-1), NONE])]),
    attempt("G4d", "grow its own region by writing", Wall::Seal,
        &[Call("lseek", &[PLUGIN_REGION, NONE, Is(2)]), Call("write", &[PLUGIN_REGION, Zeros(8), Is(8)])]),
    attempt("G5", "raise its own limits", Wall::Rlimit,
        &[Call("prlimit64", &[NONE, Is(7), Words(&[1 << 20, 1 << 20]), NONE])]),
    attempt("G6a", "open descriptors without end", Wall::Rlimit, &[Repeat(4096, "epoll_create1", &[NONE])]),
    attempt("G6b", "copy descriptors without end", Wall::Rlimit,
        &[Repeat(4096, "fcntl", &[NONE, Is(1030), NONE])]),
    attempt("G7a", "run before everybody else", Wall::Rlimit,
        &[Call("sched_setscheduler", &[NONE, Is(1), Words(&[1])])]),
    attempt("G7b", "raise its own priority", Wall::Rlimit, &[Call("setpriority", &[NONE, NONE, Is(-20)])]),
    attempt("G9", "lock memory", Wall::Rlimit, &[Call("mlockall", &[Is(3)])]),
    attempt("G10", "have a directory of its own to fill", Wall::Landlock,
        &[Call("chdir", &[Text("/tmp")]),
          Call("openat", &[CWD, Text("photondb-probe"), Is(0o101), Is(0o600)])])
        .tidied(&[Call("unlinkat", &[CWD, Text("photondb-probe"), NONE])]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use photondb_sandbox_profiles::syscalls::Arch;

    use super::*;
    use crate::probe::Target;

    #[test]
    fn attempts_have_names_of_their_own_and_scripts_on_both_architectures() {
        let ids: BTreeSet<_> = all().map(|attempt| attempt.id).collect();
        let names: BTreeSet<_> = all().map(|attempt| attempt.name).collect();
        assert_eq!((ids.len(), names.len()), (all().count(), all().count()));
        for arch in Arch::ALL {
            let target = Target { server: 4711, threads: 17, arch };
            let left_out: Vec<_> = all().filter(|attempt| attempt.script(&target).is_none()).map(|it| it.id).collect();
            match arch {
                Arch::x86_64 => assert_eq!(left_out, [""; 0]),
                Arch::aarch64 => assert_eq!(left_out, ["E9a", "E12d", "F11d"]),
            }
        }
    }
}
