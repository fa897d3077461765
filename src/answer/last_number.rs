//! The last number of a response.

use super::extract::{after_thought, last_box};

/// A longer run of digits and separators, in bytes, is taken from its end.
const LONGEST: usize = 100;

/// The last number in a text, for tasks whose every answer is one: of the last
/// `\boxed{...}` where there is one, else of all of it. A power is none, as in
/// `42 cm^2`. A rule of its own: no other falls back to it, because the last number of
/// prose is not its answer.
#[must_use]
pub fn last_number(text: &str) -> Option<&str> {
    let text = after_thought(text)?;
    let text = last_box(text).unwrap_or(Some(text))?;
    let mut end = text.len();
    loop {
        end = text.as_bytes()[..end].iter().rposition(u8::is_ascii_digit)? + 1;
        let from = start(text, end);
        if !is_power(&text[..from]) {
            return Some(&text[signed(text, from)..end]);
        }
        end = from;
    }
}

/// Where the number that ends here starts, without its sign.
fn start(text: &str, end: usize) -> usize {
    let bytes = text.as_bytes();
    let mut from = end;
    let mut group = end;
    while end - from <= LONGEST {
        if from > 0 && bytes[from - 1].is_ascii_digit() {
            from -= 1;
            continue;
        }
        let whole = group - from == 3;
        match separated(&text[..from], whole) {
            Some(before) => {
                from = before;
                group = before;
            }
            None => break,
        }
    }
    from - usize::from(text[..from].ends_with('.'))
}

/// The end of the digits before a separator. Separators belong to a number only
/// between its digits, those of LaTeX only before three of them.
fn separated(text: &str, three: bool) -> Option<usize> {
    let latex = ["{,}", ",\\!", "\\,"].iter().filter(|_| three).find_map(|s| text.strip_suffix(s));
    let before = latex.or_else(|| text.strip_suffix([',', '.']))?;
    before.ends_with(|c: char| c.is_ascii_digit()).then_some(before.len())
}

/// Whether what follows is a power, as the 2 of `cm^2` and `cm^{-2}`.
fn is_power(before: &str) -> bool {
    let before = before.strip_suffix(['-', '−']).unwrap_or(before);
    before.strip_suffix('{').unwrap_or(before).ends_with('^')
}

/// Where a number with its sign starts. A minus, before a currency too, is a sign
/// unless it stands behind a value, as in `7-3`.
fn signed(text: &str, from: usize) -> usize {
    let before = &text[..from];
    let before = before.strip_suffix("\\$").or_else(|| before.strip_suffix('$')).unwrap_or(before);
    let behind_value =
        |before: &str| before.ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, ')' | '}'));
    match before.strip_suffix(['-', '−']) {
        Some(before) if !behind_value(before) => before.len(),
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_number_is_found_on_demand() {
        for (text, number) in [
            ("I have 3 cats, 1,234.5 dogs.", "1,234.5"),
            ("It is -7.", "-7"),
            ("7-3", "3"),
            ("costs $.50", ".50"),
            ("2024, 5", "5"),
            ("x,5", "5"),
            ("é12é", "12"),
        ] {
            assert_eq!(last_number(text), Some(number), "{text}");
        }
        assert_eq!(last_number("none"), None);
        assert_eq!(last_number("5 <think> 7"), None);
    }

    #[test]
    fn separators_and_signs_belong_to_it_however_they_are_spelled() {
        for (text, number) in [
            ("\\boxed{1{,}234}", "1{,}234"),
            ("So $1{,}234{,}567$.", "1{,}234{,}567"),
            ("\\boxed{1,\\!234}", "1,\\!234"),
            ("It is 1\\,234.", "1\\,234"),
            ("5\\,3", "3"),
            ("It is −5.", "−5"),
            ("7−3", "3"),
            ("He lost -$3.", "-$3"),
            ("He lost -\\$3.50.", "-\\$3.50"),
            ("$5-$3", "3"),
        ] {
            assert_eq!(last_number(text), Some(number), "{text}");
        }
        for (text, number) in
            [("\\boxed{1,\\!234}", "1234"), ("−5", "-5"), ("-\\$3", "-3"), ("1\\,234", "1234")]
        {
            assert!(super::super::equiv(last_number(text).unwrap(), number), "{text}");
        }
    }

    #[test]
    fn a_power_is_no_number() {
        for text in ["42 cm^2", "\\boxed{42\\text{ cm}^2}", "42 cm^{-2}", "42 m^3/s^2"] {
            assert_eq!(last_number(text), Some("42"), "{text}");
        }
        assert_eq!(last_number("x^2"), None);
    }

    #[test]
    fn the_last_box_holds_it() {
        assert_eq!(last_number("\\boxed{42}. (That took 3 steps.)"), Some("42"));
        assert_eq!(last_number("\\boxed{x=42}, after 3"), Some("42"));
        assert_eq!(last_number("After 3: \\boxed{\\text{none}}"), None);
        assert_eq!(last_number("\\boxed{1} and \\boxed{42"), None);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in r"(\PC|[-0-9,.^{}$−é]|\\boxed\{|\\,|\{,\}|</?think>|\n){0,20}") {
            prop_assert!(last_number(&text).is_none_or(|n| text.contains(n) && n.ends_with(|c: char| c.is_ascii_digit())));
        }
    }
}
