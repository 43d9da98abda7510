//! `AWS/Lambda` metrics of functions, out of what the last hours' minutes hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use wambda_model::series::{Minute, Spread};
use wambda_model::{Function, FunctionName};

use super::Cx;
use crate::ApiError;
use crate::aws::generated::cloudwatch::{
    Datapoint, Dimension, GetMetricDataInput, GetMetricDataOutput, GetMetricStatisticsInput,
    GetMetricStatisticsOutput, ListMetricsInput, ListMetricsOutput, Metric, MetricDataResult,
};

const NAMESPACE: &str = "AWS/Lambda";
const FUNCTION_NAME: &str = "FunctionName";
/// The metrics that there are, and their units.
const METRICS: &[(&str, &str)] = &[
    ("AsyncEventAge", "Milliseconds"),
    ("AsyncEventsDropped", "Count"),
    ("AsyncEventsReceived", "Count"),
    ("ConcurrentExecutions", "Count"),
    ("DestinationDeliveryFailures", "Count"),
    ("Duration", "Milliseconds"),
    ("Errors", "Count"),
    ("Invocations", "Count"),
    ("Throttles", "Count"),
];
/// Points of one answer (CloudWatch: 100,800).
const POINTS_MAX: usize = 100_800;
/// Metrics of one page.
const PAGE: usize = 500;

fn wrong(message: impl Into<String>) -> ApiError {
    ApiError::aws(400, "InvalidParameterValue", message)
}

/// Minutes added up.
#[derive(Default)]
struct Sum {
    invocations: u64,
    errors: u64,
    throttles: u64,
    /// Most at once by minute, of all functions together.
    concurrency: BTreeMap<u64, u32>,
    durations: Spread,
    events_received: u64,
    events_dropped: u64,
    destination_failures: u64,
    event_ages: Spread,
}

impl Sum {
    fn add(&mut self, minute: &Minute) {
        self.invocations += minute.invocations;
        self.errors += minute.errors;
        self.throttles += minute.throttles;
        *self.concurrency.entry(minute.start_s).or_default() += minute.concurrency;
        self.durations.merge(&minute.durations);
        self.events_received += minute.events_received;
        self.events_dropped += minute.events_dropped;
        self.destination_failures += minute.destination_failures;
        self.event_ages.merge(&minute.event_ages);
    }

    /// A statistic of a metric; none when there is nothing to tell.
    fn statistic(&self, metric: &str, statistic: &str) -> Result<Option<f64>, ApiError> {
        let known = ["Sum", "Average", "Minimum", "Maximum", "SampleCount"].contains(&statistic);
        let percentile = statistic.strip_prefix('p').and_then(|digits| digits.parse::<f64>().ok());
        let percentile = percentile.filter(|percent| (0.0..=100.0).contains(percent));
        if !known && percentile.is_none() {
            let message = format!(
                "the statistic {statistic:?} is not supported: Sum, Average, Minimum, Maximum, SampleCount and pNN are"
            );
            return Err(wrong(message));
        }
        let ran = self.invocations as f64;
        // Each event is a sample of 0 or 1.
        let counted = |count: f64, samples: f64| {
            if samples == 0.0 {
                return None;
            }
            Some(match statistic {
                "Sum" => count,
                "SampleCount" => samples,
                "Average" => count / samples,
                "Minimum" => f64::from(u8::from(count >= samples)),
                "Maximum" => f64::from(u8::from(count > 0.0)),
                _ => f64::from(u8::from(
                    percentile.is_some_and(|p| p / 100.0 * samples > samples - count),
                )),
            })
        };
        Ok(match metric {
            "Invocations" => counted(ran, ran),
            "Errors" => counted(self.errors as f64, ran),
            "Throttles" => counted(self.throttles as f64, ran + self.throttles as f64),
            "Duration" => spread(&self.durations, statistic, percentile),
            "AsyncEventAge" => spread(&self.event_ages, statistic, percentile),
            "AsyncEventsReceived" => each(self.events_received, statistic),
            "AsyncEventsDropped" => each(self.events_dropped, statistic),
            "DestinationDeliveryFailures" => each(self.destination_failures, statistic),
            "ConcurrentExecutions" => self.concurrent(statistic),
            _ => None,
        })
    }

