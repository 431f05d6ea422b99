//! The file that a saved graph is kept in: `DIR/vectors/INDEX_ID/graph`.
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | `PHGRAPH1` |
//! | 8..12 | CRC-32 of everything behind it |
//! | 12..20 | rows of the bitmap |
//! | 20.. | the bitmap of rows in the graph (64-bit words), then what the plugin wrote |
//!
//! All numbers are little-endian. The plugin's part is opaque: it is fed to the same plugin, inside its sandbox, and
//! to nobody else. A file that is damaged or missing costs a rebuild, nothing more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use fixedbitset::FixedBitSet;

const MAGIC: &[u8; 8] = b"PHGRAPH1";
const HEADER: usize = 20;
const NAME: &str = "graph";

/// A graph as it was saved.
#[derive(Debug, PartialEq)]
pub(crate) struct SavedGraph {
    /// The rows in it.
    pub(crate) rows: FixedBitSet,
    /// What the plugin wrote.
    pub(crate) graph: Vec<u8>,
}

impl SavedGraph {
    /// Replaces the saved graph of an index, so that a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let mut body = (self.rows.len() as u64).to_le_bytes().to_vec();
        body.extend(words(&self.rows).iter().flat_map(|word| word.to_le_bytes()));
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&body);
        checksum.update(&self.graph);
        let temporary = directory.join("graph.new");
        let mut file = File::create(&temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(&checksum.finalize().to_le_bytes())?;
        file.write_all(&body)?;
        file.write_all(&self.graph)?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(NAME))?;
        File::open(directory)?.sync_all()
    }

    /// Removes the saved graph of an index, if there is one.
    ///
    /// # Errors
    /// When the directory can't be changed.
    pub(super) fn remove(directory: &Path) -> io::Result<()> {
        match fs::remove_file(directory.join(NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The saved graph of an index; `None` if there is none.
    ///
    /// # Errors
    /// When it is damaged or can't be read.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(directory.join(NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&bytes).map(Some).ok_or_else(|| io::Error::other("damaged"))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let checksum = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        if bytes.get(..8)? != MAGIC || crc32fast::hash(bytes.get(12..)?) != checksum {
            return None;
        }
        let rows = usize::try_from(u64::from_le_bytes(*bytes.get(12..)?.first_chunk()?)).ok()?;
        let bitmap = bytes.get(HEADER..HEADER.checked_add(rows.div_ceil(64).checked_mul(8)?)?)?;
        let words = bitmap.as_chunks::<8>().0.iter().map(|word| usize::from_le_bytes(*word));
        Some(Self {
            rows: FixedBitSet::with_capacity_and_blocks(rows, words),
            graph: bytes[HEADER + bitmap.len()..].to_vec(),
        })
    }
}

/// Exactly the words that the bits need.
fn words(bits: &FixedBitSet) -> &[usize] {
    &bits.as_slice()[..bits.len().div_ceil(64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_noticed() {
        let directory = tempfile::tempdir().expect("tempdir");
        assert_eq!(SavedGraph::read(directory.path()).expect("absent"), None);
        let mut rows = FixedBitSet::with_capacity(130);
        rows.extend([0, 64, 129]);
        let saved = SavedGraph { rows, graph: b"the plugin's".to_vec() };
        saved.write(directory.path()).expect("write");
        assert_eq!(SavedGraph::read(directory.path()).expect("read"), Some(saved));
        let path = directory.path().join(NAME);
        let good = fs::read(&path).expect("read");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).expect("write");
            assert!(SavedGraph::read(directory.path()).is_err(), "byte {at}");
        }
        fs::write(&path, &good[..good.len() - 1]).expect("write");
        assert!(SavedGraph::read(directory.path()).is_err());
    }
}
