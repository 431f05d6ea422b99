//! Reading queries: JSON text straight to terms, without a tree of JSON values in between.
//!
//! Literal arrays and objects become one [`Datum`] each while they are read, however large: an insert of many documents
//! with long vectors makes no term per number. Nesting is bounded, so that no text can exhaust the stack.

use std::fmt;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::pseudotype;

/// Most levels of arrays and objects in a query's text. A chained method takes two.
pub const MAX_NESTING: usize = 1_200;

/// The term number of MAKE_ARRAY, which the parser folds.
const MAKE_ARRAY: u32 = 2;

/// A term as it was sent.
#[derive(Clone, Debug)]
pub enum Term {
    /// A literal value.
    Constant {
        /// The value.
        value: Datum,
        /// The length of the longest array in it, which is checked against the query's `array_limit`.
        longest_array: usize,
    },
    /// An object of which at least one field has to be computed.
    Object(Vec<(Arc<str>, Term)>),
    /// A term with a number.
    Call {
        /// The number.
        number: u32,
        /// Positional arguments.
        args: Vec<Term>,
        /// Optional arguments.
        options: Vec<(Arc<str>, Term)>,
    },
}

impl Term {
    /// A literal of a scalar.
    fn scalar(value: impl Into<Datum>) -> Self {
        Self::Constant { value: value.into(), longest_array: 0 }
    }
}

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// Run a query.
    Start {
        /// The query's root term.
        term: Term,
        /// The run options.
        options: Vec<(Arc<str>, Term)>,
    },
    /// The next batch of a stream.
    Continue,
    /// The end of a stream.
    Stop,
    /// An answer when all earlier `noreply` queries are done.
    NoreplyWait,
    /// Who the server is.
    ServerInfo,
}

impl Request {
    /// Whether the client wants no response: `noreply: true`, read without evaluation.
    #[must_use]
    pub fn is_noreply(&self) -> bool {
        let Self::Start { options, .. } = self else { return false };
        options
            .iter()
            .any(|(name, term)| &**name == "noreply" && matches!(term, Term::Constant { value: Datum::Bool(true), .. }))
    }
}

/// Reads a query frame's body.
///
/// # Errors
/// One sentence for the client when the text is no JSON, or not of the shape of a query.
pub fn request(body: &[u8]) -> Result<Request, String> {
    read(body, RequestSeed)
}

/// Reads one term, as index definitions are stored.
///
/// # Errors
/// As [`request`].
pub fn term(text: &[u8]) -> Result<Term, String> {
    read(text, TermSeed { depth: MAX_NESTING })
}

