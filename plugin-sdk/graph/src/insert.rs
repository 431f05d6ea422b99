//! Linking a node to its neighbours (Malkov, Yashunin: Efficient and robust approximate nearest neighbor search using
//! Hierarchical Navigable Small World graphs, algorithms 1 and 4; with one layer and a slack, which is there called alpha,
//! it is the insertion and the RobustPrune of FreshDiskANN: Singh et al., 2021, algorithms 2 and 3).

use photondb_plugin_sdk::kinds::vector::Metric;

use crate::codes::Target;
use crate::encoder::EncodeScratch;
use crate::graph::Graph;
use crate::walk::{Candidate, Scratch};

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
    /// Distances with places in `back`.
    ranked: Vec<(f32, usize)>,
    /// Distances from some nodes to all of `back`.
    between: Vec<f32>,
    /// Places in `back` that were chosen.
    chosen_settled: Vec<usize>,
    chosen_newer: Vec<usize>,
}

impl Graph {
    /// Links a node with its neighbours in each of its layers, both ways. Several threads may link nodes at once.
    pub(crate) fn link(&self, node: u32, scratch: &mut LinkScratch) {
        let top = self.links().top_layer(node);
        let mut linking = self.recent().begin(node);
        if self.entry().is_none() {
            self.offer_entry(node);
        }
        let Some(entry) = self.entry().filter(|&entry| entry != node) else { return };
        let entry_top = self.links().top_layer(entry);
        let mut target = std::mem::take(&mut scratch.goal);
        self.target_node(node, &mut target);
        if let Some(mut start) = self.descend(&target, top, &mut scratch.walk) {
            for layer in (0..=top.min(entry_top)).rev() {
                let (walk, back) = (&mut scratch.walk, &mut scratch.back);
                self.walk(&target, start, layer, self.shape().build_width, walk);
                if linking.others().is_none() {
                    // The thread was held up, and the graph is another one by now.
                    linking = self.recent().begin(node);
                    self.walk(&target, start, layer, self.shape().build_width, walk);
                }
                let found = walk.pool.candidates();
                if let Some(&nearest) = found.first() {
                    start = nearest;
                }
                back.clear();
                back.extend(found.iter().map(|other| other.node()));
                for other in linking.others().into_iter().flatten() {
                    if self.links().top_layer(other) >= layer && !back.contains(&other) {
                        back.push(other);
                    }
                }
                back.retain(|&other| other != node && self.is_live(other));
                self.choose_among_back(node, layer, scratch);
                let chosen = std::mem::take(&mut scratch.chosen);
                // Others that are linked now may have this node in their lists already, and themselves in its.
                let lock = self.lock_lists(node);
                let before: Vec<u32> = self.links().of(node, layer).collect();
                self.set_chosen(node, layer, &chosen);
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
        let limit = self.links().limit(layer);
        if scratch.back.len() <= limit {
            self.links().set(neighbour, layer, &scratch.back);
            return;
        }
        let settled = self.links().settled(neighbour, layer);
        self.choose_among_newer(neighbour, limit, settled, scratch);
        self.set_chosen(neighbour, layer, &scratch.chosen);
    }

    /// Replaces the neighbours of a node by what was [chosen](Self::choose).
    pub(crate) fn set_chosen(&self, node: u32, layer: usize, chosen: &[u32]) {
        self.links().set(node, layer, chosen);
        self.links().set_settled(node, layer, chosen.len());
    }

    /// Chooses neighbours of a node among `scratch.back`: as many as the layer allows, not half of them, which finds more at
    /// equal speed.
    fn choose_among_back(&self, node: u32, layer: usize, scratch: &mut LinkScratch) {
        let back = std::mem::take(&mut scratch.back);
        self.measure_candidates(node, &back, scratch);
        scratch.back = back;
        self.choose(self.links().limit(layer), scratch);
    }

    /// Leaves what [`choose`](Self::choose) would leave of `scratch.back` in `scratch.chosen`, for a list whose first
    /// `settled` neighbours were chosen before. Those need not be compared with each other again, but only with the newer
    /// ones, which are few.
    fn choose_among_newer(&self, node: u32, limit: usize, settled: usize, scratch: &mut LinkScratch) {
        let LinkScratch { back, chosen, target, distances, ranked, between, chosen_settled, chosen_newer, .. } =
            scratch;
        self.target_node(node, target);
        self.codes().distances(target, back, distances);
        ranked.clear();
        ranked.extend(distances.iter().zip(0..).map(|(&distance, at)| (distance, at)));
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        // From each newer one to all.
        between.clear();
        for &newer in &back[settled..] {
            self.target_node(newer, target);
            self.codes().distances(target, back, distances);
            between.extend_from_slice(distances);
        }
        let slack = self.slack();
        let hides =
            |newer: usize, other: usize, distance| slack * between[(newer - settled) * back.len() + other] < distance;
        chosen.clear();
        chosen_settled.clear();
        chosen_newer.clear();
        for &(distance, at) in &*ranked {
            let is_newer = at >= settled;
            let is_behind = chosen_newer.iter().any(|&newer| hides(newer, at, distance))
                || is_newer && chosen_settled.iter().any(|&other| hides(at, other, distance));
            if !is_behind && chosen.len() < limit {
                chosen.push(back[at]);
                if is_newer { &mut *chosen_newer } else { &mut *chosen_settled }.push(at);
            }
        }
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
        let slack = self.slack();
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

    /// How much nearer to a chosen neighbour than to the node a candidate has to be to be left out.
    fn slack(&self) -> f32 {
        match self.shape().metric {
            Metric::Cosine | Metric::L2 => self.shape().slack,
            // A factor means nothing where distances may be negative.
            Metric::Dot => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::column::VectorRef;

    use super::*;
    use crate::Layers;
    use crate::encoder::Encoder;
    use crate::graph::{Shape, mixed};

    #[test]
    fn a_list_that_was_chosen_before_is_chosen_from_as_one_that_was_not() {
        let (dims, nodes) = (16, 300_u32);
        let shape = Shape { dims, metric: Metric::L2, layers: Layers::Many { m: 16 }, build_width: 64, slack: 1.05 };
        let mut graph = Graph::new(shape, Encoder::new(Metric::L2, dims));
        let mut scratch = LinkScratch::default();
        for node in 0..nodes {
            let number = |at: u64| (mixed(u64::from(node) * 16 + at) % 1000) as f32;
            let vector: Vec<f32> = (0..16).map(number).collect();
            let encoded = graph.encoder().encode(VectorRef::F32(&vector), dims, &mut scratch.encode);
            graph.add(node, &encoded);
        }
        for node in 0..10 {
            let choose = |graph: &Graph, nodes: &[u32], scratch: &mut LinkScratch| {
                graph.measure_candidates(node, nodes, scratch);
                graph.choose(32, scratch);
                scratch.chosen.clone()
            };
            let mut list = choose(&graph, &(10..200).collect::<Vec<_>>(), &mut scratch);
            let settled = list.len();
            list.extend(200..215 + node);
            let expected = choose(&graph, &list, &mut scratch);
            scratch.back.clone_from(&list);
            graph.choose_among_newer(node, 32, settled, &mut scratch);
            assert_eq!(scratch.chosen, expected);
            assert!(settled > 5 && expected != list);
        }
    }
}
