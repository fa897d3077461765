//! Final answers in text: finding them, bringing them into one form, comparing them.
//!
//! Pure, and blind to where a text came from. Votes have no reference answer, so
//! everything here is conservative and symmetric: two answers are one only when
//! exact rules say so, percentages never equal fractions, and a text that merely
//! contains a number has no answer. Work is capped by length. Numeric or symbolic
//! evaluation is deliberately absent.

mod canonical;
mod expression;
mod ratio;
mod sum;
mod tidy;
mod value;

pub use canonical::canonical;

/// An answer introduced by words and longer than this many bytes is prose.
const LONGEST_PHRASE: usize = 100;

/// The final answer that a text gives: what the last `\boxed{...}` holds, else
/// what the last "the answer is" (in any case) introduces on its line. Only what
/// follows the last `</think>` counts. A last `\boxed{` that is never closed is
/// an answer cut off, hence none.
#[must_use]
pub fn extract(text: &str) -> Option<&str> {
    let text = text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..]);
    let answer = match text.rfind("\\boxed{") {
        Some(at) => closed(&text[at + "\\boxed{".len()..])?.trim(),
        None => phrase(text)?,
    };
    (!answer.is_empty()).then_some(answer)
}

/// Whether two answers are the same: equality of their canonical forms.
#[must_use]
pub fn equiv(a: &str, b: &str) -> bool {
    canonical(a) == canonical(b)
}

/// The text up to the brace that closes the one before it; escaped braces are text.
fn closed(text: &str) -> Option<&str> {
    let mut depth = 1usize;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(&text[..i]);
                }
            }
            _ => {}
        }
    }
    None
}

fn phrase(text: &str) -> Option<&str> {
    const WORDS: &[u8] = b"the answer is";
    let bytes = text.as_bytes();
    let ends_here = |at: usize| bytes.get(at + WORDS.len()).is_none_or(|b| !b.is_ascii_alphanumeric());
    let mut windows = bytes.windows(WORDS.len()).enumerate().rev();
    let (at, _) = windows.find(|(at, window)| window.eq_ignore_ascii_case(WORDS) && ends_here(*at))?;
    // The words are ASCII, so both of their ends are character boundaries.
    let rest = text[at + WORDS.len()..].trim_start_matches([':', ' ', '\t']);
    let line = rest.lines().next()?;
    let sentence = line.split(". ").next()?;
    let answer = sentence.trim().trim_end_matches('.').trim_matches('*').trim_end_matches('.').trim();
    (answer.len() <= LONGEST_PHRASE).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_box_is_the_answer() {
        assert_eq!(extract("\\boxed{1} then \\boxed{\\frac{1}{2}}."), Some("\\frac{1}{2}"));
        assert_eq!(extract("\\boxed{\\{1, 2\\}}"), Some("\\{1, 2\\}"));
        assert_eq!(extract("The answer is \\boxed{ 7 }."), Some("7"));
    }

    #[test]
    fn an_answer_cut_off_is_none() {
        assert_eq!(extract("\\boxed{1} then \\boxed{2"), None);
        assert_eq!(extract("\\boxed{}"), None);
        assert_eq!(extract("The answer is "), None);
    }

    #[test]
    fn words_introduce_an_answer() {
        assert_eq!(extract("So the Answer is: 3.5."), Some("3.5"));
        assert_eq!(extract("The answer is 3. The answer is **4**. Done.\nBye 5"), Some("4"));
        assert_eq!(extract(&format!("the answer is {}", "long ".repeat(40))), None);
    }

    #[test]
    fn a_number_alone_is_no_answer() {
        assert_eq!(extract("The answer isn't 5."), None);
        assert_eq!(extract("I have 3 cats and 2 dogs."), None);
        assert_eq!(extract(""), None);
    }

    #[test]
    fn only_what_follows_the_thought_counts() {
        assert_eq!(extract("<think>\\boxed{1}</think>It is \\boxed{2}"), Some("2"));
        assert_eq!(extract("<think>\\boxed{1}</think>It is two"), None);
    }

    proptest! {
        #[test]
        fn equivalence_is_symmetric_and_reflexive(a in "\\PC{0,30}", b in "\\PC{0,30}") {
            prop_assert_eq!(equiv(&a, &b), equiv(&b, &a));
            prop_assert!(equiv(&a, &a));
        }

        #[test]
        fn extraction_never_panics(text in "(the answer is|\\\\boxed|[{}\\\\é. \n]|</think>){0,12}") {
            let answer = extract(&text);
            prop_assert!(answer.is_none_or(|a| !a.is_empty() && text.contains(a)));
        }
    }
}
