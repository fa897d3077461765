//! One form for every way of writing an answer.
//!
//! The string rules are a subset of MATH's `_strip_string` (Hendrycks et al.,
//! arXiv 2103.03874), minus those that merge different answers; numbers become
//! exact reduced fractions. The result is a fixed point: canonicalising it again
//! changes nothing.

/// Longer answers, in bytes, are compared as they are.
const LONGEST: usize = 1_000;

/// Rounds of rewriting after which an answer is taken as it is. Real answers
/// need two or three.
const ROUNDS: usize = 16;

/// The canonical form of an answer, a key under which equal answers meet.
#[must_use]
pub fn canonical(answer: &str) -> String {
    let answer = answer.trim();
    if answer.len() > LONGEST {
        return answer.to_owned();
    }
    let mut form = answer.to_owned();
    for _ in 0..ROUNDS {
        let next = tidy(&form);
        let next = number(&next).unwrap_or(next);
        if next == form {
            return form;
        }
        form = next;
    }
    answer.to_owned()
}

/// What MATH's normaliser removes or rewrites without touching the value.
fn tidy(text: &str) -> String {
    let mut text = text.trim().replace('−', "-");
    for (from, to) in [
        ("\n", " "),
        ("\\!", ""),
        ("\\,", ""),
        ("\\;", ""),
        ("\\ ", " "),
        ("\\(", ""),
        ("\\)", ""),
        ("\\tfrac", "\\frac"),
        ("\\dfrac", "\\frac"),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("°", ""),
        ("\\%", "%"),
        ("\\$", ""),
        ("$", ""),
        ("{,}", ","),
    ] {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    text = without_command(&text, "\\left");
    text = without_command(&text, "\\right");
    // Units on the right, as in `5\text{ cm}`; words between two values are none.
    if let Some(at) = text.find("\\text{ ")
        && at > 0
        && text[at..].find('}') == Some(text.len() - at - 1)
    {
        text.truncate(at);
    }
    text = unwrapped(&text).to_owned();
    // One full stop ends a sentence; three are part of the answer.
    let unstopped = text.trim();
    let unstopped = unstopped.strip_suffix('.').filter(|t| !t.ends_with('.')).unwrap_or(unstopped);
    text = without_spaces(unstopped);
    text = without_name(&text).to_owned();
    braced(&braced(&text, "\\frac", 2), "\\sqrt", 1)
}

/// The text without a LaTeX command; longer commands that begin with it stay.
fn without_command(text: &str, command: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(command) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        rest = &after[command.len()..];
        if rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            out.push_str(command);
        }
    }
    out.push_str(rest);
    out
}

/// What a `\text{...}` or its like holds, where it holds everything.
fn unwrapped(text: &str) -> &str {
    for command in ["\\text{", "\\textbf{", "\\mathrm{", "\\mathbf{", "\\boxed{"] {
        if let Some(inner) = text.strip_prefix(command).and_then(|t| t.strip_suffix('}'))
            && !inner.contains(['{', '}'])
        {
            return inner;
        }
    }
    text
}

/// The text without the spaces that mean nothing. One stays between two letters
/// or digits (`1 2` is not `12`), and one in `1, 234`, which is a list, where
/// `1,234` is a number.
fn without_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = rest[c.len_utf8()..].trim_start();
        if !c.is_whitespace() {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let joins = |c: char| c.is_alphanumeric();
        let word = out.ends_with(joins) && after.starts_with(joins);
        let list = out.ends_with(',') && after.bytes().take_while(u8::is_ascii_digit).count() == 3;
        if word || list {
            out.push(' ');
        }
        rest = after;
    }
    out
}

/// The right side of `x=5`: a name of at most two letters says nothing.
fn without_name(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value))
            if (1..=2).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphabetic())
                && !value.is_empty()
                && !value.contains('=') =>
        {
            value
        }
        _ => text,
    }
}

/// `\frac12` as `\frac{1}{2}`: one letter or digit is an argument of its own.
fn braced(text: &str, command: &str, arguments: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(command) {
        let end = at + command.len();
        out.push_str(&rest[..end]);
        rest = &rest[end..];
        for _ in 0..arguments {
            match rest.chars().next() {
                Some(c) if c.is_ascii_digit() || (c.is_ascii_alphabetic() && !out.ends_with(command)) => {
                    out.push('{');
                    out.push(c);
                    out.push('}');
                    rest = &rest[1..];
                }
                Some('{') => {
                    let Some(close) = rest.find('}') else { break };
                    // An argument with braces of its own is left as it is.
                    if rest[1..close].contains('{') {
                        break;
                    }
                    out.push_str(&rest[..=close]);
                    rest = &rest[close + 1..];
                }
                _ => break,
            }
        }
    }
    out.push_str(rest);
    out
}

/// The reduced fraction that a text spells exactly, percentages marked as such.
fn number(text: &str) -> Option<String> {
    let (value, percent) = match text.strip_suffix('%') {
        Some(value) => (value, "%"),
        None => (text, ""),
    };
    let (negative, value) = sign(value);
    let fraction = value.strip_prefix("\\frac{").and_then(|f| f.strip_suffix('}')?.split_once("}{"));
    let (p, q) = match fraction.or_else(|| value.split_once('/')) {
        Some((p, q)) => (integer(p)?, integer(q)?),
        None => decimal(value)?,
    };
    if q == 0 {
        return None;
    }
    let divisor = gcd(p.unsigned_abs(), q.unsigned_abs());
    let (top, bottom) = (p.unsigned_abs() / divisor, q.unsigned_abs() / divisor);
    let minus = if top != 0 && (negative ^ (p < 0) ^ (q < 0)) { "-" } else { "" };
    Some(if bottom == 1 {
        format!("{minus}{top}{percent}")
    } else {
        format!("{minus}{top}/{bottom}{percent}")
    })
}

