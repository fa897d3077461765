//! Suites of problems: JSON Lines, one problem a line.

use super::EvalError;
use super::grade::Check;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

/// The row that sums up all families, so no family's name.
pub(super) const ALL: &str = "all";

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// Its name, unique in the suite.
    pub id: String,
    /// The kind of problem, by which results are grouped; a suite may have but one.
    #[serde(default = "unnamed")]
    pub family: String,
    /// The user message.
    pub problem: String,
    /// The right answer; the server never sees it.
    pub answer: String,
    /// How responses are checked.
    pub check: Check,
}

fn unnamed() -> String {
    "problems".to_owned()
}

/// A problem and its line in the file, from 0: what a selection leaves out
/// changes nobody's seed.
pub(super) type Placed = (usize, Problem);

/// Reads a suite and keeps the first `limit` problems of each of these families,
/// or of all where none is named.
///
/// # Errors
/// When the file cannot be read, a line is no problem or one that no response could
/// solve, two have the same id, a family is not there, or nothing is left.
pub(super) fn read(path: &Path, limit: Option<usize>, families: &[String]) -> Result<Vec<Placed>, EvalError> {
    let wrong = |problem: String| EvalError::Suite { file: path.display().to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut ids = HashSet::new();
    let mut problems = Vec::new();
    for (place, json) in text.lines().enumerate().filter(|(_, json)| !json.trim().is_empty()) {
        let line = place + 1;
        let problem: Problem = serde_json::from_str(json).map_err(|e| wrong(format!("line {line}: {e}")))?;
        if let Some(fault) = problem.check.fault(&problem.answer) {
            return Err(wrong(format!("line {line}: {fault}")));
        }
        if problem.family == ALL {
            return Err(wrong(format!("line {line}: no family may be called '{ALL}'; rename it")));
        }
        if !ids.insert(problem.id.clone()) {
            return Err(wrong(format!("line {line}: the id '{}' is taken; ids are unique", problem.id)));
        }
        let count = taken.entry(problem.family.clone()).or_default();
        let wanted = families.is_empty() || families.contains(&problem.family);
        if wanted && limit.is_none_or(|limit| *count < limit) {
            *count += 1;
            problems.push((place, problem));
        }
    }
    if let Some(missing) = families.iter().find(|family| !taken.contains_key(*family)) {
        let known: BTreeSet<&str> = taken.keys().map(String::as_str).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(wrong(format!("it has no family '{missing}', only {}", known.join(", "))));
    }
    if problems.is_empty() {
        return Err(wrong("it has no problems".to_owned()));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/eval/dev.jsonl");

    fn places(limit: Option<usize>, families: &[&str]) -> Vec<usize> {
        let families: Vec<String> = families.iter().map(|&family| family.to_owned()).collect();
        read(Path::new(DEV), limit, &families).unwrap().into_iter().map(|(place, _)| place).collect()
    }

    fn refused(text: &str) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        read(file.path(), None, &[]).unwrap_err().to_string()
    }

    #[test]
    fn a_limit_and_families_keep_problems_in_their_places() {
        assert_eq!(places(None, &[]).len(), 600);
        assert_eq!(places(Some(2), &[]), [0, 1, 200, 201, 400, 401]);
        assert_eq!(places(Some(2), &["expr"]), [200, 201]);
        let error = read(Path::new(DEV), None, &["exprs".to_owned()]).unwrap_err().to_string();
        assert!(error.ends_with("it has no family 'exprs', only expr, story, target"), "{error}");
    }

    #[test]
    fn an_answer_that_its_check_can_never_find_is_refused() {
        let line = |kind: &str, answer: &str| {
            format!(r#"{{"id":"a","problem":"?","answer":"{answer}","check":{{"kind":"{kind}"}}}}"#)
        };
        for (kind, answer, wanted) in [
            ("number", "1/2", "a number"),
            ("number", "5 cm", "a number"),
            ("choice", "Paris", "a letter from A to J"),
            ("choice", "b", "a letter from A to J"),
            ("answer", "4.0", "an integer in digits alone, such as -4,"),
            ("answer", "+4", "an integer in digits alone, such as -4,"),
            ("answer", " 4", "an integer in digits alone, such as -4,"),
            ("answer", "-", "an integer in digits alone, such as -4,"),
            ("answer", "four", "an integer in digits alone, such as -4,"),
            ("answer", "", "an integer in digits alone, such as -4,"),
            ("equiv", "", "a text"),
            ("equiv", " ", "a text"),
        ] {
            let error = refused(&line(kind, answer));
            let expected = format!("line 1: its check needs {wanted} for an answer, not '{answer}'");
            assert!(error.ends_with(&expected), "{error}");
        }
        for (kind, answer) in
            [("number", "-1,234.5"), ("choice", "J"), ("equiv", "Paris"), ("answer", "-4"), ("answer", "007")]
        {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            std::io::Write::write_all(&mut file, line(kind, answer).as_bytes()).unwrap();
            assert_eq!(read(file.path(), None, &[]).unwrap().len(), 1, "{kind}");
        }
    }

    #[test]
    fn a_puzzle_that_nobody_can_solve_is_refused() {
        let line = |numbers: &str, target: u64, answer: &str| {
            let check = format!(r#"{{"kind":"countdown","numbers":[{numbers}],"target":{target}}}"#);
            format!(r#"{{"id":"a","problem":"?","answer":"{answer}","check":{check}}}"#)
        };
        for (numbers, target, answer, why) in [
            ("3,3", 9, "7", "its check needs its target, 9, for an answer, not '7'"),
            ("3,3", 9, "09", "its check needs its target, 9, for an answer, not '09'"),
            ("", 9, "9", "its check has 0 numbers, and may have 1 to 6"),
            ("1,2,3,4,5,6,7,8,9", 1234, "1234", "its check has 9 numbers, and may have 1 to 6"),
            ("3,4", 9, "9", "its target, 9, cannot be made of [3, 4]"),
            ("1,3,4", 1_234, "1234", "each used once and no intermediate value over 999"),
            ("7", 9, "9", "its target, 9, cannot be made of [7]"),
        ] {
            let error = refused(&line(numbers, target, answer));
            assert!(error.contains("line 1: its ") && error.contains(why), "{error}");
        }
        for (numbers, target) in [("3,3", 9), ("9", 9), ("600,634", 1_234), ("40,50,1001", 999)] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let text = line(numbers, target, &target.to_string());
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            let read = read(file.path(), None, &[]).map(|problems| problems.len());
            assert!(read.is_ok(), "{numbers} {target}: {read:?}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        assert!(refused("\n{\"id\": 1}\n").contains("line 2"));
        let line = |family: &str| {
            format!(
                "{{\"id\":\"a\",{family}\"problem\":\"?\",\"answer\":\"1\",\"check\":{{\"kind\":\"equiv\"}}}}\n"
            )
        };
        let twice = refused(&[line(""), line("")].concat());
        assert!(twice.contains("line 2: the id 'a' is taken"), "{twice}");
        assert!(refused(&line("\"family\":\"all\",")).contains("no family may be called 'all'"));
        assert!(refused("\n").contains("it has no problems"));
    }
}
