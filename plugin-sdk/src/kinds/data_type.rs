//! Data types: values with an order of their own, `{"$type$": "decimal", "value": "1.10"}`.
//!
//! The plugin is asked once for each value that is new: for its canonical text and its **order key**. Both are stored with
//! the value. Comparing, sorting, indexing and grouping are comparisons of order keys, which the server does alone; only
//! new values and arithmetic call the plugin.
//!
//! A type is also a function of its name: `r.js("plugin.decimal")` makes values of the type of others.

use std::sync::Arc;

use super::function::{FunctionSignature, QueryFunctionPlugin, Role};
use crate::datum::{Typed, TypedError};
use crate::{Cause, Datum, PluginError};

/// A type of values.
pub trait DataTypePlugin: Send + Sync {
    /// The name of the type: `[a-z][a-z0-9_]{0,63}`. Types and functions share their names.
    fn type_name(&self) -> &str;

    /// The value that `value` stands for: a text or a number as a rule. [`Typed::new`] makes it, of this type's name, an
    /// order key and the canonical text.
    ///
    /// The order of the keys, byte by byte, is the order of the values. Equal values have equal keys and equal texts, and the
    /// canonical text stands for the value itself.
    ///
    /// # Errors
    /// [`PluginError::argument`] for what stands for no value of this type; the message should show it.
    fn parse(&self, value: &Datum) -> Result<Typed, PluginError>;

    /// `left operator right`: at least one of the two is of this type. A type without arithmetic leaves this out.
    ///
    /// # Errors
    /// [`PluginError::argument`] where there is no result.
    fn operate(&self, operator: Operator, left: &Datum, right: &Datum) -> Result<Datum, PluginError> {
        let (name, left, right) = (self.type_name(), left.type_name(), right.type_name());
        Err(PluginError::argument(format!("{name} has no arithmetic: {left} {} {right}", operator.symbol())))
    }

    /// The sum of values, of which the first is of this type.
    ///
    /// # Errors
    /// As [`operate`](Self::operate).
    fn sum(&self, values: &[Datum]) -> Result<Datum, PluginError> {
        let (first, rest) = values.split_first().ok_or_else(|| PluginError::argument("a sum of no values"))?;
        rest.iter().try_fold(first.clone(), |sum, value| self.operate(Operator::Add, &sum, value))
    }
}

/// The operators of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
}

impl Operator {
    const ALL: [Self; 4] = [Self::Add, Self::Sub, Self::Mul, Self::Div];

    /// Its name as the first argument of a call.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
        }
    }

    /// As people write it.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
        }
    }

    fn of(name: &Datum) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| name.as_str() == Some(operator.name()))
    }
}

/// The first argument of a call that sums up the values of an array.
pub const SUM: &str = "sum";

/// A value that breaks the bounds of every type: the plugin's mistake.
impl From<TypedError> for PluginError {
    fn from(error: TypedError) -> Self {
        Self::runtime(Cause::Plugin, error.to_string())
    }
}

/// A type as what travels: a function of a value, of [`SUM`] and an array, or of an operator and two operands.
pub(crate) struct Conversion(pub(crate) Arc<dyn DataTypePlugin>);

impl QueryFunctionPlugin for Conversion {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature { role: Role::DataType, ..FunctionSignature::pure(self.0.type_name(), 1, 3) }
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let name = self.0.type_name();
        match args {
            [Datum::Typed(typed)] if typed.name() == name => Ok(args[0].clone()),
            [value] => Ok(self.0.parse(value)?.into()),
            [step, Datum::Array(values)] if step.as_str() == Some(SUM) => self.0.sum(values),
            [operator, left, right] if let Some(operator) = Operator::of(operator) => {
                self.0.operate(operator, left, right)
            }
            _ => Err(PluginError::argument(format!(
                "{name} is a type of values: as a function it takes one value, of which it makes one of its own"
            ))),
        }
    }
}
