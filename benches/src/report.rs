//! What was measured: as tables on the terminal, as JSON, and as a page (page.rs).

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::figure::{Figure, number, with_quartiles};
use crate::hello::{CONNECTIONS, Hello};
use crate::machine::Machine;
use crate::page;

/// One run.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The profile that the server was built with.
    pub(crate) profile: String,
    pub(crate) hello: Option<Hello>,
    /// Of the comparisons, and of the workloads.
    pub(crate) figures: Vec<Figure>,
}

/// Figures by their workload, in the order of the first of each.
pub(crate) fn grouped(figures: &[Figure]) -> Vec<(&'static str, Vec<&Figure>)> {
    let mut groups: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in figures {
        match groups.iter_mut().find(|(workload, _)| *workload == figure.workload) {
            Some((_, group)) => group.push(figure),
            None => groups.push((figure.workload, vec![figure])),
        }
    }
    groups
}

/// What was measured, with what it is a ratio to.
pub(crate) fn named(figure: &Figure) -> String {
    match &figure.base {
        Some(base) => format!("{} / {base}", figure.name),
        None => figure.name.clone(),
    }
}

impl Report {
    /// The tables.
    pub(crate) fn print(&self) {
        let Machine { processor, cores, kernel, date, .. } = &self.machine;
        println!("\n{processor}, {cores} cores, {kernel}; {date}; {} build", self.profile);
        if let Some(hello) = &self.hello {
            print_hello(hello);
        }
        for (workload, figures) in grouped(&self.figures) {
            print_figures(workload, &figures);
        }
        let targets = self.figures.iter().filter(|figure| figure.target.is_some()).count();
        let with = |wanted| self.figures.iter().filter(|f| f.reached() == Some(wanted)).count();
        let (reached, missed) = (with(true), with(false));
        let rest = targets - reached - missed;
        println!("\n{targets} targets: {reached} reached, {missed} not, {rest} not measured");
    }

    /// What there is to say when times are not judged.
    pub(crate) fn print_count(&self) {
        let contenders = self.hello.as_ref().map_or(0, |hello| hello.lines.len());
        let figures = self.figures.len();
        println!(
            "{contenders} contenders answered, {figures} figures were taken; times are not judged"
        );
    }

    /// `report.json` and `report.html`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let hello = self.hello.as_ref();
        let flags = |hello: &Hello| {
            let pair = |(of, flags): &(String, String)| json!({"contenders": of, "command": flags});
            hello.flags.iter().map(pair).collect::<Vec<_>>()
        };
        let report = json!({
            "machine": self.machine.json(),
            "profile": self.profile,
            "connections": CONNECTIONS,
            "versions": hello.map(|hello| &hello.versions),
            "servers": hello.map(flags),
            "notes": hello.map(|hello| &hello.notes),
            "rows": hello.map(|hello| hello.lines.iter().map(|line| line.json()).collect::<Vec<_>>()),
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
        });
        std::fs::create_dir_all(folder)?;
        let (json, html) = (folder.join("report.json"), folder.join("report.html"));
        std::fs::write(&json, serde_json::to_string_pretty(&report)?)?;
        std::fs::write(&html, page::html(self))?;
        println!("also in {} and {}", json.display(), html.display());
        Ok(())
    }
}

fn print_hello(hello: &Hello) {
    println!("{}\n", hello.versions.join("; "));
    for note in &hello.notes {
        println!("{note}");
    }
    println!(
        "\n{:15} {:>10} {:>22} {:>9} {:>8} {:>8} {:>6}  what",
        "", "CPU µs/req", "ratio to bare", "req/s", "p50 µs", "p99 µs", "slices"
    );
    for line in &hello.lines {
        let (cpu, ratio) = (number(line.cpu_us.median), with_quartiles(&line.ratio));
        println!(
            "{:15} {cpu:>10} {ratio:>22} {:>9} {:>8} {:>8} {:>6}  {}",
            line.contender.name,
            number(line.per_second.round()),
            number(line.p50_us),
            number(line.p99_us),
            line.slices,
            line.contender.about
        );
    }
}

fn print_figures(workload: &str, figures: &[&Figure]) {
    println!("\n{workload}");
    let cells: Vec<[String; 5]> = figures
        .iter()
        .map(|figure| {
            let (target, verdict) = figure.verdict();
            let value = format!("{} {}", with_quartiles(&figure.spread()), figure.unit);
            [named(figure), value, target, verdict.to_owned(), figure.note.clone()]
        })
        .collect();
    let widths: [usize; 5] = std::array::from_fn(|column| {
        let cells = cells.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let [name_width, value_width, target_width, verdict_width, _] = widths;
    for [name, value, target, verdict, note] in &cells {
        let line = format!(
            "  {name:name_width$}  {value:>value_width$}  {target:target_width$}  {verdict:verdict_width$}  {note}"
        );
        println!("{}", line.trim_end());
    }
}
