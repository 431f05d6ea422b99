//! Calls that nobody waits for any more.

use photondb_ipc_schema::lane::Cancellation;

use crate::{Cause, PluginError};

/// Tells whether the caller of one call gave up waiting for it. May be asked by any thread that works for the call.
///
/// What then becomes of the answer is nobody's concern; but a plugin that does not answer within a second is stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cancel<'a>(Option<Cancellation<'a>>);

impl<'a> Cancel<'a> {
    /// Of a call that nobody gives up: in tests, and where there is no call.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    pub(crate) fn of(cancellation: Cancellation<'a>) -> Self {
        Self(Some(cancellation))
    }

    /// Whether nobody waits for the answer any more. Costs a load from a cache line that hardly ever changes.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_some_and(|cancellation| cancellation.is_cancelled())
    }

    /// The same, for `?`.
    ///
    /// # Errors
    /// [`Cause::Deadline`] if nobody waits any more.
    pub fn check(&self) -> Result<(), PluginError> {
        match self.is_cancelled() {
            true => Err(PluginError::runtime(Cause::Deadline, "the caller gave up waiting")),
            false => Ok(()),
        }
    }
}
