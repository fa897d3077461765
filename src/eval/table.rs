//! What one arm reached, in numbers and as a plain table.

use super::Arm;
use super::record::Record;
use super::stats;
use super::suite::ALL;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The family, or `all`.
    pub family: String,
    /// Problems, each of which was asked once per seed.
    pub problems: usize,
    /// Right responses.
    pub right: usize,
    /// Responses, failed requests included.
    pub total: usize,
    /// Completion tokens over all responses that were counted.
    pub tokens: u64,
    /// Responses whose tokens the server counted.
    pub counted: usize,
    /// Share of right responses, in per cent.
    pub percent: f64,
    /// Lower end of the 95 % confidence interval of `percent`: Wilson's, at the
    /// effective size where problems were asked several times.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How a number is spread over an arm's responses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// The quantile at 95 %.
    pub p95: f64,
}

/// What one arm reached. Times and tokens are per response; failed requests
/// count as wrong and are in no spread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmSummary {
    /// The arm's label.
    pub label: String,
    /// The arm's request fields.
    pub fields: serde_json::Value,
    /// What stands above its table.
    #[serde(skip)]
    pub title: String,
    /// Arms of equal series are joined in the plot.
    #[serde(skip)]
    pub series: Option<String>,
    /// One row per family, in the suite's order, then `all`.
    pub rows: Vec<Row>,
    /// Generated tokens.
    pub tokens: Spread,
    /// Verifier tokens.
    pub verifier_tokens: Spread,
    /// Branches made.
    pub branches: Spread,
    /// From sending to the whole response, in seconds.
    pub seconds: Spread,
    /// Seconds in which at least one request was in flight.
    pub wall_seconds: f64,
    /// Generated tokens over `wall_seconds`.
    pub tokens_per_second: f64,
    /// Responses by why they stopped.
    pub stop_reasons: BTreeMap<String, usize>,
    /// Failed requests by message.
    pub failures: BTreeMap<String, usize>,
    /// Responses of a server that did not count their tokens.
    pub uncounted: usize,
    /// Responses with more tokens than their request allows.
    pub over_budget: usize,
    /// Request fields that the server said it ignored, by response.
    pub ignored: BTreeMap<String, usize>,
}

impl Row {
    fn of(family: &str, records: &[&Record]) -> Self {
        let mut problems: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for record in records {
            let (right, asked) = problems.entry(&record.id).or_default();
            *right += u64::from(record.right);
            *asked += 1;
        }
        let (right, total) = (records.iter().filter(|r| r.right).count(), records.len());
        let share = if total == 0 { 0.0 } else { right as f64 / total as f64 };
        let counts: Vec<(u64, u64)> = problems.into_values().collect();
        let (low, high) = stats::wilson(share, stats::effective_size(&counts));
        Self {
            family: family.to_owned(),
            problems: counts.len(),
            right,
            total,
            tokens: records.iter().filter_map(|r| r.tokens).sum(),
            counted: records.iter().filter(|r| r.tokens.is_some()).count(),
            percent: 100.0 * share,
            low: 100.0 * low,
            high: 100.0 * high,
        }
    }

    /// Mean completion tokens per response that was counted: a failed request did
    /// not cost nothing, its cost is unknown.
    #[must_use]
    pub fn mean_tokens(&self) -> f64 {
        if self.counted == 0 { 0.0 } else { self.tokens as f64 / self.counted as f64 }
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let quantile = |q| stats::quantile(&sorted, q);
        Self { mean: stats::mean(&sorted), p50: quantile(0.5), p95: quantile(0.95) }
    }
}

