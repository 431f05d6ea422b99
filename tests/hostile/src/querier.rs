//! A function that runs whatever query it is given.

use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::Query;

/// Takes a term, in the JSON of the wire, and gives back its value.
pub struct Querier(pub Option<Query>);

impl QueryFunctionPlugin for Querier {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::volatile("querier", 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let query = self.0.as_ref().ok_or_else(|| PluginError::argument("no query was granted"))?;
        let text = args[0].as_str().ok_or_else(|| PluginError::argument("the argument must be a string"))?;
        let term = serde_json::from_str(text).map_err(|error| PluginError::argument(error.to_string()))?;
        query.run(&term)
    }
}