/// A sign and what follows it.
fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = sign(text);
    let value: i128 = ungrouped(digits)?.parse().ok()?;
    Some(if negative { -value } else { value })
}

/// Numerator and denominator of an unsigned decimal number; `None` where they do
/// not fit 128 bits.
fn decimal(text: &str) -> Option<(i128, i128)> {
    let Some((whole, part)) = text.split_once('.') else {
        return Some((ungrouped(text)?.parse().ok()?, 1));
    };
    if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { ungrouped(whole)?.parse().ok()? };
    let part = part.trim_end_matches('0');
    let scale = 10i128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part: i128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    Some((whole.checked_mul(scale)?.checked_add(part)?, scale))
}

/// Digits without thousands separators; `None` unless all groups are whole.
fn ungrouped(text: &str) -> Option<String> {
    let groups: Vec<&str> = text.split(',').collect();
    let (first, others) = groups.split_first()?;
    let digits = groups.iter().all(|g| !g.is_empty() && g.bytes().all(|b| b.is_ascii_digit()));
    let grouped = others.is_empty() || (first.len() <= 3 && others.iter().all(|g| g.len() == 3));
    (digits && grouped).then(|| groups.concat())
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_become_reduced_fractions() {
        for (answer, form) in [
            ("42", "42"),
            (" +42. ", "42"),
            ("-0", "0"),
            ("007", "7"),
            ("1,234,567", "1234567"),
            ("1{,}234", "1234"),
            ("12,34", "12,34"),
            ("0.50", "1/2"),
            (".5", "1/2"),
            ("-.25", "-1/4"),
            ("2.000", "2"),
            ("4/8", "1/2"),
            ("-4/-8", "1/2"),
            ("\\frac{3}{-6}", "-1/2"),
            ("\\dfrac12", "1/2"),
            ("−3", "-3"),
            ("$-\\tfrac{10}{5}$", "-2"),
            ("1/0", "1/0"),
            ("\\$5", "5"),
            ("90^\\circ", "90"),
            ("x = 5", "5"),
            ("5\\text{ cm}", "5"),
        ] {
            assert_eq!(canonical(answer), form, "{answer}");
        }
    }

    #[test]
    fn percentages_stay_percentages() {
        assert_eq!(canonical("50.0\\%"), "50%");
        assert_ne!(canonical("50%"), canonical("0.5"));
        assert_ne!(canonical("50%"), canonical("50"));
    }

    #[test]
    fn what_differs_stays_different() {
        for (a, b) in [
            ("1 2", "12"),
            ("1, 234", "1,234"),
            ("7 3/4", "73/4"),
            ("A", "a"),
            ("x", "y"),
            ("(1,2)", "(2,1)"),
            ("1e3", "1000"),
            ("5\\text{ and }6", "5\\text{ and }7"),
            ("1,2,...", "1,2"),
            ("340282366920938463463374607431768211456", "0"),
        ] {
            assert_ne!(canonical(a), canonical(b), "{a} and {b}");
        }
    }

    #[test]
    fn spelling_does_not_matter() {
        for (a, b) in [
            ("\\left( 1, 2 \\right)", "(1,2)"),
            ("\\sqrt3", "\\sqrt{3}"),
            ("\\text{Monday}", "Monday"),
            ("\\frac{\\pi}{2}", "\\dfrac{\\pi}{2}"),
            ("\\(x^2\\)", "x^2"),
        ] {
            assert_eq!(canonical(a), canonical(b), "{a} and {b}");
        }
        assert_eq!(canonical("\\leftarrow"), "\\leftarrow");
    }

    #[test]
    fn a_number_too_large_is_compared_as_text() {
        let huge = "9".repeat(60);
        assert_eq!(canonical(&huge), huge);
        assert_eq!(canonical(&format!("0.{huge}")), format!("0.{huge}"));
    }

    #[test]
    fn work_is_capped() {
        let long = "\\frac12 ".repeat(100_000);
        assert_eq!(canonical(&long), long.trim());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn a_canonical_form_is_its_own(
            text in r"(\\frac|\\sqrt|\\left|\\right|\\text|\\boxed|\\circ|[0-9xa{}(),.=+/%$ \\^!-]){0,16}",
        ) {
            let form = canonical(&text);
            prop_assert_eq!(canonical(&form), form);
        }

        #[test]
        fn any_text_has_a_canonical_form_of_its_own(text in "\\PC{0,40}") {
            let form = canonical(&text);
            prop_assert_eq!(canonical(&form), form);
        }

        #[test]
        fn fractions_agree_with_arithmetic(p in -9_999i64..9_999, q in 1i64..999, k in 1i64..99) {
            prop_assert_eq!(canonical(&format!("{p}/{q}")), canonical(&format!("\\frac{{{}}}{{{}}}", p * k, q * k)));
            prop_assert_eq!(canonical(&format!("{p}.0")), p.to_string());
        }
    }
}
