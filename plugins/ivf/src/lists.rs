//! Lists of rows, each with a centre, and the codes of their rows.
//!
//! A row is in the list whose centre was nearest when it came, or when lists were cut ([`crate::split`]). Without centres
//! (`pq`), lists are chunks that rows are put into as they come.

use photondb_plugin_sdk::distance::{Query, dot, l2_squared};
use photondb_plugin_sdk::indexing::RowSet;
use photondb_plugin_sdk::kinds::vector::{Metric, RowId};
use photondb_plugin_sdk::{Cause, PluginError};

use crate::centres::Centres;
use crate::codes::{Codes, NewCode};
use crate::options::{Kind, Options};
use crate::quantiser::{Code, Quantiser};
use crate::vectors::Vectors;

/// The list of a row that is in none.
const NONE: u32 = u32::MAX;
/// Rows of a list without a centre: so many are encoded again in some ten milliseconds.
const CHUNK: usize = 4096;
/// No list is cut that is shorter.
const MIN_LIMIT: usize = 64;
/// Lists for the square root of the number of rows, where the user says nothing.
const LISTS_PER_ROOT: f32 = 1.5;
/// How much longer than the average a list may get: halves are then somewhat shorter than it.
const MAX_STRETCH: f32 = 1.5;

/// Rows and their codes.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) rows: Vec<RowId>,
    pub(crate) codes: Codes,
}

/// All lists of an index.
#[derive(Debug)]
pub(crate) struct Lists {
    pub(crate) kind: Kind,
    pub(crate) options: Options,
    metric: Metric,
    dims: usize,
    lists: Vec<List>,
    /// By list; empty without centres.
    centres: Centres,
    /// By row: its list, or [`NONE`].
    list_of: Vec<u32>,
    live: RowSet,
    /// The last two; a list's codes name theirs.
    quantisers: [Option<Quantiser>; 2],
    /// The number of the newest; 0 if there is none.
    newest: u32,
}

impl Lists {
    pub(crate) fn new(kind: Kind, options: Options, metric: Metric, dims: usize) -> Self {
        let mut lists = Self {
            kind,
            options,
            metric,
            dims,
            lists: Vec::new(),
            centres: Centres::new(metric, dims),
            list_of: Vec::new(),
            live: RowSet::default(),
            quantisers: [None, None],
            newest: 0,
        };
        lists.push_list(&vec![0.0; dims]);
        lists
    }

    /// Takes away the list that a new index has; not while there are rows.
    pub(crate) fn clear(&mut self) {
        self.lists.clear();
        self.centres = Centres::new(self.metric, self.dims);
    }

    pub(crate) fn dims(&self) -> usize {
        self.dims
    }

    pub(crate) fn live(&self) -> &RowSet {
        &self.live
    }

    pub(crate) fn lists(&self) -> &[List] {
        &self.lists
    }

    pub(crate) fn centre(&self, list: usize) -> &[f32] {
        self.centres.get(list)
    }

    pub(crate) fn centres(&self) -> &Centres {
        &self.centres
    }

    /// The quantiser of that number, if there is one still.
    pub(crate) fn quantiser(&self, number: u32) -> Option<&Quantiser> {
        self.quantisers[number as usize % 2].as_ref()
    }

    /// The number of the newest quantiser; 0 if there is none.
    pub(crate) fn newest(&self) -> u32 {
        self.newest
    }

    /// Whether searches can go by codes: not before there is a quantiser.
    pub(crate) fn are_encoded(&self) -> bool {
        self.lists.iter().all(|list| !matches!(list.codes, Codes::None))
    }

    /// The first list that the newest quantiser has not encoded.
    pub(crate) fn stale(&self) -> Option<usize> {
        let is_stale = |list: &List| match list.codes {
            Codes::Bounds(_) => false,
            Codes::Parts(_, number) => number != self.newest,
            Codes::None => self.newest != 0,
        };
        self.lists.iter().position(is_stale)
    }

    pub(crate) fn list_of(&self, row: RowId) -> Option<usize> {
        self.list_of.get(row as usize).filter(|&&list| list != NONE).map(|&list| list as usize)
    }

    /// How long a list gets before it is cut.
    pub(crate) fn limit(&self) -> usize {
        if !self.kind.has_centres() {
            return CHUNK;
        }
        let rows = self.live.count() as f32;
        let wanted = self.options.lists.map_or(LISTS_PER_ROOT * rows.sqrt(), |lists| lists as f32);
        ((MAX_STRETCH * rows / wanted.max(1.0)) as usize).max(MIN_LIMIT)
    }

    /// Adds an empty list, with a centre if lists have such.
    pub(crate) fn push_list(&mut self, centre: &[f32]) -> usize {
        let codes = match self.newest {
            _ if !self.kind.is_quantised() => Codes::bounds(self.metric, self.dims),
            0 => Codes::None,
            number => Codes::parts(self.parts(), number),
        };
        self.lists.push(List { rows: Vec::new(), codes });
        if self.kind.has_centres() {
            self.centres.push(centre);
        }
        self.lists.len() - 1
    }

    fn parts(&self) -> usize {
        self.dims.div_ceil(self.options.sub_dims(self.dims))
    }

    pub(crate) fn set_centre(&mut self, list: usize, centre: &[f32]) {
        self.centres.set(list, centre);
    }

