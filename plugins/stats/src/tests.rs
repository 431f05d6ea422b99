use photondb_plugin_sdk::batch::{RowsWriter, read_results, write_rows};
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::{Cause, registry::PluginRegistry};
use proptest::prelude::*;

use crate::Stats;

/// Calls `name` as a query would, arguments within the signature.
fn call(name: &str, args: &[Datum]) -> Result<Datum, PluginError> {
    let registry = PluginRegistry::of(&Stats);
    let function = registry.functions().iter().find(|function| function.signature().name == name).unwrap();
    function.invoke(args)
}

fn number(name: &str, args: &[Datum]) -> f64 {
    call(name, args).unwrap().as_number().unwrap()
}

fn array(numbers: &[f64]) -> Datum {
    Datum::array(numbers.iter().copied().map(Datum::Number))
}

fn cause(name: &str, args: &[Datum]) -> (Cause, String) {
    let error = call(name, args).unwrap_err();
    (error.cause(), error.message().to_owned())
}

#[test]
fn approx_rounds_decimally() {
    for (x, digits, expected) in [
        (1234.5, 3, 1230.0),
        (0.000_123_45, 2, 0.000_12),
        (-9.995, 3, -9.99), // the double is a little nearer to 0 than its name
        (2.675, 3, 2.67),
        (2.5, 1, 2.0), // exactly half: to the even digit
        (9.99, 1, 10.0),
        (0.0, 3, 0.0),
        (5e-324, 3, 4.94e-324),
        (0.1 + 0.2, 17, 0.1 + 0.2),
    ] {
        assert_eq!(number("approx", &[x.into(), digits.into()]), expected, "{x} to {digits}");
    }
    assert_eq!(number("approx", &[1234.5.into()]), 1230.0);
    assert_eq!(call("approx", &[array(&[1.2345, 6.789]), 2.into()]).unwrap(), array(&[1.2, 6.8]));
    assert_eq!(call("approx", &[array(&[])]).unwrap(), array(&[]));
}

#[test]
fn wrong_arguments_name_themselves_and_the_remedy() {
    for (name, args, expected) in [
        ("approx", vec!["x".into()], "approx: `x` must be a number, but found STRING"),
        ("approx", vec![1.0.into(), 0.into()], "approx: `digits` must be a whole number from 1 to 17, but is 0"),
        ("approx", vec![1.0.into(), 2.5.into()], "but is 2.5"),
        ("approx", vec![f64::MAX.into(), 1.into()], "beyond the range of numbers"),
        ("approx", vec![Datum::array([array(&[1.0])])], "`x` must be an array of only numbers, but found ARRAY"),
        ("clamp", vec![1.into(), 3.into(), 2.into()], "`low` must not be above `high`, but 3 is above 2"),
        ("zscore", vec![1.into(), 3.into()], "an array alone, or a number with a mean"),
        ("zscore", vec![1.into(), 3.into(), 0.into()], "`stddev` must be above 0, but is 0"),
        ("mean", vec![1.into()], "mean: `array` must be an array of numbers, but found NUMBER"),
        ("quantile", vec![array(&[1.0]), 1.5.into()], "`q` must be from 0 to 1, but is 1.5"),
        ("histogram", vec![array(&[1.0]), 0.into()], "`bins` must be a whole number from 1 to 100000"),
        ("histogram", vec![array(&[f64::MIN, f64::MAX]), 2.into()], "beyond the range"),
        ("variance", vec![array(&[1.0, 2.0]), 2.into()], "`ddof` must be a whole number from 0 to 1"),
        ("variance", vec![array(&[-1e300, 1e300])], "beyond the range"),
        ("correlation", vec![array(&[1.0]), array(&[1.0, 2.0])], "have 1 and 2 numbers"),
    ] {
        let (cause, message) = cause(name, &args);
        assert_eq!(cause, Cause::Argument, "{message}");
        assert!(message.contains(expected), "{message}\nlacks {expected}");
    }
}

#[test]
fn what_is_undefined_does_not_exist() {
    let empty = array(&[]);
    for (name, args) in [
        ("approx", vec![Datum::Null]),
        ("mean", vec![empty.clone()]),
        ("mean", vec![Datum::Null]),
        ("median", vec![empty.clone()]),
        ("mode", vec![empty.clone()]),
        ("quantile", vec![empty.clone(), 0.5.into()]),
        ("histogram", vec![empty.clone(), 3.into()]),
        ("stddev", vec![array(&[1.0]), 1.into()]),
        ("zscore", vec![array(&[2.0, 2.0])]),
        ("zscore", vec![empty.clone()]),
        ("correlation", vec![array(&[1.0]), array(&[1.0])]),
        ("correlation", vec![array(&[1.0, 2.0]), array(&[3.0, 3.0])]),
        ("linear_regression", vec![array(&[1.0, 1.0]), array(&[3.0, 4.0])]),
    ] {
        let (cause, message) = cause(name, &args);
        assert_eq!(cause, Cause::NonExistence, "{name}: {message}");
    }
}

