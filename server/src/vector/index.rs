//! One vector index: what it stores, and what it knows.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fixedbitset::FixedBitSet;
use half::f16;
use photondb_ipc_schema::column::{ColumnShape, ColumnWriter, Element, VectorColumn, VectorRef};
use photondb_plugin_sdk::kinds::distance::Side;
use photondb_plugin_sdk::kinds::storage::{StorageEngine, StorageError, WriteBatch};
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, RowId};
use photondb_plugin_sdk::{Datum, PluginError};

use super::coalesce::Coalescer;
use super::distance::PluginDistance;
use super::graph::{OpenGraph, Place};
use super::maintain;
use super::places::{Places, Space};
use super::rows::{self, Rows};
use super::scan::ExactScan;
use super::split;
use crate::plugins::plugin::Plugin;
use crate::plugins::registry::{Provider, Registry, Watcher};
use crate::query::nested::Origin;
use crate::storage::{StoreError, VectorIndexContext, VectorIndexHook};

/// An open vector index.
pub(super) struct VectorIndex {
    engine: Arc<dyn StorageEngine>,
    keyspace: String,
    pub(super) directory: PathBuf,
    pub(super) kind: String,
    pub(super) options: IndexOptions,
    registry: Arc<Registry>,
    /// The vectors of the documents.
    column: Arc<VectorColumn>,
    compared: Compared,
    coalescer: Coalescer,
    writing: Mutex<Writing>,
    rows: RwLock<Rows>,
    /// Whether they were read: those in an engine of a plugin are when it is opened.
    are_rows_known: AtomicBool,
    graph: Mutex<GraphState>,
    signal: Mutex<Signal>,
    signalled: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What searches and the plugin's graph compare.
enum Compared {
    /// The vectors themselves.
    Vectors(Arc<Space>, Option<PluginDistance>),
    /// Their places.
    Places(Places, PluginDistance),
}

/// What the storage's writer thread works with.
struct Writing {
    column: ColumnWriter,
    /// Changes that are not committed yet, in order.
    staged: Vec<Staged>,
    /// What the staged changes make of keys.
    overlay: HashMap<Vec<u8>, Option<RowId>>,
    next: RowId,
}

enum Staged {
    Insert(RowId, Box<[u8]>),
    Remove(RowId),
}

/// What the plugin's graph is known to contain.
#[derive(Default)]
pub(super) struct GraphState {
    /// The graph that searches can use now.
    pub(super) open: Option<Arc<dyn OpenGraph>>,
    /// Rows in it.
    pub(super) rows: FixedBitSet,
    /// Why there is no graph, in a sentence.
    pub(super) problem: Option<String>,
}

/// What the maintenance thread is asked to do.
#[derive(Clone, Copy, Default)]
pub(super) struct Signal {
    pub(super) changed: bool,
    pub(super) closing: bool,
    pub(super) discarded: bool,
}

/// What a search works with: one consistent picture.
pub(super) struct View {
    pub(super) live: FixedBitSet,
    pub(super) open: Option<Arc<dyn OpenGraph>>,
    /// Live rows that the graph does not contain.
    pub(super) pending: FixedBitSet,
    /// How many rows of the graph are not live any more.
    pub(super) dead: usize,
    pub(super) problem: Option<String>,
}

impl VectorIndex {
    /// Opens an index with what is stored of it, and starts its maintenance.
    pub(super) fn open(context: &VectorIndexContext, registry: Arc<Registry>) -> Result<Arc<Self>, StoreError> {
        let (element, options) = split(&context.definition)?;
        let directory = context.directory.clone();
        let unusable =
            |error: std::io::Error| StoreError::Directory { path: directory.clone(), message: error.to_string() };
        let shape = ColumnShape::new(context.definition.dims, element)
            .ok_or_else(|| StoreError::Vector("A column of this shape is not possible.".to_owned()))?;
        let writer = ColumnWriter::open(&context.directory, shape).map_err(unusable)?;
        let column = VectorColumn::new(shape);
        for segment in 0..writer.segments() {
            writer.segment(segment).and_then(|file| column.attach(segment, &file)).map_err(unusable)?;
        }
        let column = Arc::new(column);
        let distance = context.definition.distance.clone();
        let distance =
            distance.map(|distance| PluginDistance::new(Arc::clone(&registry), distance, context.definition.dims));
        let compared = match distance {
            Some(distance) if !distance.traits().is_placed_as_is => {
                Compared::Places(Places::open(&directory, shape, distance.traits()).map_err(unusable)?, distance)
            }
            distance => {
                let scan = ExactScan::new(options.metric, Arc::clone(&column));
                Compared::Vectors(Arc::new(Space { column: Arc::clone(&column), scan }), distance)
            }
        };
        let (rows, are_rows_known) = match Rows::load(&*context.engine, &context.keyspace, room(&writer, shape)) {
            Err(StorageError::Closed(_)) => (Rows::default(), false),
            rows => (rows?, true),
        };
        let next = rows.next();
        let index = Arc::new(Self {
            engine: Arc::clone(&context.engine),
            keyspace: context.keyspace.clone(),
            directory: context.directory.clone(),
            kind: context.definition.kind.clone(),
            options,
            registry,
            compared,
            column,
            coalescer: Coalescer::default(),
            writing: Mutex::new(Writing { column: writer, staged: Vec::new(), overlay: HashMap::new(), next }),
            rows: RwLock::new(rows),
            are_rows_known: are_rows_known.into(),
            graph: Mutex::default(),
            signal: Mutex::new(Signal { changed: true, ..Signal::default() }),
            signalled: Condvar::new(),
            thread: Mutex::default(),
        });
        let watcher: Weak<Self> = Arc::downgrade(&index);
        index.registry.watch(watcher);
        let maintained = Arc::clone(&index);
        let thread = thread::Builder::new()
            .name("vector-index".into())
            .spawn(move || maintain::run(&maintained))
            .map_err(|error| StoreError::Vector(format!("The maintenance thread did not start: {error}.")))?;
        *lock(&index.thread) = Some(thread);
        Ok(index)
    }

