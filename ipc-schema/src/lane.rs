//! Calls through shared memory.
//!
//! A lane is a submission ring and a completion ring over the slots of [`layout`](crate::layout), each with one
//! producer and one consumer. The server takes the next call number, writes the request into the slot's buffer and
//! publishes it by storing the number into the slot's sequence word; the plugin's worker for this lane answers the
//! calls in order, the same way, in its own region. So slot, number and window of an answer are the server's choice;
//! the plugin only says how many bytes of the window it used, and repeats a nonce that it can't guess.
//!
//! Several threads of the server share a lane: each takes a slot, in the order in which they came, and waits for its own
//! completion without a third thread in between. The plugin side has one thread a lane. How both ends wait is the
//! business of [`wake`](crate::wake); a scan [rings ahead](Lane::ring_ahead).
//!
//! A caller that gives up says so in the slot ([`Cancellation`]), so that an honest plugin can stop working for nobody.
//!
//! What the server keeps about its calls is private memory. Whatever it reads from the plugin's region is read once,
//! checked as a value, and used; anything impossible is a [`LaneError::Violation`], after which the lane is dead.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::layout::{CallerWaits, Layout};
use crate::region::{OwnRegion, OwnWindow, PrivateCopy, UntrustedRegion};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, fence};
use crate::wake::{Habit, Spin};

mod message;
#[cfg(all(test, loom))]
mod models;
mod queue;
mod task;
#[cfg(all(test, not(loom)))]
mod tests;
mod traffic;
mod worker;

pub use message::{Completion, LaneError, Operation, Request};
use message::{Limits, UntrustedCompletion};
use queue::Queue;
pub use task::{Begin, Listening};
pub use traffic::Traffic;
pub use worker::{Call, Cancellation, Worker};

/// The longest sleep without looking at the world again: bounds how late a sleeper learns that a lane died.
pub const NAP: Duration = Duration::from_millis(50);
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
    dead: AtomicBool,
    /// Slots that are not known to be free.
    taken: AtomicU64,
    spin: Spin,
    habit: Habit,
    nonces: RandomState,
    /// How often the worker was told that calls are about to come.
    rung: AtomicU64,
    traffic: Traffic,
}

#[derive(Debug)]
struct State {
    /// The number of the next call.
    next: u64,
    slots: Vec<SlotState>,
    /// Who waits for a slot: who came first gets the next one.
    waiting: Queue,
    died_of: Option<Arc<str>>,
}

#[derive(Debug)]
enum SlotState {
    Free(Slot),
    /// Somebody fills the request or waits for the completion, and holds the slot.
    Busy,
    /// The caller gave up waiting for this call; the slot is free once the completion arrived.
    Abandoned(Slot, u64),
}

