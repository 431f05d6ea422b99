//! Authenticated encryption of what lies in a file: XChaCha20-Poly1305.
//!
//! Its nonces have 24 bytes, so that random ones never meet under one key, however often blocks are written, and whatever
//! snapshot of a machine is brought back: no counter has to survive a crash. It needs no special instructions to be fast
//! and to take the same time for every key.

use std::io;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a key.
pub(crate) const KEY: usize = 32;
/// Bytes before a text: its nonce.
pub(crate) const NONCE: usize = 24;
/// Bytes behind it: its tag.
pub(crate) const TAG: usize = 16;

/// A key, which is wiped when it is dropped.
pub(crate) type Key = Zeroizing<[u8; KEY]>;

/// A new random key.
///
/// # Errors
/// When the system gives no random bytes.
pub(crate) fn new_key() -> io::Result<Key> {
    let mut key = Key::default();
    fill(&mut *key)?;
    Ok(key)
}

/// Fills `bytes` with random ones.
fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let filled = match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Err(Errno::INTR) => 0,
            filled => filled?,
        };
        bytes = &mut bytes[filled..];
    }
    Ok(())
}

/// What seals and opens with one key. The key is wiped when it is dropped.
pub(crate) struct Sealer(XChaCha20Poly1305);

/// Something was changed since it was sealed, or was sealed with another key or for another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

impl Sealer {
    pub(crate) fn new(key: &Key) -> Self {
        let mut key = chacha20poly1305::Key::from(**key);
        let sealer = Self(XChaCha20Poly1305::new(&key));
        key.zeroize();
        sealer
    }

    /// Seals the text in the middle of `sealed`, between the places of the nonce and of the tag; `place` says what and
    /// where it is.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub(crate) fn seal(&self, place: &[u8], sealed: &mut [u8]) -> io::Result<()> {
        let (nonce, text, tag) = parts(sealed).ok_or_else(|| io::Error::other("no room for a nonce and a tag"))?;
        fill(nonce)?;
        let made = self.0.encrypt_inout_detached(&XNonce::from(*nonce), place, text.into());
        *tag = made.map_err(|_| io::Error::other("a block that is too long to be sealed"))?.into();
        Ok(())
    }

    /// Opens what lies in `sealed` in place: the text.
    ///
    /// # Errors
    /// When it is not what was sealed for that place; it is then no text.
    pub(crate) fn open<'a>(&self, place: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], NotAuthentic> {
        let (nonce, text, tag) = parts(sealed).ok_or(NotAuthentic)?;
        let opened = self.0.decrypt_inout_detached(&XNonce::from(*nonce), place, (&mut *text).into(), &Tag::from(*tag));
        opened.map(|()| text).map_err(|_| NotAuthentic)
    }
}

fn parts(sealed: &mut [u8]) -> Option<(&mut [u8; NONCE], &mut [u8], &mut [u8; TAG])> {
    let (nonce, rest) = sealed.split_first_chunk_mut()?;
    let (text, tag) = rest.split_last_chunk_mut()?;
    Some((nonce, text, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_in_its_place_with_its_key_alone() {
        let (key, other) = (Sealer::new(&new_key().expect("a key")), Sealer::new(&new_key().expect("a key")));
        let mut sealed = [7; NONCE + 100 + TAG];
        key.seal(b"here", &mut sealed).expect("sealed");
        assert_ne!(sealed[NONCE..NONCE + 100], [7; 100]);
        let mut again = [7; NONCE + 100 + TAG];
        key.seal(b"here", &mut again).expect("sealed");
        assert_ne!(sealed, again, "no nonce is used twice");
        assert_eq!(key.open(b"here", &mut sealed.clone()), Ok(&mut [7; 100][..]));
        assert_eq!(key.open(b"there", &mut sealed.clone()), Err(NotAuthentic));
        assert_eq!(other.open(b"here", &mut sealed.clone()), Err(NotAuthentic));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(b"here", &mut changed), Err(NotAuthentic), "bit {bit}");
        }
        assert_eq!(key.open(b"here", &mut []), Err(NotAuthentic));
    }
}
