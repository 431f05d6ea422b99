//! The query engine: ReQL terms from the wire to their results.
//!
//! A query goes through three steps. [`parse`] reads the JSON text into terms and folds literals; [`compile`] checks
//! the terms and resolves variables; [`eval`] computes the value. Sequences are computed while they are read, so a
//! query's result can be a [`Cursor`], which waits between two requests of its client. Everything here blocks: it runs on
//! [`workers`], never on the threads of the network.
//!
//! Terms are small functions, one file a family, in [`terms`]. What several of them need:
//!
//! | module | what it holds |
//! |---|---|
//! | [`value`], [`stream`], [`row`], [`partial`], [`function`] | what terms evaluate to |
//! | [`access`] | what a query may touch |
//! | [`pushdown`] | what engines of tables are told of a query |
//! | [`tables`] | tables, stored ones and those of the database `rethinkdb` |
//! | [`nested`] | queries that plugins run |
//! | [`bulk`], [`plugin`] | plugins' functions, called for many rows at once |
//! | [`types`] | values of plugins' types |
//! | [`vector`] | the seam to vector search |
//! | [`determinism`], [`source`] | functions that indexes are made of |
//! | [`order`], [`pseudo`], [`pseudotype`], [`paths`] | data: order, special values, parts of objects |
//! | [`output`], [`mod@print`], [`json`], [`iso8601`] | data as text |

pub mod access;
mod aggregate;
pub mod bulk;
pub mod compile;
pub mod cursor;
pub mod determinism;
mod engine;
pub mod error;
pub mod eval;
pub mod function;
pub mod iso8601;
pub mod json;
pub mod nested;
pub mod options;
pub mod order;
pub mod output;
pub mod parse;
pub mod partial;
pub mod paths;
pub mod plugin;
pub mod print;
pub mod profile;
pub mod pseudo;
pub mod pseudotype;
pub mod pushdown;
mod random;
pub mod row;
mod scanner;
pub mod source;
pub mod stream;
pub mod tables;
pub mod terms;
pub mod types;
pub mod value;
pub mod vector;
pub mod workers;

#[cfg(test)]
mod tests;

pub use cursor::{Answer, Cursor, Response};
pub use determinism::index_functions;
pub use engine::{Engine, EngineParts, Identity};
pub use error::{ErrorKind, ReqlError};
pub use plugin::{NoPlugins, PluginFunction, PluginFunctions, Running};
pub use vector::{NearestSearch, NoSearch};
