//! Searches: the lists that are nearest, the rows in them whose codes say that they are near, then exact scores.

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::distance::{Query, Sketches};
use photondb_plugin_sdk::kinds::vector::{AllowBitmap, Metric, RowId};

use crate::codes::Codes;
use crate::lists::{List, Lists};
use crate::nearest::{Found, Nearest, Pool};
use crate::options::Options;
use crate::quantiser::QueryTables;
use crate::vectors::Vectors;

/// Queries that go over the lists together.
pub(crate) const GROUP: usize = 32;
/// Queries that go over the codes of a list together.
const TILE: usize = 4;
/// Lists that a query looks at before it is joined by others.
const NEAR: usize = 2;
/// Rows that are loaded ahead of the one that is scored.
const AHEAD: usize = 6;
/// No fewer errors of estimates say what others will be.
const FEW: f32 = 24.0;
/// How many standard deviations an estimate is taken to be off at most.
const DEVIATIONS: f32 = 3.5;
/// About how many rows are passed over by their codes in the time in which one is scored exactly. Measured with 384 dims.
const PASSED_PER_SCORED: usize = 24;
/// No fewer rows are counted as wanted when candidates are: the errors of codes don't shrink with `k`.
const MIN_WANTED: usize = 10;

/// The rows that a batch of searches may return.
pub(crate) struct Eligible<'a> {
    allow: Option<AllowBitmap<'a>>,
    count: usize,
}

impl<'a> Eligible<'a> {
    pub(crate) fn new(lists: &Lists, allow: Option<AllowBitmap<'a>>) -> Self {
        let count = allow.map_or(lists.live().count(), |allow| lists.live().count_allowed(allow));
        Self { allow, count }
    }

    fn contains(&self, row: RowId) -> bool {
        self.allow.is_none_or(|allow| allow.allows(row))
    }
}

/// What a search wants.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) k: usize,
    pub(crate) options: Options,
}

/// The working memory of searches, for each query of a group.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    queries: Vec<QueryScratch>,
    /// By list: the queries that look at it.
    visitors: Vec<Vec<usize>>,
    /// Bounds of rows, or distances of lists.
    bounds: Vec<f32>,
    passing: Vec<Found>,
    nearest: Nearest,
}

#[derive(Debug, Default)]
struct QueryScratch {
    /// The query, as rows are prepared.
    vector: Vec<f32>,
    /// By the number of the quantiser, modulo 2.
    tables: [QueryTables; 2],
    pool: Pool,
    /// The lists to look at, the very nearest first.
    probes: Vec<(f32, usize)>,
}

impl QueryScratch {
    /// Takes in a query.
    fn prepare(&mut self, query: &[f32], lists: &Lists, vectors: &Vectors) {
        self.vector.clear();
        self.vector.extend_from_slice(query);
        vectors.prepare(&mut self.vector);
        // The one before is needed while lists are encoded again.
        for number in lists.newest().saturating_sub(1)..=lists.newest() {
            if let Some(quantiser) = lists.quantiser(number) {
                quantiser.tables(vectors.metric(), &self.vector, &mut self.tables[number as usize % 2]);
            }
        }
    }
}

/// Finds the rows for a group of queries, and hands each its own to `answer`, nearest first.
pub(crate) fn search(
    lists: &Lists,
    vectors: &Vectors,
    queries: &[&[f32]],
    wanted: Wanted,
    eligible: &Eligible<'_>,
    scratch: &mut Scratch,
    mut answer: impl FnMut(usize, &[Found]),
) -> Result<(), PluginError> {
    scratch.queries.resize_with(queries.len().max(scratch.queries.len()), QueryScratch::default);
    let expected = wanted.k.min(eligible.count);
    let probed = probed_share(lists, wanted.options, eligible);
    let passed = lists.live().count() * probed / lists.lists().len();
    let is_scan = !lists.are_encoded() || eligible.count.saturating_mul(PASSED_PER_SCORED) <= passed;
    if !is_scan {
        for (query, own) in queries.iter().zip(&mut scratch.queries) {
            own.prepare(query, lists, vectors);
        }
        choose_lists(lists, probed, &mut scratch.queries[..queries.len()], &mut scratch.bounds);
        if lists.kind.is_quantised() {
            find_candidates(lists, queries.len(), wanted, eligible, scratch);
        }
    }
    let mut found = Vec::new();
    for (at, query) in queries.iter().enumerate() {
        let exact = Query::new(vectors.metric(), query);
        scratch.nearest.reset(expected);
        if !is_scan && expected > 0 {
            if lists.kind.is_quantised() {
                let candidates = scratch.queries[at].pool.finish();
                score(vectors, &exact, candidates, &mut scratch.nearest)?;
            } else {
                search_lists(lists, vectors, &exact, eligible, at, scratch)?;
            }
        }
        // Too few are found where the eligible rows are in other lists.
        if scratch.nearest.len() < expected {
            scratch.nearest.reset(expected);
            for row in lists.live().allowed(eligible.allow) {
                let distance = exact.distance_to(vectors.get(row)?);
                scratch.nearest.offer(Found { distance, row });
            }
        }
        scratch.nearest.drain_to(&mut found);
        answer(at, &found);
    }
    Ok(())
}

