//! Numbers and bytes, compressed: what sections are made of.
//!
//! | block | form |
//! |---|---|
//! | numbers | length (u32), that many bytes of a standalone file of `pco`; how many numbers they are says whoever reads |
//! | bytes | length as it was (u32), length (u32), that many bytes: a frame of `zstd` if they are fewer, or the bytes |
//! | bits | one for each row, the lowest of a byte first |
//!
//! Numbers are little-endian. Whatever the bytes are, reading them costs memory in proportion to the rows that the chunk says
//! it has, and to lengths of at most [`MAX_BYTES`].

use pco::data_types::Number;
use pco::{ChunkConfig, standalone};

use super::DamagedChunk;

/// The most bytes that a section has when it is not compressed.
pub(crate) const MAX_BYTES: usize = 320 << 20;
/// On short descriptions level 1 needs 0.69 of the bytes of LZ4 in 1.1 of its time; level 3 0.92 of level 1 in 1.5.
const LEVEL: i32 = 1;

/// Reads what lies one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], DamagedChunk> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(DamagedChunk("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DamagedChunk> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DamagedChunk("it is cut off"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DamagedChunk> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DamagedChunk> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DamagedChunk> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DamagedChunk> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes behind their length.
    pub(super) fn short(&mut self) -> Result<&'a [u8], DamagedChunk> {
        let bytes = self.u16()?;
        self.take(bytes.into())
    }

    /// `count` numbers.
    pub(super) fn numbers<T: Number + Default>(&mut self, count: usize) -> Result<Vec<T>, DamagedChunk> {
        let bytes = self.u32()? as usize;
        let file = self.take(bytes)?;
        let mut numbers = vec![T::default(); count];
        if count > 0 {
            let read = standalone::simple_decompress_into(file, &mut numbers);
            if read.ok().is_none_or(|progress| progress.n_processed != count) {
                return Err(DamagedChunk("a block of numbers can't be read"));
            }
        }
        Ok(numbers)
    }

    /// Bytes.
    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, DamagedChunk> {
        let (length, stored) = (self.u32()? as usize, self.u32()? as usize);
        let stored = self.take(stored)?;
        if stored.len() == length {
            return Ok(stored.to_vec());
        }
        if length > MAX_BYTES {
            return Err(DamagedChunk("a block of bytes is larger than any that is written"));
        }
        let bytes = zstd::bulk::decompress(stored, length).ok().filter(|bytes| bytes.len() == length);
        bytes.ok_or(DamagedChunk("a block of bytes can't be read"))
    }

    pub(super) fn bits(&mut self, count: usize) -> Result<Bits, DamagedChunk> {
        self.take(count.div_ceil(8)).map(|bytes| Bits(bytes.to_vec()))
    }
}

/// One bit a row.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u8>);

impl Bits {
    pub(super) fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(8)])
    }

    pub(super) fn of(bits: impl ExactSizeIterator<Item = bool>) -> Self {
        let mut all = Self::none(bits.len());
        bits.enumerate().filter(|(_, bit)| *bit).for_each(|(at, _)| all.0[at / 8] |= 1 << (at % 8));
        all
    }

    pub(super) fn get(&self, at: usize) -> bool {
        self.0.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

pub(super) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_numbers<T: Number>(out: &mut Vec<u8>, numbers: &[T]) {
    // It fails where its settings are wrong, and these are its own.
    let file = if numbers.is_empty() {
        Vec::new()
    } else {
        standalone::simple_compress(numbers, &ChunkConfig::default()).expect("the default settings are valid")
    };
    out.extend_from_slice(&(file.len() as u32).to_le_bytes());
    out.extend_from_slice(&file);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    let frame = zstd::bulk::compress(bytes, LEVEL).ok().filter(|frame| frame.len() < bytes.len());
    let stored = frame.as_deref().unwrap_or(bytes);
    out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    out.extend_from_slice(stored);
}

/// Several runs of bytes, one behind the other: their lengths, and all of them.
pub(super) fn put_runs<'a>(out: &mut Vec<u8>, runs: impl Iterator<Item = &'a [u8]>) {
    let (mut lengths, mut all) = (Vec::new(), Vec::new());
    for run in runs {
        lengths.push(run.len() as u32);
        all.extend_from_slice(run);
    }
    put_numbers(out, &lengths);
    put_bytes(out, &all);
}

/// Runs of bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    ends: Vec<u32>,
    all: Vec<u8>,
}

impl Runs {
    pub(super) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self, DamagedChunk> {
        let mut ends = reader.numbers::<u32>(count)?;
        let all = reader.bytes()?;
        let mut end = 0_u32;
        for length in &mut ends {
            end = end.checked_add(*length).ok_or(DamagedChunk("values are longer than any that are written"))?;
            *length = end;
        }
        if end as usize != all.len() {
            return Err(DamagedChunk("the lengths of values do not add up"));
        }
        Ok(Self { ends, all })
    }

    pub(super) fn with_capacity(count: usize) -> Self {
        Self { ends: Vec::with_capacity(count), all: Vec::new() }
    }

    /// Adds a run, of what `write` writes.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), DamagedChunk> {
        write(&mut self.all);
        if self.all.len() > MAX_BYTES {
            return Err(DamagedChunk("values are longer than any that are written"));
        }
        self.ends.push(self.all.len() as u32);
        Ok(())
    }

    /// A run; an empty one where there is none.
    pub(super) fn get(&self, at: usize) -> &[u8] {
        let Some(end) = self.ends.get(at) else { return &[] };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[start as usize..*end as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all runs.
    pub(super) fn bytes(&self) -> usize {
        self.all.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.ends.len() * 4 + self.all.len()
    }
}
