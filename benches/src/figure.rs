//! One figure of a workload: what was measured, how it spread, and what it was meant to be.

use serde_json::{Value, json};

use crate::stats::Spread;

/// A measured figure.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// The workload that it belongs to.
    pub(crate) workload: &'static str,
    /// What was measured, within the workload.
    pub(crate) name: String,
    /// The unit of the values; `×` is a ratio to `base`.
    pub(crate) unit: &'static str,
    /// The median.
    pub(crate) value: f64,
    /// The lower quartile.
    pub(crate) low: f64,
    /// The upper quartile.
    pub(crate) high: f64,
    /// What the figure is a ratio to, when it is one.
    pub(crate) base: Option<String>,
    /// What the median was meant to be.
    pub(crate) target: Option<(Cmp, f64)>,
    /// How it was measured, or what else should be known about it.
    pub(crate) note: String,
}

/// On which side of a target it is good to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    AtMost,
    AtLeast,
}

impl Cmp {
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::AtMost => "≤",
            Self::AtLeast => "≥",
        }
    }
}

impl Figure {
    /// Whether the median is on the right side of the target; none where there is no target, or no
    /// median.
    pub(crate) fn reached(&self) -> Option<bool> {
        let (cmp, bound) = self.target.filter(|_| !self.value.is_nan())?;
        Some(match cmp {
            Cmp::AtMost => self.value <= bound,
            Cmp::AtLeast => self.value >= bound,
        })
    }

    /// The target as text, and whether it was reached; both empty without one.
    pub(crate) fn verdict(&self) -> (String, &'static str) {
        let Some((cmp, bound)) = self.target else { return (String::new(), "") };
        let verdict = match self.reached() {
            Some(true) => "reached",
            Some(false) => "not reached",
            None => "not measured",
        };
        (format!("{} {} {}", cmp.sign(), number(bound), self.unit), verdict)
    }

    pub(crate) fn spread(&self) -> Spread {
        Spread { low: self.low, median: self.value, high: self.high }
    }

    pub(crate) fn json(&self) -> Value {
        let target = self.target.map(|(cmp, bound)| {
            let cmp = if cmp == Cmp::AtMost { "at most" } else { "at least" };
            json!({"cmp": cmp, "value": bound, "reached": self.reached()})
        });
        json!({
            "workload": self.workload,
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "base": self.base,
            "target": target,
            "note": self.note,
        })
    }
}

/// A number with as many digits as say something: three significant ones, and all before the point,
/// in groups of three.
pub(crate) fn number(value: f64) -> String {
    let is_count = value == value.trunc();
    with_decimals(value, if is_count { 0 } else { decimals(value) })
}

/// Digits after the point that make three significant ones; no more than three.
fn decimals(value: f64) -> usize {
    match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    }
}

fn with_decimals(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

/// Median and quartiles, with as many digits each: `1.45 (1.21–1.56)`, or one number when all are
/// the same.
pub(crate) fn with_quartiles(of: &Spread) -> String {
    let all = [of.median, of.low, of.high];
    if !of.median.is_finite() || of.low == of.high {
        return number(of.median);
    }
    let is_count = all.iter().all(|value| *value == value.trunc());
    let decimals = if is_count { 0 } else { decimals(of.median) };
    let [median, low, high] = all.map(|value| with_decimals(value, decimals));
    format!("{median} ({low}–{high})")
}

#[cfg(test)]
mod tests {
    use super::{Cmp, Figure, number, with_quartiles};
    use crate::stats::Spread;

    #[test]
    fn numbers_have_as_many_digits_as_say_something() {
        let shown = [0.0, 0.1234, 1.0, 1.234, 12.34, 99.96, 1_234.5, 1_234_567.0, -12_345.0];
        let wanted = ["0", "0.123", "1", "1.23", "12.3", "100", "1,234", "1,234,567", "-12,345"];
        assert_eq!(shown.map(number), wanted.map(str::to_owned));
        assert_eq!(number(f64::NAN), "–");
        let of = |low, median, high| with_quartiles(&Spread { low, median, high });
        assert_eq!(of(0.96, 1.031, 1.0), "1.03 (0.96–1.00)");
        assert_eq!(of(1.0, 2.0, 3_000.0), "2 (1–3,000)");
        assert_eq!(of(1.0, 1.0, 1.0), "1");
        assert_eq!(of(f64::NAN, f64::NAN, f64::NAN), "–");
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_missed() {
        let mut figure = Figure {
            workload: "w",
            name: "n".to_owned(),
            unit: "ms",
            value: 2.0,
            low: 1.0,
            high: 3.0,
            base: None,
            target: Some((Cmp::AtMost, 2.0)),
            note: String::new(),
        };
        assert_eq!(figure.verdict(), ("≤ 2 ms".to_owned(), "reached"));
        figure.value = f64::NAN;
        assert_eq!(figure.verdict().1, "not measured");
        figure.value = 2.1;
        assert_eq!(figure.reached(), Some(false));
        figure.target = None;
        assert_eq!(figure.reached(), None);
    }
}
