//! A product quantiser: of every few numbers of a vector it keeps which of 16 entries is nearest (Jégou, Douze, Schmid:
//! Product quantization for nearest neighbor search, 2011).
//!
//! With the mean `m` of the rows, a row `x` becomes `x - m ≈ f · y`, where `y` is put together of entries, and `f` makes
//! the product with `x - m` itself exact: then no product is too large or too small on average. Every distance is
//!
//! ```text
//! base(q) + bias(x) - f · sum over the parts of weight · (q · entry)
//! ```
//!
//! | metric | distance | `q` | `base(q)` | `bias(x)` | weight |
//! |---|---|---|---|---|---|
//! | cosine, dot | `-q·x` | `q` | `-q·m` | 0 | 1 |
//! | l2 | squared | `q - m` | `\|q - m\|²` | `\|x - m\|²` | 2 |
//!
//! Entries are trained on rows less their mean, not less the centres of their lists: then a row may move to another list
//! as it is, and the errors of neighbours in different lists are alike.

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::distance::{PartTables, dot, norm_squared};
use photondb_plugin_sdk::kinds::vector::{Metric, RowId};

use crate::vectors::Vectors;

/// Entries of a part: what 4 bits can name.
pub(crate) const ENTRIES: usize = 16;
/// Rounds of k-means in each part; more gain nothing that recall would show.
const ROUNDS: usize = 8;
/// Parts that one step of a training does: some milliseconds of work.
const PARTS_AT_ONCE: usize = 8;
/// The most rows that a training looks at: 256 for each entry.
pub(crate) const SAMPLE: usize = 4096;

/// Entries for each part of a vector.
#[derive(Clone, Debug)]
pub(crate) struct Quantiser {
    mean: Vec<f32>,
    sub_dims: usize,
    /// By dimension: that number of each entry of its part.
    entries: Vec<[f32; ENTRIES]>,
}

/// A query as a quantiser takes it.
#[derive(Debug, Default)]
pub(crate) struct QueryTables {
    pub(crate) tables: PartTables,
    /// What is to be added to every estimate.
    pub(crate) base: f32,
    contributions: Vec<[f32; ENTRIES]>,
    shifted: Vec<f32>,
}

/// What is kept of a row.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub(crate) codes: Vec<u8>,
    pub(crate) scale: f32,
    pub(crate) bias: f32,
    rest: Vec<f32>,
}

impl Quantiser {
    pub(crate) fn new(mean: Vec<f32>, sub_dims: usize, entries: Vec<[f32; ENTRIES]>) -> Self {
        Self { mean, sub_dims, entries }
    }

    pub(crate) fn mean(&self) -> &[f32] {
        &self.mean
    }

    pub(crate) fn entries(&self) -> &[[f32; ENTRIES]] {
        &self.entries
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.mean.capacity() * size_of::<f32>() + self.entries.capacity() * size_of::<[f32; ENTRIES]>()
    }

    /// Encodes a prepared vector.
    pub(crate) fn encode(&self, metric: Metric, vector: &[f32], code: &mut Code) {
        let Code { codes, scale, bias, rest } = code;
        rest.clear();
        rest.extend(vector.iter().zip(&self.mean).map(|(value, mean)| value - mean));
        codes.clear();
        let mut product = 0.0;
        for (part, entries) in rest.chunks(self.sub_dims).zip(self.entries.chunks(self.sub_dims)) {
            let nearest = nearest(part, entries);
            product += part.iter().zip(entries).map(|(value, entry)| value * entry[nearest]).sum::<f32>();
            codes.push(nearest as u8);
        }
        let squared = norm_squared(rest);
        let factor = squared / product;
        // A row that no entry resembles is estimated to lie where the mean does.
        let factor = if product > 0.0 && factor.is_finite() { factor } else { 0.0 };
        (*scale, *bias) = match metric {
            Metric::Cosine | Metric::Dot => (-factor, 0.0),
            Metric::L2 => (-2.0 * factor, squared),
        };
    }

    /// Prepares the estimates of a prepared query.
    pub(crate) fn tables(&self, metric: Metric, query: &[f32], out: &mut QueryTables) {
        let QueryTables { tables, base, contributions, shifted } = out;
        shifted.clear();
        match metric {
            Metric::Cosine | Metric::Dot => {
                *base = -dot(query, &self.mean);
                shifted.extend_from_slice(query);
            }
            Metric::L2 => {
                shifted.extend(query.iter().zip(&self.mean).map(|(value, mean)| value - mean));
                *base = norm_squared(shifted);
            }
        }
        contributions.clear();
        for (part, entries) in shifted.chunks(self.sub_dims).zip(self.entries.chunks(self.sub_dims)) {
            let mut sums = [0.0; ENTRIES];
            for (value, entries) in part.iter().zip(entries) {
                sums.iter_mut().zip(entries).for_each(|(sum, entry)| *sum += value * entry);
            }
            contributions.push(sums);
        }
        tables.set(contributions);
    }
}

