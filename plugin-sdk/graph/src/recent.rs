//! The nodes that are being linked.
//!
//! A walk finds what is linked already. Of near nodes that are linked at the same time none would find the others: each
//! would be linked with what is farther away, and the first list that is shortened could leave one of them out for the
//! other, and with it the only way to it. So who links a node also looks at those whose linking began while it walked, or
//! shortly before.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::links::NONE;

/// How many are remembered: more than are linked during a walk.
const REMEMBERED: usize = 256;
/// So many that began before may be linked still: more than threads that add rows.
const BEFORE: usize = 32;

/// The nodes whose linking began last.
#[derive(Debug)]
pub(crate) struct Recent {
    begun: AtomicUsize,
    ended: AtomicUsize,
    nodes: Box<[AtomicU32]>,
}

/// That a node is being linked.
#[derive(Debug)]
pub(crate) struct Linking<'a> {
    recent: &'a Recent,
    /// How many had begun before it.
    begun: usize,
    is_alone: bool,
}

impl Default for Recent {
    fn default() -> Self {
        let nodes = (0..REMEMBERED).map(|_| AtomicU32::new(NONE)).collect();
        Self { begun: AtomicUsize::new(0), ended: AtomicUsize::new(0), nodes }
    }
}

impl Recent {
    /// A node is about to be linked, until the guard is dropped.
    pub(crate) fn begin(&self, node: u32) -> Linking<'_> {
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.fetch_add(1, Ordering::AcqRel);
        self.nodes[begun % REMEMBERED].store(node, Ordering::Release);
        Linking { recent: self, begun, is_alone: begun == ended }
    }
}

impl Linking<'_> {
    /// The nodes that were being linked since this one began, of which a walk may have found none. `None`: so many that they
    /// are not remembered.
    pub(crate) fn others(&self) -> Option<impl Iterator<Item = u32>> {
        let now = self.recent.begun.load(Ordering::Acquire);
        let is_alone = self.is_alone && now == self.begun + 1;
        let first = if is_alone { now } else { self.begun.saturating_sub(BEFORE) };
        let nodes = (first..now).map(|at| self.recent.nodes[at % REMEMBERED].load(Ordering::Acquire));
        (now - first <= REMEMBERED).then(|| nodes.filter(|&node| node != NONE))
    }
}

impl Drop for Linking<'_> {
    fn drop(&mut self) {
        self.recent.ended.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_linked_together_know_each_other() {
        let recent = Recent::default();
        let others = |linking: &Linking<'_>| linking.others().map(Iterator::collect::<Vec<u32>>);
        let first = recent.begin(7);
        assert_eq!(others(&first), Some(vec![]), "it is alone");
        let second = recent.begin(8);
        assert_eq!(others(&first), Some(vec![7, 8]));
        drop(first);
        assert_eq!(others(&second), Some(vec![7, 8]));
        drop(second);
        let alone = recent.begin(9);
        assert_eq!(others(&alone), Some(vec![]));
        (0..1000).for_each(|node| drop(recent.begin(node)));
        assert_eq!(others(&alone), None);
    }
}
