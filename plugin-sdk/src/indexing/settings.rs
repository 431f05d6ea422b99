//! Settings that are whole numbers, and errors that say what they accept.

use std::fmt;
use std::ops::RangeInclusive;

use crate::{Datum, PluginError};

/// One setting: its names and what it accepts.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key.
    pub name: &'static str,
    /// Another spelling that is understood; may be the same.
    pub alias: &'static str,
    /// What it accepts.
    pub range: RangeInclusive<u16>,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({} to {})", self.name, self.range.start(), self.range.end())
    }
}

impl Setting {
    fn read(&self, value: &Datum) -> Result<usize, PluginError> {
        let number = value.as_number().filter(|number| {
            number.fract() == 0.0 && (f64::from(*self.range.start())..=f64::from(*self.range.end())).contains(number)
        });
        number.map(|number| number as usize).ok_or_else(|| {
            let found = match value.as_number() {
                Some(number) => number.to_string(),
                None => format!("a value of type {}", value.type_name()),
            };
            PluginError::argument(format!("{self} has to be a whole number in that range, not {found}"))
        })
    }
}

/// Walks over the fields of `settings`, and hands the place of each in `known`, and its value, to `set`. `owner` says
/// whose they are, as in ``the options of `hnsw` ``.
///
/// # Errors
/// [`PluginError::argument`] for a key that is not known, naming those that are, and for a value that is not accepted.
pub fn read(
    settings: &Datum,
    owner: &str,
    known: &[&Setting],
    mut set: impl FnMut(usize, usize),
) -> Result<(), PluginError> {
    let object = match settings {
        Datum::Null => return Ok(()),
        Datum::Object(object) => object,
        other => {
            let kind = other.type_name();
            return Err(PluginError::argument(format!("{owner} have to be an object, not {kind}")));
        }
    };
    for (key, value) in object.iter() {
        let at = known.iter().position(|setting| **key == *setting.name || **key == *setting.alias);
        let at = at.ok_or_else(|| {
            let accepted = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            PluginError::argument(format!("{owner} have no key `{key}`; accepted are {accepted}"))
        })?;
        set(at, known[at].read(value)?);
    }
    Ok(())
}
