//! PhotonDB: a document and vector database server whose plugins are confined processes.

#![forbid(unsafe_code)]

pub mod admin;
pub mod bench;
pub mod cli;
pub mod config;
pub mod conformance;
pub mod engines;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod network;
pub mod plugins;
pub mod query;
pub mod server;
pub mod storage;
pub mod vector;
