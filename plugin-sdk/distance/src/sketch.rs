//! Sketches: 4-bit codes of rows with a rigorous bound of what they leave out, for scans of many rows.
//!
//! A scan of sketches reads a quarter of the bytes of f16 rows, and says which rows *may* be as near as a given
//! distance; the others are certainly farther. Whoever scores those few exactly has the result of a scan of the rows.
//!
//! **The bound.** A row `x` is kept as `y = s * (u - 7.5)` with codes `u` from 0 to 15 and a step `s` of its own, a query
//! `q` as `p = t * d` with codes `d` from -127 to 127. Then `q·x = p·y + p·(x - y) + (q - p)·x`, and by Cauchy and Schwarz
//!
//! ```text
//! q·x <= p·y + |p| |x - y| + |q - p| |x|
//! ```
//!
//! where the lengths on the right are stored with the row and the query. `p·y` is an integer dot product. What is bounded
//! is a *score*, which grows where the distance shrinks: the cosine, `q·x`, or `2 q·x - |x|²` for L2. The slack also
//! covers what f32 arithmetic rounds off, here and in [`Query::distance`], which is the distance that is meant.
//!
//! Codes of 32 rows are interleaved, so that a vector register holds the same dimensions of 16 rows and nothing has to be
//! added up across it.

use crate::kernels::{BLOCK_ROWS, Level, Line, Octet, QueryFactors, RowFactors, block_bounds};
use crate::metric::Metric;
use crate::query::Query;

/// Dimensions of an [`Octet`].
const OCTET: usize = 8;
/// Queries that pass over a block together.
const TILE: usize = 8;
/// Squared lengths below this one have lost digits to underflow: nothing is claimed about such vectors.
const LEAST_SQUARE: f32 = 1e-30;
/// Underflow beside the greatest lengths makes no larger error than this.
const UNDERFLOW: f64 = 1e-35;

/// Sketches of rows, from row 0 on.
#[derive(Clone, Debug)]
pub struct Sketches {
    metric: Metric,
    dims: usize,
    blocks: Vec<Octet>,
    factors: Vec<RowFactors>,
    len: usize,
    decoded: Vec<f32>,
}

/// Queries as [`Sketches`] take them.
#[derive(Clone, Debug)]
pub struct SketchQueries {
    len: usize,
    /// For each tile of queries, octet and half the words of the queries. A single query has tiles of its own.
    words: Vec<i32>,
    factors: Vec<QueryFactors>,
    thresholds: Vec<Threshold>,
}

/// What a distance has to do with scores.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    metric: Metric,
    square: f64,
    rounding: f64,
}

/// The share of a length that rounding in f32 may take from a product of `dims` numbers: several times what it takes.
fn rounding(dims: usize) -> f64 {
    (dims + 64) as f64 * f64::from(f32::EPSILON) * 2.0
}

