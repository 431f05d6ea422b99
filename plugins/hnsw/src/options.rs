//! What users may set: at `index_create`, in the plugin's settings, and for one search.

use std::fmt;

use photondb_plugin_sdk::{Datum, PluginError};

/// One setting: its names and what it accepts.
struct Setting {
    name: &'static str,
    camel_case: &'static str,
    range: std::ops::RangeInclusive<u16>,
}

const M: Setting = Setting { name: "m", camel_case: "M", range: 2..=128 };
const EF_CONSTRUCTION: Setting = Setting { name: "ef_construction", camel_case: "efConstruction", range: 8..=4096 };
const EF_SEARCH: Setting = Setting { name: "ef_search", camel_case: "efSearch", range: 1..=10_000 };

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

/// Walks over the fields of `settings`, handing each to the one of `known` that has its name.
fn read(
    settings: &Datum,
    place: &str,
    known: &[&Setting],
    mut set: impl FnMut(usize, usize),
) -> Result<(), PluginError> {
    let object = match settings {
        Datum::Null => return Ok(()),
        Datum::Object(object) => object,
        other => {
            let kind = other.type_name();
            return Err(PluginError::argument(format!("{place} of `hnsw` have to be an object, not {kind}")));
        }
    };
    for (key, value) in object.iter() {
        let at = known.iter().position(|setting| **key == *setting.name || **key == *setting.camel_case);
        let at = at.ok_or_else(|| {
            let accepted = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            PluginError::argument(format!("{place} of `hnsw` have no key `{key}`; accepted are {accepted}"))
        })?;
        set(at, known[at].read(value)?);
    }
    Ok(())
}

/// The settings of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Neighbours of a node in the upper layers; twice as many in the base layer.
    pub(crate) m: usize,
    /// Candidates that are looked at to find the neighbours of a new node.
    pub(crate) ef_construction: usize,
    /// Candidates that a search keeps; the larger, the better and slower.
    pub(crate) ef_search: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200, ef_search: 144 }
    }
}

impl Options {
    /// These options, but for what `settings` say.
    pub(crate) fn with(self, settings: &Datum) -> Result<Self, PluginError> {
        let mut options = self;
        read(settings, "the options", &[&M, &EF_CONSTRUCTION, &EF_SEARCH], |at, value| match at {
            0 => options.m = value,
            1 => options.ef_construction = value,
            _ => options.ef_search = value,
        })?;
        Ok(options)
    }

    /// `ef_search` for a search with these overrides.
    pub(crate) fn ef_of_search(&self, settings: &Datum) -> Result<usize, PluginError> {
        let mut ef = self.ef_search;
        read(settings, "the search settings", &[&EF_SEARCH], |_, value| ef = value)?;
        Ok(ef)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(settings: Datum) -> String {
        Options::default().with(&settings).unwrap_err().message().to_owned()
    }

    #[test]
    fn nothing_set_means_the_defaults() {
        assert_eq!(Options::default().with(&Datum::Null).unwrap(), Options::default());
        assert_eq!(Options::default().with(&Datum::object::<&str, Datum>([])).unwrap(), Options::default());
    }

    #[test]
    fn both_spellings_are_read() {
        let snake =
            Options::default().with(&Datum::object([("m", 8), ("ef_construction", 64), ("ef_search", 32)])).unwrap();
        let camel =
            Options::default().with(&Datum::object([("M", 8), ("efConstruction", 64), ("efSearch", 32)])).unwrap();
        assert_eq!(snake, Options { m: 8, ef_construction: 64, ef_search: 32 });
        assert_eq!(snake, camel);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_accepted_ones() {
        let message = message(Datum::object([("ef", 3)]));
        for part in ["`ef`", "`m` (2 to 128)", "`ef_construction`", "`ef_search`"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for value in [Datum::from(1), Datum::from(129), Datum::from(2.5), Datum::from("16"), Datum::Null] {
            assert!(message(Datum::object([("m", value)])).contains("`m` (2 to 128)"));
        }
        assert!(message(Datum::array([])).contains("object"));
    }

    #[test]
    fn a_search_overrides_ef_search_only() {
        let options = Options::default();
        assert_eq!(options.ef_of_search(&Datum::object([("ef_search", 7)])).unwrap(), 7);
        assert_eq!(options.ef_of_search(&Datum::Null).unwrap(), options.ef_search);
        assert!(options.ef_of_search(&Datum::object([("m", 7)])).unwrap_err().message().contains("`m`"));
    }
}
