//! The places that a plugin's distance gives to the rows of an index, in a column of their own: `DIR/vectors/INDEX_ID/places`.
//!
//! The vectors of the documents are in the index's own column, in the commits that bring them. Their places are made of
//! them afterwards, by the maintenance thread, or by the first search that finds them missing: so no write waits for a plugin,
//! and a search sees what was written before it. Places are not kept for the next start: they are made again, which takes
//! about as long as copying them, and never misses a plugin that has changed. In between, they are made again when the
//! plugin's version changes; so is the graph over them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fixedbitset::FixedBitSet;
use photondb_ipc_schema::column::{ColumnShape, ColumnWriter, VectorColumn};
use photondb_plugin_sdk::kinds::distance::{Side, Traits};
use photondb_plugin_sdk::kinds::vector::RowId;
use photondb_plugin_sdk::{Cause, PluginError};

use super::distance::PluginDistance;
use super::index::fits;
use super::saved::SavedGraph;
use super::scan::ExactScan;
use crate::plugins::CALL_DEADLINE;
use crate::query::nested::Origin;

/// About the bytes of vectors that are placed by one call of the plugin, in as many messages as that takes.
const BYTES_AT_ONCE: usize = 2 << 20;
/// The file that says whose places the saved graph was made of.
const PLACED_BY: &str = "placed_by";

/// What searches and a plugin's graph compare: a column, and exact scans of it.
pub(super) struct Space {
    pub(super) column: Arc<VectorColumn>,
    pub(super) scan: ExactScan,
}

/// The places of the rows of one index.
pub(super) struct Places {
    /// The directory of the index.
    directory: PathBuf,
    shape: ColumnShape,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Of which plugin and version the places are.
    version: Option<String>,
    space: Arc<Space>,
    writer: ColumnWriter,
    /// Rows that have a place.
    placed: FixedBitSet,
    /// All rows before this one have a place, or have none to get, or were gone when it was their turn.
    next: RowId,
    /// Whether somebody has rows placed now.
    is_busy: bool,
}

