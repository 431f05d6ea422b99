//! A fixed rotation that spreads what a vector says evenly over all its numbers, so that a few bits for each of them
//! lose little, whatever the vectors are like: one number that is much larger than the others would take all bits.
//!
//! Random signs, then Hadamard transforms of the first and of the last `n` numbers, where `n` is the largest power of two
//! that fits; all of it twice. (The "fast Johnson-Lindenstrauss" rotation of Ailon and Chazelle, 2009, for any length.)

use photondb_plugin_sdk::distance::hadamard;

const ROUNDS: usize = 2;

/// A rotation of vectors of one length.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotation {
    /// A sign for each number and round.
    signs: Vec<f32>,
    block: usize,
}

impl Rotation {
    /// The rotation of vectors of `dims` numbers, the same one every time.
    pub(crate) fn new(dims: usize) -> Self {
        let sign = |at: u64| if crate::graph::mixed(at) & 1 == 0 { 1.0 } else { -1.0 };
        let block = if dims == 0 { 0 } else { 1 << dims.ilog2() };
        Self { signs: (0..(ROUNDS * dims) as u64).map(sign).collect(), block }
    }

    /// Rotates a vector of the length that this was made for.
    pub(crate) fn apply(&self, vector: &mut [f32]) {
        let rest = vector.len() - self.block;
        for signs in self.signs.chunks_exact(vector.len().max(1)) {
            vector.iter_mut().zip(signs).for_each(|(value, sign)| *value *= sign);
            hadamard(&mut vector[..self.block]);
            // With no rest the second would undo the first.
            if rest > 0 {
                hadamard(&mut vector[rest..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::distance::norm_squared;

    use super::*;

    #[test]
    fn lengths_stay_and_every_number_gets_its_share() {
        for dims in [1, 2, 3, 64, 100, 384, 1536] {
            let rotation = Rotation::new(dims);
            for at in [0, dims / 2, dims - 1] {
                let mut vector = vec![0.0; dims];
                vector[at] = 1.0;
                rotation.apply(&mut vector);
                assert!((norm_squared(&vector) - 1.0).abs() < 1e-4, "{dims}");
                let largest = vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                assert!(dims < 64 || largest < 0.5, "{dims}: {largest}");
            }
        }
    }
}
