//! `get_nearest`.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixedbitset::FixedBitSet;
use photondb_distance::Query;
use photondb_plugin_sdk::calls::Search;
use photondb_plugin_sdk::kinds::vector::RowId;
use photondb_plugin_sdk::{Cause, Datum, PluginError};
use thiserror::Error;

use super::coalesce::{Answer, Kind};
use super::distance::PluginDistance;
use super::graph::OpenGraph;
use super::index::{VectorIndex, View};
use super::places::Space;
use super::plan::{self, Plan};
use super::scan::Scored;
use crate::config::OnFailure;
use crate::query::nested::Origin;
use crate::storage::{Document, StoreError, Table, VectorIndexHandle};

/// How long the plugin may take before the exact scan answers instead.
const PLUGIN_DEADLINE: Duration = Duration::from_secs(2);
/// With more rows than this missing from the graph, one exact scan is cheaper than graph and scan.
const MAX_PENDING: usize = 10_000;
/// Tables of so few numbers are scanned faster than a graph is asked.
const SMALL_TABLE: usize = 128 << 10;
/// Up to so many removed rows in the graph are made up for by asking for more, beyond by an allow-bitmap.
const MAX_DEAD: usize = 64;
/// Rows that a plugin measures before the nearest are kept.
const ROWS_AT_ONCE: usize = 16 << 10;
/// Filters that leave so few rows are answered by scanning those.
const MAX_SCANNED_MATCHES: usize = 20_000;

/// A search.
#[derive(Clone, Copy)]
pub struct Nearest<'a> {
    /// The table of the index.
    pub table: &'a Table,
    /// The index.
    pub index: &'a VectorIndexHandle,
    /// The query vectors, one behind the other, each as long as the index's `dims`.
    pub queries: &'a [f32],
    /// The most documents for each query; at least 1.
    pub k: usize,
    /// The greatest distance.
    pub max_distance: Option<f64>,
    /// The index kind's search settings: an object.
    pub settings: &'a Datum,
    /// On whose behalf, and when to give up.
    pub origin: Origin<'a>,
}

/// A document that was found.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Exact, in the metric's unit.
    pub distance: f64,
    /// The document.
    pub document: Arc<Document>,
}

/// Why a search failed; `E` is the filter's own error.
#[derive(Debug, Error)]
pub enum SearchError<E> {
    /// The documents can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plugin refused the settings, or the plugin of the distance does not answer.
    #[error(transparent)]
    Plugin(PluginError),
    /// The filter failed.
    #[error("the filter failed")]
    Filter(E),
    /// Out of time.
    #[error("the search did not end before its deadline; ask for fewer queries at once, or a simpler filter")]
    Deadline,
    /// The index was made by something else.
    #[error("the index is not one of this server's vector indexes")]
    Foreign,
}

/// What tells which documents count.
type Filter<'f, E> = &'f mut dyn FnMut(&Arc<Document>) -> Result<bool, E>;

impl Nearest<'_> {
    /// The nearest documents for each query, nearest first, and how they were found. With a `filter` exactly those
    /// that it accepts: `k` of them where they exist.
    ///
    /// # Errors
    /// [`SearchError`]. An index's plugin that fails is no error: the exact scan answers instead. One whose distance is meant
    /// has no such stand-in.
    pub fn run<E>(&self, filter: Option<Filter<'_, E>>) -> Result<(Vec<Vec<Neighbour>>, Plan), SearchError<E>> {
        let index = self.index.hook.as_any().downcast_ref::<VectorIndex>().ok_or(SearchError::Foreign)?;
        let (space, queries) = index.placed(self.queries, &self.origin).map_err(SearchError::Plugin)?;
        let searcher = Searcher { request: self, index, space, queries, read: RefCell::default() };
        let (mut found, plan) = match filter {
            None => searcher.unfiltered()?,
            Some(filter) => searcher.filtered(filter)?,
        };
        if let Some(most) = self.max_distance {
            found.iter_mut().for_each(|found| found.retain(|neighbour| neighbour.distance <= most));
        }
        Ok((found, plan))
    }
}

struct Searcher<'a> {
    request: &'a Nearest<'a>,
    index: &'a VectorIndex,
    /// What is compared, and what is looked for in it, one behind the other.
    space: Arc<Space>,
    queries: Cow<'a, [f32]>,
    /// The documents of rows that were found: the queries of a batch share them, or they would take memory for each.
    read: RefCell<HashMap<u32, Option<Arc<Document>>>>,
}

