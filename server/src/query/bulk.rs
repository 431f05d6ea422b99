//! Calling one function for many rows, so that plugins get batches.
//!
//! A function's body may call plugins. Where such a call's arguments are evaluated for every row in any case (not under
//! a branch, not in a nested function), the arguments are computed for many rows first, the plugin is called for all of
//! them, and only then each row's body is evaluated with the results at hand. Nested calls come in the order in which
//! they need each other.
//!
//! Rows are read in windows. A window is sent in messages, and while the plugin computes one, the rows of the next are read
//! and written: encoding, computing and reading back overlap. What is in flight keeps slots of a lane from everybody else, so
//! nothing is while anything could take long: the answers of a window are collected before the consumer has its turn, and
//! where rows or arguments are more than a read of the storage they are all there before the first message goes. Windows
//! start small, so that the first result comes at once and `limit(5)` stays cheap, and double as long as that is fast: what
//! is computed ahead is never more than what was consumed before, beside the first window.
//!
//! A row whose arguments fail is left out: it fails when its own turn comes, at the same place, with the same error. If a
//! message as a whole fails, its rows are called one by one, so that the rows before the bad one are delivered; unless the
//! plugin did not answer in time, which is then every row's error.
//!
//! Batched are `map`, `concat_map`, `filter`, `offsets_of`, `count`, `sum`, `avg`, `min`, `max`, `merge` of a sequence,
//! `group`, `order_by`, `update` and `replace`. One row at a time: `r.do`, `get` and the like, which have only one; `reduce`
//! and `fold`, whose steps need each other; joins, `contains`, `for_each`, `insert` with a function, and functions of
//! indexes.

mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Result;
use super::eval::Context;
use super::function::{Function, Prepared};
use super::row::Row;
use super::stream::Pace;
use window::Window;

/// Rows of the first window.
const FIRST_WINDOW: usize = 16;
/// Rows of one message: beyond it, the round trip no longer shows in the cost of a row.
const MESSAGE: usize = 1024;
/// Rows of the largest window: as many messages as a lane takes.
const LARGEST_WINDOW: usize = 8 * MESSAGE;
/// After so many rows it looks whether something has been in flight for too long.
const LOOK: usize = 64;
/// A window of larger documents ends early.
const WINDOW_BYTES: usize = 16 << 20;
/// Windows that took longer don't grow: somebody waits for the rows that are ready.
const PATIENCE: Duration = Duration::from_millis(50);

/// The calls of one function for rows of arguments, each prepared as far as batches can.
pub struct Calls<I> {
    rows: I,
    function: Arc<Function>,
    ctx: Arc<Context>,
    pace: Pace,
    /// Rows of the next window; none where there is nothing to be prepared.
    window: usize,
    ready: VecDeque<Result<Prepared>>,
}

impl<I: Iterator<Item = Result<Vec<Row>>>> Calls<I> {
    /// The calls of `function` with the given rows of arguments.
    pub fn new(rows: I, pace: Pace, function: Arc<Function>, ctx: Arc<Context>) -> Self {
        let window = if batches(&function) { FIRST_WINDOW } else { 0 };
        Self { rows, function, ctx, pace, window, ready: VecDeque::new() }
    }

    fn fill(&mut self) {
        let started = Instant::now();
        let mut window = Window::new(&self.function, &self.ctx, self.pace);
        window.ring_ahead();
        let (mut left, mut bytes, mut end) = (self.window, 0, None);
        while left > 0 && bytes < WINDOW_BYTES && end.is_none() {
            let mut message = Vec::with_capacity(left.min(MESSAGE));
            while message.len() < left.min(MESSAGE) && bytes < WINDOW_BYTES && end.is_none() {
                if message.len().is_multiple_of(LOOK) {
                    window.look();
                }
                match self.rows.next() {
                    Some(Ok(row)) => {
                        bytes += row.iter().map(Row::stored_bytes).sum::<usize>();
                        message.push(row);
                    }
                    other => end = Some(other),
                }
            }
            left -= message.len();
            window.send(message);
        }
        self.ready.extend(window.collect().into_iter().map(Ok));
        if let Some(Some(Err(error))) = end {
            self.ready.push_back(Err(error));
        }
        self.window = match started.elapsed() {
            short if short <= PATIENCE => (self.window * 2).min(LARGEST_WINDOW),
            long if long <= PATIENCE * 4 => self.window,
            _ => (self.window / 2).max(FIRST_WINDOW),
        };
    }
}

impl<I: Iterator<Item = Result<Vec<Row>>>> Iterator for Calls<I> {
    type Item = Result<Prepared>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.window == 0 {
            return Some(self.rows.next()?.map(Prepared::new));
        }
        if self.ready.is_empty() {
            self.fill();
        }
        self.ready.pop_front()
    }
}

/// Whether it pays to collect rows for the function.
#[must_use]
pub fn batches(function: &Function) -> bool {
    match function {
        Function::Plugin(_) => true,
        Function::Closure { term, .. } => !term.sites.is_empty(),
        _ => false,
    }
}

/// Prepares the calls of a function with each of the rows of arguments.
#[must_use]
pub fn prepare(function: &Function, ctx: &Arc<Context>, rows: Vec<Vec<Row>>) -> Vec<Prepared> {
    let mut window = Window::new(function, ctx, Pace::Steady);
    let mut rows = rows.into_iter();
    loop {
        let message: Vec<Vec<Row>> = rows.by_ref().take(MESSAGE).collect();
        if message.is_empty() {
            return window.collect();
        }
        window.send(message);
    }
}
