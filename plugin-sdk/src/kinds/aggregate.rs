//! Aggregates: one value of many, `r.table("t").group("g")["x"].reduce(r.js("plugin.NAME"))`.
//!
//! An aggregate has a **state** that can be computed of any part of the values, and states can be merged. So the server
//! sends values in parts, whatever their number, and holds a few states instead of all values.

use std::sync::Arc;

use super::function::{FunctionSignature, QueryFunctionPlugin, Role};
use crate::{Datum, PluginError};

/// A value that is computed of many.
///
/// The result must not depend on how the values are divided into parts, other than by what an estimate may vary.
pub trait AggregatePlugin: Send + Sync {
    /// The name after `plugin.`: `[a-z][a-z0-9_]{0,63}`. Aggregates and functions share their names.
    fn name(&self) -> &str;

    /// The state of some values. It should not grow with their number: some tens of kilobytes at most, as a binary.
    ///
    /// # Errors
    /// [`PluginError::argument`] for a value that can't be taken.
    fn accumulate(&self, values: &[Datum]) -> Result<Datum, PluginError>;

    /// The state of all values of some states; of none: that of no values.
    ///
    /// # Errors
    /// [`PluginError::argument`] for something that is no state of this aggregate.
    fn merge(&self, states: &[Datum]) -> Result<Datum, PluginError>;

    /// The aggregate, of the state of all values.
    ///
    /// # Errors
    /// As [`merge`](Self::merge); or [`Cause::NonExistence`](crate::Cause::NonExistence) where there is nothing to tell of no
    /// values.
    fn finish(&self, state: &Datum) -> Result<Datum, PluginError>;
}

/// The steps of an aggregation: what an aggregate is called with, as a function of a step and an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Values to a state.
    Accumulate,
    /// States to a state.
    Merge,
    /// States to the aggregate.
    Finish,
}

impl Step {
    /// Its name as the first argument.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accumulate => "accumulate",
            Self::Merge => "merge",
            Self::Finish => "finish",
        }
    }

    fn of(name: &Datum) -> Option<Self> {
        [Self::Accumulate, Self::Merge, Self::Finish].into_iter().find(|step| name.as_str() == Some(step.name()))
    }
}

/// An aggregate as what travels: a function of a [`Step`] and an array.
pub(crate) struct Steps(pub(crate) Arc<dyn AggregatePlugin>);

impl QueryFunctionPlugin for Steps {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature { role: Role::Aggregate, ..FunctionSignature::pure(self.0.name(), 2, 2) }
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let (Some(step), Some(values)) = (args.first().and_then(Step::of), args.get(1).and_then(Datum::as_array))
        else {
            return Err(PluginError::argument(format!(
                "{} is an aggregate: it takes a step and an array",
                self.0.name()
            )));
        };
        match (step, &values[..]) {
            (Step::Accumulate, values) => self.0.accumulate(values),
            (Step::Merge, states) => self.0.merge(states),
            (Step::Finish, [state]) => self.0.finish(state),
            (Step::Finish, states) => self.0.finish(&self.0.merge(states)?),
        }
    }
}
