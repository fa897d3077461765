//! Answers with parts: percentages, lists, tuples, intervals, sets, unions,
//! matrices, equations and inequalities, each of expressions.
//!
//! Tuples, intervals and lists are ordered and keep their brackets; sets and unions
//! are not ordered. An equation is known up to a factor, or by what it says that `y` is,
//! where that has powers of `x` only: `y=3-2x` says no more than `3-2x`, so neither does
//! `2x+y=3`. An inequality is known up to a positive factor and its direction, several in
//! one (`2 \le x < 5`) by their direction alone. Two canonical forms that differ may still
//! have one value ([`same`]): expressions by [`numeric`], the parts of tuples, intervals
//! and lists one by one. Deliberately absent there: sets, unions, matrices, relations and
//! shares.

use super::expression::{expression, side};
use super::numeric;
use super::sum::{Sum, Work};
use std::collections::BTreeSet;

/// Sets in tuples in sets, no deeper than this.
const DEEPEST: usize = 4;

/// The form of an answer in which something is understood.
pub(super) fn value(text: &str) -> Option<String> {
    whole(text, 0, &mut Work::new())
}

fn whole(text: &str, depth: usize, work: &mut Work) -> Option<String> {
    let text = text.trim();
    if depth > DEEPEST || text.is_empty() {
        return None;
    }
    // Each level reads its text once.
    work.spend(u32::try_from(text.len()).ok()?)?;
    let unions = split(text, "\\cup")?;
    if unions.len() > 1 {
        let parts: Option<BTreeSet<String>> =
            unions.iter().map(|part| whole(part, depth + 1, work)).collect();
        return Some(joined(parts?.into_iter().collect(), "\\cup "));
    }
    if let Some(value) = relation(text, work) {
        return Some(value);
    }
    if let Some(inner) = text.strip_prefix("\\begin{").and_then(|t| t.split_once('}')) {
        return matrix(inner.0, inner.1, work);
    }
    if let Some(inside) = set(text) {
        let elements: BTreeSet<String> = elements(inside, depth, work)?.into_iter().collect();
        return Some(format!("\\{{{}\\}}", listed(&elements.into_iter().collect::<Vec<_>>())));
    }
    let items = split(text, ",")?;
    if items.len() > 1 {
        return Some(listed(&elements(text, depth, work)?));
    }
    if let (Some(open @ ('(' | '[')), Some(close @ (')' | ']'))) =
        (text.chars().next(), text.chars().next_back())
        && text.len() > 2
        && closes_last(text)
    {
        let inside = &text[1..text.len() - 1];
        if split(inside, ",")?.len() > 1 {
            let items = listed(&elements(inside, depth, work)?);
            if (open, items.as_str(), close) == ('(', "-\\infty,\\infty", ')') {
                return Some("\\mathbb{R}".to_owned());
            }
            return Some(format!("{open}{items}{close}"));
        }
    }
    if let Some(share) = text.strip_suffix('%') {
        return expression(share, work).map(|sum| format!("{sum}%"));
    }
    expression(text, work).map(|sum| sum.to_string())
}

/// Longer canonical forms, in bytes, have no value but their own.
const LONGEST: usize = 2_000;

/// Whether two canonical forms have one value.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.len().max(b.len()) <= LONGEST && alike(a, b, 0)
}

fn alike(a: &str, b: &str, depth: usize) -> bool {
    let (a, b) = (a.trim(), b.trim());
    if a == b || depth > DEEPEST {
        return a == b;
    }
    match (parts(a), parts(b)) {
        (Some((brackets, left)), Some((others, right))) => {
            let pairs = || left.iter().zip(&right).all(|(l, r)| alike(l, r, depth + 1));
            brackets == others && left.len() == right.len() && pairs()
        }
        (None, None) => {
            // Each side has work of its own, so that the order of sides does not matter.
            let sum = |text: &str| expression(text, &mut Work::new());
            sum(a).zip(sum(b)).is_some_and(|(a, b)| numeric::equal(&a, &b, &mut Work::new()))
        }
        _ => false,
    }
}

/// Opening and closing; none around a bare list.
type Brackets = Option<(char, char)>;

/// The brackets and the parts of a tuple, an interval or a bare list.
fn parts(text: &str) -> Option<(Brackets, Vec<&str>)> {
    let several = |text| split(text, ",").filter(|items| items.len() > 1);
    if let Some(items) = several(text) {
        return Some((None, items));
    }
    let inside = text.strip_prefix(['(', '['])?.strip_suffix([')', ']'])?;
    let brackets = (text.chars().next()?, text.chars().next_back()?);
    closes_last(text).then(|| several(inside).map(|items| (Some(brackets), items)))?
}

