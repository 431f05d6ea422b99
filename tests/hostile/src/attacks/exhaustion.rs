//! G: too much of everything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{hint, process, thread};

use super::kernel::{address, attempt, call, outcome, signed};
use super::{Attack, CONTROL, PASSING, control, memory};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("g1_fork_bomb", |_| {
        for _ in 0..100 {
            let _ = call(libc::SYS_clone, &[libc::SIGCHLD as usize]);
        }
        "it worked".into()
    }),
    Attack::new("g2_thread_bomb", |_| {
        let mut threads = 0;
        // Far more than were granted, and so few that what a runtime opens for each of them is not what it is stopped for.
        while threads < 200 && thread::Builder::new().stack_size(64 << 10).spawn(thread::park).is_ok() {
            threads += 1;
        }
        if threads < 100 { "bounded".into() } else { format!("{threads} threads") }
    }),
    Attack::new("g2_thread_storm", |_| {
        for _ in 0..2000 {
            let Ok(thread) = thread::Builder::new().stack_size(64 << 10).spawn(thread::yield_now) else { break };
            let _ = thread.join();
        }
        "stormed".into()
    }),
    Attack::new("g3_heap_bomb", |_| {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        loop {
            // Written, so that it counts.
            kept.push(vec![1; 16 << 20]);
            hint::black_box(&kept);
        }
    }),
    Attack::new("g3_stack_bomb", |_| overflow(1).to_string()),
    Attack::new("g3_break_bomb", |_| {
        let start = call(libc::SYS_brk, &[0]).unwrap_or_default();
        let end = call(libc::SYS_brk, &[start.wrapping_add(16 << 30)]).unwrap_or_default();
        if end == start { "refused".into() } else { "it worked".into() }
    }),
    Attack::new("g4_memfd", |_| attempt(libc::SYS_memfd_create, &[address(c"bomb"), 0])),
    Attack::new("g4_pipes", |_| {
        let mut pair = [0_i32; 2];
        attempt(libc::SYS_pipe2, &[pair.as_mut_ptr() as usize, 0])
    }),
    Attack::new("g4_locked_memory", |_| attempt(libc::SYS_mlockall, &[3])),
    Attack::new("g6_duplicates", |_| {
        let duplicate = |_: &usize| call(libc::SYS_fcntl, &[1, libc::F_DUPFD_CLOEXEC as usize, 0]).is_ok();
        bounded((0..4096).take_while(duplicate).count())
    }),
    Attack::new("g6_event_counters", |_| {
        bounded((0..4096).take_while(|_| call(libc::SYS_eventfd2, &[0, 0]).is_ok()).count())
    }),
    Attack::new("g6_epolls", |_| {
        bounded((0..4096).take_while(|_| call(libc::SYS_epoll_create1, &[0]).is_ok()).count())
    }),
    Attack::new("g6_nested_epolls", |_| {
        let mut inner = call(libc::SYS_epoll_create1, &[0]).unwrap_or_default();
        for _ in 0..30 {
            let Ok(outer) = call(libc::SYS_epoll_create1, &[0]) else { break };
            // `struct epoll_event`, packed: EPOLLIN, and twelve bytes in all.
            let event = [1_u32, 0, 0];
            if call(libc::SYS_epoll_ctl, &[outer, 1, inner, event.as_ptr() as usize]).is_err() {
                break;
            }
            inner = outer;
        }
        "bounded".into()
    }),
    Attack::new("g7_spin", |_| {
        loop {
            hint::spin_loop();
        }
    }),
    Attack::new("g7_spin_in_threads", |_| {
        for _ in 0..8 {
            let _ = thread::Builder::new().stack_size(64 << 10).spawn(|| {
                loop {
                    hint::spin_loop();
                }
            });
        }
        loop {
            hint::spin_loop();
        }
    }),
    Attack::new("g9_thrash_the_cache", |_| {
        memory::thrash();
        "thrashed".into()
    }),
    Attack::new("g9_system_calls", |_| {
        (0..1_000_000).for_each(|_| drop(call(libc::SYS_gettid, &[])));
        "called".into()
    }),
    // What is excused is answered by the server: not for ever.
    Attack::new("g11_excused_opens", |_| {
        for _ in 0..100_000 {
            let _ = call(libc::SYS_openat, &[signed(-100), address(c"/proc/self/maps"), libc::O_CLOEXEC as usize]);
        }
        "it worked".into()
    }),
    Attack::new("g11_control_messages", |_| {
        (0..1_000_000).for_each(|_| drop(control::send(&control::question(control::FINISH, 7))));
        "it worked".into()
    }),
    Attack::new("g11_passing_messages", |_| {
        let mut sent = 0_u32;
        let flags = libc::MSG_DONTWAIT as usize;
        while sent < 100_000 && call(libc::SYS_sendto, &[PASSING as usize, address(c"x"), 1, flags, 0, 0]).is_ok() {
            sent += 1;
        }
        if sent < 100_000 { "bounded".into() } else { format!("{sent} messages") }
    }),
    Attack::at_start("g12_restart_storm", || process::exit(1)),
    Attack::new("g13_exit_storm", |_| process::exit(3)),
    Attack::new("g13_exit_of_a_thread", |_| {
        for _ in 0..200 {
            // Joined by nobody.
            let _ = thread::Builder::new().stack_size(64 << 10).spawn(|| {});
        }
        "detached".into()
    }),
    Attack::new("g13_exit_while_answering", |_| {
        static ANSWERS: AtomicU64 = AtomicU64::new(0);
        let answers = ANSWERS.fetch_add(1, Ordering::Relaxed);
        let _ = thread::Builder::new().stack_size(64 << 10).spawn(move || {
            thread::sleep(Duration::from_micros(50 * answers));
            process::exit(5)
        });
        "gone in a moment".into()
    }),
    Attack::new("g14_descriptors_control", |_| flood(CONTROL)),
    Attack::new("g14_descriptors_passing", |_| flood(PASSING)),
];

fn bounded(descriptors: usize) -> String {
    if descriptors < 64 { "bounded".into() } else { format!("{descriptors} descriptors") }
}

fn overflow(depth: u64) -> u64 {
    let frame = hint::black_box([depth; 512]);
    if frame[0] == u64::MAX { 0 } else { hint::black_box(overflow(depth + 1)) + frame[1] }
}

/// Sends descriptors that nobody asked for.
fn flood(socket: i32) -> String {
    let first = control::send_descriptors(socket);
    let more = (0..600).take_while(|_| control::send_descriptors(socket).is_ok());
    outcome(first.map(|()| more.count()))
}
