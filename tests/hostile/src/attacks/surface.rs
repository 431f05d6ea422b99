//! F: parts of the kernel that a plugin has no use for.

use super::kernel::{address, attempt, call, outcome, signed};
use super::{Attack, CONTROL};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("f1_io_uring", |_| {
        let parameters = [0_u64; 15];
        attempt(libc::SYS_io_uring_setup, &[4, parameters.as_ptr() as usize])
    }),
    Attack::new("f1_io_uring_register", |_| attempt(libc::SYS_io_uring_register, &[0, 0, 0, 0])),
    Attack::new("f1_native_aio", |_| {
        let context = 0_u64;
        attempt(libc::SYS_io_setup, &[1, (&raw const context) as usize])
    }),
    Attack::new("f2_userfaultfd", |_| attempt(libc::SYS_userfaultfd, &[1])),
    Attack::new("f4_bpf", |_| {
        let attributes = [0_u64; 16];
        attempt(libc::SYS_bpf, &[0, attributes.as_ptr() as usize, 128])
    }),
    Attack::new("f4_perf", |_| {
        let mut attributes = [0_u64; 16];
        attributes[0] = 1 | 128 << 32;
        attempt(libc::SYS_perf_event_open, &[attributes.as_ptr() as usize, 0, signed(-1), signed(-1), 0])
    }),
    Attack::new("f4_load_module", |_| attempt(libc::SYS_init_module, &[0, 0, address(c"")])),
    Attack::new("f4_kexec", |_| attempt(libc::SYS_kexec_load, &[0, 0, 0, 0])),
    // Without its magic numbers: an error wherever it got through.
    Attack::new("f4_reboot", |_| attempt(libc::SYS_reboot, &[0, 0, 0])),
    Attack::new("f4_kernel_log", |_| attempt(libc::SYS_syslog, &[10, 0, 0])),
    Attack::new("f4_set_the_time", |_| attempt(libc::SYS_settimeofday, &[0, 0])),
    #[cfg(target_arch = "x86_64")]
    Attack::new("f4_ports", |_| attempt(libc::SYS_ioperm, &[0x80, 1, 1])),
    #[cfg(target_arch = "x86_64")]
    Attack::new("f4_local_descriptors", |_| attempt(libc::SYS_modify_ldt, &[0, 0, 0])),
    Attack::new("f6_shared_memory", |_| attempt(libc::SYS_shmget, &[0, 4096, 0o1600])),
    Attack::new("f6_semaphores", |_| attempt(libc::SYS_semget, &[0, 1, 0o1600])),
    Attack::new("f6_messages", |_| attempt(libc::SYS_msgget, &[0, 0o1600])),
    Attack::new("f6_message_queue", |_| attempt(libc::SYS_mq_open, &[address(c"photondb"), 0o102, 0o600, 0])),
    Attack::new("f8_futex_inheriting", |_| futex(libc::FUTEX_LOCK_PI)),
    Attack::new("f8_futex_requeue", |_| futex(libc::FUTEX_CMP_REQUEUE_PI)),
    Attack::new("f8_futex_operation", |_| futex(libc::FUTEX_WAKE_OP)),
    Attack::new("f8_futex_waitv", |_| attempt(libc::SYS_futex_waitv, &[0, 1, 0, 0, 0])),
    Attack::new("f9_clock_of_a_device", |_| {
        let mut time = [0_i64; 2];
        // A clock behind descriptor 3: `(~3 << 3) | 3`.
        attempt(libc::SYS_clock_gettime, &[signed((!3 << 3) | 3), time.as_mut_ptr() as usize])
    }),
    Attack::new("f9_clock_of_a_process", |target| {
        let mut time = [0_i64; 2];
        attempt(libc::SYS_clock_gettime, &[signed((!target.pid << 3) | 2), time.as_mut_ptr() as usize])
    }),
    Attack::new("f9_timer", |_| {
        let mut timer = 0_i32;
        attempt(libc::SYS_timer_create, &[0, 0, (&raw mut timer) as usize])
    }),
    Attack::new("f9_timerfd", |_| attempt(libc::SYS_timerfd_create, &[1, 0])),
    Attack::new("f9_alarm", |_| {
        let interval = [0_i64, 1000, 0, 1000];
        attempt(libc::SYS_setitimer, &[0, interval.as_ptr() as usize, 0])
    }),
    Attack::new("f9_signalfd", |_| {
        let mask = u64::MAX;
        attempt(libc::SYS_signalfd4, &[signed(-1), (&raw const mask) as usize, 8, 0])
    }),
    Attack::new("f10_type_into_terminal", |_| attempt(libc::SYS_ioctl, &[1, libc::TIOCSTI as usize, address(c"x")])),
    Attack::new("f10_steal_terminal", |_| attempt(libc::SYS_ioctl, &[0, libc::TIOCSCTTY as usize, 1])),
    Attack::new("f10_unread_bytes", |_| {
        let mut count = 0_i32;
        attempt(libc::SYS_ioctl, &[CONTROL as usize, libc::FIONREAD as usize, (&raw mut count) as usize])
    }),
    Attack::new("f10_async_signals", |_| {
        let on = 1_i32;
        attempt(libc::SYS_ioctl, &[CONTROL as usize, libc::FIOASYNC as usize, (&raw const on) as usize])
    }),
    Attack::new("f12_unknown_calls", |_| {
        let answered = (600..1200)
            .filter(|number| call(*number, &[]).err().and_then(|error| error.raw_os_error()) != Some(libc::ENOSYS));
        format!("{} unknown calls answered", answered.count())
    }),
    Attack::new("f12_negative_call", |_| outcome(call(-2, &[]))),
    Attack::new("f12_membarrier", |_| attempt(libc::SYS_membarrier, &[1, 0, 0])),
    Attack::new("f12_name", |_| {
        let mut name = [0_u8; 390];
        attempt(libc::SYS_uname, &[name.as_mut_ptr() as usize])
    }),
    Attack::new("f12_load", |_| {
        let mut information = [0_u64; 16];
        attempt(libc::SYS_sysinfo, &[information.as_mut_ptr() as usize])
    }),
];

fn futex(operation: i32) -> String {
    let word = 0_u32;
    attempt(libc::SYS_futex, &[(&raw const word) as usize, operation as usize, 1, 0, (&raw const word) as usize, 0])
}
