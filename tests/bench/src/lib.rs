//! A plugin that does next to nothing, so that what is measured is the way to it.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use photondb_plugin_sdk::column::{VectorColumn, VectorRef};
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, IndexStatistics, RowId, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};
use photondb_plugin_sdk::prelude::*;

/// The plugin.
pub struct Bench;

impl Plugin for Bench {
    fn name(&self) -> &str {
        "bench"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.function(AddOne).function(SumOfVector).vector_index(SumOfRows);
    }
}

/// `add_one(x)`: one addition a row.
pub struct AddOne;

impl QueryFunctionPlugin for AddOne {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure("add_one", 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let x = args[0].as_number().ok_or_else(|| PluginError::argument("add_one: the argument must be a number"))?;
        Ok((x + 1.0).into())
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        let wrong = || PluginError::argument("add_one: the argument must be a number");
        let numbers = batch.numbers(0).ok_or_else(wrong)?;
        add_one(numbers, results.numbers()?);
        Ok(())
    }
}

/// What the function does with a column.
pub fn add_one(numbers: &[f64], results: &mut [f64]) {
    for (result, number) in results.iter_mut().zip(numbers) {
        *result = number + 1.0;
    }
}

/// `sum(vector)`: adds up the numbers of an array.
pub struct SumOfVector;

impl QueryFunctionPlugin for SumOfVector {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure("sum", 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let sum = args[0].as_array().and_then(|array| array.iter().map(Datum::as_number).sum::<Option<f64>>());
        Ok(sum.ok_or_else(|| PluginError::argument("sum: the argument must be an array of numbers"))?.into())
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        let wrong = || PluginError::argument("sum: the argument must be a vector");
        let vectors = batch.vectors(0).ok_or_else(wrong)?;
        for (result, vector) in results.numbers()?.iter_mut().zip(vectors.values.chunks_exact(vectors.dims)) {
            *result = sum_of(vector, [0.0; LANES]).iter().sum::<f32>().into();
        }
        Ok(())
    }
}

/// As many sums at once as a vector register holds.
const LANES: usize = 16;

fn sum_of(vector: &[f32], mut sums: [f32; LANES]) -> [f32; LANES] {
    for block in vector.chunks_exact(LANES) {
        for (sum, number) in sums.iter_mut().zip(block) {
            *sum += number;
        }
    }
    sums
}

/// An index of type `sum`, whose search reads its rows in place and adds up all their numbers: the bits of the sum, as f32,
/// are the one row that it finds.
pub struct SumOfRows;

impl VectorIndexPlugin for SumOfRows {
    fn index_type(&self) -> &str {
        "sum"
    }

    fn validate(&self, _: &IndexOptions) -> Result<(), PluginError> {
        Ok(())
    }

    fn create(&self, _: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        Ok(Box::new(SumIndex { column, rows: AtomicU64::new(0) }))
    }
}

struct SumIndex {
    column: Arc<VectorColumn>,
    rows: AtomicU64,
}

impl VectorIndex for SumIndex {
    fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        self.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, _: &[RowId]) -> Result<(), PluginError> {
        Ok(())
    }

    fn search(&self, _: &SearchRequest<'_>, results: &mut SearchResults<'_>) -> Result<(), PluginError> {
        let rows = RowId::try_from(self.rows.load(Ordering::Relaxed)).unwrap_or(RowId::MAX);
        results.rows[0] = sum(&self.column, rows).to_bits();
        results.distances[0] = 0.0;
        results.counts[0] = 1;
        Ok(())
    }

    fn save(&self, _: &mut dyn Write) -> Result<(), PluginError> {
        Ok(())
    }

    fn load(&self, _: &mut dyn Read) -> Result<(), PluginError> {
        Ok(())
    }

    fn statistics(&self) -> IndexStatistics {
        IndexStatistics { rows: self.rows.load(Ordering::Relaxed), ..IndexStatistics::default() }
    }
}

/// The sum of all numbers of the first `rows` rows, read in place.
#[must_use]
pub fn sum(column: &VectorColumn, rows: RowId) -> f32 {
    let mut sums = [0.0; LANES];
    for row in 0..rows {
        if let Some(VectorRef::F32(numbers)) = column.row(row) {
            sums = sum_of(numbers, sums);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::column::Element;
    use photondb_plugin_sdk::testing::Harness;

    use super::*;

    #[test]
    fn it_adds_one_to_every_row() {
        let harness = Harness::start(Bench);
        assert_eq!(harness.call("add_one", &[41.into()]), Ok(42.into()));
        let column: Vec<Datum> = (0..1000).map(Datum::from).collect();
        let results = harness.call_rows("add_one", &[column], 1000).unwrap();
        assert_eq!(results[999], 1000.into());
    }

    #[test]
    fn it_adds_up_vectors() {
        let harness = Harness::start(Bench);
        let vector = Datum::array((0..32).map(Datum::from));
        assert_eq!(harness.call_rows("sum", &[vec![vector.clone(), vector]], 2).unwrap(), [496.into(), 496.into()]);
    }

    #[test]
    fn it_adds_up_what_is_in_the_column() {
        let rows: Vec<f32> = (0..64).map(|number| number as f32).collect();
        let column = VectorColumn::in_memory(32, Element::F32, &rows).unwrap();
        assert_eq!(sum(&column, 2), 2016.0);
        assert_eq!(sum(&column, 1), 496.0);
    }
}
