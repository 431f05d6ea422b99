//! Codes of several numbers together, and distances estimated by tables: the scan of a product quantiser.
//!
//! A vector is cut into parts, and of each part the number of the nearest of 16 entries is kept. For a query one
//! makes a table of what each entry of each part contributes; a row's estimate is the sum of what its codes pick. The
//! tables are rounded to 6 bits, and stay in registers while they are looked up in for 32 rows at once (André,
//! Kermarrec, Le Scouarnec: Cache locality is not enough, 2015, section 4).

use crate::kernels::{BLOCK_ROWS, Level, Line, MAX_ENTRY, OfRows, PartFactors, PartQuery, block_estimates};

/// Parts of a line: 32 rows of 4 bits each.
const PARTS_OF_LINE: usize = 4;
/// Bytes of a part of a block.
const BYTES_OF_PART: usize = BLOCK_ROWS / 2;

/// Rows of 4-bit codes, interleaved in blocks of 32.
#[derive(Clone, Debug)]
pub struct PartRows {
    parts: usize,
    lines: Vec<Line>,
    scales: Vec<OfRows>,
    /// None while all are 0: what a scan costs is the bytes that it reads.
    biases: Vec<OfRows>,
    len: usize,
}

/// What the entries of each part contribute to a query's distances.
#[derive(Clone, Debug, Default)]
pub struct PartTables {
    lines: Vec<Line>,
    step: f32,
    offset: f32,
}

impl PartTables {
    /// Sets the contributions: for each part those of its 16 entries. They should be finite.
    pub fn set(&mut self, contributions: &[[f32; 16]]) {
        self.lines.clear();
        self.lines.resize(contributions.len().div_ceil(PARTS_OF_LINE), Line::ZERO);
        self.offset = 0.0;
        let mut widest = 0.0_f32;
        for part in contributions {
            let low = extreme(part, |a, b| if b < a { b } else { a });
            self.offset += low;
            widest = widest.max(extreme(part, |a, b| if b > a { b } else { a }) - low);
        }
        self.step = widest / f32::from(MAX_ENTRY);
        let inverse = if self.step > 0.0 { 1.0 / self.step } else { 0.0 };
        let tables = self.lines.iter_mut().flat_map(|line| line.0.as_chunks_mut::<16>().0);
        for (table, part) in tables.zip(contributions) {
            let low = extreme(part, |a, b| if b < a { b } else { a });
            for (entry, value) in table.iter_mut().zip(part) {
                // The nearest whole number is in the lowest bits of this sum. Never more than what six bits hold, whatever
                // is not finite: sums are added up in few bits.
                let rounded = ((value - low) * inverse + 8_388_608.0).to_bits() as u8;
                *entry = (rounded & MAX_ENTRY).cast_signed();
            }
        }
    }
}

/// The least or the greatest of 16 numbers, in an order that the compiler makes vector instructions of.
fn extreme(numbers: &[f32; 16], better: impl Fn(f32, f32) -> f32) -> f32 {
    let mut best: [f32; 4] = std::array::from_fn(|at| numbers[at]);
    for numbers in numbers.as_chunks::<4>().0 {
        best.iter_mut().zip(numbers).for_each(|(best, &number)| *best = better(*best, number));
    }
    better(better(best[0], best[1]), better(best[2], best[3]))
}

impl PartRows {
    /// Rows of a block: estimates come for so many at once.
    pub const ROWS_OF_BLOCK: usize = BLOCK_ROWS;

    /// No rows, of `parts` codes each.
    #[must_use]
    pub fn new(parts: usize) -> Self {
        Self { parts, lines: Vec::new(), scales: Vec::new(), biases: Vec::new(), len: 0 }
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

    /// The memory that the rows take, in bytes: `parts / 2 + 4` for each, and 4 more if one has a bias.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let factors = self.scales.capacity() + self.biases.capacity();
        self.lines.capacity() * size_of::<Line>() + factors * size_of::<OfRows>()
    }

    /// Makes room for `additional` more rows.
    pub fn reserve(&mut self, additional: usize) {
        let blocks = additional.div_ceil(BLOCK_ROWS);
        self.lines.reserve_exact(blocks * self.lines_of_block());
        self.scales.reserve_exact(blocks);
        if !self.biases.is_empty() {
            self.biases.reserve_exact(blocks);
        }
    }

    fn lines_of_block(&self) -> usize {
        self.parts.div_ceil(PARTS_OF_LINE)
    }

