//! Keeping lists of good length: long ones are cut in two, short ones dissolved, and rows near a new centre move to it.
//!
//! Cutting replaces the training of all centres at once: there is nothing to wait for, no step takes long, and the lists
//! follow the rows when these change (after Xu et al.: SPFresh, 2023, section 4).

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::distance::l2_squared;
use photondb_plugin_sdk::kinds::vector::{Metric, RowId};

use crate::lists::Lists;
use crate::vectors::{Vectors, unit};

/// Rounds of k-means that a cut takes.
const ROUNDS: usize = 8;
/// A half that is so many times smaller than the other is none: then the rows are cut in the middle.
const MIN_SHARE: usize = 8;
/// Lists nearest to a cut one whose rows may belong to the new ones.
const NEIGHBOURS: usize = 24;
/// A list that is so many times shorter than the limit is dissolved.
const SHORT: usize = 12;

/// What is to be done to the lists.
pub(crate) struct Cut {
    list: usize,
    centres: [Vec<f32>; 2],
    /// Rows that go to the second half, and rows of other lists that go to one of the halves: 0 or 1.
    to_halves: Vec<(RowId, usize)>,
    /// Rows of the cut list that go elsewhere.
    to_others: Vec<(RowId, usize)>,
}

/// The list that should be cut.
pub(crate) fn overlong(lists: &Lists) -> Option<usize> {
    if !lists.kind.has_centres() {
        return None;
    }
    let longest = lists.lists().iter().enumerate().max_by_key(|(_, list)| list.rows.len())?;
    (longest.1.rows.len() > lists.limit()).then_some(longest.0)
}

/// Finds out how to cut a list.
pub(crate) fn plan(lists: &Lists, vectors: &Vectors, list: usize) -> Result<Cut, PluginError> {
    let dims = vectors.dims();
    let rows = &lists.lists()[list].rows;
    let members = vectors.load_all(rows)?;
    let centres = halves(vectors.metric(), &members, dims);
    let mut cut = Cut { list, centres, to_halves: Vec::new(), to_others: Vec::new() };
    let near = neighbours(lists, list);

    let distances = |vector: &[f32]| [0, 1].map(|half| lists.distance_to_centre(vector, &cut.centres[half]));
    let mut to_halves = Vec::new();
    let mut leanings = Vec::new();
    for (&row, vector) in rows.iter().zip(members.chunks_exact(dims)) {
        let [first, second] = distances(vector);
        let elsewhere = near.iter().map(|&other| (lists.distance_to_centre(vector, lists.centre(other)), other));
        let nearest = elsewhere.min_by(|a, b| a.0.total_cmp(&b.0));
        match nearest {
            Some((distance, other)) if distance < first.min(second) => cut.to_others.push((row, other)),
            _ => leanings.push((second - first, row)),
        }
    }
    let seconds = leanings.iter().filter(|(leaning, _)| *leaning < 0.0).count();
    let is_even = seconds.min(leanings.len() - seconds) >= leanings.len() / MIN_SHARE;
    let second = if is_even { seconds } else { leanings.len() / 2 };
    leanings.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    to_halves.extend(leanings[..second].iter().map(|&(_, row)| (row, 1)));

    let mut vector = vec![0.0; dims];
    for &other in &near {
        for &row in &lists.lists()[other].rows {
            vectors.load(row, &mut vector)?;
            let [first, second] = distances(&vector);
            if first.min(second) < lists.distance_to_centre(&vector, lists.centre(other)) {
                to_halves.push((row, usize::from(second < first)));
            }
        }
    }
    cut.to_halves = to_halves;
    Ok(cut)
}

/// The lists nearest to one.
pub(crate) fn neighbours(lists: &Lists, list: usize) -> Vec<usize> {
    let centre = lists.centre(list);
    let others = lists.centres().iter().enumerate().filter(|&(other, _)| other != list);
    let mut others: Vec<(f32, usize)> =
        others.map(|(other, other_centre)| (lists.distance_to_centre(centre, other_centre), other)).collect();
    if others.len() > NEIGHBOURS {
        others.select_nth_unstable_by(NEIGHBOURS, |a, b| a.0.total_cmp(&b.0));
        others.truncate(NEIGHBOURS);
    }
    others.into_iter().map(|(_, other)| other).collect()
}

