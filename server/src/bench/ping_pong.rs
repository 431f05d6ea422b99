//! The least that a round trip of 64 bytes between two threads can cost: nobody checks anything, or looks at a clock.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::thread;
use std::time::Duration;

use rustix::thread::futex;

use super::pin::Pinned;
use super::rounds::Latencies;

/// How a thread waits for the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Never sleeps.
    Spin,
    /// Sleeps at once; whoever has something to say makes a system call only if the other one sleeps.
    Futex,
}

/// Where two threads or processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// The caller on core 0, the other one on core 1.
    Cross,
    /// Both on core 0.
    Same,
}

impl Cores {
    /// The core of the caller.
    pub const CALLER: usize = 0;

    /// The core of the other one.
    #[must_use]
    pub fn other(self) -> usize {
        match self {
            Self::Cross => 1,
            Self::Same => 0,
        }
    }
}

/// One direction: a payload in a line of its own, and the number that says that it is there.
#[derive(Default)]
#[repr(align(128))]
struct Line {
    number: AtomicU32,
    sleeps: AtomicU32,
    payload: Payload,
}

#[derive(Default)]
#[repr(align(64))]
struct Payload([AtomicU64; 8]);

impl Line {
    fn send(&self, number: u32, wait: Wait) {
        for word in &self.payload.0 {
            word.store(number.into(), Ordering::Relaxed);
        }
        self.number.store(number, Ordering::Release);
        if wait == Wait::Futex {
            // Either we see below that the other one sleeps, or it sees the number.
            fence(Ordering::SeqCst);
            if self.sleeps.load(Ordering::Relaxed) != 0 {
                // It can't fail for memory of ours.
                let _ = futex::wake(&self.number, futex::Flags::PRIVATE, 1);
            }
        }
    }

    fn receive(&self, number: u32, wait: Wait) {
        loop {
            let seen = self.number.load(Ordering::Acquire);
            if seen == number {
                break;
            }
            match wait {
                Wait::Spin => spin_loop(),
                Wait::Futex => self.sleep(seen),
            }
        }
        for word in &self.payload.0 {
            black_box(word.load(Ordering::Relaxed));
        }
    }

    fn sleep(&self, seen: u32) {
        self.sleeps.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // The kernel compares once more; woken for whatever reason, the caller looks again.
        let _ = futex::wait(&self.number, futex::Flags::PRIVATE, seen, None);
        self.sleeps.store(0, Ordering::Relaxed);
    }
}

/// Asks a thread `calls` times, after `warm_up` times that don't count, with `gap` of sleep before each.
///
/// # Errors
/// When there are no such cores.
pub fn ping_pong(wait: Wait, cores: Cores, calls: usize, warm_up: usize, gap: Duration) -> anyhow::Result<Latencies> {
    let (request, reply) = (Line::default(), Line::default());
    thread::scope(|scope| {
        let pinned = Pinned::to(Cores::CALLER)?;
        // Looked at here, so that a thread that can't be started as wanted is not waited for.
        drop(Pinned::to(cores.other())?);
        scope.spawn(|| {
            let _pinned = Pinned::to(cores.other());
            for number in 1..=(warm_up + calls) as u32 {
                request.receive(number, wait);
                reply.send(number, wait);
            }
        });
        let mut number = 0;
        let mut call = |_| {
            number += 1;
            request.send(number, wait);
            reply.receive(number, wait);
            Ok(())
        };
        Latencies::of(warm_up, &mut call)?;
        let latencies = Latencies::spaced(calls, gap, call);
        drop(pinned);
        latencies
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ping_has_a_pong() {
        for wait in [Wait::Futex, Wait::Spin] {
            // A machine of one core has no second one, and spinning there takes a time slice a call.
            if let Ok(latencies) = ping_pong(wait, Cores::Cross, 20, 2, Duration::ZERO) {
                assert!(latencies.quantile(0.5) > 0.0);
            }
        }
        ping_pong(Wait::Futex, Cores::Same, 20, 2, Duration::from_micros(1)).unwrap();
    }
}
