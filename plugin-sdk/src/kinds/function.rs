//! Query functions: `r.js("plugin.NAME")`.

use crate::batch::{Batch, RowsWriter};
use crate::{Datum, PluginError};

/// Whether equal arguments always give equal results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purity {
    /// Depends on the arguments alone: may be called again after a crash, in indexes and in atomic updates.
    Pure,
    /// May differ from call to call.
    Volatile,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A function of some arguments.
    Function,
    /// An [aggregate](super::aggregate).
    Aggregate,
    /// A [type of values](super::data_type).
    DataType,
}

impl Role {
    /// `function`, `aggregate` or `data_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Aggregate => "aggregate",
            Self::DataType => "data_type",
        }
    }
}

/// How a function is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSignature {
    /// The name after `plugin.`: `[a-z][a-z0-9_]{0,63}`.
    pub name: String,
    /// The fewest arguments.
    pub min_args: u16,
    /// The most arguments; `u16::MAX` for any number.
    pub max_args: u16,
    /// Whether equal arguments give equal results.
    pub purity: Purity,
    /// Whether it is for rows one by one, for all of them, or for values of a type.
    pub role: Role,
}

impl FunctionSignature {
    /// A pure function of `min_args..=max_args` arguments.
    pub fn pure(name: impl Into<String>, min_args: u16, max_args: u16) -> Self {
        Self { name: name.into(), min_args, max_args, purity: Purity::Pure, role: Role::Function }
    }

    /// A function whose result may differ from call to call.
    pub fn volatile(name: impl Into<String>, min_args: u16, max_args: u16) -> Self {
        Self { name: name.into(), min_args, max_args, purity: Purity::Volatile, role: Role::Function }
    }
}

/// A function that queries call.
///
/// The server calls in batches of rows; [`invoke_batch`](Self::invoke_batch) is worth implementing where columns of
/// numbers can be worked on in place, without making a [`Datum`] of each value.
pub trait QueryFunctionPlugin: Send + Sync {
    /// Name, number of arguments and purity.
    fn signature(&self) -> FunctionSignature;

    /// Computes one row. `args.len()` is within the signature.
    ///
    /// # Errors
    /// [`PluginError::argument`] where the caller has to change the arguments.
    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError>;

    /// Computes `batch.rows()` rows, column `i` of the batch being argument `i`, and writes one result a row, in order.
    ///
    /// An implementation whose rows take long asks [`Batch::is_cancelled`] between them, as this one does.
    ///
    /// # Errors
    /// The first error stops the batch.
    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        let mut args = Vec::with_capacity(batch.columns());
        for row in 0..batch.rows() {
            batch.cancel().check()?;
            args.clear();
            for column in 0..batch.columns() {
                args.push(batch.datum(column, row)?);
            }
            results.push(&self.invoke(&args)?)?;
        }
        Ok(())
    }
}
