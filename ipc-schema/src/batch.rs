//! Batches: typed columns in a buffer, read in place.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | `PHB1` |
//! | 4..8 | number of columns |
//! | 8..12 | rows of the batch |
//! | 64 + 32 x column | kind (1 byte), 3 zero, width, length, data offset, data bytes, offsets offset, validity offset, 4 zero |
//!
//! All numbers are little-endian u32. The data of a column begins at a multiple of 64 bytes. `length` counts values;
//! a `F32` value has `width` numbers (a vector), all others have width 1. A column of varying length (`String`,
//! `Datum`) has `length + 1` ascending u32 offsets into its data. A column with nulls has a bitmap at its validity offset,
//! which is 0 for one without: bit `i % 8` of byte `i / 8` says that value `i` is there; what stands in the place of one
//! that is not is zero, or empty. Columns usually have as many values as the batch has rows, but need not.
//!
//! [`Batch::parse`] checks every offset, so that bytes from anywhere can be parsed; the values themselves are the
//! reader's to check.

use thiserror::Error;

const MAGIC: u32 = u32::from_le_bytes(*b"PHB1");
const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
const ALIGNMENT: usize = 64;
/// The most columns of a batch.
pub const MAX_COLUMNS: usize = 256;

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// 64-bit floats.
    F64 = 1,
    /// Vectors of 32-bit floats.
    F32 = 2,
    /// Unsigned 32-bit integers.
    U32 = 3,
    /// Bytes.
    U8 = 4,
    /// UTF-8 texts; unchecked here.
    String = 5,
    /// Encoded datums; unchecked here.
    Datum = 6,
    /// Bytes of 0 or 1; unchecked here.
    Bool = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::F64,
            2 => Self::F32,
            3 => Self::U32,
            4 => Self::U8,
            5 => Self::String,
            6 => Self::Datum,
            7 => Self::Bool,
            _ => return None,
        })
    }
}

/// The batch does not fit into its buffer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a batch does not fit into a buffer of {capacity} bytes")]
pub struct BatchFull {
    /// The bytes of the buffer.
    pub capacity: usize,
}

