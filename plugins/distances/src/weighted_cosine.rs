//! The cosine distance where some numbers of a vector count for more than others.

use photondb_plugin_sdk::prelude::*;

use crate::only_option;

const ACCEPTED: &str = "`weighted_cosine` takes `weights`: as many numbers as `dims`, none below 0, and not all 0";

/// `weighted_cosine`: `1 - sum(w a b) / sqrt(sum(w a a) sum(w b b))`, from 0 to 2.
///
/// That is the cosine distance of the vectors whose numbers are multiplied by the roots of their weights. Numbers without
/// weight have no place among them.
#[derive(Clone, Copy, Debug)]
pub struct WeightedCosine;

impl DistancePlugin for WeightedCosine {
    fn name(&self) -> &str {
        "weighted_cosine"
    }

    fn prepare(&self, dims: usize, options: &Datum) -> Result<Box<dyn Distance>, PluginError> {
        let Some(weights) = only_option(options, "weights", ACCEPTED)? else {
            return Err(PluginError::argument(format!("`metric_options` has no `weights`; {ACCEPTED}")));
        };
        let refused = |found: String| PluginError::argument(format!("`weights` is {found}; {ACCEPTED}"));
        let Some(weights) = weights.as_array() else {
            return Err(refused(format!("a value of type {}", weights.type_name())));
        };
        if weights.len() != dims {
            return Err(refused(format!("a list of {}, where `dims` is {dims}", weights.len())));
        }
        let weight = |weight: &Datum| weight.as_number().filter(|weight| *weight >= 0.0);
        let weights: Vec<f64> = weights
            .iter()
            .map(|found| weight(found).ok_or_else(|| refused(format!("a list with {found:?}"))))
            .collect::<Result<_, _>>()?;
        // Only their ratios matter: with 1 as the greatest, no place is longer than its vector.
        let greatest = weights.iter().copied().fold(0.0, f64::max);
        let roots = weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        let roots: Vec<(usize, f32)> = roots.map(|(at, weight)| (at, (weight / greatest).sqrt() as f32)).collect();
        if roots.is_empty() {
            return Err(refused("a list of zeros".into()));
        }
        Ok(Box::new(Weighted { roots }))
    }
}

struct Weighted {
    /// Which numbers have weights, and the roots of those.
    roots: Vec<(usize, f32)>,
}

impl Distance for Weighted {
    fn traits(&self) -> Traits {
        Traits { is_placed_as_is: false, ..Traits::of(Metric::Cosine, self.roots.len()) }
    }

    fn place(&self, _: Side, vector: &[f32], place: &mut [f32]) {
        for (place, &(at, root)) in place.iter_mut().zip(&self.roots) {
            *place = vector[at] * root;
        }
    }
}
