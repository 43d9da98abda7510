//! The report as one HTML file: its style and its plots are in it, and it asks nobody for anything.

use std::fmt::Write;

use crate::contenders::Group;
use crate::figure::{Cmp, Figure, number, with_quartiles};
use crate::hello::{Hello, Line};
use crate::plot::{Bar, Scale, bars, escape};
use crate::report::{Report, grouped, named};
use crate::stats::Spread;

const STYLE: &str = include_str!("page.css");

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Wambda and its peers</title>\n",
    );
    let _ = writeln!(page, "<style>\n{STYLE}</style>\n<main>\n<h1>Wambda and its peers</h1>");
    facts(&mut page, report);
    if let Some(hello) = &report.hello {
        plots(&mut page, &hello.lines);
        lines(&mut page, &hello.lines);
    }
    targets(&mut page, &report.figures);
    for (workload, group) in grouped(&report.figures) {
        figures(&mut page, workload, &group);
    }
    if let Some(hello) = &report.hello {
        method(&mut page, hello);
    }
    page.push_str("</main>\n</html>\n");
    page
}

/// What it was measured on.
fn facts(page: &mut String, report: &Report) {
    let machine = &report.machine;
    let _ = write!(
        page,
        "<p class=\"facts\">{}, {} cores, {} GiB · {} · {} · Wambda built with the profile {}",
        escape(&machine.processor),
        machine.cores,
        number(machine.memory_gib),
        escape(&machine.kernel),
        escape(&machine.date),
        escape(&report.profile)
    );
    for version in report.hello.iter().flat_map(|hello| &hello.versions) {
        let _ = write!(page, " · {}", escape(version));
    }
    page.push_str("</p>\n");
}

fn class(group: Group) -> &'static str {
    match group {
        Group::Bare => "bare",
        Group::Warm => "warm",
        Group::Fresh => "fresh",
        Group::Peer => "peer",
    }
}

fn legend(page: &mut String, of: &[(&str, &str)]) {
    page.push_str("<p class=\"legend\">");
    for (class, what) in of {
        let _ = write!(page, "<span><i class=\"{class}\"></i>{what}</span>");
    }
    page.push_str("</p>\n");
}

const GROUPS: [(&str, &str); 4] = [
    ("bare", "hyper, no WebAssembly"),
    ("warm", "Wambda, instances reused"),
    ("fresh", "Wambda, an instance for each request"),
    ("peer", "its peers"),
];

fn plots(page: &mut String, lines: &[Line]) {
    let bar = |line: &Line, value: Spread, shown: String| Bar {
        label: line.contender.name.to_owned(),
        about: format!("{}: {}", line.contender.about, with_quartiles(&value)),
        class: class(line.contender.group),
        value,
        shown,
    };
    page.push_str("<h2>CPU per request, as a ratio to bare hyper</h2>\n");
    page.push_str("<p>Shorter is better. The axis is logarithmic; whiskers are quartiles.</p>\n");
    let is_there =
        |class_name: &str| lines.iter().any(|line| class(line.contender.group) == class_name);
    let there: Vec<_> = GROUPS.into_iter().filter(|(class, _)| is_there(class)).collect();
    legend(page, &there);
    let of = |line: &Line| bar(line, line.ratio, format!("{} ×", number(line.ratio.median)));
    let ratios: Vec<Bar> = lines.iter().map(of).collect();
    page.push_str(&bars("CPU per request, as a ratio to bare hyper", "×", Scale::Log, &ratios));
    page.push_str("<h2>CPU per request, microseconds</h2>\n");
    page.push_str("<p>The server's, in user mode and kernel. The axis is linear.</p>\n");
    let of = |line: &Line| bar(line, line.cpu_us, format!("{} µs", number(line.cpu_us.median)));
    let times: Vec<Bar> = lines.iter().map(of).collect();
    page.push_str(&bars("CPU per request, microseconds", "", Scale::Linear, &times));
}

