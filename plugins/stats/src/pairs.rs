//! Functions of two arrays of numbers that belong together pairwise.

use photondb_plugin_sdk::prelude::*;

use crate::arguments::{Argument, finite};
use crate::moments::Moments;

/// A function of two arrays of equal length.
pub(crate) struct Pairs {
    name: &'static str,
    compute: fn(&Sums, Call<'_>) -> Result<Datum, PluginError>,
}

/// What a function was called with.
#[derive(Clone, Copy)]
struct Call<'a> {
    xs: Argument<'a>,
    ys: Argument<'a>,
}

/// What both functions are made of; divided by the count.
struct Sums {
    mean_x: f64,
    mean_y: f64,
    variance_x: f64,
    variance_y: f64,
    covariance: f64,
}

pub(crate) fn register(registry: &mut PluginRegistry) {
    registry
        .function(Pairs { name: "correlation", compute: correlation })
        .function(Pairs { name: "linear_regression", compute: linear_regression });
}

impl QueryFunctionPlugin for Pairs {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure(self.name, 2, 2)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let function = self.name;
        let xs = Argument { function, name: "xs", value: &args[0] };
        let ys = Argument { function, name: "ys", value: &args[1] };
        let (x, y) = (xs.some_numbers()?, ys.some_numbers()?);
        if x.len() != y.len() {
            let (x, y) = (x.len(), y.len());
            let message =
                format!("{function}: `xs` and `ys` must be as long as each other, but have {x} and {y} numbers");
            return Err(PluginError::argument(message));
        }
        if x.len() == 1 {
            return Err(xs.undefined("has one number, and two are needed"));
        }
        (self.compute)(&Sums::of(&x, &y), Call { xs, ys })
    }
}

impl Sums {
    fn of(x: &[f64], y: &[f64]) -> Self {
        let (of_x, of_y) = (Moments::of(x), Moments::of(y));
        let products = x.iter().zip(y).map(|(x, y)| (x - of_x.mean()) * (y - of_y.mean()));
        Self {
            mean_x: of_x.mean(),
            mean_y: of_y.mean(),
            variance_x: of_x.variance(0),
            variance_y: of_y.variance(0),
            covariance: products.sum::<f64>() / x.len() as f64,
        }
    }

    /// Pearson's coefficient, if neither series is constant.
    fn correlation(&self) -> f64 {
        // Rounding may lead just beyond.
        (self.covariance / (self.variance_x.sqrt() * self.variance_y.sqrt())).clamp(-1.0, 1.0)
    }
}

/// Pearson's coefficient, from -1 to 1.
fn correlation(sums: &Sums, call: Call<'_>) -> Result<Datum, PluginError> {
    for (variance, series) in [(sums.variance_x, call.xs), (sums.variance_y, call.ys)] {
        if variance == 0.0 {
            return Err(series.undefined("has only equal numbers"));
        }
        finite(series.function, variance)?;
    }
    finite(call.xs.function, sums.correlation()).map(Datum::Number)
}

/// The line of least squares, `{"slope", "intercept", "r2"}`.
fn linear_regression(sums: &Sums, call: Call<'_>) -> Result<Datum, PluginError> {
    let function = call.xs.function;
    if sums.variance_x == 0.0 {
        return Err(call.xs.undefined("has only equal numbers"));
    }
    let slope = finite(function, sums.covariance / sums.variance_x)?;
    let intercept = finite(function, sums.mean_y - slope * sums.mean_x)?;
    // A level line goes through equal numbers exactly.
    let r2 = if sums.variance_y == 0.0 { 1.0 } else { finite(function, sums.correlation().powi(2))? };
    Ok(Datum::object([("slope", slope), ("intercept", intercept), ("r2", r2)]))
}
