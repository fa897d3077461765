//! Where in a text its final answer stands.

/// An answer introduced by words and longer than this many bytes is prose.
const LONGEST_PHRASE: usize = 100;

/// A line below an introduction that has more words is prose too.
const MOST_WORDS: usize = 4;

/// The final answer that a text gives: what the last `\boxed{...}` holds, else
/// what the last "the answer is" or "final answer is" introduces, else what the last
/// line introduces that begins with "answer:" or "final answer:" (in any case), is a
/// heading of these words, or begins with GSM8K's `####`. What is introduced stands on
/// the same line, or on the next that is not empty, where that is announced by a colon
/// or is a formula. Only what follows the last `</think>` counts; a thought that never
/// ends has no answer. A last `\boxed{` that is never closed is an answer cut off,
/// hence none.
#[must_use]
pub fn extract(text: &str) -> Option<&str> {
    let text = after_thought(text)?;
    match last_box(text) {
        Some(inside) => inside.filter(|answer| !answer.is_empty()),
        None => phrase(text).or_else(|| line(text)),
    }
}

/// What the last box in a text holds; nothing where that is cut off.
pub(super) fn last_box(text: &str) -> Option<Option<&str>> {
    let (at, len) =
        ["\\boxed{", "\\fbox{"].iter().filter_map(|open| Some((text.rfind(open)?, open.len()))).max()?;
    Some(closed(&text[at + len..]).map(str::trim))
}

pub(super) fn after_thought(text: &str) -> Option<&str> {
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
    introduced(&text[at..], false)
}

/// What the last line introduces that is marked to do so.
fn line(text: &str) -> Option<&str> {
    let mut end = text.len();
    loop {
        let from = text[..end].rfind('\n').map_or(0, |at| at + 1);
        if let Some((len, announced)) = mark(&text[from..end]) {
            return introduced(&text[from + len..], announced);
        }
        end = from.checked_sub(1)?;
    }
}

/// The length of the mark at the beginning of a line, and whether it announces what
/// stands below.
fn mark(line: &str) -> Option<(usize, bool)> {
    let start = line.trim_start();
    let words = start.trim_start_matches(['#', '*', ' ']);
    let name = ["final answer", "answer"]
        .iter()
        .find(|name| words.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name)));
    if let Some(name) = name {
        let rest = words[name.len()..].trim_start_matches('*');
        let heading = words.len() < start.len() && rest.trim().is_empty();
        if heading || rest.starts_with(':') {
            return Some((line.len() - rest.len(), true));
        }
    }
    let rest = start.trim_start_matches('*').strip_prefix("####")?;
    (!rest.starts_with('#')).then_some((line.len() - rest.len(), false))
}

/// The answer behind its introduction: on the same line, or below it.
fn introduced(text: &str, announced: bool) -> Option<&str> {
    let (line, below) = text.split_once('\n').unwrap_or((text, ""));
    if !bare(line).is_empty() {
        return sentence(text);
    }
    let below = below.trim_start();
    let formula = ["$", "\\[", "\\("].iter().any(|open| below.starts_with(open));
    // One item of several is not the answer.
    let item = ["- ", "* ", "• ", "+ ", "1. ", "1) "].iter().any(|bullet| below.starts_with(bullet));
    let below = below.strip_prefix("####").unwrap_or(below);
    ((announced || formula || line.contains(':')) && !item).then(|| sentence(below))?.filter(|a| is_terse(a))
}

/// Whether a line of its own may be an answer, not the beginning of a text about it.
fn is_terse(answer: &str) -> bool {
    let words = answer.split(|c: char| !c.is_alphabetic() && c != '\\');
    let words = words.filter(|word| word.len() > 1 && !word.contains('\\'));
    words.count() <= MOST_WORDS && !answer.ends_with(':')
}

/// A line without what may stand before its answer.
fn bare(text: &str) -> &str {
    text.trim_start_matches([':', ' ', '\t', '\r', '*'])
}

