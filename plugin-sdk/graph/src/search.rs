//! Searches: a walk on codes, then exact scores of the best candidates from the column.

use photondb_plugin_sdk::column::{VectorColumn, VectorRef};
use photondb_plugin_sdk::distance::Query;
use photondb_plugin_sdk::kinds::vector::{AllowBitmap, RowId};
use photondb_plugin_sdk::{Cause, PluginError};

use crate::codes::Target;
use crate::encoder::EncodeScratch;
use crate::graph::Graph;
use crate::walk::Scratch;

/// About how many rows an exact scan scores in the time in which a walk looks at one candidate's neighbours: a walk
/// computes more and cheaper distances, from places all over the memory. Measured with 384 dims and `m` = 16.
const SCANNED_PER_CANDIDATE: usize = 16;

/// A found row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) distance: f32,
    pub(crate) row: RowId,
}

/// The rows that a batch of searches may return.
pub(crate) struct Eligible<'a> {
    allow: Option<AllowBitmap<'a>>,
    count: usize,
}

impl<'a> Eligible<'a> {
    pub(crate) fn new(graph: &Graph, allow: Option<AllowBitmap<'a>>) -> Self {
        let count = allow.map_or(graph.live().count(), |allow| graph.live().count_allowed(allow));
        Self { allow, count }
    }

    fn contains(&self, graph: &Graph, row: RowId) -> bool {
        graph.live().contains(row) && self.allow.is_none_or(|allow| allow.allows(row))
    }
}

/// The working memory of a search.
#[derive(Debug, Default)]
pub(crate) struct SearchScratch {
    walk: Scratch,
    target: Target,
    encode: EncodeScratch,
    candidates: Vec<u32>,
    distances: Vec<f32>,
    found: Vec<Found>,
}

/// Leaves the `k` eligible rows nearest to the query, or all if there are fewer, in the result, nearest first.
pub(crate) fn search<'s>(
    graph: &Graph,
    column: &VectorColumn,
    query: &[f32],
    k: usize,
    width: usize,
    eligible: &Eligible<'_>,
    scratch: &'s mut SearchScratch,
) -> Result<&'s [Found], PluginError> {
    scratch.found.clear();
    let wanted = k.min(eligible.count);
    if wanted == 0 {
        return Ok(&[]);
    }
    let exact = Query::new(graph.shape().metric, query);
    // Of the nodes nearest to the query, the eligible ones are assumed to be the same share as of all.
    let visible = graph.live().count() + graph.tombstones();
    let width = (width.max(k) as u64 * visible as u64).div_ceil(eligible.count as u64);
    let walk_costs = width.saturating_mul(SCANNED_PER_CANDIDATE as u64);
    if walk_costs < eligible.count as u64 {
        walk(graph, query, width as usize, scratch);
        score_candidates(graph, column, &exact, k, eligible, scratch)?;
    }
    // Too few are found where the eligible rows are far from the query, or where no path leads to them.
    if scratch.found.len() < wanted {
        scan(graph, column, &exact, k, eligible, scratch)?;
    }
    Ok(&scratch.found)
}

fn walk(graph: &Graph, query: &[f32], width: usize, scratch: &mut SearchScratch) {
    graph.encoder().encode_query(query, &mut scratch.target, &mut scratch.encode);
    if let Some(start) = graph.descend(&scratch.target, 0, &mut scratch.walk) {
        graph.walk(&scratch.target, start, 0, width, &mut scratch.walk);
    }
}

/// Scores the best eligible candidates exactly. Codes err by little, so that the `k` best rows are among somewhat more
/// than `k` candidates.
fn score_candidates(
    graph: &Graph,
    column: &VectorColumn,
    query: &Query<'_>,
    k: usize,
    eligible: &Eligible<'_>,
    scratch: &mut SearchScratch,
) -> Result<(), PluginError> {
    let SearchScratch { walk, target, candidates, distances, found, .. } = scratch;
    candidates.clear();
    let reached = walk.pool.candidates().iter().map(|candidate| candidate.node());
    candidates.extend(reached.filter(|&node| eligible.contains(graph, graph.row(node))).take(4 * k + 32));
    graph.codes().distances(target, candidates, distances);
    let measured = candidates.iter().zip(distances);
    found.extend(measured.map(|(&node, &mut distance)| Found { distance, row: graph.row(node) }));
    let scored = k + 14;
    if found.len() > scored {
        found.select_nth_unstable_by(scored, order);
        found.truncate(scored);
    }
    for found in found.iter() {
        vector(column, found.row)?.prefetch();
    }
    for found in found.iter_mut() {
        found.distance = distance(column, query, found.row)?;
    }
    found.sort_unstable_by(order);
    found.truncate(k);
    Ok(())
}

/// Scores every eligible row.
fn scan(
    graph: &Graph,
    column: &VectorColumn,
    query: &Query<'_>,
    k: usize,
    eligible: &Eligible<'_>,
    scratch: &mut SearchScratch,
) -> Result<(), PluginError> {
    let found = &mut scratch.found;
    found.clear();
    // The best `k` and up to as many again, so that they are sorted out once for every `k` rows.
    let room = 2 * k.max(64);
    for row in graph.live().allowed(eligible.allow) {
        found.push(Found { distance: distance(column, query, row)?, row });
        if found.len() == room {
            found.select_nth_unstable_by(k, order);
            found.truncate(k);
        }
    }
    found.sort_unstable_by(order);
    found.truncate(k);
    Ok(())
}

fn distance(column: &VectorColumn, query: &Query<'_>, row: RowId) -> Result<f32, PluginError> {
    Ok(query.distance_to(vector(column, row)?))
}

/// The row of the column, which the server never takes away while an index has it.
pub(crate) fn vector(column: &VectorColumn, row: RowId) -> Result<VectorRef<'_>, PluginError> {
    column.row(row).ok_or_else(|| {
        let message = format!("row {row} is not in the vector column; was its segment attached before it was named?");
        PluginError::runtime(Cause::Plugin, message)
    })
}

/// By distance, then by row, so that equal distances have one order.
fn order(a: &Found, b: &Found) -> std::cmp::Ordering {
    a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row))
}
