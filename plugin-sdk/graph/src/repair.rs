//! Leading all paths around tombstones, after the delete consolidation of FreshDiskANN (Singh et al., 2021, algorithm 4),
//! so that removed rows cost no recall and their nodes can be used again.

use photondb_plugin_sdk::column::VectorColumn;

use crate::Layers;
use crate::graph::Graph;
use crate::insert::LinkScratch;

impl Graph {
    /// How many tombstones there may be before they are worth a repair: a fifth of the rows. More would slow searches
    /// down, and a graph that loses more at once may fall apart.
    pub(crate) fn tolerable_tombstones(&self) -> usize {
        (self.live().count() / 5).max(64)
    }

    /// Makes every list free of tombstones, while searches go on. They may be freed then.
    pub(crate) fn lead_around_tombstones(&self, column: &VectorColumn, scratch: &mut LinkScratch) {
        for node in self.live_nodes() {
            for layer in 0..=self.links().top_layer(node) {
                self.lead_around(node, layer, scratch);
            }
        }
        let is_central = matches!(self.shape().layers, Layers::One { .. });
        if is_central || self.entry().is_none_or(|entry| !self.is_live(entry)) {
            self.choose_entry(column);
        }
        for node in self.unreachable() {
            self.link(node, scratch);
        }
    }

    /// Replaces the tombstones among a node's neighbours by the tombstones' own neighbours, as far as there is room.
    fn lead_around(&self, node: u32, layer: usize, scratch: &mut LinkScratch) {
        if self.links().of(node, layer).all(|neighbour| self.is_live(neighbour)) {
            return;
        }
        let mut around = Vec::with_capacity(4 * self.links().limit(layer));
        scratch.walk.visited.reset(self.len());
        scratch.walk.visited.insert(node);
        for neighbour in self.links().of(node, layer) {
            if self.is_live(neighbour) {
                if scratch.walk.visited.insert(neighbour) {
                    around.push(neighbour);
                }
            } else {
                let behind = self.links().of(neighbour, layer);
                around.extend(behind.filter(|&other| self.is_live(other) && scratch.walk.visited.insert(other)));
            }
        }
        self.measure_candidates(node, &around, scratch);
        self.choose(self.links().limit(layer), scratch);
        self.set_chosen(node, layer, &scratch.chosen);
    }

    /// The live nodes that no path leads to from the entry. The only one may have been through a tombstone.
    fn unreachable(&self) -> Vec<u32> {
        let mut is_reached = vec![false; self.len()];
        let mut open: Vec<u32> = self.entry().into_iter().collect();
        open.iter().for_each(|&node| is_reached[node as usize] = true);
        while let Some(node) = open.pop() {
            for neighbour in self.links().of(node, 0) {
                if !std::mem::replace(&mut is_reached[neighbour as usize], true) {
                    open.push(neighbour);
                }
            }
        }
        self.live_nodes().filter(|&node| !is_reached[node as usize]).collect()
    }
}
