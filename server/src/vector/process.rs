//! An index that is open in a process of its plugin.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use photondb_ipc_schema::column::ColumnShape;
use photondb_ipc_schema::lane::Operation;
use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::calls::{self, Search};
use photondb_plugin_sdk::kinds::vector::{IndexOptions, IndexStatistics, RowId};

use super::ask::ask;
use super::graph::{CALL, OpenGraph, Place};
use super::insert;
use crate::plugins::instance::Instance;
use crate::plugins::plugin::Plugin;
use crate::query::nested::Origin;

/// Rows that are worth adding at once where an index takes them from several threads: many calls.
const PARALLEL_INSERTS: usize = 1024;
/// What telling sizes may take, for somebody who waits.
const ASK: Duration = Duration::from_secs(1);
/// What freeing an index may take.
const CLOSE: Duration = Duration::from_secs(5);

/// Numbers of open graphs: never used twice, whatever process they are for.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

/// The index.
pub(super) struct InProcess {
    plugin: Arc<Plugin>,
    instance: Arc<Instance>,
    number: u32,
    /// Whether it takes rows from several threads at once.
    takes_parallel_inserts: bool,
}

impl InProcess {
    /// Opens it.
    ///
    /// # Errors
    /// What the plugin has against it, or what happened to it.
    pub(super) fn open(
        plugin: Arc<Plugin>,
        instance: Arc<Instance>,
        kind: &str,
        options: &IndexOptions,
        shape: ColumnShape,
    ) -> Result<Self, PluginError> {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let opened = instance.open_index(number, kind, options, shape, Instant::now() + CALL);
        let takes_parallel_inserts = opened.map_err(|error| instance.judge(error))?;
        plugin.answered();
        Ok(Self { plugin, instance, number, takes_parallel_inserts })
    }

    fn judge<T>(&self, outcome: Result<T, PluginError>) -> Result<T, PluginError> {
        outcome.map_err(|error| self.instance.judge(error))
    }
}

impl OpenGraph for InProcess {
    fn is_at(&self, place: &Place) -> bool {
        matches!(place, Place::Process(instance) if instance.number() == self.instance.number())
    }

    fn is_alive(&self) -> bool {
        self.instance.is_alive()
    }

    fn searches_at_once(&self) -> usize {
        self.instance.slots()
    }

    fn rows_at_once(&self) -> usize {
        if self.takes_parallel_inserts { PARALLEL_INSERTS } else { insert::ROWS_OF_CALL }
    }

    fn attach(&self, segment: u32, file: OwnedFd) -> Result<(), PluginError> {
        self.judge(self.instance.attach_segment(self.number, segment, file, Instant::now() + CALL))
    }

    fn insert(&self, rows: &[RowId], added: &(dyn Fn(&[RowId]) + Sync)) -> Result<(), PluginError> {
        let graph =
            insert::Graph { instance: &self.instance, index: self.number, in_parallel: self.takes_parallel_inserts };
        self.judge(graph.insert(rows, |rows| {
            self.plugin.answered();
            added(rows);
        }))
    }

    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError> {
        let lane = self.instance.maintenance_lane();
        self.judge(calls::maintain(lane, Operation::IndexRemove, self.number, rows, Instant::now() + CALL))?;
        self.plugin.answered();
        Ok(())
    }

    fn search(&self, search: Search<'_>, origin: &Origin<'_>) -> Result<Option<Vec<Vec<RowId>>>, PluginError> {
        self.judge(ask(&self.plugin, &self.instance, self.number, search, origin))
    }

    fn save(&self, limit: usize) -> Result<Vec<u8>, PluginError> {
        let lane = self.instance.maintenance_lane();
        self.judge(calls::save(lane, self.number, limit, Instant::now() + CALL))
    }

    fn load(&self, saved: &[u8]) -> Result<(), PluginError> {
        let lane = self.instance.maintenance_lane();
        self.judge(calls::load(lane, self.number, saved, Instant::now() + CALL))
    }

    fn statistics(&self) -> Result<IndexStatistics, PluginError> {
        self.instance.index_statistics(self.number, Instant::now() + ASK)
    }

    fn close(&self) -> Result<(), PluginError> {
        self.instance.close_index(self.number, Instant::now() + CLOSE)
    }
}
