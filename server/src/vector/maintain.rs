//! Keeps a plugin's graph up with the rows of an index. One thread an index.
//!
//! Nothing is queued: the thread compares the rows that are live with the rows that the graph contains, and sends the
//! difference in batches until there is none. So it does not matter what was missed while a plugin was down, or how
//! old a saved graph is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixedbitset::FixedBitSet;
use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::kinds::vector::RowId;

use super::graph::{self, OpenGraph, Place};
use super::index::VectorIndex;
use super::places::Space;
use super::saved::SavedGraph;
use crate::plugins::CALL_DEADLINE;
use crate::plugins::registry::Provider;
use crate::query::nested::Origin;

/// Rows that are removed in one step, after which it is looked again what there is to do.
const REMOVES: usize = 1024;
/// How often to look whether the plugin went; that it came it is told.
const TICK: Duration = Duration::from_millis(100);
/// How long to leave a plugin alone that refuses.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A graph that has not changed for so long is saved ...
const QUIET: Duration = Duration::from_secs(1);
/// ... and one that changes all the time is saved after so many changes, or a tenth of its rows if that is more.
const CHANGES_BETWEEN_SAVES: usize = 20_000;
/// ... and no save may take more than this share of the time.
const SHARE_OF_SAVES: u32 = 20;
/// What exact scans keep in memory is freed when it was not needed for so long.
const UNUSED: Duration = Duration::from_secs(600);
/// The largest graph that is saved: so much, and so much for each row. The plugin says how large it is, and the server
/// holds it in memory.
const MAX_SAVED: usize = 16 << 20;
const MAX_SAVED_PER_ROW: usize = 4 << 10;
/// After so many failures in a row to read the saved graph, which may have been the end of the process, it is built
/// again.
const MAX_FAILED_LOADS: u32 = 3;

/// The maintenance of one index, until it is closed or dropped.
pub(super) fn run(index: &VectorIndex) {
    let mut maintainer = Maintainer {
        index,
        space: index.space(),
        segments: 0,
        unsaved: 0,
        last_change: Instant::now(),
        quiet: QUIET,
        failed_loads: 0,
    };
    let mut pause = Duration::ZERO;
    loop {
        let signal = index.wait(pause);
        if signal.discarded {
            return maintainer.close();
        }
        if signal.closing {
            return maintainer.save_if(|_| true);
        }
        index.space().scan.release(UNUSED);
        let problem;
        (pause, problem) = match maintainer.step() {
            Ok(Step::More) => (Duration::ZERO, None),
            Ok(Step::Idle) => (TICK, None),
            Ok(Step::NoPlugin) => (TICK, Some(format!("no plugin that provides `{}` is running", index.kind))),
            Err(problem) => (AFTER_FAILURE, Some(problem)),
        };
        let mut graph = index.graph();
        if problem.is_some() && problem != graph.problem {
            let (path, problem) = (index.directory.display(), problem.as_deref().unwrap_or_default());
            match index.distance() {
                None => tracing::warn!(%path, "searches of a vector index are exact scans for now: {problem}"),
                Some(_) => tracing::warn!(%path, "searches of a vector index are slow for now, or fail: {problem}"),
            }
        }
        graph.problem = problem;
    }
}

enum Step {
    /// There is more to do.
    More,
    /// The graph contains what it should.
    Idle,
    /// There is nobody to keep up.
    NoPlugin,
}

struct Maintainer<'a> {
    index: &'a VectorIndex,
    /// What the open graph is made of.
    space: Arc<Space>,
    /// Segments that the open graph has.
    segments: u32,
    /// Changes since the graph was saved.
    unsaved: usize,
    last_change: Instant,
    /// How long the graph must not have changed to be saved.
    quiet: Duration,
    /// How often in a row the saved graph could not be read.
    failed_loads: u32,
}

