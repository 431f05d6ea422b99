//! The names that a plugin needs: `use photondb_plugin_sdk::prelude::*;`.

pub use crate::batch::{Batch, RowsWriter};
pub use crate::datum::Typed;
pub use crate::kinds::aggregate::AggregatePlugin;
pub use crate::kinds::data_type::{DataTypePlugin, Operator};
pub use crate::kinds::distance::{Distance, DistancePlugin, Side, Traits};
pub use crate::kinds::function::{FunctionSignature, Purity, QueryFunctionPlugin, Role};
pub use crate::kinds::storage::{
    Direction, DocumentChange, Durability, EntryIterator, KeyRange, Keyspace, Selection, StorageConfig, StorageEngine,
    StorageEnginePlugin, StorageError, StorageSnapshot, Upkeep, UpkeepRequest, WriteBatch,
};
pub use crate::kinds::vector::{IndexOptions, Metric, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin};
pub use crate::registry::{Plugin, PluginRegistry};
pub use crate::{Cancel, Datum, PluginError};
