//! What is to be packed, and packing it: a bounded piece of work with each commit.
//!
//! A **slot** is a chunk and the rows up to the next one; the first slot has no chunk. Rows among the keys of a chunk, and
//! those behind it, are counted. Where enough lie behind it they become chunks of their own, which is all that happens to keys
//! that ascend; where enough lie among its keys, the chunk is written anew with them. What is counted is a hint, which
//! packing corrects: it starts at zero when the engine is opened.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use photondb_plugin_sdk::datum::{DatumRef, Kind};
use photondb_plugin_sdk::kinds::storage::{
    Direction, Durability, Entry, KeyRange, StorageEngine, StorageError, WriteBatch,
};

use crate::cache::Cache;
use crate::chunk::{self, Head, MAX_ROWS};
use crate::rows::{self, FORMAT, FORMAT_VERSION, META, NEXT, Names, SPACE, View};
use crate::{PackedOptions, Packs};

/// A chunk is written anew when this part of the rows of a full one has changed.
const CHANGED_PART: usize = 8;
/// A chunk with less than this part of its rows is joined with the next one.
const SMALL_PART: usize = 4;
/// Steps of packing that a commit makes at most, beyond what its own changes need.
const STEPS: usize = 2;

/// What is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Chunks.
    pub chunks: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of those rows as they came.
    pub raw_bytes: u64,
    /// Bytes of the chunks.
    pub stored_bytes: u64,
}

impl Totals {
    fn encode(self) -> Vec<u8> {
        [self.chunks, self.rows, self.raw_bytes, self.stored_bytes].map(u64::to_le_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [chunks, rows, raw_bytes, stored_bytes] = *numbers else { return None };
        let number = u64::from_le_bytes;
        Some(Self {
            chunks: number(chunks),
            rows: number(rows),
            raw_bytes: number(raw_bytes),
            stored_bytes: number(stored_bytes),
        })
    }

    fn add(&mut self, head: &Head, stored_bytes: u64) {
        self.chunks += 1;
        self.rows += u64::from(head.rows);
        self.raw_bytes += head.raw_bytes;
        self.stored_bytes += stored_bytes;
    }

    fn remove(&mut self, head: &Head) {
        self.chunks = self.chunks.saturating_sub(1);
        self.rows = self.rows.saturating_sub(head.rows.into());
        self.raw_bytes = self.raw_bytes.saturating_sub(head.raw_bytes);
        self.stored_bytes = self.stored_bytes.saturating_sub((head.encode().len() + head.body_bytes()) as u64);
    }
}

/// Rows that are not packed.
#[derive(Clone, Copy, Debug, Default)]
struct Unpacked {
    rows: usize,
    bytes: usize,
}

impl Unpacked {
    fn add(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }

    fn with(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }

    fn without(self, rows: usize, bytes: usize) -> Self {
        Self { rows: self.rows.saturating_sub(rows), bytes: self.bytes.saturating_sub(bytes) }
    }
}

/// A chunk, by its first key, and the rows up to the next one.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// The last key of the chunk; `None` for the rows before the first chunk.
    last_key: Option<Vec<u8>>,
    among: Unpacked,
    behind: Unpacked,
    is_due: bool,
}

struct Space {
    names: Names,
    slots: BTreeMap<Vec<u8>, Slot>,
    totals: Totals,
    /// What is in it is not to be packed.
    is_left_alone: bool,
}

impl Space {
    fn slot(&mut self, key: &[u8]) -> Option<(&Vec<u8>, &mut Slot)> {
        self.slots.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
    }

    /// A slot that has a chunk.
    fn chunk<'a>(&'a self, first: Option<&'a Vec<u8>>) -> Option<(&'a Vec<u8>, &'a Slot)> {
        let first = first?;
        self.slots.get(first).filter(|slot| slot.last_key.is_some()).map(|slot| (first, slot))
    }

    fn previous_first(&self, first: &[u8]) -> Option<&Vec<u8>> {
        self.slots.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(first))).next_back().map(|(first, _)| first)
    }

    fn next_first(&self, first: &[u8]) -> Option<&Vec<u8>> {
        self.slots.range::<[u8], _>((Bound::Excluded(first), Bound::Unbounded)).next().map(|(first, _)| first)
    }
}

/// Commits, and packs.
pub(crate) struct Packer {
    inner: Arc<dyn StorageEngine>,
    cache: Arc<Cache>,
    options: PackedOptions,
    spaces: HashMap<Arc<str>, Space>,
    /// The totals of all keyspaces, those among them that were not used yet.
    totals: HashMap<Arc<str>, Totals>,
    next_number: u64,
    due: VecDeque<(Arc<str>, Vec<u8>)>,
    failure: Option<String>,
}