impl Searcher<'_> {
    fn unfiltered<E>(&self) -> Result<(Vec<Vec<Neighbour>>, Plan), SearchError<E>> {
        let k = self.request.k;
        // Documents may vanish between the search and the reading: then more rows are asked for, twice at most.
        let mut spare = 0;
        loop {
            let (candidates, plan) = self.candidates(k + spare, None)?;
            let mut found = Vec::with_capacity(candidates.len());
            let mut is_short = false;
            for rows in &candidates {
                let documents = self.documents(rows, k, &mut |_| Ok(true))?;
                is_short |= documents.len() < k && documents.len() < rows.len();
                found.push(documents);
            }
            if !is_short || spare > k + 16 {
                return Ok((found, plan));
            }
            spare = if spare == 0 { k + 16 } else { 16 * k + 256 };
        }
    }

    /// First on the nearest rows, which are enough for a filter that accepts many; on more of them while that is cheaper
    /// than to ask about every row.
    fn filtered<E>(&self, filter: Filter<'_, E>) -> Result<(Vec<Vec<Neighbour>>, Plan), SearchError<E>> {
        let k = self.request.k;
        let mut sample = plan::first_sample(k);
        loop {
            let (candidates, by) = self.candidates(sample, None)?;
            let mut found = Vec::with_capacity(candidates.len());
            // Of the queries that found too few: how many rows were accepted, of how many.
            let (mut accepted, mut tried) = (0, 0);
            for rows in &candidates {
                let documents = self.documents(rows, k, filter)?;
                if documents.len() < k && rows.len() >= sample {
                    (accepted, tried) = (accepted + documents.len(), tried + rows.len());
                }
                found.push(documents);
            }
            if tried == 0 {
                return Ok((found, Plan::Tried { by: Box::new(by), rows: sample }));
            }
            let rows = self.index.rows().len();
            match plan::next_sample(k, candidates.len(), (accepted, tried), rows) {
                Some(next) if next > sample => sample = next,
                _ => return self.filter_first(filter),
            }
        }
    }

    fn filter_first<E>(&self, filter: Filter<'_, E>) -> Result<(Vec<Vec<Neighbour>>, Plan), SearchError<E>> {
        let k = self.request.k;
        let matches = self.matching(filter)?;
        let (candidates, by) = self.candidates(k + 16, Some(&matches))?;
        let found = candidates.iter().map(|rows| self.documents(rows, k, filter)).collect::<Result<_, _>>()?;
        let (accepted, rows) = (matches.count_ones(..), self.index.rows().len());
        Ok((found, Plan::FilterFirst { by: Box::new(by), accepted, rows }))
    }

    /// The rows whose documents the filter accepts.
    fn matching<E>(&self, filter: Filter<'_, E>) -> Result<FixedBitSet, SearchError<E>> {
        let live = self.index.view().live;
        let mut matches = FixedBitSet::with_capacity(live.len());
        for (at, row) in live.ones().enumerate() {
            if at % 1024 == 0 {
                self.check_deadline()?;
            }
            if let Some(document) = self.document(row as u32)?
                && filter(&document).map_err(SearchError::Filter)?
            {
                matches.insert(row);
            }
        }
        Ok(matches)
    }

    /// The first `k` documents of the rows that exist still and that the filter accepts.
    fn documents<E>(&self, rows: &[Scored], k: usize, filter: Filter<'_, E>) -> Result<Vec<Neighbour>, SearchError<E>> {
        let mut found = Vec::with_capacity(k.min(rows.len()));
        for scored in rows {
            if found.len() == k {
                break;
            }
            let known = self.read.borrow().get(&scored.row).cloned();
            let document = match known {
                Some(document) => document,
                None => {
                    let document = self.document(scored.row)?;
                    self.read.borrow_mut().insert(scored.row, document.clone());
                    document
                }
            };
            if let Some(document) = document
                && filter(&document).map_err(SearchError::Filter)?
            {
                found.push(Neighbour { distance: f64::from(scored.distance), document });
            }
        }
        self.check_deadline()?;
        Ok(found)
    }

    /// The document of a row, if the row is still its own.
    fn document<E>(&self, row: u32) -> Result<Option<Arc<Document>>, SearchError<E>> {
        let key = self.index.rows().key(row).map(<[u8]>::to_vec);
        let Some(key) = key else { return Ok(None) };
        Ok(self.request.table.get_encoded(&key)?.map(Arc::new))
    }

    fn check_deadline<E>(&self) -> Result<(), SearchError<E>> {
        if Instant::now() < self.request.origin.deadline { Ok(()) } else { Err(SearchError::Deadline) }
    }

    /// For each query the `k` nearest live rows among `allow`, scored exactly, nearest first. Searches of others who want
    /// as many of all rows may be answered together with it.
    fn candidates<E>(&self, k: usize, allow: Option<&FixedBitSet>) -> Result<(Vec<Vec<Scored>>, Plan), SearchError<E>> {
        let (queries, deadline) = (&*self.queries, self.request.origin.deadline);
        let count = queries.len() / self.space.column.dims();
        let answer = match self.places().filter(|_| allow.is_none()) {
            None => self.nearest_rows(queries, k, allow, deadline),
            Some(places) => {
                let kind = Kind { k, settings: self.request.settings.clone() };
                let search = |queries: &[f32], deadline| self.nearest_rows(queries, k, None, deadline);
                let answer = self.index.coalescer().search(&kind, (queries, count), deadline, places, search);
                answer.ok_or(SearchError::Deadline)?
            }
        };
        answer.map_err(SearchError::Plugin)
    }

    /// How many searches may run at a time before others wait and are joined; `None` where that takes longer than to
    /// search, or where a search must not wait for others: they might wait for the call that it is made in.
    fn places(&self) -> Option<usize> {
        let rows = self.index.rows().len();
        if self.request.origin.within.is_some() || rows * self.space.column.dims() <= SMALL_TABLE {
            return None;
        }
        let graph = self.index.graph();
        Some(graph.open.as_ref().map_or_else(|| self.space.scan.at_once(rows), |open| open.searches_at_once()))
    }

    fn nearest_rows(&self, queries: &[f32], k: usize, allow: Option<&FixedBitSet>, deadline: Instant) -> Answer {
        let view = self.index.view();
        let mut allowed = view.live.clone();
        if let Some(allow) = allow {
            allowed.intersect_with(allow);
        }
        let plugin = self.index.plugin();
        let is_to_fail =
            plugin.as_ref().is_some_and(|plugin| plugin.on_failure().of_vector_indexes() == OnFailure::Fail);
        if is_to_fail && let Some(plugin) = &plugin {
            plugin.call().instance(plugin_deadline(deadline))?;
        }
        let scan = |queries: &[f32], rows: &FixedBitSet| self.scan(queries, k, rows, deadline);
        let exact = |reason: Cow<'static, str>| Ok((scan(queries, &allowed)?, Plan::Exact(reason)));
        let (wanted, numbers) = (allowed.count_ones(..), allowed.count_ones(..) * self.space.column.dims());
        let open = match &view.open {
            _ if numbers <= SMALL_TABLE => return exact("the table is small".into()),
            _ if allow.is_some() && wanted <= MAX_SCANNED_MATCHES => {
                return exact("the filter leaves few rows".into());
            }
            None => {
                // An unloaded plugin comes back for the next searches; this one does not wait for it.
                if let Some(plugin) = &plugin {
                    plugin.wake();
                }
                return exact(view.problem.clone().unwrap_or_else(|| "the graph is being opened".into()).into());
            }
            Some(_) if view.pending.count_ones(..) > MAX_PENDING => {
                return exact("the graph is being built".into());
            }
            Some(open) => open,
        };
        let origin = Origin { deadline: plugin_deadline(deadline), ..self.request.origin };
        let found = match self.ask(&**open, &view, queries, self.candidates_for(k), allow.map(|_| &allowed), &origin) {
            Ok(Some(found)) => found,
            Ok(None) => return exact("more rows are wanted than fit into one answer".into()),
            Err(error) if is_to_fail || error.cause() == Cause::Argument => return Err(error),
            Err(error) => return exact(error.to_string().into()),
        };
        let mut pending = view.pending.clone();
        pending.intersect_with(&allowed);
        let extra = if pending.is_clear() { Vec::new() } else { scan(queries, &pending)? };
        let dims = self.space.column.dims();
        let mut results = Vec::with_capacity(found.len());
        for (at, rows) in found.into_iter().enumerate() {
            let values = &queries[at * dims..(at + 1) * dims];
            let found: Vec<RowId> = rows.into_iter().filter(|&row| allowed.contains(row as usize)).collect();
            let found = self.score(values, &found, deadline)?.into_iter();
            let mut scored = merge(found, &pending, extra.get(at).map_or(&[], Vec::as_slice), k);
            if scored.len() < k.min(wanted) {
                scored = scan(values, &allowed)?.swap_remove(0);
            }
            results.push(scored);
        }
        Ok((results, Plan::Graph { pending: pending.count_ones(..) }))
    }

    /// The distance that only a plugin can tell, if there is one.
    fn measured(&self) -> Option<&PluginDistance> {
        self.index.distance().filter(|distance| !distance.traits().is_exact)
    }

    /// How many rows to ask an index for, of which the `k` nearest are wanted.
    fn candidates_for(&self, k: usize) -> usize {
        if self.measured().is_some() { plan::first_candidates(k) } else { k }
    }

    /// The distances from a query to rows.
    fn score(&self, query: &[f32], rows: &[RowId], deadline: Instant) -> Result<Vec<Scored>, PluginError> {
        let Some(distance) = self.measured() else {
            let query = Query::new(self.index.metric(), query);
            let scored = |&row: &RowId| Some(Scored { distance: self.space.scan.distance(&query, row)?, row });
            return Ok(rows.iter().filter_map(scored).collect());
        };
        let fill = |at: usize, place: &mut [f32]| match self.space.column.row(rows[at]) {
            Some(row) => row.copy_to(place),
            None => place.fill(0.0),
        };
        let origin = Origin { deadline, ..self.request.origin };
        let distances = distance.measure(query, rows.len(), fill, &origin)?;
        Ok(rows.iter().zip(distances).map(|(&row, distance)| Scored { distance, row }).collect())
    }

    /// For each query the `k` nearest of the rows, without the index.
    fn scan(
        &self,
        queries: &[f32],
        k: usize,
        rows: &FixedBitSet,
        deadline: Instant,
    ) -> Result<Vec<Vec<Scored>>, PluginError> {
        if self.measured().is_none() {
            return Ok(self.space.scan.nearest(queries, k, rows));
        }
        let rows: Vec<RowId> = rows.ones().map(|row| row as RowId).collect();
        let nearest = |query: &[f32]| {
            let mut scored = Vec::new();
            for rows in rows.chunks(ROWS_AT_ONCE) {
                scored.extend(self.score(query, rows, deadline)?);
                scored.sort_unstable();
                scored.truncate(k);
            }
            Ok(scored)
        };
        queries.chunks_exact(self.space.column.dims()).map(nearest).collect()
    }

    /// Asks the plugin; `None` where not even one query fits into a call.
    fn ask(
        &self,
        open: &dyn OpenGraph,
        view: &View,
        queries: &[f32],
        k: usize,
        allow: Option<&FixedBitSet>,
        origin: &Origin<'_>,
    ) -> Result<Option<Vec<Vec<u32>>>, PluginError> {
        let dims = self.space.column.dims();
        let allow = allow.or((view.dead > MAX_DEAD).then_some(&view.live));
        let allow: Option<&[u8]> = allow.map(|allow| bytemuck::cast_slice(allow.as_slice()));
        let k = if allow.is_some() { k } else { k + view.dead };
        let search = Search { queries, dims, k, allow, settings: self.request.settings };
        open.search(search, origin)
    }
}

