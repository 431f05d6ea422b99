//! Run options: what a client says about a query as a whole.

use std::sync::Arc;
use std::time::Duration;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::error::{Frame, ReqlError, Result};

/// Most elements of an array, unless the client says otherwise.
pub const DEFAULT_ARRAY_LIMIT: usize = 100_000;
/// A batch ends with the row that makes it this long, whatever the client says.
pub const MAX_BATCH_BYTES: usize = 64 << 20;

/// The options that RethinkDB knows, and those of terms that may be given for a whole query.
const KNOWN: &[&str] = &[
    "array_limit",
    "attempts",
    "auth",
    "base",
    "binary_format",
    "changefeed_queue_size",
    "conflict",
    "data",
    "db",
    "default",
    "default_timezone",
    "dry_run",
    "durability",
    "emergency_repair",
    "fill",
    "final_emit",
    "first_batch_scaledown_factor",
    "float",
    "geo",
    "geo_system",
    "group_format",
    "header",
    "identifier_format",
    "ignore_write_hook",
    "include_initial",
    "include_offsets",
    "include_states",
    "include_types",
    "index",
    "interleave",
    "left_bound",
    "max_batch_bytes",
    "max_batch_rows",
    "max_batch_seconds",
    "max_dist",
    "max_results",
    "method",
    "min_batch_rows",
    "multi",
    "non_atomic",
    "nonvoting_replica_tags",
    "noreply",
    "num_vertices",
    "ordered",
    "overwrite",
    "page",
    "page_limit",
    "params",
    "primary_key",
    "primary_replica_tag",
    "profile",
    "read_mode",
    "redirects",
    "replicas",
    "result_format",
    "return_changes",
    "right_bound",
    "shards",
    "squash",
    "time_format",
    "timeout",
    "unit",
    "verify",
    "wait_for",
];

/// How large the batches of a stream are.
#[derive(Clone, Debug)]
pub struct BatchLimits {
    /// The fewest rows.
    pub min_rows: usize,
    /// The most rows.
    pub max_rows: usize,
    /// About the most bytes of JSON.
    pub max_bytes: usize,
    /// How long to collect rows.
    pub max_time: Duration,
    /// By how much the first batch is smaller.
    pub first_scaledown: usize,
}

/// The options of one query.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Most elements of an array.
    pub array_limit: usize,
    /// The size of batches.
    pub batch: BatchLimits,
    /// The database of tables that are named without one.
    pub db: Option<Arc<str>>,
    /// Whether to write down what was done.
    pub profile: bool,
    globals: Object,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            array_limit: DEFAULT_ARRAY_LIMIT,
            batch: BatchLimits {
                min_rows: 1,
                max_rows: usize::MAX,
                max_bytes: 1 << 20,
                max_time: Duration::from_millis(500),
                first_scaledown: 4,
            },
            db: None,
            profile: false,
            globals: Object::new(),
        }
    }
}

impl RunOptions {
    /// Checks that there is an option of this name.
    ///
    /// # Errors
    /// When there is none, or it is obsolete.
    pub fn check_name(name: &str) -> Result<()> {
        if name == "use_outdated" {
            return Err(ReqlError::logic(
                "The `use_outdated` optarg is no longer supported.  Use the `read_mode` optarg instead.",
            ));
        }
        if KNOWN.contains(&name) {
            return Ok(());
        }
        Err(ReqlError::compile(format!("Unrecognized global optional argument `{name}`.")))
    }

    /// The options of the given plain values; `db` is given apart.
    ///
    /// # Errors
    /// When a value is of the wrong type or out of range.
    pub fn new(values: Object, db: Option<Arc<str>>) -> Result<Self> {
        let mut options = Self { db, ..Self::default() };
        if let Some(limit) = number(&values, "array_limit")? {
            if limit < 1.0 {
                return Err(ReqlError::logic(format!("Illegal array size limit `{limit}`.  (Must be >= 1.)")));
            }
            options.array_limit = limit as usize;
        }
        let batch = &mut options.batch;
        let positive = |name: &'static str| -> Result<Option<f64>> {
            match number(&values, name)? {
                Some(value) if value <= 0.0 => {
                    Err(ReqlError::logic(format!("`{name}` must be greater than 0 (got {value}).")))
                }
                other => Ok(other),
            }
        };
        if let Some(rows) = positive("min_batch_rows")? {
            batch.min_rows = (rows as usize).max(1);
        }
        if let Some(rows) = positive("max_batch_rows")? {
            batch.max_rows = (rows as usize).max(1);
            batch.min_rows = batch.min_rows.min(batch.max_rows);
        }
        if let Some(bytes) = positive("max_batch_bytes")? {
            batch.max_bytes = (bytes as usize).clamp(1, MAX_BATCH_BYTES);
        }
        if let Some(seconds) = positive("max_batch_seconds")? {
            batch.max_time = Duration::from_secs_f64(seconds.min(600.0));
        }
        if let Some(factor) = positive("first_batch_scaledown_factor")? {
            batch.first_scaledown = (factor as usize).max(1);
        }
        options.profile = matches!(values.get("profile"), Some(Datum::Bool(true)));
        options.globals = values;
        Ok(options)
    }

    /// The option of a term that is given for the whole query.
    #[must_use]
    pub fn global(&self, name: &str) -> Option<Datum> {
        self.globals.get(name).cloned()
    }

    /// The name of the database of tables that are named without one.
    #[must_use]
    pub fn db_name(&self) -> Arc<str> {
        self.db.clone().unwrap_or_else(|| Arc::from("test"))
    }
}

fn number(values: &Object, name: &str) -> Result<Option<f64>> {
    let framed = |error: ReqlError| error.within(Frame::Option(name.into()));
    values.get(name).map(|value| super::eval::number(value).map_err(framed)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked() {
        let options = |name: &str, value: f64| RunOptions::new([(name, value)].into_iter().collect(), None);
        assert_eq!(
            options("array_limit", 0.0).unwrap_err().message(),
            "Illegal array size limit `0`.  (Must be >= 1.)"
        );
        assert_eq!(options("max_batch_rows", 3.0).unwrap().batch.max_rows, 3);
        assert!(RunOptions::check_name("arra_limit").is_err());
        assert!(RunOptions::check_name("durability").is_ok());
    }
}
