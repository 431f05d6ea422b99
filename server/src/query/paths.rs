//! Fields and paths of fields: taking, keeping, dropping and merging parts of objects.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::error::{ErrorKind, ReqlError, Result};
use super::print::brief;
use super::pseudo;

/// Which fields an operation is about.
#[derive(Clone, Debug)]
pub enum Path {
    /// A field.
    Field(Arc<str>),
    /// Several paths.
    All(Vec<Path>),
    /// Fields, each with the path below it; `None` is the whole field.
    Below(Vec<(Arc<str>, Option<Path>)>),
}

impl Path {
    /// Reads paths as they are given in a query.
    ///
    /// # Errors
    /// When a part is neither a string, nor an array, nor an object.
    pub fn parse(arguments: &[Datum]) -> Result<Self> {
        Ok(Self::All(arguments.iter().map(Self::parse_one).collect::<Result<_>>()?))
    }

    fn parse_one(datum: &Datum) -> Result<Self> {
        match datum {
            Datum::String(field) => Ok(Self::Field(field.clone())),
            Datum::Array(paths) => Self::parse(paths),
            Datum::Object(fields) => {
                let below = fields.iter().map(|(name, value)| match value {
                    Datum::Bool(true) => Ok((name.clone(), None)),
                    other => Ok((name.clone(), Some(Self::parse_one(other)?))),
                });
                Ok(Self::Below(below.collect::<Result<_>>()?))
            }
            other => Err(ReqlError::logic(format!("Invalid path argument `{}`.", brief(other)))),
        }
    }
}

/// What paths name of one field.
#[derive(Clone, Debug)]
pub enum Need<'p> {
    /// Nothing.
    Nothing,
    /// The whole field.
    All,
    /// Parts of it, if it is an object or has objects in it.
    Below(Vec<&'p Path>),
}

impl<'p> Need<'p> {
    /// What the paths together name of the field `name`.
    #[must_use]
    pub fn of(paths: &[&'p Path], name: &str) -> Self {
        let mut below = Vec::new();
        if paths.iter().any(|path| path.names_all(name, &mut below)) {
            Self::All
        } else if below.is_empty() {
            Self::Nothing
        } else {
            Self::Below(below)
        }
    }
}

impl Path {
    /// Adds the top-level fields that it names something of.
    pub fn add_fields(&self, fields: &mut Vec<Arc<str>>) {
        match self {
            Self::Field(field) => fields.push(field.clone()),
            Self::All(paths) => paths.iter().for_each(|path| path.add_fields(fields)),
            Self::Below(below) => fields.extend(below.iter().map(|(field, _)| field.clone())),
        }
    }

    /// Whether it names the whole field; if not, what it names of the field is added to `below`.
    fn names_all<'p>(&'p self, name: &str, below: &mut Vec<&'p Path>) -> bool {
        match self {
            Self::Field(field) => **field == *name,
            Self::All(paths) => paths.iter().any(|path| path.names_all(name, below)),
            Self::Below(fields) => fields.iter().filter(|(field, _)| **field == *name).any(|(_, path)| {
                below.extend(path);
                path.is_none()
            }),
        }
    }
}

/// The value of a field.
///
/// # Errors
/// When there is no such field, or the value is no object.
pub fn get_field(datum: &Datum, field: &str) -> Result<Datum> {
    let object = object(datum, "get_field")?;
    object.get(field).cloned().ok_or_else(|| no_attribute(datum, field))
}

/// The error for a field that is not there.
#[must_use]
pub fn no_attribute(datum: &Datum, field: &str) -> ReqlError {
    ReqlError::missing(format!("No attribute `{field}` in object:\n{}", brief(datum)))
}

/// The object that the datum is; `operation` is what could not be performed otherwise.
///
/// # Errors
/// When it is none.
pub fn object<'a>(datum: &'a Datum, operation: &str) -> Result<&'a Arc<Object>> {
    match datum {
        Datum::Object(object) if !is_opaque(object) => Ok(object),
        other => Err(not_an_object(other, operation)),
    }
}

/// The error for an operation on what is neither object nor sequence.
#[must_use]
pub fn not_an_object(datum: &Datum, operation: &str) -> ReqlError {
    let kind = if matches!(datum, Datum::Null) { ErrorKind::NonExistence } else { ErrorKind::QueryLogic };
    ReqlError::new(kind, format!("Cannot perform {operation} on a non-object non-sequence `{}`.", brief(datum)))
}

fn is_opaque(object: &Object) -> bool {
    matches!(pseudo::special(object), Some(pseudo::Special::Min | pseudo::Special::Max))
}

/// Only the parts of an object that the paths name.
///
/// # Errors
/// When the value is no object, or a path is no path.
pub fn pluck(datum: &Datum, paths: &[Datum]) -> Result<Datum> {
    object(datum, "pluck")?;
    Ok(keep(datum, &Path::parse(paths)?))
}

/// Only the parts of an object that the path names.
#[must_use]
pub fn keep(datum: &Datum, path: &Path) -> Datum {
    let mut kept = Object::new();
    keep_into(datum, path, &mut kept);
    kept.into()
}