impl ArmSummary {
    /// Sums up the responses of one arm, which are in the suite's order; each of
    /// its requests allows at most `bound` tokens.
    #[must_use]
    pub fn of(arm: &Arm, bound: Option<u64>, records: &[Record]) -> Self {
        let mut families: Vec<&str> = Vec::new();
        for record in records {
            if !families.contains(&record.family.as_str()) {
                families.push(&record.family);
            }
        }
        let rows: Vec<Row> = families
            .into_iter()
            .chain([ALL])
            .map(|family| {
                let of = records.iter().filter(|r| family == ALL || r.family == family);
                Row::of(family, &of.collect::<Vec<_>>())
            })
            .collect();
        let answered = || records.iter().filter(|r| r.error.is_none());
        let wall = busy(records);
        let tokens: u64 = records.iter().filter_map(|r| r.tokens).sum();
        let over = |r: &&Record| r.tokens.zip(bound).is_some_and(|(tokens, most)| tokens > most);
        Self {
            label: arm.label.clone(),
            fields: arm.fields.clone(),
            title: arm.title.clone(),
            series: arm.series.clone(),
            rows,
            tokens: Spread::of(answered().filter_map(|r| r.tokens).map(|n| n as f64)),
            verifier_tokens: Spread::of(answered().map(|r| r.verifier_tokens as f64)),
            branches: Spread::of(answered().map(|r| r.branches as f64)),
            seconds: Spread::of(answered().map(|r| r.seconds)),
            wall_seconds: wall,
            tokens_per_second: tokens as f64 / wall.max(1e-9),
            stop_reasons: counts(answered().map(|r| r.stop_reason.as_str())),
            failures: counts(records.iter().filter_map(|r| r.error.as_deref())),
            uncounted: answered().filter(|r| r.tokens.is_none()).count(),
            over_budget: answered().filter(over).count(),
            ignored: counts(records.iter().filter_map(|r| r.ignored.as_deref())),
        }
    }

    /// The row of all families together.
    ///
    /// # Panics
    /// Never: it is always there.
    #[must_use]
    pub fn all(&self) -> &Row {
        self.rows.last().expect("a summary ends with the row of all")
    }

    /// Requests that failed.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.failures.values().sum()
    }

    /// Writes the table, and what went wrong below it.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.title)?;
        writeln!(out, "{:<12} {:>6} {:>6} {:>6} {:>9}", "family", "right", "total", "%", "tokens")?;
        for row in &self.rows {
            let (family, right, total) = (&row.family, row.right, row.total);
            let (percent, tokens) = (row.percent, row.mean_tokens());
            writeln!(out, "{family:<12} {right:>6} {total:>6} {percent:>6.1} {tokens:>9.1}")?;
        }
        let (low, high) = (self.all().low, self.all().high);
        writeln!(out, "95 % interval of all: {low:.1} to {high:.1}")?;
        let (wall, speed) = (self.wall_seconds, self.tokens_per_second);
        writeln!(out, "{wall:.1} s, {speed:.0} tokens/s, failed requests: {}", self.errors())?;
        self.troubles().iter().try_for_each(|trouble| writeln!(out, "{trouble}"))?;
        writeln!(out)
    }

    /// What a reader of the figures must know, in sentences.
    pub(super) fn troubles(&self) -> Vec<String> {
        let mut out: Vec<String> =
            self.failures.iter().map(|(message, n)| format!("failed {n} times: {message}")).collect();
        out.extend(
            self.ignored.iter().map(|(fields, n)| format!("ignored by the server {n} times: {fields}")),
        );
        if self.uncounted > 0 {
            out.push(format!("{} responses have no usage and are in no count of tokens", self.uncounted));
        }
        if self.over_budget > 0 {
            out.push(format!("{} responses have more tokens than the budget allows", self.over_budget));
        }
        out
    }
}

fn counts<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for name in names {
        *out.entry(name.to_owned()).or_default() += 1;
    }
    out
}