impl Maintainer<'_> {
    fn step(&mut self) -> Result<Step, String> {
        let placing = Origin::until(Instant::now() + CALL_DEADLINE);
        let Some(space) = self.index.place_some(&placing).map_err(|error| error.to_string())? else {
            return Ok(Step::More);
        };
        if !Arc::ptr_eq(&space, &self.space) {
            // Another version of the plugin has placed all rows anew: a graph over the old places is of no use.
            self.close();
            self.unsaved = 0;
            self.space = space;
        }
        let provider = self.index.provider();
        let Some((provider, place)) = provider.and_then(|found| Place::of(&found).map(|place| (found, place))) else {
            self.index.graph().open = None;
            return Ok(Step::NoPlugin);
        };
        let open = self.index.graph().open.clone();
        let open = match open.filter(|open| open.is_at(&place)) {
            Some(open) => open,
            None => self.open(place, &provider).map_err(|error| error.to_string())?,
        };
        self.attach_segments(&*open).map_err(|error| error.to_string())?;
        let (removes, inserts) = self.index.backlog();
        let removed = self.remove(&*open, &removes)?;
        let inserted = self.insert(&*open, &inserts)?;
        if removed + inserted > 0 {
            self.unsaved += removed + inserted;
            self.last_change = Instant::now();
            self.save_if(|this| this.unsaved >= CHANGES_BETWEEN_SAVES.max(this.index.rows().len() / 10));
            return Ok(Step::More);
        }
        self.save_if(|this| this.last_change.elapsed() >= this.quiet);
        Ok(Step::Idle)
    }

    /// Removes some of the rows, and returns how many.
    fn remove(&self, open: &dyn OpenGraph, rows: &FixedBitSet) -> Result<usize, String> {
        let rows: Vec<RowId> = rows.ones().take(REMOVES).map(|row| row as RowId).collect();
        if rows.is_empty() {
            return Ok(0);
        }
        open.remove(&rows).map_err(|error| error.to_string())?;
        self.changed(&rows, false);
        Ok(rows.len())
    }

    /// Adds some of the rows, and returns how many.
    fn insert(&self, open: &dyn OpenGraph, rows: &FixedBitSet) -> Result<usize, String> {
        let rows: Vec<RowId> = rows.ones().take(open.rows_at_once()).map(|row| row as RowId).collect();
        if !rows.is_empty() {
            open.insert(&rows, &|rows| self.changed(rows, true)).map_err(|error| error.to_string())?;
        }
        Ok(rows.len())
    }

    /// The graph has these rows now, or has not any more.
    fn changed(&self, rows: &[RowId], are_added: bool) {
        let mut graph = self.index.graph();
        for &row in rows {
            graph.rows.grow(row as usize + 1);
            graph.rows.set(row as usize, are_added);
        }
    }

    /// Has the plugin forget the graph, if it is open.
    fn close(&self) {
        let open = {
            let mut graph = self.index.graph();
            graph.rows.clear();
            graph.open.take()
        };
        if let Some(open) = open.filter(|open| open.is_alive())
            && let Err(error) = open.close()
        {
            tracing::warn!(path = %self.index.directory.display(), "the plugin did not free an index: {error}");
        }
    }

    /// Opens the graph where it is not yet, with what was saved.
    fn open(&mut self, place: Place, provider: &Provider) -> Result<Arc<dyn OpenGraph>, PluginError> {
        {
            let mut graph = self.index.graph();
            graph.open = None;
            graph.rows.clear();
        }
        let index = self.index;
        let open = graph::open(place, provider, &index.kind, &index.options, &self.space.column)?;
        self.segments = 0;
        self.attach_segments(&*open)?;
        let rows = self.load(&*open);
        self.unsaved = 0;
        let mut graph = index.graph();
        graph.rows = rows;
        graph.open = Some(Arc::clone(&open));
        Ok(open)
    }

    /// The rows of the graph that was saved; none if there is no such graph, or it can't be used any more.
    fn load(&mut self, open: &dyn OpenGraph) -> FixedBitSet {
        let path = self.index.directory.display();
        if self.failed_loads >= MAX_FAILED_LOADS {
            tracing::warn!(%path, "the plugin failed {MAX_FAILED_LOADS} times to read the saved graph, which is built again");
            return FixedBitSet::new();
        }
        let saved = match SavedGraph::read(&self.index.directory) {
            Ok(Some(saved)) => saved,
            Ok(None) => return FixedBitSet::new(),
            Err(error) => {
                tracing::warn!(%path, "the saved graph can't be used and is built again: {error}");
                return FixedBitSet::new();
            }
        };
        let started = Instant::now();
        match open.load(&saved.graph) {
            Ok(()) => {
                let (rows, ms) = (saved.rows.count_ones(..), started.elapsed().as_millis());
                tracing::info!(%path, rows, ms, "the saved graph is loaded");
                self.failed_loads = 0;
                saved.rows
            }
            Err(error) => {
                tracing::warn!(%path, "the saved graph can't be used and is built again: {error}");
                self.failed_loads += 1;
                FixedBitSet::new()
            }
        }
    }

    fn attach_segments(&mut self, open: &dyn OpenGraph) -> Result<(), PluginError> {
        let files = self.index.segments_from(self.segments);
        let files = files.map_err(|error| PluginError::init(format!("opening a column segment: {error}")))?;
        for file in files {
            open.attach(self.segments, file)?;
            self.segments += 1;
        }
        Ok(())
    }

    fn save_if(&mut self, is_time: impl FnOnce(&Self) -> bool) {
        if self.unsaved == 0 || !is_time(self) {
            return;
        }
        let (open, rows) = {
            let graph = self.index.graph();
            (graph.open.clone(), graph.rows.clone())
        };
        let Some(open) = open.filter(|open| open.is_alive()) else { return };
        let path = self.index.directory.display();
        let started = Instant::now();
        let limit = MAX_SAVED + rows.count_ones(..) * MAX_SAVED_PER_ROW;
        match open.save(limit) {
            Ok(graph) => match (SavedGraph { rows, graph }).write(&self.index.directory) {
                Ok(()) => {
                    self.unsaved = 0;
                    self.failed_loads = 0;
                }
                Err(error) => tracing::error!(%path, "the graph can't be saved: {error}; free space on the disk"),
            },
            Err(error) => tracing::warn!(%path, "the graph was not saved: {error}"),
        }
        // After a failure the next try comes after another quiet period, not at once.
        self.last_change = Instant::now();
        self.quiet = QUIET.max(started.elapsed() * SHARE_OF_SAVES);
    }
}
