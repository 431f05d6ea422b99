//! What a list keeps of its rows besides their numbers.

use photondb_plugin_sdk::distance::{PartRows, Sketches};
use photondb_plugin_sdk::kinds::vector::Metric;

use crate::quantiser::Code;

/// The codes of the rows of a list, in its order.
#[derive(Debug)]
pub(crate) enum Codes {
    /// 4 bits a number, with bounds of what they leave out.
    Bounds(Sketches),
    /// The codes of a quantiser, with its number.
    Parts(PartRows, u32),
    /// None yet: there is no quantiser.
    None,
}

/// What is stored of a new row.
#[derive(Debug)]
pub(crate) enum NewCode {
    Vector(Vec<f32>),
    Parts(Code),
    None,
}

impl Codes {
    pub(crate) fn bounds(metric: Metric, dims: usize) -> Self {
        Self::Bounds(Sketches::new(metric, dims))
    }

    pub(crate) fn parts(parts: usize, number: u32) -> Self {
        Self::Parts(PartRows::new(parts), number)
    }

    /// Memory is taken for an eighth more, and at least a block: the lists are many, and doubling would waste half.
    fn make_room(&mut self) {
        match self {
            Self::Bounds(rows) if rows.len().is_multiple_of(Sketches::ROWS_OF_BLOCK) => {
                rows.reserve(rows.len() / 8 + 1)
            }
            Self::Parts(rows, _) if rows.len().is_multiple_of(PartRows::ROWS_OF_BLOCK) => {
                rows.reserve(rows.len() / 8 + 1)
            }
            _ => {}
        }
    }

    /// Appends a row, encoded for these codes.
    pub(crate) fn push(&mut self, code: &NewCode) {
        self.make_room();
        match (self, code) {
            (Self::Bounds(rows), NewCode::Vector(vector)) => rows.push(vector),
            (Self::Parts(rows, _), NewCode::Parts(code)) => rows.push(&code.codes, code.scale, code.bias),
            (Self::None, NewCode::None) => {}
            _ => unreachable!("a row is encoded for the list that it comes to"),
        }
    }

    /// Appends a row of other codes of the same sort.
    pub(crate) fn push_of(&mut self, other: &Self, row: usize) {
        self.make_room();
        match (self, other) {
            (Self::Bounds(rows), Self::Bounds(others)) => rows.push_of(others, row),
            (Self::Parts(rows, number), Self::Parts(others, other)) if number == other => {
                let mut codes = Vec::new();
                let (scale, bias) = others.get(row, &mut codes);
                rows.push(&codes, scale, bias);
            }
            (Self::None, Self::None) => {}
            _ => unreachable!("rows move between lists when all have codes of one quantiser"),
        }
    }

    /// Removes a row; the last one takes its place.
    pub(crate) fn swap_remove(&mut self, row: usize) {
        match self {
            Self::Bounds(rows) => rows.swap_remove(row),
            Self::Parts(rows, _) => rows.swap_remove(row),
            Self::None => {}
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Bounds(rows) => rows.memory_bytes(),
            Self::Parts(rows, _) => rows.memory_bytes(),
            Self::None => 0,
        }
    }
}