    pub(super) fn metric(&self) -> Metric {
        self.options.metric
    }

    /// What is compared now.
    pub(super) fn space(&self) -> Arc<Space> {
        match &self.compared {
            Compared::Vectors(space, _) => Arc::clone(space),
            Compared::Places(places, _) => places.space(),
        }
    }

    /// The distance of a plugin that is meant, if there is one.
    pub(super) fn distance(&self) -> Option<&PluginDistance> {
        match &self.compared {
            Compared::Vectors(_, distance) => distance.as_ref(),
            Compared::Places(_, distance) => Some(distance),
        }
    }

    /// Gives places to some of the rows that have none yet. Returns what is compared when all rows have one.
    ///
    /// # Errors
    /// When the plugin that places them does not.
    pub(super) fn place_some(&self, origin: &Origin<'_>) -> Result<Option<Arc<Space>>, PluginError> {
        match &self.compared {
            Compared::Vectors(space, _) => Ok(Some(Arc::clone(space))),
            Compared::Places(places, distance) => {
                let live = self.rows().live().clone();
                let placed = places.place_some(distance, &self.column, &live, origin)?;
                Ok(placed.map(|(space, _)| space))
            }
        }
    }

    /// What is compared, with everything in it that is stored now, and what to look for in it instead of these vectors
    /// (`[n, dims]`).
    ///
    /// # Errors
    /// When the plugin of the distance does not answer, or says that a vector has no place.
    pub(super) fn placed<'a>(
        &self,
        queries: &'a [f32],
        origin: &Origin<'_>,
    ) -> Result<(Arc<Space>, Cow<'a, [f32]>), PluginError> {
        let Compared::Places(places, distance) = &self.compared else {
            return Ok((self.space(), Cow::Borrowed(queries)));
        };
        loop {
            let live = self.rows().live().clone();
            let (space, version) = places.catch_up(distance, &self.column, &live, origin)?;
            let placed = distance.place(Side::Query, queries, origin)?;
            if placed.chunks_exact(space.column.dims()).any(|place| !photondb_distance::is_measurable(place)) {
                let message = format!("the query vector is none that `{}` has a place for", distance.name());
                return Err(PluginError::argument(message));
            }
            if distance.version()? == version {
                return Ok((space, Cow::Owned(placed)));
            }
        }
    }

    /// Joins searches of all rows.
    pub(super) fn coalescer(&self) -> &Coalescer {
        &self.coalescer
    }

