//! The callers that wait for a slot, in the order in which they came.

use std::collections::VecDeque;
use std::task::Waker;

use crate::sync::{Arc, Condvar};

/// Who waits. It is behind the lock of the lane's state, which the condition variables of threads go with.
#[derive(Debug, Default)]
pub(super) struct Queue {
    next: u64,
    callers: VecDeque<(Ticket, Caller)>,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
enum Caller {
    Thread(Arc<Condvar>),
    Task(Waker),
}

impl Caller {
    fn wake(&self) {
        match self {
            Self::Thread(bell) => bell.notify_one(),
            Self::Task(waker) => waker.wake_by_ref(),
        }
    }
}

impl Queue {
    /// A place for this thread, and what it waits on.
    pub(super) fn join_thread(&mut self) -> (Ticket, Arc<Condvar>) {
        let bell = Arc::new(Condvar::new());
        (self.join(Caller::Thread(Arc::clone(&bell))), bell)
    }

    /// A place for a task.
    pub(super) fn join_task(&mut self, waker: &Waker) -> Ticket {
        self.join(Caller::Task(waker.clone()))
    }

    fn join(&mut self, caller: Caller) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.callers.push_back((ticket, caller));
        ticket
    }

    /// A task may be polled with another waker each time.
    pub(super) fn stay(&mut self, ticket: Ticket, waker: &Waker) {
        if let Some((_, Caller::Task(known))) = self.callers.iter_mut().find(|(other, _)| *other == ticket) {
            known.clone_from(waker);
        }
    }

    /// Gives a place up, with a slot or without; the next one has a look: more slots may have come free, or this one was
    /// woken when it had just given up.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.callers.retain(|(other, _)| *other != ticket);
        self.wake_first();
    }

    pub(super) fn is_first(&self, ticket: Ticket) -> bool {
        self.callers.front().is_some_and(|(first, _)| *first == ticket)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn len(&self) -> usize {
        self.callers.len()
    }

    /// Wakes the caller whose turn it is, if any: to wake nobody would be a system call all the same.
    pub(super) fn wake_first(&self) {
        self.callers.iter().take(1).for_each(|(_, caller)| caller.wake());
    }

    pub(super) fn wake_all(&self) {
        self.callers.iter().for_each(|(_, caller)| caller.wake());
    }
}
