//! Strings and JSON: MATCH, SPLIT, UPCASE, DOWNCASE, JSON, TO_JSON_STRING, FORMAT.

use std::cell::RefCell;
use std::collections::HashMap;

use photondb_plugin_sdk::Datum;
use regex::Regex;
use unicode_normalization::char::is_combining_mark;

use super::Op;
use crate::query::error::{ReqlError, Result};
use crate::query::eval::Call;
use crate::query::json;
use crate::query::output;
use crate::query::paths;
use crate::query::types;
use crate::query::value::Value;

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(97, "match", 2, 2, match_),
    Op::new(141, "upcase", 1, 1, upcase),
    Op::new(142, "downcase", 1, 1, downcase),
    Op::new(149, "split", 1, 3, split),
    Op::new(98, "json", 1, 1, json),
    Op::new(172, "to_json_string", 1, 1, to_json_string),
    Op::new(197, "format", 2, 2, format_),
];

/// Most memory that a compiled regular expression may take.
const REGEX_BYTES: usize = 1 << 20;
/// The longest text, in bytes, that a plugin's query matches. The worst expressions take some 50 µs for each byte, and
/// nothing ends a match before its end.
const MAX_MATCHED: usize = 64 << 10;
/// Most regular expressions that a thread keeps compiled.
const KEPT: usize = 64;

thread_local! {
    static REGEXES: RefCell<HashMap<String, Regex>> = RefCell::default();
}

/// The compiled expression, kept for the next row.
fn regex(pattern: &str) -> Result<Regex> {
    if let Some(regex) = REGEXES.with_borrow(|kept| kept.get(pattern).cloned()) {
        return Ok(regex);
    }
    let regex = regex::RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES)
        .build()
        .map_err(|error| bad_regex(pattern, &error))?;
    REGEXES.with_borrow_mut(|kept| {
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(pattern.to_owned(), regex.clone());
    });
    Ok(regex)
}

/// Says what is wrong, in the words of RE2 where it is a matter of syntax.
fn bad_regex(pattern: &str, error: &regex::Error) -> ReqlError {
    use regex_syntax::ast::ErrorKind;
    let Err(syntax) = regex_syntax::ast::parse::Parser::new().parse(pattern) else {
        return ReqlError::logic(format!("Error in regexp `{pattern}`: {error}"));
    };
    let span = syntax.span();
    let portion = pattern.get(span.start.offset..span.end.offset).unwrap_or(pattern);
    let what = match syntax.kind() {
        ErrorKind::UnsupportedBackreference | ErrorKind::EscapeUnrecognized => {
            format!("invalid escape sequence: {portion}")
        }
        kind => kind.to_string(),
    };
    ReqlError::logic(format!("Error in regexp `{pattern}` (portion `{portion}`): {what}"))
}

fn match_(call: &Call<'_>) -> Result<Value> {
    let text = call.string(0)?;
    if text.len() > MAX_MATCHED && call.ctx().allowance.is_some() {
        let message = format!("A plugin's query can match texts of at most {MAX_MATCHED} bytes, not {}.", text.len());
        return Err(ReqlError::limit(message).at(0));
    }
    let pattern = call.string(1)?;
    let regex = regex(&pattern)?;
    let Some(captures) = regex.captures(&text) else { return Ok(Datum::Null.into()) };
    let part = |found: regex::Match<'_>| {
        [("str", Datum::from(found.as_str())), ("start", Datum::from(found.start())), ("end", Datum::from(found.end()))]
    };
    let groups = captures.iter().skip(1).map(|group| group.map_or(Datum::Null, |group| Datum::object(part(group))));
    let groups = Datum::array(groups);
    let whole = captures.get(0).map(part).into_iter().flatten().chain([("groups", groups)]);
    Ok(Datum::object(whole).into())
}

fn upcase(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::from(call.string(0)?.to_ascii_uppercase()).into())
}

fn downcase(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::from(call.string(0)?.to_ascii_lowercase()).into())
}

fn split(call: &Call<'_>) -> Result<Value> {
    let text = call.string(0)?;
    let separator = if call.count() > 1 {
        match call.datum(1)? {
            Datum::Null => None,
            datum => Some(crate::query::eval::string(&datum).map_err(|error| error.at(1))?),
        }
    } else {
        None
    };
    let most = if call.count() > 2 {
        let count = call.integer(2)?;
        usize::try_from(count).map_err(|_| {
            ReqlError::logic(format!("Error: `split` size argument cannot be negative (got {count}).")).at(2)
        })?
    } else {
        usize::MAX
    };
    // One part too many tells as much as all of them.
    let most = most.min(call.ctx().array_limit());
    let parts: Vec<&str> = match separator.as_deref() {
        None => split_spaces(&text, most),
        Some("") => split_characters(&text, most),
        Some(separator) => text.splitn(most.saturating_add(1), separator).collect(),
    };
    Ok(call.ctx().array(parts.into_iter().map(Datum::from).collect())?.into())
}

fn split_spaces(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if parts.len() >= most {
            parts.push(rest);
            break;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        parts.push(part);
        rest = behind.trim_start();
    }
    parts
}

/// Characters, each with the combining marks that belong to it.
fn split_characters(text: &str, most: usize) -> Vec<&str> {
    let starts: Vec<usize> = text
        .char_indices()
        .filter(|(at, character)| *at == 0 || !is_combining_mark(*character))
        .map(|(at, _)| at)
        .take(most.saturating_add(1))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).filter_map(|(start, end)| text.get(*start..end)).collect()
}

fn json(call: &Call<'_>) -> Result<Value> {
    Ok(types::resolve_datum(call.ctx(), json::parse(&call.string(0)?)?)?.into())
}

fn to_json_string(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::from(output::text(&call.datum(0)?)?).into())
}

fn format_(call: &Call<'_>) -> Result<Value> {
    let template = call.string(0)?;
    let values = call.object(1)?;
    let mut text = String::with_capacity(template.len());
    let mut name: Option<String> = None;
    for character in template.chars() {
        match (&mut name, character) {
            (None, '{') => name = Some(String::new()),
            (None, '}') => return Err(ReqlError::logic("No parameter tags to close")),
            (None, other) => text.push(other),
            (Some(_), '{') => return Err(ReqlError::logic("Nested template parameters are not allowed")),
            (Some(_), ',') => {
                return Err(ReqlError::logic("Formatting separator `,` is not allowed in parameter name"));
            }
            (Some(_), '\\') => {
                return Err(ReqlError::logic("Reserved escape character `\\` is not allowed in parameter name"));
            }
            (Some(field), '}') => {
                let value =
                    values.get(field).ok_or_else(|| paths::no_attribute(&Datum::Object(values.clone()), field))?;
                match value {
                    Datum::String(value) => text.push_str(value),
                    other => text.push_str(&output::text(other)?),
                }
                output::check_length(text.len())?;
                name = None;
            }
            (Some(field), other) => field.push(other),
        }
    }
    if name.is_some() {
        return Err(ReqlError::logic("Parameter tag must be closed"));
    }
    Ok(Datum::from(text).into())
}
