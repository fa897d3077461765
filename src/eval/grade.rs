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

/// Numbers of a puzzle, at most: whether a target is within reach of so many is found
/// in a tenth of a second, and with each more it takes some twenty times as long.
const MOST_NUMBERS: usize = 6;

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
    /// What is wrong with a problem of this check and this answer, to which no response
    /// could ever be right.
    pub(super) fn fault(&self, answer: &str) -> Option<String> {
        let letter = || answer.parse().is_ok_and(|letter: char| ('A'..='J').contains(&letter));
        let needs = |what: &str, met: bool| {
            (!met).then(|| format!("its check needs {what} for an answer, not '{answer}'"))
        };
        match self {
            Self::Answer => needs("an integer in digits alone, such as -4,", is_integer(answer)),
            Self::Equiv => needs("a text", !answer.trim().is_empty()),
            Self::Number => needs("a number", answer::last_number(answer) == Some(answer)),
            Self::Choice => needs("a letter from A to J", letter()),
            Self::Countdown { numbers, target } => {
                let count = numbers.len();
                if !(1..=MOST_NUMBERS).contains(&count) {
                    return Some(format!("its check has {count} numbers, and may have 1 to {MOST_NUMBERS}"));
                }
                let other = needs(&format!("its target, {target},"), answer == target.to_string());
                other.or_else(|| {
                    let why = || {
                        format!(
                            "its target, {target}, cannot be made of {numbers:?}, each used once and no \
                             intermediate value over {LARGEST}"
                        )
                    };
                    (!is_attainable(numbers, *target)).then(why)
                })
            }
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
    spelled.filter(|inside| is_integer(inside)).collect()
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
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

/// Whether some derivation is right. Its first step may make a larger value than those
/// that are searched for after each step.
fn is_attainable(numbers: &[u64], target: u64) -> bool {
    let mut known = HashMap::new();
    within_reach(numbers, target, &mut known)
        || steps(numbers).any(|(_, next)| within_reach(&next, target, &mut known))
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
    let small = |step: &(u64, Vec<u64>)| step.0 <= LARGEST;
    let answer = steps(&key).filter(small).any(|(_, next)| within_reach(&next, target, known));
    known.insert(key, answer);
    answer
}

/// Every step from these numbers: the value that it makes, and what is left then.
fn steps(numbers: &[u64]) -> impl Iterator<Item = (u64, Vec<u64>)> + '_ {
    let places = 0..numbers.len();
    let pairs = places.clone().flat_map(move |i| places.clone().map(move |j| (i, j))).filter(|(i, j)| i != j);
    pairs.flat_map(move |(i, j)| {
        results(numbers[i], numbers[j]).into_iter().flatten().map(move |value| {
            let rest = (0..numbers.len()).filter(|&k| k != i && k != j).map(|k| numbers[k]);
            (value, rest.chain([value]).collect())
        })
    })
}

/// What the four operations make of an ordered pair, where they may be used.
fn results(a: u64, b: u64) -> [Option<u64>; 4] {
    let quotient = if b != 0 && a.is_multiple_of(b) { Some(a / b) } else { None };
    [a.checked_add(b), a.checked_sub(b), a.checked_mul(b), quotient]
}

#[cfg(test)]
mod tests;
