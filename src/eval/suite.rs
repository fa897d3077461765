//! Suites of problems: JSON Lines, one problem a line.

use super::EvalError;
use super::grade::Check;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// Its name, unique in the suite.
    pub id: String,
    /// The kind of problem, by which results are grouped.
    pub family: String,
    /// The user message.
    pub problem: String,
    /// The right answer; the server never sees it.
    pub answer: String,
    /// How responses are checked.
    pub check: Check,
}

/// Reads a suite and keeps the first `limit` problems of each family, each with
/// its place in the file: what is left out changes nobody's seed.
///
/// # Errors
/// When the file cannot be read, a line is no problem, or nothing is left.
pub(super) fn read(path: &Path, limit: Option<usize>) -> Result<Vec<(usize, Problem)>, EvalError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| EvalError::Suite { file: file.clone(), problem: e.to_string() })?;
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut problems = Vec::new();
    for (line, json) in text.lines().enumerate().filter(|(_, json)| !json.trim().is_empty()) {
        let problem: Problem = serde_json::from_str(json).map_err(|e| {
            let problem = format!("line {}: {e}", line + 1);
            EvalError::Suite { file: file.clone(), problem }
        })?;
        let count = taken.entry(problem.family.clone()).or_default();
        if limit.is_none_or(|limit| *count < limit) {
            *count += 1;
            problems.push((line, problem));
        }
    }
    if problems.is_empty() {
        return Err(EvalError::Suite { file, problem: "it has no problems".to_owned() });
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_keeps_the_first_of_each_family_in_their_places() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/eval/dev.jsonl");
        let all = read(Path::new(path), None).unwrap();
        assert_eq!(all.len(), 600);
        let some = read(Path::new(path), Some(2)).unwrap();
        let places: Vec<usize> = some.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [0, 1, 200, 201, 400, 401]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"\n{\"id\": 1}\n").unwrap();
        let error = read(file.path(), None).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
