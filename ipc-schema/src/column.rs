//! Vector columns: rows of one length, in files that the server appends to and that index plugins map read-only.
//!
//! A column is a sequence of segment files of equal size, made sparse at full size, so that a mapping never has to
//! move and never ends before its file. Row `r` lies in segment `r / rows_per_segment`; rows are `stride` bytes
//! apart, padded with zeros to 64 bytes; a row of 8-bit codes ends with its scale (f32, little-endian). A row is written once, before it is announced, and never changed.
//!
//! A plugin that maps a column sees all of it, and nothing else: also rows of documents that are deleted since, through
//! which a graph still finds its way, and rows whose write has not been committed yet or never will be. They are
//! vectors of its own index, which it is given anyway. When the index is dropped, its column is [erased](ColumnWriter::erase).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::f16;
use nix::fcntl::{FallocateFlags, fallocate};
pub use photondb_distance::VectorRef;
use photondb_distance::encode_i8;

use crate::region::{self, TrustedRegion};

/// About the size of a segment: large enough that a million rows need a hundred files, small enough for a test.
const SEGMENT_BYTES: usize = 64 << 20;
/// The most segments of a column: 256 GiB of vectors.
const MAX_SEGMENTS: usize = 4096;
/// The most dims of a vector.
pub const MAX_DIMS: u32 = 65_536;

/// How a number of a vector is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 1 byte, and 4 bytes a row for a scale: the numbers are the codes times the scale.
    I8,
}

impl Element {
    /// Bytes of a row of `dims` numbers.
    #[must_use]
    pub fn row_bytes(self, dims: usize) -> usize {
        match self {
            Self::F32 => dims * 4,
            Self::F16 => dims * 2,
            Self::I8 => dims + size_of::<f32>(),
        }
    }
}

/// The shape of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnShape {
    dims: u32,
    element: Element,
    rows_per_segment: u32,
}

impl ColumnShape {
    /// The shape of a column of `dims` (1 to [`MAX_DIMS`]) elements a row, with segments of a good size.
    #[must_use]
    pub fn new(dims: u32, element: Element) -> Option<Self> {
        let stride = element.row_bytes(dims as usize).next_multiple_of(64);
        let rows = u32::try_from(SEGMENT_BYTES.checked_div(stride)?).ok()?.max(64);
        Self::with_segments(dims, element, 1 << rows.ilog2())
    }

    /// As [`new`](Self::new), with segments of `rows_per_segment` rows, a power of two of at least 64.
    #[must_use]
    pub fn with_segments(dims: u32, element: Element, rows_per_segment: u32) -> Option<Self> {
        let valid = (1..=MAX_DIMS).contains(&dims) && rows_per_segment.is_power_of_two() && rows_per_segment >= 64;
        valid.then_some(Self { dims, element, rows_per_segment })
    }

    /// The length of the vectors.
    #[must_use]
    pub fn dims(&self) -> u32 {
        self.dims
    }

    /// How a number is stored.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// Rows of one segment file.
    #[must_use]
    pub fn rows_per_segment(&self) -> u32 {
        self.rows_per_segment
    }

    /// Bytes from one row to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.element.row_bytes(self.dims as usize).next_multiple_of(64)
    }

    fn segment_bytes(&self) -> usize {
        self.stride() * self.rows_per_segment as usize
    }

    fn split(&self, row: u32) -> (usize, usize) {
        ((row / self.rows_per_segment) as usize, (row % self.rows_per_segment) as usize * self.stride())
    }
}

/// A read-only view of a column. Segments are attached while others read.
#[derive(Debug)]
pub struct VectorColumn {
    shape: ColumnShape,
    segments: Box<[OnceLock<TrustedRegion>]>,
}

impl VectorColumn {
    /// A column without segments.
    #[must_use]
    pub fn new(shape: ColumnShape) -> Self {
        Self { shape, segments: (0..MAX_SEGMENTS).map(|_| OnceLock::new()).collect() }
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> ColumnShape {
        self.shape
    }

    /// The length of the vectors.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.shape.dims as usize
    }

    /// How a number is stored.
    #[must_use]
    pub fn element(&self) -> Element {
        self.shape.element
    }

    /// Maps the file of segment number `segment`.
    ///
    /// # Errors
    /// When the number or the file's size is wrong, the segment is attached already, or the kernel refuses.
    pub fn attach(&self, segment: u32, file: &OwnedFd) -> io::Result<()> {
        let (found, wanted) = (region::size(file.as_fd())?, self.shape.segment_bytes());
        if found != wanted {
            return Err(io::Error::other(format!("segment {segment} has {found} bytes, not {wanted}")));
        }
        let slot = self
            .segments
            .get(segment as usize)
            .ok_or_else(|| io::Error::other(format!("segment {segment} is beyond the last one, {MAX_SEGMENTS}")))?;
        slot.set(TrustedRegion::map(file.as_fd(), wanted)?)
            .map_err(|_| io::Error::other(format!("segment {segment} is attached already")))
    }

