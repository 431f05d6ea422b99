//! Vectors as codes of a few bits a number.
//!
//! A row `x` becomes `x - c ≈ s · codes`, with one centre `c` for the index and one scale `s` for each row. The centre
//! takes out what all rows have in common, which would use up the bits otherwise. It costs nothing: with
//! `bias(x)` chosen by metric, every distance is
//!
//! ```text
//! bias(a) + bias(b) - weight · s(a) · s(b) · (codes(a) · codes(b))
//! ```
//!
//! | metric | distance | `bias(x)` | weight |
//! |---|---|---|---|
//! | cosine | `1 - a·b`, both of length 1 | `(1 + c·c) / 2 - x·c` | 1 |
//! | dot | `-a·b` | `c·c / 2 - x·c` | 1 |
//! | l2 | squared distance | squared length of `x - c` | 2 |
//!
//! Vectors of [many numbers](crate::codes) are rotated first, so that none is much larger than the others. The scale of
//! their codes is such that the product with `x - c` itself is exact: then no product is too large or too small on
//! average (Gao, Long: RaBitQ, 2024, section 3.2).

use photondb_plugin_sdk::column::VectorRef;
use photondb_plugin_sdk::distance::{norm_squared, rounded};
use photondb_plugin_sdk::kinds::vector::Metric;

use crate::codes::{Target, are_halved};
use crate::rotation::Rotation;

/// Up to this scale and bias no walk distance overflows into something that is not a number. Larger vectors have squared
/// lengths that f32 does not hold either.
const MAX_SCALE: f32 = 1e15;
const MAX_BIAS: f32 = 1e37;
/// Rows that are so many times longer than the median don't count for the centre.
const MAX_STRETCH: f32 = 4.0;

/// Codes of 4 bits reach to so many standard deviations: larger numbers are cut. Best for their high halves alone is 2.0,
/// for all bits 2.7; on text embeddings this loses next to nothing for either.
const REACH: f32 = 2.4;

/// What a row's distances need beside its codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Factors {
    /// The scale of the high halves of the codes alone.
    pub(crate) rough_scale: f32,
    pub(crate) scale: f32,
    pub(crate) bias: f32,
}

/// What is kept of a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Encoded<'a> {
    /// A byte for each number: signed numbers of 8 bits, or unsigned ones of 4 where they are kept in halves.
    pub(crate) codes: &'a [u8],
    pub(crate) factors: Factors,
}

/// The working memory of an encoder.
#[derive(Debug, Default)]
pub(crate) struct EncodeScratch {
    /// The vector, less the centre and rotated.
    vector: Vec<f32>,
    /// Its codes, as they are kept and as the side that is compared.
    codes: Vec<u8>,
    signed: Vec<i8>,
}

/// Turns vectors into codes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoder {
    metric: Metric,
    /// Empty until there are rows enough to find one.
    centre: Vec<f32>,
    /// `c·c`.
    centre_squared: f32,
    /// Of vectors whose codes are kept in halves.
    rotation: Option<Rotation>,
}

impl Encoder {
    /// An encoder whose centre is zero, for as long as there are few rows.
    pub(crate) fn new(metric: Metric, dims: usize) -> Self {
        Self::with_centre(metric, dims, Vec::new())
    }

    /// An encoder with the given centre; an empty one is zero.
    pub(crate) fn with_centre(metric: Metric, dims: usize, centre: Vec<f32>) -> Self {
        let centre_squared = centre.iter().map(|value| value * value).sum();
        Self { metric, centre, centre_squared, rotation: are_halved(dims).then(|| Rotation::new(dims)) }
    }

