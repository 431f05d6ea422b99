//! A plugin that provides one index type whose indexes are graphs.

use std::sync::Arc;

use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};
use photondb_plugin_sdk::{Datum, PluginError};

use crate::{Family, GraphIndex, Plan};

/// What users may set of an index type: at `index_create`, and in the plugin's settings. The default is what they get who
/// set nothing.
pub trait Settings: Copy + Default + Send + Sync + 'static {
    /// The index type, whose name is the plugin's too.
    const FAMILY: &'static Family;
    /// The version of the plugin.
    const VERSION: &'static str;

    /// These settings, but for what an object says.
    ///
    /// # Errors
    /// [`PluginError::argument`], naming the key and what is accepted.
    fn with(self, settings: &Datum) -> Result<Self, PluginError>;

    /// How the graph is to be.
    fn plan(self) -> Plan;
}

/// The plugin, and the index type that it provides.
#[derive(Clone, Copy, Debug, Default)]
pub struct GraphPlugin<S> {
    /// What indexes get that say nothing else.
    pub defaults: S,
}

impl<S: Settings> Plugin for GraphPlugin<S> {
    fn name(&self) -> &str {
        S::FAMILY.name
    }

    fn version(&self) -> &str {
        S::VERSION
    }

    /// What indexes get that say nothing else: the same keys as in `index_create`.
    fn configure(&mut self, settings: &Datum) -> Result<(), PluginError> {
        self.defaults = S::default().with(settings)?;
        Ok(())
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.vector_index(*self);
    }
}

impl<S: Settings> VectorIndexPlugin for GraphPlugin<S> {
    fn index_type(&self) -> &str {
        S::FAMILY.name
    }

    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError> {
        self.defaults.with(&options.settings).map(drop)
    }

    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        let plan = self.defaults.with(&options.settings)?.plan();
        Ok(Box::new(GraphIndex::new(S::FAMILY, options, plan, column)?))
    }
}