/// What who makes a call in a slot holds.
#[derive(Debug)]
struct Slot {
    window: OwnWindow,
    /// What the completion of its next call has to repeat. Made ahead, while the previous call is computed: a hash takes a
    /// tenth of a call.
    nonce: u64,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No code panics while it holds the lock, and the state is whole between any two statements.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    /// The server's ends of all lanes over a pair of regions. `traffic` counts what goes through them.
    #[must_use]
    pub fn all(
        layout: Layout,
        mut own: OwnRegion,
        peer: UntrustedRegion,
        spin: Spin,
        traffic: &Traffic,
    ) -> Vec<Arc<Self>> {
        layout.write_header(&own, spin);
        let windows: Vec<Vec<_>> = (0..layout.lanes())
            .map(|lane| (0..layout.depth()).map(|slot| own.carve(layout.buffer(lane, slot))).collect())
            .collect();
        let (own, peer) = (Arc::new(own), Arc::new(peer));
        windows
            .into_iter()
            .enumerate()
            .map(|(lane, windows)| {
                let nonces = RandomState::new();
                let first_call = |slot: usize| if slot == 0 { layout.depth() as u64 } else { slot as u64 };
                let free = |(slot, window)| SlotState::Free(Slot { window, nonce: nonces.hash_one(first_call(slot)) });
                let slots = windows.into_iter().enumerate().map(free).collect();
                Arc::new(Self {
                    layout,
                    lane,
                    own: Arc::clone(&own),
                    peer: Arc::clone(&peer),
                    state: Mutex::new(State { next: 1, slots, waiting: Queue::default(), died_of: None }),
                    dead: AtomicBool::new(false),
                    taken: AtomicU64::new(0),
                    spin,
                    habit: Habit::of_callers(spin),
                    nonces,
                    rung: AtomicU64::new(0),
                    traffic: traffic.clone(),
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

    /// Whether no slot is taken, as far as that is known without a lock.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.taken.load(Ordering::Relaxed) == 0
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

    /// Takes the next slot, waiting for one until `deadline`. Who came first gets the next one.
    ///
    /// # Errors
    /// [`LaneError::Full`] or [`LaneError::Dead`].
    pub fn begin(self: &Arc<Self>, deadline: Instant) -> Result<Draft, LaneError> {
        if let Some(draft) = self.try_begin()? {
            return Ok(draft);
        }
        let mut state = lock(&self.state);
        let (ticket, bell) = state.waiting.join_thread();
        let ended = loop {
            if let Some(reason) = &state.died_of {
                break Err(LaneError::Dead(Arc::clone(reason)));
            }
            if state.waiting.is_first(ticket)
                && let Some(draft) = self.take_slot(&mut state)
            {
                break Ok(draft);
            }
            let now = Instant::now();
            if now >= deadline {
                break Err(LaneError::Full);
            }
            let nap = (deadline - now).min(NAP);
            (state, _) = bell.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner);
        };
        state.waiting.leave(ticket);
        ended
    }

    /// As [`begin`](Self::begin), for a task: in the same queue, and without blocking a thread. A slot whose call was
    /// abandoned comes free without a word, so poll it again after [`NAP`] at the latest; the deadline is the caller's.
    pub fn begin_task(self: &Arc<Self>) -> Begin {
        Begin { lane: Arc::clone(self), ticket: None }
    }

    /// As [`begin`](Self::begin), without waiting: `None` where the next slot is taken, or others wait for it.
    ///
    /// # Errors
    /// [`LaneError::Dead`].
    pub fn try_begin(self: &Arc<Self>) -> Result<Option<Draft>, LaneError> {
        let mut state = lock(&self.state);
        match &state.died_of {
            Some(reason) => Err(LaneError::Dead(Arc::clone(reason))),
            None if state.waiting.is_empty() => Ok(self.take_slot(&mut state)),
            None => Ok(None),
        }
    }

    fn take_slot(self: &Arc<Self>, state: &mut State) -> Option<Draft> {
        let number = state.next;
        let at = self.slot_of(number);
        let slot = match std::mem::replace(&mut state.slots[at], SlotState::Busy) {
            SlotState::Free(slot) => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                slot
            }
            SlotState::Abandoned(slot, call) if self.peer.load_u64(self.sequence(at)) == call => slot,
            taken => {
                state.slots[at] = taken;
                return None;
            }
        };
        state.next += 1;
        Some(Draft(Claim { lane: Arc::clone(self), number, slot: Some(slot), stage: Stage::Unsent }))
    }

    /// Tells the worker that calls are about to come: if it sleeps, it wakes up, and spins for a while. So it is awake when
    /// the first batch of a scan has been read and encoded. Costs nothing where the worker is awake, and does nothing
    /// where there is no core on which it could wait.
    pub fn ring_ahead(&self) {
        if self.spin != Spin::NEVER && self.peer.load_u64(self.layout.worker_sleeps(self.lane)) != 0 {
            self.ring();
        }
    }

    fn ring(&self) {
        let next = lock(&self.state).next;
        self.own.store_u64(self.layout.rung(self.lane), self.rung.fetch_add(1, Ordering::Relaxed) + 1);
        self.own.wake(self.sequence(self.slot_of(next)));
    }

    /// Ends the lane: every caller, present and future, gets [`LaneError::Dead`] with this reason. The first reason
    /// stays.
    pub fn kill(&self, reason: &str) {
        {
            let mut state = lock(&self.state);
            state.died_of.get_or_insert_with(|| reason.into());
            self.dead.store(true, Ordering::Release);
            state.waiting.wake_all();
        }
        for slot in 0..self.layout.depth() {
            self.peer.wake_waiters(self.sequence(slot));
        }
    }

    fn death(&self) -> LaneError {
        let reason = lock(&self.state).died_of.clone();
        LaneError::Dead(reason.unwrap_or_else(|| "stopped".into()))
    }

    #[inline]
    fn slot_of(&self, number: u64) -> usize {
        (number % self.layout.depth() as u64) as usize
    }

    #[inline]
    fn sequence(&self, slot: usize) -> usize {
        self.layout.sequence(self.lane, slot)
    }

    /// Unguessable for the plugin (a hash with a key of the lane's own), and never the same for two calls.
    fn nonce(&self, number: u64) -> u64 {
        self.nonces.hash_one(number)
    }

    /// Returns the nonce that the completion has to repeat.
    fn publish(&self, number: u64, slot: &mut Slot, request: &Request) -> u64 {
        let nonce = slot.nonce;
        let at = self.sequence(self.slot_of(number));
        let payload = request.payload as u64 | (self.layout.buffer_bytes() as u64) << 32;
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
        slot.nonce = self.nonce(number + self.layout.depth() as u64);
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
        if let Some(found) = self.habit.until(|| self.poll(number, nonce)) {
            return found;
        }
        self.say(number, CallerWaits::Thread);
        let ended = self.sleep(number, nonce, deadline);
        self.say(number, CallerWaits::Awake);
        ended
    }

    /// Tells the worker how the caller waits. Only who sleeps does: a store for each call would take the cache line from
    /// the worker every time.
    fn say(&self, number: u64, how: CallerWaits) {
        self.own.store_u64(self.layout.caller_sleeps(self.lane, self.slot_of(number)), how as u64);
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
                self.habit.slept(start.elapsed());
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

    fn free(&self, number: u64, slot: Slot, answered: bool) {
        let at = self.slot_of(number);
        let mut state = lock(&self.state);
        if answered {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
        state.slots[at] = if answered { SlotState::Free(slot) } else { SlotState::Abandoned(slot, number) };
        state.waiting.wake_first();
    }
}

/// A slot taken for one call. What becomes of it when it is dropped depends on how far the call came.
#[derive(Debug)]
struct Claim {
    lane: Arc<Lane>,
    number: u64,
    slot: Option<Slot>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unsent,
    Sent,
    /// Sent, and to be done although nobody waits for it.
    Left,
    Answered,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take() else { return };
        match self.stage {
            // The worker takes the calls in order, and would wait for it.
            Stage::Unsent => {
                let nop = Request { operation: Operation::Nop as u16, target: 0, payload: 0, argument: 0 };
                self.lane.publish(self.number, &mut slot, &nop);
            }
            Stage::Sent => self.lane.cancel(self.number),
            Stage::Left | Stage::Answered => {}
        }
        self.lane.free(self.number, slot, self.stage == Stage::Answered);
    }
}

/// A slot whose request is being written. Dropped unsent, it becomes an [`Operation::Nop`].
#[derive(Debug)]
pub struct Draft(Claim);

impl Draft {
    /// The lane that the request will go to.
    #[must_use]
    pub fn lane(&self) -> usize {
        self.0.lane.lane
    }

    /// The number that the call will have on its lane, from 1 on, never used twice.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// The request's payload buffer, 4096-byte aligned.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.0.slot.as_mut().map_or(&mut [], |slot| slot.window.bytes())
    }

    /// Sends the request.
    #[must_use]
    pub fn send(mut self, operation: Operation, target: u32, payload: usize, argument: u64) -> Pending {
        let request = Request { operation: operation as u16, target, payload, argument };
        let (lane, number) = (&self.0.lane, self.0.number);
        let nonce = self.0.slot.as_mut().map_or(0, |slot| lane.publish(number, slot, &request));
        self.0.stage = Stage::Sent;
        lane.traffic.count_shared(payload);
        Pending { claim: self.0, nonce }
    }
}

/// A request on its way. Dropped before the answer, it is cancelled and forgotten; the plugin still has to answer it.
#[derive(Debug)]
pub struct Pending {
    claim: Claim,
    nonce: u64,
}

impl Pending {
    /// The lane that the request went to.
    #[must_use]
    pub fn lane(&self) -> usize {
        self.claim.lane.lane
    }

    /// The number of the call on its lane, from 1 on, never used twice.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.claim.number
    }

    /// Has the call done without waiting for the answer, which nobody gets.
    pub fn leave(mut self) {
        self.claim.stage = Stage::Left;
    }

    /// Waits for the completion until `deadline`, and copies its payload to `reply`.
    ///
    /// # Errors
    /// [`LaneError`], after which nothing of this call can be had any more: it is cancelled.
    pub fn wait(mut self, deadline: Instant, reply: &mut PrivateCopy) -> Result<Completion, LaneError> {
        let completion = self.claim.lane.wait(self.claim.number, self.nonce, deadline)?;
        task::copy_reply(&self.claim, &completion, reply);
        self.claim.stage = Stage::Answered;
        Ok(completion)
    }
}
