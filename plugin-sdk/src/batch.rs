//! Rows as typed columns: how arguments reach a function in bulk, and how its results go back.
//!
//! A column whose values are all numbers travels as an array of `f64`; any other one as encoded datums.

use photondb_ipc_schema::batch::{self as wire, BatchFull, BatchWriter, Column, Kind};

use crate::datum::DatumRef;
use crate::{Cancel, Cause, Datum, PluginError};

/// The rows of a call, one column an argument. Reads in place from the memory that the server shares.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    inner: wire::Batch<'a>,
    cancel: Cancel<'a>,
}

impl<'a> Batch<'a> {
    /// The batch in `bytes`, with as many values in each column as it has rows.
    ///
    /// # Errors
    /// When the bytes are no batch of rows.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PluginError> {
        let malformed = |reason: String| PluginError::runtime(Cause::Protocol, reason);
        let inner = wire::Batch::parse(bytes).map_err(|error| malformed(error.to_string()))?;
        for column in 0..inner.columns() {
            let len = match inner.column(column) {
                Some(Column::F64(numbers)) => numbers.len(),
                Some(Column::Datum(values)) => values.len(),
                _ => return Err(malformed(format!("column {column} holds neither numbers nor datums"))),
            };
            if len != inner.rows() {
                return Err(malformed(format!("column {column} has {len} values for {} rows", inner.rows())));
            }
        }
        Ok(Self { inner, cancel: Cancel::never() })
    }

    /// The same batch, of a call that its caller may give up.
    #[must_use]
    pub(crate) fn of_call(self, cancel: Cancel<'a>) -> Self {
        Self { cancel, ..self }
    }

    /// Whether the caller gave up waiting for the results: stop, and return anything. Costs a load from a cache line that
    /// hardly ever changes, so ask for each row that takes a microsecond or more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// What tells whether the caller gave up, for other threads that work for the call.
    #[must_use]
    pub fn cancel(&self) -> Cancel<'a> {
        self.cancel
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.inner.rows()
    }

    /// How many columns, that is arguments, there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.inner.columns()
    }

    /// A column of numbers, in place; `None` where a value of the column is anything else.
    #[must_use]
    pub fn numbers(&self, column: usize) -> Option<&'a [f64]> {
        match self.inner.column(column)? {
            Column::F64(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// One value, in place; `None` for a column of numbers.
    ///
    /// # Errors
    /// When the bytes are no datum.
    pub fn datum_ref(&self, column: usize, row: usize) -> Result<Option<DatumRef<'a>>, PluginError> {
        let Some(Column::Datum(values)) = self.inner.column(column) else { return Ok(None) };
        let bytes = values.get(row).ok_or_else(|| no_value(column, row))?;
        DatumRef::new(bytes).map(Some).map_err(|error| PluginError::runtime(Cause::Protocol, error.to_string()))
    }

    /// One value.
    ///
    /// # Errors
    /// When there is no such value, or the bytes are no datum.
    pub fn datum(&self, column: usize, row: usize) -> Result<Datum, PluginError> {
        match self.inner.column(column) {
            Some(Column::F64(numbers)) => {
                let number = *numbers.get(row).ok_or_else(|| no_value(column, row))?;
                if number.is_finite() { Ok(Datum::Number(number)) } else { Err(not_finite(number, row)) }
            }
            Some(Column::Datum(values)) => {
                let bytes = values.get(row).ok_or_else(|| no_value(column, row))?;
                Datum::decode(bytes).map_err(|error| PluginError::runtime(Cause::Protocol, error.to_string()))
            }
            _ => Err(no_value(column, row)),
        }
    }
}

fn no_value(column: usize, row: usize) -> PluginError {
    PluginError::runtime(Cause::Protocol, format!("no value in column {column}, row {row}"))
}

fn not_finite(number: f64, row: usize) -> PluginError {
    PluginError::runtime(Cause::Plugin, format!("the result of row {row} is {number}, which is not a ReQL number"))
}

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
    /// A column of numbers, written in place, that ends at this byte of the buffer.
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
        self.state = Rows::InPlace(end);
        let start = end - self.rows * size_of::<f64>();
        bytemuck::try_cast_slice_mut(&mut self.buffer[start..end])
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
                    .values(Kind::Datum, ends.len(), |row, out| out.extend_from_slice(&bytes[start(row)..ends[row]]))
                    .map_err(full)?;
                writer.finish()
            }
        };
        Ok(end)
    }
}

