//! The plugin's half: engines that are open in this process, and what the server keeps open in them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use photondb_ipc_schema::lane::{Operation, Request};

use super::message::{Reader, Writer, decode_batch, put_group, read_selection};
use super::{ABSENT, ALL, AND_MORE, DAMAGED, END, ENTRY_OVERHEAD, HARD, MORE, PART, PRESENT, TOO_LARGE, UNWANTED};
use crate::calls::protocol;
use crate::kinds::storage::{
    Direction, Durability, Entry, EntryIterator, KeyRange, StorageConfig, StorageEngine, StorageEnginePlugin,
    StorageError, StorageSnapshot, Upkeep, UpkeepRequest,
};
use crate::{Cause, Datum, PluginError};

/// Where the directories of engines are, in the plugin's own.
const DIRECTORY: &str = "engines";
/// Snapshots and scans of one engine at a time: a server that forgets to free them must not take all memory.
const MAX_OPEN: usize = 4096;

impl From<StorageError> for PluginError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Failed(message) | StorageError::Closed(message) => Self::runtime(Cause::Plugin, message),
            StorageError::Unknown(message) => Self::runtime(Cause::Indeterminate, message),
            StorageError::Damaged { keyspace, message } => {
                Self::runtime(Cause::Damaged, format!("{keyspace}{DAMAGED}{message}"))
            }
        }
    }
}

/// The engines of a plugin.
pub(crate) struct Engines {
    /// The plugin's own directory, where it has one.
    state: Option<PathBuf>,
    open: RwLock<HashMap<u32, Arc<OpenEngine>>>,
}

impl Engines {
    pub(crate) fn new(state: Option<PathBuf>) -> Self {
        Self { state, open: RwLock::default() }
    }

    /// Answers a call: the bytes of the reply, and its value.
    pub(crate) fn answer(
        &self,
        kinds: &[Arc<dyn StorageEnginePlugin>],
        operation: Operation,
        request: &Request,
        payload: &[u8],
        reply: &mut [u8],
    ) -> Result<(usize, u64), PluginError> {
        let mut reader = Reader(payload);
        match operation {
            Operation::EngineValidate => {
                let kind = kind(kinds, reader.text()?)?;
                kind.validate(&read_datum(reader.long()?)?)?;
            }
            Operation::EngineOpen => {
                let kind = kind(kinds, reader.text()?)?;
                let directory = self.directory(reader.text()?)?;
                if !directory.as_os_str().is_empty() {
                    fs::create_dir_all(&directory).map_err(|error| failed("making", &directory, &error))?;
                }
                let (cache_bytes, options) = (reader.u64()?, read_datum(reader.long()?)?);
                let engine = kind.open(&StorageConfig { directory, cache_bytes, options })?;
                lock_for_change(&self.open).insert(request.target, Arc::new(OpenEngine::new(engine)));
            }
            Operation::EngineClose => {
                let closed = lock_for_change(&self.open).remove(&request.target);
                if let Some(engine) = closed {
                    engine.release_all();
                    engine.engine.flush()?;
                }
            }
            Operation::EngineRemove => {
                let directory = self.directory(reader.text()?)?;
                if !directory.as_os_str().is_empty() {
                    remove(&directory).map_err(|error| failed("removing", &directory, &error))?;
                }
            }
            _ => return self.engine(request.target)?.answer(operation, request, payload, reply),
        }
        Ok((0, 0))
    }

