//! B and C: other processes, their memory and descriptors, signals and scheduling.

use std::process;
use std::{fs, hint, thread};

use super::kernel::{Target, attempt, call, outcome, signed};
use super::{Attack, memory};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("b1_ptrace_attach", |target| attempt(libc::SYS_ptrace, &[libc::PTRACE_ATTACH as usize, pid(target)])),
    Attack::new("b1_ptrace_seize", |target| attempt(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, pid(target)])),
    Attack::new("b2_read_memory", |target| vm(libc::SYS_process_vm_readv, target)),
    Attack::new("b2_write_memory", |target| vm(libc::SYS_process_vm_writev, target)),
    Attack::new("b3_pidfd_open", |target| attempt(libc::SYS_pidfd_open, &[pid(target), 0])),
    Attack::new("b3_pidfd_getfd", |target| {
        outcome(call(libc::SYS_pidfd_open, &[pid(target), 0]).and_then(|fd| call(libc::SYS_pidfd_getfd, &[fd, 1, 0])))
    }),
    Attack::new("b3_compare", |target| attempt(libc::SYS_kcmp, &[process::id() as usize, pid(target), 0])),
    Attack::new("b5_inherited_descriptors", |_| {
        let open = |fd: &usize| call(libc::SYS_fcntl, &[*fd, libc::F_GETFD as usize]).is_ok();
        // Up to 6 those of the protocol, and what the runtime of the SDK has opened since.
        let descriptors: Vec<usize> = (0..4096).filter(open).collect();
        let foreign = descriptors.iter().filter(|fd| **fd > 16).count();
        format!("{foreign} foreign descriptors")
    }),
    Attack::new("b6_environment", |_| {
        let (variables, arguments) = (std::env::vars_os().count(), std::env::args_os().count());
        format!("{variables} variables, {arguments} argument")
    }),
    Attack::new("b7_dump_core", |_| process::abort()),
    Attack::new("b8_guess_a_region", |_| {
        let others = (7..1024).filter(|&fd| memory::map_writable(fd).is_ok()).count();
        format!("{others} regions")
    }),
    Attack::new("b9_stale_rows", |_| memory::count_stale()),
    Attack::new("c1_kill", |target| attempt(libc::SYS_kill, &[pid(target), 0])),
    Attack::new("c1_tkill", |target| attempt(libc::SYS_tkill, &[pid(target), 0])),
    Attack::new("c1_tgkill", |target| attempt(libc::SYS_tgkill, &[pid(target), pid(target), 0])),
    Attack::new("c1_queue", |target| {
        let info = [0_u64; 16];
        attempt(libc::SYS_rt_sigqueueinfo, &[pid(target), 0, info.as_ptr() as usize])
    }),
    Attack::new("c1_pidfd_signal", |target| {
        let signal = call(libc::SYS_pidfd_open, &[pid(target), 0])
            .and_then(|fd| call(libc::SYS_pidfd_send_signal, &[fd, 0, 0, 0]));
        outcome(signal)
    }),
    Attack::new("c1_owner_of_signals", |target| {
        attempt(libc::SYS_fcntl, &[super::CONTROL as usize, libc::F_SETOWN as usize, pid(target)])
    }),
    Attack::new("c2_kill_all", |_| attempt(libc::SYS_kill, &[signed(-1), 0])),
    Attack::new("c2_kill_group", |target| attempt(libc::SYS_kill, &[signed(-target.pid), 0])),
    Attack::new("c3_kill_init", |_| attempt(libc::SYS_kill, &[1, 0])),
    Attack::new("c5_limits", |target| {
        // Reads them: who may read may also set.
        let limits = [0_u64; 2];
        attempt(libc::SYS_prlimit64, &[pid(target), libc::RLIMIT_NOFILE as usize, 0, limits.as_ptr() as usize])
    }),
    Attack::new("c5_own_limits", |_| {
        let limits = [8_u64, 8];
        attempt(libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE as usize, limits.as_ptr() as usize, 0])
    }),
    Attack::new("c5_priority", |target| attempt(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, pid(target), 0])),
    Attack::new("c5_affinity", |target| {
        let mask = [u64::MAX; 16];
        attempt(libc::SYS_sched_setaffinity, &[pid(target), 128, mask.as_ptr() as usize])
    }),
    Attack::new("c5_scheduler", |target| {
        let priority = 0_i32;
        attempt(libc::SYS_sched_setscheduler, &[pid(target), 0, (&raw const priority) as usize])
    }),
    Attack::new("c5_io_priority", |target| attempt(libc::SYS_ioprio_set, &[1, pid(target), 0x4004])),
    Attack::new("c8_outlive_the_server", |_| attempt(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize, 0])),
    Attack::new("c8_new_session", |_| attempt(libc::SYS_setsid, &[])),
    Attack::new("c8_subreaper", |_| attempt(libc::SYS_prctl, &[libc::PR_SET_CHILD_SUBREAPER as usize, 1])),
    Attack::new("c9_ignore_all_signals", |_| {
        for signal in 1..32 {
            // SAFETY: to ignore a signal runs no code; those that can't be ignored are an error.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        let all = [u64::MAX; 1];
        let _ = call(libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as usize, all.as_ptr() as usize, 0, 8]);
        loop {
            hint::spin_loop();
        }
    }),
    Attack::new("c10_fork", |_| attempt(libc::SYS_fork, &[])),
    // A call of its own: the child would go on with this stack.
    Attack::new("c10_vfork", |_| attempt(libc::SYS_vfork, &[])),
    Attack::new("c10_clone_process", |_| attempt(libc::SYS_clone, &[libc::SIGCHLD as usize])),
    Attack::new("c10_clone_parent", |_| attempt(libc::SYS_clone, &[(libc::CLONE_PARENT | libc::SIGCHLD) as usize])),
    Attack::new("c10_standard_library", |_| outcome(process::Command::new("/bin/true").spawn())),
    Attack::new("c10_wait_for_others", |_| attempt(libc::SYS_wait4, &[signed(-1), 0, libc::WNOHANG as usize])),
    Attack::new("c10_who_is_my_parent", |_| attempt(libc::SYS_getppid, &[])),
    Attack::new("c10_list_processes", |_| outcome(fs::read_dir("/proc"))),
    Attack::new("c10_many_yields", |_| {
        (0..100_000).for_each(|_| thread::yield_now());
        "yielded".into()
    }),
];

fn pid(target: &Target) -> usize {
    signed(target.pid)
}

/// Reads or writes eight bytes of the target's memory, at an address that only luck would hit.
fn vm(number: libc::c_long, target: &Target) -> String {
    let mut bytes = [0_u8; 8];
    let local = [bytes.as_mut_ptr() as usize, bytes.len()];
    let remote = [0x1000_usize, bytes.len()];
    match call(number, &[pid(target), local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0]) {
        // The kernel had no objection but to the address.
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => "it worked".into(),
        other => outcome(other),
    }
}
