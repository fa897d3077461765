//! The normalisers of two graders that published figures rest on.
//!
//! [`math`] is the string form of MATH (Hendrycks et al., arXiv 2103.03874),
//! [`minerva`] that of Minerva (Lewkowycz et al., arXiv 2206.14858, appendix D.1);
//! answers equal in it are equal for that grader. Both merge what differs (`50%` and
//! `50`, `5 a` and `5`), so no vote uses them. Written from the papers' descriptions.

/// Longer answers, in bytes, are left as they are.
const LONGEST: usize = 10_000;

/// MATH's string form of an answer.
#[must_use]
pub fn math(answer: &str) -> String {
    if answer.len() > LONGEST {
        return answer.to_owned();
    }
    let mut text = answer.trim().to_owned();
    for (from, to) in [
        ("\n", ""),
        ("\\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ] {
        text = text.replace(from, to);
    }
    // Units stand on the right, behind the only `\text{ `.
    if let [value, _] = text.split("\\text{ ").collect::<Vec<_>>()[..] {
        text = value.to_owned();
    }
    for (from, to) in [("\\%", ""), ("%", ""), (" .", " 0."), ("{.", "{0.")] {
        text = text.replace(from, to);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    if let [name, value] = text.split('=').collect::<Vec<_>>()[..]
        && name.len() <= 2
    {
        text = value.to_owned();
    }
    text = braced_roots(&text).replace(' ', "");
    text = braced_fractions(&text);
    if text == "0.5" {
        return "\\frac{1}{2}".to_owned();
    }
    slash(&text).unwrap_or(text)
}

/// Minerva's string form of an answer.
#[must_use]
pub fn minerva(answer: &str) -> String {
    const SUBSTITUTIONS: &[(&str, &str)] = &[
        ("an ", ""),
        ("a ", ""),
        (".$", "$"),
        ("\\$", ""),
        ("\\ ", ""),
        (" ", ""),
        ("mbox", "text"),
        (",\\text{and}", ","),
        ("\\text{and}", ","),
        ("\\text{m}", "\\text{}"),
    ];
    const REMOVED: &[&str] = &[
        "square",
        "ways",
        "integers",
        "dollars",
        "mph",
        "inches",
        "ft",
        "hours",
        "km",
        "units",
        "\\ldots",
        "sue",
        "points",
        "feet",
        "minutes",
        "digits",
        "cents",
        "degrees",
        "cm",
        "gm",
        "pounds",
        "meters",
        "meals",
        "edges",
        "students",
        "childrentickets",
        "multiples",
        "\\text{s}",
        "\\text{.}",
        "\\text{\ns}",
        "\\text{}^2",
        "\\text{}^3",
        "\\text{\n}",
        "\\text{}",
        "\\mathrm{th}",
        "^\\circ",
        "^{\\circ}",
        "\\;",
        ",\\!",
        "{,}",
        "\"",
        "\\dots",
    ];
    if answer.len() > LONGEST {
        return answer.to_owned();
    }
    let mut text = answer.rsplit('=').next().unwrap_or_default().to_owned();
    for (from, to) in SUBSTITUTIONS {
        text = text.replace(from, to);
    }
    for word in REMOVED {
        text = text.replace(word, "");
    }
    if let Some((_, rest)) = text.split_once('$')
        && let Some((inside, _)) = rest.split_once('$')
    {
        text = inside.to_owned();
    }
    for command in ["\\text{", "\\textbf{", "\\overline{"] {
        text = unwrapped(&text, command);
    }
    if let Some(at) = text.find("\\boxed{")
        && let Some(end) = text.rfind('}').filter(|end| *end > at)
    {
        text = text[at + "\\boxed{".len()..end].to_owned();
    }
    text = braced_fractions(&text);
    text = braced_roots(&text).replace('$', "");
    let digits = text.replace(',', "");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) { digits } else { text }
}

/// `\sqrt3` as `\sqrt{3}`.
fn braced_roots(text: &str) -> String {
    let mut pieces = text.split("\\sqrt");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        out.push_str("\\sqrt");
        match piece.chars().next() {
            Some(c) if c != '{' && c != '[' => {
                out.push('{');
                out.push(c);
                out.push('}');
                out.push_str(&piece[c.len_utf8()..]);
            }
            _ => out.push_str(piece),
        }
    }
    out
}

/// `\frac12` and `\frac1{72}` with both arguments in braces.
fn braced_fractions(text: &str) -> String {
    let mut pieces = text.split("\\frac");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        out.push_str("\\frac");
        let mut characters = piece.chars();
        match (characters.next(), characters.next()) {
            (Some(a), Some(b)) if a != '{' => {
                let rest = characters.as_str();
                out.push_str(&if b == '{' {
                    format!("{{{a}}}{b}{rest}")
                } else {
                    format!("{{{a}}}{{{b}}}{rest}")
                });
            }
            _ => out.push_str(piece),
        }
    }
    out
}

/// `1/2` as `\frac{1}{2}`, where both are whole numbers as Python writes them.
fn slash(text: &str) -> Option<String> {
    let (top, bottom) = text.split_once('/')?;
    let (p, q): (i128, i128) = (top.parse().ok()?, bottom.parse().ok()?);
    (p.to_string() == top && q.to_string() == bottom).then(|| format!("\\frac{{{top}}}{{{bottom}}}"))
}

/// The text with what a command wraps, up to the first closing brace, in its place.
fn unwrapped(text: &str, command: &str) -> String {
    let mut pieces = text.split(command);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once('}') {
            Some((inside, rest)) => out.extend([inside, rest]),
            None => out.extend([command, piece]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maths_form() {
        for (answer, form) in [
            ("\\dfrac12", "\\frac{1}{2}"),
            ("\\frac1{72}", "\\frac{1}{72}"),
            ("0.5", "\\frac{1}{2}"),
            (".25", "0.25"),
            ("3/4", "\\frac{3}{4}"),
            ("x = 5", "5"),
            ("50\\%", "50"),
            ("12\\text{ cm}", "12"),
            ("2\\sqrt3", "2\\sqrt{3}"),
            ("90^\\circ", "90"),
            ("\\left( 1, 2 \\right)", "(1,2)"),
            ("\\$ 1,\\!000", "1,000"),
        ] {
            assert_eq!(math(answer), form, "{answer}");
        }
    }

    #[test]
    fn minervas_form() {
        for (answer, form) in [
            ("x = 100,000", "100000"),
            ("$5$ dollars", "5"),
            ("\\text{even}", "even"),
            ("\\frac12", "\\frac{1}{2}"),
            ("\\sqrt2", "\\sqrt{2}"),
            ("x \\text{ and } y", "x,y"),
            // Minerva reads two numbers as one with a thousands separator.
            ("5 \\text{ and } 6", "56"),
            ("\\boxed{7}", "7"),
            ("8 square units", "8"),
        ] {
            assert_eq!(minerva(answer), form, "{answer}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(\\\\frac|\\\\sqrt|\\\\text\\{|\\\\boxed\\{|[$={},/ é0-9])|\\PC{0,16}") {
            prop_assert!(math(&text).len() <= 8 * text.len() + 16);
            prop_assert!(minerva(&text).len() <= 8 * text.len() + 16);
        }
    }
}
