//! t-digest: quantiles of numbers, most exact at both ends.

use datasketches::error::Error;
use datasketches::tdigest::TDigestMut;
use photondb_plugin_sdk::Cause;
use photondb_plugin_sdk::prelude::*;

use crate::sketch::{self, Sketch};

/// About twice as many centroids: a rank is off by well below 1 %, far less at both ends.
const COMPRESSION: u16 = 200;

impl Sketch for TDigestMut {
    const NAME: &'static str = "tdigest";
    const MERGE: &'static str = "tdigest_merge";

    fn empty() -> Result<Self, Error> {
        Self::new(COMPRESSION)
    }

    fn add(&mut self, value: &Datum) -> Result<(), PluginError> {
        let wrong = || PluginError::argument(format!("tdigest: takes numbers, but found {}", value.type_name()));
        self.update(value.as_number().ok_or_else(wrong)?);
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), String> {
        self.total_weight()
            .checked_add(other.total_weight())
            .ok_or("the sketches say that they are of more values than can be counted")?;
        Self::merge(self, other);
        Ok(())
    }

    fn to_bytes(&mut self) -> Vec<u8> {
        self.serialize()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Self::deserialize(bytes)
    }
}

/// `tdigest_quantile(sketch, q)`, and for an array of them, and `tdigest_rank(sketch, x)`.
#[derive(Clone, Copy)]
enum Ask {
    Quantile,
    Rank,
}

impl Ask {
    fn name(self) -> &'static str {
        match self {
            Self::Quantile => "tdigest_quantile",
            Self::Rank => "tdigest_rank",
        }
    }

    fn one(self, sketch: &mut TDigestMut, at: &Datum) -> Result<Datum, PluginError> {
        let name = self.name();
        let wrong = |wanted: &str| {
            PluginError::argument(format!("{name}: takes {wanted}, or an array of them, but found {}", at.type_name()))
        };
        let answer = match self {
            Self::Quantile => {
                let wanted = "a number from 0 to 1";
                let q = at.as_number().filter(|q| (0.0..=1.0).contains(q)).ok_or_else(|| wrong(wanted))?;
                sketch.quantile(q)
            }
            Self::Rank => sketch.rank(at.as_number().ok_or_else(|| wrong("a number"))?),
        };
        let answer = answer.map_err(|error| PluginError::argument(format!("{name}: {error}")))?;
        let nothing = || PluginError::runtime(Cause::NonExistence, format!("{name}: the sketch is of no values"));
        Ok(answer.ok_or_else(nothing)?.into())
    }
}

impl QueryFunctionPlugin for Ask {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure(self.name(), 2, 2)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        TDigestMut::with(self.name(), &args[0], |sketch| match &args[1] {
            Datum::Array(all) => {
                let answers: Vec<Datum> = all.iter().map(|at| self.one(sketch, at)).collect::<Result<_, _>>()?;
                Ok(Datum::array(answers))
            }
            at => self.one(sketch, at),
        })
    }
}

pub(crate) fn register(registry: &mut PluginRegistry) {
    sketch::register::<TDigestMut>(registry);
    registry.function(Ask::Quantile).function(Ask::Rank);
}