impl Threshold {
    /// A score that every row reaches which is no farther than `distance`.
    fn score(self, distance: f32) -> f32 {
        let distance = f64::from(distance);
        let score = match self.metric {
            Metric::Cosine => 1.0 - distance - 1e-6,
            Metric::Dot => -distance - UNDERFLOW,
            Metric::L2 => self.square * (1.0 - self.rounding) - distance * distance * (1.0 + self.rounding) - UNDERFLOW,
        };
        (score as f32).next_down()
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// The length of a vector whose numbers are made of each code and value, in sums that need not wait for each other.
fn length_of_each(codes: &[i8], values: &[f32], number: impl Fn(i8, f32) -> f64) -> f64 {
    const SUMS: usize = 8;
    let ((codes, codes_left), (values, values_left)) = (codes.as_chunks::<SUMS>(), values.as_chunks::<SUMS>());
    let mut sums = [0.0; SUMS];
    for (codes, values) in codes.iter().zip(values) {
        for (sum, (&code, &value)) in sums.iter_mut().zip(codes.iter().zip(values)) {
            let number = number(code, value);
            *sum += number * number;
        }
    }
    let left = codes_left.iter().zip(values_left).map(|(&code, &value)| number(code, value));
    (sums.iter().sum::<f64>() + left.map(|number| number * number).sum::<f64>()).sqrt()
}

/// Not less than the number, as f32. Not subnormal: a processor takes a hundred times as long for such.
fn above(number: f64) -> f32 {
    let above = (number as f32).next_up();
    match number {
        0.0 => 0.0,
        _ if above.abs() < f32::MIN_POSITIVE => f32::MIN_POSITIVE,
        _ => above,
    }
}

impl Sketches {
    /// No rows, of `dims` numbers each, at most 65,536.
    #[must_use]
    pub fn new(metric: Metric, dims: usize) -> Self {
        Self { metric, dims, blocks: Vec::new(), factors: Vec::new(), len: 0, decoded: Vec::new() }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many blocks of [`ROWS_OF_BLOCK`](Self::ROWS_OF_BLOCK) rows there are; the last one may not be full.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.factors.len()
    }

    /// Rows of a block.
    pub const ROWS_OF_BLOCK: usize = BLOCK_ROWS;

    /// The memory that the sketches take, in bytes: `dims / 2 + 16` for each row.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Octet>() + self.factors.capacity() * size_of::<RowFactors>()
    }

    /// Makes room for `additional` more rows.
    pub fn reserve(&mut self, additional: usize) {
        let blocks = additional.div_ceil(BLOCK_ROWS);
        self.blocks.reserve_exact(blocks * self.octets());
        self.factors.reserve_exact(blocks);
    }

    fn octets(&self) -> usize {
        self.dims.div_ceil(OCTET)
    }

    /// Appends a row of `dims` numbers, of which [`is_measurable`](crate::is_measurable) is true.
    ///
    /// # Panics
    /// When it has another length.
    pub fn push(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.dims, "the row has another length than the sketches");
        let (block, place) = (self.len / BLOCK_ROWS, self.len % BLOCK_ROWS);
        if place == 0 {
            self.blocks.resize(self.blocks.len() + self.octets(), [Line::ZERO; 2]);
            self.factors.push(RowFactors::ZERO);
        }
        self.len += 1;
        let (step, error) = self.best_step(row);
        let octets = self.octets();
        for (octet, values) in self.blocks[block * octets..].iter_mut().zip(row.chunks(OCTET)) {
            let code = |at: usize| values.get(at).map_or(0, |&value| encode(value, 1.0 / step));
            for byte in 0..4 {
                let pair = code(byte) | code(byte + 4) << 4;
                octet[place / 16].0[place % 16 * 4 + byte] = pair.cast_signed();
            }
        }
        let length = length(row.iter().map(|&value| f64::from(value)));
        let (multiple, offset) = match self.metric {
            Metric::Cosine if length == 0.0 => return,
            Metric::Cosine => (1.0 / length, 0.0),
            Metric::Dot => (1.0, 0.0),
            Metric::L2 => (2.0, -length * length * (1.0 - rounding(self.dims))),
        };
        let error = f64::from(error) * (1.0 + rounding(self.dims)) + 2.0 * rounding(self.dims) * length;
        let is_tiny = crate::norm_squared(row) < LEAST_SQUARE;
        let factors = &mut self.factors[block];
        factors.scale[place] = (f64::from(step) / 2.0 * multiple) as f32;
        factors.offset[place] = above(offset);
        factors.error[place] = if is_tiny { f32::INFINITY } else { above(error * multiple) };
        factors.length[place] = above(length * multiple);
    }