/// How many lists are looked at: more by as much as the filter leaves out.
fn probed_share(lists: &Lists, options: Options, eligible: &Eligible<'_>) -> usize {
    let count = lists.lists().len();
    if !lists.kind.has_centres() {
        return count;
    }
    let asked = options.nprobe.unwrap_or_else(|| default_probes(count));
    let widened = (asked as u64 * lists.live().count() as u64).div_ceil(eligible.count.max(1) as u64);
    (widened as usize).clamp(1, count)
}

/// How many of `count` lists a search looks at that says nothing: of few lists all. Of text embeddings (41,790 x 384, about
/// 330 lists), and queries from another distribution, this finds 0.97 of the nearest ten.
fn default_probes(count: usize) -> usize {
    (10.0 * (count as f32).sqrt()) as usize
}

/// Leaves the `probed` lists that are nearest to each of the queries in its `probes`, the very nearest first.
fn choose_lists(lists: &Lists, probed: usize, queries: &mut [QueryScratch], distances: &mut Vec<f32>) {
    let count = lists.lists().len();
    if !lists.kind.has_centres() {
        for own in queries {
            own.probes.clear();
            own.probes.extend((0..count).map(|list| (0.0, list)));
        }
        return;
    }
    for own in queries {
        lists.centres().distances(&own.vector, distances);
        own.probes.clear();
        own.probes.extend(distances.iter().copied().zip(0..));
        keep_nearest(probed, &mut own.probes);
    }
}

fn keep_nearest(probed: usize, probes: &mut Vec<(f32, usize)>) {
    let order = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0);
    if probed < probes.len() {
        probes.select_nth_unstable_by(probed, order);
        probes.truncate(probed);
    }
    // The order matters for the first ones only, which rule out most rows of the others.
    if NEAR < probes.len() {
        probes.select_nth_unstable_by(NEAR, order);
    }
}

/// Fills the pools of the first `count` queries with the rows that their codes say are nearest.
fn find_candidates(lists: &Lists, count: usize, wanted: Wanted, eligible: &Eligible<'_>, scratch: &mut Scratch) {
    let Scratch { queries, visitors, .. } = scratch;
    for own in &mut queries[..count] {
        own.pool.reset(wanted.k.max(MIN_WANTED) * wanted.options.refine);
    }
    visitors.resize_with(lists.lists().len(), Vec::new);
    visitors.iter_mut().for_each(Vec::clear);
    let (mut tables, mut pools) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (query, own) in queries[..count].iter_mut().enumerate() {
        tables.push(&own.tables);
        pools.push(&mut own.pool);
        // The nearest lists first, one by one: what is found there rules out most rows of the others.
        let (near, far) = own.probes.split_at(own.probes.len().min(NEAR));
        near.iter().for_each(|&(_, list)| pass_over(&lists.lists()[list], &[query], &tables, eligible, &mut pools));
        far.iter().for_each(|&(_, list)| visitors[list].push(query));
    }
    for (list, visitors) in lists.lists().iter().zip(visitors) {
        let (tiles, rest) = visitors.as_chunks::<TILE>();
        tiles.iter().for_each(|tile| pass_over(list, tile, &tables, eligible, &mut pools));
        rest.iter().for_each(|&query| pass_over(list, &[query], &tables, eligible, &mut pools));
    }
}

