//! Greedy walks over the graph, on codes.

use crate::codes::Target;
use crate::graph::Graph;
use crate::links::Links;

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
    fresh: Vec<Candidate>,
    /// Where each of `fresh` belongs among the candidates.
    places: Vec<usize>,
    width: usize,
}

impl Pool {
    fn reset(&mut self, width: usize) {
        self.candidates.clear();
        self.width = width.max(1);
        self.candidates.reserve(self.width);
    }

    /// What a candidate has to be nearer than to be among the nearest.
    fn bound(&self) -> f32 {
        match self.candidates.last() {
            Some(last) if self.candidates.len() == self.width => last.distance,
            _ => f32::INFINITY,
        }
    }

    /// Takes those of the nodes that are among the nearest; they are `fresh` then, nearest first, and wait to be merged.
    /// Returns the place where the first of them will be, if there is any.
    #[inline]
    fn take(&mut self, nodes: &[u32], distances: &[f32]) -> Option<usize> {
        let bound = self.bound();
        let (fresh, places) = (&mut self.fresh, &mut self.places);
        fresh.resize(nodes.len(), Candidate::new(0.0, 0));
        let mut count = 0;
        // Written before it is known whether it counts, as in a walk.
        for ((&node, &distance), _) in nodes.iter().zip(distances).zip(0..fresh.len()) {
            fresh[count] = Candidate::new(distance, node);
            // A distance that is not a number does not get in either.
            count += usize::from(distance < bound);
        }
        fresh.truncate(count);
        fresh.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance));
        // All searches go over the pool as it is, so that the processor does several at once.
        let candidates = &self.candidates;
        let place = |new: &Candidate| candidates.partition_point(|other| other.distance <= new.distance);
        places.clear();
        places.extend(fresh.iter().map(place));
        places.first().copied()
    }

    /// Merges what was taken, moving every other candidate at most once.
    #[inline]
    fn merge(&mut self) {
        let Self { candidates, fresh, places, width } = self;
        let mut end = candidates.len();
        candidates.resize(end + fresh.len(), Candidate::new(0.0, 0));
        for (before, (&new, &place)) in fresh.iter().zip(&*places).enumerate().rev() {
            candidates.copy_within(place..end, place + before + 1);
            candidates[place + before] = new;
            end = place;
        }
        candidates.truncate(*width);
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

    /// Leaves the neighbours of a node that are seen for the first time in `new`.
    #[inline]
    fn keep_new(&mut self, links: &Links, node: u32, layer: usize, new: &mut Vec<u32>) {
        new.resize(links.limit(layer), 0);
        // Slices, which unlike vectors can't change their length meanwhile.
        let (epochs, epoch, places) = (&mut self.epochs[..], self.epoch, &mut new[..]);
        let mut count = 0;
        let mut see = |neighbour: u32| {
            // Written before it is known whether it counts: that is hard to foretell, and a wrong guess costs more.
            places[count] = neighbour;
            count += usize::from(std::mem::replace(&mut epochs[neighbour as usize], epoch) != epoch);
        };
        if layer == 0 {
            links.each_in_base(node, see);
        } else {
            links.of(node, layer).for_each(&mut see);
        }
        new.truncate(count);
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
        pool.take(&[start.node()], &[start.distance]);
        pool.merge();
        let mut next = 0;
        while let Some(candidate) = pool.candidates.get_mut(next) {
            let node = candidate.node();
            if candidate.is_expanded() {
                next += 1;
                continue;
            }
            candidate.tagged |= Candidate::EXPANDED;
            next += 1;
            visited.keep_new(self.links(), node, layer, nodes);
            nodes.iter().for_each(|&node| self.codes().prefetch(node));
            // Probably the next to be looked at; its list arrives while the distances are computed.
            if let Some(following) = pool.candidates.get(next) {
                self.links().prefetch(following.node());
            }
            self.codes().rough_distances(target, nodes, distances);
            if let Some(first) = pool.take(nodes, distances) {
                if first <= next {
                    self.links().prefetch(pool.fresh[0].node());
                    next = first;
                }
                pool.merge();
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
        let mut put = |distances: &[f32]| {
            let place = pool.take(&vec![0; distances.len()], distances);
            pool.merge();
            place
        };
        let batches: [&[f32]; 5] = [&[5.0], &[], &[3.0, 1.0], &[f32::NAN, 4.0, 2.0], &[3.0, f32::NAN]];
        assert_eq!(batches.map(&mut put), [Some(0), None, Some(0), Some(1), None]);
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