impl Packer {
    pub(crate) fn open(
        inner: Arc<dyn StorageEngine>,
        cache: Arc<Cache>,
        options: PackedOptions,
    ) -> Result<Self, StorageError> {
        let damaged = |message: &str| StorageError::Damaged { keyspace: META.to_owned(), message: message.to_owned() };
        match inner.get(META, FORMAT)?.as_deref() {
            None => {
                let mut batch = WriteBatch::default();
                batch.put(META, FORMAT, [FORMAT_VERSION]);
                inner.commit(&batch, Durability::Soft)?;
            }
            Some([FORMAT_VERSION]) => {}
            Some(_) => return Err(damaged("its format is of another version: open it with the program that wrote it")),
        }
        let next_number = match inner.get(META, NEXT)? {
            None => 0,
            Some(number) => u64::from_le_bytes(number.try_into().map_err(|_| damaged("the next number is none"))?),
        };
        let mut totals = HashMap::new();
        let range = KeyRange { start: SPACE.to_vec(), end: None };
        for entry in inner.snapshot()?.scan(META, &range, Direction::Forward)? {
            let (key, value) = entry?;
            let Some(name) = key.strip_prefix(SPACE) else { break };
            let name = std::str::from_utf8(name).map_err(|_| damaged("a keyspace has no name"))?;
            totals.insert(Arc::from(name), Totals::decode(&value).ok_or_else(|| damaged("totals have a wrong form"))?);
        }
        Ok(Self {
            inner,
            cache,
            options: options.within_limits(),
            spaces: HashMap::new(),
            totals,
            next_number,
            due: VecDeque::new(),
            failure: None,
        })
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut all = Totals::default();
        for totals in self.totals.values() {
            all.chunks += totals.chunks;
            all.rows += totals.rows;
            all.raw_bytes += totals.raw_bytes;
            all.stored_bytes += totals.stored_bytes;
        }
        all
    }

