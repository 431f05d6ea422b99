//! Functions and aggregates.

use std::time::{Duration, Instant};

use photondb_plugin_sdk::kinds::aggregate::Step;
use photondb_plugin_sdk::kinds::function::{FunctionSignature, Purity};
use photondb_plugin_sdk::{Cause, Datum, PluginError};

use super::{Part, Subject};
use crate::plugins::Function;
use crate::query::nested::Origin;

/// What one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Arguments of a function that takes any number of them.
const MANY: u16 = 5;
/// The largest state of an aggregate of 10,000 values, in bytes.
const MAX_STATE: usize = 1 << 20;

/// Values that functions are not always ready for.
fn strangers() -> Vec<Datum> {
    let nested = (0..100).fold(Datum::Null, |inner, _| Datum::array([inner]));
    let wide: Vec<Datum> = (0..10_000).map(Datum::from).collect();
    vec![
        Datum::Null,
        true.into(),
        0.into(),
        (-1.5).into(),
        Datum::Number(f64::MAX),
        Datum::Number(f64::MIN_POSITIVE),
        "".into(),
        "\0\u{202e}é".into(),
        "x".repeat(100_000).into(),
        Datum::Binary([0, 255][..].into()),
        Datum::array([]),
        Datum::array([1.into(), "2".into(), Datum::Null]),
        Datum::array(wide),
        Datum::object([("a", 1)]),
        nested,
    ]
}

/// Asks an aggregate for a step of its work.
type StepOf<'a> = dyn Fn(Step, &[Datum]) -> Result<Datum, PluginError> + 'a;

/// The result of a function for one row.
pub(super) fn call(function: &Function, args: &[Datum]) -> Result<Datum, PluginError> {
    let columns: Vec<[Datum; 1]> = args.iter().map(|arg| [arg.clone()]).collect();
    let mut results = function.invoke_batch(&columns, 1, &Origin::until(Instant::now() + CALL))?;
    results.pop().ok_or_else(|| PluginError::init("it gave no result"))
}

/// Whether an error is what a caller should hear of arguments, and not what becomes of a process.
fn is_an_answer(error: &PluginError) -> Result<(), String> {
    match error.cause() {
        Cause::Argument | Cause::NonExistence | Cause::Limit => Ok(()),
        cause => Err(format!("{cause:?}: {error}")),
    }
}

impl Subject<'_> {
    fn function(&self, name: &str) -> Result<Function, String> {
        self.manager.function(name).map_err(|error| error.to_string())
    }

    /// It answers whatever it is called with, a pure one always the same, and a batch as its rows.
    pub(super) fn check_function(&self, name: &str, part: &mut Part<'_>) {
        let values: Vec<Datum> = self.samples.iter().cloned().chain(strangers()).collect();
        part.check("it answers, whatever it is called with", || {
            let function = self.function(name)?;
            let FunctionSignature { min_args, max_args, .. } = *function.signature();
            for count in [min_args, max_args.min(min_args.max(MANY))] {
                for (at, value) in values.iter().enumerate() {
                    // All the same, and each with its neighbour.
                    for other in [value, &values[(at + 1) % values.len()]] {
                        let args: Vec<Datum> =
                            (0..count).map(|number| if number % 2 == 0 { value } else { other }.clone()).collect();
                        if let Err(error) = call(&function, &args) {
                            is_an_answer(&error)?;
                        }
                    }
                }
            }
            Ok(())
        });
        part.check("equal arguments give equal results, and a batch what its rows give", || {
            let function = self.function(name)?;
            if function.signature().purity == Purity::Volatile {
                return Ok(());
            }
            let count = usize::from(function.signature().min_args.max(1).min(function.signature().max_args));
            let single: Vec<(&Datum, Datum)> = values
                .iter()
                .filter_map(|value| Some((value, call(&function, &vec![value.clone(); count]).ok()?)))
                .collect();
            let args: Vec<Datum> = single.iter().map(|(value, _)| (*value).clone()).collect();
            let columns = vec![args; count];
            let results = function.invoke_batch(&columns, single.len(), &Origin::until(Instant::now() + CALL));
            let results = results.map_err(|error| error.to_string())?;
            for ((value, once), again) in single.iter().zip(&results) {
                if once != again {
                    let [value, once, again] = [value, once, again].map(|value| value.to_json_string());
                    return Err(format!("{name}({value}) is {once} alone and {again} in a batch"));
                }
            }
            Ok(())
        });
    }

    /// States are merged, stay small, and nothing that is no state is taken for one.
    pub(super) fn check_aggregate(&self, name: &str, part: &mut Part<'_>) {
        let step = |step: Step, values: &[Datum]| {
            let function = self.manager.function(name)?;
            call(&function, &[step.name().into(), Datum::array(values.iter().cloned())])
        };
        let numbers: Vec<Datum> = (0..10_000).map(|number| Datum::Number(f64::from(number % 1000))).collect();
        let takes = |values: &[Datum]| {
            let refused = step(Step::Accumulate, values).err();
            !values.is_empty() && refused.is_none_or(|error| error.cause() != Cause::Argument)
        };
        let values = [&numbers, &self.samples].into_iter().find(|values| takes(values));
        let merged = "states are merged in any parts, and stay small";
        match values {
            Some(values) => drop(part.check(merged, || check_merging(&step, values))),
            None => part.skip(merged, "it takes no numbers; give it values with --samples".to_owned()),
        }
        part.check("of no values there is a result, or there is none", || {
            let none = step(Step::Merge, &[]).and_then(|state| step(Step::Finish, &[state]));
            none.map(drop).or_else(|error| is_an_answer(&error))
        });
        part.check("what is no state is refused", || {
            for value in strangers() {
                for (wrong, given) in [(Step::Merge, vec![value.clone(), value.clone()]), (Step::Finish, vec![value])] {
                    if let Err(error) = step(wrong, &given) {
                        is_an_answer(&error)?;
                    }
                }
            }
            Ok(())
        });
        part.check("it answers, whatever values it is given", || {
            for value in self.samples.iter().cloned().chain(strangers()) {
                if let Err(error) = step(Step::Accumulate, &[value]) {
                    is_an_answer(&error)?;
                }
            }
            Ok(())
        });
    }
}

/// A few states of `values`, merged, and merged once more.
fn check_merging(step: &StepOf<'_>, values: &[Datum]) -> Result<(), String> {
    let said = |error: PluginError| error.to_string();
    let parts: Result<Vec<Datum>, _> = values.chunks(2500).map(|values| step(Step::Accumulate, values)).collect();
    let merged = step(Step::Merge, &parts.map_err(said)?).map_err(said)?;
    let bytes = merged.encoded().len();
    if bytes > MAX_STATE {
        return Err(format!(
            "the state of {} values has {bytes} bytes; expected were at most {MAX_STATE}",
            values.len()
        ));
    }
    let again = step(Step::Merge, std::slice::from_ref(&merged)).map_err(said)?;
    let [once, twice] = [merged, again].map(|state| step(Step::Finish, &[state]).map_err(said));
    // Not their values: a sketch may remember that it was merged.
    let (once, twice) = (once?, twice?);
    if once.type_name() == twice.type_name() {
        return Ok(());
    }
    Err(format!("merging one state changes the result from {} to {}", once.type_name(), twice.type_name()))
}
