//! Where walks start.
//!
//! With many layers that is a node of the highest. In a graph of one layer it is the medoid, the row that is nearest to the
//! mean of all (Subramanya et al.: DiskANN, 2019, section 2.3), found among a sample: every walk is about as long from
//! there. It is chosen anew whenever there are twice as many rows.

use std::sync::atomic::Ordering;

use photondb_plugin_sdk::column::VectorColumn;

use crate::Layers;
use crate::codes::Target;
use crate::encoder::{EncodeScratch, Encoder};
use crate::graph::Graph;

/// The most rows that a mean is taken of, and that the one nearest to it is looked for among.
pub(crate) const SAMPLE: usize = 4096;

impl Graph {
    /// Chooses the entry anew, if it is a matter of where the rows are, and these have become twice as many.
    pub(crate) fn follow_rows(&self, column: &VectorColumn) {
        let rows = self.live().count();
        let before = self.rows_at_entry.load(Ordering::Relaxed);
        let is_due = matches!(self.shape().layers, Layers::One { .. }) && rows >= 2 * before;
        // Of several threads one does it.
        if is_due && self.rows_at_entry.compare_exchange(before, rows, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.choose_entry(column);
        }
    }

    /// Makes the best node the entry; none if there is no row.
    pub(crate) fn choose_entry(&self, column: &VectorColumn) {
        self.rows_at_entry.store(self.live().count(), Ordering::Relaxed);
        self.set_entry(match self.shape().layers {
            Layers::Many { .. } => self.live_nodes().max_by_key(|&node| self.links().top_layer(node)),
            Layers::One { .. } => self.medoid(column).or_else(|| self.live_nodes().next()),
        });
    }

    /// The node nearest to the mean, of those that walks can leave.
    fn medoid(&self, column: &VectorColumn) -> Option<u32> {
        let step = self.live().count().div_ceil(SAMPLE).max(1);
        let is_linked = |&node: &u32| self.links().of(node, 0).next().is_some();
        let nodes: Vec<u32> = self.live_nodes().step_by(step).filter(is_linked).collect();
        let (metric, dims) = (self.shape().metric, self.shape().dims);
        let rows = nodes.iter().filter_map(|&node| column.row(self.row(node)));
        let mean = Encoder::fitted(metric, dims, rows);
        let (mut target, mut distances) = (Target::default(), Vec::new());
        self.encoder().encode_query(mean.centre(), &mut target, &mut EncodeScratch::default());
        self.codes().distances(&target, &nodes, &mut distances);
        let nearest = nodes.iter().zip(&distances).min_by(|a, b| a.1.total_cmp(b.1));
        nearest.map(|(&node, _)| node)
    }
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::column::Element;
    use photondb_plugin_sdk::kinds::vector::Metric;

    use super::*;
    use crate::graph::Shape;
    use crate::insert::LinkScratch;

    #[test]
    fn with_one_layer_walks_start_in_the_middle_and_go_on_doing_so() {
        let vectors: Vec<f32> = (0..800).flat_map(|row| [row as f32, 1.0]).collect();
        let column = VectorColumn::in_memory(2, Element::F32, &vectors).unwrap();
        let layers = Layers::One { degree: 8 };
        let shape = Shape { dims: 2, metric: Metric::L2, layers, build_width: 16, slack: 1.2 };
        let mut graph = Graph::new(shape, Encoder::new(Metric::L2, 2));
        let mut scratch = LinkScratch::default();
        for row in 0..800 {
            let encoded = Encoder::new(Metric::L2, 2);
            let encoded = encoded.encode(column.row(row).unwrap(), 2, &mut scratch.encode);
            let node = graph.add(row, &encoded).unwrap();
            graph.link(node, &mut scratch);
            graph.follow_rows(&column);
        }
        // It was chosen last when there were 512 rows.
        let entry = graph.row(graph.entry().unwrap());
        assert!((250..=262).contains(&entry), "{entry}");
        (0..400).for_each(|row| graph.remove(row));
        graph.lead_around_tombstones(&column, &mut scratch);
        let entry = graph.row(graph.entry().unwrap());
        assert!((590..=610).contains(&entry), "{entry}");
    }
}
