//! Typed access to what a query passed, with errors that name the function and the argument.

use photondb_plugin_sdk::Cause;
use photondb_plugin_sdk::prelude::*;

/// An argument of a function, for reading and for errors.
#[derive(Clone, Copy)]
pub(crate) struct Argument<'a> {
    pub(crate) function: &'static str,
    pub(crate) name: &'static str,
    pub(crate) value: &'a Datum,
}

impl Argument<'_> {
    /// A number.
    pub(crate) fn number(self) -> Result<f64, PluginError> {
        self.value.as_number().ok_or_else(|| self.wrong("a number", self.value))
    }

    /// The numbers of an array, which may be empty.
    pub(crate) fn numbers(self) -> Result<Vec<f64>, PluginError> {
        let elements = self.value.as_array().ok_or_else(|| self.wrong("an array of numbers", self.value))?;
        let number =
            |element: &Datum| element.as_number().ok_or_else(|| self.wrong("an array of only numbers", element));
        elements.iter().map(number).collect()
    }

    /// The numbers of an array of one or more.
    pub(crate) fn some_numbers(self) -> Result<Vec<f64>, PluginError> {
        let numbers = self.numbers()?;
        if numbers.is_empty() { Err(self.undefined("is empty")) } else { Ok(numbers) }
    }

    /// A whole number of `least..=most`.
    pub(crate) fn whole(self, least: u32, most: u32) -> Result<u32, PluginError> {
        whole(self.function, self.name, self.number()?, least, most)
    }

    /// The result does not exist, because this argument is as `state` says.
    pub(crate) fn undefined(self, state: &str) -> PluginError {
        let Self { function, name, .. } = self;
        PluginError::runtime(Cause::NonExistence, format!("{function}: there is no result, since `{name}` {state}"))
    }

    /// `found` is of the wrong type.
    fn wrong(self, expected: &str, found: &Datum) -> PluginError {
        let Self { function, name, .. } = self;
        let message = format!("{function}: `{name}` must be {expected}, but found {}", found.type_name());
        match found {
            Datum::Null => PluginError::runtime(Cause::NonExistence, message),
            _ => PluginError::argument(message),
        }
    }
}

/// `number` as a whole number of `least..=most`.
pub(crate) fn whole(function: &str, name: &str, number: f64, least: u32, most: u32) -> Result<u32, PluginError> {
    if number.fract() == 0.0 && (f64::from(least)..=f64::from(most)).contains(&number) {
        // In range, as was just seen.
        return Ok(number as u32);
    }
    let expected = format!("a whole number from {least} to {most}");
    Err(PluginError::argument(format!("{function}: `{name}` must be {expected}, but is {number}")))
}

/// `result`, unless it went beyond what a number can hold.
pub(crate) fn finite(function: &str, result: f64) -> Result<f64, PluginError> {
    if result.is_finite() {
        Ok(result)
    } else {
        let message = "the result is beyond the range of numbers; scale the arguments down";
        Err(PluginError::argument(format!("{function}: {message}")))
    }
}
