//! Results in numbers and as a plain table.

use super::Response;
use std::io::{self, Write};
use std::time::Duration;

/// Standard normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.96;

/// One row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The family, or `all`.
    pub family: String,
    /// Problems answered rightly.
    pub right: usize,
    /// Problems asked, failed requests included.
    pub total: usize,
    /// Completion tokens over all problems.
    pub tokens: u64,
}

/// What one effort reached.
#[derive(Debug, Clone, PartialEq)]
pub struct EffortSummary {
    /// The effort.
    pub effort: String,
    /// One row per family, in the suite's order, then `all`.
    pub rows: Vec<Row>,
    /// Requests that failed.
    pub errors: usize,
    /// From the first request to the last response.
    pub wall: Duration,
}

impl Row {
    /// Share of right answers, in per cent.
    #[must_use]
    pub fn percent(&self) -> f64 {
        100.0 * ratio(self.right as u64, self.total)
    }

    /// The 95 % confidence interval of [`Row::percent`] (Wilson 1927), in per cent.
    #[must_use]
    pub fn interval(&self) -> (f64, f64) {
        if self.total == 0 {
            return (0.0, 100.0);
        }
        let (n, p) = (self.total as f64, self.percent() / 100.0);
        let scale = 1.0 + Z * Z / n;
        let centre = (p + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        (100.0 * (centre - half).max(0.0), 100.0 * (centre + half).min(1.0))
    }

    /// Mean completion tokens per problem.
    #[must_use]
    pub fn mean_tokens(&self) -> f64 {
        ratio(self.tokens, self.total)
    }
}

fn ratio(part: u64, total: usize) -> f64 {
    if total == 0 { 0.0 } else { part as f64 / total as f64 }
}

impl EffortSummary {
    /// Sums up the responses of one effort.
    pub(super) fn of(effort: &str, responses: &[Response], wall: Duration) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        let mut all = Row { family: "all".to_owned(), right: 0, total: 0, tokens: 0 };
        for response in responses {
            let at = rows.iter().position(|row| row.family == response.family).unwrap_or_else(|| {
                rows.push(Row { family: response.family.clone(), right: 0, total: 0, tokens: 0 });
                rows.len() - 1
            });
            for row in [&mut rows[at], &mut all] {
                row.right += usize::from(response.right);
                row.total += 1;
                row.tokens += response.completion_tokens;
            }
        }
        rows.push(all);
        let errors = responses.iter().filter(|r| r.error.is_some()).count();
        Self { effort: effort.to_owned(), rows, errors, wall }
    }

    /// Completion tokens per second of wall-clock time.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let tokens = self.rows.last().map_or(0, |all| all.tokens);
        tokens as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    /// Writes the table.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "effort {}", self.effort)?;
        writeln!(out, "{:<12} {:>6} {:>6} {:>6} {:>9}", "family", "right", "total", "%", "tokens")?;
        for row in &self.rows {
            let (family, right, total) = (&row.family, row.right, row.total);
            let (percent, tokens) = (row.percent(), row.mean_tokens());
            writeln!(out, "{family:<12} {right:>6} {total:>6} {percent:>6.1} {tokens:>9.1}")?;
        }
        if let Some(all) = self.rows.last() {
            let (low, high) = all.interval();
            writeln!(out, "95 % interval of all: {low:.1} to {high:.1}")?;
        }
        let (wall, speed) = (self.wall.as_secs_f64(), self.tokens_per_second());
        writeln!(out, "{wall:.1} s, {speed:.0} tokens/s, failed requests: {}", self.errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // 180 of 300, worked out by hand from the formula: 54.4 to 65.4.
        let row = Row { family: "all".to_owned(), right: 180, total: 300, tokens: 300 };
        let (low, high) = row.interval();
        assert!((low - 54.37).abs() < 0.01 && (high - 65.39).abs() < 0.01, "{low} {high}");
        let none = Row { right: 0, total: 10, ..row };
        assert_eq!(none.interval().0, 0.0);
        assert!((none.interval().1 - 27.75).abs() < 0.01);
    }

    #[test]
    fn the_table_has_a_row_per_family_and_one_for_all() {
        let response = |family: &str, right: bool| Response {
            family: family.to_owned(),
            right,
            completion_tokens: 10,
            ..Response::default()
        };
        let responses = [response("b", true), response("a", false), response("b", true)];
        let summary = EffortSummary::of("low", &responses, Duration::from_secs(2));
        let mut out = Vec::new();
        summary.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["b", "2", "2", "100.0", "10.0"]);
        assert_eq!(lines[3], ["a", "0", "1", "0.0", "10.0"]);
        assert_eq!(lines[4], ["all", "2", "3", "66.7", "10.0"]);
        assert_eq!(lines[6].join(" "), "2.0 s, 15 tokens/s, failed requests: 0");
    }
}
