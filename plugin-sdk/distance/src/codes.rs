//! 8-bit codes of vectors, and their dot products.

use crate::kernels::{Level, Line, dots_of_codes};
use crate::lines::LineRows;

/// Rows of signed 8-bit codes, each starting on a cache line.
///
/// What a code stands for is the owner's business; this holds them where a walk over a graph or a list can score
/// many rows at once.
#[derive(Clone, Debug)]
pub struct CodeRows {
    lines: LineRows,
    dims: usize,
}

/// One vector's codes, as the query side of [`CodeRows::dots`].
#[derive(Clone, Debug, Default)]
pub struct Code(Vec<Line>);

impl Code {
    /// The query side of [`CodeRows::dots`] and [`DigitRows::dots`](crate::DigitRows::dots).
    #[must_use]
    pub fn new(codes: &[i8]) -> Self {
        let mut code = Self::default();
        code.set(codes);
        code
    }

    /// Makes this what [`new`](Self::new) makes of `codes`, in the memory that it has.
    pub fn set(&mut self, codes: &[i8]) {
        write_lines(codes, self.reset(codes.len()));
    }

    /// The lines for `dims` codes, in which anything may be.
    pub(crate) fn reset(&mut self, dims: usize) -> &mut [Line] {
        self.0.resize(dims.div_ceil(Line::CODES).max(1), Line::ZERO);
        &mut self.0
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.0
    }
}

impl CodeRows {
    /// No rows, of `dims` codes each. Dot products are exact up to 131,071 dimensions.
    #[must_use]
    pub fn new(dims: usize) -> Self {
        Self { lines: LineRows::new(dims.div_ceil(Line::CODES)), dims }
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

    /// Appends a row; what `codes` lacks in length is zero.
    ///
    /// # Panics
    /// When there are more codes than dimensions.
    pub fn push(&mut self, codes: &[i8]) {
        let row = self.lines.push();
        self.set(row, codes);
    }

    /// Overwrites a row; what `codes` lacks in length is zero.
    ///
    /// # Panics
    /// When there is no such row, or more codes than dimensions.
    pub fn set(&mut self, row: usize, codes: &[i8]) {
        assert!(codes.len() <= self.dims, "{} codes for {} dimensions", codes.len(), self.dims);
        let lines = self.lines.row_mut(row);
        write_lines(codes, lines);
    }

    /// The query side of [`dots`](Self::dots), from codes; what they lack in length is zero.
    ///
    /// # Panics
    /// When there are more codes than dimensions.
    #[must_use]
    pub fn code(&self, codes: &[i8]) -> Code {
        assert!(codes.len() <= self.dims, "{} codes for {} dimensions", codes.len(), self.dims);
        let mut lines = vec![Line::ZERO; self.lines.per_row()];
        write_lines(codes, &mut lines);
        Code(lines)
    }

    /// The query side of [`dots`](Self::dots), from a row of these.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn code_of_row(&self, row: u32) -> Code {
        Code(self.lines.row(row).to_vec())
    }

    /// Writes the dot products of `query` with the given `rows` to `out`, in the same order; stops at the shorter of
    /// the two. Rows ahead are loaded into the cache meanwhile.
    ///
    /// # Panics
    /// When a row does not exist, or `query` was made for rows of another length.
    pub fn dots(&self, query: &Code, rows: &[u32], out: &mut [i32]) {
        self.dots_with(Level::detected(), &query.0, rows, out);
    }

    /// As [`dots`](Self::dots), with one of these rows as the query.
    ///
    /// # Panics
    /// When a row does not exist.
    pub fn dots_of_row(&self, query: u32, rows: &[u32], out: &mut [i32]) {
        self.dots_with(Level::detected(), self.lines.row(query), rows, out);
    }

    fn dots_with(&self, level: Level, query: &[Line], rows: &[u32], out: &mut [i32]) {
        assert_eq!(query.len(), self.lines.per_row(), "the query has another length than the rows");
        dots_of_codes(level, query, self.lines.all(), rows, out);
    }

    /// Asks the processor to load a row into its caches.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn prefetch(&self, row: u32) {
        self.lines.prefetch(row);
    }
}

fn write_lines(codes: &[i8], lines: &mut [Line]) {
    lines.fill(Line::ZERO);
    for (line, codes) in lines.iter_mut().zip(codes.chunks(Line::CODES)) {
        line.0[..codes.len()].copy_from_slice(codes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain_dot(a: &[i8], b: &[i8]) -> i32 {
        a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
    }

    proptest! {
        #[test]
        fn every_kernel_is_exact(
            (query, rows) in (0_usize..300).prop_flat_map(|dims| {
                let codes = || prop::collection::vec(any::<i8>(), dims);
                (codes(), prop::collection::vec(codes(), 1..12))
            })
        ) {
            let mut matrix = CodeRows::new(query.len());
            rows.iter().for_each(|row| matrix.push(row));
            prop_assert_eq!(matrix.len(), rows.len());
            let code = matrix.code(&query);
            // Backwards and with a row twice, since a walk asks in any order.
            let ids: Vec<u32> = (0..rows.len() as u32).rev().chain([0]).collect();
            for level in Level::available() {
                let mut dots = vec![i32::MIN; ids.len()];
                matrix.dots_with(level, &code.0, &ids, &mut dots);
                for (&id, dot) in ids.iter().zip(dots) {
                    prop_assert_eq!(dot, plain_dot(&query, &rows[id as usize]), "{:?}", level);
                }
            }
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let dims = 65_536;
        let mut matrix = CodeRows::new(dims);
        matrix.push(&vec![i8::MIN; dims]);
        let code = matrix.code_of_row(0);
        for level in Level::available() {
            let mut dot = [0];
            matrix.dots_with(level, &code.0, &[0], &mut dot);
            assert_eq!(dot[0], 128 * 128 * dims as i32, "{level:?}");
        }
    }

    #[test]
    fn a_row_is_overwritten_whole() {
        let mut matrix = CodeRows::new(70);
        matrix.push(&[1; 70]);
        matrix.set(0, &[2; 3]);
        let mut dot = [0];
        matrix.dots(&matrix.code(&[1; 70]), &[0], &mut dot);
        assert_eq!(dot[0], 6);
    }
}
