//! Greedy walks over the graph, on codes.

use crate::codes::Target;
use crate::graph::Graph;

/// A node with its walk distance. The highest bit of the number says whether its neighbours were looked at, so that a
/// candidate is 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) distance: f32,
    tagged: u32,
}

impl Candidate {
    const EXPANDED: u32 = 1 << 31;

    pub(crate) fn new(distance: f32, node: u32) -> Self {
        Self { distance, tagged: node }
    }

    pub(crate) fn node(self) -> u32 {
        self.tagged & !Self::EXPANDED
    }

    fn is_expanded(self) -> bool {
        self.tagged & Self::EXPANDED != 0
    }
}

/// The nearest candidates so far, nearest first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    candidates: Vec<Candidate>,
    width: usize,
}

impl Pool {
    fn reset(&mut self, width: usize) {
        self.candidates.clear();
        self.width = width.max(1);
        self.candidates.reserve(self.width);
    }

    /// Puts a candidate in its place, if it belongs to the nearest, and returns the place.
    #[inline]
    fn insert(&mut self, candidate: Candidate) -> Option<usize> {
        if self.candidates.len() == self.width {
            // Not `>=`: a distance that is not a number must not get in either.
            let is_nearer = self.candidates.last().is_some_and(|last| candidate.distance < last.distance);
            if !is_nearer {
                return None;
            }
            self.candidates.pop();
        }
        let at = self.candidates.partition_point(|other| other.distance <= candidate.distance);
        self.candidates.insert(at, candidate);
        Some(at)
    }

    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}

/// The nodes that a walk has seen. Forgetting them is one addition, but for every 255th time.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    epochs: Vec<u8>,
    epoch: u8,
}

impl Visited {
    /// Forgets all nodes, of which there are `nodes` now.
    pub(crate) fn reset(&mut self, nodes: usize) {
        self.epochs.resize(nodes, 0);
        self.epoch = self.epoch.checked_add(1).unwrap_or_else(|| {
            self.epochs.fill(0);
            1
        });
    }

    /// Whether the node is seen for the first time.
    #[inline]
    pub(crate) fn insert(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.epochs[node as usize], self.epoch) != self.epoch
    }
}

/// The working memory of a walk, kept between walks.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) pool: Pool,
    pub(crate) visited: Visited,
    pub(crate) nodes: Vec<u32>,
    pub(crate) distances: Vec<f32>,
}

impl Graph {
    /// Walks from the entry down to `layer`, in each layer above it to the node nearest to `target`, and returns the
    /// last one; `None` in an empty graph.
    pub(crate) fn descend(&self, target: &Target, layer: usize, scratch: &mut Scratch) -> Option<Candidate> {
        let entry = self.entry()?;
        let mut best = self.measure(target, entry);
        for layer in (layer + 1..=self.links().top_layer(entry)).rev() {
            loop {
                let before = best.node();
                scratch.nodes.clear();
                scratch.nodes.extend(self.links().of(before, layer));
                self.codes().rough_distances(target, &scratch.nodes, &mut scratch.distances);
                for (&node, &distance) in scratch.nodes.iter().zip(&scratch.distances) {
                    if distance < best.distance {
                        best = Candidate::new(distance, node);
                    }
                }
                if best.node() == before {
                    break;
                }
            }
        }
        Some(best)
    }

    /// Leaves the `width` nodes nearest to `target` that a walk from `start` finds in `scratch.pool`.
    pub(crate) fn walk(&self, target: &Target, start: Candidate, layer: usize, width: usize, scratch: &mut Scratch) {
        let Scratch { pool, visited, nodes, distances } = scratch;
        pool.reset(width);
        visited.reset(self.len());
        visited.insert(start.node());
        pool.insert(Candidate::new(start.distance, start.node()));
        let mut next = 0;
        while let Some(candidate) = pool.candidates.get_mut(next) {
            let node = candidate.node();
            if candidate.is_expanded() {
                next += 1;
                continue;
            }
            candidate.tagged |= Candidate::EXPANDED;
            next += 1;
            // Written before it is known whether it counts: that is hard to foretell, and a wrong guess costs more.
            nodes.resize(self.links().limit(layer), 0);
            let mut count = 0;
            let mut see = |neighbour| {
                nodes[count] = neighbour;
                count += usize::from(visited.insert(neighbour));
            };
            if layer == 0 {
                self.links().each_in_base(node, see);
            } else {
                self.links().of(node, layer).for_each(&mut see);
            }
            nodes.truncate(count);
            nodes.iter().for_each(|&node| self.codes().prefetch(node));
            // Probably the next to be looked at; its list arrives while the distances are computed.
            if let Some(following) = pool.candidates.get(next) {
                self.links().prefetch(following.node());
            }
            self.codes().rough_distances(target, nodes, distances);
            for (&node, &distance) in nodes.iter().zip(distances.iter()) {
                if let Some(at) = pool.insert(Candidate::new(distance, node)) {
                    if at <= next {
                        self.links().prefetch(node);
                    }
                    next = next.min(at);
                }
            }
        }
    }

    fn measure(&self, target: &Target, node: u32) -> Candidate {
        let mut distance = Vec::with_capacity(1);
        self.codes().rough_distances(target, &[node], &mut distance);
        Candidate::new(distance[0], node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_keeps_the_nearest_in_order() {
        let mut pool = Pool::default();
        pool.reset(3);
        let places: Vec<_> =
            [5.0, 1.0, 3.0, 4.0, 2.0, f32::NAN].map(|distance| pool.insert(Candidate::new(distance, 0))).into();
        assert_eq!(places, [Some(0), Some(0), Some(1), Some(2), Some(1), None]);
        assert_eq!(pool.candidates().iter().map(|candidate| candidate.distance).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn visited_nodes_are_forgotten_every_time() {
        let mut visited = Visited::default();
        for round in 0..600 {
            visited.reset(2 + round % 3);
            assert!(visited.insert(1));
            assert!(!visited.insert(1));
            assert!(visited.insert(0));
        }
    }
}