fn keep_into(datum: &Datum, path: &Path, kept: &mut Object) {
    match path {
        Path::Field(field) => {
            if let Some(value) = datum.get(field) {
                kept.insert(field.clone(), value.clone());
            }
        }
        Path::All(paths) => paths.iter().for_each(|path| keep_into(datum, path, kept)),
        Path::Below(fields) => {
            for (field, below) in fields {
                let value = match (datum.get(field), below) {
                    (Some(value), None) => Some(value.clone()),
                    (Some(value), Some(below)) => within(value, |value| keep(value, below)),
                    (None, _) => None,
                };
                if let Some(value) = value {
                    kept.insert(field.clone(), value);
                }
            }
        }
    }
}

/// Applies a change to an object, or to each object of an array; nothing for other values.
fn within(datum: &Datum, change: impl Fn(&Datum) -> Datum) -> Option<Datum> {
    match datum {
        Datum::Object(_) => Some(change(datum)),
        Datum::Array(elements) if elements.iter().all(|element| matches!(element, Datum::Object(_))) => {
            Some(Datum::array(elements.iter().map(change)))
        }
        _ => None,
    }
}

/// All parts of an object but those that the path names.
#[must_use]
pub fn drop(datum: &Datum, path: &Path) -> Datum {
    let Datum::Object(object) = datum else { return datum.clone() };
    match path {
        Path::Field(field) => match object.get(field) {
            Some(_) => {
                let mut rest = (**object).clone();
                rest.remove(field);
                rest.into()
            }
            None => datum.clone(),
        },
        Path::All(paths) => paths.iter().fold(datum.clone(), |datum, path| drop(&datum, path)),
        Path::Below(fields) => {
            let mut rest = (**object).clone();
            for (field, below) in fields {
                match (object.get(field), below) {
                    (Some(_), None) => {
                        rest.remove(field);
                    }
                    (Some(value), Some(below)) => {
                        if let Some(value) = within(value, |value| drop(value, below)) {
                            rest.insert(field.clone(), value);
                        }
                    }
                    (None, _) => {}
                }
            }
            rest.into()
        }
    }
}

/// Whether an object has everything that the path names. A field that is null counts as absent.
#[must_use]
pub fn has(datum: &Datum, path: &Path) -> bool {
    let present = |field: &str| datum.get(field).filter(|value| !matches!(value, Datum::Null));
    match path {
        Path::Field(field) => present(field).is_some(),
        Path::All(paths) => paths.iter().all(|path| has(datum, path)),
        Path::Below(fields) => fields.iter().all(|(field, below)| {
            present(field).is_some_and(|value| below.as_ref().is_none_or(|below| has(value, below)))
        }),
    }
}

/// Both objects in one, recursively; where both have a field, the right one's wins. A literal replaces as it is.
#[must_use]
pub fn merge(left: &Datum, right: &Datum) -> Datum {
    if let Some(literal) = pseudo::as_literal(right) {
        return literal.cloned().unwrap_or_default();
    }
    let (Datum::Object(base), Datum::Object(changes)) = (left, right) else { return without_literals(right) };
    let mut merged = (**base).clone();
    for (name, change) in changes.iter() {
        match pseudo::as_literal(change) {
            Some(Some(value)) => {
                merged.insert(name.clone(), value.clone());
            }
            Some(None) => {
                merged.remove(name);
            }
            None => {
                let value = match base.get(name) {
                    Some(old) => merge(old, change),
                    None => without_literals(change),
                };
                merged.insert(name.clone(), value);
            }
        }
    }
    merged.into()
}

/// The value with each literal replaced by what it stands for.
fn without_literals(datum: &Datum) -> Datum {
    let Datum::Object(object) = datum else { return datum.clone() };
    let nested = |value: &Datum| matches!(value, Datum::Object(_));
    if !object.iter().any(|(_, value)| nested(value)) {
        return datum.clone();
    }
    let fields = object.iter().filter_map(|(name, value)| match pseudo::as_literal(value) {
        Some(Some(value)) => Some((name.clone(), value.clone())),
        Some(None) => None,
        None => Some((name.clone(), without_literals(value))),
    });
    Datum::object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Datum {
        Datum::from_json(&serde_json::from_str(text).unwrap()).unwrap()
    }

    fn path(text: &str) -> Path {
        Path::parse(&[json(text)]).unwrap()
    }

    #[test]
    fn paths_keep_and_drop_nested_fields() {
        let document = json(r#"{"a":1,"b":{"c":2,"d":3},"e":[{"c":1,"d":2}]}"#);
        assert_eq!(keep(&document, &path(r#"["a",{"b":"c"}]"#)).to_json_string(), r#"{"a":1,"b":{"c":2}}"#);
        assert_eq!(keep(&document, &path(r#"{"e":{"d":true}}"#)).to_json_string(), r#"{"e":[{"d":2}]}"#);
        assert_eq!(drop(&document, &path(r#"["a",{"b":"c"},"e"]"#)).to_json_string(), r#"{"b":{"d":3}}"#);
        assert!(has(&document, &path(r#"{"b":["c","d"]}"#)));
        assert!(!has(&document, &path(r#"{"b":"x"}"#)));
    }

    #[test]
    fn literals_replace_instead_of_merging() {
        let document = json(r#"{"a":{"b":1,"c":2},"d":1}"#);
        let change = Datum::object([
            ("a", pseudo::literal(Some(json(r#"{"b":2}"#)))),
            ("d", pseudo::literal(None)),
            ("x", Datum::object([("y", pseudo::literal(Some(Datum::from(1))))])),
        ]);
        assert_eq!(merge(&document, &change).to_json_string(), r#"{"a":{"b":2},"x":{"y":1}}"#);
    }
}
