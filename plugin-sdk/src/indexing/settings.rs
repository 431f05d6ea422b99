//! Settings that are numbers, and errors that say what they accept.

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
    accepts: Accepts,
}

#[derive(Clone, Debug)]
enum Accepts {
    Whole(RangeInclusive<u16>),
    Any(RangeInclusive<f32>),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.bounds();
        write!(f, "`{}` ({least} to {most})", self.name)
    }
}

impl Setting {
    /// A setting that is a whole number.
    #[must_use]
    pub const fn whole(name: &'static str, alias: &'static str, range: RangeInclusive<u16>) -> Self {
        Self { name, alias, accepts: Accepts::Whole(range) }
    }

    /// A setting that is any number of a range.
    #[must_use]
    pub const fn number(name: &'static str, alias: &'static str, range: RangeInclusive<f32>) -> Self {
        Self { name, alias, accepts: Accepts::Any(range) }
    }

    fn bounds(&self) -> (f32, f32) {
        match &self.accepts {
            Accepts::Whole(range) => (f32::from(*range.start()), f32::from(*range.end())),
            Accepts::Any(range) => (*range.start(), *range.end()),
        }
    }

    fn read(&self, value: &Datum) -> Result<f64, PluginError> {
        let (least, most) = self.bounds();
        let is_whole = matches!(self.accepts, Accepts::Whole(_));
        let is_accepted = |number: &f64| {
            (f64::from(least)..=f64::from(most)).contains(number) && (!is_whole || number.fract() == 0.0)
        };
        value.as_number().filter(is_accepted).ok_or_else(|| {
            let found = match value.as_number() {
                Some(number) => number.to_string(),
                None => format!("a value of type {}", value.type_name()),
            };
            let wanted = if is_whole { "a whole number" } else { "a number" };
            PluginError::argument(format!("{self} has to be {wanted} in that range, not {found}"))
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
    mut set: impl FnMut(usize, f64),
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

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: Setting = Setting::whole("width", "w", 1..=300);
    const ALPHA: Setting = Setting::number("alpha", "alpha", 1.0..=2.5);

    fn read_all(settings: &Datum) -> Result<Vec<(usize, f64)>, PluginError> {
        let mut found = Vec::new();
        read(settings, "the options of `test`", &[&WIDTH, &ALPHA], |at, value| found.push((at, value)))?;
        Ok(found)
    }

    #[test]
    fn whole_numbers_and_others_are_read_by_either_name() {
        let settings = Datum::object([("alpha", Datum::from(1.25)), ("w", Datum::from(7))]);
        assert_eq!(read_all(&settings).unwrap(), [(1, 1.25), (0, 7.0)]);
        assert_eq!(read_all(&Datum::Null).unwrap(), []);
    }

    #[test]
    fn what_is_not_accepted_is_refused_with_what_is() {
        for (key, value, said) in [
            ("width", 2.5, "`width` (1 to 300) has to be a whole number in that range, not 2.5"),
            ("alpha", 2.6, "`alpha` (1 to 2.5) has to be a number in that range, not 2.6"),
            ("beta", 1.0, "no key `beta`; accepted are `width` (1 to 300), `alpha` (1 to 2.5)"),
        ] {
            let refusal = read_all(&Datum::object([(key, value)])).unwrap_err();
            assert!(refusal.message().contains(said), "{refusal}");
        }
    }
}