    pub(super) fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn graph(&self) -> MutexGuard<'_, GraphState> {
        lock(&self.graph)
    }

    /// Whether it is known which rows there are. Until then the graph is left as it was saved.
    pub(super) fn are_rows_known(&self) -> bool {
        self.are_rows_known.load(Ordering::Acquire)
    }

    /// Who provides this kind of index, running or not.
    pub(super) fn provider(&self) -> Option<Provider> {
        self.registry.vector_index(&self.kind).ok()
    }

    /// The plugin of that, if it has processes.
    pub(super) fn plugin(&self) -> Option<Arc<Plugin>> {
        self.provider().filter(|provider| provider.code.is_none()).map(|provider| provider.plugin)
    }

    /// How many segments the column has, and a descriptor for each from `first` on.
    pub(super) fn segments_from(&self, first: u32) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        if let Compared::Places(places, _) = &self.compared {
            return places.segments_from(first);
        }
        let writing = lock(&self.writing);
        (first..writing.column.segments()).map(|segment| writing.column.segment(segment)).collect()
    }

    /// What a search works with now.
    pub(super) fn view(&self) -> View {
        let rows = self.rows();
        let graph = self.graph();
        let live = self.placed_rows(&rows);
        let pending = without(&live, &graph.rows);
        let dead = without(&graph.rows, &live).count_ones(..);
        View { live, open: graph.open.clone(), pending, dead, problem: graph.problem.clone() }
    }

    /// Rows that the graph has to lose and rows that it has to get.
    pub(super) fn backlog(&self) -> (FixedBitSet, FixedBitSet) {
        let rows = self.rows();
        let graph = self.graph();
        let live = self.placed_rows(&rows);
        (without(&graph.rows, &live), without(&live, &graph.rows))
    }

    /// The live rows that can be compared now.
    fn placed_rows(&self, rows: &Rows) -> FixedBitSet {
        let mut live = rows.live().clone();
        if let Compared::Places(places, _) = &self.compared {
            places.keep_placed(&mut live);
        }
        live
    }

    /// The live rows that can be compared now or soon.
    fn placeable_rows(&self, rows: &Rows) -> FixedBitSet {
        let mut live = rows.live().clone();
        if let Compared::Places(places, _) = &self.compared {
            places.keep_placeable(&mut live);
        }
        live
    }

    /// Waits until there is something to do, at most `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Signal {
        let signal = lock(&self.signal);
        let idle = |signal: &mut Signal| !signal.changed && !signal.closing && !signal.discarded;
        let (mut signal, _) =
            self.signalled.wait_timeout_while(signal, timeout, idle).unwrap_or_else(PoisonError::into_inner);
        let seen = *signal;
        signal.changed = false;
        seen
    }

    fn notify(&self, change: impl FnOnce(&mut Signal)) {
        change(&mut lock(&self.signal));
        self.signalled.notify_all();
    }

    /// Ends the maintenance, which saves the graph first.
    pub(super) fn begin_close(&self) {
        self.notify(|signal| signal.closing = true);
    }

    /// Waits until the maintenance has ended.
    pub(super) fn finish_close(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(kind = self.kind, "the maintenance of a vector index failed; its graph will be rebuilt");
        }
    }

    /// The index was dropped: the plugin forgets it, and nothing is saved.
    pub(super) fn discard(&self) {
        self.notify(|signal| signal.discarded = true);
        self.finish_close();
    }
}

impl Watcher for VectorIndex {
    /// Its graph is to be in that process, if it is its plugin's.
    fn plugin_started(&self) {
        self.notify(|signal| signal.changed = true);
    }
}

impl Drop for VectorIndex {
    fn drop(&mut self) {
        // Here nobody of this process reads the column any more, and a plugin that kept its mapping gets zeros.
        if !lock(&self.signal).discarded {
            return;
        }
        let mut erased = lock(&self.writing).column.erase();
        if let Compared::Places(places, _) = &self.compared {
            erased = erased.and(places.erase());
        }
        if let Err(error) = erased {
            let path = self.directory.display();
            tracing::warn!(%path, "the vectors of a dropped index can't be erased; a plugin may keep them: {error}");
        }
    }
}

