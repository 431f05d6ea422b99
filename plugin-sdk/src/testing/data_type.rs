//! What every data type has to keep to.

use crate::Datum;
use crate::datum::Typed;
use crate::kinds::data_type::DataTypePlugin;

/// Checks what a data type makes of `values`, of which each has to stand for one of its own, and what it makes of others.
///
/// Tests hand it samples of all that the type takes, at best from a generator: the more pairs, the more the order keys are
/// tried.
///
/// # Panics
/// With what is wrong: a value is refused; its canonical text is, or stands for something else; a value is of another
/// type; order keys and texts disagree about what is equal.
pub fn conforms(data_type: &dyn DataTypePlugin, values: &[Datum]) {
    let parsed: Vec<Typed> = values.iter().map(|value| accepted(data_type, value)).collect();
    for (at, left) in parsed.iter().enumerate() {
        for right in &parsed[at..] {
            let (same_key, same_text) = (left.order_key() == right.order_key(), left.text() == right.text());
            assert_eq!(same_key, same_text, "order keys and texts disagree: {left:?} and {right:?}");
        }
    }
    for value in strangers() {
        if let Ok(found) = data_type.parse(&value) {
            // It may take more than texts and numbers; what it makes of them has to be sound.
            checked(data_type, &value, &found);
        }
    }
    let foreign = Typed::new("no_such_type", [1], "1").expect("a name, a key and a text");
    let refused = data_type.parse(&foreign.into()).is_err();
    assert!(refused, "{} takes a value of a type that it can't know", data_type.type_name());
}

fn accepted(data_type: &dyn DataTypePlugin, value: &Datum) -> Typed {
    let found = data_type.parse(value).unwrap_or_else(|error| panic!("{value:?} is refused: {error}"));
    checked(data_type, value, &found);
    found
}

fn checked(data_type: &dyn DataTypePlugin, value: &Datum, found: &Typed) {
    assert_eq!(found.name(), data_type.type_name(), "{value:?} becomes a value of another type");
    let again = data_type.parse(&found.text().into());
    let again = again.unwrap_or_else(|error| panic!("the canonical text of {value:?} is refused: {error}"));
    let same = again.text() == found.text() && again.order_key() == found.order_key();
    assert!(same, "the canonical text of {value:?} stands for something else: {found:?} and {again:?}");
}

/// Values that hardly any type takes.
fn strangers() -> Vec<Datum> {
    let texts = ["", " ", "\0", "\u{202e}1", "-", ".", "e", "1e999999999", "NaN", "inf", "0x10", "1/1", "::", "é"];
    let long = "1".repeat(100_000);
    let numbers = [f64::MAX, f64::MIN_POSITIVE, -0.0, 0.1];
    let others = [
        Datum::Null,
        true.into(),
        Datum::array([]),
        Datum::array([1.into()]),
        Datum::object([("value", "1")]),
        Datum::Binary([0, 255][..].into()),
    ];
    let texts = texts.into_iter().chain([long.as_str()]).map(Datum::from);
    texts.chain(numbers.map(Datum::Number)).chain(others).collect()
}
