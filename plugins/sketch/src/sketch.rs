//! What a sketch is here, and the aggregates that every one has.

use std::marker::PhantomData;
use std::panic::{self, AssertUnwindSafe};

use datasketches::error::Error;
use photondb_plugin_sdk::prelude::*;

/// A summary of values that can be merged.
pub(crate) trait Sketch: Sized + Send + Sync {
    /// The name of the aggregate that makes it.
    const NAME: &'static str;
    /// The name of the aggregate that merges it.
    const MERGE: &'static str;

    /// Of no values.
    fn empty() -> Result<Self, Error>;

    /// Takes a value.
    ///
    /// # Errors
    /// When it takes no such value.
    fn add(&mut self, value: &Datum) -> Result<(), PluginError>;

    /// Takes all values of another one.
    ///
    /// # Errors
    /// When the two don't fit together.
    fn merge(&mut self, other: &Self) -> Result<(), String>;

    fn to_bytes(&mut self) -> Vec<u8>;

    fn from_bytes(bytes: &[u8]) -> Result<Self, Error>;

    /// Reads a sketch that a query passed to `caller`.
    fn read(caller: &str, sketch: &Datum) -> Result<Self, PluginError> {
        let wrong = |why: String| {
            let aggregate = Self::NAME;
            PluginError::argument(format!("{caller}: not a sketch as the aggregate `{aggregate}` makes them: {why}"))
        };
        match sketch {
            Datum::Binary(bytes) => Self::from_bytes(bytes).map_err(|error| wrong(error.to_string())),
            other => Err(wrong(format!("it is a {}, not a binary", other.type_name()))),
        }
    }

    /// Reads a sketch that a query passed to `caller`, and works with it.
    fn with<T>(
        caller: &str,
        sketch: &Datum,
        work: impl FnOnce(&mut Self) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        guarded(caller, || work(&mut Self::read(caller, sketch)?))
    }

    fn of_values(values: &[Datum]) -> Result<Self, PluginError> {
        let mut sketch = Self::new()?;
        values.iter().try_for_each(|value| sketch.add(value))?;
        Ok(sketch)
    }

    fn of_sketches(caller: &str, sketches: &[Datum]) -> Result<Self, PluginError> {
        let mut merged = Self::new()?;
        for sketch in sketches {
            guarded(caller, || {
                let sketch = Self::read(caller, sketch)?;
                merged.merge(&sketch).map_err(|why| PluginError::argument(format!("{caller}: {why}")))
            })?;
        }
        Ok(merged)
    }

    fn new() -> Result<Self, PluginError> {
        Self::empty().map_err(|error| PluginError::runtime(photondb_plugin_sdk::Cause::Plugin, error.to_string()))
    }

    fn to_datum(mut self) -> Datum {
        Datum::Binary(self.to_bytes().into())
    }
}

/// The aggregate that makes a sketch of values.
pub(crate) struct Make<S>(PhantomData<S>);

/// The aggregate that makes one sketch of many.
pub(crate) struct Merge<S>(PhantomData<S>);

/// Provides both.
pub(crate) fn register<S: Sketch + 'static>(registry: &mut PluginRegistry) {
    registry.aggregate(Make::<S>(PhantomData)).aggregate(Merge::<S>(PhantomData));
}

impl<S: Sketch> AggregatePlugin for Make<S> {
    fn name(&self) -> &str {
        S::NAME
    }

    fn accumulate(&self, values: &[Datum]) -> Result<Datum, PluginError> {
        Ok(S::of_values(values)?.to_datum())
    }

    fn merge(&self, states: &[Datum]) -> Result<Datum, PluginError> {
        Ok(S::of_sketches(S::NAME, states)?.to_datum())
    }

    fn finish(&self, state: &Datum) -> Result<Datum, PluginError> {
        Ok(state.clone())
    }
}

impl<S: Sketch> AggregatePlugin for Merge<S> {
    fn name(&self) -> &str {
        S::MERGE
    }

    fn accumulate(&self, values: &[Datum]) -> Result<Datum, PluginError> {
        self.merge(values)
    }

    fn merge(&self, states: &[Datum]) -> Result<Datum, PluginError> {
        Ok(S::of_sketches(S::MERGE, states)?.to_datum())
    }

    fn finish(&self, state: &Datum) -> Result<Datum, PluginError> {
        Ok(state.clone())
    }
}

/// Of damaged bytes that look like a sketch, the library checks the form and not every number: it may panic over them
/// later. That is the caller's mistake, and no failure of the plugin.
fn guarded<T>(caller: &str, work: impl FnOnce() -> Result<T, PluginError>) -> Result<T, PluginError> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(PluginError::argument(format!("{caller}: the sketch is damaged"))))
}

/// A value as it is hashed: its encoded form, in which equal values are equal.
pub(crate) fn hashed(value: &Datum) -> Vec<u8> {
    match value {
        // Equal, but encoded differently.
        Datum::Number(number) if *number == 0.0 => Datum::Number(0.0).encoded(),
        value => value.encoded(),
    }
}
