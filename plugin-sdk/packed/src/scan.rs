//! Scans: rows and chunks, merged.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use photondb_plugin_sdk::kinds::storage::{Direction, Entry, EntryIterator, KeyRange, Selection, StorageError};

use crate::chunk::{self, Column, DamagedChunk, Head, Keys, WholeRows};
use crate::rows::{self, View};

/// Rows that are left out in a row before one is given all the same. Whoever asks for an entry waits for it, and not for
/// long: a call of a plugin has a deadline.
const MOST_LEFT_OUT: usize = 1 << 20;

/// The entries of a range that a selection does not allow to leave out, and now and then one that it does.
pub(crate) struct Scan {
    view: View,
    range: KeyRange,
    direction: Direction,
    selection: Selection,
    rows: Peekable<EntryIterator>,
    heads: EntryIterator,
    next_chunk: NextChunk,
    left_out: usize,
    is_over: bool,
}

/// Where the scan is in the chunks.
enum NextChunk {
    /// Behind one.
    Unknown,
    /// Before one, of which the head was read; with its first key.
    Closed(Vec<u8>, Head),
    /// In one.
    Open(Box<OpenChunk>),
    /// Behind the last one.
    None,
}

struct OpenChunk {
    keys: Keys,
    whole: WholeRows,
    columns: Vec<(Arc<str>, Column)>,
    /// Rows that are not left out; `None`: all.
    kept: Option<Vec<bool>>,
    /// Rows that are left.
    left: Range<usize>,
}

impl OpenChunk {
    /// The next row that is kept.
    fn peek(&mut self, direction: Direction) -> Option<usize> {
        loop {
            let row = match direction {
                Direction::Forward => self.left.start,
                Direction::Backward => self.left.end.checked_sub(1)?,
            };
            if self.left.is_empty() {
                return None;
            }
            if self.kept.as_ref().is_none_or(|kept| kept[row]) {
                return Some(row);
            }
            self.step(direction);
        }
    }

    fn step(&mut self, direction: Direction) {
        match direction {
            Direction::Forward => self.left.start += 1,
            Direction::Backward => self.left.end -= 1,
        }
    }

    fn value(&self, row: usize, selection: &Selection) -> Vec<u8> {
        match self.whole.get(row) {
            Some(value) => selection.project(value.to_vec()),
            None => {
                let mut value = Vec::new();
                chunk::assemble(self.columns.iter().map(|(name, column)| (&**name, column)), row, &mut value);
                value
            }
        }
    }
}

