//! Vector indexes over columns that the server owns.

use std::io::{Read, Write};
use std::sync::Arc;

use super::distance::Traits;
use crate::column::VectorColumn;
use crate::{Cancel, Datum, PluginError};

pub use photondb_distance::Metric;

/// The number of a row in a vector column. Rows are numbered from 0 in the order of their arrival and never reused.
pub type RowId = u32;

/// What `index_create(..., vector={...})` said.
#[derive(Clone, Debug)]
pub struct IndexOptions {
    /// The length of the vectors.
    pub dims: u32,
    /// How distance is measured.
    pub metric: Metric,
    /// The further keys: an object, the index type's own.
    pub settings: Datum,
}

impl IndexOptions {
    /// The length of the vectors, if it is that of the column.
    ///
    /// # Errors
    /// [`PluginError::argument`] when the column has vectors of another length.
    pub fn dims_of(&self, column: &VectorColumn) -> Result<usize, PluginError> {
        let (wanted, found) = (self.dims as usize, column.dims());
        if wanted != found {
            let message = format!("an index of {wanted} dims can't be made over a column of {found} dims");
            return Err(PluginError::argument(message));
        }
        Ok(wanted)
    }
}

/// A kind of vector index.
pub trait VectorIndexPlugin: Send + Sync {
    /// The name that `vector={"type": NAME}` picks it by.
    fn index_type(&self) -> &str;

    /// Checks the options of an index that is about to be created.
    ///
    /// # Errors
    /// [`PluginError::argument`], naming the key and what it accepts.
    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError>;

    /// Checks that indexes of this type serve a [distance of a plugin](super::distance). What they see of it are places and
    /// a base metric; its traits say how far that carries.
    ///
    /// As it stands, a type takes any distance that is symmetric: graphs link rows with each other, and lists gather them,
    /// by distances in both directions. A type that compares rows with queries alone may take all.
    ///
    /// # Errors
    /// [`PluginError::argument`], naming the trait that is missing, and why it is needed.
    fn accepts(&self, distance: &str, traits: &Traits) -> Result<(), PluginError> {
        if traits.is_symmetric {
            return Ok(());
        }
        let kind = self.index_type();
        Err(PluginError::argument(format!(
            "an index of type `{kind}` compares rows with each other and needs a symmetric distance, which `{distance}` is \
             not; use another `metric`, or a `type` that compares rows with queries alone"
        )))
    }

    /// Makes an index without rows over `column`, whose rows it reads in place and never copies.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), or when memory runs out.
    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError>;
}

/// Which rows a search may return: bit `row % 8` of byte `row / 8`. Rows beyond the end are not allowed.
#[derive(Clone, Copy, Debug)]
pub struct AllowBitmap<'a>(pub &'a [u8]);

impl AllowBitmap<'_> {
    /// Whether the row may be returned.
    #[must_use]
    pub fn allows(&self, row: RowId) -> bool {
        self.0.get(row as usize / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
    }
}

/// A batch of searches.
#[derive(Clone, Copy, Debug)]
pub struct SearchRequest<'a> {
    /// `[queries, dims]` f32, row-major. Not normalised, whatever the metric.
    pub queries: &'a [f32],
    /// How many rows to return for each query.
    pub k: usize,
    /// The rows that may be returned; `None` allows all.
    pub allow: Option<AllowBitmap<'a>>,
    /// Overrides of the index's search settings; an object or null.
    pub settings: &'a Datum,
    /// Whether anybody still waits for the results: to be asked between queries.
    pub cancel: Cancel<'a>,
}

impl SearchRequest<'_> {
    /// How many queries of `dims` numbers there are, with room for what they find in `results`.
    ///
    /// # Errors
    /// [`PluginError::argument`] when the batch is not one of whole queries, or there is no such room.
    pub fn count(&self, dims: usize, results: &SearchResults<'_>) -> Result<usize, PluginError> {
        let (count, k) = (self.queries.len() / dims.max(1), self.k);
        let room = results.rows.len().min(results.distances.len());
        if !self.queries.len().is_multiple_of(dims.max(1)) || results.counts.len() < count || room < count * k {
            let message = format!(
                "the batch of {} numbers is not one of whole queries of {dims}, with room for {k} rows each",
                self.queries.len()
            );
            return Err(PluginError::argument(message));
        }
        Ok(count)
    }
}

/// What a batch of searches found: for each query its rows, nearest first.
#[derive(Debug)]
pub struct SearchResults<'a> {
    /// `[queries, k]`; entries behind the count of a query are unspecified.
    pub rows: &'a mut [RowId],
    /// `[queries, k]`, in the metric's unit, smaller is nearer. A hint: the server computes the distances again.
    pub distances: &'a mut [f32],
    /// How many rows each query found.
    pub counts: &'a mut [u32],
}

/// Sizes of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStatistics {
    /// Rows that can be found.
    pub rows: u64,
    /// Rows that were removed and still take space.
    pub removed: u64,
    /// Private memory, in bytes; the shared column does not count.
    pub memory_bytes: u64,
}

/// A vector index. Methods are called from several threads at once: searches run beside one call of another method, or
/// beside several of [`insert`](Self::insert) where the index [takes them](Self::takes_parallel_inserts).
pub trait VectorIndex: Send + Sync {
    /// Whether `insert` may be called by several threads at once, each with rows of its own. The server then adds rows by
    /// all threads that the plugin was granted, while no search wants them. Asked once, when the index was created.
    fn takes_parallel_inserts(&self) -> bool {
        false
    }

    /// Adds rows of the column. Adding a row twice is no error.
    ///
    /// # Errors
    /// When a row is not in the column, or memory runs out.
    fn insert(&self, rows: &[RowId]) -> Result<(), PluginError>;

    /// Removes rows; those that are not in the index are skipped.
    ///
    /// # Errors
    /// When the index is damaged.
    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError>;

    /// Finds the `k` nearest rows of each query.
    ///
    /// # Errors
    /// [`PluginError::argument`] for unknown settings.
    fn search(&self, request: &SearchRequest<'_>, results: &mut SearchResults<'_>) -> Result<(), PluginError>;

    /// Writes everything but the vectors.
    ///
    /// # Errors
    /// When `out` fails.
    fn save(&self, out: &mut dyn Write) -> Result<(), PluginError>;

    /// Reads what [`save`](Self::save) of this or an earlier version wrote, into an index without rows.
    ///
    /// # Errors
    /// When the bytes are damaged or of another kind: the server then builds the index again.
    fn load(&self, input: &mut dyn Read) -> Result<(), PluginError>;

    /// Sizes, for people.
    fn statistics(&self) -> IndexStatistics;
}