    /// Removes a row; the last one takes its place.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn swap_remove(&mut self, row: usize) {
        assert!(row < self.len, "row {row} of {}", self.len);
        let last = self.len - 1;
        let (octets, factors) = self.row(last);
        self.set_row(row, &octets, factors);
        self.set_row(last, &vec![[0; OCTET / 2]; self.octets()], [0.0; 4]);
        self.len = last;
        if last.is_multiple_of(BLOCK_ROWS) {
            self.blocks.truncate(self.blocks.len() - self.octets());
            self.factors.pop();
        }
    }

    /// Appends a row of other sketches of the same metric and dimensions.
    ///
    /// # Panics
    /// When it has no such row, or other dimensions.
    pub fn push_of(&mut self, other: &Self, row: usize) {
        assert!(row < other.len && other.dims == self.dims, "row {row} of {}", other.len);
        let (octets, factors) = other.row(row);
        if self.len.is_multiple_of(BLOCK_ROWS) {
            self.blocks.resize(self.blocks.len() + self.octets(), [Line::ZERO; 2]);
            self.factors.push(RowFactors::ZERO);
        }
        self.len += 1;
        self.set_row(self.len - 1, &octets, factors);
    }

    /// The codes of a row, and its scale, offset, error and length.
    fn row(&self, row: usize) -> (Vec<[i8; OCTET / 2]>, [f32; 4]) {
        let (block, place) = (row / BLOCK_ROWS, row % BLOCK_ROWS);
        let octets = self.blocks[block * self.octets()..][..self.octets()].iter();
        let codes = octets.map(|octet| octet[place / 16].0.as_chunks::<{ OCTET / 2 }>().0[place % 16]);
        let factors = &self.factors[block];
        let of_row = [&factors.scale, &factors.offset, &factors.error, &factors.length].map(|values| values[place]);
        (codes.collect(), of_row)
    }

    fn set_row(&mut self, row: usize, codes: &[[i8; OCTET / 2]], [scale, offset, error, length]: [f32; 4]) {
        let (block, place, octets) = (row / BLOCK_ROWS, row % BLOCK_ROWS, self.octets());
        for (octet, codes) in self.blocks[block * octets..][..octets].iter_mut().zip(codes) {
            octet[place / 16].0.as_chunks_mut::<{ OCTET / 2 }>().0[place % 16] = *codes;
        }
        let factors = &mut self.factors[block];
        factors.scale[place] = scale;
        factors.offset[place] = offset;
        factors.error[place] = error;
        factors.length[place] = length;
    }

    /// The step whose codes leave out least, and the length of what they do.
    fn best_step(&mut self, row: &[f32]) -> (f32, f32) {
        // With a few large numbers in a row it pays to cut them off.
        const SHARES_OF_GREATEST: [f32; 5] = [1.0, 0.88, 0.76, 0.64, 0.52];
        let greatest = row.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
        let decoded = &mut self.decoded;
        let steps = SHARES_OF_GREATEST.map(|share| {
            let step = greatest * share / 8.0;
            decoded.clear();
            decoded.extend(row.iter().map(|&value| (f32::from(encode(value, 1.0 / step)) - 7.5) * step));
            (step, crate::l2_squared(row, decoded).sqrt())
        });
        steps.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
    }

    /// Prepares queries of the metric and the length of the rows.
    #[must_use]
    pub fn queries(&self, queries: &[Query<'_>]) -> SketchQueries {
        let tile = if queries.len() == 1 { 1 } else { TILE };
        let tiles = queries.len().div_ceil(tile);
        let octets = self.octets();
        let mut words = vec![0; tiles * octets * 2 * tile];
        let mut factors = vec![QueryFactors::default(); tiles * tile];
        let mut codes = Vec::new();
        for (at, query) in queries.iter().enumerate() {
            factors[at] = self.encode_query(query.values(), &mut codes);
            let of_tile = &mut words[at / tile * octets * 2 * tile..][..octets * 2 * tile];
            for (half, codes) in codes.chunks(4).enumerate() {
                let mut word = [0; 4];
                word[..codes.len()].copy_from_slice(codes);
                of_tile[half * tile + at % tile] = i32::from_le_bytes(word.map(i8::cast_unsigned));
            }
        }
        let thresholds = queries.iter().map(|query| Threshold {
            metric: self.metric,
            square: query.values().iter().map(|&value| f64::from(value) * f64::from(value)).sum(),
            rounding: rounding(self.dims),
        });
        SketchQueries { len: queries.len(), words, factors, thresholds: thresholds.collect() }
    }

    fn encode_query(&self, query: &[f32], codes: &mut Vec<i8>) -> QueryFactors {
        let greatest = query.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
        let step = greatest / 127.0;
        let inverse = 1.0 / step;
        codes.clear();
        codes.extend(query.iter().map(|&value| crate::rounded(value * inverse) as i8));
        let step = f64::from(step);
        let squares: i32 = codes.iter().map(|&code| i32::from(code) * i32::from(code)).sum();
        let lengths = [
            step * f64::from(squares).sqrt(),
            length_of_each(codes, query, |code, value| f64::from(value) - step * f64::from(code)),
            length_of_each(codes, query, |_, value| f64::from(value)),
        ];
        let unit = match self.metric {
            Metric::Cosine => lengths[2],
            Metric::L2 | Metric::Dot => 1.0,
        };
        let [coded, rest, whole] = lengths.map(|length| length / unit);
        let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
        let is_tiny = crate::norm_squared(query) < LEAST_SQUARE;
        QueryFactors {
            shift: 15 * sum,
            // Not a number: no row is ruled out.
            scale: if is_tiny { f32::NAN } else { (step / unit) as f32 },
            error: above(coded),
            rest: above(rest + whole * rounding(self.dims)),
        }
    }

    /// Bounds the scores of the `queries` with all rows: `out[query * stride + row]` is at least the score, or not a number
    /// where nothing is known. `allowed` says which rows of a block count, one bit each; the others, and those that only fill
    /// up the last block, get minus infinity.
    ///
    /// # Panics
    /// When `out` is too short.
    pub fn bounds(&self, queries: &SketchQueries, allowed: impl Fn(usize) -> u32, stride: usize, out: &mut [f32]) {
        self.bounds_with(Level::detected(), queries, allowed, stride, out);
    }

    fn bounds_with(
        &self,
        level: Level,
        queries: &SketchQueries,
        allowed: impl Fn(usize) -> u32,
        stride: usize,
        out: &mut [f32],
    ) {
        for block in 0..self.blocks() {
            let out = &mut out[block * BLOCK_ROWS..];
            let present = (self.len - block * BLOCK_ROWS).min(BLOCK_ROWS);
            match allowed(block) & u32::MAX >> (BLOCK_ROWS - present) {
                0 => (0..queries.len).for_each(|query| out[query * stride..][..BLOCK_ROWS].fill(f32::NEG_INFINITY)),
                allowed if queries.len == 1 => self.block::<1>(level, queries, block, allowed, stride, out),
                allowed => self.block::<TILE>(level, queries, block, allowed, stride, out),
            }
        }
    }

    fn block<const Q: usize>(
        &self,
        level: Level,
        queries: &SketchQueries,
        block: usize,
        allowed: u32,
        stride: usize,
        out: &mut [f32],
    ) {
        let octets = self.octets();
        let (codes, rows) = (&self.blocks[block * octets..][..octets], &self.factors[block]);
        let words = queries.words.as_chunks::<Q>().0.as_chunks::<2>().0;
        let tiles = queries.factors.as_chunks::<Q>().0.iter().zip(words.chunks(octets.max(1)));
        let mut bounds = [[0.0; BLOCK_ROWS]; Q];
        for (tile, (factors, words)) in tiles.enumerate() {
            block_bounds(level, codes, rows, words, factors, &mut bounds);
            for (query, bounds) in (tile * Q..queries.len).zip(&bounds) {
                let out = &mut out[query * stride..][..BLOCK_ROWS];
                out.copy_from_slice(bounds);
                if allowed != u32::MAX {
                    let refused = out.iter_mut().enumerate().filter(|(row, _)| allowed >> row & 1 == 0);
                    refused.for_each(|(_, bound)| *bound = f32::NEG_INFINITY);
                }
            }
        }
    }
}