    /// Leaves in `nearest` for each of the prepared `vectors` the list that it belongs to.
    pub(crate) fn assign(&self, vectors: &[f32], nearest: &mut Vec<usize>) {
        nearest.clear();
        if !self.kind.has_centres() {
            // To the shortest: lists that many rows were removed from fill up again.
            let shortest = self.lists.iter().enumerate().min_by_key(|(_, list)| list.rows.len());
            let shortest = shortest.map_or(0, |(at, _)| at);
            nearest.resize(vectors.len() / self.dims, shortest);
            return;
        }
        let centres: Vec<&[f32]> = self.centres.iter().collect();
        let mut distances = vec![0.0; centres.len()];
        nearest.extend(vectors.chunks_exact(self.dims).map(|vector| {
            Query::new(self.distance_to_centres(), vector).distances(&centres, &mut distances);
            index_of_least(&distances)
        }));
    }

    /// What rows are compared with centres by: for cosine both have length 1.
    fn distance_to_centres(&self) -> Metric {
        match self.metric {
            Metric::Cosine => Metric::Dot,
            Metric::L2 | Metric::Dot => Metric::L2,
        }
    }

    /// How far a prepared row is from a centre, comparable with other centres.
    pub(crate) fn distance_to_centre(&self, vector: &[f32], centre: &[f32]) -> f32 {
        match self.distance_to_centres() {
            Metric::L2 => l2_squared(vector, centre),
            Metric::Cosine | Metric::Dot => -dot(vector, centre),
        }
    }

    /// Encodes a row for a list.
    pub(crate) fn encode(&self, list: usize, vectors: &Vectors, row: RowId) -> Result<NewCode, PluginError> {
        match self.lists[list].codes {
            Codes::Bounds(_) => {
                let mut vector = vec![0.0; self.dims];
                vectors.load_measurable(row, &mut vector)?;
                Ok(NewCode::Vector(vector))
            }
            Codes::Parts(_, number) => self.encode_parts(number, vectors, row),
            Codes::None => Ok(NewCode::None),
        }
    }

    fn encode_parts(&self, number: u32, vectors: &Vectors, row: RowId) -> Result<NewCode, PluginError> {
        let lost = || PluginError::runtime(Cause::Plugin, format!("quantiser {number} of the index is gone"));
        let quantiser = self.quantiser(number).ok_or_else(lost)?;
        let mut vector = vec![0.0; self.dims];
        vectors.load(row, &mut vector)?;
        let mut code = Code::default();
        quantiser.encode(self.metric, &vector, &mut code);
        Ok(NewCode::Parts(code))
    }

    /// The codes of a list by the newest quantiser.
    pub(crate) fn encoded_again(&self, list: usize, vectors: &Vectors) -> Result<Codes, PluginError> {
        let mut codes = Codes::parts(self.parts(), self.newest);
        for &row in &self.lists[list].rows {
            codes.push(&self.encode_parts(self.newest, vectors, row)?);
        }
        Ok(codes)
    }

    pub(crate) fn set_codes(&mut self, list: usize, codes: Codes) {
        self.lists[list].codes = codes;
    }

    /// Makes a quantiser the newest. No list may be encoded by the one before the last.
    pub(crate) fn set_quantiser(&mut self, quantiser: Quantiser) {
        self.newest += 1;
        self.quantisers[self.newest as usize % 2] = Some(quantiser);
    }

    /// Adds a row to a list; not if it is in one.
    pub(crate) fn insert(&mut self, list: usize, row: RowId, code: &NewCode) {
        if self.live.contains(row) {
            return;
        }
        self.live.insert(row);
        self.append(list, row);
        self.lists[list].codes.push(code);
    }

    fn append(&mut self, list: usize, row: RowId) {
        let at = row as usize;
        if at >= self.list_of.len() {
            self.list_of.resize(at + 1, NONE);
        }
        self.list_of[at] = list as u32;
        let rows = &mut self.lists[list].rows;
        if rows.len() == rows.capacity() {
            rows.reserve_exact(rows.len() / 8 + 32);
        }
        rows.push(row);
    }

    /// Removes a row, if it is there.
    pub(crate) fn remove(&mut self, row: RowId) {
        let Some(list) = self.list_of(row) else { return };
        let Some(place) = self.place(list, row) else { return };
        self.live.remove(row);
        self.list_of[row as usize] = NONE;
        self.lists[list].rows.swap_remove(place);
        self.lists[list].codes.swap_remove(place);
    }

    fn place(&self, list: usize, row: RowId) -> Option<usize> {
        self.lists[list].rows.iter().position(|&other| other == row)
    }

    /// Moves a row to another list with codes of the same quantiser.
    pub(crate) fn move_row(&mut self, row: RowId, to: usize) {
        let Some(from) = self.list_of(row).filter(|&from| from != to) else { return };
        let Some(place) = self.place(from, row) else { return };
        if let Ok([source, target]) = self.lists.get_disjoint_mut([from, to]) {
            target.codes.push_of(&source.codes, place);
            source.codes.swap_remove(place);
            source.rows.swap_remove(place);
        }
        self.append(to, row);
    }

    /// Removes an empty list; the last one takes its place.
    pub(crate) fn remove_list(&mut self, list: usize) {
        let last = self.lists.len() - 1;
        self.lists.swap_remove(list);
        if self.kind.has_centres() {
            self.centres.swap_remove(list);
        }
        if list < last {
            for &row in &self.lists[list].rows {
                self.list_of[row as usize] = list as u32;
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let of_list =
            |list: &List| size_of::<List>() + list.rows.capacity() * size_of::<RowId>() + list.codes.memory_bytes();
        self.lists.iter().map(of_list).sum::<usize>()
            + self.centres.memory_bytes()
            + self.list_of.capacity() * size_of::<u32>()
            + self.live.memory_bytes()
            + self.quantisers.iter().flatten().map(Quantiser::memory_bytes).sum::<usize>()
    }
}

/// The place of the least number.
pub(crate) fn index_of_least(numbers: &[f32]) -> usize {
    let least = numbers.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    least.map_or(0, |(at, _)| at)
}