/// What stands between the braces of a set.
fn set(text: &str) -> Option<&str> {
    let escaped = text.strip_prefix("\\{").and_then(|t| t.strip_suffix("\\}"));
    let plain = || {
        let inside = text.strip_prefix('{')?.strip_suffix('}')?;
        (closes_last(text) && split(inside, ",")?.len() > 1).then_some(inside)
    };
    match escaped {
        Some(inside) => closes_last(text).then_some(inside),
        None => plain(),
    }
}

/// The parts of a list; what is not understood is a part as it is spelled.
fn elements(text: &str, depth: usize, work: &mut Work) -> Option<Vec<String>> {
    let parts = split(text, ",")?;
    let form = |part: &&str| {
        let part = part.trim();
        let plain = !part.contains([',', '=', '<', '>']);
        whole(part, depth + 1, work).or_else(|| (!part.is_empty() && plain).then(|| part.to_owned()))
    };
    parts.iter().map(form).collect()
}

/// Items behind commas; a space keeps `1, 234` from becoming a number.
fn listed(items: &[String]) -> String {
    let mut list = String::new();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            let digits = item.bytes().take_while(u8::is_ascii_digit).count();
            list.push_str(if digits == 3 { ", " } else { "," });
        }
        list.push_str(item);
    }
    list
}

fn joined(items: Vec<String>, by: &str) -> String {
    items.join(by)
}

/// The signs of relations, in the one spelling that `tidy` leaves.
const SIGNS: &[&str] = &["\\le", "\\ge", "\\ne", "<", ">", "="];

/// An equation, an inequality, or inequalities in one direction.
fn relation(text: &str, work: &mut Work) -> Option<String> {
    if text.starts_with("\\begin{") {
        return None;
    }
    let (parts, signs) = cut(text, SIGNS)?;
    if signs.is_empty() {
        return None;
    }
    let sides = parts.iter().map(|part| side(part.trim(), work)).collect::<Option<Vec<Sum>>>()?;
    match (&sides[..], &signs[..]) {
        ([left, right], [sign]) => pair(left, sign, right, work),
        _ => chain(sides, signs),
    }
}

/// A relation of two sides, as one of a difference to 0.
fn pair(left: &Sum, sign: &str, right: &Sum, work: &mut Work) -> Option<String> {
    let (large, small, sign) = match sign {
        "<" => (right, left, ">"),
        "\\le" => (right, left, "\\ge"),
        _ => (left, right, sign),
    };
    let difference = large.add(&small.neg()?, work)?;
    // True or false, whatever the unknowns are: not an answer to tidy.
    if difference.as_ratio().is_some() {
        return None;
    }
    if sign == "="
        && let Some(height) = difference.solved("y", &["x", "\\pi", "e"])
    {
        return Some(height.to_string());
    }
    let form: Sum = difference.primitive(matches!(sign, "=" | "\\ne"))?;
    Some(format!("{form}{sign}0"))
}

/// Several inequalities in one direction, as in `2 \le x < 5`, from the least side up.
fn chain(mut sides: Vec<Sum>, mut signs: Vec<&str>) -> Option<String> {
    let falls = signs.iter().all(|sign| matches!(*sign, ">" | "\\ge"));
    if falls {
        sides.reverse();
        signs.reverse();
    }
    let rises = signs.iter().all(|sign| matches!(*sign, "<" | "\\le"));
    if !(falls || rises) || sides.iter().all(|side| side.as_ratio().is_some()) {
        return None;
    }
    let mut sides = sides.iter();
    let mut form = sides.next()?.to_string();
    for (sign, side) in signs.iter().zip(sides) {
        form.push_str(if matches!(*sign, "<" | ">") { "<" } else { "\\le " });
        form.push_str(&side.to_string());
    }
    Some(form)
}

fn matrix(kind: &str, text: &str, work: &mut Work) -> Option<String> {
    // Determinants and systems of equations have environments of their own.
    if !matches!(kind, "pmatrix" | "bmatrix" | "matrix") {
        return None;
    }
    let (body, after) = text.split_once(&format!("\\end{{{kind}}}"))?;
    if !after.is_empty() || body.contains("\\begin") {
        return None;
    }
    let body = body.trim().strip_suffix("\\\\").unwrap_or(body);
    let mut entry = |cell: &str| expression(cell.trim(), work).map(|sum| sum.to_string());
    let mut row = |row: &str| row.split('&').map(&mut entry).collect::<Option<Vec<_>>>();
    let rows: Vec<Vec<String>> = body.split("\\\\").map(&mut row).collect::<Option<_>>()?;
    let lines = rows.iter().map(|row| row.join("&")).collect();
    Some(format!("\\begin{{pmatrix}}{}\\end{{pmatrix}}", joined(lines, "\\\\")))
}

