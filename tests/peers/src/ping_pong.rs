//! The least that a round trip of 64 bytes can cost: nobody checks anything.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};

use rustix::thread::futex;

use super::Arguments;
use super::pair::{Other, inherited};
use super::shared::{Line, Shared};
use super::timing::Timing;

/// How to wait for a number, and how to tell that it is there.
pub trait Wait {
    fn wait(line: &Line, number: u32);
    fn publish(line: &Line, number: u32);
}

/// Never sleeps.
pub struct Spin;

impl Wait for Spin {
    fn wait(line: &Line, number: u32) {
        while line.number.load(Acquire) != number {
            spin_loop();
        }
    }

    fn publish(line: &Line, number: u32) {
        line.number.store(number, Release);
    }
}

/// Sleeps at once. Whoever publishes makes a system call only if the other one says that it sleeps.
pub struct Futex;

impl Wait for Futex {
    fn wait(line: &Line, number: u32) {
        loop {
            let seen = line.number.load(Acquire);
            if seen == number {
                return;
            }
            line.sleeps.store(1, Relaxed);
            // Either we see the number below or the other side sees that we sleep.
            fence(SeqCst);
            if line.number.load(Acquire) != number {
                // Woken for nothing, or the number has changed: both are looked at again.
                let _ = futex::wait(&line.number, futex::Flags::empty(), seen, None);
            }
            line.sleeps.store(0, Relaxed);
        }
    }

    fn publish(line: &Line, number: u32) {
        line.number.store(number, Release);
        fence(SeqCst);
        if line.sleeps.load(Relaxed) != 0 {
            // It can't fail for a word that is mapped.
            let _ = futex::wake(&line.number, futex::Flags::empty(), 1);
        }
    }
}

pub fn ask<W: Wait>(arguments: &Arguments) -> anyhow::Result<()> {
    let (shared, memory) = Shared::create()?;
    let _other = Other::start(memory)?;
    let mut number = 0;
    Timing::new(arguments).run(|| {
        number += 1;
        write(&shared.request.payload.0, number);
        W::publish(&shared.request, number);
        W::wait(&shared.reply, number);
        read(&shared.reply.payload.0);
        Ok(())
    })
}

pub fn serve<W: Wait>(arguments: &Arguments) -> anyhow::Result<()> {
    let shared = Shared::map(inherited()?)?;
    for number in 1..=arguments.round_trips() as u32 {
        W::wait(&shared.request, number);
        read(&shared.request.payload.0);
        write(&shared.reply.payload.0, number);
        W::publish(&shared.reply, number);
    }
    Ok(())
}

fn write(payload: &[AtomicU64; 8], number: u32) {
    payload.iter().for_each(|word| word.store(number.into(), Relaxed));
}

fn read(payload: &[AtomicU64; 8]) {
    payload.iter().for_each(|word| _ = black_box(word.load(Relaxed)));
}