    /// Why packing failed last, if it did.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn view(&self, names: &Names) -> Result<View, StorageError> {
        let snapshot = Arc::from(self.inner.snapshot()?);
        Ok(View { snapshot, names: names.clone(), cache: Arc::clone(&self.cache) })
    }

    /// Sees to it that the slots of a keyspace are known.
    fn know(&mut self, keyspace: &Arc<str>) -> Result<(), StorageError> {
        if self.spaces.contains_key(keyspace) {
            return Ok(());
        }
        let view = self.view(&Names::of(keyspace))?;
        let mut slots = BTreeMap::from([(Vec::new(), Slot::default())]);
        let mut totals = Totals::default();
        for entry in view.snapshot.scan(&view.names.heads, &KeyRange::default(), Direction::Forward)? {
            let (first, bytes) = entry?;
            let head = view.head(&bytes)?;
            totals.add(&head, (bytes.len() + head.body_bytes()) as u64);
            slots.insert(first, Slot { last_key: Some(head.last_key), ..Slot::default() });
        }
        let space = Space { names: view.names, slots, totals, is_left_alone: false };
        self.spaces.insert(Arc::clone(keyspace), space);
        Ok(())
    }

    pub(crate) fn commit(&mut self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        let mut inner = WriteBatch { changes: Vec::with_capacity(batch.changes.len()) };
        for change in &batch.changes {
            self.know(&change.keyspace)?;
            let Some(space) = self.spaces.get_mut(&change.keyspace) else { continue };
            let rows = Arc::clone(&space.names.rows);
            let is_among = space.slot(&change.key).is_some_and(|(_, slot)| slot.last_key.as_ref() >= Some(&change.key));
            let value = match &change.value {
                Some(value) => Some(rows::here(value)),
                None if is_among => Some(rows::gone()),
                None => None,
            };
            let key = change.key.clone();
            inner.changes.push(photondb_plugin_sdk::kinds::storage::Change { keyspace: rows, key, value });
        }
        self.inner.commit(&inner, durability)?;
        for change in &batch.changes {
            self.count(&change.keyspace, &change.key, change.value.as_ref().map_or(0, Vec::len));
        }
        self.pack(STEPS + batch.changes.len() * 2 * CHANGED_PART / self.options.chunk_rows);
        Ok(())
    }

    /// Counts a row that is not packed.
    fn count(&mut self, keyspace: &Arc<str>, key: &[u8], value_bytes: usize) {
        let PackedOptions { chunk_rows, chunk_bytes, .. } = self.options;
        let Some(space) = self.spaces.get_mut(keyspace).filter(|space| !space.is_left_alone) else { return };
        let Some((first, slot)) = space.slot(key) else { return };
        let is_among = slot.last_key.as_deref().is_some_and(|last| key <= last);
        let unpacked = if is_among { &mut slot.among } else { &mut slot.behind };
        unpacked.add(key.len() + value_bytes);
        if !slot.is_due && slot.wants(chunk_rows, chunk_bytes).is_some() {
            slot.is_due = true;
            let first = first.clone();
            self.due.push_back((Arc::clone(keyspace), first));
        }
    }

    /// Packs what is due, in at most so many steps. What was committed is there whether it succeeds or not.
    fn pack(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some((keyspace, first)) = self.due.pop_front() else { return };
            match self.step(&keyspace, &first) {
                Ok(()) => self.failure = None,
                Err(error) => {
                    // What is stored is not known any more, so it is read again.
                    self.failure = Some(error.to_string());
                    self.forget(&keyspace);
                }
            }
        }
    }

    fn forget(&mut self, keyspace: &str) {
        self.spaces.remove(keyspace);
        self.due.retain(|(due, _)| **due != *keyspace);
    }

    fn step(&mut self, keyspace: &Arc<str>, first: &[u8]) -> Result<(), StorageError> {
        let PackedOptions { chunk_rows, chunk_bytes, .. } = self.options;
        let Some(space) = self.spaces.get_mut(keyspace) else { return Ok(()) };
        let Some(slot) = space.slots.get_mut(first) else { return Ok(()) };
        slot.is_due = false;
        match slot.wants(chunk_rows, chunk_bytes) {
            Some(Wanted::NewChunk) => self.pack_behind(keyspace, first),
            Some(Wanted::NewVersion) => self.pack_among(keyspace, first),
            None => Ok(()),
        }
    }

    /// Makes a chunk of the first rows behind the chunk of a slot.
    fn pack_behind(&mut self, keyspace: &Arc<str>, first: &[u8]) -> Result<(), StorageError> {
        let Some(space) = self.spaces.get(keyspace) else { return Ok(()) };
        let view = self.view(&space.names)?;
        let slot = space.slots.get(first).cloned().unwrap_or_default();
        let start = slot.last_key.as_deref().map_or_else(Vec::new, rows::behind);
        let range = KeyRange { start, end: space.next_first(first).cloned() };
        let taken = self.take_rows(&view, &range)?;
        let mut change = Change::new(self.next_number);
        if !taken.is_full {
            // Fewer than were counted: some were changed twice, or removed, or hide rows of a chunk that is no more.
            let hiding = taken.rows.iter().filter(|(_, value)| value.is_none());
            hiding.for_each(|(key, _)| change.batch.delete(&view.names.rows, key.clone()));
            let rows = taken.rows.len() - change.batch.changes.len();
            self.put_back(keyspace, first, Unpacked { rows, bytes: taken.bytes });
            return if rows < taken.rows.len() { self.inner.commit(&change.batch, Durability::Soft) } else { Ok(()) };
        }
        let entries: Vec<Entry> = taken.rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let bytes = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        if self.options.packs == Packs::Documents && !are_documents(&entries) {
            if let Some(space) = self.spaces.get_mut(keyspace) {
                space.is_left_alone = true;
            }
            return Ok(());
        }
        taken.keys.into_iter().for_each(|key| change.batch.delete(&view.names.rows, key));
        change.put(&view.names, &entries, &self.options);
        let rest = slot.behind.without(entries.len(), bytes);
        let rest =
            if taken.more && rest.rows == 0 { Unpacked { rows: self.options.chunk_rows, bytes: 0 } } else { rest };
        self.put_back(keyspace, first, Unpacked::default());
        self.apply(keyspace, change, Unpacked::default(), rest)
    }

    /// Writes the chunk of a slot anew, with rows among its keys and behind it, and joins it with the next if it is small.
    fn pack_among(&mut self, keyspace: &Arc<str>, first: &[u8]) -> Result<(), StorageError> {
        let Some(space) = self.spaces.get(keyspace) else { return Ok(()) };
        let view = self.view(&space.names)?;
        let slot = space.slots.get(first).cloned().unwrap_or_default();
        let next_first = space.next_first(first).cloned();
        let taken = self.take_rows(&view, &KeyRange { start: first.to_vec(), end: next_first.clone() })?;
        let mut change = Change::new(self.next_number);
        let old = change.take_chunk_if(&view, first, |_| true)?.unwrap_or_default();
        let rest =
            if taken.more { slot.unpacked().without(taken.keys.len(), taken.bytes) } else { Unpacked::default() };
        let mut entries = merged(old, taken.rows);
        taken.keys.into_iter().for_each(|key| change.batch.delete(&view.names.rows, key));
        let (mut among, mut behind) = (rest, Unpacked::default());
        if entries.len() < self.options.chunk_rows / SMALL_PART {
            let fits = |neighbour: &Head| entries.len() + neighbour.rows as usize <= self.options.chunk_rows;
            if let Some((next_first, next)) = space.chunk(next_first.as_ref())
                && let Some(more) = change.take_chunk_if(&view, next_first, fits)?
            {
                entries.extend(more);
                (among, behind) = (among.with(next.among), next.behind);
            } else if let Some((first, previous)) = space.chunk(space.previous_first(first))
                && let Some(mut all) = change.take_chunk_if(&view, first, fits)?
            {
                all.append(&mut entries);
                entries = all;
                among = among.with(previous.unpacked());
            }
        }
        change.put(&view.names, &entries, &self.options);
        self.apply(keyspace, change, among, behind)
    }

    /// Rows of a range, up to what a chunk takes.
    fn take_rows(&self, view: &View, range: &KeyRange) -> Result<Taken, StorageError> {
        let PackedOptions { chunk_rows, chunk_bytes, .. } = self.options;
        let mut taken = Taken::default();
        let mut live = 0;
        for row in view.snapshot.scan(&view.names.rows, range, Direction::Forward)? {
            let (key, row) = row?;
            if taken.is_full || taken.keys.len() >= 2 * chunk_rows {
                taken.more = true;
                break;
            }
            taken.bytes += key.len() + row.len();
            taken.keys.push(key.clone());
            let value = rows::value(&view.names, row)?;
            live += usize::from(value.is_some());
            taken.rows.push((key, value));
            taken.is_full = live >= chunk_rows || taken.bytes >= chunk_bytes;
        }
        Ok(taken)
    }

    fn put_back(&mut self, keyspace: &str, first: &[u8], behind: Unpacked) {
        if let Some(slot) = self.spaces.get_mut(keyspace).and_then(|space| space.slots.get_mut(first)) {
            slot.behind = behind;
        }
    }

    /// Commits a change of chunks; the last one of the new ones has the rows that are left.
    fn apply(
        &mut self,
        keyspace: &Arc<str>,
        mut change: Change,
        among: Unpacked,
        behind: Unpacked,
    ) -> Result<(), StorageError> {
        let PackedOptions { chunk_rows, chunk_bytes, .. } = self.options;
        let Some(space) = self.spaces.get_mut(keyspace) else { return Ok(()) };
        let mut totals = space.totals;
        change.old.iter().for_each(|(_, head)| totals.remove(head));
        change.new.iter().for_each(|(_, head, bytes)| totals.add(head, *bytes));
        change.batch.put(META, space.names.totals.as_slice(), totals.encode());
        change.batch.put(META, NEXT, change.next_number.to_le_bytes());
        // A number is never used twice, even if it is not known whether this succeeded.
        self.next_number = change.next_number;
        self.inner.commit(&change.batch, Durability::Soft)?;
        space.totals = totals;
        self.totals.insert(Arc::clone(keyspace), totals);
        change.old.iter().for_each(|(first, _)| drop(space.slots.remove(first)));
        let last = change.new.len().wrapping_sub(1);
        for (at, (first, head, _)) in change.new.into_iter().enumerate() {
            let mut slot = Slot { last_key: Some(head.last_key), ..Slot::default() };
            if at == last {
                (slot.among, slot.behind) = (among, behind);
                if slot.wants(chunk_rows, chunk_bytes).is_some() {
                    slot.is_due = true;
                    self.due.push_back((Arc::clone(keyspace), first.clone()));
                }
            }
            space.slots.insert(first, slot);
        }
        Ok(())
    }

    pub(crate) fn remove_chunks(&mut self, keyspace: &str, first_keys: &[&[u8]]) -> Result<(), StorageError> {
        let keyspace = Arc::from(keyspace);
        self.know(&keyspace)?;
        let Some(space) = self.spaces.get(&keyspace) else { return Ok(()) };
        let view = self.view(&space.names)?;
        let mut change = Change::new(self.next_number);
        for first in first_keys {
            if let Some(head) = view.snapshot.get(&view.names.heads, first)? {
                change.remove(&view.names, first, view.head(&head)?);
            }
        }
        let removed = self.apply(&keyspace, change, Unpacked::default(), Unpacked::default());
        removed.inspect_err(|_| self.forget(&keyspace))
    }

    pub(crate) fn drop_keyspace(&mut self, keyspace: &str) -> Result<(), StorageError> {
        self.forget(keyspace);
        let names = Names::of(keyspace);
        // Heads first: pieces without a head are not read.
        for inner in [&names.heads, &names.rows, &names.chunks] {
            self.inner.drop_keyspace(inner)?;
        }
        if self.totals.remove(keyspace).is_some() {
            let mut batch = WriteBatch::default();
            batch.delete(META, names.totals);
            self.inner.commit(&batch, Durability::Soft)?;
        }
        Ok(())
    }
}

