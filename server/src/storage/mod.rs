//! Databases, tables and secondary indexes over a storage engine.
//!
//! Tables share the default engine and one writer; a table that names another engine has one, and a writer, for itself.
//!
//! A write goes: locks on the keys of its documents (`locks`), the present documents, the query's closure, on the query's own thread
//! (`write`); then one batch of documents and index entries to the one writer thread (`writer`), which commits all
//! that is queued together; locks are released when the commit is visible, and a `hard` write returns after the fsync that
//! its group shares. Reads go straight to the engine; scans (`scan`) read from one snapshot.
//!
//! | module | what it holds |
//! |---|---|
//! | `engine_fjall` | the default engine; everything else sees only the SDK's `StorageEngine` |
//! | `journal_tail` | what a power cut leaves at the end of that engine's journal |
//! | `engines` | the seam to the engines of plugins, which tables ask for by name |
//! | `backend` | an open engine, opened anew where its process ended, and its writer |
//! | `catalog` | the records of what exists |
//! | `keys` | keys whose bytes sort as ReQL orders values; ranges |
//! | `document`, `scan` | documents as they are stored, streams of them |
//! | `table`, `write`, `indexes` | documents, how they change, and what follows them |
//! | `upkeep` | what plugins' engines want done to their documents |
//! | `build` | indexes built, and dropped things removed, in the background |
//! | `vectors` | the seam to vector indexes |
//!
//! A data directory:
//!
//! ```text
//! photondb.lock      locked while a server uses the directory
//! storage/           the engine's
//! vectors/INDEX_ID/  a vector index's
//! ```
//!
//! Keyspaces of the engine: `catalog`; `TABLE_ID.documents` (primary key → encoded document); `TABLE_ID.indexes` (see
//! `keys`); `INDEX_ID.vectors`.

mod backend;
mod build;
mod catalog;
mod document;
mod engine_fjall;
mod engines;
mod error;
mod indexes;
mod journal_tail;
mod keys;
mod locks;
mod scan;
mod store;
mod table;
mod upkeep;
mod vectors;
mod write;
mod writer;

#[cfg(test)]
mod tests;

pub use document::Document;
pub use engine_fjall::FjallEngine;
pub use engines::{EngineDefinition, EngineSource, NoStorageEngines, OpenEngine, StorageEngines};
pub use error::StoreError;
pub use indexes::{IndexDefinition, IndexFunction, IndexFunctions, IndexInfo, IndexStatus};
pub use keys::{DatumRange, KeyEdge, MAX_KEY_STRING};
pub use photondb_plugin_sdk::kinds::storage::{Direction, Durability};
pub use scan::{Documents, StoredDocuments};
pub use store::{DatabaseInfo, Store, StoreOptions, TableOptions};
pub use table::{EngineStatus, Overwrite, Table, TableInfo, VectorIndexHandle};
pub use vectors::{
    DistanceDefinition, NoVectorIndexes, VectorDefinition, VectorIndexContext, VectorIndexHook, VectorIndexes,
};
pub use write::{Apply, Outcome};

use store::Shared;
