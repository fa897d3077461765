//! What spells an answer without touching its value, taken away.
//!
//! The string rules are a subset of MATH's `_strip_string` (Hendrycks et al.,
//! arXiv 2103.03874) and of Minerva's (arXiv 2206.14858, appendix D.1), minus those
//! that merge different answers: percentages stay, and words go only where they are
//! units or counted things ([`units`](super::units)).

use super::units::without_units;
use super::value::split;

/// Commands with another spelling, or none, that means the same.
const COMMANDS: &[(&str, &str)] = &[
    ("\\left", ""),
    ("\\right", ""),
    ("\\big", ""),
    ("\\bigl", ""),
    ("\\bigr", ""),
    ("\\Big", ""),
    ("\\Bigl", ""),
    ("\\Bigr", ""),
    ("\\bigg", ""),
    ("\\biggl", ""),
    ("\\biggr", ""),
    ("\\Bigg", ""),
    ("\\Biggl", ""),
    ("\\Biggr", ""),
    ("\\displaystyle", ""),
    ("\\textstyle", ""),
    ("\\varnothing", "\\emptyset "),
    ("\\lt", "<"),
    ("\\gt", ">"),
    // Behind each a space, so that it ends before a letter or digit however it is spelled.
    ("\\leqslant", "\\le "),
    ("\\leq", "\\le "),
    ("\\le", "\\le "),
    ("\\geqslant", "\\ge "),
    ("\\geq", "\\ge "),
    ("\\ge", "\\ge "),
    ("\\neq", "\\ne "),
    ("\\ne", "\\ne "),
];

/// Functions of an angle, as they are spelled.
const ANGLES: &[&str] = &["\\sin", "\\cos", "\\tan", "\\cot", "\\sec", "\\csc", "sin(", "cos(", "tan("];

/// What MATH's normaliser removes or rewrites without touching the value.
pub(super) fn tidy(text: &str) -> String {
    let mut text = text.trim().to_owned();
    // Of two values both or one may be meant; of two inequalities that is not the same.
    let or = if is_inequality(&text) { " or " } else { "," };
    // The degrees of an answer say nothing, those of an angle in a function do.
    if ANGLES.iter().any(|function| text.contains(function)) {
        for degree in ["^{\\circ}", "^\\circ", "°"] {
            text = text.replace(degree, "\\degree ");
        }
    } else {
        text = respelled(&text, "\\degree", "");
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
        ("<=", "\\le "),
        (">=", "\\ge "),
        ("∪", "\\cup "),
        ("∅", "\\emptyset "),
        ("\\{\\}", "\\emptyset "),
        ("²", "^2"),
        ("³", "^3"),
        ("½", "\\frac{1}{2}"),
        ("\n", " "),
        ("\\text{and}", ","),
        ("\\text{or}", or),
        ("\\text{ and }", ","),
        ("\\text{ or }", or),
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
        ("\\cfrac", "\\frac"),
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
    text = spaced_and(&text, if or == "," { &[" and ", " or "] } else { &[" and "] });
    text = radicals(text);
    for (command, by) in COMMANDS {
        text = respelled(&text, command, by);
    }
    text = with_upright_letters(&text);
    text = without_units(&text);
    text = unwrapped(&text).to_owned();
    // One full stop ends a sentence; three are part of the answer.
    let unstopped = text.trim();
    let unstopped = unstopped.strip_suffix('.').filter(|t| !t.ends_with('.')).unwrap_or(unstopped);
    text = without_spaces(unstopped);
    text = without_names(without_name(&text));
    // `B)` names the choice B.
    if text.len() == 2 && text.ends_with(')') && text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        text.pop();
    }
    based(with_braced_subscripts(&braced(&braced(&text, "\\frac", 2), "\\sqrt", 1)))
}