    fn concurrent(&self, statistic: &str) -> Option<f64> {
        let all = self.concurrency.values().map(|count| f64::from(*count));
        let count = self.concurrency.len() as f64;
        let sum: f64 = all.clone().sum();
        match statistic {
            _ if self.concurrency.is_empty() => None,
            "Sum" => Some(sum),
            "SampleCount" => Some(count),
            "Average" => Some(sum / count),
            "Minimum" => all.reduce(f64::min),
            _ => all.reduce(f64::max),
        }
    }
}

/// A statistic of times, in milliseconds.
fn spread(all: &Spread, statistic: &str, percentile: Option<f64>) -> Option<f64> {
    if all.count == 0 {
        return None;
    }
    let (sum, count) = (all.sum_us as f64 / 1e3, all.count as f64);
    Some(match statistic {
        "Sum" => sum,
        "SampleCount" => count,
        "Average" => sum / count,
        "Minimum" => all.min_us as f64 / 1e3,
        "Maximum" => all.max_us as f64 / 1e3,
        _ => all.percentile(percentile?)? / 1e3,
    })
}

/// A statistic of things that are counted one by one.
fn each(count: u64, statistic: &str) -> Option<f64> {
    let number = count as f64;
    (count > 0).then_some(if matches!(statistic, "Sum" | "SampleCount") { number } else { 1.0 })
}