/// The bytes are not a batch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not a batch: {0}")]
pub struct BatchError(&'static str);

/// One column, in place.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    /// 64-bit floats.
    F64(&'a [f64]),
    /// `[length, width]`, row-major.
    F32 {
        /// Numbers of one vector.
        width: usize,
        /// All numbers.
        values: &'a [f32],
    },
    /// Unsigned 32-bit integers.
    U32(&'a [u32]),
    /// Bytes.
    U8(&'a [u8]),
    /// Bytes of 0 or 1; unchecked.
    Bool(&'a [u8]),
    /// UTF-8 texts; unchecked.
    String(VarValues<'a>),
    /// Encoded datums; unchecked.
    Datum(VarValues<'a>),
}

/// Which values of a column are there: bit `i % 8` of byte `i / 8`.
#[derive(Clone, Copy, Debug)]
pub struct Validity<'a>(&'a [u8]);

impl Validity<'_> {
    /// Whether the value is there; none is behind the last one.
    #[must_use]
    pub fn get(&self, index: usize) -> bool {
        self.0.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }
}

/// Values of varying length.
#[derive(Clone, Copy, Debug)]
pub struct VarValues<'a> {
    offsets: &'a [u32],
    data: &'a [u8],
}

impl<'a> VarValues<'a> {
    /// The bytes of a value; `None` behind the last one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let (start, end) = (*self.offsets.get(index)?, *self.offsets.get(index + 1)?);
        self.data.get(start as usize..end as usize)
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A parsed batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    rows: usize,
    columns: usize,
}

impl<'a> Batch<'a> {
    /// Checks the layout of a batch whose first byte is 8-byte aligned.
    ///
    /// # Errors
    /// When anything lies outside `bytes`, overlaps the header, is misaligned or of an unknown kind.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        if read_u32(bytes, 0) != Some(MAGIC) {
            return Err(BatchError("wrong magic"));
        }
        let columns = read_u32(bytes, 4).ok_or(BatchError("header cut off"))? as usize;
        let rows = read_u32(bytes, 8).ok_or(BatchError("header cut off"))? as usize;
        if columns > MAX_COLUMNS || bytes.len() < HEADER + columns * DESCRIPTOR {
            return Err(BatchError("columns cut off"));
        }
        let batch = Self { bytes, rows, columns };
        (0..columns).try_for_each(|column| batch.read_column(column).and(batch.read_validity(column)).map(drop))?;
        Ok(batch)
    }

    /// How many rows the batch has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns the batch has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The column; `None` behind the last one.
    #[must_use]
    pub fn column(&self, column: usize) -> Option<Column<'a>> {
        (column < self.columns).then(|| self.read_column(column).ok()).flatten()
    }

    /// Which values of the column are there; `None` where all are.
    #[must_use]
    pub fn validity(&self, column: usize) -> Option<Validity<'a>> {
        (column < self.columns).then(|| self.read_validity(column).ok()).flatten().flatten()
    }

    fn read_validity(&self, column: usize) -> Result<Option<Validity<'a>>, BatchError> {
        let at = HEADER + column * DESCRIPTOR;
        let word = |index: usize| read_u32(self.bytes, at + index * 4).map(|word| word as usize);
        match (word(2), word(6)) {
            (Some(_), Some(0)) => Ok(None),
            (Some(length), Some(offset)) => {
                let bits = slice(self.bytes, offset, length.div_ceil(8));
                bits.map(|bits| Some(Validity(bits))).ok_or(BatchError("validity outside the batch"))
            }
            _ => Err(BatchError("columns cut off")),
        }
    }

    fn read_column(&self, column: usize) -> Result<Column<'a>, BatchError> {
        let at = HEADER + column * DESCRIPTOR;
        let word = |index: usize| read_u32(self.bytes, at + index * 4).map(|word| word as usize);
        let (Some(width), Some(length), Some(data_offset), Some(data_bytes), Some(offsets_offset)) =
            (word(1), word(2), word(3), word(4), word(5))
        else {
            return Err(BatchError("columns cut off"));
        };
        let kind = self.bytes.get(at).copied().and_then(Kind::from_byte).ok_or(BatchError("unknown kind of column"))?;
        let data = slice(self.bytes, data_offset, data_bytes).ok_or(BatchError("data outside the batch"))?;
        let values = length.checked_mul(width).ok_or(BatchError("too many values"))?;
        Ok(match kind {
            Kind::F64 => Column::F64(cast(data, length)?),
            Kind::F32 => Column::F32 { width, values: cast(data, values)? },
            Kind::U32 => Column::U32(cast(data, length)?),
            Kind::U8 => Column::U8(cast(data, length)?),
            Kind::Bool => Column::Bool(cast(data, length)?),
            Kind::String | Kind::Datum => {
                let count = length.checked_add(1).ok_or(BatchError("too many values"))?;
                let bytes = count.checked_mul(4).ok_or(BatchError("too many values"))?;
                let offsets =
                    slice(self.bytes, offsets_offset, bytes).ok_or(BatchError("offsets outside the batch"))?;
                let values = VarValues { offsets: cast(offsets, count)?, data };
                if kind == Kind::String { Column::String(values) } else { Column::Datum(values) }
            }
        })
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn slice(bytes: &[u8], offset: usize, len: usize) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(len)?)
}

fn cast<T: bytemuck::AnyBitPattern>(data: &[u8], length: usize) -> Result<&[T], BatchError> {
    let values: &[T] = bytemuck::try_cast_slice(data).map_err(|_| BatchError("misaligned or uneven data"))?;
    if values.len() == length { Ok(values) } else { Err(BatchError("data of another length than the column")) }
}

/// Writes a batch into a buffer, column after column.
#[derive(Debug)]
pub struct BatchWriter<'a> {
    buffer: &'a mut [u8],
    column: usize,
    columns: usize,
    end: usize,
}

impl<'a> BatchWriter<'a> {
    /// Begins a batch of exactly `columns` columns. The buffer is 64-byte aligned, as every lane buffer is.
    ///
    /// # Errors
    /// When the header does not fit.
    pub fn new(buffer: &'a mut [u8], columns: usize, rows: usize) -> Result<Self, BatchFull> {
        let capacity = buffer.len();
        let end = HEADER + columns * DESCRIPTOR;
        let full = BatchFull { capacity };
        if columns > MAX_COLUMNS || u32::try_from(capacity).is_err() {
            return Err(full);
        }
        buffer.get_mut(..end).ok_or(full)?.fill(0);
        let mut writer = Self { buffer, column: 0, columns, end };
        writer.put_u32(0, MAGIC as usize);
        writer.put_u32(4, columns);
        writer.put_u32(8, u32::try_from(rows).map_err(|_| full)? as usize);
        Ok(writer)
    }

