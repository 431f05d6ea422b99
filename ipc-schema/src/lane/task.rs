//! Calls made by tasks, which must not block the thread that they run on.
//!
//! A thread sleeps on the completion's own word. A task can't: its event loop sleeps in the kernel on descriptors. So for
//! a task the worker writes a byte into a pipe, the **bell** of the plugin, which that event loop watches: the kernel
//! wakes the very thread that goes on with the task. The pipe has an end for each side, so neither can change how the
//! other's behaves. A bell says only "look": whose answer is there, the words of the lanes tell.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Arc, Claim, Completion, Draft, Lane, LaneError, Ordering, Pending, PrivateCopy, Stage, fence, lock};
use crate::lane::queue::Ticket;
use crate::layout::CallerWaits;

/// Waits for a slot; see [`Lane::begin_task`].
#[derive(Debug)]
pub struct Begin {
    pub(super) lane: Arc<Lane>,
    pub(super) ticket: Option<Ticket>,
}

impl Future for Begin {
    type Output = Result<Draft, LaneError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = lock(&this.lane.state);
        if let Some(reason) = &state.died_of {
            return Poll::Ready(Err(LaneError::Dead(Arc::clone(reason))));
        }
        let is_turn = this.ticket.map_or(state.waiting.is_empty(), |ticket| state.waiting.is_first(ticket));
        if is_turn && let Some(draft) = this.lane.take_slot(&mut state) {
            this.ticket.take().into_iter().for_each(|ticket| state.waiting.leave(ticket));
            return Poll::Ready(Ok(draft));
        }
        match this.ticket {
            Some(ticket) => state.waiting.stay(ticket, context.waker()),
            None => this.ticket = Some(state.waiting.join_task(context.waker())),
        }
        Poll::Pending
    }
}

impl Drop for Begin {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            lock(&self.lane.state).waiting.leave(ticket);
        }
    }
}

impl Pending {
    /// Spins for as long as that is likely to pay, and then has the bell rung for the answer.
    ///
    /// # Errors
    /// [`LaneError`], after which nothing of this call can be had any more.
    pub fn listen(self, reply: &mut PrivateCopy) -> Result<Listening, LaneError> {
        let (lane, number) = (&self.claim.lane, self.claim.number);
        match lane.habit.until(|| lane.poll(number, self.nonce)) {
            Some(found) => self.take(found?, reply).map(Listening::Answered),
            None => {
                lane.say(number, CallerWaits::Task);
                Ok(Listening::ForBell(Listener { pending: Some(self) }))
            }
        }
    }

    fn take(mut self, completion: Completion, reply: &mut PrivateCopy) -> Result<Completion, LaneError> {
        copy_reply(&self.claim, &completion, reply);
        self.claim.stage = Stage::Answered;
        Ok(completion)
    }
}

pub(super) fn copy_reply(claim: &Claim, completion: &Completion, reply: &mut PrivateCopy) {
    let lane = &claim.lane;
    let window = lane.layout.buffer(lane.lane, lane.slot_of(claim.number));
    lane.peer.copy(window.start, completion.payload, reply);
    lane.traffic.count_copied(completion.payload);
}

/// What became of a call after a short wait.
#[derive(Debug)]
pub enum Listening {
    /// It was answered.
    Answered(Completion),
    /// The bell will ring when it is.
    ForBell(Listener),
}

/// A call whose answer the bell tells of. Dropped, it is cancelled and forgotten.
#[derive(Debug)]
pub struct Listener {
    pending: Option<Pending>,
}

impl Listener {
    /// The answer, if it is there: look before every wait for the bell.
    ///
    /// # Errors
    /// [`LaneError`]; a further look finds nothing.
    pub fn look(&mut self, reply: &mut PrivateCopy) -> Result<Option<Completion>, LaneError> {
        let Some(pending) = &self.pending else { return Ok(None) };
        let (lane, number) = (&pending.claim.lane, pending.claim.number);
        // Pairs with the fence in `Worker::serve_next`: either we see the completion or it sees that we listen.
        fence(Ordering::SeqCst);
        let Some(found) = lane.poll(number, pending.nonce) else {
            return if lane.dead.load(Ordering::Acquire) { Err(lane.death()) } else { Ok(None) };
        };
        lane.say(number, CallerWaits::Awake);
        match self.pending.take() {
            Some(pending) => pending.take(found?, reply).map(Some),
            None => Ok(None),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(pending) = &self.pending {
            pending.claim.lane.say(pending.claim.number, CallerWaits::Awake);
        }
    }
}