/// The cell of a number: of 16 cells the one from `(code - 8)` to `(code - 7)` steps, or the nearest one.
#[inline]
fn encode(value: f32, inverse_step: f32) -> u8 {
    // What is not a number, of a row of zeros, becomes 0.
    (value * inverse_step + 8.0).clamp(0.0, 15.0) as u8
}

impl SketchQueries {
    /// A score that every row reaches which is no farther from `query` than `distance`, in the metric's unit: a row whose
    /// bound is less is farther.
    ///
    /// # Panics
    /// When there is no such query.
    #[must_use]
    pub fn least_score(&self, query: usize, distance: f32) -> f32 {
        self.thresholds[query].score(distance)
    }

    /// The same queries, whose [`bounds`](Sketches::bounds) are estimates of the scores: nearer to them, and as often below as
    /// above.
    #[must_use]
    pub fn estimating(mut self) -> Self {
        self.factors.iter_mut().for_each(|factors| (factors.error, factors.rest) = (0.0, 0.0));
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::Dot];

    /// Rows or queries of all sorts: of any length, with numbers far larger than the others, with few that are not zero.
    fn vector(dims: usize) -> impl Strategy<Value = Vec<f32>> {
        let number = prop_oneof![8 => -1.0_f32..1.0, 1 => Just(0.0), 1 => -30.0_f32..30.0];
        let exponent = prop_oneof![6 => Just(0.0_f32), 1 => -45.0_f32..18.0, 1 => -1.0_f32..1.0];
        let mask = prop_oneof![4 => Just(1), 1 => Just(7), 1 => Just(1000)];
        (prop::collection::vec(number, dims), exponent, mask).prop_map(|(mut values, exponent, mask)| {
            for (at, value) in values.iter_mut().enumerate() {
                *value *= if at % mask == 0 { (0.03 * 10.0_f32.powf(exponent)).min(1e16) } else { 0.0 };
            }
            values
        })
    }

