//! Verdicts on responses.
//!
//! `answer` and `countdown` are exactly the bundled suite's own checks: the rule is `is_right` and `check_steps` of the bundled models' generator
//! (`models/seedling/train/gen.py`); `tests/fixtures/grades.jsonl` holds its
//! verdicts, and a test compares all of them. `equiv` is for suites whose answers
//! have many spellings, and as strict as the votes' own equality.

use crate::answer;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// No intermediate value of a puzzle exceeds this.
const LARGEST: u64 = 999;

/// How a problem's responses are checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Check {
    /// The last boxed integer must equal the answer.
    Answer,
    /// The final answer must be the same as the right one by [`answer::equiv`].
    Equiv,
    /// The last boxed integer must equal the answer, and every step must be a true equation over the numbers left,
    /// each used once, with the target still within reach.
    Countdown {
        /// The numbers to use.
        numbers: Vec<u64>,
        /// What to make of them.
        target: u64,
    },
}

/// A response as it is graded.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// What it says to the user.
    pub content: &'a str,
    /// Thought and content joined: all that the model wrote but for a marker that
    /// the server hides.
    pub whole: &'a str,
}

impl<'a> Response<'a> {
    /// One whose thought is not told apart.
    #[must_use]
    pub fn undivided(text: &'a str) -> Self {
        Self { content: text, whole: text }
    }

    /// The final answer, where there is one. The content comes first: where the
    /// `</think>` between the two is hidden, the whole reads as a thought that
    /// never ends.
    #[must_use]
    pub fn answer(&self) -> Option<&'a str> {
        answer::extract(self.content).or_else(|| answer::extract(self.whole))
    }
}

/// Whether a response is right.
#[must_use]
pub fn is_right(check: &Check, answer: &str, response: Response<'_>) -> bool {
    let last = || boxed(response.whole).last() == Some(&answer);
    match check {
        Check::Answer => last(),
        Check::Equiv => response.answer().is_some_and(|given| answer::equiv(given, answer)),
        Check::Countdown { numbers, target } => last() && derives(numbers, *target, answer, response.whole),
    }
}

/// Whether every step of a derivation holds.
fn derives(numbers: &[u64], target: u64, answer: &str, text: &str) -> bool {
    let mut reach = HashMap::new();
    let mut left = numbers.to_vec();
    text.trim().split("\n\n").filter(|step| !step.is_empty()).all(|step| {
        if step.starts_with("The answer is") {
            return boxed(step).first() == Some(&answer) && left == [target];
        }
        match after_step(&left, step) {
            Some(next) if within_reach(&next, target, &mut reach) => {
                left = next;
                true
            }
            Some(_) | None => false,
        }
    })
}

