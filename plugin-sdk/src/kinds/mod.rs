//! The kinds of plugin, one trait each. All are object-safe; none is async.

pub mod aggregate;
pub mod data_type;
pub mod distance;
pub mod function;
pub mod selection;
pub mod storage;
pub mod vector;
