//! What spells an answer without touching its value, taken away.
//!
//! The string rules are a subset of MATH's `_strip_string` (Hendrycks et al.,
//! arXiv 2103.03874) and of Minerva's (arXiv 2206.14858, appendix D.1), minus those
//! that merge different answers: percentages stay, and one letter is never a unit.

/// Words that follow a number without changing it, in answers to one question.
/// No single letters: `5 m` may be a product.
const UNITS: &[&str] = &[
    "cm",
    "mm",
    "km",
    "kg",
    "mg",
    "ml",
    "mL",
    "ft",
    "in",
    "mi",
    "lb",
    "lbs",
    "oz",
    "mph",
    "inch",
    "inches",
    "foot",
    "feet",
    "yard",
    "yards",
    "mile",
    "miles",
    "meter",
    "meters",
    "metre",
    "metres",
    "centimeters",
    "kilometers",
    "gram",
    "grams",
    "pounds",
    "ounces",
    "liters",
    "gallons",
    "second",
    "seconds",
    "minute",
    "minutes",
    "hour",
    "hours",
    "day",
    "days",
    "week",
    "weeks",
    "month",
    "months",
    "year",
    "years",
    "dollar",
    "dollars",
    "cent",
    "cents",
    "degree",
    "degrees",
    "unit",
    "units",
    "square",
    "cubic",
    "points",
    "people",
    "students",
    "ways",
    "percent",
];

/// Functions of an angle, as they are spelled.
const ANGLES: &[&str] = &["\\sin", "\\cos", "\\tan", "\\cot", "\\sec", "\\csc", "sin(", "cos(", "tan("];

/// What MATH's normaliser removes or rewrites without touching the value.
pub(super) fn tidy(text: &str) -> String {
    let mut text = text.trim().to_owned();
    // The degrees of an answer say nothing, those of an angle in a function do.
    if ANGLES.iter().any(|function| text.contains(function)) {
        for degree in ["^{\\circ}", "^\\circ", "°"] {
            text = text.replace(degree, "\\degree ");
        }
    }
    for (from, to) in [
        ("−", "-"),
        ("×", "\\times "),
        ("·", "\\cdot "),
        ("÷", "\\div "),
        ("π", "\\pi "),
        ("∞", "\\infty "),
        ("≤", "\\le "),
        ("≥", "\\ge "),
        ("≠", "\\ne "),
        ("∪", "\\cup "),
        ("²", "^2"),
        ("³", "^3"),
        ("½", "\\frac{1}{2}"),
        ("\n", " "),
        ("\\text{and}", ","),
        ("\\text{or}", ","),
        ("\\text{ and }", ","),
        ("\\text{ or }", ","),
        ("\\[", ""),
        ("\\]", ""),
        ("\\quad", " "),
        ("~", " "),
        ("\\!", ""),
        ("\\,", ""),
        ("\\;", ""),
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
    // `\ ` is a space, but not behind the backslash of a matrix's line break.
    let lines: Vec<String> = text.split("\\\\").map(|line| line.replace("\\ ", " ")).collect();
    text = lines.join("\\\\");
    text = spaced_and(&text);
    text = radicals(text);
    text = without_command(&text, "\\left");
    text = without_command(&text, "\\right");
    // Units on the right, as in `5\text{ cm}`; words between two values are none.
    if let Some(at) = text.find("\\text{ ")
        && at > 0
        && text[at..].find('}') == Some(text.len() - at - 1)
        && text[at..].trim_end_matches('}') != "\\text{ percent"
    {
        text.truncate(at);
    }
    text = without_units(&text);
    text = unwrapped(&text).to_owned();
    // One full stop ends a sentence; three are part of the answer.
    let unstopped = text.trim();
    let unstopped = unstopped.strip_suffix('.').filter(|t| !t.ends_with('.')).unwrap_or(unstopped);
    text = without_spaces(unstopped);
    text = without_name(&text).to_owned();
    // `B)` names the choice B.
    if text.len() == 2 && text.ends_with(')') && text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        text.pop();
    }
    braced(&braced(&text, "\\frac", 2), "\\sqrt", 1)
}