impl Scan {
    pub(crate) fn begin(
        view: View,
        range: &KeyRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<Self, StorageError> {
        let rows = view.snapshot.scan(&view.names.rows, range, direction)?.peekable();
        // The first chunk may begin before the range.
        let start = view.head_at(&range.start)?.map_or_else(|| range.start.clone(), |(first, _)| first);
        let heads = KeyRange { start, end: range.end.clone() };
        let heads = view.snapshot.scan(&view.names.heads, &heads, direction)?;
        let is_over = range.end.as_ref().is_some_and(|end| *end <= range.start);
        let (range, selection) = (range.clone(), selection.clone());
        Ok(Self {
            view,
            range,
            direction,
            selection,
            rows,
            heads,
            next_chunk: NextChunk::Unknown,
            left_out: 0,
            is_over,
        })
    }

    fn advance(&mut self) -> Result<Option<Entry>, StorageError> {
        loop {
            if let Some(Err(_)) = self.rows.peek() {
                return self.rows.next().transpose();
            }
            if let NextChunk::Open(open) = &mut self.next_chunk
                && open.peek(self.direction).is_none()
            {
                self.next_chunk = NextChunk::Unknown;
            }
            if let NextChunk::Unknown = self.next_chunk {
                self.find_chunk()?;
            }
            let row = self.rows.peek().and_then(|row| row.as_ref().ok()).map(|(key, _)| key.as_slice());
            let packed = match (&mut self.next_chunk, self.direction) {
                (NextChunk::Closed(first, _), Direction::Forward) => Some(first.as_slice()),
                (NextChunk::Closed(_, head), Direction::Backward) => Some(head.last_key.as_slice()),
                (NextChunk::Open(open), direction) => open.peek(direction).map(|row| open.keys.get(row)),
                (NextChunk::Unknown | NextChunk::None, _) => None,
            };
            let order = match (row, packed, self.direction) {
                (None, None, _) => return Ok(None),
                (Some(_), None, _) => Ordering::Less,
                (None, Some(_), _) => Ordering::Greater,
                (Some(row), Some(packed), Direction::Forward) => row.cmp(packed),
                (Some(row), Some(packed), Direction::Backward) => packed.cmp(row),
            };
            let found = if order.is_lt() { self.next_row()? } else { self.next_packed(order.is_eq())? };
            if found.is_some() {
                self.left_out = 0;
                return Ok(found);
            }
        }
    }

    fn next_row(&mut self) -> Result<Option<Entry>, StorageError> {
        let Some((key, row)) = self.rows.next().transpose()? else { return Ok(None) };
        let Some(value) = rows::value(&self.view.names, row)? else { return Ok(None) };
        if self.left_out < MOST_LEFT_OUT && self.selection.excludes(&value) {
            self.left_out += 1;
            return Ok(None);
        }
        Ok(Some((key, self.selection.project(value))))
    }

    /// The next row of the chunk, or what hides it; opens the chunk first.
    fn next_packed(&mut self, is_hidden: bool) -> Result<Option<Entry>, StorageError> {
        match std::mem::replace(&mut self.next_chunk, NextChunk::Unknown) {
            NextChunk::Closed(_, head) => {
                if let Some(open) = self.open(&head)? {
                    self.next_chunk = NextChunk::Open(Box::new(open));
                }
                Ok(None)
            }
            NextChunk::Open(mut open) => {
                let row = open.peek(self.direction).filter(|_| !is_hidden);
                let entry = row.map(|row| (open.keys.get(row).to_vec(), open.value(row, &self.selection)));
                open.step(self.direction);
                self.next_chunk = NextChunk::Open(open);
                if is_hidden { self.next_row() } else { Ok(entry) }
            }
            other => {
                self.next_chunk = other;
                Ok(None)
            }
        }
    }

    /// Finds the next chunk of which something may be kept.
    fn find_chunk(&mut self) -> Result<(), StorageError> {
        self.next_chunk = NextChunk::None;
        while let Some((first, head)) = self.heads.next().transpose()? {
            let head = self.view.head(&head)?;
            if head.last_key < self.range.start {
                continue;
            }
            if self.left_out < MOST_LEFT_OUT && head.is_excluded(&self.selection) {
                // A head costs about as much as some rows.
                self.left_out += 64;
                continue;
            }
            self.next_chunk = NextChunk::Closed(first, head);
            break;
        }
        Ok(())
    }

    /// Reads what is needed of a chunk; `None` where nothing of it is kept.
    fn open(&mut self, head: &Head) -> Result<Option<OpenChunk>, StorageError> {
        let keys = self.view.keys(head)?;
        let start = keys.position(&self.range.start);
        let left = start..self.range.end.as_ref().map_or(keys.len(), |end| keys.position(end)).max(start);
        if left.is_empty() {
            return Ok(None);
        }
        let damaged = |what| self.view.names.damaged(what);
        let whole = self.view.body(head, &head.whole)?;
        let whole = WholeRows::read(head, &whole).map_err(damaged)?;
        let mut columns = Columns { view: &self.view, head, read: Vec::new(), budget: chunk::MAX_BYTES };
        let kept = if self.selection.filter.is_empty() {
            None
        } else {
            let mut kept = kept(&self.selection, &left, &whole, &mut columns)?;
            if self.left_out >= MOST_LEFT_OUT {
                kept[left.start] = true;
            }
            let count = kept.iter().filter(|kept| **kept).count();
            if count == 0 {
                self.left_out += left.len();
                return Ok(None);
            }
            Some(kept)
        };
        let columns = columns.wanted(&self.selection)?;
        Ok(Some(OpenChunk { keys, whole, columns, kept, left }))
    }
}

/// Which rows the selection does not allow to leave out.
fn kept(
    selection: &Selection,
    left: &Range<usize>,
    whole: &WholeRows,
    columns: &mut Columns<'_>,
) -> Result<Vec<bool>, StorageError> {
    for range in &selection.filter {
        columns.get(&range.field)?;
    }
    let is_kept = |row: usize| match whole.get(row) {
        Some(value) => !selection.excludes(value),
        None => !selection.excludes_fields(|field| columns.known(field)?.get(row)),
    };
    let mut kept = vec![false; left.end];
    left.clone().for_each(|row| kept[row] = is_kept(row));
    Ok(kept)
}

/// The columns of a chunk, each read once.
struct Columns<'a> {
    view: &'a View,
    head: &'a Head,
    read: Vec<(Arc<str>, Column)>,
    budget: usize,
}

impl Columns<'_> {
    fn get(&mut self, name: &str) -> Result<Option<&Column>, StorageError> {
        if !self.read.iter().any(|(known, _)| **known == *name) {
            let Some(column) = self.head.column(name) else { return Ok(None) };
            let section = self.view.body(self.head, &column.section)?;
            let read = chunk::read_column(self.head, &section, &mut self.budget);
            let read = read.map_err(|what| self.view.names.damaged(what))?;
            self.read.push((Arc::clone(&column.name), read));
        }
        Ok(self.known(name))
    }

    /// A column that was read.
    fn known(&self, name: &str) -> Option<&Column> {
        self.read.iter().find(|(known, _)| **known == *name).map(|(_, column)| column)
    }

    /// Those that are wanted, in the order of their names.
    fn wanted(mut self, selection: &Selection) -> Result<Vec<(Arc<str>, Column)>, StorageError> {
        let wanted = self.head.columns.iter().filter(|column| selection.wants(&column.name));
        let missing: Vec<_> =
            wanted.filter(|column| !self.read.iter().any(|(known, _)| *known == column.name)).collect();
        // In one read, where nearly all are: they lie side by side.
        if let [first, .., last] = missing.as_slice()
            && missing.len() * 2 > self.head.columns.len()
        {
            let (start, bytes) =
                (first.section.start, self.view.body(self.head, &(first.section.start..last.section.end))?);
            for column in missing {
                let section = &bytes[column.section.start - start..column.section.end - start];
                let read = chunk::read_column(self.head, section, &mut self.budget);
                self.read.push((
                    Arc::clone(&column.name),
                    read.map_err(|what: DamagedChunk| self.view.names.damaged(what))?,
                ));
            }
        } else {
            for column in missing {
                self.get(&column.name)?;
            }
        }
        self.read.retain(|(name, _)| selection.wants(name));
        self.read.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        Ok(self.read)
    }
}

impl Iterator for Scan {
    type Item = Result<Entry, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let found = self.advance().transpose();
        // Behind an error there is nothing.
        self.is_over = !matches!(found, Some(Ok(_)));
        found
    }
}
