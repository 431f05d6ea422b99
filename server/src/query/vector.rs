//! The seam to vector search: the rest of the server implements it.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::error::{ReqlError, Result};
use super::eval::Context;
use crate::storage::{Document, Table};

/// Says whether a document may be found.
pub type Filter<'a> = &'a mut (dyn FnMut(&Arc<Document>) -> Result<bool> + 'a);
/// The documents that one query found, nearest first, each with its distance.
pub type Neighbours = Vec<(f64, Arc<Document>)>;

/// A batch of searches in one index.
pub struct Search<'a> {
    /// The table.
    pub table: &'a Arc<Table>,
    /// The name of the vector index.
    pub index: &'a str,
    /// The vectors, one behind the other, each of the index's length.
    pub queries: &'a [f32],
    /// How many vectors there are.
    pub count: usize,
    /// How many documents to find for each.
    pub k: usize,
    /// Leave out what is farther away.
    pub max_distance: Option<f64>,
    /// The index kind's own settings of this search: an object.
    pub settings: &'a Datum,
    /// The query: whether it still runs, and its profile.
    pub ctx: &'a Context,
}

/// Finds nearest neighbours.
pub trait NearestSearch: Send + Sync {
    /// For each query its documents, nearest first. With a filter the result is exact about it: never a document that
    /// it refuses, and `k` documents where that many exist.
    ///
    /// # Errors
    /// When the index is not ready, a setting is wrong, or the filter fails.
    fn nearest(&self, search: &Search<'_>, filter: Option<Filter<'_>>) -> Result<Vec<Neighbours>>;
}

/// The search of a server without vector indexes.
pub struct NoSearch;

impl NearestSearch for NoSearch {
    fn nearest(&self, search: &Search<'_>, _filter: Option<Filter<'_>>) -> Result<Vec<Neighbours>> {
        Err(ReqlError::failed(format!("Index `{}` can't be searched: this server has no vector search.", search.index)))
    }
}
