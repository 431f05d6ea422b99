//! What the graph keeps of each vector.
//!
//! Vectors of many numbers are kept as numbers of 4 bits, in two halves: **walks go by the high halves alone**, two bits
//! a number, since the errors of so many numbers cancel out. What a walk found is put in order by both halves, and at
//! last by the vectors themselves. Vectors of few numbers have 8 bits for each, which walks and order go by alike.

use photondb_plugin_sdk::distance::{Code, CodeRows, DigitRows, prefetch};

use crate::encoder::{Encoded, Factors};

/// Vectors of up to so many numbers have 8 bits for each: two cache lines.
const MAX_DIMS_OF_BYTES: usize = 128;
/// So many nodes are measured at once.
const BLOCK: usize = 32;

/// Whether vectors of `dims` numbers are kept in halves.
pub(crate) fn are_halved(dims: usize) -> bool {
    dims > MAX_DIMS_OF_BYTES
}

/// What distances are measured from: a query or a node.
#[derive(Debug, Default)]
pub(crate) struct Target {
    pub(crate) code: Code,
    /// Minus the metric's weight times the scale of the code.
    pub(crate) factor: f32,
    pub(crate) bias: f32,
}

#[derive(Debug)]
enum Rows {
    /// Signed numbers of 8 bits.
    Bytes(CodeRows),
    /// Numbers `u` of 4 bits that stand for `2u - 15`.
    Halves { high: DigitRows, low: DigitRows },
}

/// The codes of all nodes.
#[derive(Debug)]
pub(crate) struct Codes {
    rows: Rows,
    factors: Vec<Factors>,
}

impl Codes {
    pub(crate) fn new(dims: usize) -> Self {
        let rows = if are_halved(dims) {
            Rows::Halves { high: DigitRows::new(dims), low: DigitRows::new(dims) }
        } else {
            Rows::Bytes(CodeRows::new(dims))
        };
        Self { rows, factors: Vec::new() }
    }

    pub(crate) fn reserve(&mut self, additional: usize) {
        self.factors.reserve_exact(additional);
        match &mut self.rows {
            Rows::Bytes(rows) => rows.reserve(additional),
            Rows::Halves { high, low } => {
                high.reserve(additional);
                low.reserve(additional);
            }
        }
    }

    /// Appends a node.
    pub(crate) fn push(&mut self, encoded: &Encoded<'_>) {
        self.factors.push(Factors::default());
        match &mut self.rows {
            Rows::Bytes(rows) => rows.push(&[]),
            Rows::Halves { high, low } => {
                high.push(&[]);
                low.push(&[]);
            }
        }
        self.set(self.factors.len() - 1, encoded);
    }

    /// Overwrites what is kept of a node.
    pub(crate) fn set(&mut self, node: usize, encoded: &Encoded<'_>) {
        self.factors[node] = encoded.factors;
        match &mut self.rows {
            Rows::Bytes(rows) => {
                let codes: Vec<i8> = encoded.codes.iter().map(|code| code.cast_signed()).collect();
                rows.set(node, &codes);
            }
            Rows::Halves { high, low } => {
                let digits: Vec<u8> = encoded.codes.iter().map(|code| code >> 2).collect();
                high.set(node, &digits);
                low.set(node, encoded.codes);
            }
        }
    }

    /// Leaves the distances from `target` to `nodes` that walks go by in `distances`.
    pub(crate) fn rough_distances(&self, target: &Target, nodes: &[u32], distances: &mut Vec<f32>) {
        self.measure(
            target,
            nodes,
            distances,
            |nodes, products| match &self.rows {
                Rows::Bytes(rows) => rows.dots(&target.code, nodes, products),
                Rows::Halves { high, .. } => high.dots(&target.code, nodes, products),
            },
            |factors| factors.rough_scale,
        );
    }

    /// Leaves the distances from `target` to `nodes`, as well as codes say them, in `distances`.
    pub(crate) fn distances(&self, target: &Target, nodes: &[u32], distances: &mut Vec<f32>) {
        self.measure(
            target,
            nodes,
            distances,
            |nodes, products| match &self.rows {
                Rows::Bytes(rows) => rows.dots(&target.code, nodes, products),
                Rows::Halves { high, low } => {
                    let mut rest = [0; BLOCK];
                    high.dots(&target.code, nodes, products);
                    low.dots(&target.code, nodes, &mut rest);
                    products.iter_mut().zip(rest).for_each(|(product, rest)| *product = 4 * *product + rest);
                }
            },
            |factors| factors.scale,
        );
    }

    #[inline]
    fn measure(
        &self,
        target: &Target,
        nodes: &[u32],
        distances: &mut Vec<f32>,
        products_of: impl Fn(&[u32], &mut [i32; BLOCK]),
        scale: impl Fn(Factors) -> f32,
    ) {
        distances.clear();
        for nodes in nodes.chunks(BLOCK) {
            let mut products = [0; BLOCK];
            products_of(nodes, &mut products);
            distances.extend(nodes.iter().zip(products).map(|(&node, product)| {
                let factors = self.factors[node as usize];
                target.factor * scale(factors) * product as f32 + (target.bias + factors.bias)
            }));
        }
    }

    /// Sets the code of `target` to that of a node, and returns the node's factors.
    pub(crate) fn code_of(&self, node: u32, target: &mut Target) -> Factors {
        match &self.rows {
            Rows::Bytes(rows) => target.code = rows.code_of_row(node),
            Rows::Halves { high, low } => DigitRows::code_of(high, low, node, &mut target.code),
        }
        self.factors[node as usize]
    }

    /// Asks the processor to load what walks go by.
    #[inline]
    pub(crate) fn prefetch(&self, node: u32) {
        match &self.rows {
            Rows::Bytes(rows) => rows.prefetch(node),
            Rows::Halves { high, .. } => high.prefetch(node),
        }
        prefetch(&self.factors[node as usize..=node as usize]);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let rows = match &self.rows {
            Rows::Bytes(rows) => rows.memory_bytes(),
            Rows::Halves { high, low } => high.memory_bytes() + low.memory_bytes(),
        };
        rows + self.factors.capacity() * size_of::<Factors>()
    }
}