#[test]
fn summaries_agree_with_numpy() {
    let numbers = array(&[3.0, 1.0, 4.0, 1.0, 5.0]);
    assert_eq!(number("mean", std::slice::from_ref(&numbers)), 2.8);
    assert_eq!(number("median", std::slice::from_ref(&numbers)), 3.0);
    assert_eq!(number("mode", std::slice::from_ref(&numbers)), 1.0);
    assert!((number("variance", std::slice::from_ref(&numbers)) - 2.56).abs() < 1e-12);
    assert!((number("variance", &[numbers.clone(), 1.into()]) - 3.2).abs() < 1e-12);
    assert!((number("stddev", std::slice::from_ref(&numbers)) - 1.6).abs() < 1e-12);
    // numpy.quantile([3, 1, 4, 1, 5], [0, .1, .25, .5, .9, 1])
    let quantiles = call("quantile", &[numbers.clone(), array(&[0.0, 0.1, 0.25, 0.5, 0.9, 1.0])]).unwrap();
    let quantiles: Vec<_> = quantiles.as_array().unwrap().iter().filter_map(Datum::as_number).collect();
    for (found, expected) in quantiles.iter().zip([1.0, 1.0, 1.0, 3.0, 4.6, 5.0]) {
        assert!((found - expected).abs() < 1e-12, "{quantiles:?}");
    }
    assert_eq!(number("quantile", &[array(&[7.0]), 0.3.into()]), 7.0);
    // numpy.histogram([3, 1, 4, 1, 5], 4)
    let histogram = call("histogram", &[numbers, 4.into()]).unwrap();
    assert_eq!(histogram.get("edges"), Some(&array(&[1.0, 2.0, 3.0, 4.0, 5.0])));
    assert_eq!(histogram.get("counts"), Some(&array(&[2.0, 0.0, 1.0, 2.0])));
    let constant = call("histogram", &[array(&[2.0, 2.0]), 1.into()]).unwrap();
    assert_eq!(constant.get("edges"), Some(&array(&[1.5, 2.5])));
}

#[test]
fn the_variance_far_from_zero_is_not_lost() {
    assert_eq!(number("variance", &[array(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0])]), 22.5);
}

#[test]
fn pairs_and_scores() {
    let (x, y) = (array(&[1.0, 2.0, 3.0]), array(&[5.0, 7.0, 9.0]));
    assert_eq!(number("correlation", &[x.clone(), y.clone()]), 1.0);
    assert_eq!(number("correlation", &[x.clone(), array(&[3.0, 2.0, 1.0])]), -1.0);
    let line = call("linear_regression", &[x.clone(), y]).unwrap();
    assert_eq!(line, Datum::object([("slope", 2.0), ("intercept", 3.0), ("r2", 1.0)]));
    let level = call("linear_regression", &[x.clone(), array(&[4.0, 4.0, 4.0])]).unwrap();
    assert_eq!(level, Datum::object([("slope", 0.0), ("intercept", 4.0), ("r2", 1.0)]));
    assert_eq!(number("zscore", &[7.into(), 5.into(), 2.into()]), 1.0);
    assert_eq!(call("zscore", &[array(&[1.0, 3.0])]).unwrap(), array(&[-1.0, 1.0]));
    assert_eq!(call("zscore", &[x, 2.into(), 1.into()]).unwrap(), array(&[-1.0, 0.0, 1.0]));
}

#[test]
fn sigmoid_and_clamp_hold_at_the_ends() {
    for (x, expected) in [(0.0, 0.5), (f64::MAX, 1.0), (f64::MIN, 0.0)] {
        assert_eq!(number("sigmoid", &[x.into()]), expected);
    }
    assert_eq!(number("clamp", &[9.into(), 0.into(), 5.into()]), 5.0);
    assert_eq!(number("clamp", &[(-9).into(), 0.into(), 5.into()]), 0.0);
}

#[test]
fn the_manifest_declares_what_is_registered() {
    let manifest = photondb_plugin_sdk::manifest::Manifest::parse(include_str!("../plugin.toml")).unwrap();
    let registry = PluginRegistry::of(&Stats);
    let mut registered: Vec<_> = registry.functions().iter().map(|function| function.signature().name).collect();
    let mut declared = manifest.provides.functions;
    registered.sort();
    declared.sort();
    assert_eq!(declared, registered);
    assert_eq!(manifest.plugin.name, Stats.name());
    assert_eq!(manifest.plugin.version.to_string(), Stats.version());
}

