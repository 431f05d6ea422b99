//! Rows of the column as they are compared with each other.

use std::sync::Arc;

use photondb_plugin_sdk::column::{VectorColumn, VectorRef};
use photondb_plugin_sdk::distance::{is_measurable, norm_squared};
use photondb_plugin_sdk::kinds::vector::{Metric, RowId};
use photondb_plugin_sdk::{Cause, PluginError};

/// The column and what distance means in it.
#[derive(Clone, Debug)]
pub(crate) struct Vectors {
    column: Arc<VectorColumn>,
    metric: Metric,
}

impl Vectors {
    pub(crate) fn new(column: Arc<VectorColumn>, metric: Metric) -> Self {
        Self { column, metric }
    }

    pub(crate) fn dims(&self) -> usize {
        self.column.dims()
    }

    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// The row, which the server never takes away while an index has it.
    pub(crate) fn get(&self, row: RowId) -> Result<VectorRef<'_>, PluginError> {
        self.column.row(row).ok_or_else(|| {
            let message =
                format!("row {row} is not in the vector column; was its segment attached before it was named?");
            PluginError::runtime(Cause::Plugin, message)
        })
    }

    /// The row, prepared, in `vector`.
    pub(crate) fn load(&self, row: RowId, vector: &mut [f32]) -> Result<(), PluginError> {
        self.get(row)?.copy_to(vector);
        self.prepare(vector);
        Ok(())
    }

    /// The row as it is stored, in `vector`; zero if its length is more than f32 holds.
    pub(crate) fn load_measurable(&self, row: RowId, vector: &mut [f32]) -> Result<(), PluginError> {
        self.get(row)?.copy_to(vector);
        if !is_measurable(vector) {
            vector.fill(0.0);
        }
        Ok(())
    }

    /// The rows, prepared, one behind the other.
    pub(crate) fn load_all(&self, rows: &[RowId]) -> Result<Vec<f32>, PluginError> {
        let mut vectors = vec![0.0; rows.len() * self.dims()];
        for (&row, vector) in rows.iter().zip(vectors.chunks_exact_mut(self.dims())) {
            self.load(row, vector)?;
        }
        Ok(vectors)
    }

    /// For cosine: divides by the length. What has none that f32 holds becomes zero, so that no sum of vectors is spoilt
    /// by one: where such a row belongs is arbitrary.
    pub(crate) fn prepare(&self, vector: &mut [f32]) {
        if !is_measurable(vector) {
            vector.fill(0.0);
        } else if self.metric == Metric::Cosine {
            unit(vector);
        }
    }
}

/// Divides by the length. A zero vector stays zero.
pub(crate) fn unit(vector: &mut [f32]) {
    let length = norm_squared(vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
}
