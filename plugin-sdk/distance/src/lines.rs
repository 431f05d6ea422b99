//! Rows of the same number of cache lines, one behind the other.

use crate::kernels::{Line, prefetch};

/// Where the rows of [`CodeRows`](crate::CodeRows) and [`DigitRows`](crate::DigitRows) lie.
#[derive(Clone, Debug)]
pub(crate) struct LineRows {
    lines: Vec<Line>,
    per_row: usize,
}

impl LineRows {
    /// No rows, of `per_row` lines each, at least one.
    pub(crate) fn new(per_row: usize) -> Self {
        Self { lines: Vec::new(), per_row: per_row.max(1) }
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len() / self.per_row
    }

    pub(crate) fn per_row(&self) -> usize {
        self.per_row
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    pub(crate) fn reserve(&mut self, additional: usize) {
        self.lines.reserve_exact(additional * self.per_row);
    }

    /// Appends a row of zeros, and returns its number.
    pub(crate) fn push(&mut self) -> usize {
        let row = self.len();
        self.lines.resize(self.lines.len() + self.per_row, Line::ZERO);
        row
    }

    #[inline]
    pub(crate) fn all(&self) -> &[Line] {
        &self.lines
    }

    #[inline]
    pub(crate) fn row(&self, row: u32) -> &[Line] {
        &self.lines[row as usize * self.per_row..][..self.per_row]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [Line] {
        &mut self.lines[row * self.per_row..][..self.per_row]
    }

    #[inline]
    pub(crate) fn prefetch(&self, row: u32) {
        prefetch(self.row(row));
    }
}
