//! The Jaccard distance of sets: the share of what is in either that is not in both.

use photondb_plugin_sdk::prelude::*;

use crate::only_option;

/// `jaccard`: of vectors of 0 and 1, a number for each thing that may be in a set. Any number but 0 counts as 1.
///
/// The cosine of such vectors, `n / sqrt(a b)` of two sets of `a` and `b` things of which `n` are in both, grows with the
/// share `n / (a + b - n)` where the sets are about as large, so it finds candidates; they are measured.
#[derive(Clone, Copy, Debug)]
pub struct Jaccard;

impl DistancePlugin for Jaccard {
    fn name(&self) -> &str {
        "jaccard"
    }

    fn prepare(&self, dims: usize, options: &Datum) -> Result<Box<dyn Distance>, PluginError> {
        match only_option(options, "", "`jaccard` has no options")? {
            None => Ok(Box::new(Sets { dims })),
            Some(_) => Err(PluginError::argument("`jaccard` has no options")),
        }
    }
}

struct Sets {
    dims: usize,
}

impl Distance for Sets {
    fn traits(&self) -> Traits {
        Traits { is_exact: false, is_triangular: true, is_normalised: true, ..Traits::of(Metric::Cosine, self.dims) }
    }

    fn measure(&self, query: &[f32], rows: &[f32], distances: &mut [f32]) {
        for (row, distance) in rows.chunks_exact(self.dims).zip(distances) {
            *distance = jaccard(query, row);
        }
    }
}

/// Two empty sets are the same set.
fn jaccard(a: &[f32], b: &[f32]) -> f32 {
    // Without a branch, so that it becomes vector code.
    let count = |(both, either): (u32, u32), (a, b): (&f32, &f32)| {
        let (a, b) = (*a != 0.0, *b != 0.0);
        (both + u32::from(a & b), either + u32::from(a | b))
    };
    let (both, either) = a.iter().zip(b).fold((0, 0), count);
    if either == 0 { 0.0 } else { (either - both) as f32 / either as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_the_share_that_is_not_common() {
        for (a, b, expected) in [
            ([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], 0.0),
            ([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], 2.0 / 3.0),
            ([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], 1.0),
            ([0.0; 4], [0.0; 4], 0.0),
            ([0.0; 4], [0.0, 0.0, 0.0, 1.0], 1.0),
            ([-3.0, 0.5, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], 0.5),
        ] {
            assert_eq!(jaccard(&a, &b), expected, "{a:?} {b:?}");
        }
    }
}
