//! A whole run as text, Markdown and JSON.

use super::Summary;
use super::compare::{Comparison, SEEDS};
use super::grid::Grid;
use super::plot;
use super::record::write_whole;
use super::table::ArmSummary;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// How the figures are to be read, below them.
const READING: &str = "Tokens are generated tokens per response over all branches; failed requests count as \
    wrong and are in no cost. Intervals are at 95 %: \
    Wilson's for shares (at the effective number of responses where problems were asked under several \
    seeds), the bootstrap over problems for differences.";

/// What arms cost, for the terminal: printed where there is something to compare.
pub(super) fn plain(summary: &Summary) -> String {
    let mut out = costs(&summary.arms).plain();
    if !summary.comparisons.is_empty() {
        out += "\n";
        out += &differences(&summary.comparisons).plain();
    }
    for line in few_seeds(&summary.comparisons) {
        out += &line;
        out += "\n";
    }
    out
}

/// Writes `summary.json`, `summary.md` and `accuracy.svg`.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(folder: &Path, summary: &Summary, setup: &Value) -> io::Result<()> {
    let mut whole = setup.clone();
    whole["arms"] = json!(summary.arms);
    whole["comparisons"] = json!(summary.comparisons);
    let json = serde_json::to_string_pretty(&whole)? + "\n";
    write_whole(&folder.join("summary.json"), &json)?;
    write_whole(&folder.join("summary.md"), &markdown(summary, setup))?;
    write_whole(&folder.join("accuracy.svg"), &plot::svg(&summary.arms))
}

fn markdown(summary: &Summary, setup: &Value) -> String {
    let mut out = String::from("# Accuracy and cost\n\n");
    for (name, value) in setup.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => continue,
            Value::Array(list) if list.is_empty() => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let _infallible =
            writeln!(out, "- {}: `{}`", name.replace('_', " "), value.replace(['`', '\n'], " "));
    }
    out += "\n![Accuracy against generated tokens](accuracy.svg)\n\n## Right answers, in per cent\n\n";
    out += &shares(&summary.arms).markdown();
    out += "\n## Cost\n\n";
    out += &costs(&summary.arms).markdown();
    if !summary.comparisons.is_empty() {
        out += "\n## Paired differences, in points\n\n";
        out += &differences(&summary.comparisons).markdown();
    }
    out += "\n";
    out += READING;
    out += "\n";
    let troubles = summary.arms.iter().flat_map(|arm| {
        arm.troubles()
            .into_iter()
            .map(move |trouble| format!("- {}: {}\n", arm.label, trouble.replace('\n', " ")))
    });
    let notes: String =
        few_seeds(&summary.comparisons).map(|note| format!("- {note}\n")).chain(troubles).collect();
    if !notes.is_empty() {
        out += "\n## Mind\n\n";
        out += &notes;
    }
    out
}

fn shares(arms: &[ArmSummary]) -> Grid {
    let families: Vec<&str> =
        arms.first().into_iter().flat_map(|arm| &arm.rows).map(|row| row.family.as_str()).collect();
    let mut grid = Grid::new(&[&["arm"], &families[..], &["95 %", "right", "responses"]].concat());
    for arm in arms {
        let all = arm.all();
        let mut row = vec![arm.label.clone()];
        row.extend(arm.rows.iter().map(|row| format!("{:.1}", row.percent)));
        row.extend([interval(all.low, all.high), all.right.to_string(), all.total.to_string()]);
        grid.push(row);
    }
    grid
}

fn costs(arms: &[ArmSummary]) -> Grid {
    let head = [
        "arm",
        "%",
        "95 %",
        "tokens",
        "median",
        "verifier",
        "branches",
        "mean s",
        "p50 s",
        "p95 s",
        "tok/s",
        "stopped by",
        "failed",
    ];
    let mut grid = Grid::new(&head);
    for arm in arms {
        let all = arm.all();
        let stops = arm.stop_reasons.iter().map(|(reason, n)| format!("{reason} {n}"));
        grid.push(vec![
            arm.label.clone(),
            format!("{:.1}", all.percent),
            interval(all.low, all.high),
            format!("{:.1}", arm.tokens.mean),
            format!("{:.0}", arm.tokens.p50),
            format!("{:.1}", arm.verifier_tokens.mean),
            format!("{:.1}", arm.branches.mean),
            format!("{:.3}", arm.seconds.mean),
            format!("{:.3}", arm.seconds.p50),
            format!("{:.3}", arm.seconds.p95),
            format!("{:.0}", arm.tokens_per_second),
            stops.collect::<Vec<_>>().join(", "),
            arm.errors().to_string(),
        ]);
    }
    grid
}

fn differences(comparisons: &[Comparison]) -> Grid {
    let head = [
        "compared",
        "family",
        "pairs",
        "points",
        "95 %",
        "only first",
        "only second",
        "tokens",
        "with verifier",
        "time",
    ];
    let mut grid = Grid::new(&head);
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}x"));
    for comparison in comparisons {
        for row in &comparison.rows {
            grid.push(vec![
                format!("{} - {}", comparison.to, comparison.from),
                row.family.clone(),
                row.pairs.to_string(),
                format!("{:+.1}", row.points),
                format!("{:+.1} to {:+.1}", row.low, row.high),
                row.only_from.to_string(),
                row.only_to.to_string(),
                share(row.token_share),
                share(row.all_token_share),
                share(row.time_share),
            ]);
        }
    }
    grid
}

fn interval(low: f64, high: f64) -> String {
    format!("{low:.1} to {high:.1}")
}

fn few_seeds(comparisons: &[Comparison]) -> impl Iterator<Item = String> {
    let few = comparisons.iter().map(|comparison| comparison.seeds).filter(|&seeds| seeds < SEEDS).min();
    few.into_iter()
        .map(|n| format!("compared over {n} seed(s): give --seeds 1,2,3,4 before you trust a difference"))
}