/// The answer at the beginning of a text: a displayed formula, or the first sentence of
/// a line.
fn sentence(text: &str) -> Option<&str> {
    let rest = bare(text);
    let line = rest.lines().next()?;
    let answer = match displayed(rest, line) {
        Some(inside) => inside?.trim(),
        None => line
            .split(". ")
            .next()?
            .trim()
            .trim_end_matches('.')
            .trim_matches('*')
            .trim_end_matches('.')
            .trim(),
    };
    let is_rule = answer.len() > 2 && answer.bytes().all(|b| b"-_=*#".contains(&b));
    let says = !answer.is_empty() && !is_rule && !answer.starts_with("```");
    (says && answer.len() <= LONGEST_PHRASE).then_some(answer)
}

/// What a formula holds that is displayed over several lines; nothing where it is cut off.
fn displayed<'a>(text: &'a str, line: &str) -> Option<Option<&'a str>> {
    [("\\[", "\\]"), ("$$", "$$")].into_iter().find_map(|(open, close)| {
        let goes_on = !line.strip_prefix(open)?.contains(close);
        goes_on.then(|| text[open.len()..].split_once(close).map(|(inside, _)| inside))
    })
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
    fn an_answer_may_stand_below_its_introduction() {
        for text in [
            "The final answer is:\n\n$$42$$",
            "The final answer is:\n\n\\[ 42 \\]",
            "So the answer is\n$$\n42\n$$\nQED",
            "The answer is: \\[\n42\n\\]",
            "**The final answer is:**\r\n\r\n42.\r\n",
            "**Final Answer**\n\n42",
            "**Final Answer:**\n\n**42**",
            "## Final Answer: 42",
            "### Answer\n42\n\nThat is all.",
            "**Answer**: 42",
            "#### Answer: 42",
            "Answer:\n42",
            "The final answer is:\n42\n#### 41",
            "The final answer is:\n#### 42",
            "#### 42\nThe final answer is:",
            "#### 42\nThe final answer is.",
        ] {
            let answer = extract(text).map(|answer| answer.trim_matches(['$', ' ', '\\', '[', ']']));
            assert_eq!(answer, Some("42"), "{text}");
        }
    }

    #[test]
    fn what_stands_below_and_is_not_introduced_is_no_answer() {
        for text in [
            "The answer is\n\nSo we look again.",
            "The answer is:\n\n- 42\n- 43",
            "The answer is:\n\n1. 42\n2. 43",
            "## Answer\n\nLet n be the number of cats.",
            "## Answer\n\nWe compute:\n\n42",
            "The answer is:\n\n```\n42\n```",
            "Answer:\n\n---\n",
            "Answer:",
            "The answer is:\n\n\\[ 4",
            "Final Answer\n\n42",
            "##### 42",
        ] {
            assert_eq!(extract(text), None, "{text}");
        }
        assert_eq!(extract(&format!("**Answer**\n\n{}", "long ".repeat(40))), None);
    }

    #[test]
    fn extraction_reads_a_text_a_few_times_and_no_more() {
        // One that read it once per line or mark would not come to its end here.
        for piece in [
            "The answer is:\n",
            "Answer:\n",
            "**Answer**",
            "####",
            "# ",
            "\\boxed{",
            "$$\n",
            "\n \n",
            "<think>",
        ] {
            let text = piece.repeat(1_000_000 / piece.len());
            assert!(extract(&text).is_none_or(|answer| answer.len() <= LONGEST_PHRASE), "{piece}");
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
        fn extraction_never_panics(text in r"(the answer is|\\boxed|[{}\\é. \n:*#$5-]|\\\[|\\\]|</think>|Answer|####){0,12}") {
            let answer = extract(&text);
            prop_assert!(answer.is_none_or(|a| !a.is_empty() && text.contains(a)));
        }
    }
}
