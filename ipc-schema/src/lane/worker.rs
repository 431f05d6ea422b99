//! The plugin's end of a lane.

use std::time::Duration;

use super::{Completion, Request};
use crate::descriptors::Bell;
use crate::layout::{CallerWaits, DESCRIPTOR_WORDS, Layout};
use crate::region::{OwnRegion, OwnWindow, TrustedRegion};
use crate::sync::{Arc, Ordering, fence};
use crate::wake::Habit;

/// One call, as the worker of its lane serves it.
#[derive(Debug)]
pub struct Call<'a> {
    /// The lane that it came by.
    pub lane: usize,
    /// Its number on that lane, from 1 on.
    pub number: u64,
    /// What is asked for.
    pub request: Request,
    /// The payload of the request, in place.
    pub payload: &'a [u8],
    /// Where the payload of the reply goes.
    pub reply: &'a mut [u8],
    /// Whether anybody still waits for the answer.
    pub cancellation: Cancellation<'a>,
}

/// Tells whether the caller of one call gave up waiting for it. May be asked by any thread that works for the call.
#[derive(Clone, Copy, Debug)]
pub struct Cancellation<'a> {
    region: &'a TrustedRegion,
    word: usize,
    number: u64,
}

impl Cancellation<'_> {
    /// Whether nobody waits for the answer any more. The call must be answered all the same, with anything, and soon.
    ///
    /// Costs one load from a cache line that the server writes only when a caller sleeps or gives up.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        // A later call of the slot has another number, so that the word of the last one need not be cleared.
        self.region.load_u64(self.word) == self.number
    }
}

/// The plugin's end of one lane: one thread that answers calls in order.
#[derive(Debug)]
pub struct Worker {
    layout: Layout,
    lane: usize,
    peer: Arc<TrustedRegion>,
    own: Arc<OwnRegion>,
    buffers: Vec<OwnWindow>,
    next: u64,
    habit: Habit,
    bell: Option<Arc<Bell>>,
    /// How often the lane had been rung when it was last looked.
    rung: u64,
}

impl Worker {
    /// The plugin's ends of all lanes over a pair of regions; `None` if the header is of another version.
    #[must_use]
    pub fn all(peer: TrustedRegion, mut own: OwnRegion) -> Option<Vec<Self>> {
        let (layout, spin) = Layout::read_header(&peer)?;
        let buffers: Vec<Vec<_>> = (0..layout.lanes())
            .map(|lane| (0..layout.depth()).map(|slot| own.carve(layout.buffer(lane, slot))).collect())
            .collect();
        let (peer, own) = (Arc::new(peer), Arc::new(own));
        Some(
            buffers
                .into_iter()
                .enumerate()
                .map(|(lane, buffers)| {
                    let (peer, own) = (Arc::clone(&peer), Arc::clone(&own));
                    Self {
                        layout,
                        lane,
                        peer,
                        own,
                        buffers,
                        next: 1,
                        habit: Habit::of_worker(spin),
                        bell: None,
                        rung: 0,
                    }
                })
                .collect(),
        )
    }

    /// What to ring for callers that are tasks; without it, they find their answers late.
    #[must_use]
    pub fn with_bell(mut self, bell: Arc<Bell>) -> Self {
        self.bell = Some(bell);
        self
    }

    /// Answers the next call with `serve`. Waits for a call until there is one.
    pub fn serve_next(&mut self, serve: impl FnOnce(Call<'_>) -> Completion) {
        let number = self.next;
        let slot = (number % self.layout.depth() as u64) as usize;
        let at = self.layout.sequence(self.lane, slot);
        self.wait_for(number, at);
        let words: [u64; DESCRIPTOR_WORDS] = std::array::from_fn(|index| self.peer.load_u64(at + 8 + index * 8));
        let payload = (words[2] & u64::from(u32::MAX)) as usize;
        let request =
            Request { operation: words[0] as u16, target: (words[0] >> 32) as u32, payload, argument: words[3] };
        let start = self.layout.buffer(self.lane, slot).start;
        let completion = serve(Call {
            lane: self.lane,
            number,
            request,
            payload: self.peer.slice(start..start + payload.min(self.layout.buffer_bytes())),
            reply: self.buffers[slot].bytes(),
            cancellation: Cancellation { region: &self.peer, word: self.layout.cancelled(self.lane, slot), number },
        });
        let answer = [u64::from(completion.status), words[1], completion.payload as u64, completion.value];
        for (index, word) in answer.into_iter().enumerate() {
            self.own.store_u64(at + 8 + index * 8, word);
        }
        // Release inside: publishes the reply to the Acquire load in `Lane::poll`.
        self.own.store_u64(at, number);
        // Pairs with the fences in `Lane::sleep` and `Listener::look`.
        fence(Ordering::SeqCst);
        match self.peer.load_u64(self.layout.caller_sleeps(self.lane, slot)) {
            awake if awake == CallerWaits::Awake as u64 => {}
            task if task == CallerWaits::Task as u64 => self.bell.iter().for_each(|bell| bell.ring()),
            _ => self.own.wake(at),
        }
        self.next += 1;
    }

    fn wait_for(&mut self, number: u64, at: usize) {
        let ready = || (self.peer.load_u64(at) == number).then_some(());
        if self.habit.until(ready).is_some() {
            return;
        }
        let (flag, bell) = (self.layout.worker_sleeps(self.lane), self.layout.rung(self.lane));
        self.own.store_u64(flag, 1);
        loop {
            // Pairs with the fence in `Lane::publish`.
            fence(Ordering::SeqCst);
            let seen = self.peer.load_u64(at);
            if seen == number {
                break;
            }
            self.peer.wait(at, seen as u32, Duration::from_secs(60));
            let rung = self.peer.load_u64(bell);
            if rung != self.rung {
                self.rung = rung;
                // Awake: nobody needs to make a system call for the call that is about to come.
                self.own.store_u64(flag, 0);
                if self.habit.until_rung(ready).is_some() {
                    return;
                }
                self.own.store_u64(flag, 1);
            }
        }
        self.own.store_u64(flag, 0);
    }
}