fn read<'de, S: DeserializeSeed<'de>>(text: &'de [u8], seed: S) -> Result<S::Value, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    // The seeds count levels themselves; serde_json's own limit of 128 is below what drivers send.
    json.disable_recursion_limit();
    let value = seed.deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

struct RequestSeed;

impl<'de> DeserializeSeed<'de> for RequestSeed {
    type Value = Request;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Request, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RequestSeed {
    type Value = Request;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a query [TYPE, TERM, OPTIONS]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Request, A::Error> {
        let kind: u64 = seq.next_element()?.ok_or_else(|| A::Error::custom("the query has no type"))?;
        let request = match kind {
            1 => {
                let term = seq
                    .next_element_seed(TermSeed { depth: MAX_NESTING })?
                    .ok_or_else(|| A::Error::custom("a START query needs a term"))?;
                let options = seq.next_element_seed(OptionsSeed { depth: MAX_NESTING })?.unwrap_or_default();
                Request::Start { term, options }
            }
            2 => Request::Continue,
            3 => Request::Stop,
            4 => Request::NoreplyWait,
            5 => Request::ServerInfo,
            other => return Err(A::Error::custom(format_args!("unknown query type {other}"))),
        };
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(request)
    }
}

/// Reads a term; `depth` is how many levels are left.
struct TermSeed {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for TermSeed {
    type Value = Term;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Term, D::Error> {
        json.deserialize_any(self)
    }
}

fn too_deep<E: serde::de::Error>() -> E {
    E::custom(format_args!("the query is nested more than {MAX_NESTING} levels deep"))
}

impl<'de> Visitor<'de> for TermSeed {
    type Value = Term;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a term")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Term, E> {
        Ok(Term::scalar(value))
    }

    fn visit_unit<E>(self) -> Result<Term, E> {
        Ok(Term::scalar(Datum::Null))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Term, E> {
        Ok(Term::scalar(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Term, E> {
        Ok(Term::scalar(value as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Term, E> {
        if value.is_finite() { Ok(Term::scalar(value)) } else { Err(E::custom("a number is out of range")) }
    }

    fn visit_str<E>(self, value: &str) -> Result<Term, E> {
        Ok(Term::scalar(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Term, A::Error> {
        Ok(object(fields(map, self.depth)?))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Term, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        let number: u32 = seq
            .next_element()?
            .ok_or_else(|| A::Error::custom("an array stands for a term and has to begin with the term's number"))?;
        let args = seq.next_element_seed(ArgsSeed { depth })?.unwrap_or_default();
        let options = seq.next_element_seed(OptionsSeed { depth })?.unwrap_or_default();
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        if number == MAKE_ARRAY && options.is_empty() && args.computed.is_empty() {
            let longest_array = args.longest_array.max(args.constants.len());
            return Ok(Term::Constant { value: args.constants.into(), longest_array });
        }
        Ok(Term::Call { number, args: args.into_terms(), options })
    }
}

/// An object term of the given fields: a literal if all of them are.
fn object(fields: Vec<(Arc<str>, Term)>) -> Term {
    let literal = fields.iter().all(|(_, term)| matches!(term, Term::Constant { .. }));
    if !literal {
        return Term::Object(fields);
    }
    let mut longest = 0;
    let object: Object = fields
        .iter()
        .filter_map(|(name, term)| match term {
            Term::Constant { value, longest_array } => {
                longest = longest.max(*longest_array);
                Some((name.clone(), value.clone()))
            }
            _ => None,
        })
        .collect();
    // What is wrong with a pseudotype is said when the term is evaluated, with its place in the query.
    match pseudotype::normalize(object) {
        Ok(value) => Term::Constant { value, longest_array: longest },
        Err(_) => Term::Object(fields),
    }
}

fn fields<'de, A: MapAccess<'de>>(mut map: A, depth: usize) -> Result<Vec<(Arc<str>, Term)>, A::Error> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(0).min(1024));
    while let Some(name) = map.next_key::<String>()? {
        fields.push((Arc::from(name), map.next_value_seed(TermSeed { depth })?));
    }
    Ok(fields)
}

/// Positional arguments: constants as long as there are only such, then terms.
#[derive(Default)]
struct Args {
    constants: Vec<Datum>,
    longest_array: usize,
    computed: Vec<Term>,
}

impl Args {
    fn push(&mut self, term: Term) {
        match term {
            Term::Constant { value, longest_array } if self.computed.is_empty() => {
                self.constants.push(value);
                self.longest_array = self.longest_array.max(longest_array);
            }
            term => self.computed.push(term),
        }
    }

    fn into_terms(self) -> Vec<Term> {
        // The longest array of all is an upper bound for each: at worst the limit is checked for a sibling's sake.
        let longest_array = self.longest_array;
        let constants = self.constants.into_iter().map(|value| Term::Constant { value, longest_array });
        constants.chain(self.computed).collect()
    }
}

struct ArgsSeed {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for ArgsSeed {
    type Value = Args;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Args, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ArgsSeed {
    type Value = Args;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of arguments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Args, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        let mut args = Args::default();
        while let Some(term) = seq.next_element_seed(TermSeed { depth })? {
            args.push(term);
        }
        Ok(args)
    }
}

struct OptionsSeed {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for OptionsSeed {
    type Value = Vec<(Arc<str>, Term)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OptionsSeed {
    type Value = Vec<(Arc<str>, Term)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of optional arguments")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        fields(map, self.depth)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literal_arrays_and_objects_become_one_datum() {
        let term = term(br#"[2,[[2,[1,2]],{"a":[2,["x"]]}]]"#).unwrap();
        let Term::Constant { value, longest_array } = term else { panic!("not folded: {term:?}") };
        assert_eq!(value.to_json_string(), r#"[[1,2],{"a":["x"]}]"#);
        assert_eq!(longest_array, 2);
    }

    #[test]
    fn an_object_with_a_computed_field_stays_a_term() {
        assert!(matches!(term(br#"{"a":[13],"b":1}"#), Ok(Term::Object(fields)) if fields.len() == 2));
    }

    #[test]
    fn nesting_is_bounded() {
        let text = "[2,[".repeat(100_000);
        assert!(term(text.as_bytes()).unwrap_err().contains("nested"));
        let objects = r#"{"a":"#.repeat(100_000);
        assert!(term(objects.as_bytes()).unwrap_err().contains("nested"));
    }

    #[test]
    fn noreply_is_read_without_evaluation() {
        assert!(request(br#"[1,5,{"noreply":true}]"#).unwrap().is_noreply());
        assert!(!request(br#"[1,5,{"noreply":[17,[1,1]]}]"#).unwrap().is_noreply());
        assert!(matches!(request(b"[2]"), Ok(Request::Continue)));
        assert!(matches!(request(b"[3,{}]"), Ok(Request::Stop)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = request(&bytes);
        }

        #[test]
        fn arbitrary_json_like_text_never_panics(text in r#"[\[\]{}",:0-9a-z$_. ]{0,80}"#) {
            let _ = request(text.as_bytes());
            let _ = term(text.as_bytes());
        }
    }
}
