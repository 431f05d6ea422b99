//! Functions that take time.

use std::thread;
use std::time::Duration;

use photondb_plugin_sdk::prelude::*;

/// What takes time.
#[derive(Clone, Copy)]
pub(crate) enum Slow {
    /// No attack: 100 ms a row, and the runtime asks between rows whether anybody waits still.
    Patient,
    /// Answers in time, if only just.
    AlwaysLate,
}

impl Slow {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Patient, Self::AlwaysLate].into_iter().find(|slow| slow.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::AlwaysLate => "always_late",
        }
    }
}

impl QueryFunctionPlugin for Slow {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::volatile(self.name(), 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        match self {
            Self::Patient => thread::sleep(Duration::from_millis(100)),
            Self::AlwaysLate => thread::sleep(Duration::from_millis(4500)),
        }
        Ok(args[0].clone())
    }
}
