//! Vectors as 8-bit codes, for the walk.
//!
//! A row `x` becomes `x - c ≈ s · codes`, with one centre `c` for the index and one scale `s` for each row. The centre
//! takes out what all rows have in common, which would use up the 8 bits otherwise. It costs nothing: with
//! `bias(x)` chosen by metric, every walk distance is
//!
//! ```text
//! bias(a) + bias(b) - weight · s(a) · s(b) · (codes(a) · codes(b))
//! ```
//!
//! | metric | walk distance | `bias(x)` | weight |
//! |---|---|---|---|
//! | cosine | `1 - a·b`, both of length 1 | `(1 + c·c) / 2 - x·c` | 1 |
//! | dot | `-a·b` | `c·c / 2 - x·c` | 1 |
//! | l2 | squared distance | squared length of `s · codes` | 2 |

use photondb_plugin_sdk::column::VectorRef;
use photondb_plugin_sdk::kinds::vector::Metric;

/// Up to this scale and bias no walk distance overflows into something that is not a number. Larger vectors have squared
/// lengths that f32 does not hold either.
const MAX_SCALE: f32 = 1e15;
const MAX_BIAS: f32 = 1e37;
/// Rows that are so many times longer than the median don't count for the centre.
const MAX_STRETCH: f32 = 4.0;

/// What a row's distances need beside its codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Factors {
    pub(crate) scale: f32,
    pub(crate) bias: f32,
}

/// Turns vectors into codes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoder {
    metric: Metric,
    /// Empty until there are rows enough to find one.
    centre: Vec<f32>,
    /// `c·c`.
    centre_squared: f32,
}

impl Encoder {
    /// An encoder whose centre is zero, for as long as there are few rows.
    pub(crate) fn new(metric: Metric) -> Self {
        Self { metric, centre: Vec::new(), centre_squared: 0.0 }
    }

    /// An encoder with the given centre; an empty one is zero.
    pub(crate) fn with_centre(metric: Metric, centre: Vec<f32>) -> Self {
        let centre_squared = centre.iter().map(|value| value * value).sum();
        Self { metric, centre, centre_squared }
    }

    /// An encoder whose centre is the mean of the given rows, but for those that are much longer than most: a single
    /// one could move the centre so far away that all other rows had the same codes.
    pub(crate) fn fitted<'a>(metric: Metric, dims: usize, rows: impl Iterator<Item = VectorRef<'a>> + Clone) -> Self {
        let plain = Self::new(metric);
        let mut sums = vec![0.0_f64; dims];
        let mut vector = vec![0.0; dims];
        let squared_length = |row: VectorRef<'a>, vector: &mut [f32]| {
            row.copy_to(vector);
            plain.normalise(vector);
            photondb_plugin_sdk::distance::norm_squared(vector)
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
        Self::with_centre(metric, sums.iter().map(|sum| (sum / f64::from(count.max(1))) as f32).collect())
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

    /// Writes the codes of `vector` to `codes`, which is as long, and destroys `vector`.
    pub(crate) fn encode(&self, vector: &mut [f32], codes: &mut [i8]) -> Factors {
        self.normalise(vector);
        let mut with_centre = 0.0;
        for (value, centre) in vector.iter_mut().zip(&self.centre) {
            with_centre += *value * centre;
            *value -= centre;
        }
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
        let inverse = if scale > f32::MIN_POSITIVE && scale < MAX_SCALE { 1.0 / scale } else { 0.0 };
        let mut codes_squared = 0;
        for (code, value) in codes.iter_mut().zip(vector.iter()) {
            // Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number, for values up to 2^22.
            const ROUND: f32 = 12_582_912.0;
            *code = ((value * inverse + ROUND) - ROUND) as i8;
            codes_squared += i32::from(*code) * i32::from(*code);
        }
        let bias = match self.metric {
            Metric::Cosine => f32::midpoint(1.0, self.centre_squared) - with_centre,
            Metric::Dot => self.centre_squared / 2.0 - with_centre,
            Metric::L2 => scale * scale * codes_squared as f32,
        };
        if inverse > 0.0 && bias.abs() < MAX_BIAS {
            Factors { scale, bias }
        } else {
            // All values equal the centre, or the numbers are too large: then the place in the graph is arbitrary, and
            // the exact score at the end of a search decides.
            Factors { scale: 0.0, bias: if bias.abs() < MAX_BIAS { bias } else { 0.0 } }
        }
    }

    /// For cosine: divides by the length. A zero vector stays zero.
    fn normalise(&self, vector: &mut [f32]) {
        if self.metric != Metric::Cosine {
            return;
        }
        let length = photondb_plugin_sdk::distance::norm_squared(vector).sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|value| *value /= length);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk_distance(encoder: &Encoder, a: &[f32], b: &[f32]) -> f32 {
        let mut codes = [vec![0; a.len()], vec![0; b.len()]];
        let x = encoder.encode(&mut a.to_vec(), &mut codes[0]);
        let y = encoder.encode(&mut b.to_vec(), &mut codes[1]);
        let product: i32 = codes[0].iter().zip(&codes[1]).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
        x.bias + y.bias - encoder.weight() * x.scale * y.scale * product as f32
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
                let encoder = Encoder::with_centre(metric, centre);
                prop_assume!(a.iter().chain(&b).any(|value| value.abs() > 0.01));
                let (found, expected) = (walk_distance(&encoder, &a, &b), exact(metric, &a, &b));
                // Half a step of 1/127 for each of the numbers of both sides, in the worst case.
                let bound = match metric { Metric::Cosine => 0.1, _ => 0.04 * a.len() as f32 };
                prop_assert!((found - expected).abs() <= bound, "{:?}: {} for {}", metric, found, expected);
            }
        }

        #[test]
        fn no_vector_gives_a_factor_that_is_not_finite(vector in prop::collection::vec(any::<f32>(), 1..40)) {
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                let mut codes = vec![0; vector.len()];
                let factors = Encoder::new(metric).encode(&mut vector.clone(), &mut codes);
                prop_assert!(factors.scale.is_finite() && factors.bias.is_finite());
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
        let encoder = Encoder::with_centre(Metric::Cosine, vec![0.1, 0.2]);
        assert!((walk_distance(&encoder, &[0.0, 0.0], &[1.0, 0.0]) - 1.0).abs() < 0.01);
    }
}
