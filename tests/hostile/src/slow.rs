//! A function that takes time.

use std::thread;
use std::time::Duration;

use photondb_plugin_sdk::prelude::*;

/// No attack: 100 ms a row, and the runtime asks between rows whether anybody waits still.
#[derive(Clone, Copy)]
pub(crate) struct Slow;

impl Slow {
    pub(crate) fn named(name: &str) -> Option<Self> {
        (name == "patient").then_some(Self)
    }
}

impl QueryFunctionPlugin for Slow {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::volatile("patient", 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        thread::sleep(Duration::from_millis(100));
        Ok(args[0].clone())
    }
}
