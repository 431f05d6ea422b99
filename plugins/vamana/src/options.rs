//! What users may set: at `index_create`, in the plugin's settings, and for one search.

use photondb_graph::{Family, Layers, Plan, Settings};
use photondb_plugin_sdk::indexing::settings::{self, Setting};
use photondb_plugin_sdk::{Datum, PluginError};

const DEGREE: Setting = Setting::whole("degree", "R", 4..=255);
const BUILD_WIDTH: Setting = Setting::whole("build_width", "L", 8..=4096);
const ALPHA: Setting = Setting::number("alpha", "alpha", 1.0..=2.0);
const SEARCH_WIDTH: Setting = Setting::whole("search_width", "searchWidth", 1..=10_000);

/// The index type.
static VAMANA: Family = Family { name: "vamana", mark: *b"PHDBVAMA", search_width: SEARCH_WIDTH };

/// The settings of an index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Neighbours of a node at most.
    pub(crate) degree: usize,
    /// Candidates that are looked at to find the neighbours of a new node.
    pub(crate) build_width: usize,
    /// How much nearer to a chosen neighbour than to the node a candidate has to be to be left out.
    pub(crate) alpha: f32,
    /// Candidates that a search keeps; the larger, the better and slower.
    pub(crate) search_width: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { degree: 64, build_width: 200, alpha: 1.2, search_width: 80 }
    }
}

impl Settings for Options {
    const FAMILY: &'static Family = &VAMANA;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn with(self, settings: &Datum) -> Result<Self, PluginError> {
        let mut options = self;
        let known = [&DEGREE, &BUILD_WIDTH, &ALPHA, &SEARCH_WIDTH];
        settings::read(settings, "the options of `vamana`", &known, |at, value| match at {
            0 => options.degree = value as usize,
            1 => options.build_width = value as usize,
            2 => options.alpha = value as f32,
            _ => options.search_width = value as usize,
        })?;
        Ok(options)
    }

    fn plan(self) -> Plan {
        let Self { degree, build_width, alpha, search_width } = self;
        Plan { layers: Layers::One { degree }, build_width, slack: alpha, search_width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_read_by_either_name() {
        let settings = [("degree", 48.0), ("build_width", 64.0), ("alpha", 1.25), ("search_width", 32.0)];
        let expected = Options { degree: 48, build_width: 64, alpha: 1.25, search_width: 32 };
        assert_eq!(Options::default().with(&Datum::object(settings)).unwrap(), expected);
        let settings = [("R", 48.0), ("L", 64.0), ("alpha", 1.25), ("searchWidth", 32.0)];
        assert_eq!(Options::default().with(&Datum::object(settings)).unwrap(), expected);
        assert_eq!(Options::default().with(&Datum::Null).unwrap(), Options::default());
    }

    #[test]
    fn what_is_not_accepted_is_refused_with_what_is() {
        for (key, value, said) in [
            (
                "m",
                16.0,
                "`degree` (4 to 255), `build_width` (8 to 4096), `alpha` (1 to 2), `search_width` (1 to 10000)",
            ),
            ("degree", 256.0, "`degree` (4 to 255)"),
            ("alpha", 0.9, "`alpha` (1 to 2)"),
        ] {
            let refusal = Options::default().with(&Datum::object([(key, value)])).unwrap_err();
            assert!(refusal.message().contains(said), "{refusal}");
        }
    }
}
