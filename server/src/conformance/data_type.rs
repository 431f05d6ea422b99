//! Types of values.

use photondb_plugin_sdk::datum::Typed;
use photondb_plugin_sdk::kinds::data_type::DataTypePlugin;
use photondb_plugin_sdk::testing::data_type::conforms;
use photondb_plugin_sdk::{Datum, PluginError};

use super::function::call;
use super::{Part, Subject};
use crate::plugins::Function;

/// What some types take: numbers, versions, networks, dates, colours, ...
const TEXTS: [&str; 26] = [
    "0",
    "1",
    "-1",
    "1.50",
    "-0.001",
    "1e3",
    "10",
    "1.2.3",
    "1.10.0",
    "1.9.0-rc.1",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "192.168.0.1",
    "::1",
    "2001:db8::/32",
    "2024-02-29",
    "2024-02-29T12:00:00Z",
    "12:30",
    "a",
    "b",
    "A",
    "#ff00aa",
    "1h30m",
    "EUR 1.00",
    "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "a@example.com",
];

/// A type of a plugin, asked as queries ask it.
struct Tested(Function);

impl DataTypePlugin for Tested {
    fn type_name(&self) -> &str {
        &self.0.signature().name
    }

    fn parse(&self, value: &Datum) -> Result<Typed, PluginError> {
        match call(&self.0, std::slice::from_ref(value))? {
            Datum::Typed(typed) => Ok((*typed).clone()),
            other => Err(PluginError::init(format!("`{}` gave {other:?} for a value", self.type_name()))),
        }
    }
}

impl Subject<'_> {
    pub(super) fn check_data_type(&self, name: &str, part: &mut Part<'_>) {
        part.check("values, their texts and their order keys agree", || {
            let tested = Tested(self.manager.function(name).map_err(|error| error.to_string())?);
            let numbers = [0.0, 1.0, -1.0, 0.1, 1e15].map(Datum::Number);
            let common = TEXTS.into_iter().map(Datum::from).chain(numbers);
            let taken: Vec<Datum> = common.filter(|value| tested.parse(value).is_ok()).collect();
            let values: Vec<Datum> = self.samples.iter().cloned().chain(taken).collect();
            if values.is_empty() {
                return Err(format!("`{name}` takes none of the values that were tried; give it some with --samples"));
            }
            conforms(&tested, &values);
            Ok(())
        });
    }
}
