//! What users may set: at `index_create`, in the plugin's settings, and for one search.

use photondb_graph::{Family, Layers, Plan, Settings};
use photondb_plugin_sdk::indexing::settings::{self, Setting};
use photondb_plugin_sdk::{Datum, PluginError};

const M: Setting = Setting::whole("m", "M", 2..=128);
const EF_CONSTRUCTION: Setting = Setting::whole("ef_construction", "efConstruction", 8..=4096);
const EF_SEARCH: Setting = Setting::whole("ef_search", "efSearch", 1..=10_000);

/// The index type.
static HNSW: Family = Family { name: "hnsw", mark: *b"PHDBHNSW", search_width: EF_SEARCH };

/// How much nearer to a chosen neighbour than to the node a candidate has to be to be left out. On text embeddings
/// (41,790 x 384, cosine) the queries that find 0.98 of the nearest rows are 1.1 times as many a second as with 1, and
/// building takes 1.4 times as long; from 1.1 on both get worse.
const SLACK: f32 = 1.05;

/// The settings of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
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

impl Settings for Options {
    const FAMILY: &'static Family = &HNSW;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn with(self, settings: &Datum) -> Result<Self, PluginError> {
        let mut options = self;
        settings::read(settings, "the options of `hnsw`", &[&M, &EF_CONSTRUCTION, &EF_SEARCH], |at, value| match at {
            0 => options.m = value as usize,
            1 => options.ef_construction = value as usize,
            _ => options.ef_search = value as usize,
        })?;
        Ok(options)
    }

    fn plan(self) -> Plan {
        let Self { m, ef_construction, ef_search } = self;
        Plan { layers: Layers::Many { m }, build_width: ef_construction, slack: SLACK, search_width: ef_search }
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
}
