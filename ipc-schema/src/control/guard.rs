//! What a plugin may say on its control connection, checked before the RPC system hears of it.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp::{Error, ErrorKind};
use capnp_rpc::rpc_capnp::{call, message, message_target, return_};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::AsyncRead;
use thiserror::Error;

use super::{MAX_BYTES_PER_SECOND, MAX_CALL_BYTES, MAX_CALLS_IN_FLIGHT, MAX_MESSAGES_PER_SECOND, TokenBucket};

/// Whether a plugin was handed anything that it can call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callable {
    /// No: it may answer, and nothing else.
    Nothing,
    /// The services that are passed to it.
    Services,
}

/// What a plugin did on its control connection that it must not do. The connection is over.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A message that nobody of its kind sends.
    #[error("it sent {0} on its control connection")]
    Message(&'static str),
    /// More than it may.
    #[error("it called services beyond the limit of {0}")]
    TooMuch(Limit),
}

/// A limit of what a plugin may send.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Limit {
    /// Calls in flight.
    #[error("{MAX_CALLS_IN_FLIGHT} calls in flight")]
    CallsInFlight,
    /// The size of one call.
    #[error("{MAX_CALL_BYTES} bytes for a call")]
    CallBytes,
    /// Messages a second.
    #[error("{MAX_MESSAGES_PER_SECOND} messages a second")]
    Messages,
    /// Bytes a second.
    #[error("{MAX_BYTES_PER_SECOND} bytes a second")]
    Bytes,
}

/// The network over `reader`, made by `network`, whose peer is held to the rules.
pub(super) fn guarded<R: AsyncRead + Unpin + 'static, N: VatNetwork<Side> + 'static>(
    network: impl FnOnce(Metered<R>) -> Box<N>,
    reader: R,
    callable: Callable,
    violated: impl FnOnce(Violation) + 'static,
) -> Box<dyn VatNetwork<Side>> {
    let bytes = Rc::new(Cell::new(0));
    let network = network(Metered { reader, bytes: Rc::clone(&bytes) });
    let rules = match callable {
        Callable::Nothing => None,
        Callable::Services => Some(Calls::new(Instant::now())),
    };
    let peer = Peer { bytes, calls: RefCell::new(rules), violated: Cell::new(Some(Box::new(violated))) };
    Box::new(Guarded { inner: network, peer: Rc::new(peer) })
}

/// Counts what is read.
pub(super) struct Metered<R> {
    reader: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.reader).poll_read(cx, buffer);
        if let Poll::Ready(Ok(count)) = read {
            self.bytes.set(self.bytes.get().saturating_add(count as u64));
        }
        read
    }
}

/// Is told of a violation.
type Tell = Box<dyn FnOnce(Violation)>;

/// What is known of the plugin at the other end.
struct Peer {
    /// Read since the last message.
    bytes: Rc<Cell<u64>>,
    /// `None`: it may answer, and nothing else.
    calls: RefCell<Option<Calls>>,
    violated: Cell<Option<Tell>>,
}

impl Peer {
    fn violation(&self, violation: Violation) -> Error {
        if let Some(tell) = self.violated.take() {
            tell(violation);
        }
        Error::failed(violation.to_string())
    }

    fn check(&self, message: &dyn IncomingMessage) -> Result<(), Violation> {
        let bytes = self.bytes.take();
        let read = || message.get_body()?.get_as::<message::Reader<'_>>();
        match (read().map_err(unreadable)?.which(), &mut *self.calls.borrow_mut()) {
            (Ok(message::Return(answer)), _) => check_answer(answer.map_err(unreadable)?),
            (Ok(message::Abort(_)), _) => Ok(()),
            (Ok(other), Some(calls)) => calls.check(other, bytes, Instant::now()),
            (Ok(_), None) => Err(Violation::Message("a message that is no answer, with no service granted,")),
            (Err(_), _) => Err(Violation::Message("a message of an unknown kind")),
        }
    }
}

fn unreadable(_: Error) -> Violation {
    Violation::Message("a message that can't be read")
}

/// An answer brings its content and no more: what else the protocol knows would be kept here, or lead elsewhere.
fn check_answer(answer: return_::Reader<'_>) -> Result<(), Violation> {
    match answer.which() {
        Ok(return_::Results(results)) => {
            // One: the plugin's interface itself, which answers the first message.
            let capabilities = results.and_then(|results| results.get_cap_table()).map_err(unreadable)?;
            if capabilities.len() > 1 { Err(Violation::Message("an answer with capabilities")) } else { Ok(()) }
        }
        Ok(return_::Exception(_) | return_::Canceled(())) => Ok(()),
        _ => Err(Violation::Message("an answer that is elsewhere")),
    }
}

/// The calls of a plugin to services.
struct Calls {
    messages: TokenBucket,
    bytes: TokenBucket,
    /// Those of which the RPC system, or the queue of what is to be written, still holds something.
    in_flight: Vec<InFlight>,
}

struct InFlight {
    question: u32,
    stage: Stage,
    /// The answer, until it is written and forgotten.
    answer: Weak<Builder<HeapAllocator>>,
}

#[derive(PartialEq, Eq)]
enum Stage {
    /// Not answered.
    Called,
    /// Answered, and kept by the RPC system until the plugin says that it has the answer.
    Answered,
    /// Forgotten by the RPC system.
    Done,
}

impl Calls {
    fn new(now: Instant) -> Self {
        Self {
            messages: TokenBucket::new(MAX_MESSAGES_PER_SECOND, now),
            bytes: TokenBucket::new(MAX_BYTES_PER_SECOND, now),
            in_flight: Vec::with_capacity(MAX_CALLS_IN_FLIGHT),
        }
    }

