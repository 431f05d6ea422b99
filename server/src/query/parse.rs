//! Reading queries: JSON text straight to terms, without a tree of JSON values in between.
//!
//! Literal arrays and objects become one [`Datum`] each while they are read, however large: an insert of many documents
//! with long vectors makes no term per number. Nesting is bounded, so that no text can exhaust the stack.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::pseudotype;
use super::scanner::{Next, Scanner};
use super::types;

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
        /// Whether there are values of plugins' types in it, which their plugins have to make first.
        typed: bool,
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
    /// Whether there are literals of plugins' types in it.
    #[must_use]
    pub fn is_typed(&self) -> bool {
        match self {
            Self::Constant { typed, .. } => *typed,
            Self::Object(fields) => fields.iter().any(|(_, field)| field.is_typed()),
            Self::Call { args, options, .. } => {
                args.iter().any(Self::is_typed) || options.iter().any(|(_, option)| option.is_typed())
            }
        }
    }

    /// A literal of a scalar.
    fn scalar(value: impl Into<Datum>) -> Self {
        Self::Constant { value: value.into(), longest_array: 0, typed: false }
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
    let mut text = Scanner::new(body);
    text.expect(b'[', "a query [TYPE, TERM, OPTIONS]")?;
    let mut position = 0;
    if !text.has_more(position, b']')? {
        return Err("the query has no type".to_owned());
    }
    let mut request = match text.integer("the type of a query")? {
        1 => None,
        2 => Some(Request::Continue),
        3 => Some(Request::Stop),
        4 => Some(Request::NoreplyWait),
        5 => Some(Request::ServerInfo),
        other => return Err(format!("unknown query type {other}")),
    };
    position += 1;
    while text.has_more(position, b']')? {
        match (&mut request, position) {
            (None, 1) => request = Some(Request::Start { term: read(&mut text, MAX_NESTING)?, options: Vec::new() }),
            (Some(Request::Start { options, .. }), 2) => *options = fields(&mut text, MAX_NESTING)?,
            _ => text.skip(MAX_NESTING)?,
        }
        position += 1;
    }
    text.end()?;
    request.ok_or_else(|| "a START query needs a term".to_owned())
}

/// Reads one term, as index definitions are stored.
///
/// # Errors
/// As [`request`].
pub fn term(text: &[u8]) -> Result<Term, String> {
    let mut text = Scanner::new(text);
    let term = read(&mut text, MAX_NESTING)?;
    text.end()?;
    Ok(term)
}

/// Reads a term that may be nested so many levels.
fn read(text: &mut Scanner<'_>, levels: usize) -> Result<Term, String> {
    let next = text.next()?;
    value(text, next, levels)
}

fn value(text: &mut Scanner<'_>, next: Next, levels: usize) -> Result<Term, String> {
    Ok(match next {
        Next::Array => call(text, levels)?,
        Next::Object => object(fields(text, levels)?),
        Next::String => Term::scalar(&*text.string()?),
        Next::Number => Term::scalar(text.number()?),
        Next::True => Term::scalar(true),
        Next::False => Term::scalar(false),
        Next::Null => Term::scalar(Datum::Null),
    })
}

fn below(levels: usize) -> Result<usize, String> {
    levels.checked_sub(1).ok_or_else(|| format!("the query is nested more than {MAX_NESTING} levels deep"))
}

fn call(text: &mut Scanner<'_>, levels: usize) -> Result<Term, String> {
    let levels = below(levels)?;
    text.expect(b'[', "a term")?;
    let number = text.integer("the number of a term, with which the array begins that stands for one")?;
    let (mut args, mut options, mut position) = (Args::default(), Vec::new(), 1);
    while text.has_more(position, b']')? {
        match position {
            1 => args = arguments(text, levels)?,
            2 => options = fields(text, levels)?,
            _ => text.skip(levels)?,
        }
        position += 1;
    }
    if number == MAKE_ARRAY && options.is_empty() && args.computed.is_empty() {
        return Ok(args.into_array());
    }
    Ok(Term::Call { number, args: args.into_terms(), options })
}

fn arguments(text: &mut Scanner<'_>, levels: usize) -> Result<Args, String> {
    let levels = below(levels)?;
    text.expect(b'[', "an array of arguments")?;
    let (mut args, mut position) = (Args::default(), 0);
    while text.has_more(position, b']')? {
        match text.next()? {
            Next::Number if args.constants.is_empty() && args.computed.is_empty() => args.numbers.push(text.number()?),
            next => args.push(value(text, next, levels)?),
        }
        position += 1;
    }
    Ok(args)
}