/// The parts between separators that stand outside of all brackets; `None` where
/// brackets do not match.
pub(super) fn split<'a>(text: &'a str, by: &str) -> Option<Vec<&'a str>> {
    cut(text, &[by]).map(|(parts, _)| parts)
}

/// The parts between any of some separators, and which stands behind each but the last.
fn cut<'a, 'b>(text: &'a str, by: &[&'b str]) -> Option<(Vec<&'a str>, Vec<&'b str>)> {
    let (mut parts, mut found) = (Vec::new(), Vec::new());
    let (mut depth, mut from, mut at) = (0usize, 0, 0);
    let begins = |text: &str| {
        let ends = |by: &str| text.strip_prefix(by).is_some_and(|rest| !command_goes_on(by, rest));
        by.iter().find(|by| ends(by))
    };
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at + c.len_utf8()..];
        match c {
            _ if depth == 0
                && let Some(by) = begins(&text[at..]) =>
            {
                parts.push(&text[from..at]);
                found.push(*by);
                at += by.len();
                from = at;
                continue;
            }
            '\\' if rest.starts_with(['{', '}']) => {
                depth = if rest.starts_with('{') { depth + 1 } else { depth.checked_sub(1)? };
                at += 2;
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += c.len_utf8();
    }
    parts.push(&text[from..]);
    (depth == 0).then_some((parts, found))
}

fn command_goes_on(command: &str, rest: &str) -> bool {
    command.starts_with('\\') && rest.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Whether the first bracket is closed by the very last character.
fn closes_last(text: &str) -> bool {
    let mut depth = 0i32;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && c != '\\' {
            return at + c.len_utf8() == text.len();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::{canonical, equiv};

    #[test]
    fn a_relation_has_many_spellings() {
        for (a, b) in [
            ("2 \\le x < 5", "2 \\leq x < 5"),
            ("2 \\le x < 5", "5 > x \\ge 2"),
            ("2\\le x\\le 5", "2\\leq x\\leq 5"),
            ("2\\le x\\le5", "2 <= x <= 5"),
            ("-1<x<1", "-1 \\lt x \\lt 1"),
            ("x \\le 5", "x \\leqslant 5"),
            ("x\\ge 2", "x>=2"),
            ("x\\geqslant2", "2≤x"),
            ("x\\ne 2", "x \\neq 2"),
            ("x \\gt \\frac12", "0.5<x"),
            ("-\\sqrt{8}\\le x\\le\\sqrt8", "-2\\sqrt2 \\leqslant x \\leqslant 2\\sqrt2"),
            ("\\{x\\mid x\\geq 3\\}", "\\{x\\mid x \\ge 3\\}"),
            ("2x+y=3", "y=-2x+3"),
            ("2x-y+3=0", "y=2x+3"),
            ("y-2=0", "y=2"),
            ("ex-y=1", "y=ex-1"),
            ("3x+4y=12", "y=-\\frac{3}{4}x+3"),
            ("y-1=2(x-3)", "2x-5=y"),
            ("y-\\frac{2}{x}=0", "y=\\frac{2}{x}"),
            ("y=\\sqrt{2}x^2", "y-\\sqrt2\\cdot x^2=0"),
            ("x+y=3,x-y=1", "y=3-x,y=x-1"),
            ("f(x)=2x+3", "f(x)=3+2x"),
            ("2f(2)=8", "f(2)=4"),
            ("f^{-1}(x)=\\frac{x-3}{2}", "2f^{-1}(x)+3=x"),
        ] {
            assert!(equiv(a, b), "{a} and {b}");
            assert_eq!(canonical(&canonical(a)), canonical(a), "{a}");
        }
    }

    #[test]
    fn other_relations_differ() {
        for (a, b) in [
            ("2\\le x<5", "2<x\\le 5"),
            ("2\\le x<5", "2\\le x<6"),
            ("2\\le x\\le 5", "5\\le x\\le 2"),
            ("2<x<5", "2<x>5"),
            ("2<x<5", "2<y<5"),
            ("1<2<3", "1<2<4"),
            ("x<y<z", "x<z<y"),
            ("a\\leftarrow b", "a<b"),
            ("2x+y=3", "2x-y=3"),
            ("2x+y<3", "y=3-2x"),
            ("2x+y+z=3", "3-2x-z"),
            ("x^2+y^2=1", "y=1-x^2"),
            ("f(2)=4", "f(1)=2"),
            ("P(2)=6", "P(1)=3"),
            ("h(2)>6", "h(1)>3"),
            ("f^{-1}(2)=3", "f^{-1}(4)=6"),
            ("f(x)=x^2", "g(x)=x^2"),
            ("\\ltimes", "<imes"),
            ("x\\nleq 2", "x\\leq 2"),
        ] {
            assert!(!equiv(a, b), "{a} and {b}");
        }
    }
}
