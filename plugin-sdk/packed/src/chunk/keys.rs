//! The keys of a chunk, ascending: of each, how many bytes it has in common with the one before (numbers, u32), and the
//! others (lengths, bytes).

use super::DamagedChunk;
use super::blocks::{Reader, Runs, put_numbers, put_runs};

pub(super) fn put<'a>(keys: impl Iterator<Item = &'a [u8]> + Clone, out: &mut Vec<u8>) {
    let mut before: &[u8] = &[];
    let mut common = |key: &'a [u8]| {
        let common = key.iter().zip(before).take_while(|(a, b)| a == b).count();
        before = key;
        common
    };
    let shared: Vec<u32> = keys.clone().map(|key| common(key) as u32).collect();
    put_numbers(out, &shared);
    put_runs(out, keys.zip(&shared).map(|(key, shared)| &key[*shared as usize..]));
}

/// Keys, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Runs);

impl Keys {
    pub(super) fn read(section: &[u8], rows: usize) -> Result<Self, DamagedChunk> {
        let mut reader = Reader(section);
        let shared = reader.numbers::<u32>(rows)?;
        let rest = Runs::read(&mut reader, rows)?;
        let mut keys = Runs::with_capacity(rows);
        let mut key = Vec::new();
        for (at, shared) in shared.into_iter().enumerate() {
            let (shared, rest) = (shared as usize, rest.get(at));
            // Behind the common bytes lies a greater one, so keys ascend.
            let ascends = match (key.get(shared), rest.first()) {
                (_, None) => false,
                (None, Some(_)) => shared == key.len(),
                (Some(before), Some(next)) => next > before,
            };
            if !ascends || shared + rest.len() > usize::from(u16::MAX) {
                return Err(DamagedChunk("keys are not in order, or too long"));
            }
            key.truncate(shared);
            key.extend_from_slice(rest);
            keys.push(|out| out.extend_from_slice(&key))?;
        }
        Ok(Self(keys))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, at: usize) -> &[u8] {
        self.0.get(at)
    }

    /// The first row whose key is not smaller.
    pub(crate) fn position(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }

    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }
}
