//! Functions of an array of numbers: what numpy calls by the same names, with its definitions.

use photondb_plugin_sdk::prelude::*;

use crate::arguments::{Argument, finite};
use crate::elementwise::invoke_rows;
use crate::moments::Moments;

/// As many as an array of ReQL may have elements.
const MOST_BINS: u32 = 100_000;

/// A function whose first argument is an array of numbers.
pub(crate) struct Summary {
    name: &'static str,
    /// What comes after the array, and whether it has to.
    parameter: Option<(&'static str, Presence)>,
    compute: fn(&[f64], Call<'_>) -> Result<Datum, PluginError>,
    /// The same of a vector that need not become a datum.
    in_place: Option<fn(&[f32]) -> f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

/// What a function was called with.
#[derive(Clone, Copy)]
struct Call<'a> {
    array: Argument<'a>,
    parameter: Option<Argument<'a>>,
}

pub(crate) fn register(registry: &mut PluginRegistry) {
    const FREEDOM: Option<(&str, Presence)> = Some(("ddof", Presence::Optional));
    let functions = [
        Summary { name: "mean", parameter: None, compute: mean, in_place: None },
        Summary { name: "median", parameter: None, compute: median, in_place: None },
        Summary { name: "mode", parameter: None, compute: mode, in_place: None },
        Summary { name: "norm", parameter: None, compute: norm, in_place: Some(euclidean) },
        Summary { name: "variance", parameter: FREEDOM, compute: variance, in_place: None },
        Summary { name: "stddev", parameter: FREEDOM, compute: stddev, in_place: None },
        Summary { name: "quantile", parameter: Some(("q", Presence::Required)), compute: quantiles, in_place: None },
        Summary {
            name: "histogram",
            parameter: Some(("bins", Presence::Optional)),
            compute: histogram,
            in_place: None,
        },
    ];
    for function in functions {
        registry.function(function);
    }
}

impl QueryFunctionPlugin for Summary {
    fn signature(&self) -> FunctionSignature {
        let (least, most) = match self.parameter {
            None => (1, 1),
            Some((_, Presence::Optional)) => (1, 2),
            Some((_, Presence::Required)) => (2, 2),
        };
        FunctionSignature::pure(self.name, least, most)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let function = self.name;
        let array = Argument { function, name: "array", value: &args[0] };
        let parameter = self.parameter.zip(args.get(1)).map(|((name, _), value)| Argument { function, name, value });
        (self.compute)(&array.some_numbers()?, Call { array, parameter })
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        let (Some(in_place), Some(vectors)) = (self.in_place, batch.vectors(0)) else {
            return invoke_rows(self, batch, results);
        };
        for (vector, result) in vectors.values.chunks_exact(vectors.dims).zip(results.numbers()?) {
            *result = finite(self.name, in_place(vector))?;
        }
        Ok(())
    }
}

impl Call<'_> {
    fn number(self, result: f64) -> Result<Datum, PluginError> {
        finite(self.array.function, result).map(Datum::Number)
    }
}

fn mean(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    call.number(Moments::of(numbers).mean())
}

fn median(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    call.number(quantile(&sorted(numbers), 0.5))
}

fn norm(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    call.number(euclidean(numbers))
}

/// The length of the vector. In several sums, so that it becomes vector code, and the same for both types of numbers.
fn euclidean<N: Copy + Into<f64>>(numbers: &[N]) -> f64 {
    const SUMS: usize = 16;
    let (parts, rest) = numbers.as_chunks::<SUMS>();
    let mut sums = [0.0; SUMS];
    for part in parts {
        for (sum, number) in sums.iter_mut().zip(part) {
            let number: f64 = (*number).into();
            *sum += number * number;
        }
    }
    let rest: f64 = rest.iter().map(|number| (*number).into()).map(|number: f64| number * number).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// The most frequent number, of several the smallest.
fn mode(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    let sorted = sorted(numbers);
    let (mut best, mut most) = (sorted[0], 0);
    for equal in sorted.chunk_by(|a, b| a == b) {
        if equal.len() > most {
            (best, most) = (equal[0], equal.len());
        }
    }
    call.number(best)
}

fn variance(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    call.number(spread(numbers, call)?)
}

fn stddev(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    call.number(spread(numbers, call)?.sqrt())
}

/// The variance: of a whole population, or with `ddof` 1 estimated from a sample of it.
fn spread(numbers: &[f64], call: Call<'_>) -> Result<f64, PluginError> {
    let freedom = call.parameter.map(|ddof| ddof.whole(0, 1)).transpose()?.unwrap_or(0);
    if numbers.len() <= freedom as usize {
        return Err(call.array.undefined("has one number, and `ddof` is 1"));
    }
    Ok(Moments::of(numbers).variance(freedom))
}

/// The quantile `q`, or an array of quantiles.
fn quantiles(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    // The signature requires the parameter.
    let Some(parameter) = call.parameter else { return Ok(Datum::Null) };
    let sorted = sorted(numbers);
    let at = |q: f64| {
        if (0.0..=1.0).contains(&q) {
            call.number(quantile(&sorted, q))
        } else {
            Err(PluginError::argument(format!("quantile: `q` must be from 0 to 1, but is {q}")))
        }
    };
    match parameter.value.as_array() {
        None => at(parameter.number()?),
        Some(_) => parameter.numbers()?.into_iter().map(at).collect::<Result<Vec<_>, _>>().map(Datum::from),
    }
}

/// Linear interpolation between the two nearest ranks: numpy's default, Hyndman and Fan's type 7.
///
/// `sorted` is not empty and `q` is from 0 to 1.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let low = sorted[rank.floor() as usize];
    let high = sorted[rank.ceil() as usize];
    // Weighted, rather than `low + (high - low) * part`, so that no difference overflows; equal ends stay what they are.
    let part = rank.fract();
    if low == high { low } else { low * (1.0 - part) + high * part }
}

fn sorted(numbers: &[f64]) -> Vec<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// `{"edges": [...], "counts": [...]}` of `bins` (10) bins of equal width from the least number to the greatest. A number
/// on an edge belongs to the bin above, the greatest one to the last bin.
fn histogram(numbers: &[f64], call: Call<'_>) -> Result<Datum, PluginError> {
    let bins = call.parameter.map(|bins| bins.whole(1, MOST_BINS)).transpose()?.unwrap_or(10) as usize;
    let (mut low, mut high) =
        numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
    if low == high {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let width = finite("histogram", high - low)? / bins as f64;
    let mut edges: Vec<f64> = (0..bins).map(|bin| low + bin as f64 * width).collect();
    edges.push(high);

    let mut counts = vec![0_u32; bins];
    for x in numbers {
        let mut bin = (((x - low) / width) as usize).min(bins - 1);
        // The division rounds: an edge itself may have come out in the bin beside.
        if *x < edges[bin] {
            bin -= 1;
        } else if bin + 1 < bins && *x >= edges[bin + 1] {
            bin += 1;
        }
        counts[bin] += 1;
    }
    let edges = Datum::array(edges.into_iter().map(Datum::Number));
    Ok(Datum::object([("edges", edges), ("counts", Datum::array(counts.into_iter().map(Datum::from)))]))
}