enum Wanted {
    NewChunk,
    NewVersion,
}

impl Slot {
    fn unpacked(&self) -> Unpacked {
        self.among.with(self.behind)
    }

    fn wants(&self, chunk_rows: usize, chunk_bytes: usize) -> Option<Wanted> {
        if self.behind.rows >= chunk_rows || self.behind.bytes >= chunk_bytes {
            return Some(Wanted::NewChunk);
        }
        let has_changed = self.among.rows >= (chunk_rows / CHANGED_PART).max(1) || self.among.bytes >= chunk_bytes;
        has_changed.then_some(Wanted::NewVersion)
    }
}

/// Rows that are taken to be packed.
#[derive(Default)]
struct Taken {
    /// Without a value: the row of the chunk is gone.
    rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    keys: Vec<Vec<u8>>,
    bytes: usize,
    /// They fill a chunk.
    is_full: bool,
    /// There are further ones.
    more: bool,
}

/// Chunks that others take the place of.
struct Change {
    batch: WriteBatch,
    next_number: u64,
    old: Vec<(Vec<u8>, Head)>,
    new: Vec<(Vec<u8>, Head, u64)>,
}

impl Change {
    fn new(next_number: u64) -> Self {
        Self { batch: WriteBatch::default(), next_number, old: Vec::new(), new: Vec::new() }
    }

