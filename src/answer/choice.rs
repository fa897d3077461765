//! The letter of a multiple-choice answer.

use super::extract::{after_thought, extract, last_box};

/// What introduces a letter, in any case.
const WORDS: &[&str] = &["answer is", "answer:", "answer**:", "option is", "option:", "choice is", "choice:"];

/// What may stand around a letter without a meaning.
const OPENING: &[char] = &['*', '$', '(', '[', '{', '"', '\'', '`', '_', ':'];
const CLOSING: &[char] = &['*', '$', ')', ']', '}', '"', '\'', '`', '_', '\\'];
const COMMANDS: &[&str] = &["\\text{", "\\textbf{", "\\mathrm{", "\\mathbf{", "\\(", "\\["];

/// The letter, A to J, of a multiple-choice answer: what the last `\boxed{...}` holds,
/// else what the last "answer is", "answer:", "option is" and their like introduce, else
/// all of the text. The letter stands alone, as in `B`, `(B)` and `**B**`, or before
/// words that do not belong to it, as in `B) Paris` and "B, because". It is in capitals,
/// because `a` is a word; so is `A`, hence no letter that stands anywhere else counts.
#[must_use]
pub fn choice(text: &str) -> Option<char> {
    let text = after_thought(text)?;
    let boxed = match last_box(text) {
        Some(inside) => letter(inside?),
        None => None,
    };
    boxed.or_else(|| introduced(text)).or_else(|| extract(text).and_then(letter)).or_else(|| whole(text))
}

/// The last letter that words introduce.
fn introduced(text: &str) -> Option<char> {
    let bytes = text.as_bytes();
    (0..bytes.len()).rev().find_map(|at| {
        let begins = |words: &&&str| {
            bytes[at..].get(..words.len()).is_some_and(|head| head.eq_ignore_ascii_case(words.as_bytes()))
        };
        // The words are ASCII, so their end is a character boundary.
        letter(&text[at + WORDS.iter().find(begins)?.len()..])
    })
}

/// The letter that is a whole response, or its first paragraph.
fn whole(text: &str) -> Option<char> {
    let text = text.trim();
    let (first, more) = text.split_once('\n').unwrap_or((text, ""));
    let alone = || first.trim_matches(|c: char| !c.is_alphanumeric()).len() == 1;
    let paragraph =
        more.is_empty() || (more.trim_start_matches([' ', '\t', '\r']).starts_with('\n') && alone());
    if paragraph { letter(first) } else { None }
}

/// The letter at the beginning of a text, where no word begins with it.
fn letter(text: &str) -> Option<char> {
    let mut text = opened(text);
    for word in ["option", "choice"] {
        let begins = text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
        if begins {
            text = opened(&text[word.len()..]);
        }
    }
    let letter = text.chars().next().filter(|c| ('A'..='J').contains(c))?;
    ends(&text[1..]).then_some(letter)
}

/// The text behind what may stand before a letter.
fn opened(mut text: &str) -> &str {
    loop {
        let bare = text.trim_start_matches(|c: char| c.is_whitespace() || OPENING.contains(&c));
        let bare = COMMANDS.iter().find_map(|command| bare.strip_prefix(command)).unwrap_or(bare);
        if bare.len() == text.len() {
            return text;
        }
        text = bare;
    }
}

/// Whether an answer of one letter may go on like this. Only the beginning is read,
/// so that many letters in one line cost no more than the line.
fn ends(rest: &str) -> bool {
    let behind = rest.trim_start_matches(CLOSING);
    let marks = &rest[..rest.len() - behind.len()];
    let marked = marks.contains([')', ']', '}']) || marks.contains("**");
    let next = behind.trim_start_matches([' ', '\t', '\r']);
    let apart = next.len() < behind.len();
    let begins = |words: [&str; 2]| words.iter().any(|word| words_follow(next, word));
    match next.chars().next() {
        None | Some('\n' | ':' | '!' | '–' | '—') => true,
        Some('-') => apart,
        // `D.C.` is a name.
        Some('.') => !alone(&next[1..]),
        Some(',' | ';') => !another(&next[1..]),
        Some('&' | '/') => false,
        Some(_) if begins(["and", "or"]) && another(next) => false,
        Some(_) => marked || (apart && begins(["because", "since"])),
    }
}