    /// A column of `length` floats, to be filled in place.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn f64s(&mut self, length: usize) -> Result<&mut [f64], BatchFull> {
        self.fixed(Kind::F64, 1, length)
    }

    /// A column of `length` vectors of `width` floats, to be filled in place.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn f32s(&mut self, width: usize, length: usize) -> Result<&mut [f32], BatchFull> {
        self.fixed(Kind::F32, width, length)
    }

    /// A column of `length` integers, to be filled in place.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn u32s(&mut self, length: usize) -> Result<&mut [u32], BatchFull> {
        self.fixed(Kind::U32, 1, length)
    }

    /// A column of `length` bytes, to be filled in place.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn u8s(&mut self, length: usize) -> Result<&mut [u8], BatchFull> {
        self.fixed(Kind::U8, 1, length)
    }

    /// A column of `length` booleans as bytes of 0 or 1, to be filled in place.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn bools(&mut self, length: usize) -> Result<&mut [u8], BatchFull> {
        self.fixed(Kind::Bool, 1, length)
    }

    /// A column of `length` values of varying length: `write` puts value number `i` straight into the buffer.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn values(
        &mut self,
        kind: Kind,
        length: usize,
        mut write: impl FnMut(usize, &mut ValueWriter<'_>),
    ) -> Result<(), BatchFull> {
        let full = self.full();
        let offsets_at = self.reserve((length + 1).checked_mul(4).ok_or(full)?)?;
        let data_at = self.end.next_multiple_of(ALIGNMENT);
        let (head, data) = self.buffer.split_at_mut_checked(data_at).ok_or(full)?;
        let (offsets, _) = head[offsets_at..].as_chunks_mut::<4>();
        let mut values = ValueWriter { data, end: 0, is_full: false };
        offsets[0] = [0; 4];
        for (index, offset) in offsets[1..=length].iter_mut().enumerate() {
            write(index, &mut values);
            // `new` limited the buffer to `u32`.
            *offset = (values.end as u32).to_le_bytes();
        }
        let ValueWriter { end: bytes, is_full, .. } = values;
        if is_full {
            return Err(full);
        }
        self.end = data_at + bytes;
        self.describe(kind, 1, length, data_at, bytes, offsets_at);
        Ok(())
    }

    /// Says which of the `length` values of the column that was written last are there.
    ///
    /// # Errors
    /// When the bitmap does not fit.
    pub fn validity(&mut self, length: usize, is_there: impl Fn(usize) -> bool) -> Result<(), BatchFull> {
        let at = self.end.next_multiple_of(ALIGNMENT);
        let (full, end) = (self.full(), at.saturating_add(length.div_ceil(8)));
        let bits = self.buffer.get_mut(at..end).ok_or(full)?;
        for (byte, bits) in bits.iter_mut().enumerate() {
            *bits = (0..8).map(|bit| u8::from(byte * 8 + bit < length && is_there(byte * 8 + bit)) << bit).sum();
        }
        self.end = end;
        self.put_u32(HEADER + (self.column - 1) * DESCRIPTOR + 24, at);
        Ok(())
    }

    /// Ends the batch and returns its bytes.
    #[must_use]
    pub fn finish(self) -> usize {
        debug_assert_eq!(self.column, self.columns, "as many columns as were announced");
        self.end
    }

    fn fixed<T: bytemuck::Pod>(&mut self, kind: Kind, width: usize, length: usize) -> Result<&mut [T], BatchFull> {
        let full = self.full();
        let bytes = width.checked_mul(length).and_then(|values| values.checked_mul(size_of::<T>())).ok_or(full)?;
        let at = self.reserve(bytes)?;
        self.describe(kind, width, length, at, bytes, 0);
        bytemuck::try_cast_slice_mut(&mut self.buffer[at..at + bytes]).map_err(|_| full)
    }

    fn reserve(&mut self, bytes: usize) -> Result<usize, BatchFull> {
        let at = self.end.next_multiple_of(ALIGNMENT);
        match at.checked_add(bytes) {
            Some(end) if end <= self.buffer.len() && self.column < self.columns => {
                self.end = end;
                Ok(at)
            }
            _ => Err(self.full()),
        }
    }

    fn describe(&mut self, kind: Kind, width: usize, length: usize, data: usize, bytes: usize, offsets: usize) {
        let at = HEADER + self.column * DESCRIPTOR;
        self.buffer[at] = kind as u8;
        for (word, value) in [width, length, data, bytes, offsets].into_iter().enumerate() {
            self.put_u32(at + 4 + word * 4, value);
        }
        self.column += 1;
    }

    /// Values are offsets within the buffer, which `new` limited to `u32`.
    fn put_u32(&mut self, at: usize, value: usize) {
        self.buffer[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }

    fn full(&self) -> BatchFull {
        BatchFull { capacity: self.buffer.len() }
    }
}

