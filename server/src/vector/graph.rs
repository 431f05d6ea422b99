//! An index as it is open at its plugin, which is a process or is linked in.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::calls::Search;
use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, IndexStatistics, RowId};

use super::linked_in::LinkedIn;
use super::process::InProcess;
use crate::plugins::instance::Instance;
use crate::plugins::registry::Provider;
use crate::query::nested::Origin;

/// What one maintenance call may take; generous, since a batch at the end of a large build takes longest.
pub(super) const CALL: Duration = Duration::from_secs(60);

/// An index that is open at its plugin.
pub(super) trait OpenGraph: Send + Sync {
    /// Whether that is where the plugin is now.
    fn is_at(&self, place: &Place) -> bool;

    /// Whether it may still answer.
    fn is_alive(&self) -> bool;

    /// How many searches can be on their way before others wait.
    fn searches_at_once(&self) -> usize;

    /// The most rows that are worth adding by one call of [`insert`](Self::insert).
    fn rows_at_once(&self) -> usize;

    /// Makes the next segment of the column known.
    ///
    /// # Errors
    /// What happened to the plugin.
    fn attach(&self, segment: u32, file: OwnedFd) -> Result<(), PluginError>;

    /// Adds rows, and calls `added` with those that are added.
    ///
    /// # Errors
    /// What the index said first, or what happened to the plugin; some of the rows may be added then.
    fn insert(&self, rows: &[RowId], added: &(dyn Fn(&[RowId]) + Sync)) -> Result<(), PluginError>;

    /// Removes rows.
    ///
    /// # Errors
    /// What the index said, or what happened to the plugin.
    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError>;

    /// For each query the rows that the plugin names; `None` where not even one query fits into a call.
    ///
    /// # Errors
    /// What the index said, or what happened to the plugin.
    fn search(&self, search: Search<'_>, origin: &Origin<'_>) -> Result<Option<Vec<Vec<RowId>>>, PluginError>;

    /// The saved form, at most `limit` bytes.
    ///
    /// # Errors
    /// What the index said, or what happened to the plugin.
    fn save(&self, limit: usize) -> Result<Vec<u8>, PluginError>;

    /// Reads the saved form, into an index without rows.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    fn load(&self, saved: &[u8]) -> Result<(), PluginError>;

    /// Sizes, as the plugin tells them.
    ///
    /// # Errors
    /// When the plugin does not answer.
    fn statistics(&self) -> Result<IndexStatistics, PluginError>;

    /// Frees it.
    ///
    /// # Errors
    /// When the plugin does not answer.
    fn close(&self) -> Result<(), PluginError>;
}

/// Where a plugin is.
pub(super) enum Place {
    /// In this process.
    Process(Arc<Instance>),
    /// Linked in.
    Here,
}

impl Place {
    /// Where the plugin is now, if it is anywhere.
    pub(super) fn of(provider: &Provider) -> Option<Self> {
        match provider.code {
            Some(_) => Some(Self::Here),
            None => provider.plugin.running().map(Self::Process),
        }
    }
}

/// Opens an index without rows, and without segments.
///
/// # Errors
/// What the plugin has against it, or what happened to it.
pub(super) fn open(
    place: Place,
    provider: &Provider,
    kind: &str,
    options: &IndexOptions,
    column: &Arc<VectorColumn>,
) -> Result<Arc<dyn OpenGraph>, PluginError> {
    let plugin = Arc::clone(&provider.plugin);
    Ok(match (place, &provider.code) {
        (Place::Process(instance), _) => Arc::new(InProcess::open(plugin, instance, kind, options, column.shape())?),
        (Place::Here, Some(code)) => Arc::new(LinkedIn::open(plugin, code, kind, options, column)?),
        (Place::Here, None) => return Err(PluginError::init("it is not linked in").of(plugin.name())),
    })
}
