//! The end of fjall's journal, as a power cut may leave it.
//!
//! The system writes what was not synced in any order. So of the last batches some sectors may be missing, which are zeros:
//! the file grows only at its end. Where such a sector holds the beginning of an entry, fjall takes that for the end of the
//! journal and cuts off the rest, none of which was on the disk for sure. Where it lies in the middle of a long value, all
//! entries can be read and only the checksum of their batch is wrong: then fjall 3.1 opens nothing any more. Here that
//! batch is found, and cut off together with what follows it.
//!
//! Only the newest journal ends so, since one that is replaced is synced before; and only a batch that misses a
//! sector is cut off. One that was changed otherwise is damage, which is for a person to judge. What is cut off is kept in
//! a file beside the journal: were it a disk that lost what it had acknowledged, later commits would be in there.
//!
//! ```text
//! batch    1, items 4, sequence 8; the items; 3, checksum 8 (XXH3 of all items), "FJL\x03"
//! item     2, type 1, compression 1, keyspace 8, length of key 2, of value 4, of value as stored 4; key; stored value
//!          4, keyspace 8
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// What ends a batch.
const TRAILER: [u8; 4] = *b"FJL\x03";
/// The smallest sector that a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// What was cut off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where in the journal it began.
    pub(super) at: u64,
    /// The file that it is kept in.
    pub(super) kept: PathBuf,
}

/// Cuts a torn batch, and what follows it, off the newest journal of a database that is not open, if there is one.
///
/// # Errors
/// When the journal can't be read or cut, or its end can't be kept.
pub(super) fn cut(directory: &Path) -> io::Result<Option<Cut>> {
    let Some(path) = newest(directory)? else { return Ok(None) };
    let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
    let Some(torn) = first_wrong(&file)? else { return Ok(None) };
    if !misses_a_sector(&file, &torn)? {
        return Ok(None);
    }
    let kept = path.with_extension(format!("{}.torn", torn.start));
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(torn.start))?;
    file.read_to_end(&mut rest)?;
    let mut copy = File::create(&kept)?;
    copy.write_all(&rest)?;
    copy.sync_all()?;
    File::open(directory)?.sync_all()?;
    file.set_len(torn.start)?;
    file.sync_all()?;
    Ok(Some(Cut { at: torn.start, kept }))
}

fn newest(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(known, _)| *known < number)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the first batch lies whose checksum is wrong, if all before it are right.
fn first_wrong(file: &File) -> io::Result<Option<Range<u64>>> {
    let mut reader = Reader { bytes: BufReader::new(file).take(file.metadata()?.len()), at: 0 };
    loop {
        let start = reader.at;
        match reader.is_right() {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok(Some(start..reader.at)),
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn misses_a_sector(file: &File, batch: &Range<u64>) -> io::Result<bool> {
    let mut sector = [0; SECTOR as usize];
    for number in batch.start.div_ceil(SECTOR)..batch.end / SECTOR {
        file.read_exact_at(&mut sector, number * SECTOR)?;
        if sector.iter().all(|byte| *byte == 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Reader<R> {
    bytes: io::Take<R>,
    at: u64,
}

impl<R: Read> Reader<R> {
    fn next<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.bytes.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Whether the checksum of the next batch is right; `None` where there is none.
    fn is_right(&mut self) -> io::Result<Option<bool>> {
        if self.next()? != [START] {
            return Ok(None);
        }
        let items = u32::from_le_bytes(self.next()?);
        self.next::<8>()?;
        let mut checksum = Xxh3::new();
        for _ in 0..items {
            let [tag] = self.next()?;
            checksum.update(&[tag]);
            match tag {
                CLEAR => checksum.update(&self.next::<8>()?),
                ITEM => self.item(&mut checksum)?,
                _ => return Ok(None),
            }
        }
        if self.next()? != [END] {
            return Ok(None);
        }
        let expected = u64::from_le_bytes(self.next()?);
        Ok((self.next()? == TRAILER).then_some(checksum.digest() == expected))
    }

    fn item(&mut self, checksum: &mut Xxh3) -> io::Result<()> {
        checksum.update(&self.next::<10>()?);
        let (key, value, stored) = (self.next::<2>()?, self.next::<4>()?, self.next::<4>()?);
        checksum.update(&key);
        checksum.update(&value);
        checksum.update(&stored);
        let bytes = u64::from(u16::from_le_bytes(key)) + u64::from(u32::from_le_bytes(stored));
        // Of a length that is wrong the file may not have so many.
        if bytes > self.bytes.limit() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut rest = vec![0; bytes as usize];
        self.bytes.read_exact(&mut rest)?;
        self.at += bytes;
        checksum.update(&rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch that sets keys to values.
    fn batch(sequence: u64, values: &[Vec<u8>]) -> Vec<u8> {
        let mut items = Vec::new();
        for value in values {
            items.extend([ITEM, 0, 0]);
            items.extend(7_u64.to_le_bytes());
            items.extend(3_u16.to_le_bytes());
            items.extend([(value.len() as u32).to_le_bytes(); 2].concat());
            items.extend(b"key");
            items.extend(value);
        }
        let head = [&[START][..], &(values.len() as u32).to_le_bytes(), &sequence.to_le_bytes()].concat();
        let checksum = xxhash_rust::xxh3::xxh3_64(&items);
        [head, items, [&[END][..], &checksum.to_le_bytes(), &TRAILER].concat()].concat()
    }

    fn cut_of(journal: &[u8]) -> (Option<u64>, u64) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("9.jnl"), b"an older one").unwrap();
        let path = directory.path().join("10.jnl");
        fs::write(&path, journal).unwrap();
        let cut = cut(directory.path()).unwrap();
        if let Some(Cut { at, kept }) = &cut {
            assert_eq!(fs::read(kept).unwrap(), journal[*at as usize..]);
        }
        (cut.map(|cut| cut.at), fs::metadata(path).unwrap().len())
    }

    #[test]
    fn what_is_torn_is_cut_off_and_nothing_else() {
        let (first, second) = (batch(1, &[vec![1; 40], vec![0; 4000]]), batch(2, &[vec![2; 3000], vec![3; 3]]));
        let whole = [&first[..], &second, &batch(3, &[vec![4; 900]]), &[0; 5000]].concat();
        let length = whole.len() as u64;
        assert_eq!(cut_of(&whole), (None, length), "nothing is wrong, though a value is zeros");

        let second_at = first.len() as u64;
        let sector = (second_at.div_ceil(SECTOR) * SECTOR + SECTOR) as usize;
        let mut torn = whole.clone();
        torn[sector..sector + SECTOR as usize].fill(0);
        assert_eq!(cut_of(&torn), (Some(second_at), second_at));

        let mut damaged = whole.clone();
        damaged[sector + 7] ^= 1;
        assert_eq!(cut_of(&damaged), (None, length), "that is no power cut");

        let mut headless = whole;
        headless[second_at as usize] = 0;
        assert_eq!(cut_of(&headless), (None, length), "fjall does that by itself");
    }

    #[test]
    fn nothing_is_cut_where_nothing_is() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(cut(directory.path()).unwrap(), None);
        assert_eq!(cut_of(b""), (None, 0));
        let length = batch(1, &[vec![1; 2000]]).len();
        for end in 0..length {
            assert_eq!(cut_of(&batch(1, &[vec![1; 2000]])[..end]).0, None, "{end} bytes");
        }
    }
}