/// How many rows the segments have that there are.
fn room(column: &ColumnWriter, shape: ColumnShape) -> u64 {
    u64::from(column.segments()) * u64::from(shape.rows_per_segment())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows of the one that are not in the other. (`FixedBitSet::difference_count` ignores what is behind the end of
/// the shorter set.)
fn without(rows: &FixedBitSet, others: &FixedBitSet) -> FixedBitSet {
    let mut rest = rows.clone();
    rest.difference_with(others);
    rest
}

/// The vector, if the value is one: as many numbers as a row has, none too large for the column or for a distance.
fn vector_of(value: &Datum, shape: ColumnShape) -> Option<Vec<f32>> {
    let numbers = value.as_array().filter(|numbers| numbers.len() == shape.dims() as usize)?;
    let vector: Vec<f32> =
        numbers.iter().map(|number| number.as_number().map(|number| number as f32)).collect::<Option<_>>()?;
    fits(&vector, shape).then_some(vector)
}

/// Whether no number is too large for the column or for a distance.
pub(super) fn fits(vector: &[f32], shape: ColumnShape) -> bool {
    let fits = match shape.element() {
        Element::F32 => true,
        Element::F16 => vector.iter().all(|&number| f16::from_f32(number).is_finite()),
        Element::I8 => {
            // Rounding may have made it longer.
            let (mut codes, mut decoded) = (Vec::new(), vec![0.0; vector.len()]);
            let scale = photondb_distance::encode_i8(vector, &mut codes);
            VectorRef::I8 { codes: &codes, scale }.copy_to(&mut decoded);
            photondb_distance::is_measurable(&decoded)
        }
    };
    fits && photondb_distance::is_measurable(vector)
}

impl VectorIndexHook for VectorIndex {
    fn stage(
        &self,
        batch: &mut WriteBatch,
        key: &[u8],
        _: Option<&Datum>,
        new: Option<&Datum>,
    ) -> Result<(), StorageError> {
        let mut writing = lock(&self.writing);
        let present = match writing.overlay.get(key) {
            Some(row) => *row,
            None => rows::stored_row(&*self.engine, &self.keyspace, key)?,
        };
        if let Some(row) = present {
            rows::stage_remove(batch, &self.keyspace, row, key);
            writing.staged.push(Staged::Remove(row));
        }
        let vector = new.and_then(|value| vector_of(value, self.column.shape()));
        let row = vector
            .map(|vector| {
                let row = writing.next;
                let failed =
                    |error| StorageError::Failed(format!("writing a vector to {}: {error}", self.directory.display()));
                writing.column.write(row, &vector).map_err(failed)?;
                rows::stage_insert(batch, &self.keyspace, row, key);
                writing.staged.push(Staged::Insert(row, key.into()));
                writing.next += 1;
                Ok(row)
            })
            .transpose()?;
        writing.overlay.insert(key.to_vec(), row);
        Ok(())
    }

    fn committed(&self) {
        let mut writing = lock(&self.writing);
        writing.overlay.clear();
        let staged = std::mem::take(&mut writing.staged);
        // Before a row can be found, its segment can be read.
        for segment in 0..writing.column.segments() {
            if self.column.row(segment * self.column.shape().rows_per_segment()).is_none()
                && let Err(error) = writing.column.segment(segment).and_then(|file| self.column.attach(segment, &file))
            {
                tracing::error!(path = %self.directory.display(), %error, "a column segment can't be mapped; restart the server");
            }
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for change in staged {
            match change {
                Staged::Insert(row, key) => rows.set(row, key),
                Staged::Remove(row) => rows.remove(row),
            }
        }
        drop((rows, writing));
        self.notify(|signal| signal.changed = true);
    }

    fn aborted(&self) {
        let mut writing = lock(&self.writing);
        writing.overlay.clear();
        writing.staged.clear();
        writing.next = self.rows().next();
    }

    fn reload(&self, engine: &dyn StorageEngine) -> Result<(), StorageError> {
        let mut writing = lock(&self.writing);
        let room = room(&writing.column, self.column.shape());
        let mut stored = Rows::load(engine, &self.keyspace, room)?;
        writing.overlay.clear();
        writing.staged.clear();
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        // Numbers are never used again, also those that the engine forgot: the graph may know them.
        stored.grow(rows.next() as usize);
        if stored.next() == 0 && room > 0 {
            // It forgot all of them, before this server knew any: none behind the end of the column was used.
            stored.grow(usize::try_from(room).unwrap_or(usize::MAX));
        }
        writing.next = stored.next();
        *rows = stored;
        drop((rows, writing));
        // Release: whoever sees it sees the rows.
        self.are_rows_known.store(true, Ordering::Release);
        self.notify(|signal| signal.changed = true);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        lock(&self.writing).column.sync().map_err(|error| {
            StorageError::Failed(format!("flushing the vectors of {}: {error}", self.directory.display()))
        })
    }

    fn progress(&self) -> f64 {
        let rows = self.rows();
        let graph = self.graph();
        let wanted = self.placeable_rows(&rows);
        match wanted.count_ones(..) {
            0 => 1.0,
            all => graph.rows.intersection_count(&wanted) as f64 / all as f64,
        }
    }

    fn is_built(&self) -> bool {
        // Without its plugin an index answers by exact scans: nothing to wait for.
        if self.provider().and_then(|provider| Place::of(&provider)).is_none() {
            return true;
        }
        let rows = self.rows();
        let graph = self.graph();
        let missing = without(&self.placeable_rows(&rows), &graph.rows).count_ones(..);
        // A few rows are missing all the time while documents are written; they are scanned beside the graph.
        let caught_up = graph.open.is_some() && missing <= (rows.len() / 100).max(64);
        caught_up || graph.problem.is_some() || rows.len() == 0
    }

    fn wait_built(&self, deadline: Instant) -> bool {
        while !self.is_built() {
            let signal = lock(&self.signal);
            let now = Instant::now();
            if now >= deadline || signal.closing || signal.discarded {
                return now < deadline;
            }
            let nap = (deadline - now).min(Duration::from_millis(20));
            drop(self.signalled.wait_timeout(signal, nap).unwrap_or_else(PoisonError::into_inner));
        }
        true
    }

    fn describe(&self) -> Datum {
        let provider = self.provider();
        let (open, problem) = {
            let graph = self.graph();
            (graph.open.clone(), graph.problem.clone())
        };
        let (removes, _) = self.backlog();
        let pending = {
            let rows = self.rows();
            without(&self.placeable_rows(&rows), &self.graph().rows).count_ones(..)
        };
        let can_measure = self.distance().is_none_or(|distance| distance.plugin().is_some_and(|by| by.can_be_called()));
        let state = match (&open, &problem) {
            _ if !can_measure => "unavailable",
            (_, Some(_)) | (None, None) => "exact scan",
            (Some(_), None) if self.is_built() => "ready",
            (Some(_), None) => "building",
        };
        let distance = self.distance().map(|distance| {
            let plugin = distance.plugin();
            let refused = match &self.compared {
                Compared::Vectors(..) => 0,
                Compared::Places(places, _) => places.refused(self.rows().live()),
            };
            Datum::object([
                ("name", Datum::from(distance.name())),
                ("plugin", plugin.as_ref().map(|plugin| plugin.name()).into()),
                ("plugin_version", plugin.as_ref().map(|plugin| plugin.version()).into()),
                ("state", if can_measure { "ready" } else { "unavailable" }.into()),
                ("traits", distance.traits().to_datum()),
                ("rows_without_place", refused.into()),
            ])
        });
        let statistics = open.and_then(|open| open.statistics().ok());
        Datum::object([
            ("plugin", Datum::from(provider.as_ref().map(|provider| provider.plugin.name()))),
            ("plugin_version", provider.map(|provider| provider.plugin.status().version).into()),
            ("distance", distance.into()),
            ("state", state.into()),
            ("problem", problem.into()),
            ("rows", self.rows().len().into()),
            ("pending", pending.into()),
            ("removed", removes.count_ones(..).into()),
            ("progress", self.progress().into()),
            ("memory_bytes", statistics.map(|statistics| statistics.memory_bytes).into()),
        ])
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_without_distances_stay_out() {
        let is_vector = |element, numbers: &[f64]| {
            let shape = ColumnShape::new(2, element).expect("shape");
            vector_of(&Datum::array(numbers.iter().map(|&number| number.into())), shape).is_some()
        };
        for numbers in [[0.0, 0.0], [1e-300, -2.0], [3e18, -3e18]] {
            assert!(is_vector(Element::F32, &numbers), "{numbers:?}");
        }
        for numbers in [&[1.0][..], &[1.0; 3], &[1e30, -1e30], &[1e300, 0.0]] {
            assert!(!is_vector(Element::F32, numbers), "{numbers:?}");
        }
        assert!(is_vector(Element::F16, &[65_504.0, 0.0]));
        assert!(!is_vector(Element::F16, &[70_000.0, 0.0]));
        assert!(is_vector(Element::I8, &[3e18, 1e-300]));
        assert!(!is_vector(Element::I8, &[1e30, 0.0]));
    }
}
