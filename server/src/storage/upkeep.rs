//! What engines of plugins want done to their documents: an engine can't change them by itself, since index entries,
//! counts and vector indexes belong to the server.
//!
//! Every engine that is open is asked now and then. What it wants is applied as writes are, in groups: each is one commit,
//! if the documents are still as the engine saw them, and if it may be a write at all.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Time;
use photondb_plugin_sdk::kinds::storage::{DocumentChange, Durability, MOST_CHANGES, StorageError, UpkeepRequest};

use super::backend::Opened;
use super::document::decode;
use super::error::StoreError;
use super::indexes::Index;
use super::store::Database;
use super::table::Table;
use super::writer::Request;
use super::{Shared, keys};

/// Changes that an engine is asked for at once.
const MOST: usize = 4 * MOST_CHANGES;
/// How long one table is kept up before the next one's turn.
const TURN: Duration = Duration::from_secs(5);

/// What upkeep has done to a table since the server was started.
#[derive(Clone, Debug, Default)]
pub(super) struct UpkeepStatus {
    /// When the engine was last asked, and answered.
    last: Option<SystemTime>,
    removed: u64,
    written: u64,
    /// Groups whose documents had changed meanwhile.
    passed_over: u64,
    /// What went wrong the last time.
    problem: Option<String>,
}

impl UpkeepStatus {
    fn to_datum(&self) -> Datum {
        let seconds = self.last.and_then(|last| last.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs_f64());
        Datum::object([
            ("last", seconds.and_then(|seconds| Time::new(seconds, 0).ok()).map_or(Datum::Null, Datum::Time)),
            ("removed", self.removed.into()),
            ("written", self.written.into()),
            ("passed_over", self.passed_over.into()),
            ("problem", self.problem.clone().into()),
        ])
    }
}

/// Asks the engines of all tables, each `every` so long, until the store is closed.
pub(super) fn run(shared: &Shared, databases: &RwLock<BTreeMap<String, Database>>, every: Duration) {
    while !shared.wait_for_closing(every) {
        let tables: Vec<Arc<Table>> = {
            let databases = databases.read().unwrap_or_else(PoisonError::into_inner);
            databases.values().flat_map(Database::tables).cloned().collect()
        };
        tables.iter().filter(|table| table.backend.of_table().is_some()).for_each(|table| table.keep_up(shared));
    }
}

/// What became of a group.
enum Applied {
    Yes,
    /// One of its documents has changed since.
    TooLate,
}

impl Table {
    /// What upkeep has done to the table; null where its engine never wanted any.
    #[must_use]
    pub fn upkeep_status(&self) -> Datum {
        let status = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        if status.last.is_none() && status.problem.is_none() { Datum::Null } else { status.to_datum() }
    }

    /// Does what the engine wants, until it wants nothing more or its turn is over. An engine that is not open waits until
    /// somebody needs it.
    fn keep_up(&self, shared: &Shared) {
        let (started, before) = (Instant::now(), self.change_status(|status| (status.removed, status.written)));
        let problem = loop {
            let Some(opened) = self.backend.present() else { return };
            match self.keep_up_once(&opened) {
                Ok(Progress::Unwanted) => return,
                Ok(Progress::More) if started.elapsed() < TURN && !shared.is_closing() => {}
                Ok(_) => break None,
                // The table was dropped, or its process ended: the next time, in the next one.
                Err(StoreError::TableMissing { .. } | StoreError::Storage(StorageError::Closed(_))) => return,
                Err(StoreError::Storage(error)) => break Some(self.backend.explain(error).to_string()),
                Err(error) => break Some(error.to_string()),
            }
        };
        let table = format!("{}.{}", self.info().db, self.info().name);
        if let Some(problem) = &problem {
            tracing::warn!(table, problem, "what a storage engine wanted done to its documents was not done");
        }
        let (removed, written) = self.change_status(|status| {
            status.problem = problem;
            (status.removed - before.0, status.written - before.1)
        });
        if removed + written > 0 {
            tracing::info!(table, removed, written, "documents were changed as their storage engine wanted");
        }
    }

