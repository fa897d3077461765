//! Verdicts on responses.
//!
//! `answer` and `countdown` are exactly the bundled suite's own checks: the rule is `is_right` and `check_steps` of the bundled models' generator
//! (`models/seedling/train/gen.py`); `tests/fixtures/grades.jsonl` holds its
//! verdicts, and a test compares all of them. `equiv` is for suites whose answers
//! have many spellings, and as strict as the votes' own equality. `number` and
//! `choice` are for suites of one kind of answer, and for models that are not told
//! how to mark it; votes know neither.

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
    /// The last number of the response, of its last box where it has one, must equal the answer, a number, by
    /// [`answer::equiv`].
    Number,
    /// The letter, A to J, that the response chooses by [`answer::choice()`] must be the answer, a letter.
    Choice,
    /// The last boxed integer must equal the answer, and every step must be a true equation over the numbers left,
    /// each used once, with the target still within reach.
    Countdown {
        /// The numbers to use.
        numbers: Vec<u64>,
        /// What to make of them.
        target: u64,
    },
}

impl Check {
    /// What an answer has to be for this check, where this one is not: no response
    /// could ever be right.
    pub(super) fn wants(&self, answer: &str) -> Option<&'static str> {
        let letter = || answer.parse().is_ok_and(|letter: char| ('A'..='J').contains(&letter));
        match self {
            Self::Number => (answer::last_number(answer) != Some(answer)).then_some("a number"),
            Self::Choice => (!letter()).then_some("a letter from A to J"),
            Self::Answer | Self::Equiv | Self::Countdown { .. } => None,
        }
    }

    /// The final answer of a response as this check reads it, where there is one.
    #[must_use]
    pub fn given(&self, response: Response<'_>) -> Option<String> {
        match self {
            Self::Number => response.read(answer::last_number).map(str::to_owned),
            Self::Choice => response.read(answer::choice).map(String::from),
            Self::Answer | Self::Equiv | Self::Countdown { .. } => {
                response.read(answer::extract).map(str::to_owned)
            }
        }
    }
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

    /// What a rule finds. The content comes first: where the `</think>` between the
    /// two is hidden, the whole reads as a thought that never ends.
    fn read<T>(&self, rule: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        rule(self.content).or_else(|| rule(self.whole))
    }
}

/// Whether a response is right.
#[must_use]
pub fn is_right(check: &Check, answer: &str, response: Response<'_>) -> bool {
    let last = || boxed(response.whole).last() == Some(&answer);
    match check {
        Check::Answer => last(),
        Check::Equiv | Check::Number => {
            check.given(response).is_some_and(|given| answer::equiv(&given, answer))
        }
        Check::Choice => check.given(response).as_deref() == Some(answer),
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
mod tests;