    fn sketches(metric: Metric, rows: &[Vec<f32>]) -> Sketches {
        let mut sketches = Sketches::new(metric, rows[0].len());
        sketches.reserve(rows.len());
        rows.iter().for_each(|row| sketches.push(row));
        sketches
    }

    proptest! {
        #[test]
        fn rows_go_and_move_as_they_are(
            rows in (1_usize..40).prop_flat_map(|dims| prop::collection::vec(vector(dims), 1..80)),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            for metric in METRICS {
                let (mut found, mut expected) = (sketches(metric, &rows), rows.clone());
                for at in removed.iter().take(rows.len() - 1) {
                    let at = at.index(expected.len());
                    found.swap_remove(at);
                    expected.swap_remove(at);
                }
                let mut moved = Sketches::new(metric, rows[0].len());
                (0..found.len()).for_each(|row| moved.push_of(&found, row));
                let expected = sketches(metric, &expected);
                for sketches in [&found, &moved] {
                    prop_assert_eq!(sketches.len(), expected.len());
                    prop_assert_eq!(format!("{:?}", sketches.blocks), format!("{:?}", expected.blocks));
                    prop_assert_eq!(format!("{:?}", sketches.factors), format!("{:?}", expected.factors));
                }
            }
        }

        #[test]
        fn no_row_is_missed(
            (mut rows, queries) in (1_usize..150).prop_flat_map(|dims| {
                (prop::collection::vec(vector(dims), 1..80), prop::collection::vec(vector(dims), 1..12))
            }),
            twins in any::<bool>(),
            rank in 0_usize..10,
        ) {
            if twins {
                // Rows that are equal to each other, and one that is equal to a query.
                let twin = rows[0].clone();
                rows.iter_mut().step_by(3).for_each(|row| row.clone_from(&twin));
                rows.push(queries[0].clone());
            }
            for metric in METRICS {
                let sketches = sketches(metric, &rows);
                let queries: Vec<_> = queries.iter().map(|query| Query::new(metric, query)).collect();
                let prepared = sketches.queries(&queries);
                let worst: Vec<f32> = queries.iter().map(|query| {
                    let mut distances: Vec<f32> = rows.iter().map(|row| query.distance(row)).collect();
                    distances.sort_by(f32::total_cmp);
                    distances[rank.min(distances.len() - 1)]
                }).collect();
                let stride = rows.len().next_multiple_of(32) + 32;
                for level in Level::available() {
                    let mut bounds = vec![0.0; queries.len() * stride];
                    sketches.bounds_with(level, &prepared, |_| u32::MAX, stride, &mut bounds);
                    for (at, query) in queries.iter().enumerate() {
                        for (row, values) in rows.iter().enumerate() {
                            let is_near = query.distance(values) <= worst[at];
                            let is_ruled_out = bounds[at * stride + row] < prepared.least_score(at, worst[at]);
                            prop_assert!(!(is_near && is_ruled_out), "{metric:?} {level:?} query {at} row {row}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_bounds_are_close() {
        let number = |at: usize| ((at * 7919 + at / 64 * 31) % 1000) as f32 / 500.0 - 1.0;
        let rows: Vec<Vec<f32>> = (0..500).map(|row| (0..64).map(|at| number(row * 64 + at)).collect()).collect();
        for metric in METRICS {
            let sketches = sketches(metric, &rows);
            let queries = [Query::new(metric, &rows[17])];
            let prepared = sketches.queries(&queries);
            let least = prepared.least_score(0, queries[0].distance(&rows[17]));
            for level in Level::available() {
                let mut bounds = vec![0.0; 512];
                sketches.bounds_with(level, &prepared, |_| u32::MAX, 512, &mut bounds);
                let found = bounds.iter().filter(|&&bound| bound >= least).count();
                assert!(bounds[17] >= least && found < 100, "{metric:?} {level:?}: {found}");
            }
        }
    }

    #[test]
    fn estimates_are_nearer_than_bounds() {
        let number = |at: usize| ((at * 7919 + at / 61 * 17) % 1000) as f32 / 500.0 - 1.0;
        let rows: Vec<Vec<f32>> = (0..64).map(|row| (0..61).map(|at| number(row * 61 + at)).collect()).collect();
        let sketches = sketches(Metric::Dot, &rows);
        let query: Vec<f32> = (0..61).map(|at| number(at * 7)).collect();
        let queries = sketches.queries(&[Query::new(Metric::Dot, &query)]);
        let (mut bounds, mut estimates) = ([0.0; 64], [0.0; 64]);
        sketches.bounds(&queries, |_| u32::MAX, 64, &mut bounds);
        sketches.bounds(&queries.estimating(), |_| u32::MAX, 64, &mut estimates);
        let mut sum = 0.0;
        for (row, (bound, estimate)) in rows.iter().zip(bounds.iter().zip(estimates)) {
            let error = estimate - crate::dot(&query, row);
            assert!(error.abs() < (bound - estimate) / 3.0, "{error}, and at most {}", bound - estimate);
            sum += error;
        }
        assert!(sum.abs() < 64.0 * 0.1, "as often below as above: {sum}");
    }

    #[test]
    fn only_what_is_allowed_is_found() {
        let rows: Vec<Vec<f32>> = (0..70).map(|row| vec![row as f32, 1.0]).collect();
        let sketches = sketches(Metric::L2, &rows);
        let mut bounds = [0.0; 96];
        let prepared = sketches.queries(&[Query::new(Metric::L2, &[0.0, 1.0])]);
        sketches.bounds(&prepared, |block| [0, 0b101, u32::MAX][block], 96, &mut bounds);
        let found: Vec<usize> = (0..96).filter(|&row| bounds[row] > f32::NEG_INFINITY).collect();
        assert_eq!(found, [32, 34, 64, 65, 66, 67, 68, 69]);
    }
}