/// Two centres for vectors, by k-means; of halves of equal size where one centre would have next to no vectors.
fn halves(metric: Metric, vectors: &[f32], dims: usize) -> [Vec<f32>; 2] {
    let distance = l2_squared::<f32>;
    let all = || vectors.chunks_exact(dims);
    let farthest =
        |from: &[f32]| all().max_by(|a, b| distance(from, a).total_cmp(&distance(from, b))).unwrap_or_default();
    // Two rows that are far apart.
    let first = farthest(&vectors[..dims]);
    let mut centres = [first.to_vec(), farthest(first).to_vec()];
    for _ in 0..ROUNDS {
        let [first, second] = &centres;
        let (near_first, near_second): (Vec<&[f32]>, Vec<&[f32]>) =
            all().partition(|vector| distance(vector, first) <= distance(vector, second));
        if near_first.len().min(near_second.len()) < near_first.len().max(near_second.len()) / MIN_SHARE {
            let mut by_leaning: Vec<&[f32]> = all().collect();
            let leaning = |vector: &[f32]| distance(vector, first) - distance(vector, second);
            by_leaning.sort_by(|a, b| leaning(a).total_cmp(&leaning(b)));
            let (near_first, near_second) = by_leaning.split_at(by_leaning.len() / 2);
            return [mean(metric, near_first, dims), mean(metric, near_second, dims)];
        }
        centres = [mean(metric, &near_first, dims), mean(metric, &near_second, dims)];
    }
    centres
}

/// The mean of some vectors; for cosine of length 1.
pub(crate) fn mean(metric: Metric, vectors: &[&[f32]], dims: usize) -> Vec<f32> {
    let mut mean = vec![0.0; dims];
    for vector in vectors {
        mean.iter_mut().zip(*vector).for_each(|(sum, value)| *sum += value / vectors.len() as f32);
    }
    if metric == Metric::Cosine {
        unit(&mut mean);
    }
    mean
}

impl Cut {
    /// Changes the lists accordingly, which have to be as they were when the cut was planned.
    pub(crate) fn apply(self, lists: &mut Lists) {
        let Self { list, centres, to_halves, to_others } = self;
        lists.set_centre(list, &centres[0]);
        let new = lists.push_list(&centres[1]);
        to_others.into_iter().for_each(|(row, other)| lists.move_row(row, other));
        to_halves.into_iter().for_each(|(row, half)| lists.move_row(row, [list, new][half]));
    }
}

/// Where the rows of a list go that is too short to be one.
pub(crate) struct Dissolution {
    list: usize,
    moves: Vec<(RowId, usize)>,
}

/// Finds out whether a list should be dissolved, and how.
pub(crate) fn dissolution(lists: &Lists, vectors: &Vectors) -> Result<Option<Dissolution>, PluginError> {
    let count = lists.lists().len();
    let mut by_length: Vec<usize> = (0..count).collect();
    by_length.sort_unstable_by_key(|&list| lists.lists()[list].rows.len());
    let [list, next, ..] = by_length[..] else { return Ok(None) };
    let rows = &lists.lists()[list].rows;
    if !lists.kind.has_centres() {
        // Chunks are full but for one; not so when the others would be half empty without this one.
        let is_due = lists.live().count() < (count - 1) * lists.limit() / 2;
        return Ok(is_due.then(|| Dissolution { list, moves: rows.iter().map(|&row| (row, next)).collect() }));
    }
    if rows.len() > lists.limit() / SHORT {
        return Ok(None);
    }
    let mut moves = Vec::with_capacity(rows.len());
    let mut vector = vec![0.0; vectors.dims()];
    for &row in rows {
        vectors.load(row, &mut vector)?;
        let others = lists.centres().iter().enumerate().filter(|&(other, _)| other != list);
        let distances = others.map(|(other, centre)| (lists.distance_to_centre(&vector, centre), other));
        let nearest = distances.min_by(|a, b| a.0.total_cmp(&b.0));
        moves.push((row, nearest.map_or(next, |(_, other)| other)));
    }
    Ok(Some(Dissolution { list, moves }))
}

impl Dissolution {
    /// Changes the lists accordingly.
    pub(crate) fn apply(self, lists: &mut Lists) {
        self.moves.into_iter().for_each(|(row, other)| lists.move_row(row, other));
        lists.remove_list(self.list);
    }
}
