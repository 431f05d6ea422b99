//! Sketches: estimates over any number of values, in a few kilobytes, that can be kept and merged.
//!
//! The sketches are those of Apache DataSketches, in its stable binary form: it is kept by the project that invented
//! half of them, says how far an estimate may be off, and merges.
//!
//! - `sketch`: what a sketch is here, and the aggregates that every one has;
//! - `distinct`: HyperLogLog, how many different values there are;
//! - `quantiles`: t-digest, of numbers;
//! - `frequencies`: count-min, how often a value occurs.

#![forbid(unsafe_code)]

mod distinct;
mod frequencies;
mod quantiles;
mod sketch;

use photondb_plugin_sdk::prelude::*;

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sketches;

impl Plugin for Sketches {
    fn name(&self) -> &str {
        "sketch"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        distinct::register(registry);
        quantiles::register(registry);
        frequencies::register(registry);
    }
}

#[cfg(test)]
mod tests;
