//! What can go wrong with a plugin, in words that a user can act on.

use thiserror::Error;

/// An error that a plugin caused or reported. Every variant names the plugin.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginError {
    /// The plugin could not be started: bad package, refused permission, failed confinement or handshake.
    #[error("plugin `{plugin}` did not start: {message}")]
    InitFailed {
        /// The plugin's name.
        plugin: String,
        /// One sentence: what happened and what to do.
        message: String,
    },
    /// The plugin provides what another one provides already, or what its manifest does not declare.
    #[error("plugin `{plugin}` conflicts: {message}")]
    CapabilityConflict {
        /// The plugin's name.
        plugin: String,
        /// One sentence: what happened and what to do.
        message: String,
    },
    /// A call failed.
    #[error("plugin `{plugin}`: {message}")]
    RuntimeError {
        /// The plugin's name.
        plugin: String,
        /// Whose fault it is and whether another try can help.
        cause: Cause,
        /// One sentence: what happened and what to do.
        message: String,
    },
}

/// Why a call failed. Crosses the process boundary as a number, so the order of variants is part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Cause {
    /// The arguments are wrong: the caller has to change them.
    Argument = 0,
    /// The function found nothing to answer with; ReQL's `default` catches it, as it catches a missing field.
    NonExistence = 1,
    /// The plugin's own code failed or panicked.
    Plugin = 2,
    /// The process died during the call.
    Crashed = 3,
    /// No answer before the deadline.
    Deadline = 4,
    /// The plugin broke the protocol and was killed.
    Protocol = 5,
    /// A limit was reached: memory, buffer size, calls in flight.
    Limit = 6,
    /// The plugin tried something that its sandbox forbids.
    Denied = 7,
    /// The plugin is not running: disabled, failed, backing off or being unloaded.
    Unavailable = 8,
    /// A write of a storage engine may or may not have happened.
    Indeterminate = 9,
    /// What a storage engine has stored is damaged.
    Damaged = 10,
    /// Somebody else has what is needed, for instance a process that is about to end: the same may work soon.
    Busy = 11,
}

impl Cause {
    /// The cause that the number stands for; unknown numbers are [`Cause::Protocol`].
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Argument,
            1 => Self::NonExistence,
            2 => Self::Plugin,
            3 => Self::Crashed,
            4 => Self::Deadline,
            6 => Self::Limit,
            7 => Self::Denied,
            8 => Self::Unavailable,
            9 => Self::Indeterminate,
            10 => Self::Damaged,
            11 => Self::Busy,
            _ => Self::Protocol,
        }
    }

    /// Whether a plugin may say this of a call: then it answered, and works.
    #[must_use]
    pub fn is_answer(self) -> bool {
        use Cause::{Argument, Busy, Damaged, Indeterminate, NonExistence, Plugin};
        matches!(self, Argument | NonExistence | Plugin | Indeterminate | Damaged | Busy)
    }

    /// Whether a pure call may succeed when it is tried once more on a new instance.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Crashed | Self::Denied | Self::Protocol | Self::Unavailable)
    }
}

impl PluginError {
    /// An error about the arguments of a call; the runtime fills in the plugin's name.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::runtime(Cause::Argument, message)
    }

    /// A runtime error; the runtime fills in the plugin's name.
    pub fn runtime(cause: Cause, message: impl Into<String>) -> Self {
        Self::RuntimeError { plugin: String::new(), cause, message: message.into() }
    }

    /// The start failed; the runtime fills in the plugin's name.
    pub fn init(message: impl Into<String>) -> Self {
        Self::InitFailed { plugin: String::new(), message: message.into() }
    }

    /// The same error, said of the plugin `name`.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        let (Self::InitFailed { plugin, .. }
        | Self::CapabilityConflict { plugin, .. }
        | Self::RuntimeError { plugin, .. }) = &mut self;
        name.clone_into(plugin);
        self
    }

    /// The sentence without the plugin's name.
    #[must_use]
    pub fn message(&self) -> &str {
        let (Self::InitFailed { message, .. }
        | Self::CapabilityConflict { message, .. }
        | Self::RuntimeError { message, .. }) = self;
        message
    }

    /// The cause of a runtime error; [`Cause::Unavailable`] for a plugin that never ran.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::RuntimeError { cause, .. } => *cause,
            Self::InitFailed { .. } | Self::CapabilityConflict { .. } => Cause::Unavailable,
        }
    }
}
