//! Documents as they are stored.

use std::fmt;
use std::sync::{Arc, OnceLock};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::DatumRef;
use photondb_plugin_sdk::kinds::storage::StorageSnapshot;

use super::error::StoreError;

/// A document, or a value, as it is stored: decoded when somebody needs all of it, and then once.
///
/// Of some documents only the fields were read that a query was thought to need (`Part`). Whoever needs another one gets it:
/// the document is then read from the snapshot of its scan.
#[derive(Debug)]
pub struct Document {
    keyspace: Arc<str>,
    bytes: Vec<u8>,
    part: Option<Box<Part>>,
    decoded: OnceLock<Datum>,
}

/// What is known of a document of which only some fields were read.
pub(super) struct Part {
    /// The fields; what it lacks of them is not there.
    fields: Arc<[Arc<str>]>,
    snapshot: Arc<dyn StorageSnapshot>,
    key: Vec<u8>,
    /// The whole document, once somebody needed it.
    whole: OnceLock<Vec<u8>>,
}

impl Part {
    pub(super) fn new(fields: Arc<[Arc<str>]>, snapshot: Arc<dyn StorageSnapshot>, key: Vec<u8>) -> Self {
        Self { fields, snapshot, key, whole: OnceLock::new() }
    }

    fn whole(&self, keyspace: &str) -> Result<&[u8], StoreError> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let whole = self.snapshot.get(keyspace, &self.key)?;
        let whole = whole.ok_or_else(|| StoreError::damaged(keyspace, "a document that a scan gave is not there"))?;
        Ok(self.whole.get_or_init(|| whole))
    }

    fn has(&self, field: &str) -> bool {
        self.fields.iter().any(|known| **known == *field)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("fields", &self.fields).finish_non_exhaustive()
    }
}

impl Document {
    /// A document that was read from a keyspace.
    pub(super) fn new(keyspace: &Arc<str>, bytes: Vec<u8>) -> Self {
        Self { keyspace: Arc::clone(keyspace), bytes, part: None, decoded: OnceLock::new() }
    }

    /// A document of which some fields were read.
    pub(super) fn part(keyspace: &Arc<str>, bytes: Vec<u8>, part: Part) -> Self {
        Self { part: Some(Box::new(part)), ..Self::new(keyspace, bytes) }
    }

    /// A document of the given value.
    #[cfg(test)]
    pub(crate) fn of(value: &Datum) -> Self {
        Self::new(&Arc::from("documents"), value.encoded())
    }

    /// A document of the given bytes, which may be damaged.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self::new(&Arc::from("documents"), bytes.to_vec())
    }

    /// The value in place; `None` where the bytes are damaged, about which [`datum`](Self::datum) says more.
    #[must_use]
    pub fn view(&self) -> Option<DatumRef<'_>> {
        DatumRef::new(self.whole().ok()?).ok()
    }

    /// An object that has these top-level fields as the document does, or lacks them; `None` as of [`view`](Self::view).
    #[must_use]
    pub fn view_of<'f>(&self, mut fields: impl Iterator<Item = &'f str>) -> Option<DatumRef<'_>> {
        match &self.part {
            Some(part) if fields.all(|field| part.has(field)) => DatumRef::new(&self.bytes).ok(),
            _ => self.view(),
        }
    }

    /// A top-level field in place; `None` where it is not there, or where that is not known.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<DatumRef<'_>> {
        let read = DatumRef::new(&self.bytes).ok().and_then(|view| view.get(name));
        read.or_else(|| self.part.as_ref().filter(|part| !part.has(name)).and(self.view())?.get(name))
    }

    fn whole(&self) -> Result<&[u8], StoreError> {
        self.part.as_ref().map_or(Ok(&self.bytes), |part| part.whole(&self.keyspace))
    }

    /// How many bytes were read of it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: an empty value takes bytes too.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The whole value.
    ///
    /// # Errors
    /// When the bytes are no value, or had to be read and could not.
    pub fn datum(&self) -> Result<&Datum, StoreError> {
        match self.decoded.get() {
            Some(datum) => Ok(datum),
            None => decode(&self.keyspace, self.whole()?).map(|datum| self.decoded.get_or_init(|| datum)),
        }
    }

    /// The whole value.
    ///
    /// # Errors
    /// As [`datum`](Self::datum).
    pub fn into_datum(mut self) -> Result<Datum, StoreError> {
        match self.decoded.take() {
            Some(datum) => Ok(datum),
            None => decode(&self.keyspace, self.whole()?),
        }
    }
}

pub(super) fn decode(keyspace: &str, bytes: &[u8]) -> Result<Datum, StoreError> {
    Datum::decode(bytes).map_err(|error| StoreError::damaged(keyspace, error))
}
