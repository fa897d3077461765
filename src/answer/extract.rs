//! Where in a text its final answer stands.

/// An answer introduced by words and longer than this many bytes is prose.
const LONGEST_PHRASE: usize = 100;

/// The final answer that a text gives: what the last `\boxed{...}` holds, else
/// what the last "the answer is" or "final answer is" introduces on its line, else
/// the last line that begins with "answer:" or "final answer:" (in any case) or with
/// GSM8K's `####`. Only what follows the last `</think>` counts; a thought that never
/// ends has no answer. A last `\boxed{` that is never closed is an answer cut off,
/// hence none.
#[must_use]
pub fn extract(text: &str) -> Option<&str> {
    let text = after_thought(text)?;
    let opening =
        ["\\boxed{", "\\fbox{"].iter().filter_map(|open| Some((text.rfind(open)?, open.len()))).max();
    let answer = match opening {
        Some((at, len)) => closed(&text[at + len..])?.trim(),
        None => phrase(text).or_else(|| line(text))?,
    };
    (!answer.is_empty()).then_some(answer)
}

/// The last number in a text, for tasks whose every answer is one. A rule of its
/// own: no other falls back to it, because the last number of prose is not its answer.
#[must_use]
pub fn last_number(text: &str) -> Option<&str> {
    let text = after_thought(text)?;
    let bytes = text.as_bytes();
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let part = |i: usize| match bytes[i] {
        b'0'..=b'9' => true,
        // Separators belong to a number only between its digits.
        b'.' | b',' => i + 1 < end && bytes[i + 1].is_ascii_digit(),
        _ => false,
    };
    let mut from = end - 1;
    while from > 0 && part(from - 1) && (end - from) <= LONGEST_PHRASE {
        from -= 1;
    }
    if bytes[from] == b',' {
        from += 1;
    }
    // A minus is a sign unless it stands behind a value, as in `7-3`.
    let signed = from > 0 && bytes[from - 1] == b'-';
    let behind_value =
        from > 1 && (bytes[from - 2].is_ascii_alphanumeric() || matches!(bytes[from - 2], b')' | b'}'));
    Some(&text[if signed && !behind_value { from - 1 } else { from }..end])
}

/// The letter, A to J, of a multiple-choice answer: the extracted answer where it is
/// `B`, `(B)`, `B.` or one of these before words, in any markup. The letter is in
/// capitals, because `a` is a word.
#[must_use]
pub fn choice(text: &str) -> Option<char> {
    let mut answer = extract(text)?;
    for command in ["\\text{", "\\textbf{", "\\mathrm{", "\\mathbf{"] {
        answer = answer.strip_prefix(command).unwrap_or(answer);
    }
    let answer = answer.trim_start_matches(['$', '*', ' ', '(']);
    let letter = answer.chars().next().filter(|c| ('A'..='J').contains(c))?;
    let rest = &answer[1..];
    let alone =
        rest.trim_matches(|c: char| matches!(c, '$' | '*' | '}' | '.' | ')') || c.is_whitespace()).is_empty();
    let named = rest.starts_with([')', '.', ':', '}']);
    (alone || named).then_some(letter)
}

fn after_thought(text: &str) -> Option<&str> {
    let text = text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..]);
    (!text.contains("<think>")).then_some(text)
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

/// What the last of the introducing words introduces.
fn phrase(text: &str) -> Option<&str> {
    let after = |words: &str| -> Option<usize> {
        let (bytes, words) = (text.as_bytes(), words.as_bytes());
        let ends_here = |at: usize| bytes.get(at + words.len()).is_none_or(|b| !b.is_ascii_alphanumeric());
        let mut windows = bytes.windows(words.len()).enumerate().rev();
        let (at, _) = windows.find(|(at, window)| window.eq_ignore_ascii_case(words) && ends_here(*at))?;
        Some(at + words.len())
    };
    // The words are ASCII, so both of their ends are character boundaries.
    let at = ["the answer is", "final answer is"].into_iter().filter_map(after).max()?;
    sentence(&text[at..])
}

/// What the last line holds that is marked as the answer.
fn line(text: &str) -> Option<&str> {
    let marked = |line: &'_ str| -> Option<usize> {
        let start = line.trim_start().trim_start_matches('*');
        let found = ["####", "final answer:", "answer:"]
            .iter()
            .find(|mark| start.get(..mark.len()).is_some_and(|head| head.eq_ignore_ascii_case(mark)))?;
        Some(line.len() - start.len() + found.len())
    };
    text.lines().rev().find_map(|line| marked(line).map(|at| &line[at..])).and_then(sentence)
}

fn sentence(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches([':', ' ', '\t', '*']);
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
    fn marked_lines_hold_answers() {
        assert_eq!(extract("Work.\n#### 72"), Some("72"));
        assert_eq!(extract("Work.\n**Answer:** 5.\n"), Some("5"));
        assert_eq!(extract("Final Answer: The final answer is $7$. I hope it is correct."), Some("$7$"));
        assert_eq!(extract("My answer: 5 or so"), None);
        assert_eq!(extract("\\fbox{4}"), Some("4"));
    }

    #[test]
    fn the_last_number_is_found_on_demand() {
        for (text, number) in [
            ("I have 3 cats, 1,234.5 dogs.", "1,234.5"),
            ("It is -7.", "-7"),
            ("7-3", "3"),
            ("costs $.50", ".50"),
            ("2024, 5", "5"),
            ("é12é", "12"),
        ] {
            assert_eq!(last_number(text), Some(number), "{text}");
        }
        assert_eq!(last_number("none"), None);
        assert_eq!(last_number("5 <think> 7"), None);
    }

    #[test]
    fn a_choice_is_a_capital() {
        for text in [
            "\\boxed{B}",
            "\\boxed{\\text{(B)}}",
            "the answer is (B) Paris",
            "The answer is **B**.",
            "answer: B: Paris",
        ] {
            assert_eq!(choice(text), Some('B'), "{text}");
        }
        for text in ["the answer is a lot", "The answer is Be", "\\boxed{K}", "\\boxed{5}", "A"] {
            assert_eq!(choice(text), None, "{text}");
        }
    }

    #[test]
    fn a_thought_that_never_ends_has_no_answer() {
        assert_eq!(extract("<think>\\boxed{1}"), None);
        assert_eq!(extract("<think>a</think>\\boxed{1}<think>\\boxed{2}"), None);
    }

    #[test]
    fn only_what_follows_the_thought_counts() {
        assert_eq!(extract("<think>\\boxed{1}</think>It is \\boxed{2}"), Some("2"));
        assert_eq!(extract("<think>\\boxed{1}</think>It is two"), None);
    }

    proptest! {
        #[test]
        fn extraction_never_panics(text in "(the answer is|\\\\boxed|[{}\\\\é. \n]|</think>){0,12}") {
            let answer = extract(&text);
            prop_assert!(answer.is_none_or(|a| !a.is_empty() && text.contains(a)));
        }

        #[test]
        fn the_other_rules_never_panic(text in "(\\PC|[-0-9,.A-K(){}é]|the answer is|</?think>|####|\n){0,20}") {
            prop_assert!(last_number(&text).is_none_or(|n| text.contains(n) && n.ends_with(|c: char| c.is_ascii_digit())));
            prop_assert!(choice(&text).is_none_or(|c| text.contains(c)));
        }
    }
}