/// All figures of the contenders.
fn lines(page: &mut String, lines: &[Line]) {
    page.push_str(
        "<h2>All figures</h2>\n<div class=\"wide\"><table>\n<tr><th>contender<th>what\
         <th class=\"n\">CPU µs/request<th class=\"n\">ratio to bare<th class=\"n\">requests/s\
         <th class=\"n\">p50 µs<th class=\"n\">p99 µs<th class=\"n\">slices</tr>\n",
    );
    for line in lines {
        let _ = write!(
            page,
            "<tr><td><i class=\"{}\"></i>{}<td>{}",
            class(line.contender.group),
            escape(line.contender.name),
            escape(line.contender.about)
        );
        for cell in [
            with_quartiles(&line.cpu_us),
            with_quartiles(&line.ratio),
            number(line.per_second.round()),
            number(line.p50_us),
            number(line.p99_us),
            line.slices.to_string(),
        ] {
            let _ = write!(page, "<td class=\"n\">{cell}");
        }
        page.push_str("</tr>\n");
    }
    page.push_str(
        "</table></div>\n<p>The load takes its share of the same cores: latencies are those of a full \
         machine.</p>\n",
    );
}

/// How far each figure is from its target.
fn targets(page: &mut String, figures: &[Figure]) {
    let bar = |figure: &Figure| {
        let (reached, (cmp, bound)) = (figure.reached()?, figure.target?);
        let part = |value: f64| match cmp {
            Cmp::AtMost => value / bound,
            Cmp::AtLeast => bound / value,
        };
        let (one, other) = (part(figure.low), part(figure.high));
        let value =
            Spread { low: one.min(other), median: part(figure.value), high: one.max(other) };
        let (target, verdict) = figure.verdict();
        let shown = format!("{} ({target})", number(figure.value));
        Some(Bar {
            label: shortened(&match figure.workload {
                "hello" => named(figure),
                workload => format!("{workload}: {}", figure.name),
            }),
            about: format!("{}, {}: {shown}, {verdict}", figure.workload, named(figure)),
            class: if reached { "reached" } else { "missed" },
            value,
            shown,
        })
    };
    let all: Vec<Bar> = figures.iter().filter_map(bar).collect();
    if all.is_empty() {
        return;
    }
    page.push_str("<h2>Targets</h2>\n<p>Each figure in its target: left of the line is reached, right is not. The axis is logarithmic.</p>\n");
    legend(page, &[("reached", "reached"), ("missed", "not reached")]);
    page.push_str(&bars("Figures in their targets", "×", Scale::Log, &all));
}

/// As much as there is room for beside a bar.
fn shortened(label: &str) -> String {
    const CHARACTERS: usize = 40;
    if label.chars().count() <= CHARACTERS {
        return label.to_owned();
    }
    let kept: String = label.chars().take(CHARACTERS - 1).collect();
    format!("{}…", kept.trim_end())
}

/// The figures of one workload.
fn figures(page: &mut String, workload: &str, figures: &[&Figure]) {
    let _ = writeln!(
        page,
        "<h2>{}</h2>\n<div class=\"wide\"><table>\n<tr><th>what<th class=\"n\">median (quartiles)\
         <th>unit<th>target<th><th>note</tr>",
        escape(workload)
    );
    for figure in figures {
        let (target, verdict) = figure.verdict();
        let class = match figure.reached() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let _ = writeln!(
            page,
            "<tr><td>{}<td class=\"n\">{}<td>{}<td>{}<td class=\"{class}\">{verdict}<td>{}</tr>",
            escape(&named(figure)),
            with_quartiles(&figure.spread()),
            escape(figure.unit),
            escape(&target),
            escape(&figure.note)
        );
    }
    page.push_str("</table></div>\n");
}

/// How it was measured.
fn method(page: &mut String, hello: &Hello) {
    page.push_str("<h2>How this was measured</h2>\n<ul>\n");
    for note in &hello.notes {
        let _ = writeln!(page, "<li>{}", escape(note));
    }
    page.push_str(
        "<li>Reused instances answer one request after another; fresh ones answer one and are gone. The same \
         file of wasi:http 0.2, and of 0.3, is served by all that serve one.\n</ul>\n\
         <div class=\"wide\"><table>\n<tr><th>contenders<th>command</tr>\n",
    );
    for (contenders, command) in &hello.flags {
        let _ = writeln!(
            page,
            "<tr><td>{}<td><code>{}</code></tr>",
            escape(contenders),
            escape(command)
        );
    }
    page.push_str("</table></div>\n");
}