/// Aligned as the buffers of a lane are.
#[repr(align(64))]
struct Buffer([u8; 1 << 16]);

/// Calls in one batch: the results, or the error that stopped it.
fn batch(function: &dyn QueryFunctionPlugin, columns: &[Vec<Datum>], rows: usize) -> Result<Vec<Datum>, PluginError> {
    let (mut arguments, mut reply) = (Box::new(Buffer([0; 1 << 16])), Box::new(Buffer([0; 1 << 16])));
    let columns: Vec<&[Datum]> = columns.iter().map(Vec::as_slice).collect();
    let end = write_rows(&mut arguments.0, &columns, rows).unwrap();
    let mut results = RowsWriter::new(&mut reply.0, rows);
    function.invoke_batch(&Batch::parse(&arguments.0[..end])?, &mut results)?;
    let end = results.finish()?;
    read_results(&reply.0[..end], rows)
}

fn value() -> impl Strategy<Value = Datum> {
    prop_oneof![
        6 => (-1e6..1e6).prop_map(Datum::Number),
        2 => (0..20).prop_map(Datum::from),
        1 => any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Datum::Number),
        2 => prop::collection::vec(-100.0..100.0, 0..6).prop_map(|numbers| array(&numbers)),
        1 => Just(Datum::Null),
        1 => Just(Datum::from("text")),
    ]
}

/// As many columns as the function number `.0` takes, all of one kind of value or mixed.
fn calls() -> impl Strategy<Value = (usize, Vec<Vec<Datum>>, usize)> {
    let functions = PluginRegistry::of(&Stats).functions().len();
    (0..functions, 0..20_usize, any::<bool>(), any::<prop::sample::Index>()).prop_flat_map(
        |(function, rows, only_numbers, width)| {
            let signature = PluginRegistry::of(&Stats).functions()[function].signature();
            let (least, most) = (usize::from(signature.min_args), usize::from(signature.max_args));
            let width = least + width.index(most - least + 1);
            let value = if only_numbers { (0.5..9.0).prop_map(Datum::Number).boxed() } else { value().boxed() };
            let columns = prop::collection::vec(prop::collection::vec(value, rows), width);
            (Just(function), columns, Just(rows))
        },
    )
}

proptest! {
    #[test]
    fn a_batch_is_its_rows_one_by_one((function, columns, rows) in calls()) {
        let registry = PluginRegistry::of(&Stats);
        let function = registry.functions()[function].as_ref();
        let one_by_one: Result<Vec<_>, _> = (0..rows)
            .map(|row| function.invoke(&columns.iter().map(|column| column[row].clone()).collect::<Vec<_>>()))
            .collect();
        prop_assert_eq!(batch(function, &columns, rows), one_by_one);
    }

    #[test]
    fn histograms_count_everything_once(numbers in prop::collection::vec(-1e9..1e9, 1..200), bins in 1_i32..50) {
        let histogram = call("histogram", &[array(&numbers), bins.into()]).unwrap();
        let counted: f64 = histogram.get("counts").unwrap().as_array().unwrap().iter().filter_map(Datum::as_number).sum();
        prop_assert_eq!(counted, numbers.len() as f64);
    }

    #[test]
    fn quantiles_stay_between_the_least_and_the_greatest(
        numbers in prop::collection::vec(any::<f64>().prop_filter("finite", |x| x.is_finite()), 1..50),
        q in 0.0..=1.0_f64,
    ) {
        let result = number("quantile", &[array(&numbers), q.into()]);
        let (low, high) = numbers.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
        // Weights that add up to 1 only almost.
        let slack = 1e-12 * low.abs().max(high.abs());
        prop_assert!(low - slack <= result && result <= high + slack, "{result}");
    }
}

#[test]
fn a_column_of_vectors_gives_what_arrays_give() {
    let registry = PluginRegistry::of(&Stats);
    let norm = registry.functions().iter().find(|function| function.signature().name == "norm").unwrap();
    let vectors: Vec<Datum> =
        (0..20).map(|row| array(&(0..37).map(|at| f64::from(row * at) * 0.25).collect::<Vec<_>>())).collect();
    let each: Vec<Datum> = vectors.iter().map(|vector| norm.invoke(std::slice::from_ref(vector)).unwrap()).collect();
    let count = vectors.len();
    assert_eq!(batch(&**norm, &[vectors], count).unwrap(), each);
    assert_eq!(number("norm", &[array(&[3.0, 4.0])]), 5.0);
}
