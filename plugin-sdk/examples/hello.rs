#![doc = "A plugin with one function."]

use photondb_plugin_sdk::prelude::*;

struct Hello;

impl QueryFunctionPlugin for Hello {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure("hello", 1, 1)
    }
    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let name = args[0].as_str().ok_or_else(|| PluginError::argument("hello: the argument must be a string"))?;
        Ok(format!("Hello, {name}!").into())
    }
}

photondb_plugin_sdk::main!("hello", |registry| registry.function(Hello));