/// Seconds in which at least one request was in flight: a run that was taken up
/// later did not work in between.
fn busy(records: &[Record]) -> f64 {
    let mut spans: Vec<(f64, f64)> = records.iter().map(|r| (r.started, r.started + r.seconds)).collect();
    spans.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut until) = (0.0, f64::NEG_INFINITY);
    for (start, end) in spans {
        sum += (end - start.max(until)).max(0.0);
        until = until.max(end);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(family: &str, right: bool) -> Record {
        let stop_reason = "completed".to_owned();
        let family = family.to_owned();
        Record { family, right, tokens: Some(10), stop_reason, seconds: 1.0, ..Record::default() }
    }

    fn of(records: &[Record]) -> ArmSummary {
        ArmSummary::of(&super::super::arm::parse("x={}").unwrap(), Some(12), records)
    }

    #[test]
    fn the_table_has_a_row_per_family_and_one_for_all() {
        let mut responses = [response("b", true), response("a", false), response("b", true)];
        responses[2].started = 0.5;
        responses[1].started = 7.0;
        let mut out = Vec::new();
        of(&responses).write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["b", "2", "2", "100.0", "10.0"]);
        assert_eq!(lines[3], ["a", "0", "1", "0.0", "10.0"]);
        assert_eq!(lines[4], ["all", "2", "3", "66.7", "10.0"]);
        // Half a second of overlap, and nothing from 1.5 to 7.
        assert_eq!(lines[6].join(" "), "2.5 s, 12 tokens/s, failed requests: 0");
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn costs_are_spread_over_what_was_answered_and_troubles_are_told() {
        let costs = [(2, 1, 0), (12, 3, 40), (40, 8, 20)];
        let answered = costs.iter().map(|&(tokens, branches, verifier_tokens)| Record {
            tokens: Some(tokens),
            branches,
            verifier_tokens,
            ..response("f", true)
        });
        let failed = Record { error: Some("500: no".to_owned()), tokens: None, ..response("f", false) };
        let silent = Record { tokens: None, ignored: Some("reasonning".to_owned()), ..response("f", true) };
        let summary = of(&answered.chain([failed, silent]).collect::<Vec<_>>());
        assert_eq!((summary.tokens.mean, summary.tokens.p50), (18.0, 12.0));
        assert!((summary.tokens.p95 - 37.2).abs() < 1e-9);
        assert_eq!((summary.verifier_tokens.mean, summary.branches.mean), (15.0, 3.0));
        assert_eq!(summary.stop_reasons, BTreeMap::from([("completed".to_owned(), 4)]));
        assert_eq!((summary.errors(), summary.over_budget, summary.uncounted), (1, 1, 1));
        assert_eq!((summary.all().right, summary.all().total, summary.all().tokens), (4, 5, 54));
        assert_eq!(summary.all().mean_tokens(), summary.tokens.mean, "as in the table of costs");
        let troubles = summary.troubles().join("\n");
        for told in [
            "failed 1 times: 500: no",
            "ignored by the server 1 times: reasonning",
            "1 responses have no usage",
            "1 responses have more tokens",
        ] {
            assert!(troubles.contains(told), "{troubles}");
        }
    }

    #[test]
    fn several_seeds_narrow_the_interval_only_as_far_as_they_differ() {
        let seeds = |rights: [[bool; 4]; 4]| {
            let records: Vec<Record> = rights
                .iter()
                .enumerate()
                .flat_map(|(i, seeds)| {
                    seeds.map(|right| Record { id: i.to_string(), ..response("f", right) })
                })
                .collect();
            let all = of(&records).all().clone();
            assert_eq!((all.problems, all.total, all.percent), (4, 16, 50.0));
            all.high - all.low
        };
        let (yes, no) = ([true; 4], [false; 4]);
        let alike = seeds([yes, no, yes, no]);
        let mixed = seeds([
            [true, false, true, false],
            [true, true, false, false],
            [true, false, false, true],
            [false, false, true, true],
        ]);
        let width = |n| stats::wilson(0.5, n).1 - stats::wilson(0.5, n).0;
        assert!((alike / 100.0 - width(4.0)).abs() < 1e-9 && (mixed / 100.0 - width(16.0)).abs() < 1e-9);
    }
}
