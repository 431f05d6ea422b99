//! A file of encrypted blocks, as redb's storage.
//!
//! redb knows pages of 4 KiB, and never writes over one that a durable commit can reach: a page is replaced by another one,
//! and the header says which. So each page is a sealed block, and a write that a crash cuts short harms a block that
//! nothing reaches yet. Only the header is written in place, and there are two copies of it, of which the newer one is
//! never written over before the other one is on the disk.
//!
//! ```text
//! 0         the header, one copy     nonce 24, sealed: sequence 8, length 8, redb's first page 4096; tag 16
//! 8192      the header, the other    the same
//! 16384     page 1, 2, 3, ...        each: sequence 8, nonce 24, the sealed page 4096, tag 16
//! ```
//!
//! Every header has a **sequence** number one above the last one's, and a page has that of the last header before it. So a
//! page that is newer than the header shows that somebody brought back an older header. A page is sealed for its number
//! and sequence, and can't stand for another one. The **length** is that of the file at the last sync: a file that is
//! shorter was cut.
//!
//! redb assumes that a write changes no byte beside it, even when power fails in the middle ("powersafe overwrite"), and so
//! does this. What redb never wrote it never reads: a block of zeros is as wrong as any other one.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::StorageBackend;

use crate::seal::{NONCE, Sealer, TAG};

/// Bytes of a page of redb.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a page in the file.
pub(crate) const SEALED: usize = 8 + NONCE + PAGE + TAG;
/// Bytes of a header in the file.
const HEADER: usize = NONCE + 16 + PAGE + TAG;
/// Between the two headers, which so share no sector.
const HEADER_STRIDE: u64 = 8192;
/// Where the pages begin.
pub(crate) const PAGES: u64 = 2 * HEADER_STRIDE;
/// Pages that are read or written at once.
const RUN: usize = 64;

/// What was found to be damaged first: redb only says that something failed before.
pub(crate) type Damage = Arc<OnceLock<String>>;

/// The file, as redb sees it.
pub(crate) struct Blocks<B> {
    inner: B,
    sealer: Sealer,
    header: Mutex<Header>,
    /// Of the last header.
    sequence: AtomicU64,
    damage: Damage,
}

struct Header {
    /// redb's first page.
    page: Box<[u8; PAGE]>,
    /// The length at the last sync, as redb sees it.
    length: u64,
    /// Which copy is on the disk for sure: the other one is written next.
    durable: usize,
    /// The other one was written since.
    is_newer: bool,
}

/// A header as it lies in the file.
struct Copied {
    sequence: u64,
    length: u64,
    page: Box<[u8; PAGE]>,
}

impl<B> fmt::Debug for Blocks<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").finish_non_exhaustive()
    }
}

impl<B: StorageBackend> Blocks<B> {
    /// Over an empty file.
    pub(crate) fn create(inner: B, sealer: Sealer) -> Self {
        let header = Header { page: Box::new([0; PAGE]), length: 0, durable: 1, is_newer: false };
        Self { inner, sealer, header: Mutex::new(header), sequence: AtomicU64::new(0), damage: Damage::default() }
    }

    /// Over a file that has such blocks.
    ///
    /// # Errors
    /// When it can't be read, or is damaged: then `damage` says how.
    pub(crate) fn open(inner: B, sealer: Sealer, damage: Damage) -> io::Result<Self> {
        let blocks = Self { damage, ..Self::create(inner, sealer) };
        blocks.read_header()?;
        Ok(blocks)
    }

    fn read_header(&self) -> io::Result<()> {
        let bytes = self.inner.len()?;
        if bytes < PAGES || !(bytes - PAGES).is_multiple_of(SEALED as u64) {
            return Err(self.damaged(format!("the file has {bytes} bytes, and was cut or extended")));
        }
        let copies = [self.read_copy(0)?, self.read_copy(1)?];
        let sequences = copies.each_ref().map(|copy| copy.as_ref().map(|copy| copy.sequence));
        let durable = usize::from(sequences[1] > sequences[0]);
        let Some(Copied { sequence, length, page }) = copies.into_iter().nth(durable).flatten() else {
            return Err(self.damaged("both copies of the header were changed, or belong to another table".to_owned()));
        };
        if logical(bytes) < length {
            let missing = (length - logical(bytes)) / PAGE as u64;
            return Err(self.damaged(format!("the file was cut: {missing} blocks are missing at its end")));
        }
        let mut header = self.lock();
        (header.page, header.length, header.durable) = (page, length, durable);
        self.sequence.store(sequence, Ordering::Release);
        // Whatever a crash left in the other copy.
        if sequences[1 - durable] != Some(sequence) {
            self.write_copy(&header, 1 - durable)?;
            self.inner.sync_data()?;
        }
        Ok(())
    }

    /// A copy of the header; `None` where it is none.
    fn read_copy(&self, copy: usize) -> io::Result<Option<Copied>> {
        let mut sealed = vec![0; HEADER];
        self.inner.read(copy as u64 * HEADER_STRIDE, &mut sealed)?;
        let Ok(text) = self.sealer.open(b"photondb header 1", &mut sealed) else { return Ok(None) };
        let mut page = Box::new([0; PAGE]);
        page.copy_from_slice(&text[16..]);
        Ok(Some(Copied { sequence: number(&text[..8]), length: number(&text[8..16]), page }))
    }

