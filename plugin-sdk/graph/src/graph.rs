//! The graph: which rows are in it, their codes, and their neighbours.
//!
//! A row gets a **node**, a small number that is used again after the row is gone; rows are never renumbered. A removed
//! row's node stays as a waypoint (a tombstone) until `repair` leads all paths around it and frees it.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use photondb_plugin_sdk::indexing::RowSet;
use photondb_plugin_sdk::kinds::vector::{Metric, RowId};

use crate::Layers;
use crate::codes::{Codes, Target};
use crate::encoder::{Encoded, Encoder};
use crate::links::{Links, NONE};
use crate::recent::Recent;

/// No node is in a higher layer; with `m = 2` about one of 65,536 would be.
pub(crate) const MAX_LAYER: usize = 16;
/// The highest bit of a node's number is a mark in candidates.
const MAX_NODES: usize = 1 << 31;
/// Enough that two threads seldom want the same one.
const LOCKS: usize = 256;

/// What a graph is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) dims: usize,
    pub(crate) metric: Metric,
    pub(crate) layers: Layers,
    pub(crate) build_width: usize,
    pub(crate) slack: f32,
}

/// A graph over rows of a column. Links change through a shared reference, while others search; all else needs an
/// exclusive one.
#[derive(Debug)]
pub(crate) struct Graph {
    shape: Shape,
    encoder: Encoder,
    codes: Codes,
    links: Links,
    /// By node: its row; [`NONE`] where the node is free.
    rows: Vec<RowId>,
    /// By row: its node, or [`NONE`].
    nodes: Vec<u32>,
    live: RowSet,
    free: Vec<u32>,
    /// Where walks start, or [`NONE`].
    entry: AtomicU32,
    /// How many rows there were when the entry was [chosen](crate::entry).
    pub(crate) rows_at_entry: AtomicUsize,
    /// Held to change a node's lists; each is for many nodes.
    locks: Box<[Mutex<()>]>,
    recent: Recent,
}

