//! JSON text as values, for `r.json`.

use std::fmt;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::error::{ReqlError, Result};
use super::pseudo::MAX_DEPTH;
use super::pseudotype;

/// Marks messages of ours among those of the JSON parser.
const OWN: &str = "\u{1}";

/// The value that the text stands for.
///
/// # Errors
/// When the text is no JSON, has an object with a name twice, is nested too deeply, or has a bad pseudotype.
pub fn parse(text: &str) -> Result<Datum> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.disable_recursion_limit();
    let parsed = Seed { depth: MAX_DEPTH }.deserialize(&mut json).and_then(|datum| json.end().map(|()| datum));
    parsed.map_err(|error| {
        let message = error.to_string();
        if let Some(own) = message.strip_prefix(OWN) {
            let own = own.rsplit_once(OWN).map_or(own, |(own, _)| own);
            return ReqlError::logic(own);
        }
        let why = if error.is_eof() && message.starts_with("EOF while parsing a list") {
            "Missing a comma or ']' after an array element."
        } else if error.is_eof() && message.starts_with("EOF while parsing an object") {
            "Missing a comma or '}' after an object member."
        } else if error.is_eof() {
            "The document is empty, or ends within a value."
        } else {
            "Invalid value."
        };
        ReqlError::logic(format!("Failed to parse \"{text}\" as JSON: {why}"))
    })
}

fn own<E: serde::de::Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{OWN}{message}{OWN}"))
}

struct Seed {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Datum;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Datum, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Datum, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Datum, E> {
        Ok(Datum::Null)
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Datum, E> {
        Ok(Datum::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Datum, E> {
        Ok(Datum::Number(value as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Datum, E> {
        if value.is_finite() { Ok(Datum::Number(value)) } else { Err(own("Non-finite number in JSON.")) }
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Datum, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Datum, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| own("Nesting depth limit exceeded."))?;
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(Self { depth })? {
            elements.push(element);
        }
        Ok(elements.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Datum, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| own("Nesting depth limit exceeded."))?;
        let mut object = Object::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Self { depth })?;
            if object.insert(name.as_str(), value).is_some() {
                return Err(own(format_args!("Duplicate key \"{name}\" in JSON.")));
            }
        }
        pseudotype::normalize(object).map_err(|error| A::Error::custom(format_args!("{OWN}{error}{OWN}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_in_the_words_of_the_protocol() {
        assert_eq!(parse(r#"{"a":1,"a":2}"#).unwrap_err().message(), "Duplicate key \"a\" in JSON.");
        let message = "Failed to parse \"[1,2\" as JSON: Missing a comma or ']' after an array element.";
        assert_eq!(parse("[1,2").unwrap_err().message(), message);
        assert!(parse(&"[".repeat(100_000)).unwrap_err().message().contains("depth"));
    }

    #[test]
    fn values_of_all_types() {
        let text = r#"{"a":[1,-0.5,true,null,"x"],"b":{}}"#;
        assert_eq!(parse(text).unwrap().to_json_string(), text);
    }
}
