//! Arguments of a batch: from wherever they are to a column, in one write.

use photondb_ipc_schema::batch::{BatchFull, BatchWriter, Kind, ValueWriter};

use crate::Datum;
use crate::datum::{self, DatumRef};

/// What a value is, as far as the type of its column depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Null, which any type of column can have.
    Null,
    /// A number.
    Number,
    /// True or false.
    Bool,
    /// A text.
    Text,
    /// An array of so many numbers, at least one, each of which is exact in f32.
    Vector(usize),
    /// Anything else.
    Datum,
}

/// A value that can be written into a column.
pub trait Cell {
    /// Whether every value of the type is a number, so that none need be looked at to find that out.
    #[must_use]
    fn are_numbers() -> bool
    where
        Self: Sized,
    {
        false
    }

    /// What it is.
    fn shape(&self) -> Shape;
    /// The number, of [`Shape::Number`].
    fn number(&self) -> f64;
    /// The boolean, of [`Shape::Bool`].
    fn bool(&self) -> bool;
    /// Appends the bytes of the text, of [`Shape::Text`].
    fn put_text(&self, out: &mut ValueWriter<'_>);
    /// Fills in the numbers of the vector, of [`Shape::Vector`].
    fn put_vector(&self, out: &mut [f32]);
    /// Appends the encoded value, whatever its shape; `scratch` is empty, and for whoever needs it.
    fn put_datum(&self, scratch: &mut Vec<u8>, out: &mut ValueWriter<'_>);
    /// About how many bytes it takes, never more than it does.
    fn least_bytes(&self) -> usize;
}

/// A number on its own.
impl Cell for f64 {
    fn are_numbers() -> bool {
        true
    }

    fn shape(&self) -> Shape {
        Shape::Number
    }

    fn number(&self) -> f64 {
        *self
    }

    fn bool(&self) -> bool {
        false
    }

    fn put_text(&self, _: &mut ValueWriter<'_>) {}

    fn put_vector(&self, _: &mut [f32]) {}

    fn put_datum(&self, scratch: &mut Vec<u8>, out: &mut ValueWriter<'_>) {
        Datum::Number(*self).put_datum(scratch, out);
    }

    fn least_bytes(&self) -> usize {
        size_of::<f64>()
    }
}

/// A vector of finite numbers.
impl Cell for &[f32] {
    fn shape(&self) -> Shape {
        if self.is_empty() { Shape::Datum } else { Shape::Vector(self.len()) }
    }

    fn number(&self) -> f64 {
        0.0
    }

    fn bool(&self) -> bool {
        false
    }

    fn put_text(&self, _: &mut ValueWriter<'_>) {}

    fn put_vector(&self, out: &mut [f32]) {
        out.copy_from_slice(self);
    }

    fn put_datum(&self, scratch: &mut Vec<u8>, out: &mut ValueWriter<'_>) {
        Datum::array(self.iter().map(|number| f64::from(*number).into())).put_datum(scratch, out);
    }

    fn least_bytes(&self) -> usize {
        size_of_val(*self)
    }
}

/// A value of a query.
impl Cell for Datum {
    fn shape(&self) -> Shape {
        match self {
            Self::Null => Shape::Null,
            Self::Number(_) => Shape::Number,
            Self::Bool(_) => Shape::Bool,
            Self::String(_) => Shape::Text,
            Self::Array(elements) if !elements.is_empty() => {
                let fits = |element: &Self| element.as_number().is_some_and(|n| f64::from(n as f32) == n);
                if elements.iter().all(fits) { Shape::Vector(elements.len()) } else { Shape::Datum }
            }
            _ => Shape::Datum,
        }
    }

    fn number(&self) -> f64 {
        self.as_number().unwrap_or_default()
    }

    fn bool(&self) -> bool {
        matches!(self, Self::Bool(true))
    }

    fn put_text(&self, out: &mut ValueWriter<'_>) {
        out.put(self.as_str().unwrap_or_default().as_bytes());
    }

    fn put_vector(&self, out: &mut [f32]) {
        let elements = self.as_array().map_or(&[][..], |elements| elements);
        for (number, element) in out.iter_mut().zip(elements) {
            *number = element.number() as f32;
        }
    }

    fn put_datum(&self, scratch: &mut Vec<u8>, out: &mut ValueWriter<'_>) {
        self.encode(scratch);
        out.put(scratch);
    }

    fn least_bytes(&self) -> usize {
        match self {
            Self::String(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Array(elements) => elements.len(),
            Self::Object(object) => object.len(),
            _ => 0,
        }
    }
}

/// A value where it was stored: what is written is what is on the disk.
impl Cell for DatumRef<'_> {
    fn shape(&self) -> Shape {
        match self.kind() {
            Some(datum::Kind::Null) => Shape::Null,
            Some(datum::Kind::Number) if self.as_number().is_some() => Shape::Number,
            Some(datum::Kind::Bool) => Shape::Bool,
            Some(datum::Kind::String) => Shape::Text,
            Some(datum::Kind::Array) => match self.packed_f32s() {
                Some([]) | None => Shape::Datum,
                Some(numbers) => Shape::Vector(numbers.len()),
            },
            _ => Shape::Datum,
        }
    }

    fn number(&self) -> f64 {
        self.as_number().unwrap_or_default()
    }

    fn bool(&self) -> bool {
        self.as_bool().unwrap_or_default()
    }

    fn put_text(&self, out: &mut ValueWriter<'_>) {
        out.put(self.body());
    }

    fn put_vector(&self, out: &mut [f32]) {
        for (number, bytes) in out.iter_mut().zip(self.packed_f32s().unwrap_or_default()) {
            *number = f32::from_le_bytes(*bytes);
        }
    }

    fn put_datum(&self, _: &mut Vec<u8>, out: &mut ValueWriter<'_>) {
        out.put(&self.head());
        out.put(self.body());
    }

    fn least_bytes(&self) -> usize {
        self.body().len()
    }
}

/// An argument of a row: where it was stored, or computed.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// As it was stored.
    Stored(DatumRef<'a>),
    /// As a query computed it.
    Computed(Datum),
}

impl Value<'_> {
    fn cell(&self) -> &dyn Cell {
        match self {
            Self::Stored(value) => value,
            Self::Computed(value) => value,
        }
    }
}

impl Cell for Value<'_> {
    fn shape(&self) -> Shape {
        match self {
            Self::Stored(value) => value.shape(),
            Self::Computed(value) => value.shape(),
        }
    }

    fn number(&self) -> f64 {
        match self {
            Self::Stored(value) => value.number(),
            Self::Computed(value) => value.number(),
        }
    }

    fn bool(&self) -> bool {
        self.cell().bool()
    }

    fn put_text(&self, out: &mut ValueWriter<'_>) {
        self.cell().put_text(out);
    }

    fn put_vector(&self, out: &mut [f32]) {
        self.cell().put_vector(out);
    }

    fn put_datum(&self, scratch: &mut Vec<u8>, out: &mut ValueWriter<'_>) {
        self.cell().put_datum(scratch, out);
    }

    fn least_bytes(&self) -> usize {
        self.cell().least_bytes()
    }
}

/// The one shape that all values of a column have beside nulls, and whether there are any.
fn column_shape<C: Cell>(column: &[C]) -> (Shape, bool) {
    if C::are_numbers() {
        return (Shape::Number, false);
    }
    let (mut common, mut has_nulls) = (Shape::Null, false);
    for value in column {
        match (value.shape(), common) {
            (Shape::Null, _) => has_nulls = true,
            (shape, Shape::Null) => common = shape,
            (shape, common) if shape == common => {}
            _ => return (Shape::Datum, false),
        }
        if common == Shape::Datum {
            break;
        }
    }
    if common == Shape::Null { (Shape::Datum, false) } else { (common, has_nulls) }
}

/// Writes `rows` rows of arguments, column by column, as [`Batch`](super::Batch) reads them; returns the bytes used.
///
/// # Errors
/// [`BatchFull`]: fewer rows may fit.
pub fn write_rows<C: Cell>(buffer: &mut [u8], columns: &[&[C]], rows: usize) -> Result<usize, BatchFull> {
    let mut writer = BatchWriter::new(buffer, columns.len(), rows)?;
    let mut scratch = Vec::new();
    for column in columns.iter().map(|column| &column[..rows]) {
        let (shape, has_nulls) = column_shape(column);
        match shape {
            Shape::Number => {
                for (slot, value) in writer.f64s(rows)?.iter_mut().zip(column) {
                    *slot = value.number();
                }
            }
            Shape::Bool => {
                for (slot, value) in writer.bools(rows)?.iter_mut().zip(column) {
                    *slot = value.bool().into();
                }
            }
            Shape::Text => writer.values(Kind::String, rows, |row, out| {
                if column[row].shape() == Shape::Text {
                    column[row].put_text(out);
                }
            })?,
            Shape::Vector(dims) => {
                for (slot, value) in writer.f32s(dims, rows)?.chunks_exact_mut(dims).zip(column) {
                    if has_nulls {
                        slot.fill(0.0);
                    }
                    value.put_vector(slot);
                }
            }
            Shape::Null | Shape::Datum => writer.values(Kind::Datum, rows, |row, out| {
                scratch.clear();
                column[row].put_datum(&mut scratch, out);
            })?,
        }
        if has_nulls {
            writer.validity(rows, |row| column[row].shape() != Shape::Null)?;
        }
    }
    Ok(writer.finish())
}

/// How many of the rows can fit into a buffer of so many bytes: all after these don't, and fewer may.
#[must_use]
pub fn rows_that_fit<C: Cell>(columns: &[&[C]], rows: usize, bytes: usize) -> usize {
    if C::are_numbers() {
        return rows.min(bytes / (size_of::<f64>() * columns.len().max(1)));
    }
    let mut left = bytes;
    let fits = |row: &usize| {
        let needed = columns.iter().map(|column| column[*row].least_bytes()).fold(0, usize::saturating_add);
        left.checked_sub(needed).map(|rest| left = rest).is_some()
    };
    (0..rows).take_while(fits).count()
}
