//! A stored row, whatever its numbers are.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::prefetch;
use crate::metric::Metric;
use crate::query::Query;

/// One row of a column, in place.
#[derive(Clone, Copy, Debug)]
pub enum VectorRef<'a> {
    /// The numbers.
    F32(&'a [f32]),
    /// The numbers.
    F16(&'a [f16]),
    /// The numbers are the codes times the scale.
    I8 {
        /// -127 to 127.
        codes: &'a [i8],
        /// Zero or more.
        scale: f32,
    },
}

/// Numbers that are decoded together.
const CHUNK: usize = 64;

impl VectorRef<'_> {
    /// Writes the row as f32 to `out`, which is as long as the row.
    ///
    /// # Panics
    /// When it is not.
    pub fn copy_to(&self, out: &mut [f32]) {
        match self {
            Self::F32(row) => out.copy_from_slice(row),
            Self::F16(row) => row.convert_to_f32_slice(out),
            Self::I8 { codes, scale } => {
                assert_eq!(codes.len(), out.len(), "the row has another length");
                decode(codes, *scale, out);
            }
        }
    }

    /// Asks the processor to load the row into its caches; a hint without any other effect.
    pub fn prefetch(&self) {
        match self {
            Self::F32(row) => prefetch(row),
            Self::F16(row) => prefetch(row),
            Self::I8 { codes, .. } => prefetch(codes),
        }
    }
}

fn decode(codes: &[i8], scale: f32, out: &mut [f32]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * scale;
    }
}

impl Query<'_> {
    /// The distance to a row, which should be as long as the query.
    #[must_use]
    pub fn distance_to(&self, row: VectorRef<'_>) -> f32 {
        match row {
            VectorRef::F32(row) => self.distance(row),
            VectorRef::F16(row) => self.distance(row),
            VectorRef::I8 { codes, scale } => match self.metric() {
                // The scale changes the row's length, not its direction.
                Metric::Cosine => self.distance(codes),
                Metric::Dot => self.distance(codes) * scale,
                Metric::L2 => {
                    let mut numbers = [0.0; CHUNK];
                    let chunks = self.values().chunks(CHUNK).zip(codes.chunks(CHUNK));
                    let squares = chunks.map(|(query, codes)| {
                        decode(codes, scale, &mut numbers);
                        crate::l2_squared(query, &numbers[..codes.len()])
                    });
                    squares.sum::<f32>().sqrt()
                }
            },
        }
    }
}

/// Encodes a vector for [`VectorRef::I8`]: appends the codes to `codes`, and returns the scale. The greatest number keeps
/// its value, the others are off by half a scale at most.
pub fn encode_i8(vector: &[f32], codes: &mut Vec<i8>) -> f32 {
    let greatest = vector.iter().fold(0.0_f32, |greatest, number| greatest.max(number.abs()));
    let scale = greatest / 127.0;
    codes.extend(vector.iter().map(|&number| (f64::from(number) / f64::from(scale)).round_ties_even() as i8));
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_to_codes_are_those_to_what_they_stand_for() {
        for dims in [1, 5, 64, 100, 384] {
            let number = |at: usize, salt: usize| ((at * 7919 + salt * 104_729) % 1000) as f32 / 500.0 - 1.0;
            let vector = |salt| (0..dims).map(|at| number(at, salt)).collect::<Vec<_>>();
            let mut codes = Vec::new();
            let scale = encode_i8(&vector(1), &mut codes);
            let row = VectorRef::I8 { codes: &codes, scale };
            let mut decoded = vec![0.0; dims];
            row.copy_to(&mut decoded);
            assert!(decoded.iter().zip(vector(1)).all(|(a, b)| (a - b).abs() <= scale * 0.501), "{dims}");
            let query = vector(2);
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                let query = Query::new(metric, &query);
                let (found, wanted) = (query.distance_to(row), query.distance(&decoded));
                assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1.0), "{metric:?}: {found} and {wanted}");
            }
        }
    }

    #[test]
    fn zeros_and_tiny_numbers_have_codes() {
        let mut codes = Vec::new();
        assert_eq!(encode_i8(&[0.0; 3], &mut codes), 0.0);
        assert_eq!(codes, [0; 3]);
        codes.clear();
        encode_i8(&[1e-45, -1e-44, 0.0], &mut codes);
        assert_eq!(codes[2], 0);
    }
}