/// Appends the bytes of a value of varying length to its column.
#[derive(Debug)]
pub struct ValueWriter<'a> {
    data: &'a mut [u8],
    end: usize,
    is_full: bool,
}

impl ValueWriter<'_> {
    /// Appends bytes; what does not fit makes the column fail as a whole.
    pub fn put(&mut self, bytes: &[u8]) {
        let place = self.end.checked_add(bytes.len()).and_then(|end| self.data.get_mut(self.end..end));
        match place {
            Some(place) if !self.is_full => {
                place.copy_from_slice(bytes);
                self.end += bytes.len();
            }
            _ => self.is_full = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[repr(align(64))]
    struct Aligned([u8; 4096]);

    #[test]
    fn columns_are_read_in_place_and_aligned() {
        let mut buffer = Aligned([0xff; 4096]);
        let mut writer = BatchWriter::new(&mut buffer.0, 4, 3).expect("fits");
        writer.f64s(3).expect("fits").copy_from_slice(&[1.0, 2.0, 3.0]);
        writer.f32s(2, 3).expect("fits").copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        writer.values(Kind::String, 3, |row, out| out.put(&b"abc"[..row])).expect("fits");
        writer.validity(3, |row| row != 1).expect("fits");
        writer.u32s(1).expect("fits")[0] = 9;
        let len = writer.finish();
        let batch = Batch::parse(&buffer.0[..len]).expect("valid");
        assert_eq!((batch.rows(), batch.columns()), (3, 4));
        let Some(Column::F64(numbers)) = batch.column(0) else { panic!("floats") };
        assert_eq!(numbers, [1.0, 2.0, 3.0]);
        assert!(numbers.as_ptr().addr().is_multiple_of(64));
        let Some(Column::F32 { width: 2, values }) = batch.column(1) else { panic!("vectors") };
        assert_eq!(values[4], 5.0);
        let Some(Column::String(texts)) = batch.column(2) else { panic!("texts") };
        assert_eq!((texts.get(0), texts.get(2), texts.get(3)), (Some(&b""[..]), Some(&b"ab"[..]), None));
        assert!(matches!(batch.column(3), Some(Column::U32([9]))));
        let validity = batch.validity(2).expect("a bitmap");
        assert_eq!([0, 1, 2, 3].map(|row| validity.get(row)), [true, false, true, false]);
        assert!(batch.validity(0).is_none() && batch.validity(3).is_none() && batch.validity(4).is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut buffer = Aligned([0; 4096]);
        let mut writer = BatchWriter::new(&mut buffer.0, 1, 1).expect("fits");
        assert!(writer.f64s(512).is_err());
        assert!(writer.f64s(usize::MAX / 4).is_err());
        assert!(writer.values(Kind::Datum, 1, |_, out| out.put(&[0; 5000])).is_err());
        assert!(writer.values(Kind::Datum, 2, |_, out| out.put(&[0; 2000])).is_err());
        assert!(writer.bools(4096).is_err());
        let mut writer = BatchWriter::new(&mut buffer.0, 1, 1).expect("fits");
        writer.u8s(3900).expect("fits");
        assert!(writer.validity(4096, |_| true).is_err());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..512), sane in any::<bool>()) {
            if sane && bytes.len() >= 12 {
                bytes[..4].copy_from_slice(b"PHB1");
                bytes[5..8].fill(0);
            }
            // A private copy is 8-byte aligned, as on the server.
            let words: Vec<u64> = bytes
                .chunks(8)
                .map(|chunk| { let mut word = [0; 8]; word[..chunk.len()].copy_from_slice(chunk); u64::from_le_bytes(word) })
                .collect();
            if let Ok(batch) = Batch::parse(bytemuck::cast_slice(&words)) {
                for column in 0..batch.columns() {
                    let _ = batch.validity(column).map(|validity| validity.get(usize::MAX));
                    if let Some(Column::String(values) | Column::Datum(values)) = batch.column(column) {
                        for index in 0..values.len().min(64) {
                            let _ = values.get(index);
                        }
                    }
                }
            }
        }
    }
}