fn words_follow(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Whether a list of letters goes on here.
fn another(text: &str) -> bool {
    let text = text.trim_start_matches(' ');
    let text = ["and ", "or "].iter().find_map(|word| text.strip_prefix(word)).unwrap_or(text);
    let text = opened(text);
    // A capital before a space may be the word "A" or "I".
    alone(text) && !text.starts_with("A ") && !text.starts_with("I ")
}

/// Whether a text begins with a letter that begins no word.
fn alone(text: &str) -> bool {
    let mut text = text.chars();
    text.next().is_some_and(|c| ('A'..='J').contains(&c)) && !text.as_str().starts_with(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_choice_is_a_capital() {
        for text in [
            "\\boxed{B}",
            "\\boxed{\\text{(B)}}",
            "\\boxed{\\textbf{(B)}\\ 12}",
            "the answer is (B) Paris",
            "The answer is **B**.",
            "answer: B: Paris",
            "#### B",
        ] {
            assert_eq!(choice(text), Some('B'), "{text}");
        }
        for text in ["the answer is a lot", "The answer is Be", "\\boxed{K}", "\\boxed{5}"] {
            assert_eq!(choice(text), None, "{text}");
        }
        assert_eq!(choice("A"), Some('A'));
    }

    #[test]
    fn many_words_introduce_a_choice() {
        for text in [
            "The correct answer is B.",
            "The correct answer is (B).",
            "The correct option is B.",
            "So the best answer is (B).",
            "The right choice is: **B**",
            "Correct answer: B",
            "The answer is B, because A is too small.",
            "The answer is B because of that.",
            "The answer is B; the others are too small.",
            "The answer is B since it is.",
            "The answer is B – Paris",
            "The answer is option B.",
            "The answer is Option (B).",
            "### Answer: B",
            "**Answer**: B\n\nIt is Paris.",
            "**Final Answer**\n\nB",
            "The answer is:\n\n**B**\n",
            "The answer is $\\text{B}$.",
            "The answer is (B) and not (A) as some think.",
            "The answer is A? No, the answer is B. I am sure that this answer is correct.",
            "The value is \\boxed{12}, so the answer is (B).",
        ] {
            assert_eq!(choice(text), Some('B'), "{text}");
        }
    }

    #[test]
    fn a_letter_may_be_a_whole_response() {
        for text in
            ["B", " B.\n", "(B)", "**B**", "B) Paris", "B. Paris", "**B.** Paris", "B\n\nA is too small."]
        {
            assert_eq!(choice(text), Some('B'), "{text}");
        }
        assert_eq!(choice("I"), Some('I'));
    }

    #[test]
    fn a_letter_that_begins_words_or_a_list_is_no_choice() {
        for text in [
            "A lot of people think so.",
            "I think that it is hard.",
            "The answer is A lot of rain.",
            "The answer is I think unknown.",
            "The answer is B and C.",
            "The answer is (A) or (B).",
            "The answer is A, B, and C.",
            "The answer is **A** or **B**",
            "The answer is D.C. as ever.",
            "The answer is B-52.",
            "The answer is not B.",
            "It might be B.",
            "A\nB\nC",
            "\\boxed{A = 5}",
            "The answer is B, so \\boxed{",
            "<think>The answer is B.",
        ] {
            assert_eq!(choice(text), None, "{text}");
        }
    }

    #[test]
    fn many_words_in_one_line_cost_no_more_than_the_line() {
        // One that read the line once per word would not come to its end here.
        assert_eq!(choice(&"the answer is (((A x ".repeat(100_000)), None);
        assert_eq!(choice(&format!("{}{}", "answer is ".repeat(100_000), "(".repeat(1_000_000))), None);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(
            text in "(\\PC|[-A-K(){}*$,.: é]|the answer is|Answer:|option| and |because|</?think>|####|\n){0,20}",
        ) {
            prop_assert!(choice(&text).is_none_or(|c| text.contains(c)));
        }
    }
}
