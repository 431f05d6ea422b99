//! What was read of chunks and may be read again. A chunk never changes, and its number is never used again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chunk::Keys;
use crate::rows::Values;

/// The keys and the values of the chunks that were read last.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) keys: Recent<Keys>,
    pub(crate) values: Recent<Values>,
}

impl Cache {
    pub(crate) fn new(bytes: usize) -> Self {
        // A key that is not there needs the keys alone: every insertion looks for one.
        Self { keys: Recent::new(bytes / 4), values: Recent::new(bytes / 4 * 3) }
    }
}

/// The things that were used last, by number, up to so many bytes.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    most_bytes: usize,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    clock: u64,
    bytes: usize,
    known: HashMap<u64, Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    thing: Arc<T>,
    bytes: usize,
    used: u64,
}

impl<T> Recent<T> {
    fn new(most_bytes: usize) -> Self {
        Self { most_bytes, inner: Mutex::new(Inner { clock: 0, bytes: 0, known: HashMap::new() }) }
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<T>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let clock = inner.clock;
        let known = inner.known.get_mut(&number)?;
        known.used = clock;
        Some(Arc::clone(&known.thing))
    }

    /// Keeps a thing, unless it alone is larger than all may be.
    pub(crate) fn keep(&self, number: u64, thing: Arc<T>, bytes: usize) {
        if bytes > self.most_bytes {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let used = inner.clock;
        inner.bytes += bytes;
        if let Some(replaced) = inner.known.insert(number, Known { thing, bytes, used }) {
            inner.bytes -= replaced.bytes;
        }
        while inner.bytes > self.most_bytes {
            let Some(oldest) = inner.known.iter().min_by_key(|(_, known)| known.used).map(|(number, _)| *number) else {
                return;
            };
            let removed = inner.known.remove(&oldest).map_or(0, |known| known.bytes);
            inner.bytes -= removed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_goes_first() {
        let recent = Recent::new(10);
        for number in 0..3 {
            recent.keep(number, Arc::new(number), 4);
            assert_eq!(recent.get(0).as_deref(), Some(&0), "it was used before each of the others");
        }
        assert_eq!((recent.get(1), recent.get(2).as_deref()), (None, Some(&2)));
        recent.keep(3, Arc::new(3), 11);
        assert_eq!(recent.get(3), None, "too large");
        recent.keep(2, Arc::new(5), 10);
        assert_eq!((recent.get(0), recent.get(2).as_deref()), (None, Some(&5)));
    }
}
