use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::data_type::conforms;
use proptest::prelude::*;

use super::*;

fn decimal(text: &str) -> Datum {
    DecimalType.parse(&text.into()).unwrap_or_else(|error| panic!("{text}: {error}")).into()
}

fn text(value: &Datum) -> &str {
    value.as_typed().expect("a decimal").text()
}

fn refusal(result: Result<Datum, PluginError>) -> String {
    result.expect_err("a mistake").to_string()
}

#[test]
fn the_canonical_text_has_no_zeros_that_do_not_matter() {
    for (given, canonical) in [
        ("1.10", "1.1"),
        ("-0.00", "0"),
        ("0010", "10"),
        ("100", "100"),
        ("+1e-3", "0.001"),
        ("-12.5E2", "-1250"),
        ("0e999999999999", "0"),
        ("79228162514264337593543950335", "79228162514264337593543950335"),
        ("0.0000000000000000000000000001", "0.0000000000000000000000000001"),
    ] {
        assert_eq!(text(&decimal(given)), canonical, "{given}");
    }
    let numbers = [(0.1, "0.1"), (-1e21, "-1000000000000000000000"), (1e-28, "0.0000000000000000000000000001")];
    for (number, canonical) in numbers {
        assert_eq!(DecimalType.parse(&number.into()).expect("a decimal").text(), canonical);
    }
}

#[test]
fn what_is_no_decimal_is_refused_and_shown() {
    for given in
        ["", "x", "1_000", "1.2.3", "--1", "1e", "1e1.5", "NaN", "79228162514264337593543950336", "1e29", "1e-29"]
    {
        let message = refusal(DecimalType.parse(&given.into()).map(Datum::from));
        assert!(message.contains(&format!("{given:?}")), "{message}");
    }
    for other in [Datum::Null, true.into(), Datum::array([]), f64::MAX.into(), f64::MIN_POSITIVE.into()] {
        refusal(DecimalType.parse(&other).map(Datum::from));
    }
    refusal(
        DecimalType.parse(&0.1.into()).and_then(|tenth| DecimalType.operate(Operator::Add, &tenth.into(), &"1".into())),
    );
}

#[test]
fn arithmetic_is_exact() {
    let harness = Harness::start(Decimals);
    let compute = |operator: &str, left: Datum, right: Datum| harness.call("decimal", &[operator.into(), left, right]);
    for (operator, left, right, result) in [
        ("add", decimal("0.1"), decimal("0.2"), "0.3"),
        ("add", 1.into(), decimal("0.05"), "1.05"),
        ("sub", decimal("0.3"), 0.1.into(), "0.2"),
        ("mul", decimal("1.10"), decimal("1.10"), "1.21"),
        ("div", decimal("1"), 8.into(), "0.125"),
    ] {
        assert_eq!(text(&compute(operator, left, right).expect("a decimal")), result);
    }
    assert!(refusal(compute("div", decimal("1"), 0.into())).contains("by zero"));
    assert!(refusal(compute("mul", decimal("1e20"), decimal("1e20"))).contains("more digits"));
    let largest = decimal("79228162514264337593543950335");
    assert!(refusal(compute("add", largest.clone(), 0.4.into())).contains("more digits"));
    assert!(refusal(compute("sub", 0.4.into(), largest)).contains("more digits"));
    assert!(refusal(compute("pow", decimal("1"), 1.into())).contains("takes one value"));
    let values = Datum::array((0..1000).map(|_| decimal("0.001")));
    assert_eq!(text(&harness.call("decimal", &["sum".into(), values]).expect("a sum")), "1");
    assert_eq!(harness.call("decimal", &[decimal("2.50")]), Ok(decimal("2.5")));
    let round = |value: &str, places: i32| harness.call("decimal_round", &[decimal(value), places.into()]);
    assert_eq!(round("2.345", 2), Ok(decimal("2.35")));
    assert_eq!(round("-2.5", 0), Ok(decimal("-3")));
    assert!(refusal(round("1", 29)).contains("from 0 to 28"));
}

fn decimals() -> impl Strategy<Value = Decimal> {
    let mantissa = prop_oneof![
        -1000_i128..1000,
        any::<i64>().prop_map(i128::from),
        -79_228_162_514_264_337_593_543_950_335_i128..=79_228_162_514_264_337_593_543_950_335,
    ];
    (mantissa, 0..=28_u32).prop_map(|(mantissa, scale)| Decimal::from_i128_with_scale(mantissa, scale))
}

proptest! {
    #[test]
    fn keys_are_in_the_order_of_the_numbers(left in decimals(), right in decimals()) {
        prop_assert_eq!(order::key(left).cmp(&order::key(right)), left.cmp(&right));
        // A neighbour whose digits continue those of the other.
        let near = left.checked_add(Decimal::new(1, 28)).unwrap_or(left);
        prop_assert_eq!(order::key(left).cmp(&order::key(near)), left.cmp(&near));
    }

    #[test]
    fn sums_are_exact_or_refused(left in decimals(), right in decimals()) {
        for (a, b) in [(left, right), (left, -right)] {
            if let Ok(sum) = compute(Operator::Add, a, b) {
                prop_assert_eq!(compute(Operator::Sub, sum, b).ok(), Some(a));
                prop_assert!(sum.normalize().scale() <= a.normalize().scale().max(b.normalize().scale()));
            }
        }
    }

    #[test]
    fn it_is_a_data_type(numbers in prop::collection::vec(decimals(), 1..20)) {
        let texts = numbers.iter().map(|number| Datum::from(number.to_string()));
        let shifted = numbers.iter().map(|number| Datum::from(format!("{}e-{}", number.mantissa(), number.scale())));
        conforms(&DecimalType, &texts.chain(shifted).collect::<Vec<_>>());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-+0-9.eE_ x]{0,40}") {
        let _ = DecimalType.parse(&text.into());
    }
}
