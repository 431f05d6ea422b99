//! Distances between vectors, for vector indexes of any type: `vector={"type": "hnsw", "metric": "jaccard", ...}`.
//!
//! An index compares rows millions of times, in a process of its own, so it can't ask another plugin about each pair. A
//! distance is told in a way that no pair crosses a process boundary while an index is built or walked:
//!
//! 1. **A place.** Each vector, and each query, gets a place in a space in which one of the three
//!    [base metrics](Metric) says what is near. The server has rows placed once, when they are stored, in batches; the index
//!    maps these places and works by the base metric as ever. A distance that places vectors where they are is asked nothing.
//! 2. **The distance of places.** Where the base metric's distance of two places is the distance ([exact](Traits::is_exact)),
//!    that is all. Otherwise the base metric only finds candidates, and the plugin measures them, all those of a query in
//!    one call. What a search answers with is always the distance itself.

use crate::{Datum, PluginError};

pub use photondb_distance::Metric;

/// A distance of vectors.
pub trait DistancePlugin: Send + Sync {
    /// The name that `vector={"metric": NAME}` picks it by: `[a-z][a-z0-9_]{0,63}`, but not that of a base metric.
    fn name(&self) -> &str;

    /// The distance of vectors of `dims` numbers, with what `vector={"metric_options": ...}` says, or null.
    ///
    /// The same arguments always give the same distance: it is prepared anew in every process, and wherever it is used.
    ///
    /// # Errors
    /// [`PluginError::argument`], naming the option and what it accepts.
    fn prepare(&self, dims: usize, options: &Datum) -> Result<Box<dyn Distance>, PluginError>;
}

/// What a vector is placed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To be found.
    Row,
    /// To find what is near.
    Query,
}

/// A distance of vectors of one length. Called from several threads at once.
pub trait Distance: Send + Sync {
    /// What it is like.
    fn traits(&self) -> Traits;

    /// Writes the place of a vector: `place` has [`Traits::dims`] numbers. A vector that has none gets a place with numbers that
    /// are not finite: as a row it is left out of the index, as a query it is refused.
    ///
    /// Not called where [`Traits::is_placed_as_is`].
    fn place(&self, side: Side, vector: &[f32], place: &mut [f32]) {
        let _ = side;
        place.copy_from_slice(vector);
    }

    /// The distances from the place of a query to those of rows (`[n, dims]`, row-major): one a row, finite, smaller is nearer.
    ///
    /// Not called where [`Traits::is_exact`].
    fn measure(&self, query: &[f32], rows: &[f32], distances: &mut [f32]) {
        let base = photondb_distance::Query::new(self.traits().base, query);
        for (row, distance) in rows.chunks_exact(query.len()).zip(distances) {
            *distance = base.distance(row);
        }
    }
}

/// What a distance is like: its space, and what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// What is near in the space of places.
    pub base: Metric,
    /// The length of a place.
    pub dims: usize,
    /// Whether a vector is its own place.
    pub is_placed_as_is: bool,
    /// Whether the base metric's distance of two places is the distance, so that nothing has to be measured.
    pub is_exact: bool,
    /// Whether the distance from a to b is that from b to a. Graphs and lists of rows need that.
    pub is_symmetric: bool,
    /// Whether no way is shorter than the straight one, and no distance is negative: the triangle inequality.
    pub is_triangular: bool,
    /// Whether all distances are from 0 to 1.
    pub is_normalised: bool,
}

impl Traits {
    /// Symmetric, exact, and of vectors that are their own places: what the base metric is. Change what is not so.
    #[must_use]
    pub fn of(base: Metric, dims: usize) -> Self {
        Self {
            base,
            dims,
            is_placed_as_is: true,
            is_exact: true,
            is_symmetric: true,
            is_triangular: base == Metric::L2,
            is_normalised: false,
        }
    }

    /// Whether such a distance may be that number.
    #[must_use]
    pub fn allows(&self, distance: f32) -> bool {
        let is_in_range = if self.is_normalised { (0.0..=1.0).contains(&distance) } else { distance.is_finite() };
        is_in_range && (!self.is_triangular || distance >= 0.0)
    }

    /// As an object: what travels, is stored, and is shown.
    #[must_use]
    pub fn to_datum(&self) -> Datum {
        Datum::object([
            ("base", Datum::from(self.base.name())),
            ("dims", self.dims.into()),
            ("placed_as_is", self.is_placed_as_is.into()),
            ("exact", self.is_exact.into()),
            ("symmetric", self.is_symmetric.into()),
            ("triangular", self.is_triangular.into()),
            ("normalised", self.is_normalised.into()),
        ])
    }

    /// Reads what [`to_datum`](Self::to_datum) made; `None` for anything else, and for what can't be.
    #[must_use]
    pub fn from_datum(datum: &Datum) -> Option<Self> {
        let flag = |name: &str| match datum.get(name) {
            Some(Datum::Bool(flag)) => Some(*flag),
            _ => None,
        };
        let most = f64::from(crate::column::MAX_DIMS);
        let dims = datum.get("dims")?.as_number().filter(|dims| dims.fract() == 0.0 && (1.0..=most).contains(dims))?;
        Some(Self {
            base: Metric::from_name(datum.get("base")?.as_str()?)?,
            dims: dims as usize,
            is_placed_as_is: flag("placed_as_is")?,
            is_exact: flag("exact")?,
            is_symmetric: flag("symmetric")?,
            is_triangular: flag("triangular")?,
            is_normalised: flag("normalised")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traits_travel_and_nonsense_is_none() {
        let traits = Traits { is_exact: false, is_normalised: true, ..Traits::of(Metric::Dot, 7) };
        assert_eq!(Traits::from_datum(&traits.to_datum()), Some(traits));
        for (key, value) in
            [("base", Datum::from("l1")), ("dims", 0.into()), ("dims", 1e9.into()), ("exact", Datum::Null)]
        {
            let Datum::Object(object) = traits.to_datum() else { panic!("an object") };
            let mut object = (*object).clone();
            object.insert(key, value);
            assert_eq!(Traits::from_datum(&object.into()), None, "{key}");
        }
    }

    #[test]
    fn what_a_distance_promises_is_its_range() {
        let any = Traits::of(Metric::Cosine, 1);
        assert!(any.allows(-1.0) && any.allows(2.0) && !any.allows(f32::NAN) && !any.allows(f32::INFINITY));
        let normalised = Traits { is_normalised: true, ..any };
        assert!(
            normalised.allows(0.0) && normalised.allows(1.0) && !normalised.allows(1.01) && !normalised.allows(-0.1)
        );
        let triangular = Traits { is_triangular: true, ..any };
        assert!(triangular.allows(7.0) && !triangular.allows(-0.1));
    }
}