fn fields(text: &mut Scanner<'_>, levels: usize) -> Result<Vec<(Arc<str>, Term)>, String> {
    let levels = below(levels)?;
    text.expect(b'{', "an object")?;
    let mut fields = Vec::new();
    while text.has_more(fields.len(), b'}')? {
        let name = Arc::from(text.string()?);
        text.expect(b':', "a colon")?;
        fields.push((name, read(text, levels)?));
    }
    Ok(fields)
}

/// An object term of the given fields: a literal if all of them are.
fn object(fields: Vec<(Arc<str>, Term)>) -> Term {
    let literal = fields.iter().all(|(_, term)| matches!(term, Term::Constant { .. }));
    if !literal {
        return Term::Object(fields);
    }
    let (mut longest, mut is_typed) = (0, false);
    let object: Object = fields
        .iter()
        .filter_map(|(name, term)| match term {
            Term::Constant { value, longest_array, typed } => {
                longest = longest.max(*longest_array);
                is_typed |= typed;
                Some((name.clone(), value.clone()))
            }
            _ => None,
        })
        .collect();
    is_typed |= types::is_literal(&object);
    // What is wrong with a pseudotype is said when the term is evaluated, with its place in the query.
    match pseudotype::normalize(object) {
        Ok(value) => Term::Constant { value, longest_array: longest, typed: is_typed },
        Err(_) => Term::Object(fields),
    }
}

/// Positional arguments: numbers as long as there are only such, then constants, then terms.
#[derive(Default)]
struct Args {
    /// Vectors are most of many queries: their numbers make no terms, and become data all at once.
    numbers: Vec<f64>,
    constants: Vec<Datum>,
    longest_array: usize,
    typed: bool,
    computed: Vec<Term>,
}

impl Args {
    fn push(&mut self, term: Term) {
        match term {
            Term::Constant { value, longest_array, typed } if self.computed.is_empty() => {
                self.constants.push(value);
                self.typed |= typed;
                self.longest_array = self.longest_array.max(longest_array);
            }
            term => self.computed.push(term),
        }
    }

    fn into_terms(self) -> Vec<Term> {
        // The longest array of all is an upper bound for each: at worst the limit is checked for a sibling's sake.
        let (longest_array, typed) = (self.longest_array, self.typed);
        let constants = self.constants.into_iter().map(|value| Term::Constant { value, longest_array, typed });
        self.numbers.into_iter().map(Term::scalar).chain(constants).chain(self.computed).collect()
    }

    /// The array of all of them, where none has to be computed.
    fn into_array(self) -> Term {
        let longest_array = self.longest_array.max(self.numbers.len() + self.constants.len());
        let numbers = self.numbers.into_iter().map(Datum::Number);
        Term::Constant { value: Datum::array(numbers.chain(self.constants)), longest_array, typed: self.typed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literal_arrays_and_objects_become_one_datum() {
        let term = term(br#"[2,[[2,[1,2]],{"a":[2,["x"]]}]]"#).unwrap();
        let Term::Constant { value, longest_array, .. } = term else { panic!("not folded: {term:?}") };
        assert_eq!(value.to_json_string(), r#"[[1,2],{"a":["x"]}]"#);
        assert_eq!(longest_array, 2);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        for (text, part) in [
            ("[]", "no type"),
            ("[1]", "needs a term"),
            ("[9]", "unknown query type 9"),
            ("[1,[]]", "the number of a term"),
            ("[1,[1.0]]", "the number of a term"),
            ("[1,[2,1]]", "an array of arguments"),
            ("[1,1,2]", "an object"),
            ("[1,1]x", "the end"),
            ("[1,1e999]", "out of range"),
            ("{}", "a query"),
        ] {
            let message = request(text.as_bytes()).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(matches!(request(b" [ 1 , [ 13 ] , { } , 7 , [[]] ] "), Ok(Request::Start { .. })));
        assert!(matches!(term(br#"[13,[],{},"more",{"a":[]}]"#), Ok(Term::Call { number: 13, .. })));
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
        fn vectors_are_read_number_by_number(
            vectors in prop::collection::vec(prop::collection::vec(-1e300..1e300_f64, 0..20), 0..4),
        ) {
            let lists: Vec<_> = vectors.iter().map(|vector| serde_json::json!([MAKE_ARRAY, vector])).collect();
            let read = term(serde_json::json!([MAKE_ARRAY, lists]).to_string().as_bytes()).unwrap();
            let expected = Datum::array(vectors.iter().map(|vector| {
                Datum::array(vector.iter().copied().map(Datum::from))
            }));
            let most = vectors.iter().map(Vec::len).max().unwrap_or(0).max(vectors.len());
            let matches = matches!(&read, Term::Constant { value, longest_array, typed: false } if *value == expected && *longest_array == most);
            prop_assert!(matches, "{:?}", read);
        }

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