    fn check(&mut self, message: message::WhichReader<'_>, bytes: u64, now: Instant) -> Result<(), Violation> {
        let bytes = u32::try_from(bytes).ok().filter(|bytes| u64::from(*bytes) <= MAX_CALL_BYTES);
        let bytes = bytes.ok_or(Violation::TooMuch(Limit::CallBytes))?;
        if !self.messages.take(1, now) {
            return Err(Violation::TooMuch(Limit::Messages));
        }
        if !self.bytes.take(bytes, now) {
            return Err(Violation::TooMuch(Limit::Bytes));
        }
        match message {
            message::Call(call) => self.call(call.map_err(unreadable)?),
            message::Finish(finish) => self.finish(finish.map_err(unreadable)?.get_question_id()),
            // The RPC system counts what was given out, and ends the connection of a plugin that gives more back.
            message::Release(_) => Ok(()),
            _ => Err(Violation::Message("a message that is neither an answer nor a call")),
        }
    }

    fn call(&mut self, call: call::Reader<'_>) -> Result<(), Violation> {
        let target = call.get_target().map_err(unreadable)?.which();
        if !matches!(target, Ok(message_target::ImportedCap(_))) {
            return Err(Violation::Message("a call to an answer"));
        }
        if !matches!(call.get_send_results_to().which(), Ok(call::send_results_to::Caller(()))) {
            return Err(Violation::Message("a call whose answer is for somebody else"));
        }
        if !call.get_params().and_then(|params| params.get_cap_table()).map_err(unreadable)?.is_empty() {
            return Err(Violation::Message("a call with capabilities"));
        }
        self.in_flight.retain(|call| call.stage != Stage::Done || call.answer.strong_count() > 0);
        if self.in_flight.len() >= MAX_CALLS_IN_FLIGHT {
            return Err(Violation::TooMuch(Limit::CallsInFlight));
        }
        self.in_flight.push(InFlight { question: call.get_question_id(), stage: Stage::Called, answer: Weak::new() });
        Ok(())
    }

    fn find(&mut self, question: u32) -> Option<&mut InFlight> {
        // No two with the same number are in these stages: the RPC system ends the connection before.
        self.in_flight.iter_mut().find(|call| call.question == question && call.stage != Stage::Done)
    }

    fn finish(&mut self, question: u32) -> Result<(), Violation> {
        match self.find(question) {
            // The RPC system would stop the call, and never forget it.
            Some(InFlight { stage: Stage::Called, .. }) => Err(Violation::Message("the cancellation of a call")),
            Some(call) => {
                call.stage = Stage::Done;
                Ok(())
            }
            // Of an answer that said that it needs none.
            None => Ok(()),
        }
    }

    fn answered(&mut self, question: u32, needs_finish: bool, answer: Weak<Builder<HeapAllocator>>) {
        if let Some(call) = self.find(question) {
            call.stage = if needs_finish { Stage::Answered } else { Stage::Done };
            call.answer = answer;
        }
    }
}

/// A network, a connection of it, or a message to be sent there, whose peer is held to the rules.
struct Guarded<T> {
    inner: T,
    peer: Rc<Peer>,
}

impl<T> Guarded<T> {
    fn connection(&self, inner: Box<dyn Connection<Side>>) -> Box<dyn Connection<Side>> {
        Box::new(Guarded { inner, peer: Rc::clone(&self.peer) })
    }
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Guarded<Box<N>> {
    fn connect(&mut self, host: Side) -> Option<Box<dyn Connection<Side>>> {
        let connection = self.inner.connect(host)?;
        Some(self.connection(connection))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let (accepted, peer) = (self.inner.accept(), Rc::clone(&self.peer));
        Promise::from_future(async { Ok(Guarded { inner: (), peer }.connection(accepted.await?)) })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.inner.drive_until_shutdown()
    }
}

impl Connection<Side> for Guarded<Box<dyn Connection<Side>>> {
    fn get_peer_vat_id(&self) -> Side {
        self.inner.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        let inner = self.inner.new_outgoing_message(first_segment_word_size);
        Box::new(Guarded { inner, peer: Rc::clone(&self.peer) })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let (received, peer) = (self.inner.receive_incoming_message(), Rc::clone(&self.peer));
        Promise::from_future(async move {
            match received.await {
                Ok(Some(message)) => {
                    peer.check(&*message).map_err(|violation| peer.violation(violation))?;
                    Ok(Some(message))
                }
                Ok(None) => Ok(None),
                // The plugin has ended, or is ending: that says more than its connection.
                Err(error) if error.kind == ErrorKind::Disconnected => Err(error),
                Err(error) => Err(peer.violation(unreadable(error))),
            }
        })
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        self.inner.shutdown(result)
    }
}

impl OutgoingMessage for Guarded<Box<dyn OutgoingMessage>> {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.inner.get_body()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.inner.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        let answered = answered(&*self.inner);
        let (sent, message) = self.inner.send();
        if let Some((question, needs_finish)) = answered
            && let Some(calls) = &mut *self.peer.calls.borrow_mut()
        {
            calls.answered(question, needs_finish, Rc::downgrade(&message));
        }
        (sent, message)
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.inner.take()
    }

    fn size_in_words(&self) -> usize {
        self.inner.size_in_words()
    }
}

/// The question that a message answers, and whether the RPC system keeps the answer until it hears that it arrived.
fn answered(message: &dyn OutgoingMessage) -> Option<(u32, bool)> {
    match message.get_body_as_reader().ok()?.get_as::<message::Reader<'_>>().ok()?.which().ok()? {
        message::Return(answer) => {
            let answer = answer.ok()?;
            Some((answer.get_answer_id(), !answer.get_no_finish_needed()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