/// Offers the rows of a list to the pools of some queries.
fn pass_over<const Q: usize>(
    list: &List,
    queries: &[usize; Q],
    tables: &[&[QueryTables; 2]],
    eligible: &Eligible<'_>,
    pools: &mut [&mut Pool],
) {
    let Codes::Parts(rows, number) = &list.codes else { return };
    let tables = queries.map(|query| &tables[query][*number as usize % 2]);
    let limits = std::array::from_fn(|at| pools[queries[at]].limit() - tables[at].base);
    rows.below(tables.map(|tables| &tables.tables), limits, |at, first, mask, estimates| {
        let (pool, base) = (&mut *pools[queries[at]], tables[at].base);
        let mut mask = mask;
        while mask != 0 {
            let place = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let row = list.rows[first + place];
            if eligible.contains(row) {
                pool.offer(Found { distance: estimates[place] + base, row });
            }
        }
        pool.limit() - base
    });
}

/// Scores candidates exactly, the least estimates first, until no other is likely to be among the `k` nearest.
fn score(vectors: &Vectors, query: &Query<'_>, candidates: &[Found], nearest: &mut Nearest) -> Result<(), PluginError> {
    let mut errors = Errors::default();
    candidates.iter().take(AHEAD).for_each(|found| prefetch(vectors, found.row));
    for (at, candidate) in candidates.iter().enumerate() {
        if let Some(bound) = nearest.bound()
            && candidate.distance + errors.least() > estimated(vectors.metric(), bound)
        {
            break;
        }
        if let Some(ahead) = candidates.get(at + AHEAD) {
            prefetch(vectors, ahead.row);
        }
        let distance = query.distance_to(vectors.get(candidate.row)?);
        errors.add(estimated(vectors.metric(), distance) - candidate.distance);
        nearest.offer(Found { distance, row: candidate.row });
    }
    Ok(())
}

/// What an estimate of this distance would be, were there no errors.
fn estimated(metric: Metric, distance: f32) -> f32 {
    match metric {
        Metric::Cosine => distance - 1.0,
        Metric::L2 => distance * distance,
        Metric::Dot => distance,
    }
}

/// How far estimates were off.
#[derive(Debug, Default)]
struct Errors {
    count: f32,
    sum: f32,
    squares: f32,
}

impl Errors {
    fn add(&mut self, error: f32) {
        self.count += 1.0;
        self.sum += error;
        self.squares += error * error;
    }

    /// What is seldom gone below.
    fn least(&self) -> f32 {
        if self.count < FEW {
            return f32::NEG_INFINITY;
        }
        let mean = self.sum / self.count;
        mean - DEVIATIONS * (self.squares / self.count - mean * mean).max(0.0).sqrt()
    }
}

/// Finds the nearest rows of the chosen lists: exactly those, since only rows are left out that can't be among them.
fn search_lists(
    lists: &Lists,
    vectors: &Vectors,
    query: &Query<'_>,
    eligible: &Eligible<'_>,
    at: usize,
    scratch: &mut Scratch,
) -> Result<(), PluginError> {
    let Scratch { queries, bounds, passing, nearest, .. } = scratch;
    let mut sketched = None;
    for &(_, list) in &queries[at].probes {
        let list = &lists.lists()[list];
        let Codes::Bounds(rows) = &list.codes else { continue };
        let sketched = sketched.get_or_insert_with(|| rows.queries(&[*query]));
        let width = rows.blocks() * Sketches::ROWS_OF_BLOCK;
        if bounds.len() < width {
            bounds.resize(width, 0.0);
        }
        rows.bounds(sketched, |_| u32::MAX, width, bounds);
        let mut least = nearest.bound().map_or(f32::NEG_INFINITY, |bound| sketched.least_score(0, bound));
        passing.clear();
        for (&bound, &row) in bounds.iter().zip(&list.rows) {
            // A bound that is not a number says nothing.
            let is_out = bound < least;
            if !is_out && eligible.contains(row) {
                passing.push(Found { distance: -bound, row });
            }
        }
        // Those with the best bounds first, so that the others are ruled out.
        passing.sort_unstable();
        passing.iter().take(AHEAD).for_each(|found| prefetch(vectors, found.row));
        for (place, found) in passing.iter().enumerate() {
            if -found.distance < least {
                continue;
            }
            if let Some(ahead) = passing.get(place + AHEAD) {
                prefetch(vectors, ahead.row);
            }
            let distance = query.distance_to(vectors.get(found.row)?);
            nearest.offer(Found { distance, row: found.row });
            least = nearest.bound().map_or(f32::NEG_INFINITY, |bound| sketched.least_score(0, bound));
        }
    }
    Ok(())
}

fn prefetch(vectors: &Vectors, row: RowId) {
    if let Ok(vector) = vectors.get(row) {
        vector.prefetch();
    }
}
