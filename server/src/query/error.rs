//! What a query can fail with, as clients see it.

use std::fmt;
use std::sync::Arc;

use photondb_plugin_sdk::{Cause, Datum, PluginError};

use crate::storage::StoreError;

/// The result of everything that a query computes.
pub type Result<T> = std::result::Result<T, ReqlError>;

/// The kinds of error that the protocol knows. Drivers make an exception class of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The client broke the protocol.
    Client,
    /// The query is malformed as ReQL.
    Compile,
    /// An invariant of the server broke.
    Internal,
    /// A limit was reached: array size, nesting, memory.
    ResourceLimit,
    /// Wrong type or bad argument.
    QueryLogic,
    /// Something is missing; the one kind that `default` catches.
    NonExistence,
    /// The operation could not be done, and was not.
    OpFailed,
    /// A write that may or may not have happened.
    OpIndeterminate,
    /// `r.error(message)`.
    User,
    /// `r.error()`: raises the error again that a `default` caught.
    EmptyUser,
    /// A missing permission.
    Permission,
}

impl ErrorKind {
    /// The response type on the wire.
    #[must_use]
    pub fn response_type(self) -> u8 {
        match self {
            Self::Client => 16,
            Self::Compile => 17,
            _ => 18,
        }
    }

    /// The error type number of a runtime error.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        Some(match self {
            Self::Client | Self::Compile => return None,
            Self::Internal => 1_000_000,
            Self::ResourceLimit => 2_000_000,
            Self::QueryLogic => 3_000_000,
            Self::NonExistence => 3_100_000,
            Self::OpFailed => 4_100_000,
            Self::OpIndeterminate => 4_200_000,
            Self::User | Self::EmptyUser => 5_000_000,
            Self::Permission => 6_000_000,
        })
    }
}

/// One step from a term to one of its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A positional argument.
    Position(usize),
    /// An optional argument.
    Option(Arc<str>),
}

/// An error with the path to the term that failed.
#[derive(Clone, Debug)]
pub struct ReqlError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    /// Innermost first: frames are added while the error travels outwards.
    frames: Vec<Frame>,
}

impl ReqlError {
    /// An error at the term that is being evaluated.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), frames: Vec::new() }))
    }

    /// A wrong type or argument.
    pub fn logic(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::QueryLogic, message)
    }

    /// Something is missing.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NonExistence, message)
    }

    /// An operation that could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::OpFailed, message)
    }

    /// A malformed query.
    pub fn compile(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Compile, message)
    }

    /// A limit that was reached.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ResourceLimit, message)
    }

    /// A broken invariant.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// `expected` is a type's name, `found` the value that is of another type.
    #[must_use]
    pub fn wrong_type(expected: &str, found: &Datum) -> Self {
        let found_type = super::pseudo::type_name(found);
        let kind = if matches!(found, Datum::Null) { ErrorKind::NonExistence } else { ErrorKind::QueryLogic };
        Self::new(kind, format!("Expected type {expected} but found {found_type}."))
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text for the user.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The path from the query's root to the term that failed.
    pub fn backtrace(&self) -> impl Iterator<Item = &Frame> {
        self.0.frames.iter().rev()
    }

    /// The same error, seen from the term whose argument failed.
    #[must_use]
    pub fn within(mut self, frame: Frame) -> Self {
        self.0.frames.push(frame);
        self
    }

    /// The same error, seen from the term whose positional argument failed.
    #[must_use]
    pub fn at(self, position: usize) -> Self {
        self.within(Frame::Position(position))
    }

    /// The same error with another text.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }
}

impl fmt::Display for ReqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ReqlError {}

impl From<PluginError> for ReqlError {
    fn from(error: PluginError) -> Self {
        let kind = match error.cause() {
            Cause::Argument => ErrorKind::QueryLogic,
            Cause::NonExistence => ErrorKind::NonExistence,
            Cause::Limit => ErrorKind::ResourceLimit,
            Cause::Denied => ErrorKind::Permission,
            _ => ErrorKind::OpFailed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<StoreError> for ReqlError {
    fn from(error: StoreError) -> Self {
        super::tables::store_error(&error)
    }
}
