//! J and K: how it behaves and what it prints. X: what is on no list.

use std::arch::asm;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{hint, process, ptr, thread};

use super::kernel::{address, attempt, call, outcome, signed};
use super::{Attack, CONTROL, PASSING, control, memory};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("j2_never_reply", |_| {
        loop {
            thread::park();
        }
    }),
    // Slow, and honest.
    Attack::new("j3_slow_poison", |_| {
        thread::sleep(Duration::from_millis(250));
        "rested".into()
    }),
    Attack::new("j5_panic", |_| panic!("the author did not think of this")),
    Attack::new("j6_never_the_same", |_| {
        static ANSWERS: AtomicU64 = AtomicU64::new(0);
        format!("answer {}", ANSWERS.fetch_add(1, Ordering::Relaxed))
    }),
    Attack::new("j8_refuse_to_leave", |_| {
        // The runtime ends the process when the server hangs up; with its thread stuck in here, nothing does.
        let _ = thread::Builder::new().spawn(|| {
            loop {
                hint::spin_loop();
            }
        });
        let _ = call(libc::SYS_close, &[CONTROL as usize]);
        "staying".into()
    }),
    Attack::new("j8_answer_too_late", |_| {
        thread::sleep(Duration::from_millis(5500));
        "late".into()
    }),
    Attack::new("k1_flood_stdout", |_| {
        flood(1);
        "flooded".into()
    }),
    Attack::new("k1_flood_stderr", |_| {
        flood(2);
        "flooded".into()
    }),
    Attack::new("k2_escapes", |_| {
        println!("\x1b]52;c;cHduZWQ=\x07\x1b[2J\u{9b}31m\u{202e}drawkcab\u{2028}next\x07");
        "printed".into()
    }),
    Attack::new("k4_endless_line", |_| {
        let chunk = vec![b'x'; 64 << 10];
        (0..256).for_each(|_| drop(std::io::stdout().write_all(&chunk)));
        "printed".into()
    }),
    Attack::new("k4_no_text", |_| {
        let _ = std::io::stderr().write_all(b"\xff\xfe\x00\xc3\x28\xf0\x9f\n");
        "printed".into()
    }),
    Attack::new("k4_close_output", |_| {
        let _ = call(libc::SYS_close, &[1]);
        let _ = call(libc::SYS_close, &[2]);
        "closed".into()
    }),
    Attack::new("k5_error_text", |_| {
        format!("error: \x1b[31m<script>alert(1)</script>\u{202e}\n\r\0{}", "x".repeat(100 << 10))
    }),
    Attack::new("k5_panic_text", |_| panic!("\x1b[31mpanic\x07\n{}", "y".repeat(100 << 10))),
    Attack::new("k5_huge_answer", |_| "x".repeat(4 << 20)),
    // --- on no list -------------------------------------------------------------------------------------------------
    Attack::new("x_stop_itself", |_| signal_itself(libc::SIGSTOP)),
    Attack::new("x_kill_itself", |_| signal_itself(libc::SIGKILL)),
    Attack::new("x_trap_itself", |_| signal_itself(libc::SIGTRAP)),
    Attack::new("x_close_everything", |_| {
        (0..64).for_each(|fd| drop(call(libc::SYS_close, &[fd])));
        "closed".into()
    }),
    Attack::new("x_fill_control", |_| {
        while control::send(&[0; 4096]).is_ok() {}
        "it worked".into()
    }),
    Attack::new("x_fill_passing", |_| {
        let packet = [0_u8; 4096];
        let to = [PASSING as usize, packet.as_ptr() as usize, packet.len(), libc::MSG_DONTWAIT as usize, 0, 0];
        while call(libc::SYS_sendto, &to).is_ok() {}
        "filled".into()
    }),
    Attack::new("x_steal_pings", |_| {
        // Reads what is meant for the runtime.
        loop {
            let mut bytes = [0_u8; 4096];
            let _ = call(libc::SYS_read, &[CONTROL as usize, bytes.as_mut_ptr() as usize, bytes.len()]);
        }
    }),
    Attack::new("x_odd_clone", |_| {
        // A thread, but with a memory of its own.
        attempt(libc::SYS_clone, &[(libc::CLONE_FS | libc::CLONE_FILES | libc::SIGCHLD) as usize])
    }),
    Attack::new("x_clone_without_stack", |_| {
        attempt(libc::SYS_clone, &[(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as usize])
    }),
    Attack::new("x_clone_traced", |_| attempt(libc::SYS_clone, &[(libc::CLONE_UNTRACED | libc::SIGCHLD) as usize])),
    #[cfg(target_arch = "x86_64")]
    Attack::new("x_forged_signal_frame", |_| {
        // SAFETY: none: the kernel takes whatever is on the stack for a saved state, and ends who can't be restored.
        unsafe { asm!("xor rsp, rsp", "mov eax, 15", "syscall", options(noreturn)) }
    }),
    #[cfg(target_arch = "x86_64")]
    Attack::new("x_pivot_the_stack", |_| {
        // SAFETY: none: the next push has nowhere to go.
        unsafe { asm!("mov rsp, 0x1000", "push rax", options(noreturn)) }
    }),
    #[cfg(target_arch = "x86_64")]
    Attack::new("x_privileged_instruction", |_| {
        // SAFETY: none: user code that stops the processor is ended.
        unsafe { asm!("hlt", options(noreturn)) }
    }),
    #[cfg(target_arch = "x86_64")]
    Attack::new("x_vsyscall", |_| {
        let time: usize;
        // SAFETY: a page that the kernel maps for old programs, or none: then this process ends.
        unsafe {
            asm!("call {page}", page = in(reg) 0xffff_ffff_ff60_0400_usize, in("rdi") 0, out("rax") time,
                out("rcx") _, out("r11") _, out("rsi") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _)
        };
        // The errno of the filter, as a system call gives it.
        let refused = -(time as isize);
        if (1..4096).contains(&refused) { format!("refused: error {refused}") } else { format!("it worked: {time}") }
    }),
    Attack::new("x_robust_list", |_| {
        // A list of locks that ends nowhere, which the kernel walks when the thread ends.
        let _ = thread::Builder::new().stack_size(128 << 10).spawn(|| {
            let head: [usize; 3] = [memory::SOMEWHERE, 0, memory::SOMEWHERE];
            let _ = call(libc::SYS_set_robust_list, &[head.as_ptr() as usize, 24]);
        });
        "ended".into()
    }),
    Attack::new("x_clear_a_word_at_exit", |_| {
        // The kernel clears this word when the thread ends: one that this process may not write.
        let _ = thread::Builder::new().stack_size(128 << 10).spawn(|| {
            let _ = call(libc::SYS_set_tid_address, &[memory::SOMEWHERE]);
        });
        "ended".into()
    }),
    Attack::new("x_restartable_sequence", |_| attempt(libc::SYS_rseq, &[memory::SOMEWHERE, 32, 0, 0])),
    Attack::new("x_restart_a_call", |_| attempt(libc::SYS_restart_syscall, &[])),
    Attack::new("x_handle_every_fault", |_| {
        extern "C" fn handler(_: i32) {}
        // SAFETY: the handler does nothing, so that the fault comes again and again.
        unsafe { libc::signal(libc::SIGSEGV, handler as *const () as usize) };
        // SAFETY: none: nothing is mapped there.
        unsafe { ptr::without_provenance_mut::<u8>(memory::SOMEWHERE).write_volatile(1) };
        "it worked".into()
    }),
    Attack::new("x_exit_of_the_first_thread", |_| {
        // The first thread holds the control connection. It can't be ended from here but with the whole process.
        attempt(libc::SYS_tgkill, &[process::id() as usize, process::id() as usize, libc::SIGTERM as usize])
    }),
    Attack::new("x_exit_of_the_lane", |_| {
        // Ends the thread that would answer, and nothing else.
        let _ = call(libc::SYS_exit, &[0]);
        "it worked".into()
    }),
    Attack::new("x_unknown_descriptors", |_| {
        (8..10_000).for_each(|fd| drop(call(libc::SYS_write, &[fd, address(c"x"), 1])));
        "wrote nowhere".into()
    }),
    Attack::new("x_write_executable", |_| attempt(libc::SYS_write, &[super::EXECUTABLE as usize, address(c"x"), 1])),
    Attack::new("x_seek_and_read_region", |_| {
        // The offset of the description is shared with the server, which must not rely on it.
        let _ = call(libc::SYS_lseek, &[super::SERVER_REGION as usize, 1 << 40, 0]);
        let _ = call(libc::SYS_lseek, &[super::PLUGIN_REGION as usize, 1 << 40, 0]);
        "moved".into()
    }),
    Attack::new("x_lock_a_region", |_| {
        attempt(libc::SYS_flock, &[super::PLUGIN_REGION as usize, (libc::LOCK_EX | libc::LOCK_NB) as usize])
    }),
    Attack::new("x_lease_a_region", |_| attempt(libc::SYS_fcntl, &[super::PLUGIN_REGION as usize, 1024, 1])),
    Attack::new("x_dup_over_regions", |_| attempt(libc::SYS_dup2, &[1, super::SERVER_REGION as usize])),
    Attack::new("x_read_own_file", |_| outcome(call(libc::SYS_openat, &[signed(-100), address(c"/proc/self/exe"), 0]))),
    Attack::new("x_own_memory_by_path", |_| {
        outcome(call(libc::SYS_openat, &[signed(-100), address(c"/proc/self/mem"), libc::O_RDWR as usize]))
    }),
    Attack::new("x_rename_itself", |_| attempt(libc::SYS_prctl, &[libc::PR_SET_NAME as usize, address(c"photondb")])),
    Attack::new("x_path_without_end", |_| {
        // A path at the end of a page, without an end: who reads it must stop there.
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        let page = call(libc::SYS_mmap, &[0, 8192, 3, flags, signed(-1), 0]).unwrap_or_default();
        let _ = call(libc::SYS_munmap, &[page + 4096, 4096]);
        // SAFETY: the page that was just mapped.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(page).write_bytes(b'a', 4096) };
        attempt(libc::SYS_openat, &[signed(-100), page + 4000, 0])
    }),
    Attack::new("x_path_that_acts", |_| {
        let path = c"\x1b]0;owned\x07\x1b[2J/etc/\xe2\x80\xae";
        attempt(libc::SYS_openat, &[signed(-100), address(path), 0])
    }),
    Attack::new("x_path_nowhere", |_| attempt(libc::SYS_openat, &[signed(-100), memory::SOMEWHERE, 0])),
    Attack::new("x_denied_in_many_threads", |_| {
        for _ in 0..8 {
            let _ = thread::Builder::new().stack_size(128 << 10).spawn(|| {
                let _ = call(libc::SYS_socket, &[2, 1, 0]);
            });
        }
        attempt(libc::SYS_socket, &[2, 1, 0])
    }),
    Attack::new("x_last_words", |_| {
        (0..100).for_each(|line| eprintln!("{line} {}", "x".repeat(500)));
        eprintln!("the very last words");
        process::abort()
    }),
];

fn signal_itself(signal: i32) -> String {
    let own = process::id() as usize;
    let _ = call(libc::SYS_tgkill, &[own, call(libc::SYS_gettid, &[]).unwrap_or(own), signal as usize]);
    // A signal that stops or kills comes first.
    thread::sleep(Duration::from_secs(20));
    "it worked".into()
}

fn flood(descriptor: usize) {
    let line = b"\x1b[2Jline after line after line\n";
    for _ in 0..50_000 {
        // An error: nobody reads any more.
        let _ = call(libc::SYS_write, &[descriptor, line.as_ptr() as usize, line.len()]);
    }
}
