//! Reads the rows of a `.npy` file (versions 1 to 3, two dimensions, little-endian float16, float32 or float64).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// A file of vectors, read row by row.
pub struct Vectors {
    file: BufReader<File>,
    element: Element,
    rows: u64,
    dims: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    F16,
    F32,
    F64,
}

impl Element {
    fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

impl Vectors {
    /// Opens the file and reads its header.
    ///
    /// # Errors
    /// When it can't be read, is no such table, or has another size than it says.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("cannot read vectors from {}", path.display());
        let file = File::open(path).with_context(what)?;
        let length = file.metadata().with_context(what)?.len();
        let mut file = BufReader::new(file);
        let (header, start) = header(&mut file).with_context(what)?;
        let (element, rows, dims) = parse(&header).with_context(what)?;
        let expected = rows.checked_mul(dims).and_then(|n| n.checked_mul(element.size() as u64)?.checked_add(start));
        ensure!(
            expected == Some(length),
            "{}: its header promises {rows} x {dims} numbers, but the file has {length} bytes; write it again",
            path.display()
        );
        // Without rows the file's length bounds nothing.
        let dims = if rows == 0 { 0 } else { usize::try_from(dims).with_context(what)? };
        Ok(Self { file, element, rows, dims, bytes: vec![0; dims * element.size()] })
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The next row, in place of what is in `row`.
    ///
    /// An element of float64 is rounded to float32: the vectors of an index have no more.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn next(&mut self, row: &mut Vec<f32>) -> anyhow::Result<()> {
        self.file.read_exact(&mut self.bytes)?;
        row.clear();
        row.reserve(self.dims);
        match self.element {
            Element::F16 => row.extend(self.bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32())),
            Element::F32 => row.extend(self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Element::F64 => row.extend(self.bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        }
        Ok(())
    }
}

/// The text of the header and where the rows start.
fn header(file: &mut impl Read) -> anyhow::Result<(String, u64)> {
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    ensure!(start[..6] == *b"\x93NUMPY", "this is not a .npy file; write it with numpy.save");
    let (length, before) = if start[6] == 1 {
        let mut length = [0; 2];
        file.read_exact(&mut length)?;
        (u64::from(u16::from_le_bytes(length)), 10)
    } else {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        (u64::from(u32::from_le_bytes(length)), 12)
    };
    let mut header = String::new();
    file.take(length).read_to_string(&mut header)?;
    Ok((header, before + length))
}

/// The header is the text of a Python dictionary: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }`.
fn parse(header: &str) -> anyhow::Result<(Element, u64, u64)> {
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([' ', ':']));
    let element = match after("'descr'").and_then(|rest| rest.split('\'').nth(1)) {
        Some("<f2") => Element::F16,
        Some("<f4") => Element::F32,
        Some("<f8") => Element::F64,
        other => bail!("its elements are {}; convert them with .astype('<f4')", other.unwrap_or("of an unknown type")),
    };
    let rows_first = after("'fortran_order'").is_some_and(|rest| rest.starts_with("False"));
    ensure!(rows_first, "its columns are stored one after the other; convert it with numpy.ascontiguousarray");
    let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
    let sizes: Vec<Result<u64, _>> = shape
        .map(|(shape, _)| shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse).collect())
        .unwrap_or_default();
    match sizes[..] {
        [Ok(rows), Ok(dims)] if dims > 0 => Ok((element, rows, dims)),
        _ => bail!("it is not a table of two dimensions, one row a vector; see its .shape"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn npy(header: &str, body: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\x93NUMPY\x01\x00").unwrap();
        file.write_all(&u16::try_from(header.len()).unwrap().to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(body).unwrap();
        file
    }

    fn problem(header: &str, body: &[u8]) -> String {
        let file = npy(header, body);
        format!("{:#}", Vectors::open(file.path()).err().unwrap())
    }

    #[test]
    fn every_width_gives_the_same_numbers() {
        let bodies = [
            ("<f2", [1.5, -2.0].map(|x| half::f16::from_f32(x).to_le_bytes()).concat()),
            ("<f4", [1.5f32, -2.0].map(f32::to_le_bytes).concat()),
            ("<f8", [1.5f64, -2.0].map(f64::to_le_bytes).concat()),
        ];
        for (descr, body) in bodies {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 1), }}\n");
            let file = npy(&header, &body);
            let mut vectors = Vectors::open(file.path()).unwrap();
            assert_eq!(vectors.rows(), 2);
            let mut row = Vec::new();
            for expected in [1.5, -2.0] {
                vectors.next(&mut row).unwrap();
                assert_eq!(row, [expected], "{descr}");
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_says_what_to_do() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }";
        assert!(problem(good, &[0; 7]).contains("promises 2 x 1 numbers"));
        assert!(problem(&good.replace("<f4", "<i4"), &[0; 8]).contains("astype"));
        assert!(problem(&good.replace("False", "True"), &[0; 8]).contains("ascontiguousarray"));
        assert!(problem(&good.replace("(2, 1)", "(2,)"), &[0; 8]).contains("two dimensions"));
        assert!(problem(&good.replace("2, 1", "18446744073709551615, 9"), &[]).contains("promises"));
        assert!(problem("", &[]).contains("unknown type"));
    }
}
