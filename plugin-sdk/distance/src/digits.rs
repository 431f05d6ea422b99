//! 2-bit digits of vectors, and their dot products with 8-bit codes.

use crate::codes::Code;
use crate::kernels::{Level, Line, dots_of_digits};
use crate::lines::LineRows;

/// Digits in a byte.
const PER_BYTE: usize = 4;
/// Digits in a line.
const PER_LINE: usize = PER_BYTE * Line::CODES;

/// Rows of 2-bit digits, each row starting on a cache line: 256 digits a line.
///
/// A digit `u` (0 to 3) stands for the odd number `2u - 3`, so that the four lie around zero and none is zero. A number
/// of 4 bits is two digits, in a matrix each: with `u = 4h + l` its odd number is `2u - 15`, which is four times that
/// of `h` plus that of `l`. So a walk can go by the high digits, and add the low ones where it matters.
///
/// Byte `i` of line `l` holds, from its lowest bits up, the digits of the dimensions `256 l + i + {0, 64, 128, 192}`.
#[derive(Clone, Debug)]
pub struct DigitRows {
    lines: LineRows,
    dims: usize,
}

impl DigitRows {
    /// No rows, of `dims` digits each. Dot products are exact up to a million dimensions.
    #[must_use]
    pub fn new(dims: usize) -> Self {
        Self { lines: LineRows::new(dims.div_ceil(PER_LINE)), dims }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory that the rows take, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.lines.memory_bytes()
    }

    /// Makes room for `additional` more rows.
    pub fn reserve(&mut self, additional: usize) {
        self.lines.reserve(additional);
    }

    /// Appends a row of the lowest two bits of each of `digits`; what they lack in length is zero.
    ///
    /// # Panics
    /// When there are more digits than dimensions.
    pub fn push(&mut self, digits: &[u8]) {
        let row = self.lines.push();
        self.set(row, digits);
    }

    /// Overwrites a row; as [`push`](Self::push).
    ///
    /// # Panics
    /// When there is no such row, or more digits than dimensions.
    pub fn set(&mut self, row: usize, digits: &[u8]) {
        assert!(digits.len() <= self.dims, "{} digits for {} dimensions", digits.len(), self.dims);
        let lines = self.lines.row_mut(row);
        lines.fill(Line::ZERO);
        for (line, digits) in lines.iter_mut().zip(digits.chunks(PER_LINE)) {
            for (place, digits) in digits.chunks(Line::CODES).enumerate() {
                for (byte, digit) in line.0.iter_mut().zip(digits) {
                    *byte |= ((digit & 3) << (2 * place)).cast_signed();
                }
            }
        }
    }

    /// Sets `code` to the odd numbers `2 (4h + l) - 15` of a row, where `h` is its digit in `high` and `l` in `low`.
    ///
    /// # Panics
    /// When there is no such row, or the matrices have different dimensions.
    pub fn code_of(high: &Self, low: &Self, row: u32, code: &mut Code) {
        assert_eq!(high.dims, low.dims, "the two digits of a number are in matrices of the same dimensions");
        let lines = code.reset(high.dims);
        for ((lines, high), low) in lines.chunks_mut(PER_BYTE).zip(high.lines.row(row)).zip(low.lines.row(row)) {
            for (place, line) in lines.iter_mut().enumerate() {
                for ((code, high), low) in line.0.iter_mut().zip(&high.0).zip(&low.0) {
                    let digit = |byte: &i8| ((byte.cast_unsigned() >> (2 * place)) & 3).cast_signed();
                    *code = 8 * digit(high) + 2 * digit(low) - 15;
                }
            }
        }
        let padding = lines.len() * Line::CODES - high.dims;
        if let Some(last) = lines.last_mut() {
            last.0[Line::CODES - padding..].fill(0);
        }
    }

    /// Writes the dot products of `query` with the given `rows` to `out`, in the same order; stops at the shorter of
    /// the two.
    ///
    /// # Panics
    /// When a row does not exist, or `query` was made for rows of another length.
    pub fn dots(&self, query: &Code, rows: &[u32], out: &mut [i32]) {
        self.dots_with(Level::detected(), query, rows, out);
    }

    fn dots_with(&self, level: Level, query: &Code, rows: &[u32], out: &mut [i32]) {
        let lines = self.dims.div_ceil(Line::CODES).max(1);
        assert_eq!(query.lines().len(), lines, "the query has another length than the rows");
        dots_of_digits(level, query.lines(), self.lines.all(), rows, out);
    }

    /// Asks the processor to load a row into its caches.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn prefetch(&self, row: u32) {
        self.lines.prefetch(row);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_kernel_is_exact(
            (query, rows) in (0_usize..700).prop_flat_map(|dims| {
                let query = prop::collection::vec(any::<i8>(), dims);
                (query, prop::collection::vec(prop::collection::vec(0_u8..4, dims), 1..12))
            })
        ) {
            let mut matrix = DigitRows::new(query.len());
            rows.iter().for_each(|row| matrix.push(row));
            prop_assert_eq!(matrix.len(), rows.len());
            let code = Code::new(&query);
            // Backwards and with a row twice, since a walk asks in any order.
            let ids: Vec<u32> = (0..rows.len() as u32).rev().chain([0]).collect();
            for level in Level::available() {
                let mut dots = vec![i32::MIN; ids.len()];
                matrix.dots_with(level, &code, &ids, &mut dots);
                for (&id, dot) in ids.iter().zip(dots) {
                    let row = &rows[id as usize];
                    let plain: i32 = query.iter().zip(row).map(|(&a, &u)| i32::from(a) * (2 * i32::from(u) - 3)).sum();
                    prop_assert_eq!(dot, plain, "{:?}", level);
                }
            }
        }

        #[test]
        fn two_digits_are_read_back_as_odd_numbers(row in prop::collection::vec(0_u8..16, 0..700)) {
            let (mut high, mut low) = (DigitRows::new(row.len()), DigitRows::new(row.len()));
            high.push(&row.iter().map(|number| number >> 2).collect::<Vec<_>>());
            low.push(&row);
            let mut code = Code::new(&[1; 1000]);
            DigitRows::code_of(&high, &low, 0, &mut code);
            let numbers: Vec<i8> = row.iter().map(|&number| 2 * number.cast_signed() - 15).collect();
            let expected = Code::new(&numbers);
            prop_assert_eq!(code.lines(), expected.lines());
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let dims = 1_000_000;
        let mut matrix = DigitRows::new(dims);
        matrix.push(&vec![0; dims]);
        matrix.push(&vec![3; dims]);
        let code = Code::new(&vec![i8::MIN; dims]);
        for level in Level::available() {
            let mut dots = [0; 2];
            matrix.dots_with(level, &code, &[0, 1], &mut dots);
            assert_eq!(dots, [3 * 128 * dims as i32, -3 * 128 * dims as i32], "{level:?}");
        }
    }

    #[test]
    fn a_row_is_overwritten_whole() {
        let mut matrix = DigitRows::new(70);
        matrix.push(&[3; 70]);
        matrix.set(0, &[1; 70]);
        let mut dot = [0];
        matrix.dots(&Code::new(&[1; 70]), &[0], &mut dot);
        assert_eq!(dot[0], -70);
    }
}
