//! HyperLogLog: how many different values there are.

use datasketches::error::Error;
use datasketches::hll::{HllSketch, HllType, HllUnion};
use photondb_plugin_sdk::prelude::*;

use crate::sketch::{self, Sketch, hashed};

/// 4,096 registers: a standard error of 1.6 %, and 4 KiB. Up to some hundred values are counted almost exactly.
const LG_REGISTERS: u8 = 12;

/// The sketch.
struct Hll(HllSketch);

impl Sketch for Hll {
    const NAME: &'static str = "hll";
    const MERGE: &'static str = "hll_merge";

    fn empty() -> Result<Self, Error> {
        HllSketch::new(LG_REGISTERS, HllType::Hll8).map(Self)
    }

    fn add(&mut self, value: &Datum) -> Result<(), PluginError> {
        self.0.update(hashed(value));
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), String> {
        let mut union = HllUnion::new(LG_REGISTERS).map_err(|error| error.to_string())?;
        union.update(&self.0);
        union.update(&other.0);
        self.0 = union.to_sketch(HllType::Hll8);
        Ok(())
    }

    fn to_bytes(&mut self) -> Vec<u8> {
        self.0.serialize()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        HllSketch::deserialize(bytes).map(Self)
    }
}

impl Hll {
    fn count(&self) -> Datum {
        self.0.estimate().round().into()
    }
}

/// How many different values there are, about.
struct DistinctCount;

impl AggregatePlugin for DistinctCount {
    fn name(&self) -> &str {
        "distinct_count"
    }

    fn accumulate(&self, values: &[Datum]) -> Result<Datum, PluginError> {
        Ok(Hll::of_values(values)?.to_datum())
    }

    fn merge(&self, states: &[Datum]) -> Result<Datum, PluginError> {
        Ok(Hll::of_sketches(self.name(), states)?.to_datum())
    }

    fn finish(&self, state: &Datum) -> Result<Datum, PluginError> {
        Hll::with(self.name(), state, |sketch| Ok(sketch.count()))
    }
}

/// The same, of a sketch.
struct HllCount;

impl QueryFunctionPlugin for HllCount {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure("hll_count", 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        Hll::with("hll_count", &args[0], |sketch| Ok(sketch.count()))
    }
}

pub(crate) fn register(registry: &mut PluginRegistry) {
    sketch::register::<Hll>(registry);
    registry.aggregate(DistinctCount).function(HllCount);
}