    /// An encoder whose centre is the mean of the given rows, but for those that are much longer than most: a single
    /// one could move the centre so far away that all other rows had the same codes.
    pub(crate) fn fitted<'a>(metric: Metric, dims: usize, rows: impl Iterator<Item = VectorRef<'a>> + Clone) -> Self {
        let plain = Self::new(metric, dims);
        let mut sums = vec![0.0_f64; dims];
        let mut vector = vec![0.0; dims];
        let squared_length = |row: VectorRef<'a>, vector: &mut [f32]| {
            row.copy_to(vector);
            plain.normalise(vector);
            norm_squared(vector)
        };
        let mut lengths: Vec<f32> = rows.clone().map(|row| squared_length(row, &mut vector)).collect();
        let middle = lengths.len() / 2;
        let longest = match lengths.is_empty() {
            true => 0.0,
            false => MAX_STRETCH * MAX_STRETCH * *lengths.select_nth_unstable_by(middle, f32::total_cmp).1,
        };
        let mut count = 0_u32;
        for row in rows {
            let length = squared_length(row, &mut vector);
            if length.is_finite() && length <= longest {
                sums.iter_mut().zip(&vector).for_each(|(sum, &value)| *sum += f64::from(value));
                count += 1;
            }
        }
        Self::with_centre(metric, dims, sums.iter().map(|sum| (sum / f64::from(count.max(1))) as f32).collect())
    }

    /// The centre; empty if it was never found.
    pub(crate) fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// How much a product of codes and scales counts in a distance.
    pub(crate) fn weight(&self) -> f32 {
        match self.metric {
            Metric::Cosine | Metric::Dot => 1.0,
            Metric::L2 => 2.0,
        }
    }

    /// Encodes a row.
    pub(crate) fn encode<'s>(&self, row: VectorRef<'_>, dims: usize, scratch: &'s mut EncodeScratch) -> Encoded<'s> {
        scratch.vector.resize(dims, 0.0);
        row.copy_to(&mut scratch.vector);
        let bias = self.prepare(&mut scratch.vector);
        let EncodeScratch { vector, codes, signed } = scratch;
        let factors = if self.rotation.is_some() {
            let (rough_scale, scale) = halved_codes(vector, codes);
            Factors { rough_scale, scale, bias }
        } else {
            let scale = signed_codes(vector, signed);
            codes.clear();
            codes.extend(signed.iter().map(|code| code.cast_unsigned()));
            Factors { rough_scale: scale, scale, bias }
        };
        Encoded { codes, factors }
    }

    /// Makes `target` of a query.
    pub(crate) fn encode_query(&self, query: &[f32], target: &mut Target, scratch: &mut EncodeScratch) {
        query.clone_into(&mut scratch.vector);
        target.bias = self.prepare(&mut scratch.vector);
        target.factor = -self.weight() * signed_codes(&scratch.vector, &mut scratch.signed);
        target.code.set(&scratch.signed);
    }

    /// Makes of a vector what is encoded, and returns its bias.
    fn prepare(&self, vector: &mut [f32]) -> f32 {
        self.normalise(vector);
        let mut with_centre = 0.0;
        for (value, centre) in vector.iter_mut().zip(&self.centre) {
            with_centre += *value * centre;
            *value -= centre;
        }
        let bias = match self.metric {
            Metric::Cosine => f32::midpoint(1.0, self.centre_squared) - with_centre,
            Metric::Dot => self.centre_squared / 2.0 - with_centre,
            Metric::L2 => norm_squared(vector),
        };
        if let Some(rotation) = &self.rotation {
            rotation.apply(vector);
        }
        if bias.abs() < MAX_BIAS { bias } else { 0.0 }
    }

    /// For cosine: divides by the length. A zero vector stays zero.
    fn normalise(&self, vector: &mut [f32]) {
        if self.metric != Metric::Cosine {
            return;
        }
        let length = norm_squared(vector).sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|value| *value /= length);
        }
    }
}

/// Leaves `vector` as signed numbers of 8 bits in `codes`, and returns their scale; zero if all values equal the centre, or
/// are too large: then the place in the graph is arbitrary, and the exact score at the end of a search decides.
fn signed_codes(vector: &[f32], codes: &mut Vec<i8>) -> f32 {
    // In chunks, so that the maximum is found with vector instructions.
    let (chunks, rest) = vector.as_chunks::<16>();
    let mut largest = [0.0_f32; 16];
    for chunk in chunks {
        for (largest, value) in largest.iter_mut().zip(chunk) {
            *largest = largest.max(value.abs());
        }
    }
    let largest = largest.iter().chain(rest).fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if is_usable(scale) { 1.0 / scale } else { 0.0 };
    codes.clear();
    codes.extend(vector.iter().map(|value| rounded(value * inverse) as i8));
    if inverse > 0.0 { scale } else { 0.0 }
}

