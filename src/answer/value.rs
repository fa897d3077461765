//! Answers with parts: percentages, lists, tuples, intervals, sets, unions,
//! matrices, equations and inequalities, each of expressions.
//!
//! Tuples, intervals and lists are ordered and keep their brackets; sets and unions
//! are not ordered. An equation is known up to a factor, an inequality up to a
//! positive one and its direction. Two canonical forms that differ may still have one
//! value ([`same`]): expressions by [`numeric`], the parts of tuples, intervals and lists
//! one by one. Deliberately absent there: sets, unions, matrices, relations and shares.

use super::expression::expression;
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

/// An equation or inequality with one sign.
fn relation(text: &str, work: &mut Work) -> Option<String> {
    const SIGNS: &[(&str, &str, bool)] = &[
        ("\\leq", "\\ge", true),
        ("\\geq", "\\ge", false),
        ("\\neq", "\\ne", false),
        ("\\le", "\\ge", true),
        ("\\ge", "\\ge", false),
        ("\\ne", "\\ne", false),
        ("<", ">", true),
        (">", ">", false),
        ("=", "=", false),
    ];
    if text.starts_with("\\begin{") {
        return None;
    }
    let found = |sign: &&(&str, &str, bool)| split(text, sign.0).is_some_and(|parts| parts.len() == 2);
    let (spelled, sign, turned) = SIGNS.iter().find(found)?;
    let parts = split(text, spelled)?;
    let (mut left, mut right) = (expression(parts[0].trim(), work)?, expression(parts[1].trim(), work)?);
    if *turned {
        std::mem::swap(&mut left, &mut right);
    }
    let difference = left.add(&right.neg()?, work)?;
    // True or false, whatever the unknowns are: not an answer to tidy.
    if difference.as_ratio().is_some() {
        return None;
    }
    let form: Sum = difference.primitive(matches!(*sign, "=" | "\\ne"))?;
    Some(format!("{form}{sign}0"))
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
fn split<'a>(text: &'a str, by: &str) -> Option<Vec<&'a str>> {
    let mut parts = Vec::new();
    let (mut depth, mut from, mut at) = (0usize, 0, 0);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at + c.len_utf8()..];
        match c {
            _ if depth == 0 && text[at..].starts_with(by) && !command_goes_on(by, &text[at + by.len()..]) => {
                parts.push(&text[from..at]);
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
    (depth == 0).then_some(parts)
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