impl Places {
    /// No places yet, for an index in `directory` whose own column has vectors of that shape.
    ///
    /// # Errors
    /// When the directory can't be used.
    pub(super) fn open(directory: &Path, vectors: ColumnShape, traits: &Traits) -> io::Result<Self> {
        let shape = u32::try_from(traits.dims).ok().and_then(|dims| ColumnShape::new(dims, vectors.element()));
        let shape = shape.ok_or_else(|| io::Error::other(format!("no column has rows of {} numbers", traits.dims)))?;
        let state = State::new(directory, shape, traits)?;
        Ok(Self { directory: directory.to_owned(), shape, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// The space of the places that there are.
    pub(super) fn space(&self) -> Arc<Space> {
        Arc::clone(&self.lock().space)
    }

    /// Keeps, of the rows, those that have a place.
    pub(super) fn keep_placed(&self, rows: &mut FixedBitSet) {
        rows.intersect_with(&self.lock().placed);
    }

    /// Keeps, of the rows, those that have a place or wait for one.
    pub(super) fn keep_placeable(&self, rows: &mut FixedBitSet) {
        let state = self.lock();
        let mut without = FixedBitSet::with_capacity(rows.len());
        without.insert_range(..rows.len().min(state.next as usize));
        without.difference_with(&state.placed);
        rows.difference_with(&without);
    }

    /// How many of the rows were refused a place.
    pub(super) fn refused(&self, rows: &FixedBitSet) -> usize {
        let mut placeable = rows.clone();
        self.keep_placeable(&mut placeable);
        rows.count_ones(..) - placeable.count_ones(..)
    }

    /// Descriptors of the segments from `first` on.
    pub(super) fn segments_from(&self, first: u32) -> io::Result<Vec<OwnedFd>> {
        let state = self.lock();
        (first..state.writer.segments()).map(|segment| state.writer.segment(segment)).collect()
    }

    /// Gives every row of `rows` a place that has none yet, by what is in `vectors`. Returns their space, and whose places they
    /// are.
    ///
    /// # Errors
    /// When the plugin does not answer before the origin's deadline, or the disk fails.
    pub(super) fn catch_up(
        &self,
        distance: &PluginDistance,
        vectors: &VectorColumn,
        rows: &FixedBitSet,
        origin: &Origin<'_>,
    ) -> Result<(Arc<Space>, String), PluginError> {
        loop {
            if let Some(placed) = self.place_some(distance, vectors, rows, origin)? {
                return Ok(placed);
            }
        }
    }

    /// Does some of what [`catch_up`](Self::catch_up) does, or waits for somebody who does; returns what that does when all is
    /// done.
    ///
    /// # Errors
    /// As there.
    pub(super) fn place_some(
        &self,
        distance: &PluginDistance,
        vectors: &VectorColumn,
        rows: &FixedBitSet,
        origin: &Origin<'_>,
    ) -> Result<Option<(Arc<Space>, String)>, PluginError> {
        let version = distance.version()?;
        let (from, _turn) = {
            let mut state = self.lock();
            let is_of_another = state.version.as_deref() != Some(&version);
            if state.next as usize >= rows.len() && !is_of_another {
                return Ok(Some((Arc::clone(&state.space), version)));
            }
            if state.is_busy {
                return self.wait(state, distance, origin).map(|()| None);
            }
            if is_of_another {
                self.begin(&mut state, &version, distance.traits()).map_err(|error| self.failed(&error))?;
            }
            state.is_busy = true;
            (state.next, Turn(self))
        };
        let most = (BYTES_AT_ONCE / vectors.shape().stride().max(self.shape.stride())).max(1);
        let rest = (from..rows.len() as RowId).filter(|row| rows.contains(*row as usize));
        let batch: Vec<RowId> = rest.take(most).collect();
        let dims = vectors.dims();
        let mut numbers = vec![0.0; batch.len() * dims];
        for (&row, numbers) in batch.iter().zip(numbers.chunks_exact_mut(dims)) {
            match vectors.row(row) {
                Some(vector) => vector.copy_to(numbers),
                None => numbers.fill(f32::NAN),
            }
        }
        let places = distance.place(Side::Row, &numbers, origin)?;
        // Those of a version that came in between are of no use.
        if distance.version()? == version {
            let next = if batch.len() < most { rows.len() as RowId } else { batch[batch.len() - 1] + 1 };
            self.lock().write(&batch, &places, next).map_err(|error| self.failed(&error))?;
        }
        Ok(None)
    }

    /// Everything is to be placed anew, by that plugin and version; what graph was saved is of no use where it is another.
    fn begin(&self, state: &mut State, version: &str, traits: &Traits) -> io::Result<()> {
        let path = self.directory.join(PLACED_BY);
        if fs::read_to_string(&path).is_ok_and(|by| by != version) {
            SavedGraph::remove(&self.directory)?;
        }
        fs::write(&path, version)?;
        *state = State::new(&self.directory, self.shape, traits)?;
        state.version = Some(version.to_owned());
        Ok(())
    }

    /// Waits until whoever has rows placed now has done so, as long as for an answer of the plugin.
    fn wait(
        &self,
        state: MutexGuard<'_, State>,
        distance: &PluginDistance,
        origin: &Origin<'_>,
    ) -> Result<(), PluginError> {
        let plugin = distance.plugin();
        let caller = plugin.as_ref().map(|plugin| plugin.call());
        let now = Instant::now();
        let deadline = origin.deadline.min(now + CALL_DEADLINE);
        let deadline = caller.map_or(deadline, |caller| caller.turn_by(deadline));
        let from = state.next;
        let is_waited_for = |state: &mut State| state.is_busy && state.next == from;
        let waited = self.changed.wait_timeout_while(state, deadline.saturating_duration_since(now), is_waited_for);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if timeout.timed_out() {
            let message =
                format!("the rows of the index wait for their places by `{}`; try again later", distance.name());
            return Err(PluginError::runtime(Cause::Deadline, message).of(plugin.as_ref().map_or("", |by| by.name())));
        }
        Ok(())
    }

    /// Whoever has the column mapped gets zeros from now on. Nobody of this process may read it any more.
    pub(super) fn erase(&self) -> io::Result<()> {
        self.lock().writer.erase()
    }

    fn failed(&self, error: &io::Error) -> PluginError {
        let path = self.directory.display();
        PluginError::runtime(
            Cause::Limit,
            format!("the places of rows can't be written to {path}: {error}; free space"),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to have rows placed.
struct Turn<'a>(&'a Places);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().is_busy = false;
        self.0.changed.notify_all();
    }
}

impl State {
    /// No places yet, in new files: who still reads the old ones keeps them.
    fn new(directory: &Path, shape: ColumnShape, traits: &Traits) -> io::Result<Self> {
        let directory = directory.join("places");
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let column = Arc::new(VectorColumn::new(shape));
        let scan = ExactScan::new(traits.base, Arc::clone(&column));
        Ok(Self {
            version: None,
            space: Arc::new(Space { column, scan }),
            writer: ColumnWriter::open(&directory, shape)?,
            placed: FixedBitSet::new(),
            next: 0,
            is_busy: false,
        })
    }

    /// Keeps the places of rows, up to the row `next`. One that can't be compared is none.
    fn write(&mut self, rows: &[RowId], places: &[f32], next: RowId) -> io::Result<()> {
        let shape = self.space.column.shape();
        self.placed.grow(next as usize);
        for (&row, place) in rows.iter().zip(places.chunks_exact(shape.dims() as usize)) {
            if fits(place, shape) {
                self.writer.write(row, place)?;
                self.placed.insert(row as usize);
            }
        }
        // Before a row can be found, its segment can be read.
        for segment in 0..self.writer.segments() {
            if self.space.column.row(segment * shape.rows_per_segment()).is_none() {
                self.space.column.attach(segment, &self.writer.segment(segment)?)?;
            }
        }
        self.next = next;
        Ok(())
    }
}