    fn change_status<T>(&self, change: impl FnOnce(&mut UpkeepStatus) -> T) -> T {
        change(&mut self.upkeep.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks once, and applies the answer.
    fn keep_up_once(&self, opened: &Opened) -> Result<Progress, StoreError> {
        let now = SystemTime::now();
        let request = UpkeepRequest {
            documents: &self.documents,
            primary_key: &self.info().primary_key,
            now: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            most: MOST,
        };
        let wanted = opened.engine.upkeep(&request);
        self.backend.is_lost(opened, wanted.as_ref().err());
        let Some(wanted) = wanted? else { return Ok(Progress::Unwanted) };
        self.change_status(|status| status.last = Some(now));
        let mut is_some = false;
        for group in &wanted.groups {
            match self.apply_group(opened, group)? {
                Applied::Yes => {
                    let removed = group.iter().filter(|change| change.after.is_none()).count() as u64;
                    self.change_status(|status| {
                        status.removed += removed;
                        status.written += group.len() as u64 - removed;
                    });
                    is_some = true;
                }
                Applied::TooLate => self.change_status(|status| status.passed_over += 1),
            }
        }
        // One that changes nothing and wants to be asked again waits, as all do.
        Ok(if wanted.has_more && is_some { Progress::More } else { Progress::Done })
    }

    /// Changes the documents of a group in one commit, if all of them are as the engine saw them.
    fn apply_group(&self, opened: &Opened, group: &[DocumentChange]) -> Result<Applied, StoreError> {
        let _gate = self.enter()?;
        let indexes = self.index_list();
        let changes = self.check_group(group)?;
        let _locks = self.locks.lock(changes.iter().map(|change| change.key.as_slice()));
        let wanted: Vec<&[u8]> = changes.iter().map(|change| change.key.as_slice()).collect();
        let present = opened.engine.get_many(&self.documents, &wanted)?;
        if present.iter().zip(group).any(|(present, change)| *present != change.before) {
            return Ok(Applied::TooLate);
        }
        let mut request = Request { epoch: Some(opened.epoch), ..Request::default() };
        let mut growth = 0;
        for Checked { key, old, new } in changes {
            for Index { core, .. } in indexes.iter() {
                core.stage(&self.entries, &key, old.as_ref(), new.as_ref(), &mut request.batch, &mut request.vectors);
            }
            growth += i64::from(new.is_some()) - i64::from(old.is_some());
            match new {
                Some(new) => request.batch.put(&self.documents, key, new.encoded()),
                None => request.batch.delete(&self.documents, key),
            }
        }
        if growth != 0 {
            request.growth = Some((Arc::clone(&self.counter), growth));
        }
        self.backend.writer.submit(request, Durability::Soft)?.wait_applied()?;
        Ok(Applied::Yes)
    }

    /// The changes of a group; or what is wrong with one.
    fn check_group(&self, group: &[DocumentChange]) -> Result<Vec<Checked>, StoreError> {
        if group.len() > MOST_CHANGES {
            return Err(wrong("a group of more changes than one may have"));
        }
        let changes: Vec<Checked> = group.iter().map(|change| self.check_change(change)).collect::<Result<_, _>>()?;
        let keys: HashSet<&[u8]> = changes.iter().map(|change| change.key.as_slice()).collect();
        if keys.len() < changes.len() {
            return Err(wrong("a group that changes a document twice"));
        }
        drop(keys);
        Ok(changes)
    }

    fn check_change(&self, DocumentChange { key, before, after }: &DocumentChange) -> Result<Checked, StoreError> {
        let document = |bytes: &Vec<u8>| {
            let document = decode(&self.documents, bytes)?;
            let primary_key = document.get(&self.info().primary_key).cloned();
            let primary_key = primary_key.ok_or_else(|| wrong("a document without its primary key"))?;
            let own_key = keys::primary_key(&primary_key)?;
            self.check_document(&primary_key, &own_key, &document)?;
            Ok::<_, StoreError>((own_key, document))
        };
        let (old, new) = (before.as_ref().map(document).transpose()?, after.as_ref().map(document).transpose()?);
        let ((old_key, old), (new_key, new)) = (old.unzip(), new.unzip());
        let is_other = |own_key: &Vec<u8>| [&old_key, &new_key].into_iter().flatten().any(|key| key != own_key);
        match old_key.clone().or(new_key.clone()) {
            None => Err(wrong("a change of nothing to nothing")),
            Some(own_key) if is_other(&own_key) || !key.is_empty() && *key != own_key => {
                Err(wrong("a document under another key than its own"))
            }
            Some(key) => Ok(Checked { key, old, new }),
        }
    }
}

/// A change that may be made.
struct Checked {
    key: Vec<u8>,
    old: Option<Datum>,
    new: Option<Datum>,
}

fn wrong(message: &str) -> StoreError {
    StoreError::Storage(StorageError::Failed(format!("upkeep: {message}")))
}

/// How far the upkeep of a table is.
enum Progress {
    /// The engine wants none.
    Unwanted,
    /// It wants to be asked again at once.
    More,
    Done,
}

/// What upkeep has done to a table, behind its lock.
pub(super) type Status = Mutex<UpkeepStatus>;