/// A comma for the "and" or "or" between two values, of which one has a digit.
fn spaced_and(text: &str) -> String {
    for word in [" and ", " or "] {
        if let Some((left, right)) = text.split_once(word)
            && [left, right].iter().any(|side| side.contains(|c: char| c.is_ascii_digit()))
            && [left, right].iter().all(|side| !side.trim().contains(' ') || !words_in(side))
        {
            return format!("{left},{}", spaced_and(right));
        }
    }
    text.to_owned()
}

/// Whether there is a run of four letters outside of commands.
fn words_in(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphabetic() && c != '\\')
        .any(|run| run.len() > 3 && !run.contains('\\'))
}

/// `√12` and `√(x+1)` in LaTeX: the sign reaches over all digits, or a bracket.
fn radicals(mut text: String) -> String {
    while let Some(at) = text.find('√') {
        let rest = text[at + '√'.len_utf8()..].trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let bracket = || closed(rest.strip_prefix('(')?, '(', ')').map(|inside| inside.len() + 2);
        let end = if digits > 0 { digits } else { bracket().unwrap_or(0) };
        text = format!("{}\\sqrt{{{}}}{}", &text[..at], &rest[..end], &rest[end..]);
    }
    text
}

/// The text up to the bracket that closes the one before it.
fn closed(text: &str, open: char, close: char) -> Option<&str> {
    let mut depth = 1usize;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return Some(&text[..at]);
            }
        }
    }
    None
}

/// The value before units on its right; a share keeps its `%`.
fn without_units(text: &str) -> String {
    let mut text = text.trim();
    loop {
        let bare = ["^2", "^3", "^{2}", "^{3}"].iter().find_map(|p| text.strip_suffix(p)).unwrap_or(text);
        let bare = bare.trim_end().trim_end_matches(['.', '~']).trim_end();
        let Some((value, unit, spelled)) = last_word(bare) else { return text.to_owned() };
        let value = value.trim_end();
        let ends_value = value.ends_with(|c: char| c.is_ascii_digit() || matches!(c, '}' | ')'))
            || UNITS.contains(&value.rsplit(' ').next().unwrap_or_default());
        if !ends_value {
            return text.to_owned();
        }
        if matches!(unit, "percent" | "per cent") {
            return format!("{value}%");
        }
        let a_unit =
            UNITS.contains(&unit) || (spelled && unit.bytes().all(|b| b.is_ascii_alphabetic() || b == b' '));
        if !a_unit || (!spelled && bare.len() - value.len() == unit.len()) {
            return text.to_owned();
        }
        text = value;
    }
}

/// A value, the last word behind it, and whether it was marked as text.
fn last_word(text: &str) -> Option<(&str, &str, bool)> {
    for command in ["\\text{", "\\mathrm{", "\\mbox{", "\\textrm{"] {
        if let Some(inside) = text.strip_suffix('}')
            && let Some(at) = inside.rfind(command)
            && !inside[at + command.len()..].contains(['{', '}'])
        {
            let unit = inside[at + command.len()..].trim();
            return (at > 0 && !unit.is_empty()).then_some((&text[..at], unit, true));
        }
    }
    let at = text.rfind(|c: char| !c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
    let whole = text.is_char_boundary(at) && at > 0 && at < text.len();
    whole.then(|| (&text[..at], &text[at..], false))
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

/// The right side of `x=5` or `x\in(0,1)`: a name of at most two letters says nothing.
fn without_name(text: &str) -> &str {
    if let Some((name, value)) = text.split_once("\\in")
        && name.len() == 1
        && name.bytes().all(|b| b.is_ascii_alphabetic())
        && value.starts_with(['(', '[', '\\'])
    {
        return value;
    }
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
