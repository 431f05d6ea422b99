//! The index: lists, the lock around them, and the column under them.
//!
//! One call changes the lists at a time. What a change needs is computed beside searches; the exclusive lock is taken only
//! to store it, for a few rows or one list at a time.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::indexing::FairLock;
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, IndexStatistics, RowId, SearchRequest, SearchResults, VectorIndex,
};
use photondb_plugin_sdk::{Cause, PluginError};

use crate::format;
use crate::lists::Lists;
use crate::options::{Kind, Options};
use crate::polish::Polish;
use crate::quantiser::Training;
use crate::search::{self, Eligible, GROUP, Scratch, Wanted};
use crate::split;
use crate::vectors::Vectors;

/// How many rows are stored under one exclusive lock.
const BATCH: usize = 64;
/// With so many rows the quantiser is trained for the first time; fewer are scanned in a moment.
const FIRST_TRAINING: usize = 1024;
/// It is trained again when there are so many times as many rows, and for the last time when a sample is full.
const GROWTH: usize = 8;
/// From so many rows on another training would see no better sample.
const LAST_TRAINING: usize = 1 << 16;

/// The most steps before a save: some seconds of work. What is left is done before the next one.
const STEPS_OF_SAVE: usize = 4000;

/// An index of lists.
pub(crate) struct ListIndex {
    options: Options,
    vectors: Vectors,
    lists: FairLock<Lists>,
    /// Held by what changes the lists.
    maintenance: Mutex<Maintenance>,
    /// One for each search that ever ran at the same time.
    scratches: Mutex<Vec<Scratch>>,
}

/// What maintenance remembers between calls.
#[derive(Debug, Default)]
struct Maintenance {
    training: Option<Training>,
    /// How many rows there were when the newest quantiser was trained.
    trained_rows: usize,
    polish: Polish,
}

/// Whether a step found something to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    Idle,
}

impl ListIndex {
    pub(crate) fn new(
        kind: Kind,
        index: &IndexOptions,
        options: Options,
        column: Arc<VectorColumn>,
    ) -> Result<Self, PluginError> {
        let dims = index.dims_of(&column)?;
        Ok(Self {
            options,
            vectors: Vectors::new(column, index.metric),
            lists: FairLock::new(Lists::new(kind, options, index.metric, dims)),
            maintenance: Mutex::default(),
            scratches: Mutex::default(),
        })
    }

    fn read(&self) -> Result<RwLockReadGuard<'_, Lists>, PluginError> {
        self.lists.read().map_err(|_| damaged())
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, Lists>, PluginError> {
        self.lists.write().map_err(|_| damaged())
    }

    fn maintain(&self) -> Result<MutexGuard<'_, Maintenance>, PluginError> {
        self.maintenance.lock().map_err(|_| damaged())
    }

    /// Stores a few rows. Those that are in the index already are skipped.
    fn insert_batch(&self, rows: &[RowId]) -> Result<(), PluginError> {
        let mut encoded = Vec::with_capacity(rows.len());
        {
            let lists = self.read()?;
            let new: Vec<RowId> = rows.iter().copied().filter(|&row| !lists.live().contains(row)).collect();
            let mut nearest = Vec::new();
            lists.assign(&self.vectors.load_all(&new)?, &mut nearest);
            for (&row, &list) in new.iter().zip(&nearest) {
                encoded.push((row, list, lists.encode(list, &self.vectors, row)?));
            }
        }
        let mut lists = self.write()?;
        encoded.into_iter().for_each(|(row, list, code)| lists.insert(list, row, &code));
        Ok(())
    }

    /// Does one thing that is due, which takes some ten milliseconds at most.
    fn step(&self, maintenance: &mut Maintenance) -> Result<Step, PluginError> {
        let lists = self.read()?;
        // First, since rows move only between lists that one quantiser has encoded.
        if let Some(list) = lists.stale() {
            let codes = lists.encoded_again(list, &self.vectors)?;
            drop(lists);
            self.write()?.set_codes(list, codes);
            return Ok(Step::Done);
        }
        if let Some(training) = &mut maintenance.training {
            drop(lists);
            if let Some(quantiser) = training.step() {
                maintenance.trained_rows = training.rows;
                maintenance.training = None;
                self.write()?.set_quantiser(quantiser);
            }
            return Ok(Step::Done);
        }
        if is_training_due(&lists, maintenance.trained_rows) {
            let rows: Vec<RowId> = lists.live().allowed(None).collect();
            maintenance.training =
                Some(Training::begin(&self.vectors, self.options.sub_dims(self.vectors.dims()), &rows)?);
            return Ok(Step::Done);
        }
        if let Some(list) = split::overlong(&lists) {
            let cut = split::plan(&lists, &self.vectors, list)?;
            drop(lists);
            cut.apply(&mut *self.write()?);
            return Ok(Step::Done);
        }
        if let Some(dissolution) = split::dissolution(&lists, &self.vectors)? {
            drop(lists);
            dissolution.apply(&mut *self.write()?);
            return Ok(Step::Done);
        }
        Ok(Step::Idle)
    }

    /// Does one thing that is worth while when nothing is due.
    fn polish(&self, maintenance: &mut Maintenance) -> Result<Step, PluginError> {
        let Some(shift) = maintenance.polish.step(&*self.read()?, &self.vectors)? else { return Ok(Step::Idle) };
        shift.apply(&mut *self.write()?);
        Ok(Step::Done)
    }

    /// Makes sure that there is a chunk with room, where lists are such.
    fn make_room(&self) -> Result<(), PluginError> {
        let is_full = {
            let lists = self.read()?;
            !lists.kind.has_centres() && lists.lists().iter().all(|list| list.rows.len() + BATCH > lists.limit())
        };
        if is_full {
            self.write()?.push_list(&[]);
        }
        Ok(())
    }
}