    /// Reads the chunk that begins with a key, and removes it.
    fn take_chunk_if(
        &mut self,
        view: &View,
        first: &[u8],
        condition: impl Fn(&Head) -> bool,
    ) -> Result<Option<Vec<Entry>>, StorageError> {
        let Some(head) = view.snapshot.get(&view.names.heads, first)? else { return Ok(None) };
        let head = view.head(&head)?;
        if !condition(&head) {
            return Ok(None);
        }
        let (keys, values) = (view.keys(&head)?, view.values(&head)?);
        let entries = (0..keys.len()).map(|row| (keys.get(row).to_vec(), values.get(row).to_vec())).collect();
        self.remove(&view.names, first, head);
        Ok(Some(entries))
    }

    fn remove(&mut self, names: &Names, first: &[u8], head: Head) {
        rows::remove_chunk(&mut self.batch, names, first, &head);
        self.old.push((first.to_vec(), head));
    }

    /// Makes chunks of entries, of about the same size each.
    fn put(&mut self, names: &Names, entries: &[Entry], options: &PackedOptions) {
        let chunks = entries.len().div_ceil(options.chunk_rows);
        let rows = entries.len().div_ceil(chunks.max(1)).clamp(1, MAX_ROWS);
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(rows).take_while(|(key, value)| {
                let fits = bytes < options.chunk_bytes;
                bytes += key.len() + value.len();
                fits
            });
            let (taken, behind) = rest.split_at(fits.count().max(1));
            rest = behind;
            let (head, body) = chunk::pack(self.next_number, taken);
            self.next_number += 1;
            let stored = rows::put_chunk(&mut self.batch, names, &taken[0].0, &head, &body);
            self.new.push((taken[0].0.clone(), head, stored));
        }
    }
}

/// The rows of a chunk and changes of it: both ascend, and the changes win.
fn merged(old: Vec<Entry>, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(old.len() + changes.len());
    let mut old = old.into_iter().peekable();
    for (key, value) in changes {
        while let Some(entry) = old.next_if(|(old, _)| *old < key) {
            entries.push(entry);
        }
        let _ = old.next_if(|(old, _)| *old == key);
        entries.extend(value.map(|value| (key, value)));
    }
    entries.extend(old);
    entries
}

fn are_documents(entries: &[Entry]) -> bool {
    let is_document = |value: &[u8]| {
        DatumRef::new(value).is_ok_and(|value| value.kind() == Some(Kind::Object) && value.len().is_some())
    };
    entries.iter().filter(|(_, value)| is_document(value)).count() * 2 >= entries.len()
}