/// Squared distances from a part of a vector to all entries, in an order that the compiler makes vector instructions of.
fn distances(part: &[f32], entries: &[[f32; ENTRIES]]) -> [f32; ENTRIES] {
    let mut distances = [0.0; ENTRIES];
    for (value, entries) in part.iter().zip(entries) {
        for (distance, entry) in distances.iter_mut().zip(entries) {
            *distance += (value - entry) * (value - entry);
        }
    }
    distances
}

/// The entry that is nearest to a part of a vector.
fn nearest(part: &[f32], entries: &[[f32; ENTRIES]]) -> usize {
    let distances = distances(part, entries);
    let least = distances.iter().fold(f32::INFINITY, |least, &distance| least.min(distance));
    distances.iter().position(|&distance| distance == least).unwrap_or(0)
}

/// A training that goes on, a few parts at a time.
#[derive(Debug)]
pub(crate) struct Training {
    mean: Vec<f32>,
    sub_dims: usize,
    /// The sample, less its mean.
    sample: Vec<f32>,
    entries: Vec<[f32; ENTRIES]>,
    /// How many rows there were when it began.
    pub(crate) rows: usize,
}

impl Training {
    /// Begins with a sample of `rows`.
    pub(crate) fn begin(vectors: &Vectors, sub_dims: usize, rows: &[RowId]) -> Result<Self, PluginError> {
        let dims = vectors.dims();
        let step = rows.len().div_ceil(SAMPLE).max(1);
        let chosen: Vec<RowId> = rows.iter().step_by(step).copied().collect();
        let mut sample = vectors.load_all(&chosen)?;
        let mut sums = vec![0.0_f64; dims];
        for vector in sample.chunks_exact(dims) {
            sums.iter_mut().zip(vector).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / chosen.len().max(1) as f64) as f32).collect();
        for vector in sample.chunks_exact_mut(dims) {
            vector.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
        }
        Ok(Self { mean, sub_dims, sample, entries: Vec::with_capacity(dims), rows: rows.len() })
    }

    /// Trains some more parts, and returns the quantiser when there are no more.
    pub(crate) fn step(&mut self) -> Option<Quantiser> {
        let dims = self.mean.len();
        for _ in 0..PARTS_AT_ONCE {
            let start = self.entries.len();
            if start == dims {
                return Some(Quantiser::new(
                    std::mem::take(&mut self.mean),
                    self.sub_dims,
                    std::mem::take(&mut self.entries),
                ));
            }
            let width = self.sub_dims.min(dims - start);
            let parts = self.sample.chunks_exact(dims).flat_map(|vector| &vector[start..start + width]);
            let entries = trained(&parts.copied().collect::<Vec<_>>(), width);
            self.entries.extend(entries);
        }
        None
    }
}

/// The entries for parts of `width` numbers, by k-means.
fn trained(parts: &[f32], width: usize) -> Vec<[f32; ENTRIES]> {
    let count = parts.len() / width;
    let mut entries = vec![[0.0; ENTRIES]; width];
    if count == 0 {
        return entries;
    }
    // Parts from all over the sample.
    let begin = |entry: usize| (entry * 2 + 1) * count / (2 * ENTRIES);
    for entry in 0..ENTRIES {
        let part = &parts[begin(entry) * width..][..width];
        entries.iter_mut().zip(part).for_each(|(numbers, &value)| numbers[entry] = value);
    }
    for round in 0..ROUNDS {
        let (mut sums, mut counts) = (vec![[0.0_f32; ENTRIES]; width], [0_u32; ENTRIES]);
        for part in parts.chunks_exact(width) {
            let nearest = nearest(part, &entries);
            counts[nearest] += 1;
            sums.iter_mut().zip(part).for_each(|(sums, value)| sums[nearest] += value);
        }
        for entry in 0..ENTRIES {
            let other = &parts[(begin(entry) + round * 31 + 7) % count * width..][..width];
            for ((numbers, sums), other) in entries.iter_mut().zip(&sums).zip(other) {
                // An entry that nothing is near to starts again elsewhere.
                numbers[entry] = if counts[entry] > 0 { sums[entry] / counts[entry] as f32 } else { *other };
            }
        }
    }
    entries
}
