//! The first words with a plugin, and what it may register.

use photondb_ipc_schema::PROTOCOL_VERSION;
use photondb_ipc_schema::plugin_capnp::plugin;
use photondb_plugin_sdk::calls::quote;
use photondb_plugin_sdk::kinds::function::{FunctionSignature, Purity, Role};
use photondb_plugin_sdk::runtime::Instance as Code;
use photondb_plugin_sdk::{Datum, PluginError};

use super::discover::Package;
use super::instance::read_failure;
use super::process::{StartError, failed, refused};
use super::services::Services;

/// What a plugin registered: checked against its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provided {
    /// Query functions; the position is the number on a lane.
    pub functions: Vec<FunctionSignature>,
    /// Kinds of vector index.
    pub vector_indexes: Vec<String>,
    /// Kinds of storage engine.
    pub storage_engines: Vec<String>,
    /// Distances; the position is the number on a lane.
    pub distances: Vec<String>,
}

impl Provided {
    /// What a plugin that is linked in registered.
    #[must_use]
    pub fn by(code: &Code) -> Self {
        let registry = code.registry();
        Self {
            functions: registry.functions().iter().map(|function| function.signature()).collect(),
            vector_indexes: registry.vector_indexes().iter().map(|kind| kind.index_type().to_owned()).collect(),
            storage_engines: registry.storage_engines().iter().map(|kind| kind.engine_type().to_owned()).collect(),
            distances: registry.distances().iter().map(|distance| distance.name().to_owned()).collect(),
        }
    }

    /// A line for each: `function approx`, `vector_index hnsw`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let functions = self.functions.iter().map(|function| format!("{} {}", function.role.name(), function.name));
        let indexes = self.vector_indexes.iter().map(|kind| format!("vector_index {kind}"));
        let engines = self.storage_engines.iter().map(|kind| format!("storage_engine {kind}"));
        let distances = self.distances.iter().map(|name| format!("distance {name}"));
        functions.chain(indexes).chain(engines).chain(distances).collect()
    }
}

/// Holds a plugin, or its manifest, to the protocol of this server.
///
/// # Errors
/// When it speaks another one.
pub(super) fn check_protocol(name: &str, protocol: u16) -> Result<(), StartError> {
    if protocol == PROTOCOL_VERSION {
        return Ok(());
    }
    let message =
        format!("it speaks protocol {protocol}, this server {PROTOCOL_VERSION}; build it with a matching SDK");
    Err(refused(name, message))
}

/// Hands the plugin its settings, services and bell (the number of its packet), asks who it is and what it provides, and holds it to its manifest.
///
/// # Errors
/// When it does not answer, or says anything else than its manifest does.
pub(crate) async fn handshake(
    client: &plugin::Client,
    package: &Package,
    settings: &Datum,
    services: Services,
    bell: u32,
) -> Result<Provided, StartError> {
    let (identity, declared) = (&package.manifest.plugin, &package.manifest.provides);
    let name = identity.name.as_str();
    let mut request = client.handshake_request();
    request.get().set_protocol(PROTOCOL_VERSION);
    request.get().set_settings(&settings.encoded());
    services.pass(request.get().init_services());
    request.get().set_bell(bell);
    let wire = |error: capnp::Error| failed(name, format!("the handshake failed: {}", quote(&error.to_string())));
    let response = request.send().promise.await.map_err(wire)?;
    let text = |text: capnp::Result<capnp::text::Reader<'_>>| -> Result<String, StartError> {
        text.and_then(|text| Ok(text.to_string()?)).map_err(wire)
    };
    let info = response.get().and_then(|results| results.get_info()).map_err(wire)?;
    check_protocol(name, info.get_protocol())?;
    read_failure(response.get().and_then(|results| results.get_failure()))
        .map_err(|error| refused(name, format!("[plugins.settings.{name}]: {}", error.message())))?;
    for (key, said, wanted) in
        [("name", text(info.get_name())?, name), ("version", text(info.get_version())?, &identity.version.to_string())]
    {
        if said != wanted {
            let said = quote(&said);
            return Err(refused(name, format!("it says that its {key} is `{said}`; its manifest says `{wanted}`")));
        }
    }
    let mut provided = Provided::default();
    for function in info.get_functions().map_err(wire)? {
        provided.functions.push(FunctionSignature {
            name: text(function.get_name())?,
            min_args: function.get_min_args(),
            max_args: function.get_max_args(),
            purity: if function.get_pure() { Purity::Pure } else { Purity::Volatile },
            role: match (function.get_aggregate(), function.get_data_type()) {
                (_, true) => Role::DataType,
                (true, false) => Role::Aggregate,
                (false, false) => Role::Function,
            },
        });
    }
    for kind in info.get_vector_indexes().map_err(wire)? {
        provided.vector_indexes.push(text(kind)?);
    }
    for kind in info.get_storage_engines().map_err(wire)? {
        provided.storage_engines.push(text(kind)?);
    }
    for name in info.get_distances().map_err(wire)? {
        provided.distances.push(text(name)?);
    }
    let names_of = |role: Role| -> Vec<&String> {
        provided.functions.iter().filter(|function| function.role == role).map(|function| &function.name).collect()
    };
    for (what, registered, declared) in [
        ("function", names_of(Role::Function), &declared.functions),
        ("aggregate", names_of(Role::Aggregate), &declared.aggregates),
        ("data type", names_of(Role::DataType), &declared.data_types),
        ("vector index", provided.vector_indexes.iter().collect(), &declared.vector_indexes),
        ("storage engine", provided.storage_engines.iter().collect(), &declared.storage_engines),
        ("distance", provided.distances.iter().collect(), &declared.distances),
    ] {
        if let Some(extra) = registered.iter().find(|name| !declared.contains(name)) {
            let message = format!("it registered the {what} `{}`, which its manifest does not declare", quote(extra));
            let error = PluginError::CapabilityConflict { plugin: name.into(), message };
            return Err(StartError { error, retry: false });
        }
        if let Some(missing) = declared.iter().find(|name| !registered.contains(name)) {
            return Err(refused(
                name,
                format!("its manifest declares the {what} `{missing}`, which it did not register"),
            ));
        }
    }
    Ok(provided)
}
