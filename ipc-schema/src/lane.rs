//! Calls through shared memory.
//!
//! A lane is a submission ring and a completion ring over the slots of [`layout`](crate::layout), each with one
//! producer and one consumer. The server takes the next call number, writes the request into the slot's buffer and
//! publishes it by storing the number into the slot's sequence word; the plugin's worker for this lane answers the
//! calls in order, the same way, in its own region. So slot, number and window of an answer are the server's choice;
//! the plugin only says how many bytes of the window it used, and repeats a nonce that it can't guess.
//!
//! Several threads of the server share a lane: each takes a slot, and waits for its own completion without a third
//! thread in between. The plugin side has one thread a lane.
//!
//! A caller that gives up says so in the slot ([`Cancellation`]), so that an honest plugin can stop working for nobody.
//!
//! What the server keeps about its calls is private memory. Whatever it reads from the plugin's region is read once,
//! checked as a value, and used; anything impossible is a [`LaneError::Violation`], after which the lane is dead.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::layout::Layout;
use crate::region::{OwnRegion, OwnWindow, PrivateCopy, UntrustedRegion};
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, MutexGuard, Ordering, PoisonError, fence};
use crate::wake::Spin;

mod message;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;
mod worker;

pub use message::{Completion, LaneError, Operation, Request};
use message::{Limits, UntrustedCompletion};
pub use worker::{Call, Cancellation, Worker};

/// The longest sleep without looking at the world again: bounds how late a sleeper learns that a lane died.
const NAP: Duration = Duration::from_millis(50);
/// How often one caller may be woken for nothing before it no longer listens: an honest plugin wakes it once.
const IDLE_LOOKS: u128 = 32;
/// How often a caller looks that no longer listens.
const DEAF_NAP: Duration = Duration::from_millis(2);

/// The server's end of one lane. Shared by any number of threads.
#[derive(Debug)]
pub struct Lane {
    layout: Layout,
    lane: usize,
    own: Arc<OwnRegion>,
    peer: Arc<UntrustedRegion>,
    state: Mutex<State>,
    slot_freed: Condvar,
    dead: AtomicBool,
    spin: Spin,
    nonces: RandomState,
}

#[derive(Debug)]
struct State {
    /// The number of the next call.
    next: u64,
    slots: Vec<SlotState>,
    /// Callers that wait for a slot: to wake nobody is a system call all the same.
    waiting: usize,
    died_of: Option<Arc<str>>,
}

#[derive(Debug)]
enum SlotState {
    Free(OwnWindow),
    /// Somebody fills the request or waits for the completion, and holds the window.
    Busy,
    /// The caller gave up waiting for this call; the slot is free once the completion arrived.
    Abandoned(OwnWindow, u64),
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No code panics while it holds the lock, and the state is whole between any two statements.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    /// The server's ends of all lanes over a pair of regions.
    #[must_use]
    pub fn all(layout: Layout, mut own: OwnRegion, peer: UntrustedRegion, spin: Spin) -> Vec<Arc<Self>> {
        layout.write_header(&own);
        let windows: Vec<Vec<_>> = (0..layout.lanes())
            .map(|lane| (0..layout.depth()).map(|slot| SlotState::Free(own.carve(layout.buffer(lane, slot)))).collect())
            .collect();
        let (own, peer) = (Arc::new(own), Arc::new(peer));
        windows
            .into_iter()
            .enumerate()
            .map(|(lane, slots)| {
                Arc::new(Self {
                    layout,
                    lane,
                    own: Arc::clone(&own),
                    peer: Arc::clone(&peer),
                    state: Mutex::new(State { next: 1, slots, waiting: 0, died_of: None }),
                    slot_freed: Condvar::new(),
                    dead: AtomicBool::new(false),
                    spin,
                    nonces: RandomState::new(),
                })
            })
            .collect()
    }

