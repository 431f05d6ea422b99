//! Linking a node to its neighbours (Malkov, Yashunin: Efficient and robust approximate nearest neighbor search using
//! Hierarchical Navigable Small World graphs, algorithms 1 and 4).

use photondb_plugin_sdk::kinds::vector::Metric;

use crate::codes::Target;
use crate::encoder::EncodeScratch;
use crate::graph::Graph;
use crate::walk::{Candidate, Scratch};

/// How much nearer to a chosen neighbour than to the node a candidate has to be, for cosine and L2. On text embeddings
/// (41,790 x 384, cosine) the queries that find 0.98 of the nearest rows are 1.1 times as many a second as with 1, and
/// building takes 1.4 times as long; from 1.1 on both get worse.
const SLACK: f32 = 1.05;

/// The working memory of changes to links.
#[derive(Debug, Default)]
pub(crate) struct LinkScratch {
    pub(crate) walk: Scratch,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) chosen: Vec<u32>,
    back: Vec<u32>,
    goal: Target,
    pub(crate) encode: EncodeScratch,
    target: Target,
    nodes: Vec<u32>,
    distances: Vec<f32>,
}

impl Graph {
    /// Links a node with its neighbours in each of its layers, both ways. Several threads may link nodes at once.
    pub(crate) fn link(&self, node: u32, scratch: &mut LinkScratch) {
        let top = self.links().top_layer(node);
        if self.entry().is_none() {
            self.offer_entry(node);
        }
        let Some(entry) = self.entry().filter(|&entry| entry != node) else { return };
        let entry_top = self.links().top_layer(entry);
        let mut target = std::mem::take(&mut scratch.goal);
        self.target_node(node, &mut target);
        if let Some(mut start) = self.descend(&target, top, &mut scratch.walk) {
            for layer in (0..=top.min(entry_top)).rev() {
                self.walk(&target, start, layer, self.shape().ef_construction, &mut scratch.walk);
                let found = scratch.walk.pool.candidates();
                if let Some(&nearest) = found.first() {
                    start = nearest;
                }
                let others = found.iter().map(|other| other.node());
                scratch.back.clear();
                scratch.back.extend(others.filter(|&other| other != node && self.is_live(other)));
                self.choose_among_back(node, layer, scratch);
                let chosen = std::mem::take(&mut scratch.chosen);
                // Others that are linked now may have this node in their lists already, and themselves in its.
                let lock = self.lock_lists(node);
                let before: Vec<u32> = self.links().of(node, layer).collect();
                self.links().set(node, layer, &chosen);
                drop(lock);
                before.into_iter().for_each(|other| self.link_back(node, other, layer, scratch));
                chosen.iter().for_each(|&neighbour| self.link_back(neighbour, node, layer, scratch));
                scratch.chosen = chosen;
            }
        }
        scratch.goal = target;
        self.offer_entry(node);
    }

    /// Adds `node` to the neighbours of `neighbour`; where they are too many then, chooses among them.
    fn link_back(&self, neighbour: u32, node: u32, layer: usize, scratch: &mut LinkScratch) {
        let _lock = self.lock_lists(neighbour);
        scratch.back.clear();
        scratch.back.extend(self.links().of(neighbour, layer));
        if scratch.back.contains(&node) {
            return;
        }
        scratch.back.push(node);
        if scratch.back.len() <= self.links().limit(layer) {
            self.links().set(neighbour, layer, &scratch.back);
            return;
        }
        self.choose_among_back(neighbour, layer, scratch);
        self.links().set(neighbour, layer, &scratch.chosen);
    }

    /// Chooses neighbours of a node among `scratch.back`: as many as the layer allows, not `m` of them, which finds more at
    /// equal speed.
    fn choose_among_back(&self, node: u32, layer: usize, scratch: &mut LinkScratch) {
        let back = std::mem::take(&mut scratch.back);
        self.measure_candidates(node, &back, scratch);
        scratch.back = back;
        self.choose(self.links().limit(layer), scratch);
    }

    /// Leaves `nodes` with their distances from `node`, nearest first, in `scratch.candidates`.
    pub(crate) fn measure_candidates(&self, node: u32, nodes: &[u32], scratch: &mut LinkScratch) {
        let LinkScratch { candidates, target, distances, .. } = scratch;
        self.target_node(node, target);
        self.codes().distances(target, nodes, distances);
        candidates.clear();
        candidates.extend(nodes.iter().zip(distances).map(|(&node, &mut distance)| Candidate::new(distance, node)));
        candidates.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance));
    }

    /// Leaves up to `limit` of `scratch.candidates`, which are ordered by distance and used up, in `scratch.chosen`.
    ///
    /// A candidate that is nearer to a chosen one than to the node itself is left out: the way to it leads through the
    /// other. That keeps edges in all directions, where the nearest nodes alone might all lie in one cluster.
    pub(crate) fn choose(&self, limit: usize, scratch: &mut LinkScratch) {
        let LinkScratch { candidates, chosen, target, nodes, distances, .. } = scratch;
        let slack = match self.shape().metric {
            Metric::Cosine | Metric::L2 => SLACK,
            // A factor means nothing where distances may be negative.
            Metric::Dot => 1.0,
        };
        chosen.clear();
        while chosen.len() < limit && !candidates.is_empty() {
            let nearest = candidates.remove(0).node();
            chosen.push(nearest);
            nodes.clear();
            nodes.extend(candidates.iter().map(|candidate| candidate.node()));
            self.target_node(nearest, target);
            self.codes().distances(target, nodes, distances);
            let mut from_nearest = distances.iter();
            candidates
                .retain(|candidate| from_nearest.next().is_none_or(|&distance| slack * distance >= candidate.distance));
        }
    }
}