    /// The row, in place; `None` if its segment is not attached. A row that was never written is zero.
    #[must_use]
    pub fn row(&self, row: u32) -> Option<VectorRef<'_>> {
        let (segment, offset) = self.shape.split(row);
        let region = self.segments.get(segment)?.get()?;
        let bytes = region.slice(offset..offset + self.shape.element.row_bytes(self.dims()));
        Some(match self.shape.element {
            Element::F32 => VectorRef::F32(bytemuck::cast_slice(bytes)),
            Element::F16 => VectorRef::F16(bytemuck::cast_slice(bytes)),
            Element::I8 => {
                let (codes, scale) = bytes.split_last_chunk()?;
                VectorRef::I8 { codes: bytemuck::cast_slice(codes), scale: f32::from_le_bytes(*scale) }
            }
        })
    }

    /// The bytes of a whole segment; `None` if it is not attached.
    #[must_use]
    pub fn segment(&self, segment: u32) -> Option<&[u8]> {
        Some(self.segments.get(segment as usize)?.get()?.slice(0..self.shape.segment_bytes()))
    }

    /// A column in memory with the given rows (`[n, dims]`), for tests and benchmarks.
    ///
    /// # Errors
    /// When memory is short or the shape is impossible.
    pub fn in_memory(dims: u32, element: Element, rows: &[f32]) -> io::Result<Self> {
        let count = rows.len() / dims.max(1) as usize;
        let rows_per_segment = u32::try_from(count.next_power_of_two().clamp(64, 1 << 16)).map_err(io::Error::other)?;
        let shape = ColumnShape::with_segments(dims, element, rows_per_segment).ok_or(io::ErrorKind::InvalidInput)?;
        let column = Self::new(shape);
        let mut encoded = Vec::new();
        for (segment, rows) in rows.chunks(dims as usize * shape.rows_per_segment as usize).enumerate() {
            let (_, fd) = region::plugin_written("column", shape.segment_bytes())?;
            let file = File::from(fd);
            for (row, vector) in rows.chunks_exact(dims as usize).enumerate() {
                encode(element, vector, &mut encoded);
                file.write_all_at(&encoded, (row * shape.stride()) as u64)?;
            }
            column.attach(u32::try_from(segment).map_err(io::Error::other)?, &OwnedFd::from(file))?;
        }
        Ok(column)
    }
}

fn encode(element: Element, vector: &[f32], out: &mut Vec<u8>) {
    out.clear();
    match element {
        Element::F32 => out.extend_from_slice(bytemuck::cast_slice(vector)),
        Element::F16 => out.extend(vector.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes())),
        Element::I8 => {
            let mut codes = Vec::with_capacity(vector.len());
            let scale = encode_i8(vector, &mut codes);
            out.extend_from_slice(bytemuck::cast_slice(&codes));
            out.extend_from_slice(&scale.to_le_bytes());
        }
    }
}

/// The server's side of a column: appends to the segment files of one directory.
#[derive(Debug)]
pub struct ColumnWriter {
    directory: PathBuf,
    shape: ColumnShape,
    segments: Vec<File>,
    encoded: Vec<u8>,
}

impl ColumnWriter {
    /// Opens the column in `directory`, which is made if it is missing, with all segments that exist.
    ///
    /// # Errors
    /// When a file can't be read or has another size than the shape says.
    pub fn open(directory: &Path, shape: ColumnShape) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut writer = Self { directory: directory.to_owned(), shape, segments: Vec::new(), encoded: Vec::new() };
        while writer.path(writer.segments.len()).exists() {
            let file = writer.open_segment(writer.segments.len())?;
            writer.segments.push(file);
        }
        Ok(writer)
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> u32 {
        u32::try_from(self.segments.len()).unwrap_or(u32::MAX)
    }

    /// Writes the row, which belongs to the last segment, an earlier one, or a new one.
    ///
    /// # Errors
    /// When `vector` has another length than the column's, the column is full, or the disk is.
    pub fn write(&mut self, row: u32, vector: &[f32]) -> io::Result<()> {
        if vector.len() != self.shape.dims as usize {
            return Err(io::Error::other(format!("a vector of {} dims, not {}", vector.len(), self.shape.dims)));
        }
        let (segment, offset) = self.shape.split(row);
        if segment >= MAX_SEGMENTS {
            return Err(io::Error::other(format!("row {row} does not fit: the column is full")));
        }
        while self.segments.len() <= segment {
            let file = self.open_segment(self.segments.len())?;
            self.segments.push(file);
        }
        encode(self.shape.element, vector, &mut self.encoded);
        self.segments[segment].write_all_at(&self.encoded, offset as u64)
    }