fn full(error: BatchFull) -> PluginError {
    let bytes = error.capacity;
    PluginError::runtime(
        Cause::Limit,
        format!("the data of one call does not fit into {bytes} bytes: pass smaller values"),
    )
}

/// Writes `rows` rows of arguments, column by column, as [`Batch`] reads them; returns the bytes used.
///
/// # Errors
/// [`BatchFull`]: fewer rows may fit.
pub fn write_rows(buffer: &mut [u8], columns: &[&[Datum]], rows: usize) -> Result<usize, BatchFull> {
    let mut writer = BatchWriter::new(buffer, columns.len(), rows)?;
    for column in columns {
        if column.iter().all(|value| matches!(value, Datum::Number(_))) {
            for (slot, value) in writer.f64s(rows)?.iter_mut().zip(*column) {
                *slot = value.as_number().unwrap_or_default();
            }
        } else {
            writer.values(Kind::Datum, rows, |row, out| column[row].encode(out))?;
        }
    }
    Ok(writer.finish())
}

/// Reads the results of `rows` rows, from bytes that a plugin wrote.
///
/// # Errors
/// When they are anything but one valid value a row.
pub fn read_results(bytes: &[u8], rows: usize) -> Result<Vec<Datum>, PluginError> {
    let batch = Batch::parse(bytes)?;
    if batch.rows() != rows || batch.columns() != 1 {
        let message = format!("{} columns of {} results for {rows} rows", batch.columns(), batch.rows());
        return Err(PluginError::runtime(Cause::Protocol, message));
    }
    let Some(numbers) = batch.numbers(0) else { return (0..rows).map(|row| batch.datum(0, row)).collect() };
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(row) => Err(not_finite(numbers[row], row)),
        None => Ok(numbers.iter().copied().map(Datum::Number).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Aligned([u8; 4096]);

    fn round_trip(values: &[Datum]) -> Vec<Datum> {
        let mut buffer = Aligned([0; 4096]);
        let mut writer = RowsWriter::new(&mut buffer.0, values.len());
        for value in values {
            writer.push(value).expect("fits");
        }
        let end = writer.finish().expect("complete");
        read_results(&buffer.0[..end], values.len()).expect("valid")
    }

    #[test]
    fn results_keep_their_types_and_order() {
        for values in [
            vec![Datum::Number(1.5), Datum::Number(-2.0)],
            vec![Datum::Number(1.0), "text".into(), Datum::Null],
            vec![Datum::array([Datum::Number(1.0)])],
            vec![],
        ] {
            assert_eq!(round_trip(&values), values);
        }
    }

    #[test]
    fn numbers_are_written_in_place() {
        let mut buffer = Aligned([0; 4096]);
        let mut writer = RowsWriter::new(&mut buffer.0, 3);
        writer.numbers().expect("fits").copy_from_slice(&[1.0, 2.0, 3.0]);
        let end = writer.finish().expect("complete");
        assert_eq!(read_results(&buffer.0[..end], 3).expect("valid")[2], Datum::Number(3.0));
    }

    #[test]
    fn a_missing_result_a_result_too_many_and_nan_are_errors() {
        let mut buffer = Aligned([0; 4096]);
        assert!(RowsWriter::new(&mut buffer.0, 1).finish().is_err());
        let mut writer = RowsWriter::new(&mut buffer.0, 0);
        writer.push(&Datum::Null).expect("fits");
        assert!(writer.finish().is_err());
        assert!(RowsWriter::new(&mut buffer.0, 1).push(&Datum::Number(f64::NAN)).is_err());
        let mut writer = RowsWriter::new(&mut buffer.0, 1);
        writer.numbers().expect("fits")[0] = f64::INFINITY;
        let end = writer.finish().expect("complete");
        assert!(read_results(&buffer.0[..end], 1).is_err());
    }

    #[test]
    fn arguments_arrive_as_columns() {
        let mut buffer = Aligned([0; 4096]);
        let numbers = [Datum::Number(1.0), Datum::Number(2.0)];
        let mixed = [Datum::Null, "x".into()];
        let end = write_rows(&mut buffer.0, &[&numbers, &mixed], 2).expect("fits");
        let batch = Batch::parse(&buffer.0[..end]).expect("valid");
        assert_eq!(batch.numbers(0), Some(&[1.0, 2.0][..]));
        assert_eq!(batch.numbers(1), None);
        assert_eq!(batch.datum(1, 1).expect("value"), "x".into());
        assert!(batch.datum(2, 0).is_err());
    }
}