/// Until when to wait for the plugin, where somebody waits until `deadline`.
fn plugin_deadline(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + PLUGIN_DEADLINE)
}

/// The `k` nearest of the rows that the plugin found and of the pending ones that were scanned, each once. The plugin may
/// have got a row that still counts as pending.
fn merge(found: impl Iterator<Item = Scored>, pending: &FixedBitSet, scanned: &[Scored], k: usize) -> Vec<Scored> {
    let found = found.filter(|scored| !pending.contains(scored.row as usize));
    let mut merged: Vec<Scored> = found.chain(scanned.iter().copied()).collect();
    merged.sort_unstable();
    // A plugin may name a row twice.
    merged.dedup_by_key(|scored| scored.row);
    merged.truncate(k);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_once() {
        let scored = |row, distance| Scored { distance, row };
        let mut pending = FixedBitSet::with_capacity(8);
        pending.insert(5);
        let found = [scored(1, 0.3), scored(5, 0.2), scored(1, 0.3), scored(2, 0.25), scored(9, 0.4)];
        let merged = merge(found.into_iter(), &pending, &[scored(5, 0.2 + f32::EPSILON)], 3);
        assert_eq!(merged.iter().map(|scored| scored.row).collect::<Vec<_>>(), [5, 2, 1]);
    }
}