/// The functions that dimensions mean: one, or all of them.
fn functions(cx: &Cx<'_>, dimensions: &[Dimension]) -> Vec<Arc<Function>> {
    let catalog = cx.api.catalog.load();
    match dimensions {
        [] => catalog.iter().cloned().collect(),
        [one] if one.name == FUNCTION_NAME => {
            let name = FunctionName::new(&one.value).ok();
            name.and_then(|name| catalog.get(&name).cloned()).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Minutes by period, each named by its first second.
fn periods(
    cx: &Cx<'_>,
    dimensions: &[Dimension],
    (start, end): (f64, f64),
    period: i64,
) -> Result<BTreeMap<u64, Sum>, ApiError> {
    let period = u64::try_from(period).ok().filter(|period| *period > 0);
    let period = period.ok_or_else(|| wrong("Period must be more than 0"))?;
    if !(start.is_finite() && end.is_finite()) || start >= end {
        return Err(wrong("StartTime must be before EndTime"));
    }
    // Nothing finer than a minute is kept.
    let period = period.next_multiple_of(60);
    let (start, end) = (start.max(0.0) as u64, end.max(0.0).ceil() as u64);
    let mut sums: BTreeMap<u64, Sum> = BTreeMap::new();
    for function in functions(cx, dimensions) {
        for minute in function.latest.metrics.series.read(start - start % 60, end) {
            sums.entry(minute.start_s - minute.start_s % period).or_default().add(&minute);
        }
    }
    Ok(sums)
}

pub(crate) fn data(
    cx: &Cx<'_>,
    input: GetMetricDataInput,
) -> Result<GetMetricDataOutput, ApiError> {
    let ascending = input.scan_by.as_deref() == Some("TimestampAscending");
    let most = input.max_datapoints.and_then(|most| usize::try_from(most).ok());
    let most = most.unwrap_or(POINTS_MAX).min(POINTS_MAX);
    let mut results = Vec::new();
    for query in input.metric_data_queries {
        let Some(stat) = query.metric_stat else {
            let message =
                format!("query {:?}: expressions are not supported, MetricStat is", query.id);
            return Err(wrong(message));
        };
        if query.return_data == Some(false) {
            continue;
        }
        let metric = stat.metric.metric_name.unwrap_or_default();
        let known = stat.metric.namespace.as_deref() == Some(NAMESPACE);
        let dimensions = stat.metric.dimensions.unwrap_or_default();
        let span = (input.start_time, input.end_time);
        let sums = periods(cx, &dimensions, span, stat.period)?;
        let mut points = Vec::new();
        for (start, sum) in sums {
            let value = sum.statistic(&metric, &stat.stat)?;
            points.extend(value.filter(|_| known).map(|value| (start as f64, value)));
        }
        if !ascending {
            points.reverse();
        }
        let status = if points.len() > most { "PartialData" } else { "Complete" };
        points.truncate(most);
        let (timestamps, values) = points.into_iter().unzip();
        results.push(MetricDataResult {
            label: Some(query.label.unwrap_or_else(|| match dimensions.first() {
                Some(one) => format!("{} {metric}", one.value),
                None => metric.clone(),
            })),
            id: Some(query.id),
            messages: None,
            status_code: Some(status.to_owned()),
            timestamps: Some(timestamps),
            values: Some(values),
        });
    }
    Ok(GetMetricDataOutput {
        messages: Some(Vec::new()),
        metric_data_results: Some(results),
        next_token: None,
    })
}

pub(crate) fn statistics(
    cx: &Cx<'_>,
    input: GetMetricStatisticsInput,
) -> Result<GetMetricStatisticsOutput, ApiError> {
    let (plain, extended) =
        (input.statistics.unwrap_or_default(), input.extended_statistics.unwrap_or_default());
    if plain.is_empty() && extended.is_empty() {
        return Err(ApiError::aws(
            400,
            "MissingRequiredParameterException",
            "The parameter Statistics or ExtendedStatistics must be there",
        ));
    }
    let metric = &input.metric_name;
    let unit = METRICS.iter().find(|(name, _)| name == metric).map(|(_, unit)| *unit);
    let dimensions = input.dimensions.unwrap_or_default();
    let sums = periods(cx, &dimensions, (input.start_time, input.end_time), input.period)?;
    let mut points = Vec::new();
    for (start, sum) in sums.iter().filter(|_| input.namespace == NAMESPACE) {
        let mut point = Datapoint {
            timestamp: Some(*start as f64),
            unit: unit.map(str::to_owned),
            ..Datapoint::default()
        };
        let mut any = false;
        for name in &plain {
            let value = sum.statistic(metric, name)?;
            any |= value.is_some();
            match name.as_str() {
                "Sum" => point.sum = value,
                "Average" => point.average = value,
                "Minimum" => point.minimum = value,
                "Maximum" => point.maximum = value,
                _ => point.sample_count = value,
            }
        }
        let mut percentiles = BTreeMap::new();
        for name in &extended {
            let value = sum.statistic(metric, name)?;
            percentiles.extend(value.map(|value| (name.clone(), value)));
        }
        any |= !percentiles.is_empty();
        point.extended_statistics = (!percentiles.is_empty()).then_some(percentiles);
        points.extend(any.then_some(point));
    }
    Ok(GetMetricStatisticsOutput { datapoints: Some(points), label: Some(input.metric_name) })
}

pub(crate) fn list(cx: &Cx<'_>, input: ListMetricsInput) -> ListMetricsOutput {
    let wanted = input.dimensions.unwrap_or_default();
    let catalog = cx.api.catalog.load();
    let names = catalog.iter().map(|function| Some(function.name().to_string()));
    let dimensions = std::iter::once(None)
        .chain(names)
        .map(|name| name.map(|value| Dimension { name: FUNCTION_NAME.to_owned(), value }));
    let all = dimensions.flat_map(|dimension| {
        METRICS.iter().map(move |(metric, _)| Metric {
            dimensions: Some(dimension.clone().into_iter().collect()),
            metric_name: Some((*metric).to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
        })
    });
    let fits = |metric: &Metric| {
        let has = metric.dimensions.as_deref().unwrap_or_default();
        input.namespace.as_deref().is_none_or(|namespace| namespace == NAMESPACE)
            && input
                .metric_name
                .as_ref()
                .is_none_or(|name| metric.metric_name.as_ref() == Some(name))
            && wanted.iter().all(|filter| {
                let value = |d: &Dimension| filter.value.as_ref().is_none_or(|v| *v == d.value);
                has.iter().any(|d| d.name == filter.name && value(d))
            })
    };
    let after = input.next_token.and_then(|token| token.parse().ok()).unwrap_or(0usize);
    let mut page: Vec<Metric> = all.filter(fits).skip(after).take(PAGE + 1).collect();
    let next_token = (page.len() > PAGE).then(|| (after.saturating_add(PAGE)).to_string());
    page.truncate(PAGE);
    ListMetricsOutput { metrics: Some(page), next_token, owning_accounts: None }
}