    /// A read-only descriptor of a segment, to be mapped here or by a plugin.
    ///
    /// # Errors
    /// When there is no such segment.
    pub fn segment(&self, segment: u32) -> io::Result<OwnedFd> {
        Ok(File::open(self.path(segment as usize))?.into())
    }

    /// Puts everything written so far on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.segments.iter().try_for_each(File::sync_data)
    }

    /// Makes every row zero and gives back the disk space, for whoever has the files mapped too: a plugin can't be made to
    /// unmap a column, and must not keep what is in it after its index was dropped. Nothing may read or write it any more.
    ///
    /// # Errors
    /// When the file system can't do this: most can.
    pub fn erase(&self) -> io::Result<()> {
        let length = i64::try_from(self.shape.segment_bytes()).map_err(io::Error::other)?;
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        self.segments.iter().try_for_each(|file| Ok(fallocate(file, hole, 0, length)?))
    }

    fn path(&self, segment: usize) -> PathBuf {
        self.directory.join(format!("segment-{segment:04}"))
    }

    fn open_segment(&self, segment: usize) -> io::Result<File> {
        let path = self.path(segment);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let (found, wanted) = (file.metadata()?.len(), self.shape.segment_bytes() as u64);
        match found {
            0 => file.set_len(wanted)?,
            _ if found == wanted => {}
            _ => {
                let path = path.display();
                return Err(io::Error::other(format!(
                    "{path}: {found} bytes, not {wanted}: not a segment of this column"
                )));
            }
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_across_segments_and_element_types() {
        let directory = tempfile::tempdir().expect("tempdir");
        for element in [Element::F32, Element::F16, Element::I8] {
            let shape = ColumnShape::with_segments(3, element, 64).expect("shape");
            let directory = directory.path().join(format!("{element:?}"));
            let mut writer = ColumnWriter::open(&directory, shape).expect("open");
            for row in 0..150 {
                writer.write(row, &[row as f32, 0.5, -1.0]).expect("write");
            }
            assert_eq!(writer.segments(), 3);
            let writer = ColumnWriter::open(&directory, shape).expect("reopen");
            let column = VectorColumn::new(shape);
            for segment in 0..writer.segments() {
                column.attach(segment, &writer.segment(segment).expect("segment")).expect("attach");
            }
            let mut row = [0.0; 3];
            column.row(149).expect("row").copy_to(&mut row);
            let rounded = if element == Element::I8 { [149.0, 0.0, -149.0 / 127.0] } else { [149.0, 0.5, -1.0] };
            assert!(row.iter().zip(rounded).all(|(a, b)| (a - b).abs() < 1e-4), "{row:?}");
            assert!(column.row(192).is_none());
        }
    }

    #[test]
    fn who_mapped_a_column_sees_nothing_of_it_once_it_is_erased() {
        let directory = tempfile::tempdir().expect("tempdir");
        let shape = ColumnShape::with_segments(3, Element::F32, 64).expect("shape");
        let mut writer = ColumnWriter::open(directory.path(), shape).expect("open");
        writer.write(0, &[1.0, 2.0, 3.0]).expect("write");
        let column = VectorColumn::new(shape);
        column.attach(0, &writer.segment(0).expect("segment")).expect("attach");
        let row = |column: &VectorColumn| {
            let mut row = [0.0; 3];
            column.row(0).expect("attached").copy_to(&mut row);
            row
        };
        assert_eq!(row(&column), [1.0, 2.0, 3.0]);
        std::fs::remove_dir_all(directory.path()).expect("remove");
        writer.erase().expect("a file system that punches holes");
        assert_eq!(row(&column), [0.0; 3]);
    }

    #[test]
    fn a_segment_of_another_shape_is_refused() {
        let directory = tempfile::tempdir().expect("tempdir");
        let shape = ColumnShape::with_segments(3, Element::F32, 64).expect("shape");
        ColumnWriter::open(directory.path(), shape).expect("open").write(0, &[0.0; 3]).expect("write");
        let other = ColumnShape::with_segments(300, Element::F32, 64).expect("shape");
        assert!(ColumnWriter::open(directory.path(), other).is_err());
    }

    #[test]
    fn segment_sizes_are_sensible() {
        let shape = ColumnShape::new(384, Element::F16).expect("shape");
        assert_eq!(shape.stride(), 768);
        assert_eq!(shape.rows_per_segment(), 65_536);
        assert!(ColumnShape::new(0, Element::F32).is_none());
        assert!(ColumnShape::new(MAX_DIMS, Element::F32).is_some());
    }
}
