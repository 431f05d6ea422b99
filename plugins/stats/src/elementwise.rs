//! Functions of one number and its parameters, which take an array of numbers too.
//!
//! Columns of numbers are worked on in place: no datum is made of any of them.

use photondb_plugin_sdk::prelude::*;

use crate::arguments::{Argument, finite, whole};
use crate::moments::Moments;

/// The most arguments of any function here.
const MOST: usize = 3;

/// A function of one number and its parameters.
pub(crate) struct Elementwise {
    name: &'static str,
    /// The names of the arguments, the number itself being the first.
    arguments: &'static [&'static str],
    /// How many of them must be there.
    required: u16,
    /// As many arguments as were passed -> the result.
    compute: fn(&[f64]) -> Result<f64, PluginError>,
}

const APPROX: Elementwise = Elementwise { name: "approx", arguments: &["x", "digits"], required: 1, compute: approx };
const CLAMP: Elementwise = Elementwise { name: "clamp", arguments: &["x", "low", "high"], required: 3, compute: clamp };
const SIGMOID: Elementwise = Elementwise { name: "sigmoid", arguments: &["x"], required: 1, compute: sigmoid };
const ZSCORE: Elementwise =
    Elementwise { name: "zscore", arguments: &["x", "mean", "stddev"], required: 3, compute: zscore };

pub(crate) fn register(registry: &mut PluginRegistry) {
    registry.function(APPROX).function(CLAMP).function(SIGMOID).function(Zscore);
}

impl QueryFunctionPlugin for Elementwise {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure(self.name, self.required, self.arguments.len() as u16)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let mut numbers = [0.0; MOST];
        let numbers = &mut numbers[..args.len()];
        for (position, value) in args.iter().enumerate().skip(1) {
            numbers[position] = self.argument(position, value).number()?;
        }
        let first = self.argument(0, &args[0]);
        if args[0].as_array().is_none() {
            numbers[0] = first.number()?;
            return (self.compute)(numbers).map(Datum::Number);
        }
        let results = first.numbers()?.into_iter().map(|number| {
            numbers[0] = number;
            (self.compute)(numbers).map(Datum::Number)
        });
        results.collect::<Result<Vec<_>, _>>().map(Datum::from)
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        let mut columns = [&[][..]; MOST];
        let columns = &mut columns[..batch.columns()];
        for (position, column) in columns.iter_mut().enumerate() {
            match batch.numbers(position) {
                Some(numbers) => *column = numbers,
                None => return invoke_rows(self, batch, results),
            }
        }
        let mut numbers = [0.0; MOST];
        let numbers = &mut numbers[..columns.len()];
        for (row, result) in results.numbers()?.iter_mut().enumerate() {
            for (number, column) in numbers.iter_mut().zip(&*columns) {
                *number = column[row];
            }
            *result = (self.compute)(numbers)?;
        }
        Ok(())
    }
}

impl Elementwise {
    fn argument<'a>(&self, position: usize, value: &'a Datum) -> Argument<'a> {
        Argument { function: self.name, name: self.arguments[position], value }
    }
}

/// One row after the other.
pub(crate) fn invoke_rows(
    function: &dyn QueryFunctionPlugin,
    batch: &Batch<'_>,
    results: &mut RowsWriter<'_>,
) -> Result<(), PluginError> {
    for row in 0..batch.rows() {
        batch.cancel().check()?;
        let args: Vec<_> = (0..batch.columns()).map(|column| batch.datum(column, row)).collect::<Result<_, _>>()?;
        results.push(&function.invoke(&args)?)?;
    }
    Ok(())
}

/// `x` with `digits` significant digits (3), of two equally near ones the even one.
///
/// By way of decimal text: multiplying by a power of ten would round twice.
fn approx(args: &[f64]) -> Result<f64, PluginError> {
    /// More tell no doubles apart.
    const MOST_DIGITS: u32 = 17;
    let digits = match args.get(1) {
        Some(digits) => whole("approx", "digits", *digits, 1, MOST_DIGITS)?,
        None => 3,
    };
    let text = format!("{:.*e}", digits as usize - 1, args[0]);
    finite("approx", text.parse().unwrap_or(args[0]))
}

fn clamp(args: &[f64]) -> Result<f64, PluginError> {
    let [x, low, high] = three(args);
    if low > high {
        return Err(PluginError::argument(format!("clamp: `low` must not be above `high`, but {low} is above {high}")));
    }
    Ok(x.clamp(low, high))
}

/// The logistic function, written so that neither branch overflows.
fn sigmoid(args: &[f64]) -> Result<f64, PluginError> {
    let power = (-args[0].abs()).exp();
    Ok(if args[0] >= 0.0 { 1.0 / (1.0 + power) } else { power / (1.0 + power) })
}

fn zscore(args: &[f64]) -> Result<f64, PluginError> {
    let [x, mean, stddev] = three(args);
    if stddev <= 0.0 {
        return Err(PluginError::argument(format!("zscore: `stddev` must be above 0, but is {stddev}")));
    }
    finite("zscore", (x - mean) / stddev)
}

/// The arguments of a function that requires three.
fn three(args: &[f64]) -> [f64; 3] {
    std::array::from_fn(|position| args.get(position).copied().unwrap_or_default())
}

/// `zscore(x, mean, stddev)`, or `zscore(array)` with the mean and deviation of the array itself.
struct Zscore;

impl QueryFunctionPlugin for Zscore {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure(ZSCORE.name, 1, 3)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        match args {
            [values] => zscores(Argument { function: ZSCORE.name, name: "array", value: values }),
            [_, _] => Err(PluginError::argument(
                "zscore: takes an array alone, or a number with a mean and a standard deviation, but found 2 arguments",
            )),
            _ => ZSCORE.invoke(args),
        }
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        if batch.columns() == 3 { ZSCORE.invoke_batch(batch, results) } else { invoke_rows(self, batch, results) }
    }
}

fn zscores(values: Argument<'_>) -> Result<Datum, PluginError> {
    let numbers = values.some_numbers()?;
    let moments = Moments::of(&numbers);
    let deviation = finite(values.function, moments.deviation())?;
    if deviation == 0.0 {
        return Err(values.undefined("has only equal numbers"));
    }
    let scores = numbers.iter().map(|x| finite(values.function, (x - moments.mean()) / deviation).map(Datum::Number));
    scores.collect::<Result<Vec<_>, _>>().map(Datum::from)
}
