//! Statistics for queries: rounding, z-scores, quantiles, histograms, correlation and the like.
//!
//! All functions are pure. Numbers that are undefined (the mean of nothing, the correlation of a constant) are
//! non-existence errors, which ReQL's `default` catches; wrong arguments are errors that say which argument, what it
//! was, and what it must be. A null where a number is needed is non-existence as well, as in ReQL's own arithmetic.
//!
//! - `arguments`: typed access to what a query passed;
//! - `elementwise`: `approx`, `clamp`, `sigmoid`, `zscore`: a number to a number, or an array to an array;
//! - `summary`: `mean`, `median`, `mode`, `norm`, `variance`, `stddev`, `quantile`, `histogram`: an array to a value;
//! - `pairs`: `correlation`, `linear_regression`: two arrays to a value.

#![forbid(unsafe_code)]

mod arguments;
mod elementwise;
mod moments;
mod pairs;
mod summary;

use photondb_plugin_sdk::prelude::*;

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats;

impl Plugin for Stats {
    fn name(&self) -> &str {
        "stats"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        elementwise::register(registry);
        summary::register(registry);
        pairs::register(registry);
    }
}

#[cfg(test)]
mod tests;