/// `(101)_{2}` as `101_{2}`: a number in another base.
fn based(text: String) -> String {
    let digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    text.strip_prefix('(')
        .and_then(|rest| rest.split_once(")_{"))
        .filter(|(digits, _)| !digits.is_empty() && digits.bytes().all(digit))
        .filter(|(_, base)| base.strip_suffix('}').is_some_and(|b| b.bytes().all(|b| b.is_ascii_digit())))
        .map(|(digits, base)| format!("{digits}_{{{base}"))
        .unwrap_or(text)
}

/// `101_2` as `101_{2}`; of `101_10` it is unclear how far the subscript goes.
fn with_braced_subscripts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('_') {
        out.push_str(before);
        out.push('_');
        let mut next = after.chars();
        rest = after;
        if let Some(c) = next.next().filter(char::is_ascii_alphanumeric)
            && !next.as_str().starts_with(|c: char| c.is_ascii_digit())
        {
            out.extend(['{', c, '}']);
            rest = next.as_str();
        }
    }
    out + rest
}

/// Whether something is said to be less or greater than something else.
fn is_inequality(text: &str) -> bool {
    let text = text.replace("\\left", "");
    ["<", ">", "≤", "≥", "\\le", "\\ge", "\\lt", "\\gt"].iter().any(|sign| text.contains(sign))
}

/// A comma for one of the `words` between two values, of which one has a digit.
fn spaced_and(text: &str, words: &[&str]) -> String {
    for word in words {
        if let Some((left, right)) = text.split_once(word)
            && [left, right].iter().any(|side| side.contains(|c: char| c.is_ascii_digit()))
            && [left, right].iter().all(|side| !side.trim().contains(' ') || !words_in(side))
        {
            return format!("{left},{}", spaced_and(right, words));
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

/// The text with another spelling of a LaTeX command; longer ones that begin with it stay.
fn respelled(text: &str, command: &str, by: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(command) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        rest = &after[command.len()..];
        out.push_str(if rest.starts_with(|c: char| c.is_ascii_alphabetic()) { command } else { by });
    }
    out.push_str(rest);
    out
}

/// `2\mathrm{i}` as `2i`: the two constants whose letters are set upright.
fn with_upright_letters(text: &str) -> String {
    let mut text = text.to_owned();
    for (marked, letter) in
        [("\\mathrm{i}", 'i'), ("\\mathrm{e}", 'e'), ("\\text{i}", 'i'), ("\\text{e}", 'e')]
    {
        while let Some((before, after)) = text.split_once(marked) {
            // `\pi\mathrm{i}` is not a command `\pii`.
            let name = before.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let space = if name.ends_with('\\') { " " } else { "" };
            text = format!("{before}{space}{letter}{after}");
        }
    }
    text
}

/// What a `\text{...}` or its like holds, where it holds everything.
fn unwrapped(text: &str) -> &str {
    for command in ["\\text{", "\\textbf{", "\\mathrm{", "\\mathbf{", "\\boxed{", "\\underline{"] {
        if let Some(rest) = text.strip_prefix(command)
            && let Some(inner) = closed(rest, '{', '}')
            && inner.len() + 1 == rest.len()
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
    named(text).filter(|(_, value)| !value.contains('=')).map_or(text, |(_, value)| value)
}

/// A name of at most two letters and what it equals.
fn named(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.trim().split_once('=')?;
    let short = (1..=2).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphabetic());
    (short && !value.is_empty()).then_some((name, value))
}

/// The values of `x=1,x=2`: one name in front of all parts of a list says nothing.
fn without_names(text: &str) -> String {
    let parts = split(text, ",").unwrap_or_default();
    let name = parts.first().and_then(|part| named(part)).map(|(name, _)| name);
    let value = |part: &&str| {
        let (other, value) = named(part)?;
        // A second sign makes the part a relation of its own.
        (Some(other) == name && !value.contains(['=', '<', '>'])).then(|| value.to_owned())
    };
    let values: Option<Vec<String>> = parts.iter().map(value).collect();
    // The space keeps `x=1,x=234` from becoming a number.
    values.filter(|values| values.len() > 1).map_or(text.to_owned(), |values| values.join(", "))
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
