//! Figures that the benches print: times, sizes, and how values spread.

use std::time::Duration;

/// A time in milliseconds.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A time in microseconds.
#[must_use]
pub fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A size, in the largest unit of which there is one.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0x4000_0000.. => format!("{} GiB", bytes >> 30),
        0x10_0000.. => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

/// The minimum, the median and the maximum of some values; zero of none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// The minimum.
    pub min: f64,
    /// The one in the middle, or the mean of the two in the middle.
    pub median: f64,
    /// The maximum.
    pub max: f64,
}

impl Spread {
    /// Of values in any order.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let (lower, upper) = ((values.len() - 1) / 2, values.len() / 2);
        Self { min: *min, median: f64::midpoint(values[lower], values[upper]), max: *max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_the_largest_unit_of_which_there_is_one() {
        let sizes = [0, 1 << 10, (1 << 20) - 1, 1 << 20, 100 << 20, 10 << 30].map(bytes);
        assert_eq!(sizes, ["0 KiB", "1 KiB", "1023 KiB", "1 MiB", "100 MiB", "10 GiB"]);
    }

    #[test]
    fn values_spread_around_the_middle() {
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(Spread::of([3.0, 1.0, 9.0]), Spread { min: 1.0, median: 3.0, max: 9.0 });
        assert_eq!(Spread::of([4.0, 1.0, 9.0, 2.0]).median, 3.0);
    }
}
