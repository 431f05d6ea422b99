//! What users may set: at `index_create`, in the plugin's settings, and for one search.

use photondb_plugin_sdk::indexing::settings::{self, Setting};
use photondb_plugin_sdk::{Datum, PluginError};

const M: Setting = Setting { name: "m", alias: "M", range: 2..=128 };
const EF_CONSTRUCTION: Setting = Setting { name: "ef_construction", alias: "efConstruction", range: 8..=4096 };
const EF_SEARCH: Setting = Setting { name: "ef_search", alias: "efSearch", range: 1..=10_000 };

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
        settings::read(settings, "the options of `hnsw`", &[&M, &EF_CONSTRUCTION, &EF_SEARCH], |at, value| match at {
            0 => options.m = value,
            1 => options.ef_construction = value,
            _ => options.ef_search = value,
        })?;
        Ok(options)
    }

    /// `ef_search` for a search with these overrides.
    pub(crate) fn ef_of_search(&self, settings: &Datum) -> Result<usize, PluginError> {
        let mut ef = self.ef_search;
        settings::read(settings, "the search settings of `hnsw`", &[&EF_SEARCH], |_, value| ef = value)?;
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
