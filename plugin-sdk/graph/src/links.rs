//! The edges of the graph.
//!
//! A node's neighbours in one layer are a list of fixed room that ends at the first [`NONE`]. Searches read lists while
//! maintenance writes them: every number is an atomic, so that a search sees an old or a new neighbour, never anything
//! else. Which of the two does not matter to a walk, so all accesses are relaxed; that a neighbour's codes are there
//! before its number is the business of the lock around the graph.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::Layers;

/// No node.
pub(crate) const NONE: u32 = u32::MAX;

/// Neighbours in a cache line.
const PER_LINE: usize = 16;

#[derive(Debug)]
#[repr(align(64))]
struct Line([AtomicU32; PER_LINE]);

impl Line {
    fn empty() -> Self {
        Self([const { AtomicU32::new(NONE) }; PER_LINE])
    }
}

/// The neighbours of every node in every layer it is in.
#[derive(Debug)]
pub(crate) struct Links {
    layers: Layers,
    lines_per_node: usize,
    /// The base layer: the lists of all nodes, one after the other.
    base: Vec<Line>,
    /// How many of a node's first neighbours in the base layer were chosen together, nearest first. Those behind were added
    /// since, one by one.
    settled: Vec<AtomicU8>,
    /// The layers above, for the few nodes that are there: their numbers, layer by layer. Empty where there is one alone.
    upper: Vec<Box<[AtomicU32]>>,
}

impl Links {
    pub(crate) fn new(layers: Layers) -> Self {
        let lines_per_node = layers.limit(0).div_ceil(PER_LINE);
        Self { layers, lines_per_node, base: Vec::new(), settled: Vec::new(), upper: Vec::new() }
    }

    /// How many neighbours a node may have in a layer.
    pub(crate) fn limit(&self, layer: usize) -> usize {
        self.layers.limit(layer)
    }

    /// The highest layer of a node.
    pub(crate) fn top_layer(&self, node: u32) -> usize {
        self.upper.get(node as usize).map_or(0, |lists| lists.len() / self.limit(1))
    }

    pub(crate) fn reserve(&mut self, additional: usize) {
        self.base.reserve_exact(additional * self.lines_per_node);
        self.settled.reserve_exact(additional);
        if self.has_upper() {
            self.upper.reserve_exact(additional);
        }
    }

    /// Appends a node without neighbours that is in the layers up to `top`.
    pub(crate) fn push(&mut self, top: usize) {
        self.base.extend((0..self.lines_per_node).map(|_| Line::empty()));
        self.settled.push(AtomicU8::new(0));
        if self.has_upper() {
            self.upper.push(self.empty_upper(top));
        }
    }

    /// Takes all neighbours from a node and puts it into the layers up to `top`.
    pub(crate) fn reset(&mut self, node: u32, top: usize) {
        self.set(node, 0, &[]);
        self.set_settled(node, 0, 0);
        if self.has_upper() {
            self.upper[node as usize] = self.empty_upper(top);
        }
    }

    fn has_upper(&self) -> bool {
        matches!(self.layers, Layers::Many { .. })
    }

    fn empty_upper(&self, top: usize) -> Box<[AtomicU32]> {
        (0..top * self.limit(1)).map(|_| AtomicU32::new(NONE)).collect()
    }

    /// The neighbours of a node in a layer; none where it is not in the layer.
    #[inline]
    pub(crate) fn of(&self, node: u32, layer: usize) -> impl Iterator<Item = u32> {
        let (lines, upper): (&[Line], &[AtomicU32]) =
            if layer == 0 { (self.lines(node), &[]) } else { (&[], self.upper_list(node, layer)) };
        let limit = self.limit(layer);
        let numbers = lines.iter().flat_map(|line| &line.0).chain(upper).take(limit);
        numbers.map(|number| number.load(Ordering::Relaxed)).take_while(|&node| node != NONE)
    }

