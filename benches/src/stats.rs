//! Medians and quartiles.

/// The middle of some values, and how far half of them lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

/// Median and quartiles, between the two values next to each; NaN of nothing.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |quarter: f64| {
        let place = values.len().saturating_sub(1) as f64 * quarter / 4.0;
        let value = |at: f64| values.get(at as usize).copied().unwrap_or(f64::NAN);
        let (below, above) = (value(place.floor()), value(place.ceil()));
        below + (above - below) * place.fract()
    };
    Spread { low: at(1.0), median: at(2.0), high: at(3.0) }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn quartiles_lie_between_values() {
        let of = |values: &[f64]| {
            let found = spread(values.iter().copied());
            [found.low, found.median, found.high]
        };
        assert_eq!(of(&[3.0]), [3.0; 3]);
        assert_eq!(of(&[2.0, 1.0]), [1.25, 1.5, 1.75]);
        assert_eq!(of(&[5.0, 1.0, 2.0, 4.0, 3.0]), [2.0, 3.0, 4.0]);
        assert!(spread([]).median.is_nan());
    }
}
