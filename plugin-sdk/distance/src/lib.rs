//! SIMD distance kernels over f32, f16 and 8-bit vectors, with run-time detection.
//!
//! The server's exact scan and the index plugins share this crate, so that a distance is the same number wherever it
//! is computed. Queries are f32, stored rows f32, f16 or 8-bit codes with a scale; every sum is kept in f32.
//!
//! ```
//! use photondb_distance::{Metric, Query};
//!
//! let query = Query::new(Metric::L2, &[3.0, 0.0]);
//! assert_eq!(query.distance(&[0.0_f32, 4.0]), 5.0);
//!
//! let mut distances = [0.0; 2];
//! query.distances(&[&[3.0_f32, 0.0][..], &[3.0, 1.0]], &mut distances);
//! assert_eq!(distances, [0.0, 1.0]);
//! ```
//!
//! - [`Metric`]: what distance means; [`Query`]: one query against one row, or many rows;
//! - [`VectorRef`]: a row as it is stored;
//! - [`dot`], [`l2_squared`], [`norm_squared`]: the raw products;
//! - [`CodeRows`], [`DigitRows`]: codes of 8 and of 2 bits a number, for walks that score exactly at the end;
//! - [`PartRows`]: codes of 4 bits for several numbers together, for scans that estimate distances by tables;
//! - [`Sketches`]: 4-bit codes with bounds of their error, for exact scans that read a quarter of the bytes.
//!
//! Three sets of kernels exist, and the best one that the processor has is picked once: AVX-512 (F, BW, VNNI),
//! AVX2 with FMA and F16C, and plain loops, which are also what the other two are tested against. Architectures other
//! than x86-64 use the plain loops.
//!
//! Why not a crate: `simsimd` 6.5 multiplies f16 in half precision (recall 0.9985 in an exact scan of 384 dimensions,
//! where these kernels reach 1), and its successor `numkong` 7.8 returns f64 from f32 kernels (10 times slower than
//! its f16) and needs minutes to compile. What is needed is small enough to own.

#![deny(unsafe_code)]

mod codes;
mod digits;
#[expect(unsafe_code, reason = "vector loads, prefetches and calls of functions compiled for detected features")]
mod kernels;
mod lines;
mod metric;
mod parts;
mod query;
mod row;
mod sketch;

pub use codes::{Code, CodeRows};
pub use digits::DigitRows;
pub use kernels::{Element, prefetch};
pub use metric::Metric;
pub use parts::{PartRows, PartTables};
pub use query::Query;
pub use row::{VectorRef, encode_i8};
pub use sketch::{SketchQueries, Sketches};

use kernels::Level;

/// The dot product. Of slices that differ in length, the excess of the longer one is ignored.
#[must_use]
pub fn dot<E: Element>(query: &[f32], row: &[E]) -> f32 {
    E::dot(Level::detected(), query, row)
}

/// The squared Euclidean distance. Of slices that differ in length, the excess of the longer one is ignored.
#[must_use]
pub fn l2_squared<E: Element>(query: &[f32], row: &[E]) -> f32 {
    E::l2_squared(Level::detected(), query, row)
}

/// The squared Euclidean length.
#[must_use]
pub fn norm_squared<E: Element>(row: &[E]) -> f32 {
    E::norm_squared(Level::detected(), row)
}

/// Applies the Hadamard transform in place, scaled so that it is a rotation and its own inverse.
///
/// # Panics
/// When the length is not a power of two.
pub fn hadamard(values: &mut [f32]) {
    assert!(values.len().is_power_of_two(), "a Hadamard transform of {} numbers", values.len());
    kernels::hadamard(Level::detected(), values);
}

/// The difference of two vectors of this squared length has a squared length that f32 holds, with room for rounding.
const MAX_SQUARED_LENGTH: f32 = f32::MAX / 8.0;

/// The nearest whole number, of values up to 2^22, with instructions that every processor has for vectors: a function of the
/// C library for each number takes longer than a scan of some hundred sketches.
#[inline]
#[must_use]
pub fn rounded(value: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    (value + ROUND) - ROUND
}

/// Whether the distances between this vector and others of which the same is true are finite, whatever the metric: its
/// squared length is at most 4.2e37.
#[must_use]
pub fn is_measurable(vector: &[f32]) -> bool {
    // False as well for a length that is not a number.
    norm_squared(vector) <= MAX_SQUARED_LENGTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hadamard_transform_is_the_matrix_of_signs() {
        for bits in 0..7 {
            let size = 1_usize << bits;
            for level in Level::available() {
                for column in 0..size {
                    let mut values = vec![0.0; size];
                    values[column] = 1.0;
                    kernels::hadamard(level, &mut values);
                    for (row, value) in values.iter().enumerate() {
                        let sign = if (row & column).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                        assert!((value - sign / (size as f32).sqrt()).abs() < 1e-6, "{size} {level:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn distances_of_measurable_vectors_are_finite() {
        for dims in [1, 3, 40, 4096] {
            let largest = |sign: f32| vec![sign * 0.999 * (MAX_SQUARED_LENGTH / dims as f32).sqrt(); dims];
            let vectors = [largest(1.0), largest(-1.0), vec![0.0; dims]];
            assert!(vectors.iter().all(|vector| is_measurable(vector)), "{dims}");
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                for query in vectors.iter().map(|vector| Query::new(metric, vector)) {
                    assert!(vectors.iter().all(|row| query.distance(row).is_finite()), "{metric:?} {dims}");
                }
            }
        }
        for number in [1e19, -1e30, f32::INFINITY, f32::NAN] {
            assert!(!is_measurable(&[0.0, number]), "{number}");
        }
    }
}
