use photondb_plugin_sdk::kinds::aggregate::Step;
use proptest::prelude::*;

use super::*;

fn invoke(name: &str, args: &[Datum]) -> Result<Datum, PluginError> {
    let registry = PluginRegistry::of(&Sketches);
    let function = registry.functions().iter().find(|function| function.signature().name == name);
    function.unwrap_or_else(|| panic!("no {name}")).invoke(args)
}

fn step(name: &str, step: Step, values: impl IntoIterator<Item = Datum>) -> Result<Datum, PluginError> {
    invoke(name, &[step.name().into(), Datum::array(values)])
}

/// What the server does, in parts of so many values.
fn aggregate(name: &str, values: &[Datum], part: usize) -> Result<Datum, PluginError> {
    let states: Result<Vec<Datum>, _> =
        values.chunks(part).map(|part| step(name, Step::Accumulate, part.iter().cloned())).collect();
    step(name, Step::Finish, states?)
}

fn numbers(count: u32) -> Vec<Datum> {
    (0..count).map(Datum::from).collect()
}

fn number(datum: &Datum) -> f64 {
    datum.as_number().expect("a number")
}

#[test]
fn distinct_values_are_counted() {
    assert_eq!(number(&aggregate("distinct_count", &[], 1).expect("0")), 0.0);
    let mixed = [Datum::Null, "a".into(), "a".into(), 0.into(), Datum::Number(-0.0), Datum::array([])];
    assert_eq!(number(&aggregate("distinct_count", &mixed, 2).expect("few")), 4.0);
    let twice: Vec<Datum> = numbers(50_000).into_iter().chain(numbers(50_000)).collect();
    for part in [1000, 7777, 100_000] {
        let found = number(&aggregate("distinct_count", &twice, part).expect("many"));
        assert!((found / 50_000.0 - 1.0).abs() < 0.05, "{found} in parts of {part}");
    }
}

#[test]
fn sketches_are_kept_and_merged() {
    let [left, right] = [0, 20_000].map(|from| {
        let values: Vec<Datum> = (from..from + 30_000_u32).map(Datum::from).collect();
        ["hll", "tdigest", "countmin"].map(|name| aggregate(name, &values, 4096).expect("a sketch"))
    });
    let merged: Vec<Datum> = ["hll_merge", "tdigest_merge", "countmin_merge"]
        .into_iter()
        .enumerate()
        .map(|(at, name)| aggregate(name, &[left[at].clone(), right[at].clone()], 1).expect("merged"))
        .collect();
    let count = number(&invoke("hll_count", &[merged[0].clone()]).expect("counted"));
    assert!((count / 50_000.0 - 1.0).abs() < 0.05, "{count}");
    let quantiles = Datum::array([0.0.into(), 0.5.into(), 1.0.into()]);
    let found = invoke("tdigest_quantile", &[merged[1].clone(), quantiles]).expect("quantiles");
    let found: Vec<f64> = found.as_array().expect("three").iter().map(number).collect();
    assert!(found[0] == 0.0 && (found[1] - 25_000.0).abs() < 500.0 && found[2] == 49_999.0, "{found:?}");
    let rank = number(&invoke("tdigest_rank", &[merged[1].clone(), 12_500.into()]).expect("a rank"));
    assert!((rank - 12_500.0 / 60_000.0).abs() < 0.01, "{rank}");
    for (value, times) in [(10_000_u32, 1.0), (25_000, 2.0)] {
        let found = number(&invoke("countmin_count", &[merged[2].clone(), value.into()]).expect("counted"));
        assert!((times..times + 60.0).contains(&found), "{value}: {found}");
    }
}

#[test]
fn mistakes_are_explained() {
    let message = |result: Result<Datum, PluginError>| result.expect_err("a mistake").to_string();
    assert!(message(aggregate("tdigest", &["x".into()], 1)).contains("takes numbers, but found STRING"));
    assert!(message(invoke("hll_count", &[1.into()])).contains("not a sketch as the aggregate `hll` makes them"));
    assert!(message(invoke("hll_count", &[Datum::Binary([1, 2, 3][..].into())])).contains("`hll`"));
    let empty = aggregate("tdigest", &[], 1).expect("empty");
    assert!(message(invoke("tdigest_quantile", &[empty.clone(), 2.into()])).contains("from 0 to 1"));
    assert!(message(invoke("tdigest_quantile", &[empty, 0.5.into()])).contains("of no values"));
    assert!(message(invoke("hll", &[1.into(), 2.into()])).contains("aggregate"));
}

proptest! {
    #[test]
    fn no_bytes_are_more_than_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let sketch = Datum::Binary(bytes.into());
        for name in ["hll_merge", "tdigest_merge", "countmin_merge"] {
            let _ = step(name, Step::Accumulate, [sketch.clone(), sketch.clone()]);
        }
    }

    #[test]
    fn no_damage_is_more_than_refused(at in any::<prop::sample::Index>(), to in any::<u8>(), count in 0_u32..3000) {
        for name in ["hll", "tdigest", "countmin"] {
            let sketch = aggregate(name, &numbers(count), 1000).expect("a sketch");
            let Datum::Binary(bytes) = sketch else { panic!("no binary") };
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let damaged = Datum::Binary(bytes.into());
            let (count, arguments) = match name {
                "hll" => ("hll_count", vec![damaged.clone()]),
                "tdigest" => ("tdigest_quantile", vec![damaged.clone(), 0.5.into()]),
                _ => ("countmin_count", vec![damaged.clone(), 1.into()]),
            };
            let _ = invoke(count, &arguments);
            let _ = step(&format!("{name}_merge"), Step::Accumulate, [damaged.clone(), damaged]);
        }
    }
}