/// Leaves `vector` as unsigned numbers of 4 bits in `codes`, and returns the scales of their high halves and of them; zero
/// as in [`signed_codes`].
fn halved_codes(vector: &[f32], codes: &mut Vec<u8>) -> (f32, f32) {
    codes.clear();
    codes.resize(vector.len(), 0);
    let squared = norm_squared(vector);
    let step = REACH / 8.0 * (squared / vector.len() as f32).sqrt();
    if !is_usable(step) {
        return (0.0, 0.0);
    }
    let inverse = 1.0 / step;
    // In chunks, as above.
    let (mut rough_products, mut products) = ([0.0; 16], [0.0; 16]);
    for (codes, values) in codes.chunks_mut(16).zip(vector.chunks(16)) {
        for (i, (code, value)) in codes.iter_mut().zip(values).enumerate() {
            let number = rounded((value * inverse + 7.5).clamp(0.0, 15.0)) as i32;
            *code = number as u8;
            rough_products[i] += value * (2 * (number >> 2) - 3) as f32;
            products[i] += value * (2 * number - 15) as f32;
        }
    }
    (squared / rough_products.iter().sum::<f32>(), squared / products.iter().sum::<f32>())
}

fn is_usable(scale: f32) -> bool {
    scale > f32::MIN_POSITIVE && scale < MAX_SCALE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::codes::Codes;

    use super::*;

    /// The distance by whole codes, and by their high halves.
    fn distances(encoder: &Encoder, a: &[f32], b: &[f32]) -> [f32; 2] {
        let mut codes = Codes::new(a.len());
        let mut scratch = EncodeScratch::default();
        codes.push(&encoder.encode(VectorRef::F32(b), b.len(), &mut scratch));
        let mut target = Target::default();
        encoder.encode_query(a, &mut target, &mut scratch);
        let (mut fine, mut rough) = (Vec::new(), Vec::new());
        codes.distances(&target, &[0], &mut fine);
        codes.rough_distances(&target, &[0], &mut rough);
        [fine[0], rough[0]]
    }

    fn walk_distance(encoder: &Encoder, a: &[f32], b: &[f32]) -> f32 {
        distances(encoder, a, b)[1]
    }

    fn exact(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
        let distance = photondb_plugin_sdk::distance::Query::new(metric, a).distance(b);
        if metric == Metric::L2 { distance * distance } else { distance }
    }

    proptest! {
        #[test]
        fn walk_distances_are_near_the_exact_ones(
            (a, b, centre) in (1_usize..80).prop_flat_map(|dims| {
                let vector = || prop::collection::vec(-1.0_f32..1.0, dims);
                (vector(), vector(), vector())
            }),
            centred in any::<bool>(),
        ) {
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                let centre = if centred { centre.iter().map(|value| value / 8.0).collect() } else { Vec::new() };
                let encoder = Encoder::with_centre(metric, a.len(), centre);
                prop_assume!(a.iter().chain(&b).any(|value| value.abs() > 0.01));
                let (found, expected) = (walk_distance(&encoder, &a, &b), exact(metric, &a, &b));
                // Half a step of 1/127 for each of the numbers of both sides, in the worst case.
                let bound = match metric { Metric::Cosine => 0.1, _ => 0.04 * a.len() as f32 };
                prop_assert!((found - expected).abs() <= bound, "{:?}: {} for {}", metric, found, expected);
            }
        }

        #[test]
        fn no_vector_gives_a_factor_that_is_not_finite(vector in prop::collection::vec(any::<f32>(), 1..200)) {
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                let encoder = Encoder::new(metric, vector.len());
                let mut scratch = EncodeScratch::default();
                let factors = encoder.encode(VectorRef::F32(&vector), vector.len(), &mut scratch).factors;
                prop_assert!(factors.scale.is_finite() && factors.bias.is_finite());
                prop_assert!(distances(&encoder, &vector, &vector).iter().all(|distance| distance.is_finite()));
            }
        }
    }

    #[test]
    fn a_centre_keeps_small_differences_apart() {
        let rows: Vec<Vec<f32>> = (0..4).map(|n| vec![1000.0 + n as f32 * 0.01, 1000.0, -1000.0]).collect();
        let fitted = Encoder::fitted(Metric::L2, 3, rows.iter().map(|row| VectorRef::F32(row)));
        assert!(walk_distance(&fitted, &rows[0], &rows[1]) < walk_distance(&fitted, &rows[0], &rows[3]));
    }

    #[test]
    fn a_zero_vector_is_at_cosine_distance_one() {
        let encoder = Encoder::with_centre(Metric::Cosine, 2, vec![0.1, 0.2]);
        assert!((walk_distance(&encoder, &[0.0, 0.0], &[1.0, 0.0]) - 1.0).abs() < 0.01);
    }
}
