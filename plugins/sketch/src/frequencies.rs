//! Count-min: how often a value occurs.

use datasketches::countmin::CountMinSketch;
use datasketches::error::Error;
use photondb_plugin_sdk::prelude::*;

use crate::sketch::{self, Sketch, hashed};

/// With these a count is never too small, and with 99 % probability too large by no more than 0.1 % of all values.
const HASHES: u8 = 5;
const BUCKETS: u32 = 2719;

type CountMin = CountMinSketch<i64>;

impl Sketch for CountMin {
    const NAME: &'static str = "countmin";
    const MERGE: &'static str = "countmin_merge";

    fn empty() -> Result<Self, Error> {
        Self::new(HASHES, BUCKETS)
    }

    fn add(&mut self, value: &Datum) -> Result<(), PluginError> {
        self.update(hashed(value));
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), String> {
        Self::merge(self, other).map_err(|error| error.to_string())
    }

    fn to_bytes(&mut self) -> Vec<u8> {
        self.serialize()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Self::deserialize(bytes)
    }
}

/// `countmin_count(sketch, value)`.
struct Count;

impl QueryFunctionPlugin for Count {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure("countmin_count", 2, 2)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        CountMin::with("countmin_count", &args[0], |sketch| Ok((sketch.estimate(hashed(&args[1])) as f64).into()))
    }
}

pub(crate) fn register(registry: &mut PluginRegistry) {
    sketch::register::<CountMin>(registry);
    registry.function(Count);
}
