//! Horizontal bars with whiskers, as SVG. Colours come from the page's style, by the bars' classes.

use std::fmt::Write;

use crate::figure::number;
use crate::stats::Spread;

/// One bar.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    /// What is told of it under the pointer.
    pub(crate) about: String,
    pub(crate) class: &'static str,
    pub(crate) value: Spread,
    /// The value as it is written beside the bar.
    pub(crate) shown: String,
}

/// How values become lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// From one, to either side: equal factors are equal lengths.
    Log,
}

const WIDTH: f64 = 900.0;
/// About what a character of a label takes, and the least that labels have.
const CHARACTER: f64 = 7.6;
const LEFT_MIN: f64 = 110.0;
/// Room for what is written beside the longest bar.
const RIGHT: f64 = 150.0;
const TOP: f64 = 30.0;
const ROW: f64 = 27.0;
const THICK: f64 = 15.0;
/// Factors that a logarithmic axis shows at most.
const LOG_MIN: f64 = 0.01;
const LOG_MAX: f64 = 10_000.0;

/// The axis: the values at its ends, and what is marked on it.
struct Axis {
    scale: Scale,
    /// Where it begins, right of the labels.
    left: f64,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(scale: Scale, bars: &[Bar]) -> Self {
        let values = bars.iter().flat_map(|bar| [bar.value.low, bar.value.median, bar.value.high]);
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let max = values.iter().copied().fold(f64::MIN, f64::max);
        let longest = bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
        let left = (longest as f64 * CHARACTER + 14.0).max(LEFT_MIN);
        match scale {
            Scale::Linear => {
                let to = if max > 0.0 { max } else { 1.0 };
                let step = step(to / 6.0);
                let ticks = (0..=8).map(|at| f64::from(at) * step).filter(|tick| *tick <= to);
                Self { scale, left, from: 0.0, to, ticks: ticks.collect() }
            }
            Scale::Log => {
                let min = values.iter().copied().fold(f64::MAX, f64::min);
                let from = min.clamp(LOG_MIN, 1.0) * 0.97;
                let to = max.clamp(1.1, LOG_MAX);
                // Few marks on a long axis, more on a short one.
                let leads: &[f64] = match to / from {
                    length if length > 300.0 => &[1.0],
                    length if length > 12.0 => &[1.0, 2.0, 5.0],
                    _ => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
                };
                let decades = (-2..=4)
                    .flat_map(|decade| leads.iter().map(move |lead| lead * 10f64.powi(decade)));
                let ticks = decades.filter(|tick| (from..=to).contains(tick));
                Self { scale, left, from, to, ticks: ticks.collect() }
            }
        }
    }

    /// Where a value is, from the left.
    fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.from, self.to);
        let part = match self.scale {
            Scale::Linear => value / self.to,
            Scale::Log => (value / self.from).ln() / (self.to / self.from).ln(),
        };
        self.left + part * (WIDTH - self.left - RIGHT)
    }

    fn base(&self) -> f64 {
        self.at(if self.scale == Scale::Log { 1.0 } else { 0.0 })
    }
}

/// The next larger of 1, 2 and 5 with some zeros.
fn step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|lead| lead * decade);
    steps.into_iter().find(|step| *step >= least).unwrap_or(least)
}

/// Text as XML has it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A plot; `unit` follows the numbers of its axis.
pub(crate) fn bars(title: &str, unit: &str, scale: Scale, bars: &[Bar]) -> String {
    let axis = Axis::new(scale, bars);
    let bottom = TOP + ROW * bars.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">\n",
        bottom + 6.0,
        escape(title)
    );
    for tick in &axis.ticks {
        let at = axis.at(*tick);
        // What is computed is not as round as it was meant to be.
        let round = (tick * 1e3).round() / 1e3;
        let mark = if round < 1e3 { round.to_string() } else { number(round) };
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.0}\" y2=\"{bottom:.0}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{:.0}\">{}</text>",
            TOP - 6.0,
            TOP - 12.0,
            escape(&format!("{mark}{unit}"))
        );
    }
    for (at, bar) in bars.iter().enumerate() {
        row(&mut svg, &axis, TOP + ROW * (at as f64 + 0.5), bar);
    }
    let base = axis.base();
    let _ = writeln!(
        svg,
        "<line class=\"base\" x1=\"{base:.1}\" x2=\"{base:.1}\" y1=\"{:.0}\" y2=\"{bottom:.0}\"/>\n</svg>",
        TOP - 6.0
    );
    svg
}

fn row(svg: &mut String, axis: &Axis, middle: f64, bar: &Bar) {
    let Bar { label, about, class, value, shown } = bar;
    let text = middle + 4.5;
    let _ = write!(
        svg,
        "<g><title>{}</title><text class=\"label\" x=\"{:.0}\" y=\"{text:.1}\">{}</text>",
        escape(about),
        axis.left - 10.0,
        escape(label)
    );
    let mut beside = axis.base();
    if value.median.is_finite() {
        let (base, end) = (axis.base(), axis.at(value.median));
        let (low, high) = (axis.at(value.low), axis.at(value.high));
        let (x, y, width) = (base.min(end), middle - THICK / 2.0, (end - base).abs().max(1.0));
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{THICK}\" rx=\"2\"/>"
        );
        if value.low < value.high {
            let top = middle - 4.0;
            let _ = write!(
                svg,
                "<path class=\"whisker\" d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {top:.1}v8M{high:.1} {top:.1}v8\"/>"
            );
        }
        beside = base.max(end).max(high);
    }
    let _ = writeln!(
        svg,
        "<text class=\"value\" x=\"{:.1}\" y=\"{text:.1}\">{}</text></g>",
        beside + 7.0,
        escape(shown)
    );
}

#[cfg(test)]
mod tests {
    use super::{Bar, Scale, bars, escape, step};
    use crate::stats::Spread;

    fn bar(label: &str, low: f64, median: f64, high: f64) -> Bar {
        let value = Spread { low, median, high };
        Bar { label: label.into(), about: "a".into(), class: "warm", value, shown: "s".into() }
    }

    #[test]
    fn plots_have_no_markup_of_others_and_no_nan() {
        for scale in [Scale::Linear, Scale::Log] {
            let of = [bar("<b>&\"", 0.5, 1.0, 2.0), bar("none", f64::NAN, f64::NAN, f64::NAN)];
            let plot = bars("<t>", "<u>", scale, &of);
            assert!(!plot.contains("<b>") && !plot.contains("<t>") && !plot.contains("<u>"));
            assert!(!plot.contains("NaN") && !plot.contains("inf"), "{plot}");
            assert!(!bars("none", "", scale, &of[1..]).contains("NaN"));
            assert!(!bars("nothing", "", scale, &[]).contains("NaN"));
        }
        assert_eq!(escape("<a href='x'>&</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&lt;/a&gt;");
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.03, 1.0, 7.0, 12.0].map(step), [0.05, 1.0, 10.0, 20.0]);
    }
}
