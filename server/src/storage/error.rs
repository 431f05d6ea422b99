//! What can go wrong with stored data. Texts that clients compare are those of the ReQL protocol.

use std::borrow::Cow;
use std::path::PathBuf;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::StorageError;
use thiserror::Error;

/// Why an operation on a [`Store`](super::Store) or [`Table`](super::Table) failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No database has that name.
    #[error("Database `{0}` does not exist.")]
    DatabaseMissing(String),
    /// A database has that name already.
    #[error("Database `{0}` already exists.")]
    DatabaseExists(String),
    /// No table has that name.
    #[error("Table `{db}.{table}` does not exist.")]
    TableMissing {
        /// The database.
        db: String,
        /// The table.
        table: String,
    },
    /// A table has that name already.
    #[error("Table `{db}.{table}` already exists.")]
    TableExists {
        /// The database.
        db: String,
        /// The table.
        table: String,
    },
    /// A query used an index that does not exist.
    #[error("Index `{index}` was not found on table `{db}.{table}`.")]
    IndexMissing {
        /// The index.
        index: String,
        /// The database.
        db: String,
        /// The table.
        table: String,
    },
    /// An index that is to be dropped or renamed does not exist.
    #[error("Index `{index}` does not exist on table `{db}.{table}`.")]
    IndexAbsent {
        /// The index.
        index: String,
        /// The database.
        db: String,
        /// The table.
        table: String,
    },
    /// An index has that name already.
    #[error("Index `{index}` already exists on table `{db}.{table}`.")]
    IndexExists {
        /// The index.
        index: String,
        /// The database.
        db: String,
        /// The table.
        table: String,
    },
    /// The name of an index is that of the primary key.
    #[error("Index name conflict: `{0}` is the name of the primary key.")]
    IndexNameIsPrimaryKey(String),
    /// The index is still being built.
    #[error("Index `{index}` on table `{db}.{table}` was accessed before its construction was finished.")]
    IndexNotReady {
        /// The index.
        index: String,
        /// The database.
        db: String,
        /// The table.
        table: String,
    },
    /// A vector index has no order to scan in.
    #[error("Index `{0}` is a vector index: it answers get_nearest, not get_all, between or order_by.")]
    IndexIsVector(String),
    /// An ordinary index has no distances.
    #[error("Index `{0}` is not a vector index: get_nearest needs one that was created with `vector={{...}}`.")]
    IndexIsNotVector(String),
    /// The name of a database or table has other characters than allowed.
    #[error("{kind} name `{name}` invalid (Use A-Z, a-z, 0-9, _ and - only).")]
    Name {
        /// `Database` or `Table`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// No storage engine has that name.
    #[error("Storage engine `{engine}` is not available: {problem}; leave `engine` out to use the default one.")]
    EngineMissing {
        /// The engine.
        engine: String,
        /// Why.
        problem: String,
    },
    /// A storage engine does not take the options of a table.
    #[error("Storage engine `{engine}`: {problem}")]
    EngineOptions {
        /// The engine.
        engine: String,
        /// The key, and what it accepts.
        problem: String,
    },
    /// The plugin that stores a table can't be called.
    #[error(
        "Table `{table}` is unavailable: its storage engine `{engine}` is provided by plugin `{plugin}`: {problem}"
    )]
    TableUnavailable {
        /// The table, with its database.
        table: String,
        /// Its engine.
        engine: String,
        /// The engine's plugin.
        plugin: String,
        /// Why, and what to do.
        problem: String,
    },
    /// The storage engine of one table failed.
    #[error("Table `{table}`, storage engine `{engine}` of plugin `{plugin}`: {error}")]
    TableEngine {
        /// The table, with its database.
        table: String,
        /// Its engine.
        engine: String,
        /// The engine's plugin.
        plugin: String,
        /// How.
        error: StorageError,
    },
    /// A primary key is longer than allowed.
    #[error("Primary key too long (max {} characters): {}", super::keys::MAX_KEY_STRING, key.to_json_string())]
    KeyTooLong {
        /// The key.
        key: Datum,
    },
    /// A primary key with a zero byte.
    #[error("Primary keys cannot contain `\\u0000`: {}", key.to_json_string())]
    KeyZeroByte {
        /// The key.
        key: Datum,
    },
    /// A primary key of a type that can't be one.
    #[error(
        "Primary keys must be either a number, string, bool, pseudotype or array (got type {}):\n{}",
        found.type_name(), found.to_json_string()
    )]
    KeyType {
        /// The key, or the element of it that is at fault.
        found: Datum,
    },
    /// A document without its primary key, or with another one than it is stored under.
    #[error("Primary key `{primary_key}` cannot be changed: the document has {found} instead of {expected}.")]
    KeyChanged {
        /// The field.
        primary_key: String,
        /// The key it has to have, as JSON.
        expected: String,
        /// The key that it has, as JSON, or `nothing`.
        found: String,
    },
    /// Something else than an object.
    #[error("Only objects can be stored as documents, found a value of type {0}.")]
    NotADocument(Cow<'static, str>),
    /// A document is nested too deep.
    #[error("Documents can be nested {max} levels deep at most.", max = photondb_plugin_sdk::datum::MAX_DEPTH)]
    TooDeep,
    /// The function of an index that is to be created does not compile.
    #[error("Index `{index}` can't be created: {message}")]
    IndexDefinition {
        /// The index.
        index: String,
        /// What is wrong.
        message: String,
    },
    /// The function of a stored index does not compile.
    #[error(
        "Index `{index}` of table {table} can't be used: {message}; start the version of PhotonDB that made it and drop the index"
    )]
    IndexFunction {
        /// The index.
        index: String,
        /// The table's id.
        table: String,
        /// What is wrong.
        message: String,
    },
    /// The data directory is used by another process.
    #[error("{} is used by another PhotonDB server: stop that one, or choose another directory with --data", .0.display())]
    Locked(PathBuf),
    /// The data directory can't be used.
    #[error("{}: {message}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What went wrong and what to do.
        message: String,
    },
    /// The store is closed, or has stopped writing after a failure.
    #[error("The store takes no more writes: {0}")]
    Unavailable(String),
    /// A vector index refused.
    #[error("{0}")]
    Vector(String),
    /// The deadline passed first.
    #[error("Index `{0}` was not ready before the deadline.")]
    Deadline(String),
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl StoreError {
    /// Whether the change may have happened nevertheless (ReQL's `OP_INDETERMINATE`).
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Storage(StorageError::Unknown(_)) | Self::TableEngine { error: StorageError::Unknown(_), .. }
        )
    }

    /// Whether the same may succeed once the plugin that stores the table is back.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::TableUnavailable { .. } | Self::TableEngine { .. })
    }

    /// Damage found in a stored record.
    pub(super) fn damaged(keyspace: &str, message: impl ToString) -> Self {
        Self::Storage(StorageError::Damaged { keyspace: keyspace.to_owned(), message: message.to_string() })
    }
}