    fn write_copy(&self, header: &Header, copy: usize) -> io::Result<()> {
        let mut sealed = vec![0; HEADER];
        let sequence = self.sequence.load(Ordering::Acquire);
        sealed[NONCE..NONCE + 8].copy_from_slice(&sequence.to_le_bytes());
        sealed[NONCE + 8..NONCE + 16].copy_from_slice(&header.length.to_le_bytes());
        sealed[NONCE + 16..HEADER - TAG].copy_from_slice(&*header.page);
        self.sealer.seal(b"photondb header 1", &mut sealed)?;
        self.inner.write(copy as u64 * HEADER_STRIDE, &sealed)
    }

    /// Writes the header over the copy that is not needed.
    fn write_header(&self, header: &mut Header) -> io::Result<()> {
        self.sequence.fetch_add(1, Ordering::AcqRel);
        header.is_newer = true;
        self.write_copy(header, 1 - header.durable)
    }

    /// Puts everything on the disk, and then the same header into the other copy, which is no longer needed: so damage
    /// to either one loses nothing.
    fn put_on_disk(&self, header: &mut Header) -> io::Result<()> {
        self.inner.sync_data()?;
        if header.is_newer {
            (header.durable, header.is_newer) = (1 - header.durable, false);
            self.write_copy(header, 1 - header.durable)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, message: String) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self.damage.get_or_init(|| message).clone())
    }

    /// Reads and opens pages from number `first` on, so many as `sealed` has room for: the texts.
    fn read_pages<'a>(
        &self,
        first: u64,
        sealed: &'a mut [u8],
    ) -> io::Result<impl Iterator<Item = &'a [u8]> + use<'a, B>> {
        self.inner.read(physical(first), sealed)?;
        for (page, sealed) in (first..).zip(sealed.chunks_exact_mut(SEALED)) {
            let sequence = number(&sealed[..8]);
            if self.sealer.open(&place(page, sequence), &mut sealed[8..]).is_err() {
                return Err(self.damaged(format!("block {page} is not what was written there")));
            }
            if sequence > self.sequence.load(Ordering::Acquire) {
                let message = format!("block {page} is newer than the header: an older header was put back");
                return Err(self.damaged(message));
            }
        }
        Ok(sealed.chunks_exact(SEALED).map(|sealed| &sealed[8 + NONCE..SEALED - TAG]))
    }
}

impl<B: StorageBackend> StorageBackend for Blocks<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len().map(logical)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let (mut page, mut within) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
        if page == 0 && !out.is_empty() {
            let (first, rest) = out.split_at_mut(out.len().min(PAGE - within));
            first.copy_from_slice(&self.lock().page[within..within + first.len()]);
            (out, page, within) = (rest, 1, 0);
        }
        let mut sealed = vec![0; (within + out.len()).div_ceil(PAGE).min(RUN) * SEALED];
        while !out.is_empty() {
            let pages = (within + out.len()).div_ceil(PAGE).min(RUN);
            for text in self.read_pages(page, &mut sealed[..pages * SEALED])? {
                let (piece, rest) = out.split_at_mut(out.len().min(PAGE - within));
                piece.copy_from_slice(&text[within..within + piece.len()]);
                (out, within) = (rest, 0);
            }
            page += pages as u64;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut header = self.lock();
        if length < header.length {
            // Otherwise a crash would leave a file that is shorter than its header says.
            header.length = length;
            self.write_header(&mut header)?;
            self.put_on_disk(&mut header)?;
        }
        self.inner.set_len(physical((length / PAGE as u64).max(1)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut header = self.lock();
        let length = self.len()?;
        self.put_on_disk(&mut header)?;
        header.length = length;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (first, within) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
        if first == 0 && within + data.len() <= PAGE {
            let mut header = self.lock();
            header.page[within..within + data.len()].copy_from_slice(data);
            return self.write_header(&mut header);
        }
        if first == 0 || within != 0 || !data.len().is_multiple_of(PAGE) {
            let message = format!("{} bytes at {offset} are no whole pages", data.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let sequence = self.sequence.load(Ordering::Acquire);
        let mut sealed = vec![0; (data.len() / PAGE).min(RUN) * SEALED];
        for (run, texts) in (0..).zip(data.chunks(RUN * PAGE)) {
            let (first, sealed) = (first + run * RUN as u64, &mut sealed[..texts.len() / PAGE * SEALED]);
            for ((page, text), sealed) in (first..).zip(texts.chunks_exact(PAGE)).zip(sealed.chunks_exact_mut(SEALED)) {
                sealed[..8].copy_from_slice(&sequence.to_le_bytes());
                sealed[8 + NONCE..SEALED - TAG].copy_from_slice(text);
                self.sealer.seal(&place(page, sequence), &mut sealed[8..])?;
            }
            self.inner.write(physical(first), sealed)?;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        // The second copy of the last header.
        self.inner.sync_data()?;
        self.inner.close()
    }
}

/// Where a page begins in the file; the first one has another place.
fn physical(page: u64) -> u64 {
    PAGES + page.saturating_sub(1) * SEALED as u64
}

/// The length of a file as redb sees it: its first page and the other ones.
fn logical(bytes: u64) -> u64 {
    if bytes < PAGES { 0 } else { ((bytes - PAGES) / SEALED as u64 + 1) * PAGE as u64 }
}

/// What a page is sealed for.
fn place(page: u64, sequence: u64) -> [u8; 32] {
    let mut place = *b"photondb page 1\0________________";
    place[16..24].copy_from_slice(&page.to_le_bytes());
    place[24..].copy_from_slice(&sequence.to_le_bytes());
    place
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