fn is_training_due(lists: &Lists, trained_rows: usize) -> bool {
    let rows = lists.live().count();
    let due = match trained_rows {
        0 => FIRST_TRAINING,
        trained => trained.saturating_mul(GROWTH).min(LAST_TRAINING.max(trained + 1)),
    };
    lists.kind.is_quantised() && rows >= due && trained_rows < LAST_TRAINING
}

impl VectorIndex for ListIndex {
    fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        let mut maintenance = self.maintain()?;
        for rows in rows.chunks(BATCH) {
            self.make_room()?;
            self.insert_batch(rows)?;
            maintenance.polish.count_changes(rows.len());
            self.step(&mut maintenance)?;
        }
        Ok(())
    }

    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError> {
        let mut maintenance = self.maintain()?;
        for rows in rows.chunks(BATCH) {
            {
                let mut lists = self.write()?;
                rows.iter().for_each(|&row| lists.remove(row));
            }
            maintenance.polish.count_changes(rows.len());
            self.step(&mut maintenance)?;
        }
        Ok(())
    }

    fn search(&self, request: &SearchRequest<'_>, results: &mut SearchResults<'_>) -> Result<(), PluginError> {
        let (dims, k) = (self.vectors.dims(), request.k);
        let count = request.count(dims, results)?;
        if k == 0 {
            results.counts.fill(0);
            return Ok(());
        }
        let kind = self.read()?.kind;
        let wanted = Wanted { k, options: self.options.of_search(kind, request.settings)? };
        let queries: Vec<&[f32]> = request.queries.chunks_exact(dims).take(count).collect();
        let mut scratch = lock(&self.scratches).pop().unwrap_or_default();
        let answer = (|| {
            for (group, queries) in queries.chunks(GROUP).enumerate() {
                request.cancel.check()?;
                // Locked for each group, so that maintenance never waits for a whole batch.
                let lists = self.read()?;
                let eligible = Eligible::new(&lists, request.allow);
                search::search(&lists, &self.vectors, queries, wanted, &eligible, &mut scratch, |at, found| {
                    let at = group * GROUP + at;
                    results.counts[at] = found.len() as u32;
                    let places = results.rows[at * k..].iter_mut().zip(&mut results.distances[at * k..]);
                    for ((row, distance), found) in places.zip(found) {
                        (*row, *distance) = (found.row, found.distance);
                    }
                })?;
            }
            Ok(())
        })();
        lock(&self.scratches).push(scratch);
        answer
    }

    /// Does first what is due still: the server saves when nothing has changed for a while.
    fn save(&self, out: &mut dyn Write) -> Result<(), PluginError> {
        let mut maintenance = self.maintain()?;
        for _ in 0..STEPS_OF_SAVE {
            if self.step(&mut maintenance)? == Step::Idle && self.polish(&mut maintenance)? == Step::Idle {
                break;
            }
        }
        let lists = self.read()?;
        format::save(&lists, self.vectors.metric(), maintenance.trained_rows, out)
    }

    fn load(&self, input: &mut dyn Read) -> Result<(), PluginError> {
        let mut maintenance = self.maintain()?;
        let kind = self.read()?.kind;
        let (loaded, trained_rows) = format::load(kind, self.options, &self.vectors, input)?;
        *self.write()? = loaded;
        *maintenance = Maintenance { trained_rows, ..Maintenance::default() };
        Ok(())
    }

    fn statistics(&self) -> IndexStatistics {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        IndexStatistics { rows: lists.live().count() as u64, removed: 0, memory_bytes: lists.memory_bytes() as u64 }
    }
}

/// Locks working memory, which is overwritten before it is read, so that a panic beside the lock harms nothing.
fn lock<T>(scratches: &Mutex<T>) -> MutexGuard<'_, T> {
    scratches.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged() -> PluginError {
    let message =
        "the index was left half changed by an earlier panic; reload the plugin, and it is read back from disk";
    PluginError::runtime(Cause::Plugin, message)
}
