//! Results of a batch: written by the function, read by the server.

use photondb_ipc_schema::batch::{BatchFull, BatchWriter, Kind};

use super::{Batch, full, not_finite};
use crate::{Cause, Datum, PluginError};

/// Takes the results of a batch, one a row.
#[derive(Debug)]
pub struct RowsWriter<'a> {
    buffer: &'a mut [u8],
    rows: usize,
    state: Rows,
}

#[derive(Debug)]
enum Rows {
    /// Only numbers so far.
    Numbers(Vec<f64>),
    /// Encoded datums and where each one ends.
    Datums { bytes: Vec<u8>, ends: Vec<usize> },
    /// A column written in place, that ends at this byte of the buffer.
    InPlace(usize),
}

impl<'a> RowsWriter<'a> {
    /// Writes `rows` results to `buffer`, which is 64-byte aligned.
    #[must_use]
    pub fn new(buffer: &'a mut [u8], rows: usize) -> Self {
        Self { buffer, rows, state: Rows::Numbers(Vec::new()) }
    }

    /// All results as numbers, to be filled in place, instead of pushing any. The numbers must be finite.
    ///
    /// # Errors
    /// When they don't fit.
    pub fn numbers(&mut self) -> Result<&mut [f64], PluginError> {
        let mut writer = BatchWriter::new(self.buffer, 1, self.rows).map_err(full)?;
        writer.f64s(self.rows).map_err(full)?;
        let end = writer.finish();
        self.in_place(end, self.rows * size_of::<f64>())
    }

    /// All results as vectors of `dims` numbers, `[rows, dims]`, row-major, to be filled in place, instead of pushing any.
    /// The numbers must be finite, and `dims` 1 or more.
    ///
    /// # Errors
    /// When they don't fit.
    pub fn vectors(&mut self, dims: usize) -> Result<&mut [f32], PluginError> {
        let mut writer = BatchWriter::new(self.buffer, 1, self.rows).map_err(full)?;
        writer.f32s(dims, self.rows).map_err(full)?;
        let end = writer.finish();
        self.in_place(end, self.rows * dims * size_of::<f32>())
    }

    fn in_place<T: bytemuck::Pod>(&mut self, end: usize, bytes: usize) -> Result<&mut [T], PluginError> {
        self.state = Rows::InPlace(end);
        bytemuck::try_cast_slice_mut(&mut self.buffer[end - bytes..end])
            .map_err(|_| PluginError::runtime(Cause::Protocol, "the reply buffer is not aligned"))
    }

    /// The result of the next row.
    ///
    /// # Errors
    /// When the results of the batch don't fit into the reply, or there are more of them than rows.
    pub fn push(&mut self, result: &Datum) -> Result<(), PluginError> {
        if let (Rows::Numbers(numbers), Datum::Number(number)) = (&mut self.state, result) {
            if !number.is_finite() {
                return Err(not_finite(*number, numbers.len()));
            }
            numbers.push(*number);
            return Ok(());
        }
        if let Rows::Numbers(numbers) = &self.state {
            let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(self.rows));
            for &number in numbers {
                Datum::Number(number).encode(&mut bytes);
                ends.push(bytes.len());
            }
            self.state = Rows::Datums { bytes, ends };
        }
        if let Rows::Datums { bytes, ends } = &mut self.state {
            result.encode(bytes);
            ends.push(bytes.len());
            if bytes.len() > self.buffer.len() {
                return Err(full(BatchFull { capacity: self.buffer.len() }));
            }
        }
        Ok(())
    }

    /// Ends the results and returns their bytes in the buffer.
    ///
    /// # Errors
    /// When there are fewer or more results than rows, or they don't fit.
    pub fn finish(self) -> Result<usize, PluginError> {
        let count = match &self.state {
            Rows::Numbers(numbers) => numbers.len(),
            Rows::Datums { ends, .. } => ends.len(),
            Rows::InPlace(_) => self.rows,
        };
        if count != self.rows {
            let message = format!("{count} results for {} rows", self.rows);
            return Err(PluginError::runtime(Cause::Plugin, message));
        }
        let end = match self.state {
            Rows::InPlace(end) => end,
            Rows::Numbers(numbers) => {
                let mut writer = BatchWriter::new(self.buffer, 1, self.rows).map_err(full)?;
                writer.f64s(numbers.len()).map_err(full)?.copy_from_slice(&numbers);
                writer.finish()
            }
            Rows::Datums { bytes, ends } => {
                let mut writer = BatchWriter::new(self.buffer, 1, self.rows).map_err(full)?;
                let start = |row: usize| row.checked_sub(1).map_or(0, |previous| ends[previous]);
                writer
                    .values(Kind::Datum, ends.len(), |row, out| out.put(&bytes[start(row)..ends[row]]))
                    .map_err(full)?;
                writer.finish()
            }
        };
        Ok(end)
    }
}

/// The results of `rows` rows, from bytes that a plugin wrote.
fn results(bytes: &[u8], rows: usize) -> Result<Batch<'_>, PluginError> {
    let batch = Batch::parse(bytes)?;
    if batch.rows() == rows && batch.columns() == 1 {
        return Ok(batch);
    }
    let message = format!("{} columns of {} results for {rows} rows", batch.columns(), batch.rows());
    Err(PluginError::runtime(Cause::Protocol, message))
}

/// Reads the results of `rows` rows, from bytes that a plugin wrote.
///
/// # Errors
/// When they are anything but one valid value a row.
pub fn read_results(bytes: &[u8], rows: usize) -> Result<Vec<Datum>, PluginError> {
    let batch = results(bytes, rows)?;
    match batch.numbers(0) {
        Some(numbers) => Ok(finite(numbers)?.iter().copied().map(Datum::Number).collect()),
        None => (0..rows).map(|row| batch.datum(0, row)).collect(),
    }
}

/// Reads the results of `rows` rows of a function of numbers, in place.
///
/// # Errors
/// When they are anything but one number a row.
pub fn read_numbers(bytes: &[u8], rows: usize) -> Result<&[f64], PluginError> {
    let numbers = results(bytes, rows)?.numbers(0);
    finite(numbers.ok_or_else(|| PluginError::runtime(Cause::Plugin, "the results are not all numbers"))?)
}

fn finite(numbers: &[f64]) -> Result<&[f64], PluginError> {
    // Without a way out of the loop, so that it becomes vector code.
    if numbers.iter().fold(true, |all, number| all & number.is_finite()) {
        return Ok(numbers);
    }
    let found = numbers.iter().enumerate().find(|(_, number)| !number.is_finite());
    Err(found.map_or_else(|| not_finite(f64::NAN, 0), |(row, number)| not_finite(*number, row)))
}
