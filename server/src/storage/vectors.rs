//! The seam to vector indexes: they take part in the commits of the documents whose vectors they hold.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::distance::Traits;
use photondb_plugin_sdk::kinds::storage::{StorageEngine, StorageError, WriteBatch};
use photondb_plugin_sdk::kinds::vector::Metric;
use uuid::Uuid;

use super::error::StoreError;

/// What `index_create(..., vector={...})` said.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorDefinition {
    /// The kind of index: `type`.
    pub kind: String,
    /// The length of the vectors.
    pub dims: u32,
    /// How distance is measured: for a distance of a plugin, of places.
    pub metric: Metric,
    /// The distance of a plugin that is meant.
    pub distance: Option<DistanceDefinition>,
    /// The further keys, the index kind's own: an object.
    pub settings: Datum,
}

/// A distance of a plugin, as it was when an index was created with it.
#[derive(Clone, Debug, PartialEq)]
pub struct DistanceDefinition {
    /// Its name: `metric`.
    pub name: String,
    /// `metric_options`: an object or null.
    pub options: Datum,
    /// What it is like.
    pub traits: Traits,
    /// The plugin that provided it.
    pub plugin: String,
    /// Its version then.
    pub version: String,
}

impl DistanceDefinition {
    /// As it is stored with its index.
    #[must_use]
    pub fn to_datum(&self) -> Datum {
        Datum::object([
            ("name", Datum::from(self.name.as_str())),
            ("options", self.options.clone()),
            ("traits", self.traits.to_datum()),
            ("plugin", self.plugin.as_str().into()),
            ("version", self.version.as_str().into()),
        ])
    }

    /// Reads what [`to_datum`](Self::to_datum) made; `None` for anything else.
    #[must_use]
    pub fn from_datum(datum: &Datum) -> Option<Self> {
        let text = |field: &str| datum.get(field)?.as_str().map(str::to_owned);
        Some(Self {
            name: text("name")?,
            options: datum.get("options")?.clone(),
            traits: Traits::from_datum(datum.get("traits")?)?,
            plugin: text("plugin")?,
            version: text("version")?,
        })
    }
}

/// What a vector index is opened with.
#[derive(Clone)]
pub struct VectorIndexContext {
    /// The engine that holds the documents. Read it freely; write through [`VectorIndexHook::stage`]. One that is not open
    /// now says so, and [`VectorIndexHook::reload`] follows when it is.
    pub engine: Arc<dyn StorageEngine>,
    /// A keyspace of that engine for this index alone. Dropped with the index.
    pub keyspace: String,
    /// A directory for this index alone, which need not exist yet. Removed with the index.
    pub directory: PathBuf,
    /// The table's id.
    pub table_id: Uuid,
    /// The index's id; never used again for another one.
    pub index_id: Uuid,
    /// What it was created with.
    pub definition: VectorDefinition,
}

/// Who makes vector indexes.
pub trait VectorIndexes: Send + Sync {
    /// The distance of that name of some plugin, of vectors of `dims` numbers.
    ///
    /// # Errors
    /// [`StoreError::Vector`]: there is none, or the options are wrong.
    fn distance(&self, name: &str, dims: u32, options: Datum) -> Result<DistanceDefinition, StoreError>;

    /// Checks what an index is to be created with.
    ///
    /// # Errors
    /// [`StoreError::Vector`] with what is wrong.
    fn validate(&self, definition: &VectorDefinition) -> Result<(), StoreError>;

    /// Opens an index; one that is new is empty, and documents follow through [`VectorIndexHook::stage`].
    ///
    /// # Errors
    /// When its files can't be used.
    fn open(&self, context: &VectorIndexContext) -> Result<Arc<dyn VectorIndexHook>, StoreError>;

    /// The index was dropped: let go of its files. Its keyspace and directory are removed afterwards. Called in the
    /// background, and perhaps for indexes that are not open.
    fn drop_index(&self, index_id: Uuid);
}

/// An open vector index. `stage`, `committed`, `aborted` and `flush` are called on the writer thread, in the order of
/// commits; `reload` between two of them.
pub trait VectorIndexHook: Send + Sync {
    /// A document's indexed value changes from `old` to `new`; `None` stands for not being in the index. Adds to
    /// `batch` what has to be stored together with it.
    ///
    /// While the index is built, `old` may be a value that the index has not seen yet, and `old: None` may come with
    /// a key that it has (because the document was changed before its turn came): `new` always replaces what
    /// is there.
    ///
    /// # Errors
    /// The write then fails, and `aborted` follows.
    fn stage(
        &self,
        batch: &mut WriteBatch,
        key: &[u8],
        old: Option<&Datum>,
        new: Option<&Datum>,
    ) -> Result<(), StorageError>;

    /// Everything that was staged is stored.
    fn committed(&self);

    /// Nothing that was staged since the last `committed` or `aborted` is stored.
    fn aborted(&self);

    /// The engine was opened anew, and may hold less than was committed: read again what is stored, and forget what was
    /// staged.
    ///
    /// # Errors
    /// When the engine fails.
    fn reload(&self, engine: &dyn StorageEngine) -> Result<(), StorageError>;

    /// Puts what belongs to everything committed so far on the disk. Called before the commits themselves are.
    ///
    /// # Errors
    /// The commits then count as not on the disk.
    fn flush(&self) -> Result<(), StorageError>;

    /// How far the index has got with what is stored, from 0 to 1.
    fn progress(&self) -> f64;

    /// Whether the index answers as it is meant to: it has caught up with what is stored once, or can't for now and
    /// answers by slower means.
    fn is_built(&self) -> bool;

    /// Waits until [`is_built`](Self::is_built), and returns whether it came before the deadline.
    fn wait_built(&self, deadline: Instant) -> bool;

    /// Who provides it, how it is and how large, for people: an object. May ask the plugin.
    fn describe(&self) -> Datum;

    /// For whoever made it.
    fn as_any(&self) -> &dyn Any;
}

/// Offers no kind of vector index.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVectorIndexes;

impl VectorIndexes for NoVectorIndexes {
    fn distance(&self, name: &str, _: u32, _: Datum) -> Result<DistanceDefinition, StoreError> {
        Err(StoreError::Vector(format!("No plugin provides the metric `{name}`.")))
    }

    fn validate(&self, definition: &VectorDefinition) -> Result<(), StoreError> {
        Err(StoreError::Vector(format!("No plugin provides vector indexes of type `{}`.", definition.kind)))
    }

    fn open(&self, context: &VectorIndexContext) -> Result<Arc<dyn VectorIndexHook>, StoreError> {
        Err(StoreError::Vector(format!("No plugin provides vector indexes of type `{}`.", context.definition.kind)))
    }

    fn drop_index(&self, _: Uuid) {}
}