    fn engine(&self, number: u32) -> Result<Arc<OpenEngine>, PluginError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&number).cloned().ok_or_else(|| protocol(format!("engine {number} is not open")))
    }

    /// The directory of an engine; empty where the plugin has none of its own.
    fn directory(&self, name: &str) -> Result<PathBuf, PluginError> {
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_name {
            return Err(protocol("the directory of an engine has another name than a server gives"));
        }
        Ok(self.state.as_ref().map(|state| state.join(DIRECTORY).join(name)).unwrap_or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What panicked was the engine's own code, which is judged by what it answers.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock_for_change<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn kind<'a>(
    kinds: &'a [Arc<dyn StorageEnginePlugin>],
    name: &str,
) -> Result<&'a Arc<dyn StorageEnginePlugin>, PluginError> {
    let found = kinds.iter().find(|kind| kind.engine_type() == name);
    found.ok_or_else(|| protocol(format!("no storage engine `{name}` here")))
}

fn read_datum(bytes: &[u8]) -> Result<Datum, PluginError> {
    Datum::decode(bytes).map_err(|error| protocol(error.to_string()))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> PluginError {
    PluginError::runtime(Cause::Plugin, format!("{what} {}: {error}", path.display()))
}

/// Removes a directory with all that is in it, which only this plugin made. Without the flags of the standard library's
/// own function, which the permission `state` does not have.
fn remove(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() { remove(&entry.path())? } else { fs::remove_file(entry.path())? }
    }
    fs::remove_dir(path)
}

struct OpenEngine {
    engine: Box<dyn StorageEngine>,
    /// The bytes so far of a batch that comes in several messages.
    staged: Mutex<Vec<u8>>,
    snapshots: Mutex<HashMap<u64, Arc<dyn StorageSnapshot>>>,
    scans: Mutex<HashMap<u64, Arc<Mutex<Scan>>>>,
}

impl OpenEngine {
    fn new(engine: Box<dyn StorageEngine>) -> Self {
        Self { engine, staged: Mutex::default(), snapshots: Mutex::default(), scans: Mutex::default() }
    }

    fn answer(
        &self,
        operation: Operation,
        request: &Request,
        payload: &[u8],
        reply: &mut [u8],
    ) -> Result<(usize, u64), PluginError> {
        let mut reader = Reader(payload);
        match operation {
            Operation::EngineGet => return self.get(request.argument, reader, reply),
            Operation::EngineStage => self.stage(request.argument, payload)?,
            Operation::EngineCommit => self.commit(request.argument, payload)?,
            Operation::EngineSnapshot => {
                let snapshot = self.engine.snapshot()?;
                insert(&self.snapshots, request.argument, Arc::from(snapshot))?;
            }
            Operation::EngineRelease => {
                while !reader.is_empty() {
                    let number = reader.u64()?;
                    // Dropped outside the locks: an engine may do work then.
                    let snapshot = lock(&self.snapshots).remove(&number);
                    let scan = lock(&self.scans).remove(&number);
                    drop((snapshot, scan));
                }
            }
            Operation::EngineScan => return self.scan(request.argument, reader, reply),
            Operation::EnginePage => {
                let scan = lock(&self.scans).get(&request.argument).cloned();
                let scan = scan.ok_or_else(|| protocol(format!("scan {} is not open", request.argument)))?;
                return lock(&scan).page(reader.u32()? as usize, reply);
            }
            Operation::EngineFlush => self.engine.flush()?,
            Operation::EngineDropKeyspace => self.engine.drop_keyspace(reader.text()?)?,
            Operation::EngineStatistics => {
                let statistics = self.engine.statistics().encoded();
                let mut writer = Writer::new(reply);
                let fits = writer.put(&[&statistics]);
                return if fits { Ok((writer.len(), 0)) } else { Err(protocol("statistics that fit into no reply")) };
            }
            Operation::EngineUpkeep => return self.upkeep(reader, reply),
            other => return Err(protocol(format!("{other:?} is no operation of an engine"))),
        }
        Ok((0, 0))
    }

    fn get(&self, snapshot: u64, mut reader: Reader<'_>, reply: &mut [u8]) -> Result<(usize, u64), PluginError> {
        let keyspace = reader.text()?;
        let count = reader.u32()?;
        let snapshot = (snapshot != 0).then(|| self.snapshot(snapshot)).transpose()?;
        let mut writer = Writer::new(reply);
        if count == 1 {
            let key = reader.short()?;
            let value = match &snapshot {
                Some(snapshot) => snapshot.get(keyspace, key)?,
                None => self.engine.get(keyspace, key)?,
            };
            put_value(&mut writer, value.as_deref());
            return Ok((writer.len(), 1));
        }
        let keys: Vec<&[u8]> = (0..count).map(|_| reader.short()).collect::<Result<_, _>>()?;
        let mut answered = 0;
        // In parts: those that no longer fit would have been read for nothing.
        for part in keys.chunks(32) {
            let values = match &snapshot {
                Some(snapshot) => snapshot.get_many(keyspace, part)?,
                None => self.engine.get_many(keyspace, part)?,
            };
            for value in values {
                if !put_value(&mut writer, value.as_deref()) {
                    return Ok((writer.len(), answered));
                }
                answered += 1;
            }
        }
        Ok((writer.len(), answered))
    }

    fn stage(&self, offset: u64, bytes: &[u8]) -> Result<(), PluginError> {
        let mut staged = lock(&self.staged);
        if offset == 0 {
            staged.clear();
        }
        if staged.len() as u64 != offset {
            return Err(protocol("a part of a batch is missing"));
        }
        staged.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(&self, argument: u64, bytes: &[u8]) -> Result<(), PluginError> {
        let mut staged = std::mem::take(&mut *lock(&self.staged));
        let batch = if staged.is_empty() {
            decode_batch(bytes)?
        } else {
            staged.extend_from_slice(bytes);
            decode_batch(&staged)?
        };
        let durability = if argument & HARD == 0 { Durability::Soft } else { Durability::Hard };
        Ok(self.engine.commit(&batch, durability)?)
    }

    fn snapshot(&self, number: u64) -> Result<Arc<dyn StorageSnapshot>, PluginError> {
        let found = lock(&self.snapshots).get(&number).cloned();
        found.ok_or_else(|| protocol(format!("snapshot {number} is not open")))
    }

    fn scan(&self, number: u64, mut reader: Reader<'_>, reply: &mut [u8]) -> Result<(usize, u64), PluginError> {
        let snapshot = self.snapshot(reader.u64()?)?;
        let direction = if reader.u8()? == 0 { Direction::Forward } else { Direction::Backward };
        let bytes = reader.u32()? as usize;
        let (keyspace, start) = (reader.text()?, reader.short()?.to_vec());
        let end = (reader.u8()? != 0).then(|| reader.short().map(<[u8]>::to_vec)).transpose()?;
        let selection = read_selection(reader)?;
        let mut scan = Scan {
            entries: snapshot.scan_selected(keyspace, &KeyRange { start, end }, direction, &selection)?,
            next: None,
            sent: 0,
            failure: None,
        };
        let page = scan.page(bytes, reply)?;
        // One that is over already need not be freed.
        if page.1 != END {
            insert(&self.scans, number, Arc::new(Mutex::new(scan)))?;
        }
        Ok(page)
    }

    fn upkeep(&self, mut reader: Reader<'_>, reply: &mut [u8]) -> Result<(usize, u64), PluginError> {
        let (now, most) = (f64::from_bits(reader.u64()?), reader.u32()? as usize);
        let request = UpkeepRequest { documents: reader.text()?, primary_key: reader.text()?, now, most };
        let Some(Upkeep { groups, has_more }) = self.engine.upkeep(&request)? else { return Ok((0, UNWANTED)) };
        let (mut writer, mut bytes) = (Writer::new(reply), Vec::new());
        for group in &groups {
            bytes.clear();
            put_group(&mut bytes, group);
            if !writer.put(&[&bytes]) {
                // It will want the rest again.
                let fits = writer.len() > 0;
                return if fits {
                    Ok((writer.len(), AND_MORE))
                } else {
                    Err(protocol("a group that fits into no reply"))
                };
            }
        }
        Ok((writer.len(), if has_more { AND_MORE } else { ALL }))
    }

    fn release_all(&self) {
        lock(&self.scans).clear();
        lock(&self.snapshots).clear();
    }
}

/// Writes a value of a reply; whether it fitted. One that fits into no reply is said to be such.
fn put_value(writer: &mut Writer<'_>, value: Option<&[u8]>) -> bool {
    match value {
        None => writer.put(&[&[ABSENT]]),
        Some(value) if value.len() > writer.left() + writer.len() - 5 => writer.put(&[&[TOO_LARGE]]),
        Some(value) => writer.put(&[&[PRESENT], &(value.len() as u32).to_le_bytes(), value]),
    }
}

fn insert<T>(open: &Mutex<HashMap<u64, T>>, number: u64, new: T) -> Result<(), PluginError> {
    let mut open = lock(open);
    if open.len() >= MAX_OPEN {
        let message = format!("{MAX_OPEN} snapshots or scans of one table are open already; close some cursors");
        return Err(PluginError::runtime(Cause::Limit, message));
    }
    open.insert(number, new);
    Ok(())
}

/// A scan between two pages.
struct Scan {
    entries: EntryIterator,
    /// The entry that did not fit into the last page, or of which a piece was sent.
    next: Option<Entry>,
    /// Bytes of its value that were sent.
    sent: usize,
    /// What failed behind the entries of the last page.
    failure: Option<StorageError>,
}

impl Scan {
    /// Fills a page with about so many bytes.
    fn page(&mut self, bytes: usize, reply: &mut [u8]) -> Result<(usize, u64), PluginError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure.into());
        }
        let capacity = reply.len();
        let mut writer = Writer::new(reply);
        loop {
            let entry = match self.next.take() {
                Some(entry) => entry,
                None => match self.entries.next() {
                    None => return Ok((writer.len(), END)),
                    Some(Ok(entry)) => entry,
                    Some(Err(error)) if writer.len() == 0 => return Err(error.into()),
                    Some(Err(error)) => {
                        self.failure = Some(error);
                        return Ok((writer.len(), MORE));
                    }
                },
            };
            let (key, value) = &entry;
            let key_bytes = u16::try_from(key.len()).map_err(|_| protocol("a key of more than 65,535 bytes"))?;
            let goes_in_pieces = value.len() + ENTRY_OVERHEAD > capacity;
            let fits = !goes_in_pieces && writer.len() + 6 + key.len() + value.len() <= bytes.min(capacity);
            if writer.len() > 0 && !fits {
                self.next = Some(entry);
                return Ok((writer.len(), MORE));
            }
            if goes_in_pieces {
                return Ok((self.piece(entry, &mut writer), PART));
            }
            writer.put(&[&key_bytes.to_le_bytes(), key, &(value.len() as u32).to_le_bytes(), value]);
        }
    }

    /// Writes the next piece of an entry that does not fit into a page.
    fn piece(&mut self, entry: Entry, writer: &mut Writer<'_>) -> usize {
        let (key, value) = &entry;
        let end = value.len().min(self.sent + writer.left() - ENTRY_OVERHEAD);
        let piece = &value[self.sent..end];
        writer.put(&[&(key.len() as u16).to_le_bytes(), key, &(value.len() as u64).to_le_bytes(), piece]);
        self.sent = end;
        if end == value.len() {
            self.sent = 0;
        } else {
            self.next = Some(entry);
        }
        writer.len()
    }
}
