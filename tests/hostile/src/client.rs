//! An honest plugin that uses whatever services it was granted, as it is told by its arguments.

use std::fs;
use std::io::{Read, Write};

use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::Services;
use photondb_plugin_sdk::{Cause, Datum};

/// A plugin of the given name, with one function of that name.
pub(crate) struct Client {
    name: String,
    services: Services,
}

impl Client {
    pub(crate) fn new(name: String) -> Self {
        Self { name, services: Services::default() }
    }
}

impl Plugin for Client {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn connect(&mut self, services: Services) {
        self.services = services;
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.function(UseServices { name: self.name.clone(), services: self.services.clone() });
    }
}

/// The first argument says what to do, the others with what.
struct UseServices {
    name: String,
    services: Services,
}

fn failed(error: impl std::fmt::Display) -> PluginError {
    PluginError::runtime(Cause::Plugin, error.to_string())
}

fn missing() -> PluginError {
    failed("not granted")
}

impl QueryFunctionPlugin for UseServices {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature {
            name: self.name.clone(),
            min_args: 1,
            max_args: 3,
            purity: Purity::Volatile,
            role: Role::Function,
        }
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let text = |at: usize| args.get(at).and_then(Datum::as_str).unwrap_or_default();
        let number = |at: usize| args.get(at).and_then(Datum::as_number).unwrap_or_default() as usize;
        let Services { query, connect, metrics, state, .. } = &self.services;
        match text(0) {
            "granted" => Ok(Datum::array(
                [("query", query.is_some()), ("connect", connect.is_some()), ("metrics", metrics.is_some())]
                    .into_iter()
                    .chain([("state", state.is_some())])
                    .filter(|(_, is_granted)| *is_granted)
                    .map(|(name, _)| Datum::from(name)),
            )),
            "metrics" => Ok(metrics.as_ref().ok_or_else(missing)?.snapshot()?.into()),
            "read" => {
                let path = state.as_ref().ok_or_else(missing)?.join(text(1));
                Ok(fs::read_to_string(path).map_err(failed)?.into())
            }
            "write" => {
                let path = state.as_ref().ok_or_else(missing)?.join(text(1));
                fs::write(path, text(2)).map_err(failed)?;
                Ok(Datum::Null)
            }
            // Files of so many bytes, so many of them.
            "fill" => {
                let state = state.as_ref().ok_or_else(missing)?;
                let bytes = vec![1; number(1)];
                for file in 0..number(2) {
                    fs::write(state.join(file.to_string()), &bytes).map_err(failed)?;
                }
                Ok(Datum::Null)
            }
            // Says something to a host and port, and gives back what comes.
            "dial" => {
                let port = u16::try_from(number(2)).map_err(failed)?;
                let mut stream = connect.as_ref().ok_or_else(missing)?.dial(text(1), port)?;
                stream.write_all(b"hello").map_err(failed)?;
                let mut answer = [0; 5];
                stream.read_exact(&mut answer).map_err(failed)?;
                Ok(String::from_utf8_lossy(&answer).as_ref().into())
            }
            other => Err(PluginError::argument(format!("unknown: {other}"))),
        }
    }
}
