//! The kernels, and the choice among them.
//!
//! Unsafe code does three things here: it loads vectors from array references of exactly their size, it prefetches,
//! and it calls functions that are compiled for features which [`Level::detected`] found. Everything else, loops and
//! bounds included, is safe code.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod products;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::sync::OnceLock;

use half::f16;

/// A cache line of 8-bit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [i8; Line::CODES]);

impl Line {
    /// How many codes a line holds.
    pub(crate) const CODES: usize = 64;
    /// A line of zeros.
    pub(crate) const ZERO: Self = Self([0; Self::CODES]);
}

/// How many rows the codes of a sketch are interleaved for.
pub(crate) const BLOCK_ROWS: usize = 32;

/// Eight dimensions of a block of a sketch: 4 bytes for each of its rows, which hold the first four dimensions in their
/// low halves and the others in their high ones.
pub(crate) type Octet = [Line; 2];

/// What makes bounds of the sums of a block: for each row one of each.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct RowFactors {
    pub(crate) scale: [f32; BLOCK_ROWS],
    pub(crate) offset: [f32; BLOCK_ROWS],
    pub(crate) error: [f32; BLOCK_ROWS],
    pub(crate) length: [f32; BLOCK_ROWS],
}

impl RowFactors {
    pub(crate) const ZERO: Self = {
        let zeros = [0.0; BLOCK_ROWS];
        Self { scale: zeros, offset: zeros, error: zeros, length: zeros }
    };
}

/// The query's part in the bounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QueryFactors {
    pub(crate) shift: i32,
    pub(crate) scale: f32,
    pub(crate) error: f32,
    pub(crate) rest: f32,
}

/// The bounds of a query's scores with the rows of a block.
pub(crate) type Bounds = [f32; BLOCK_ROWS];

/// A number for each row of a block.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct OfRows(pub(crate) [f32; BLOCK_ROWS]);

impl OfRows {
    pub(crate) const ZERO: Self = Self([0.0; BLOCK_ROWS]);
}

/// What makes sums of contributions estimates, for the rows of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartFactors<'a> {
    pub(crate) scale: &'a [f32; BLOCK_ROWS],
    pub(crate) bias: &'a [f32; BLOCK_ROWS],
}

/// The query's part in the estimated distances of parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartQuery<'a> {
    /// 16 numbers for each part, four parts a line.
    pub(crate) tables: &'a [Line],
    /// What a sum is multiplied by, and what is added then.
    pub(crate) step: f32,
    pub(crate) offset: f32,
    /// Only smaller estimates count.
    pub(crate) limit: f32,
}

/// Lines whose sums are added up in 16 bits: four parts each, and numbers up to [`MAX_ENTRY`].
const LINES_OF_SUM: usize = 256;
/// Lines whose sums are added up in 8 bits, in each of the four places of a line.
const LINES_OF_BYTE: usize = 4;
/// The largest number of a table: four of them fit into 8 bits.
pub(crate) const MAX_ENTRY: u8 = 63;

/// A set of kernels that this processor can run. The field is private so that no value exists without detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best set, found out once.
    pub(crate) fn detected() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| Self::available().pop().unwrap_or(Self(Set::Scalar)))
    }

    /// Every set that this processor can run, the best one last.
    pub(crate) fn available() -> Vec<Self> {
        let mut sets = vec![Self(Set::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                sets.push(Self(Set::Avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                sets.push(Self(Set::Avx512));
            }
        }
        sets
    }
}

macro_rules! dispatch {
    ($level:expr, $kernel:ident($($argument:expr),*)) => {
        match $level.0 {
            // SAFETY: a `Set::Avx512` comes from `Level::available` alone, which found every feature that the
            // functions of `avx512` are compiled for; they ask for nothing else.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { avx512::$kernel($($argument),*) },
            // SAFETY: likewise for `Set::Avx2` and the functions of `avx2`.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { avx2::$kernel($($argument),*) },
            Set::Scalar => scalar::$kernel($($argument),*),
        }
    };
}

mod sealed {
    use super::Level;

    /// The kernels of one element type.
    pub trait Kernels: Copy + Into<f32> + Send + Sync + 'static {
        fn dot(level: Level, query: &[f32], row: &[Self]) -> f32;
        fn l2_squared(level: Level, query: &[f32], row: &[Self]) -> f32;
        fn norm_squared(level: Level, row: &[Self]) -> f32;
        /// The dot product and the squared length of the row, reading it once.
        fn dot_and_norm(level: Level, query: &[f32], row: &[Self]) -> (f32, f32);
    }
}