/// The integers in `\boxed{...}`, as spelled, in order.
fn boxed(text: &str) -> Vec<&str> {
    let pieces = text.split("\\boxed{").skip(1);
    let spelled = pieces.filter_map(|piece| piece.split_once('}').map(|(inside, _)| inside));
    spelled.filter(|inside| is_digits(inside.strip_prefix('-').unwrap_or(inside))).collect()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The numbers left after a step `a op b = v, left: ...`; `None` unless it is
/// true, uses numbers that are there and lists what is left.
fn after_step(left: &[u64], step: &str) -> Option<Vec<u64>> {
    // A Python `$` matches before a last line break too.
    let step = step.strip_suffix('\n').unwrap_or(step);
    if step.contains('\n') {
        return None;
    }
    let (a, rest) = leading_number(step)?;
    let rest = rest.strip_prefix(' ')?;
    let op = rest.chars().next().filter(|c| "+*/-".contains(*c))?;
    let (b, rest) = leading_number(rest[1..].strip_prefix(' ')?)?;
    let (v, rest) = leading_number(rest.strip_prefix(" = ")?)?;
    let holds = match op {
        '+' => a.checked_add(b) == Some(v),
        '-' => a.checked_sub(b) == Some(v),
        '*' => a.checked_mul(b) == Some(v),
        _ => b != 0 && b.checked_mul(v) == Some(a),
    };
    if !holds {
        return None;
    }
    let mut next = left.to_vec();
    for used in [a, b] {
        next.swap_remove(next.iter().position(|&n| n == used)?);
    }
    next.push(v);
    if next.len() == 1 {
        return rest.is_empty().then_some(next);
    }
    // Compared as spelled: `05` is not 5.
    let mut listed: Vec<String> = rest.strip_prefix(", left: ")?.split(", ").map(str::to_owned).collect();
    let mut expected: Vec<String> = next.iter().map(u64::to_string).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    (listed == expected).then_some(next)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Whether the target can be made of all the numbers; `known` remembers.
fn within_reach(numbers: &[u64], target: u64, known: &mut HashMap<Vec<u64>, bool>) -> bool {
    if let [only] = numbers {
        return *only == target;
    }
    let mut key = numbers.to_vec();
    key.sort_unstable();
    if let Some(&answer) = known.get(&key) {
        return answer;
    }
    let pairs = (0..key.len()).flat_map(|i| (0..key.len()).map(move |j| (i, j))).filter(|(i, j)| i != j);
    let answer = pairs.into_iter().any(|(i, j)| {
        let rest: Vec<u64> = (0..key.len()).filter(|&k| k != i && k != j).map(|k| key[k]).collect();
        results(key[i], key[j]).into_iter().flatten().filter(|&v| v <= LARGEST).any(|v| {
            let mut next = rest.clone();
            next.push(v);
            within_reach(&next, target, known)
        })
    });
    known.insert(key, answer);
    answer
}

/// What the four operations make of an ordered pair, where they may be used.
fn results(a: u64, b: u64) -> [Option<u64>; 4] {
    let quotient = if b != 0 && a.is_multiple_of(b) { Some(a / b) } else { None };
    [a.checked_add(b), a.checked_sub(b), a.checked_mul(b), quotient]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(check: &Check, answer: &str, text: &str) -> bool {
        is_right(check, answer, Response::undivided(text))
    }

    #[derive(Deserialize)]
    struct Graded {
        problem: String,
        answer: String,
        check: Check,
        text: String,
        right: bool,
    }

    #[test]
    fn every_verdict_is_that_of_the_suites_own_checker() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/grades.jsonl");
        let file = std::fs::read_to_string(path).unwrap();
        let graded: Vec<Graded> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(graded.len() > 300);
        for g in graded {
            assert_eq!(verdict(&g.check, &g.answer, &g.text), g.right, "{}\n{:?}", g.problem, g.text);
        }
    }

    #[test]
    fn spellings_of_one_answer_are_equivalent_and_others_are_not() {
        for (text, right) in [
            ("So \\boxed{\\frac{1}{2}}.", true),
            ("The answer is 0.5.", true),
            ("\\boxed{50\\%}", false),
            ("no idea", false),
        ] {
            assert_eq!(verdict(&Check::Equiv, "1/2", text), right, "{text}");
        }
        assert!(!verdict(&Check::Answer, "1/2", "\\boxed{1/2}"), "only integers");
    }

    #[test]
    fn a_hidden_end_of_the_thought_does_not_hide_the_answer() {
        let thought = "<think>\nIs it \\boxed{3}?\n";
        for (content, given) in [("It is \\boxed{\\frac{1}{2}}.", Some("\\frac{1}{2}")), ("No idea.", None)] {
            let whole = format!("{thought}{content}");
            let response = Response { content, whole: &whole };
            assert_eq!(response.answer(), given);
            assert_eq!(is_right(&Check::Equiv, "0.5", response), given.is_some(), "{content}");
        }
        // A server may call all of it a thought, or leave the marker where it was.
        for (content, whole) in [("", "So \\boxed{5}"), ("", "<think>3</think>\\boxed{5}")] {
            assert!(is_right(&Check::Equiv, "5", Response { content, whole }), "{whole}");
        }
    }

    #[test]
    fn a_legal_step_into_a_dead_end_is_wrong() {
        let check = Check::Countdown { numbers: vec![25, 16, 20], target: 61 };
        let end = "The answer is \\boxed{61}.";
        let good = format!("25 + 16 = 41, left: 20, 41\n\n20 + 41 = 61\n\n{end}");
        assert!(verdict(&check, "61", &good));
        let dead = format!("25 - 16 = 9, left: 20, 9\n\n20 + 9 = 29\n\n{end}");
        assert!(!verdict(&check, "61", &dead));
    }

    #[test]
    fn numbers_beyond_any_machine_word_are_wrong_not_a_panic() {
        let check = Check::Countdown { numbers: vec![1, 2], target: 3 };
        let huge = "9".repeat(80);
        assert!(!verdict(&check, "3", &format!("{huge} + 2 = 3\n\nThe answer is \\boxed{{3}}.")));
    }
}
