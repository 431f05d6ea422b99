//! What users may set: at `index_create`, in the plugin's settings, and for one search.

use photondb_plugin_sdk::indexing::{Setting, settings};
use photondb_plugin_sdk::{Datum, PluginError};

/// The index types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lists, scored exactly.
    Ivf,
    /// Product codes of all rows.
    Pq,
    /// Product codes in lists.
    IvfPq,
}

impl Kind {
    /// The name that `vector={"type": NAME}` picks it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ivf => "ivf",
            Self::Pq => "pq",
            Self::IvfPq => "ivf_pq",
        }
    }

    /// Whether its lists have centres, of which a search picks the nearest.
    pub(crate) fn has_centres(self) -> bool {
        self != Self::Pq
    }

    /// Whether its codes are those of a product quantiser.
    pub(crate) fn is_quantised(self) -> bool {
        self != Self::Ivf
    }

    fn of_index(self) -> &'static [&'static Setting] {
        match self {
            Self::Ivf => &[&LISTS, &NPROBE],
            Self::Pq => &[&SUB_DIMS, &REFINE],
            Self::IvfPq => &[&LISTS, &NPROBE, &SUB_DIMS, &REFINE],
        }
    }

    fn of_search(self) -> &'static [&'static Setting] {
        match self {
            Self::Ivf => &[&NPROBE],
            Self::Pq => &[&REFINE],
            Self::IvfPq => &[&NPROBE, &REFINE],
        }
    }
}

const LISTS: Setting = Setting::whole("lists", "nlist", 1..=65_535);
const NPROBE: Setting = Setting::whole("nprobe", "n_probe", 1..=65_535);
const SUB_DIMS: Setting = Setting::whole("sub_dims", "subDims", 1..=16);
const REFINE: Setting = Setting::whole("refine", "refineFactor", 1..=1000);

/// The settings of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// About how many lists there are to be; `None` lets them grow with the rows.
    pub(crate) lists: Option<usize>,
    /// How many lists a search looks at; `None` is a share of them.
    pub(crate) nprobe: Option<usize>,
    /// How many numbers have one product code; `None` is as many as the dims allow.
    pub(crate) sub_dims: Option<usize>,
    /// How many candidates are scored exactly for each row that is wanted.
    pub(crate) refine: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { lists: None, nprobe: None, sub_dims: None, refine: 12 }
    }
}

impl Options {
    /// These options, but for what `settings` of an index say.
    pub(crate) fn with(self, kind: Kind, settings: &Datum) -> Result<Self, PluginError> {
        self.read(settings, &format!("the options of `{}`", kind.name()), kind.of_index())
    }

    /// These options, but for what an operator's `settings` say.
    pub(crate) fn configured(self, settings: &Datum) -> Result<Self, PluginError> {
        self.read(settings, "the settings of the plugin `ivf`", Kind::IvfPq.of_index())
    }

    /// These options, but for what `settings` of one search say.
    pub(crate) fn of_search(self, kind: Kind, settings: &Datum) -> Result<Self, PluginError> {
        self.read(settings, &format!("the search settings of `{}`", kind.name()), kind.of_search())
    }

    /// How many numbers of vectors of `dims` have one product code. Errors of few codes don't cancel out, so that short
    /// vectors need more of them.
    pub(crate) fn sub_dims(self, dims: usize) -> usize {
        self.sub_dims.unwrap_or(match dims {
            ..=64 => 1,
            65..=192 => 2,
            _ => 4,
        })
    }

    fn read(mut self, settings: &Datum, owner: &str, known: &[&Setting]) -> Result<Self, PluginError> {
        settings::read(settings, owner, known, |at, value| match known[at].name {
            name if name == LISTS.name => self.lists = Some(value as usize),
            name if name == NPROBE.name => self.nprobe = Some(value as usize),
            name if name == SUB_DIMS.name => self.sub_dims = Some(value as usize),
            _ => self.refine = value as usize,
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: Kind, settings: Datum) -> String {
        Options::default().with(kind, &settings).unwrap_err().message().to_owned()
    }

    #[test]
    fn both_spellings_are_read() {
        let found = Options::default().with(Kind::IvfPq, &Datum::object([("nlist", 9), ("refine", 3)])).unwrap();
        assert_eq!(found, Options { lists: Some(9), refine: 3, ..Options::default() });
        assert_eq!(Options::default().with(Kind::Pq, &Datum::Null).unwrap(), Options::default());
    }

    #[test]
    fn a_key_of_another_type_is_refused_with_the_accepted_ones() {
        let message = message(Kind::Pq, Datum::object([("lists", 3)]));
        for part in ["`pq`", "`lists`", "`sub_dims` (1 to 16)", "`refine` (1 to 1000)"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("nprobe"), "{message}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for value in [Datum::from(0), Datum::from(17), Datum::from(2.5), Datum::from("4"), Datum::Null] {
            assert!(message(Kind::Pq, Datum::object([("sub_dims", value)])).contains("`sub_dims` (1 to 16)"));
        }
        assert!(message(Kind::Ivf, Datum::array([])).contains("object"));
    }

    #[test]
    fn a_search_overrides_its_own_settings_only() {
        let options = Options::default();
        assert_eq!(options.of_search(Kind::Ivf, &Datum::object([("nprobe", 7)])).unwrap().nprobe, Some(7));
        assert_eq!(options.of_search(Kind::Pq, &Datum::Null).unwrap(), options);
        for (kind, key) in [(Kind::Ivf, "lists"), (Kind::Ivf, "refine"), (Kind::Pq, "nprobe")] {
            let error = options.of_search(kind, &Datum::object([(key, 7)])).unwrap_err();
            assert!(error.message().contains(key), "{error}");
        }
    }
}
