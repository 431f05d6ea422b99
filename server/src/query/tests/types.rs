//! Values of plugins' types: how often a plugin is asked, and what it may answer.

use photondb_plugin_sdk::datum::Typed;
use photondb_plugin_sdk::kinds::function::Role;

use super::*;
use crate::query::nested::Origin;

/// A type of which each value is a text: `word`. It takes texts and numbers, adds by writing one behind the other, and
/// keeps what it was asked.
pub(super) struct Words {
    signature: FunctionSignature,
    asked: Mutex<Vec<(String, usize)>>,
}

impl Default for Words {
    fn default() -> Self {
        let signature = FunctionSignature { role: Role::DataType, ..FunctionSignature::pure("word", 1, 3) };
        Self { signature, asked: Mutex::default() }
    }
}

impl Words {
    fn asked(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn word(text: &str) -> Result<Datum, PluginError> {
    match text {
        // A plugin that lies.
        "liar" => Ok(Typed::new("other", text.as_bytes(), text)?.into()),
        "number" => Ok(1.into()),
        text => Ok(Typed::new("word", text.as_bytes(), text)?.into()),
    }
}

fn text_of(value: &Datum) -> String {
    match value {
        Datum::Typed(typed) => typed.text().to_owned(),
        Datum::String(text) => text.to_string(),
        other => other.to_json_string(),
    }
}

impl PluginFunction for Words {
    fn signature(&self) -> &FunctionSignature {
        &self.signature
    }

    fn invoke_batch(
        &self,
        args: &[&[Argument<'_>]],
        rows: usize,
        _origin: &Origin<'_>,
    ) -> Result<Vec<Datum>, PluginError> {
        let datum = |argument: &Argument<'_>| match argument {
            Argument::Computed(datum) => datum.clone(),
            Argument::Stored(view) => view.to_datum().unwrap(),
        };
        let what = if args.len() == 1 { "parse".to_owned() } else { text_of(&datum(&args[0][0])) };
        self.asked.lock().unwrap().push((what, rows));
        let row = |row: usize| match &args.iter().map(|column| datum(&column[row])).collect::<Vec<_>>()[..] {
            [Datum::Bool(_)] => Err(PluginError::argument("no word")),
            [value] => word(&text_of(value)),
            [_, Datum::Array(values)] => word(&values.iter().map(text_of).collect::<String>()),
            [_, left, right] => word(&(text_of(left) + &text_of(right))),
            _ => Err(PluginError::argument("too many")),
        };
        (0..rows).map(row).collect()
    }
}

fn literal(text: &str) -> Value {
    json!({"$type$": "word", "value": text})
}

fn array(values: impl IntoIterator<Item = Value>) -> Value {
    json!([2, values.into_iter().collect::<Vec<_>>()])
}

#[test]
fn all_literals_of_a_query_are_one_batch() {
    let server = Server::new();
    let documents = array((0..300).map(|at| json!({"id": at, "deep": {"word": literal(&format!("{at:03}"))}})));
    let found = server.value(&json!([170, [[170, [documents, 7]], "deep"]]));
    assert_eq!(found, json!({"word": literal("007")}));
    assert_eq!(server.words.asked(), [("parse".to_owned(), 300)]);
}

#[test]
fn values_compare_without_their_plugin_and_numbers_are_asked_for_once() {
    let server = Server::new();
    let words = array((0..100).map(|at| literal(&at.to_string())));
    let over = |bound: Value| json!([43, [[39, [words.clone(), function(json!([21, [[10, [1]], bound]]))]]]]);
    // Of all texts of numbers below 100, "51" to "59" and "6" to "99" come behind "50".
    assert_eq!(server.value(&over(literal("50"))), json!(53));
    assert_eq!(server.words.asked(), [("parse".to_owned(), 101)]);
    assert_eq!(server.value(&over(json!(50))), json!(53));
    assert_eq!(server.words.asked(), [("parse".to_owned(), 100), ("parse".to_owned(), 1)]);
    // In the order of types it is what it is.
    let sorted = server.value(&json!([41, [array([json!("a"), literal("0"), json!(7)]), function(json!([10, [1]]))]]));
    assert_eq!(sorted, json!([7, literal("0"), "a"]));
}

#[test]
fn sums_are_made_in_parts() {
    let server = Server::new();
    let words = array((0..3).map(|at| literal(&at.to_string())).chain([json!(3)]));
    assert_eq!(server.value(&json!([145, [words]])), literal("0123"));
    assert_eq!(server.words.asked(), [("parse".to_owned(), 3), ("sum".to_owned(), 1)]);
    let sum = json!([24, [literal("a"), 1, literal("b")]]);
    assert_eq!(server.value(&sum), literal("a1b"));
    assert_eq!(server.value(&json!([52, [sum]])), json!("PTYPE<WORD>"));
}

#[test]
fn nobody_makes_values_but_the_plugin_and_it_only_its_own() {
    let server = Server::new();
    for (term, part) in [
        (json!({"$type$": "word", "value": "a", "key": "AA=="}), "found `key`"),
        (json!({"$type$": "word"}), "needs the field `value`"),
        (json!({"$type$": ["word"], "value": "a"}), "expected"),
        (json!({"$type$": "double", "value": 1}), "provides values of type `double`"),
        (json!({"$type$": "word", "value": true}), "no word"),
        (literal("liar"), "answered with something else"),
        (literal("number"), "answered with something else"),
        (json!([24, [literal("li"), "ar"]]), "answered with something else"),
    ] {
        let request = parse::request(json!([1, term, {}]).to_string().as_bytes());
        let message = match request {
            Err(message) => message,
            Ok(_) => server.error(&term).0,
        };
        // What is no query at all is told by the parser, in words of its own.
        assert!(message.contains(part) || part == "expected", "{term}: {message}");
    }
    // What looks like a value and was put together is neither stored nor sent.
    let pairs = array([array([json!("$type$"), json!("word")]), array([json!("value"), json!("a")])]);
    assert!(server.error(&json!([51, [pairs, "object"]])).0.contains("reserved for values of plugins' types"));
}