impl Graph {
    pub(crate) fn new(shape: Shape, encoder: Encoder) -> Self {
        Self {
            shape,
            encoder,
            codes: Codes::new(shape.dims),
            links: Links::new(shape.layers),
            rows: Vec::new(),
            nodes: Vec::new(),
            live: RowSet::default(),
            free: Vec::new(),
            entry: AtomicU32::new(NONE),
            rows_at_entry: AtomicUsize::new(0),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            recent: Recent::default(),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub(crate) fn codes(&self) -> &Codes {
        &self.codes
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn live(&self) -> &RowSet {
        &self.live
    }

    /// How many nodes there are, tombstones and free ones included.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many removed rows still have a node.
    pub(crate) fn tombstones(&self) -> usize {
        self.rows.len() - self.free.len() - self.live.count()
    }

    /// The row of a node that is not free.
    pub(crate) fn row(&self, node: u32) -> RowId {
        self.rows[node as usize]
    }

    /// Whether the node's row can be found.
    pub(crate) fn is_live(&self, node: u32) -> bool {
        self.live.contains(self.rows[node as usize])
    }

    /// The node of a row, a tombstone's included.
    pub(crate) fn node(&self, row: RowId) -> Option<u32> {
        self.nodes.get(row as usize).copied().filter(|&node| node != NONE)
    }

    /// The nodes whose rows can be found.
    pub(crate) fn live_nodes(&self) -> impl Iterator<Item = u32> {
        (0..self.len() as u32).filter(|&node| self.is_live(node))
    }

    pub(crate) fn entry(&self) -> Option<u32> {
        Some(self.entry.load(Ordering::Relaxed)).filter(|&node| node != NONE)
    }

    pub(crate) fn set_entry(&self, node: Option<u32>) {
        self.entry.store(node.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// Makes a node that is linked in all its layers the entry, if it is in a higher one than the present entry.
    pub(crate) fn offer_entry(&self, node: u32) {
        let is_higher = |entry| entry == NONE || self.links.top_layer(node) > self.links.top_layer(entry);
        // An error says that the present entry is at least as high.
        let _ = self.entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |entry| is_higher(entry).then_some(node));
    }

    /// Locks the lists of a node against other changes, though not against being read.
    pub(crate) fn lock_lists(&self, node: u32) -> MutexGuard<'_, ()> {
        // The lock guards no data that a panic could have left half changed: a list is valid at any time.
        self.locks[node as usize % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes that are being linked.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Makes `target` of a node.
    pub(crate) fn target_node(&self, node: u32, target: &mut Target) {
        let factors = self.codes.code_of(node, target);
        (target.factor, target.bias) = (-self.encoder.weight() * factors.scale, factors.bias);
    }

    /// Makes room, so that `additional` rows can be added quickly.
    pub(crate) fn reserve(&mut self, additional: usize) {
        // A quarter more than there is, rather than twice as much: the index shares a memory limit with its searches.
        let wanted = additional.saturating_sub(self.free.len());
        if self.rows.capacity() - self.rows.len() >= wanted {
            return;
        }
        let wanted = wanted.max(self.rows.len() / 4);
        self.codes.reserve(wanted);
        self.links.reserve(wanted);
        self.rows.reserve_exact(wanted);
    }

    /// Gives a row that has no node a node without neighbours; `None` when there are too many.
    pub(crate) fn add(&mut self, row: RowId, encoded: &Encoded<'_>) -> Option<u32> {
        let top = match self.shape.layers {
            Layers::Many { m } => top_layer_of(row, m),
            Layers::One { .. } => 0,
        };
        self.add_to_layers(row, encoded, top)
    }

    /// As [`add`](Self::add), with a given highest layer.
    pub(crate) fn add_to_layers(&mut self, row: RowId, encoded: &Encoded<'_>, top: usize) -> Option<u32> {
        let node = if let Some(node) = self.free.pop() {
            self.codes.set(node as usize, encoded);
            self.rows[node as usize] = row;
            self.links.reset(node, top);
            node
        } else {
            let node = u32::try_from(self.rows.len()).ok().filter(|_| self.rows.len() < MAX_NODES)?;
            self.codes.push(encoded);
            self.rows.push(row);
            self.links.push(top);
            node
        };
        if self.nodes.len() <= row as usize {
            self.nodes.resize(row as usize + 1, NONE);
        }
        self.nodes[row as usize] = node;
        self.live.insert(row);
        Some(node)
    }

    /// Lets a removed row that still has its node be found again.
    pub(crate) fn revive(&mut self, row: RowId) {
        if self.node(row).is_some() {
            self.live.insert(row);
        }
    }

    /// Turns a row's node into a tombstone.
    pub(crate) fn remove(&mut self, row: RowId) {
        self.live.remove(row);
    }

    /// The nodes of removed rows.
    pub(crate) fn tombstone_nodes(&self) -> Vec<u32> {
        let is_tombstone = |&node: &u32| self.row(node) != NONE && !self.is_live(node);
        (0..self.len() as u32).filter(is_tombstone).collect()
    }

    /// Frees a tombstone. No list may lead to it.
    pub(crate) fn free(&mut self, node: u32) {
        let row = std::mem::replace(&mut self.rows[node as usize], NONE);
        self.nodes[row as usize] = NONE;
        self.links.reset(node, 0);
        self.free.push(node);
    }

    /// Replaces the encoder, and with it what is kept of each row, as `codes`: those of every node.
    pub(crate) fn encode_again(&mut self, encoder: Encoder, codes: Codes) {
        self.encoder = encoder;
        self.codes = codes;
    }

    /// The memory that the graph takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.codes.memory_bytes()
            + self.links.memory_bytes()
            + (self.rows.capacity() + self.nodes.capacity() + self.free.capacity()) * size_of::<u32>()
            + self.live.memory_bytes()
    }
}

/// The highest layer of a row: layer `l` has a share of `m^-l` of all rows. Drawn from the row's number, so that an
/// index which is built again is the same one.
pub(crate) fn top_layer_of(row: RowId, m: usize) -> usize {
    let bits = mixed(u64::from(row));
    // In (0, 1].
    let uniform = ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    ((-uniform.ln() / (m as f64).ln()) as usize).min(MAX_LAYER)
}

/// Bits that look random: the finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
pub(crate) fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Factors;

    #[test]
    fn layers_thin_out_by_m() {
        let rows = 100_000;
        let above = |layer| (0..rows).filter(|&row| top_layer_of(row, 16) >= layer).count() as f64;
        assert!((above(1) / f64::from(rows) - 1.0 / 16.0).abs() < 0.005);
        assert!((above(2) / f64::from(rows) - 1.0 / 256.0).abs() < 0.001);
        assert!((0..rows).all(|row| top_layer_of(row, 2) <= MAX_LAYER));
    }

    #[test]
    fn nodes_are_used_again() {
        let shape = Shape { dims: 2, metric: Metric::L2, layers: Layers::Many { m: 4 }, build_width: 8, slack: 1.0 };
        let mut graph = Graph::new(shape, Encoder::new(Metric::L2, 2));
        let add =
            |graph: &mut Graph, row| graph.add(row, &Encoded { codes: &[1, 2], factors: Factors::default() }).unwrap();
        assert_eq!([add(&mut graph, 5), add(&mut graph, 6)], [0, 1]);
        graph.remove(5);
        assert_eq!((graph.tombstones(), graph.live().count(), graph.node(5)), (1, 1, Some(0)));
        assert_eq!(graph.tombstone_nodes(), [0]);
        graph.free(0);
        assert_eq!((graph.tombstones(), graph.node(5)), (0, None));
        assert_eq!(add(&mut graph, 7), 0);
        assert_eq!((graph.len(), graph.row(0)), (2, 7));
    }
}