    /// Appends a row, whose estimate is `scale` times the sum of its contributions plus `bias`. Of each code the lowest 4
    /// bits count.
    ///
    /// # Panics
    /// When there are not as many codes as parts.
    pub fn push(&mut self, codes: &[u8], scale: f32, bias: f32) {
        assert_eq!(codes.len(), self.parts, "a row has a code for each part");
        let row = self.len;
        if row.is_multiple_of(BLOCK_ROWS) {
            self.lines.resize(self.lines.len() + self.lines_of_block(), Line::ZERO);
            self.scales.push(OfRows::ZERO);
            if !self.biases.is_empty() {
                self.biases.push(OfRows::ZERO);
            }
        }
        self.len += 1;
        for (part, &code) in codes.iter().enumerate() {
            self.set(row, part, code);
        }
        self.set_factors(row, (scale, bias));
    }

    /// Removes a row; the last one takes its place.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn swap_remove(&mut self, row: usize) {
        assert!(row < self.len, "row {row} of {}", self.len);
        let last = self.len - 1;
        for part in 0..self.parts {
            self.set(row, part, self.code(last, part));
        }
        self.set_factors(row, self.factors(last));
        self.len = last;
        if last.is_multiple_of(BLOCK_ROWS) {
            self.lines.truncate(self.lines.len() - self.lines_of_block());
            self.scales.pop();
            self.biases.pop();
        }
    }

    /// The codes of a row, into `codes`, and its scale and bias.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn get(&self, row: usize, codes: &mut Vec<u8>) -> (f32, f32) {
        assert!(row < self.len, "row {row} of {}", self.len);
        codes.clear();
        codes.extend((0..self.parts).map(|part| self.code(row, part)));
        self.factors(row)
    }

    fn factors(&self, row: usize) -> (f32, f32) {
        let (block, place) = (row / BLOCK_ROWS, row % BLOCK_ROWS);
        (self.scales[block].0[place], self.biases.get(block).map_or(0.0, |biases| biases.0[place]))
    }

    fn set_factors(&mut self, row: usize, (scale, bias): (f32, f32)) {
        let (block, place) = (row / BLOCK_ROWS, row % BLOCK_ROWS);
        self.scales[block].0[place] = scale;
        if bias != 0.0 && self.biases.is_empty() {
            self.biases = vec![OfRows::ZERO; self.scales.len()];
        }
        if let Some(biases) = self.biases.get_mut(block) {
            biases.0[place] = bias;
        }
    }

    /// The line and byte where a code is, and by how many bits it is shifted there.
    fn place(&self, row: usize, part: usize) -> (usize, usize, u32) {
        let line = row / BLOCK_ROWS * self.lines_of_block() + part / PARTS_OF_LINE;
        let byte = part % PARTS_OF_LINE * BYTES_OF_PART + row % BYTES_OF_PART;
        (line, byte, if row % BLOCK_ROWS < BYTES_OF_PART { 0 } else { 4 })
    }

    fn code(&self, row: usize, part: usize) -> u8 {
        let (line, byte, shift) = self.place(row, part);
        self.lines[line].0[byte].cast_unsigned() >> shift & 15
    }

    fn set(&mut self, row: usize, part: usize, code: u8) {
        let (line, byte, shift) = self.place(row, part);
        let pair = &mut self.lines[line].0[byte];
        *pair = (pair.cast_unsigned() & !(15 << shift) | (code & 15) << shift).cast_signed();
    }

    /// Calls `visit` for every block with rows whose estimate is below the limit of one of the queries: with the number of
    /// the query, that of the first row of the block, which rows these are, one bit each, and the estimates of the block.
    /// It returns the query's limit for the blocks that come.
    ///
    /// # Panics
    /// When tables were made for another number of parts.
    pub fn below<const Q: usize>(
        &self,
        tables: [&PartTables; Q],
        limits: [f32; Q],
        visit: impl FnMut(usize, usize, u32, &[f32; BLOCK_ROWS]) -> f32,
    ) {
        self.below_with(Level::detected(), tables, limits, visit);
    }

    fn below_with<const Q: usize>(
        &self,
        level: Level,
        tables: [&PartTables; Q],
        limits: [f32; Q],
        mut visit: impl FnMut(usize, usize, u32, &[f32; BLOCK_ROWS]) -> f32,
    ) {
        let lines = self.lines_of_block();
        assert!(tables.iter().all(|tables| tables.lines.len() == lines), "tables and rows have the same parts");
        let mut queries: [PartQuery<'_>; Q] = std::array::from_fn(|query| PartQuery {
            tables: &tables[query].lines,
            step: tables[query].step,
            offset: tables[query].offset,
            limit: limits[query],
        });
        let mut estimates = [[0.0; BLOCK_ROWS]; Q];
        for (block, scale) in self.scales.iter().enumerate() {
            let codes = &self.lines[block * lines..][..lines];
            let bias = self.biases.get(block).unwrap_or(&OfRows::ZERO);
            let factors = PartFactors { scale: &scale.0, bias: &bias.0 };
            let smaller = block_estimates(level, codes, factors, &queries, &mut estimates);
            let present = u32::MAX >> (BLOCK_ROWS - (self.len - block * BLOCK_ROWS).min(BLOCK_ROWS));
            for (query, smaller) in smaller.into_iter().enumerate() {
                if smaller & present != 0 {
                    let first = block * BLOCK_ROWS;
                    queries[query].limit = visit(query, first, smaller & present, &estimates[query]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = (Vec<u8>, f32, f32);

    fn rows(parts: usize) -> impl Strategy<Value = Vec<Row>> {
        let bias = prop_oneof![Just(0.0_f32), -9.0_f32..9.0];
        prop::collection::vec((prop::collection::vec(0_u8..16, parts), -2.0_f32..2.0, bias), 1..90)
    }

    fn filled(parts: usize, rows: &[Row]) -> PartRows {
        let mut matrix = PartRows::new(parts);
        rows.iter().for_each(|(codes, scale, bias)| matrix.push(codes, *scale, *bias));
        matrix
    }

    /// The estimates of all rows by two queries at once.
    fn estimates(level: Level, rows: &PartRows, tables: [&PartTables; 2], limits: [f32; 2]) -> [Vec<(usize, f32)>; 2] {
        let mut found = [const { Vec::new() }; 2];
        rows.below_with(level, tables, limits, |query, first, mask, estimates| {
            let below = (0..BLOCK_ROWS).filter(|row| mask >> row & 1 == 1);
            found[query].extend(below.map(|row| (first + row, estimates[row])));
            limits[query]
        });
        found
    }

    proptest! {
        #[test]
        fn every_kernel_finds_the_sums_of_the_tables(
            (parts, rows, contributions) in (0_usize..40).prop_flat_map(|parts| {
                let contributions = prop::collection::vec(prop::array::uniform16(-3.0_f32..3.0), parts);
                (Just(parts), rows(parts), contributions)
            }),
            limit in -20.0_f32..20.0,
        ) {
            let matrix = filled(parts, &rows);
            let mut tables = PartTables::default();
            tables.set(&contributions);
            let mut others = PartTables::default();
            others.set(&vec![[1.0; 16]; parts]);
            for level in Level::available() {
                let [found, same] = estimates(level, &matrix, [&tables, &others], [f32::INFINITY; 2]);
                prop_assert_eq!(found.len(), rows.len());
                for (((row, found), (_, other)), (codes, scale, bias)) in found.iter().zip(same).zip(&rows) {
                    let exact: f32 = codes.iter().zip(&contributions).map(|(&code, part)| part[usize::from(code)]).sum();
                    // Half a step for each part.
                    let slack = 2.0 * (parts as f32 * 0.51 * 6.0 / 63.0 + 1e-3);
                    prop_assert!((found - (scale * exact + bias)).abs() <= slack, "{row} {level:?}");
                    prop_assert!((other - (scale * parts as f32 + bias)).abs() <= 1e-3, "{row} {level:?}");
                }
                let expected: Vec<_> = found.iter().copied().filter(|(_, estimate)| *estimate < limit).collect();
                let [below, none] = estimates(level, &matrix, [&tables, &others], [limit, f32::NEG_INFINITY]);
                prop_assert_eq!(below, expected);
                prop_assert!(none.is_empty());
            }
        }

        #[test]
        fn rows_that_are_removed_leave_the_others_as_they_are(
            rows in rows(5), removed in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let (mut matrix, mut expected) = (filled(5, &rows), rows);
            for at in removed {
                if !expected.is_empty() {
                    let at = at.index(expected.len());
                    matrix.swap_remove(at);
                    expected.swap_remove(at);
                }
            }
            prop_assert_eq!(matrix.len(), expected.len());
            let mut codes = Vec::new();
            for (row, (expected, scale, bias)) in expected.iter().enumerate() {
                prop_assert_eq!(matrix.get(row, &mut codes), (*scale, *bias));
                prop_assert_eq!(&codes, expected);
            }
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let parts = 3000;
        let mut matrix = PartRows::new(parts);
        (0..40).for_each(|row| matrix.push(&vec![row % 16; parts], 1.0, 0.0));
        let mut tables = PartTables::default();
        tables.set(&vec![std::array::from_fn(|entry| entry as f32); parts]);
        for level in Level::available() {
            let [found, _] = estimates(level, &matrix, [&tables; 2], [f32::INFINITY; 2]);
            for (row, estimate) in found {
                let expected = (row % 16 * parts) as f32;
                assert!((estimate - expected).abs() <= 0.13 * parts as f32, "{level:?} {row}: {estimate}");
            }
        }
    }
}
