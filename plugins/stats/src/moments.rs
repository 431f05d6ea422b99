//! Mean and spread in one pass, by Welford's method: no catastrophic cancellation far from zero.

/// What was seen of a series.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    count: f64,
    mean: f64,
    /// The sum of squared differences from the mean.
    squares: f64,
}

impl Moments {
    /// Of all of `numbers`.
    pub(crate) fn of(numbers: &[f64]) -> Self {
        let mut moments = Self::default();
        for number in numbers {
            moments.count += 1.0;
            let before = number - moments.mean;
            moments.mean += before / moments.count;
            moments.squares += before * (number - moments.mean);
        }
        moments
    }

    pub(crate) fn mean(self) -> f64 {
        self.mean
    }

    /// Divided by the count less `freedom`.
    pub(crate) fn variance(self, freedom: u32) -> f64 {
        self.squares / (self.count - f64::from(freedom))
    }

    /// The square root of the variance with `freedom` 0.
    pub(crate) fn deviation(self) -> f64 {
        self.variance(0).sqrt()
    }
}