    /// Calls `visit` with each neighbour of a node in the base layer: as [`of`](Self::of), and faster.
    #[inline]
    pub(crate) fn each_in_base(&self, node: u32, mut visit: impl FnMut(u32)) {
        for line in self.lines(node) {
            for number in &line.0 {
                match number.load(Ordering::Relaxed) {
                    NONE => return,
                    neighbour => visit(neighbour),
                }
            }
        }
    }

    /// Replaces the neighbours of a node in a layer that it is in; what exceeds the limit is left out.
    pub(crate) fn set(&self, node: u32, layer: usize, neighbours: &[u32]) {
        let (lines, upper): (&[Line], &[AtomicU32]) =
            if layer == 0 { (self.lines(node), &[]) } else { (&[], self.upper_list(node, layer)) };
        let mut neighbours = neighbours.iter();
        for place in lines.iter().flat_map(|line| &line.0).chain(upper).take(self.limit(layer)) {
            let Some(&neighbour) = neighbours.next() else {
                place.store(NONE, Ordering::Relaxed);
                break;
            };
            place.store(neighbour, Ordering::Relaxed);
        }
    }

    /// How many of a node's first neighbours are known to have been chosen together, nearest first.
    pub(crate) fn settled(&self, node: u32, layer: usize) -> usize {
        // Few nodes are in the layers above.
        if layer == 0 { self.settled[node as usize].load(Ordering::Relaxed).into() } else { 0 }
    }

    /// Keeps that a node's first `count` neighbours were chosen together, nearest first.
    pub(crate) fn set_settled(&self, node: u32, layer: usize, count: usize) {
        if layer == 0 {
            // Fewer are no mistake, only more work.
            self.settled[node as usize].store(count.min(u8::MAX.into()) as u8, Ordering::Relaxed);
        }
    }

    /// Asks the processor to load a node's base list.
    #[inline]
    pub(crate) fn prefetch(&self, node: u32) {
        photondb_plugin_sdk::distance::prefetch(self.lines(node));
    }

    /// The memory that the lists take, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let upper: usize = self.upper.iter().map(|lists| size_of_val::<[AtomicU32]>(lists)).sum();
        self.base.capacity() * size_of::<Line>()
            + self.settled.capacity()
            + self.upper.capacity() * size_of::<Box<[AtomicU32]>>()
            + upper
    }

    fn lines(&self, node: u32) -> &[Line] {
        &self.base[node as usize * self.lines_per_node..][..self.lines_per_node]
    }

    fn upper_list(&self, node: u32, layer: usize) -> &[AtomicU32] {
        let lists = self.upper.get(node as usize);
        lists.and_then(|lists| lists.chunks_exact(self.limit(1)).nth(layer - 1)).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbours(links: &Links, node: u32, layer: usize) -> Vec<u32> {
        links.of(node, layer).collect()
    }

    #[test]
    fn lists_are_kept_apart() {
        let mut links = Links::new(Layers::Many { m: 10 });
        links.push(2);
        links.push(0);
        let twenty: Vec<u32> = (100..120).collect();
        links.set(0, 0, &twenty);
        links.set(0, 1, &twenty[..10]);
        links.set(0, 2, &[7]);
        links.set(1, 0, &[9]);
        assert_eq!(neighbours(&links, 0, 0), twenty);
        assert_eq!(neighbours(&links, 0, 1), twenty[..10]);
        assert_eq!(neighbours(&links, 0, 2), [7]);
        assert_eq!(neighbours(&links, 1, 0), [9]);
        assert!(neighbours(&links, 1, 1).is_empty());
        assert_eq!((links.top_layer(0), links.top_layer(1)), (2, 0));
    }

    #[test]
    fn a_shorter_list_hides_the_longer_one() {
        let mut links = Links::new(Layers::Many { m: 4 });
        links.push(0);
        links.set(0, 0, &[1, 2, 3]);
        links.set(0, 0, &[4]);
        assert_eq!(neighbours(&links, 0, 0), [4]);
        links.set(0, 0, &[0; 40]);
        assert_eq!(neighbours(&links, 0, 0).len(), 8);
        links.reset(0, 1);
        assert_eq!((neighbours(&links, 0, 0), links.top_layer(0)), (vec![], 1));
    }
}
