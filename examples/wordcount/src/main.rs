//! A plain command-line program: text on standard input, counts on standard output.

use std::collections::BTreeMap;
use std::io::Read;

fn main() -> std::io::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    let mut top: Vec<_> = counts.iter().collect();
    top.sort_by_key(|(word, count)| (std::cmp::Reverse(**count), word.to_string()));
    top.truncate(5);
    let report = serde_json::json!({
        "lines": text.lines().count(),
        "words": counts.values().sum::<usize>(),
        "bytes": text.len(),
        "top": top,
    });
    eprintln!("counted {} bytes", text.len());
    println!("{report}");
    Ok(())
}