    /// The most bytes of a request or reply.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.layout.buffer_bytes()
    }

    /// Its place among the lanes of the plugin.
    #[must_use]
    pub fn place(&self) -> usize {
        self.lane
    }

    /// How many calls may be in flight.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.layout.depth()
    }

    /// How many slots are taken now: the load of this lane.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let state = lock(&self.state);
        let taken = |(slot, state): &(usize, &SlotState)| match state {
            SlotState::Free(_) => false,
            SlotState::Busy => true,
            SlotState::Abandoned(_, call) => self.peer.load_u64(self.sequence(*slot)) != *call,
        };
        state.slots.iter().enumerate().filter(taken).count()
    }

    /// How many calls have begun so far.
    #[must_use]
    pub fn calls_begun(&self) -> u64 {
        lock(&self.state).next - 1
    }

    /// The number of the call that the worker is at, if any, and whether its caller gave up waiting for it. The calls
    /// behind it wait for their turn, and may be given up however fast the worker is.
    #[must_use]
    pub fn current(&self) -> Option<(u64, bool)> {
        let state = lock(&self.state);
        let oldest = state.next.saturating_sub(self.layout.depth() as u64).max(1);
        let current =
            (oldest..state.next).find(|&call| self.peer.load_u64(self.sequence(self.slot_of(call))) != call)?;
        Some((current, matches!(state.slots[self.slot_of(current)], SlotState::Abandoned(_, call) if call == current)))
    }

    /// Takes the next slot, waiting for one until `deadline`.
    ///
    /// # Errors
    /// [`LaneError::Full`] or [`LaneError::Dead`].
    pub fn begin(self: &Arc<Self>, deadline: Instant) -> Result<Draft, LaneError> {
        let mut state = lock(&self.state);
        loop {
            if let Some(reason) = &state.died_of {
                return Err(LaneError::Dead(Arc::clone(reason)));
            }
            if let Some(draft) = self.take_slot(&mut state) {
                return Ok(draft);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(LaneError::Full);
            }
            let nap = (deadline - now).min(NAP);
            state.waiting += 1;
            (state, _) = self.slot_freed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// As [`begin`](Self::begin), without waiting: `None` where the next slot is taken.
    ///
    /// # Errors
    /// [`LaneError::Dead`].
    pub fn try_begin(self: &Arc<Self>) -> Result<Option<Draft>, LaneError> {
        let mut state = lock(&self.state);
        match &state.died_of {
            Some(reason) => Err(LaneError::Dead(Arc::clone(reason))),
            None => Ok(self.take_slot(&mut state)),
        }
    }

    fn take_slot(self: &Arc<Self>, state: &mut State) -> Option<Draft> {
        let number = state.next;
        let slot = self.slot_of(number);
        let window = match std::mem::replace(&mut state.slots[slot], SlotState::Busy) {
            SlotState::Free(window) => window,
            SlotState::Abandoned(window, call) if self.peer.load_u64(self.sequence(slot)) == call => window,
            taken => {
                state.slots[slot] = taken;
                return None;
            }
        };
        state.next += 1;
        if state.waiting > 0 && matches!(state.slots[self.slot_of(state.next)], SlotState::Free(_)) {
            // Freed before this one, when it was nobody's turn yet: whoever was woken then sleeps again.
            self.slot_freed.notify_one();
        }
        Some(Draft { lane: Arc::clone(self), number, window: Some(window) })
    }

    /// Ends the lane: every caller, present and future, gets [`LaneError::Dead`] with this reason. The first reason
    /// stays.
    pub fn kill(&self, reason: &str) {
        {
            let mut state = lock(&self.state);
            state.died_of.get_or_insert_with(|| reason.into());
            self.dead.store(true, Ordering::Release);
        }
        self.slot_freed.notify_all();
        for slot in 0..self.layout.depth() {
            self.peer.wake_waiters(self.sequence(slot));
        }
    }

    fn death(&self) -> LaneError {
        let reason = lock(&self.state).died_of.clone();
        LaneError::Dead(reason.unwrap_or_else(|| "stopped".into()))
    }

    fn slot_of(&self, number: u64) -> usize {
        (number % self.layout.depth() as u64) as usize
    }

    fn sequence(&self, slot: usize) -> usize {
        self.layout.sequence(self.lane, slot)
    }

    /// Unguessable for the plugin (keyed hash), and never the same for two calls.
    fn nonce(&self, number: u64) -> u64 {
        self.nonces.hash_one((self.lane, number))
    }

    /// Returns the nonce that the completion has to repeat.
    fn publish(&self, number: u64, request: &Request) -> u64 {
        let slot = self.slot_of(number);
        let at = self.sequence(slot);
        let (payload, nonce) = (request.payload as u64 | (self.layout.buffer_bytes() as u64) << 32, self.nonce(number));
        let words = [u64::from(request.operation) | u64::from(request.target) << 32, nonce, payload, request.argument];
        for (index, word) in words.into_iter().enumerate() {
            self.own.store_u64(at + 8 + index * 8, word);
        }
        // Release inside: publishes the request and its payload to the Acquire load in `Worker::wait_for`.
        self.own.store_u64(at, number);
        // Orders the store above before the load below, as the fence in `Worker::wait_for` orders its two: one of both
        // sides sees the other's store, so either the worker sees the request or we see that it sleeps.
        fence(Ordering::SeqCst);
        if self.peer.load_u64(self.layout.worker_sleeps(self.lane)) != 0 {
            self.own.wake(at);
        }
        nonce
    }

    /// The completion of call `number`, if it is there.
    fn poll(&self, number: u64, nonce: u64) -> Option<Result<Completion, LaneError>> {
        let at = self.sequence(self.slot_of(number));
        let found = self.peer.load_u64(at);
        if found != number {
            let previous = number.saturating_sub(self.layout.depth() as u64);
            let expected = found == previous || (found == 0 && number <= self.layout.depth() as u64);
            return (!expected).then_some(Err(LaneError::Violation("a completion with a wrong sequence number")));
        }
        let limits = Limits { nonce, buffer_bytes: self.layout.buffer_bytes() };
        Some(UntrustedCompletion::load(&self.peer, at).validate(&limits))
    }

    fn wait(&self, number: u64, nonce: u64, deadline: Instant) -> Result<Completion, LaneError> {
        if let Some(found) = self.spin.until(|| self.poll(number, nonce)) {
            return found;
        }
        // Only who sleeps touches the flag: a store for each call would take its cache line from the worker every time.
        let flag = self.layout.caller_sleeps(self.lane, self.slot_of(number));
        self.own.store_u64(flag, 1);
        let ended = self.sleep(number, nonce, deadline);
        self.own.store_u64(flag, 0);
        ended
    }

    fn sleep(&self, number: u64, nonce: u64, deadline: Instant) -> Result<Completion, LaneError> {
        let at = self.sequence(self.slot_of(number));
        let start = Instant::now();
        let mut looks = 0;
        loop {
            // Pairs with the fence in `Worker::serve_next`: either we see the completion or it sees that we sleep.
            fence(Ordering::SeqCst);
            let seen = self.peer.load_u64(at);
            if let Some(found) = self.poll(number, nonce) {
                return found;
            }
            if self.dead.load(Ordering::Acquire) {
                return Err(self.death());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(LaneError::Deadline);
            }
            let nap = (deadline - now).min(NAP);
            looks += 1;
            if looks <= IDLE_LOOKS + (now - start).as_nanos() / NAP.as_nanos() {
                self.peer.wait(at, seen as u32, nap);
            } else {
                // Woken again and again for nothing: from now on only the clock wakes us.
                std::thread::sleep(nap.min(DEAF_NAP));
            }
        }
    }

    /// Tells the worker that nobody waits for this call any more. The number stays: the next call of the slot has
    /// another one, and is published after this.
    fn cancel(&self, number: u64) {
        self.own.store_u64(self.layout.cancelled(self.lane, self.slot_of(number)), number);
    }

    fn free(&self, number: u64, window: OwnWindow, answered: bool) {
        let slot = self.slot_of(number);
        let mut state = lock(&self.state);
        state.slots[slot] = if answered { SlotState::Free(window) } else { SlotState::Abandoned(window, number) };
        let is_wanted = state.waiting > 0;
        drop(state);
        if is_wanted {
            self.slot_freed.notify_one();
        }
    }
}

/// A slot whose request is being written. Dropped unsent, it becomes a [`Operation::Nop`], since the worker takes the
/// calls in order and would wait for it.
#[derive(Debug)]
pub struct Draft {
    lane: Arc<Lane>,
    number: u64,
    window: Option<OwnWindow>,
}

impl Draft {
    /// The lane that the request will go to.
    #[must_use]
    pub fn lane(&self) -> usize {
        self.lane.lane
    }

    /// The number that the call will have on its lane, from 1 on, never used twice.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The request's payload buffer, 4096-byte aligned.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.window.as_mut().map_or(&mut [], OwnWindow::bytes)
    }

    /// Sends the request.
    #[must_use]
    pub fn send(mut self, operation: Operation, target: u32, payload: usize, argument: u64) -> Pending {
        let request = Request { operation: operation as u16, target, payload, argument };
        let nonce = self.lane.publish(self.number, &request);
        Pending {
            lane: Arc::clone(&self.lane),
            number: self.number,
            nonce,
            window: self.window.take(),
            answered: false,
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(window) = self.window.take() {
            let nop = Request { operation: Operation::Nop as u16, target: 0, payload: 0, argument: 0 };
            self.lane.publish(self.number, &nop);
            self.lane.free(self.number, window, false);
        }
    }
}

/// A request on its way. Dropped before the answer, it is cancelled and forgotten; the plugin still has to answer it.
#[derive(Debug)]
pub struct Pending {
    lane: Arc<Lane>,
    number: u64,
    nonce: u64,
    window: Option<OwnWindow>,
    answered: bool,
}

impl Pending {
    /// The lane that the request went to.
    #[must_use]
    pub fn lane(&self) -> usize {
        self.lane.lane
    }

    /// The number of the call on its lane, from 1 on, never used twice.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the completion until `deadline`, and copies its payload to `reply`.
    ///
    /// # Errors
    /// [`LaneError`], after which nothing of this call can be had any more: it is cancelled.
    pub fn wait(mut self, deadline: Instant, reply: &mut PrivateCopy) -> Result<Completion, LaneError> {
        let completion = self.lane.wait(self.number, self.nonce, deadline)?;
        let window = self.lane.layout.buffer(self.lane.lane, self.lane.slot_of(self.number));
        self.lane.peer.copy(window.start, completion.payload, reply);
        self.answered = true;
        Ok(completion)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(window) = self.window.take() {
            if !self.answered {
                self.lane.cancel(self.number);
            }
            self.lane.free(self.number, window, self.answered);
        }
    }
}
