//! What a plugin provides.

use std::sync::Arc;

use crate::kinds::aggregate::{AggregatePlugin, Steps};
use crate::kinds::data_type::{Conversion, DataTypePlugin};
use crate::kinds::distance::DistancePlugin;
use crate::kinds::function::QueryFunctionPlugin;
use crate::kinds::storage::StorageEnginePlugin;
use crate::kinds::vector::VectorIndexPlugin;
use crate::services::Services;
use crate::{Datum, PluginError};

/// A plugin: the one type that `main!` takes.
pub trait Plugin: Send + Sync {
    /// The name, as in the manifest.
    fn name(&self) -> &str;

    /// The version, as in the manifest; `env!("CARGO_PKG_VERSION")` as a rule.
    fn version(&self) -> &str;

    /// Takes the services that the plugin was granted. Called once, before everything else.
    fn connect(&mut self, services: Services) {
        drop(services);
    }

    /// Takes the operator's settings, `[plugins.settings.NAME]`: an object, empty where there is no such table. Its key
    /// `secrets` is there where `[plugins.secrets.NAME]` names files, which only the server can open: an object of their
    /// texts. Called once, before [`register`](Self::register).
    ///
    /// # Errors
    /// [`PluginError::argument`], naming the key and what it accepts; the plugin then does not start. A plugin that does
    /// not implement this has no settings.
    fn configure(&mut self, settings: &Datum) -> Result<(), PluginError> {
        match settings.as_object().and_then(|settings| settings.iter().next()) {
            None => Ok(()),
            Some((key, _)) => Err(PluginError::argument(format!("unknown key `{key}`: this plugin has no settings"))),
        }
    }

    /// Names everything that the plugin provides. Called once, at the start.
    fn register(&self, registry: &mut PluginRegistry);
}

/// Collects what a plugin provides.
#[derive(Default)]
pub struct PluginRegistry {
    functions: Vec<Arc<dyn QueryFunctionPlugin>>,
    vector_indexes: Vec<Arc<dyn VectorIndexPlugin>>,
    storage_engines: Vec<Arc<dyn StorageEnginePlugin>>,
    distances: Vec<Arc<dyn DistancePlugin>>,
}

impl PluginRegistry {
    /// Everything that `plugin` provides.
    #[must_use]
    pub fn of(plugin: &dyn Plugin) -> Self {
        let mut registry = Self::default();
        plugin.register(&mut registry);
        registry
    }

    /// Provides a query function.
    pub fn function(&mut self, function: impl QueryFunctionPlugin + 'static) -> &mut Self {
        self.functions.push(Arc::new(function));
        self
    }

    /// Provides an aggregate.
    pub fn aggregate(&mut self, aggregate: impl AggregatePlugin + 'static) -> &mut Self {
        self.function(Steps(Arc::new(aggregate)))
    }

    /// Provides a type of values.
    pub fn data_type(&mut self, data_type: impl DataTypePlugin + 'static) -> &mut Self {
        self.function(Conversion(Arc::new(data_type)))
    }

    /// Provides a kind of vector index.
    pub fn vector_index(&mut self, kind: impl VectorIndexPlugin + 'static) -> &mut Self {
        self.vector_indexes.push(Arc::new(kind));
        self
    }

    /// Provides a kind of storage engine.
    pub fn storage_engine(&mut self, kind: impl StorageEnginePlugin + 'static) -> &mut Self {
        self.storage_engines.push(Arc::new(kind));
        self
    }

    /// Provides a distance.
    pub fn distance(&mut self, distance: impl DistancePlugin + 'static) -> &mut Self {
        self.distances.push(Arc::new(distance));
        self
    }

    /// The query functions, the aggregates and the types of values, in the order of registration: their position is their
    /// number on a lane.
    #[must_use]
    pub fn functions(&self) -> &[Arc<dyn QueryFunctionPlugin>] {
        &self.functions
    }

    /// The kinds of vector index, in the order of registration.
    #[must_use]
    pub fn vector_indexes(&self) -> &[Arc<dyn VectorIndexPlugin>] {
        &self.vector_indexes
    }

    /// The kinds of storage engine, in the order of registration.
    #[must_use]
    pub fn storage_engines(&self) -> &[Arc<dyn StorageEnginePlugin>] {
        &self.storage_engines
    }

    /// The distances, in the order of registration: their position is their number on a lane.
    #[must_use]
    pub fn distances(&self) -> &[Arc<dyn DistancePlugin>] {
        &self.distances
    }
}
