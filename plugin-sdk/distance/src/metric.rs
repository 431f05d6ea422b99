//! What distance means.

/// How distance is measured. Smaller is nearer, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `1 - cos(a, b)`, in `[0, 2]`; 1 where a vector is zero.
    Cosine,
    /// Euclidean distance.
    L2,
    /// `-a·b`.
    Dot,
}

impl Metric {
    /// The metric of that name in `index_create`: `cosine`, `l2` or `dot`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "cosine" => Some(Self::Cosine),
            "l2" => Some(Self::L2),
            "dot" => Some(Self::Dot),
            _ => None,
        }
    }

    /// The name in `index_create`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::L2 => "l2",
            Self::Dot => "dot",
        }
    }

    /// The distance of two vectors, from their dot product and their squared lengths.
    ///
    /// For [`Metric::L2`] this loses digits where the vectors are much longer than their difference;
    /// [`l2_squared`](crate::l2_squared) does not.
    #[must_use]
    pub fn from_products(self, dot: f32, a_squared: f32, b_squared: f32) -> f32 {
        match self {
            Self::Cosine => {
                // Two roots: the product of the squares overflows, or vanishes, far earlier than the lengths do.
                let lengths = a_squared.sqrt() * b_squared.sqrt();
                if lengths > 0.0 { 1.0 - (dot / lengths).clamp(-1.0, 1.0) } else { 1.0 }
            }
            Self::L2 => (a_squared + b_squared - 2.0 * dot).max(0.0).sqrt(),
            Self::Dot => -dot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Metric;

    #[test]
    fn names_are_read_back() {
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            assert_eq!(Metric::from_name(metric.name()), Some(metric));
        }
        assert_eq!(Metric::from_name("Cosine"), None);
    }

    #[test]
    fn products_become_distances() {
        // a = (3, 0), b = (0, 4)
        assert_eq!(Metric::Cosine.from_products(0.0, 9.0, 16.0), 1.0);
        assert_eq!(Metric::L2.from_products(0.0, 9.0, 16.0), 5.0);
        assert_eq!(Metric::Dot.from_products(12.0, 9.0, 16.0), -12.0);
    }

    #[test]
    fn a_zero_vector_is_at_cosine_distance_one() {
        assert_eq!(Metric::Cosine.from_products(0.0, 0.0, 16.0), 1.0);
    }

    #[test]
    fn rounding_never_leaves_the_range() {
        assert_eq!(Metric::Cosine.from_products(1.000_001, 1.0, 1.0), 0.0);
        assert_eq!(Metric::L2.from_products(1.000_001, 1.0, 1.0), 0.0);
    }
}