/// What rows are made of: `f32`, [`half::f16`] or `i8`.
pub trait Element: sealed::Kernels {}

impl Element for f32 {}
impl Element for f16 {}
impl Element for i8 {}

macro_rules! element {
    ($element:ty: $dot:ident, $l2_squared:ident, $norm_squared:ident, $dot_and_norm:ident) => {
        impl sealed::Kernels for $element {
            fn dot(level: Level, query: &[f32], row: &[Self]) -> f32 {
                dispatch!(level, $dot(query, row))
            }
            fn l2_squared(level: Level, query: &[f32], row: &[Self]) -> f32 {
                dispatch!(level, $l2_squared(query, row))
            }
            fn norm_squared(level: Level, row: &[Self]) -> f32 {
                dispatch!(level, $norm_squared(row))
            }
            fn dot_and_norm(level: Level, query: &[f32], row: &[Self]) -> (f32, f32) {
                dispatch!(level, $dot_and_norm(query, row))
            }
        }
    };
}

element!(f32: dot_f32, l2_squared_f32, norm_squared_f32, dot_and_norm_f32);
element!(f16: dot_f16, l2_squared_f16, norm_squared_f16, dot_and_norm_f16);
element!(i8: dot_i8, l2_squared_i8, norm_squared_i8, dot_and_norm_i8);

/// Writes the dot product of the query with each of the `rows` to `out`. A row is `query.len()` consecutive lines.
///
/// # Panics
/// When a row is not within `lines`.
pub(crate) fn dots_of_codes(level: Level, query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    dispatch!(level, dots_of_codes(query, lines, rows, out));
}

/// Writes for each query and row of the block a bound of their score: from the dot product of the query's signed and the
/// row's unsigned codes, and the factors of both.
///
/// `words` are the query's codes in the order of the block's bytes, for each octet of dimensions and each query.
pub(crate) fn block_bounds<const Q: usize>(
    level: Level,
    block: &[Octet],
    rows: &RowFactors,
    words: &[[[i32; Q]; 2]],
    queries: &[QueryFactors; Q],
    bounds: &mut [Bounds; Q],
) {
    dispatch!(level, block_bounds(block, rows, words, queries, bounds));
}

/// Writes for each query and row of the block the estimate of their distance, and returns which of them are smaller than
/// the query's limit, one bit each.
///
/// A line of `codes` holds four parts of 32 rows: byte `i` of each 16 has row `i` in its low half and row `i + 16` in its
/// high one. Each is the number of an entry in the table of the same part.
pub(crate) fn block_estimates<const Q: usize>(
    level: Level,
    codes: &[Line],
    rows: PartFactors<'_>,
    queries: &[PartQuery<'_>; Q],
    estimates: &mut [Bounds; Q],
) -> [u32; Q] {
    dispatch!(level, block_estimates(codes, rows, queries, estimates))
}

/// Writes the dot product of the query with each of the `rows` of 2-bit digits to `out`. A row is a line for every
/// four of `query`, begun or whole.
///
/// # Panics
/// When a row is not within `lines`.
pub(crate) fn dots_of_digits(level: Level, query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    dispatch!(level, dots_of_digits(query, lines, rows, out));
}

/// Applies the Hadamard transform, scaled so that it is a rotation, in place.
pub(crate) fn hadamard(level: Level, values: &mut [f32]) {
    dispatch!(level, hadamard(values));
}

/// The plain loops of [`hadamard`], which the compiler makes vector instructions of where it is inlined.
#[inline(always)]
fn hadamard_loops(values: &mut [f32]) {
    butterflies::<1>(values);
    butterflies::<2>(values);
    butterflies::<4>(values);
    butterflies::<8>(values);
    let mut half = 16;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

/// One step of [`hadamard_loops`], of a width that is known to the compiler.
#[inline(always)]
fn butterflies<const HALF: usize>(values: &mut [f32]) {
    for pair in values.chunks_exact_mut(2 * HALF) {
        for i in 0..HALF {
            let (a, b) = (pair[i], pair[i + HALF]);
            (pair[i], pair[i + HALF]) = (a + b, a - b);
        }
    }
}

/// The lines of a row.
fn code_row(lines: &[Line], per_row: usize, row: u32) -> &[Line] {
    &lines[row as usize * per_row..][..per_row]
}

/// Asks the processor to load `values` into its caches; a hint without any other effect.
#[inline]
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of_val(values)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = values.as_ptr().cast::<i8>().wrapping_add(offset);
        // SAFETY: every x86-64 processor has SSE, and a prefetch neither faults nor changes memory, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

#[cfg(test)]
mod tests;
