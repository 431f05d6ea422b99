//! Graphs over vectors that the server owns: what PhotonDB's indexes of that family have in common.
//!
//! An index type says how its graphs are to be, and has all else from here: codes that walks go by, exact scores at the
//! end, filters, parallel insertion, repair after rows were removed, and the saved form.
//!
//! ```
//! use std::sync::Arc;
//!
//! use photondb_graph::{Family, GraphIndex, Layers, Plan};
//! use photondb_plugin_sdk::column::{Element, VectorColumn};
//! use photondb_plugin_sdk::indexing::Setting;
//! use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, VectorIndex};
//! use photondb_plugin_sdk::Datum;
//!
//! static FLAT: Family =
//!     Family { name: "flat", mark: *b"FLATFLAT", search_width: Setting::whole("width", "width", 1..=1000) };
//!
//! let plan = Plan { layers: Layers::One { degree: 32 }, build_width: 100, slack: 1.2, search_width: 50 };
//! let column = Arc::new(VectorColumn::in_memory(2, Element::F32, &[0.0, 1.0, 1.0, 0.0])?);
//! let options = IndexOptions { dims: 2, metric: Metric::L2, settings: Datum::Null };
//! let index = GraphIndex::new(&FLAT, &options, plan, column)?;
//! index.insert(&[0, 1])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The vectors stay in the server's column, which this reads in place. What it owns is a graph and, for each row, a
//! code of few bits a number: walks go by codes, and the best candidates are scored again exactly. Searches go on while
//! rows come and go.
//!
//! | module | what it does |
//! |---|---|
//! | `plugin` | a plugin for one index type, which adds what users may set |
//! | `index` | the index that the server sees; locks |
//! | `search` | one search: walk or scan, then exact scores |
//! | `graph`, `codes`, `links` | nodes, codes, neighbours |
//! | `walk`, `entry` | greedy walks, and where they start |
//! | `insert`, `recent`, `repair` | linking new nodes, several at once; leading around removed ones |
//! | `encoder`, `rotation` | vectors as codes |
//! | `format` | the saved form |

#![forbid(unsafe_code)]

mod codes;
mod encoder;
mod entry;
mod format;
mod graph;
mod index;
mod insert;
mod links;
mod plugin;
mod recent;
mod repair;
mod rotation;
mod search;
mod walk;

use photondb_plugin_sdk::indexing::Setting;

pub use crate::index::GraphIndex;
pub use crate::plugin::{GraphPlugin, Settings};

/// An index type whose indexes are graphs.
#[derive(Debug)]
pub struct Family {
    /// Its name, as in `vector={"type": NAME}`.
    pub name: &'static str,
    /// The first bytes of its saved indexes, so that no other type reads them.
    pub mark: [u8; 8],
    /// The one setting of a search: how many candidates it keeps.
    pub search_width: Setting,
}

/// How a graph is built and searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// How many layers there are, and how many neighbours a node may have in them.
    pub layers: Layers,
    /// Candidates that are looked at to find the neighbours of a new node.
    pub build_width: usize,
    /// How much nearer to a chosen neighbour than to the node a candidate has to be to be left out, at least 1: the larger,
    /// the more long edges. Counts for cosine and squared L2 distances; for `dot` it is 1, since a factor means nothing
    /// where distances may be negative.
    pub slack: f32,
    /// Candidates that a search keeps which says nothing.
    pub search_width: usize,
}

/// The layers of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// As many as the rows make likely, each with one of `m` nodes of the layer below. A node has up to `m` neighbours,
    /// 2 to 128, in the base layer twice as many. Walks start in the highest layer.
    Many {
        /// Neighbours in the layers above the base.
        m: usize,
    },
    /// One alone, where a node has up to `degree` neighbours, 2 to 255. Walks start at a row in the middle.
    One {
        /// Neighbours of a node.
        degree: usize,
    },
}

impl Layers {
    /// How many neighbours a node may have in a layer.
    #[inline]
    pub(crate) fn limit(self, layer: usize) -> usize {
        match self {
            Self::Many { m } if layer == 0 => 2 * m,
            Self::Many { m } => m,
            Self::One { degree } => degree,
        }
    }

    /// The highest layer that a node may be in.
    pub(crate) fn highest(self) -> usize {
        match self {
            Self::Many { .. } => graph::MAX_LAYER,
            Self::One { .. } => 0,
        }
    }

    /// The number that it is made with.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Many { m: number } | Self::One { degree: number } => number,
        }
    }
}
