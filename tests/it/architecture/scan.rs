//! Just enough of a Rust lexer to see what a source file names.
//!
//! A real parser would be a dependency for one test; the rules only need
//! identifiers and paths, so comments and literals are blanked and the rest is
//! read as a flat list of words.

/// One word of the code: an identifier, a number, `::`, or one other character.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
}

/// A path as written out in full, groups of a `use` expanded.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

/// Replaces comments and the insides of literals by blanks. Newlines stay, so
/// that line numbers hold.
pub(super) fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// The strings of the code, as they are written.
pub(super) fn strings(source: &str) -> Vec<Word> {
    let chars: Vec<char> = source.chars().collect();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = skipped(&chars, at).max(at + 1);
        let text: String = chars[at..end].iter().collect();
        let lines = text.matches('\n').count();
        if end > at + 1 && matches!(chars[at], '"' | 'r') {
            out.push(Word { text, line });
        }
        (at, line) = (end, line + lines);
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none
/// begins there.
fn skipped(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => line_end(chars, at),
        '/' if next == Some('*') => block_end(chars, at),
        '"' => string_end(chars, at),
        '\'' => char_end(chars, at),
        'r' if at == 0 || !is_word(chars[at - 1]) || is_raw_prefix(chars, at) => raw_end(chars, at),
        _ => at,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the `r` at `at` belongs to `br"` or `cr"`, and not to a longer word.
fn is_raw_prefix(chars: &[char], at: usize) -> bool {
    matches!(chars[at - 1], 'b' | 'c') && (at == 1 || !is_word(chars[at - 2]))
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |n| at + n)
}

fn block_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A character literal, or nothing where the quote begins a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            // The escaped character may itself be a quote.
            chars[at + 3..].iter().position(|&c| c == '\'').map_or(chars.len(), |n| at + 3 + n + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// A raw string, or nothing where the `r` begins an identifier.
fn raw_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let mut end = at + 2 + hashes;
    while end < chars.len() {
        let closing = chars[end + 1..].iter().take(hashes).filter(|&&c| c == '#').count();
        if chars[end] == '"' && closing == hashes {
            return end + 1 + hashes;
        }
        end += 1;
    }
    chars.len()
}

/// Splits blanked code into words.
pub(super) fn words(code: &str) -> Vec<Word> {
    let mut out = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (text, after) = rest.split_at(length);
            out.push(Word { text: text.to_owned(), line: number + 1 });
            rest = after.trim_start();
        }
    }
    out
}

/// Every path of at least two segments, and those of one segment that a `use`
/// or `extern crate` names.
pub(super) fn paths(words: &[Word]) -> Vec<Path> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let imported = is_imported(&words[..at]);
        if starts_with_word(&words[at].text) || (imported && words[at].text == "{") {
            at = tree(words, at, &[], &mut out);
            if !imported {
                out.pop_if(|path| path.segments.len() == 1);
            }
        } else {
            at += 1;
        }
    }
    out
}

/// Whether what follows these words is what a `use` or `extern crate` names.
fn is_imported(before: &[Word]) -> bool {
    let mut back = before.iter().rev().map(|w| w.text.as_str()).skip_while(|&text| text == "::");
    match back.next() {
        Some("use") => true,
        Some("crate") => back.next() == Some("extern"),
        Some(_) | None => false,
    }
}

fn starts_with_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word)
}

/// Reads one path or group at `at`, adds what it names to `out`, and returns
/// the place after it.
fn tree(words: &[Word], mut at: usize, prefix: &[String], out: &mut Vec<Path>) -> usize {
    let text = |at: usize| words.get(at).map_or("", |w| w.text.as_str());
    let line = words[at].line;
    let mut segments = prefix.to_vec();
    loop {
        if text(at) == "{" {
            at += 1;
            while at < words.len() && text(at) != "}" {
                at = match text(at) {
                    word if starts_with_word(word) || word == "{" => tree(words, at, &segments, out),
                    "*" => {
                        out.push(Path { segments: with(&segments, "*"), line: words[at].line });
                        at + 1
                    }
                    _ => at + 1,
                };
            }
            return at + 1;
        }
        if starts_with_word(text(at)) || text(at) == "*" {
            segments.push(text(at).to_owned());
            at += 1;
        }
        let more = starts_with_word(text(at + 1)) || matches!(text(at + 1), "{" | "*");
        if text(at) == "::" && more {
            at += 1;
        } else {
            out.push(Path { segments, line });
            return at;
        }
    }
}

fn with(segments: &[String], last: &str) -> Vec<String> {
    segments.iter().cloned().chain([last.to_owned()]).collect()
}

/// Splits a file where its trailing test module begins, in lines: how many are
/// production code, and whether anything but the test module follows them.
pub(super) fn production_lines(code: &str) -> (usize, bool) {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let Some(start) = (0..lines.len()).find(|&at| begins_tests(&lines[at..])) else {
        return (lines.len(), false);
    };
    let rest = words(&lines[start..].join("\n"));
    let open = rest.iter().position(|w| w.text == "mod").map_or(rest.len(), |n| n + 2);
    let mut depth = 0_usize;
    let end = rest.iter().enumerate().skip(open).find_map(|(at, word)| {
        match word.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    });
    (start, end.is_some_and(|end| end + 1 < rest.len()))
}

/// Whether these lines begin with `#[cfg(test)] mod tests`, other attributes in
/// between allowed.
fn begins_tests(lines: &[&str]) -> bool {
    let Some(first) = lines[0].strip_prefix("#[cfg(test)]") else {
        return false;
    };
    let mut rest = std::iter::once(first.trim()).chain(lines[1..].iter().copied());
    rest.find(|line| !line.is_empty() && !line.starts_with("#["))
        .and_then(|line| line.strip_prefix("mod tests"))
        .is_some_and(|after| matches!(after.trim_start().chars().next(), None | Some('{' | ';')))
}
