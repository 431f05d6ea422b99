//! The Kullback-Leibler divergence: how far a distribution is from the one that is looked for.

use photondb_plugin_sdk::prelude::*;

use crate::only_option;

const ACCEPTED: &str = "`kl_divergence` takes `epsilon`: a number above 0, at most 1, which is 1e-6 if it is left out";
/// What is added to every number, so that what never occurs is no infinity away.
const EPSILON: f64 = 1e-6;

/// `kl_divergence`: `sum(q ln(q / x))` of the query `q` and the row `x`, in nats. Both are made to sum up to 1, after
/// `epsilon` was added to each number; a vector with a number below 0 is no distribution.
///
/// It is not symmetric. As `sum(q ln q) - sum(q ln x)` it is a product of what is made of the query alone, and what is made
/// of the row alone: exact in the base metric `dot`.
#[derive(Clone, Copy, Debug)]
pub struct KlDivergence;

impl DistancePlugin for KlDivergence {
    fn name(&self) -> &str {
        "kl_divergence"
    }

    fn prepare(&self, dims: usize, options: &Datum) -> Result<Box<dyn Distance>, PluginError> {
        let epsilon = match only_option(options, "epsilon", ACCEPTED)? {
            None => EPSILON,
            Some(found) => found
                .as_number()
                .filter(|epsilon| *epsilon > 0.0 && *epsilon <= 1.0)
                .ok_or_else(|| PluginError::argument(format!("`epsilon` is {found:?}; {ACCEPTED}")))?,
        };
        if dims >= photondb_plugin_sdk::column::MAX_DIMS as usize {
            let most = photondb_plugin_sdk::column::MAX_DIMS - 1;
            return Err(PluginError::argument(format!("`dims` is {dims}; `kl_divergence` takes {most} at most")));
        }
        Ok(Box::new(Distributions { dims, epsilon }))
    }
}

struct Distributions {
    dims: usize,
    epsilon: f64,
}

impl Distance for Distributions {
    fn traits(&self) -> Traits {
        Traits { is_placed_as_is: false, is_symmetric: false, ..Traits::of(Metric::Dot, self.dims + 1) }
    }

    fn place(&self, side: Side, vector: &[f32], place: &mut [f32]) {
        if vector.iter().any(|number| *number < 0.0) {
            return place.fill(f32::NAN);
        }
        let smoothed = |number: &f32| f64::from(*number) + self.epsilon;
        let sum: f64 = vector.iter().map(smoothed).sum();
        let (last, rest) = match place.split_last_mut() {
            Some(split) => split,
            None => return,
        };
        let mut entropy = 0.0;
        for (place, number) in rest.iter_mut().zip(vector) {
            let share = smoothed(number) / sum;
            entropy += share * share.ln();
            *place = if side == Side::Query { share } else { share.ln() } as f32;
        }
        *last = if side == Side::Query { entropy as f32 } else { -1.0 };
    }
}
