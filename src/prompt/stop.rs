//! Stop strings and the answer marker, across token borders.
//!
//! What is found never depends on how the text was cut into pieces. Therefore
//! the stop string that counts is the one that is *complete* first, and of those
//! complete at the same byte the one that begins first: with `bc` and `abcd`, the
//! text `abcd` stops before `bc`, for when `abc` has come nobody knows yet what
//! follows. Stop strings apply to the answer alone: behind the marker and, where
//! that is hidden, the white space that goes with it, so that the line break after a
//! `</think>` is no end of an empty answer.
//! [`StopMatcher`] (the engine's) and [`Splitter`] (the client's) share both
//! rules, hence cut at the same byte.

/// Where in a text the thought ends and the answer begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Border {
    /// The text between them; empty where there is none, and all is answer.
    pub marker: String,
    /// Whether the answer is shown with it. One that is hidden takes the white space
    /// behind it along.
    pub shown: bool,
    /// What a thought begins with, after white space, if that is known: a text that
    /// begins otherwise is all answer.
    pub opening: Option<String>,
}

impl Border {
    /// Whether a growing text has a thought; `None` while it has not come far enough.
    #[must_use]
    pub fn has_thought(&self, text: &str) -> Option<bool> {
        let Some(opening) = self.opening.as_deref() else { return Some(true) };
        let text = text.trim_start();
        if text.starts_with(opening) {
            Some(true)
        } else if opening.starts_with(text) {
            None
        } else {
            Some(false)
        }
    }

    /// Closes the thought that a rendered conversation ends by opening, so that what
    /// is said next is said at once (Ma et al., arXiv 2504.09858); says whether there
    /// was one.
    pub fn close(&self, rendered: &mut String) -> bool {
        let said = rendered.trim_end();
        let open = self.opening.as_deref().is_some_and(|opening| said.ends_with(opening));
        if open {
            rendered.truncate(said.len());
            rendered.push_str("\n\n");
            rendered.push_str(&self.marker);
            rendered.push_str("\n\n");
        }
        open
    }
}

/// Stop strings, and where they begin to apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopRule {
    /// The strings; empty ones are ignored.
    pub strings: Vec<String>,
    /// They apply only to the answer behind it, if given.
    pub border: Option<Border>,
}

impl StopRule {
    /// Where the stop string that is complete first begins and ends, wherever it is.
    #[must_use]
    pub fn anywhere(&self, text: &str) -> Option<(usize, usize)> {
        first_complete(&self.strings, text)
    }
}

/// Finds the first stop string in a growing text.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    /// Everything before this byte has been looked at.
    seen: usize,
    /// Whether the text is known to begin with a thought.
    in_thought: bool,
    /// Where the stop strings began to apply.
    from: Option<usize>,
    /// Whether the white space behind a hidden marker may still go on.
    in_gap: bool,
    /// The match, once there is one: it stays.
    found: Option<usize>,
}

impl StopMatcher {
    /// Looks at the text grown to `text` (always the whole text so far, which
    /// only grows); returns the byte offset at which the stop string that is
    /// complete first begins. Costs what the growth costs, not the whole text.
    #[must_use]
    pub fn find(&mut self, rule: &StopRule, text: &str) -> Option<usize> {
        if self.found.is_some() || rule.strings.iter().all(String::is_empty) {
            return self.found;
        }
        let from = self.applies_from(rule, text)?;
        let longest = rule.strings.iter().map(String::len).max().unwrap_or(0);
        let start = floor_boundary(text, self.seen.saturating_sub(longest)).max(from);
        self.found = first_complete(&rule.strings, &text[start..]).map(|(begin, _)| start + begin);
        self.seen = text.len();
        self.found
    }

    /// The byte from which stop strings apply, if the text has come so far.
    fn applies_from(&mut self, rule: &StopRule, text: &str) -> Option<usize> {
        let border = rule.border.as_ref().filter(|border| !border.marker.is_empty());
        let mut from = match (self.from, border) {
            (Some(from), _) => from,
            (None, None) => *self.from.insert(0),
            (None, Some(border)) if !self.in_thought && !border.has_thought(text)? => *self.from.insert(0),
            (None, Some(Border { marker, shown, .. })) => {
                self.in_thought = true;
                let start = floor_boundary(text, self.seen.saturating_sub(marker.len()));
                self.seen = text.len();
                let from = start + text[start..].find(marker.as_str())? + marker.len();
                self.in_gap = !shown;
                self.seen = from;
                *self.from.insert(from)
            }
        };
        if self.in_gap {
            let gap = leading_space(&text[from..]);
            from += gap;
            self.from = Some(from);
            self.seen = self.seen.max(from);
            self.in_gap = from == text.len();
        }
        Some(from)
    }
}

/// A piece of a trajectory's text, assigned to its channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Before the marker.
    Thought(String),
    /// From the marker on.
    Content(String),
}

/// Splits a growing trajectory at its answer marker, holding back what may yet turn out to be marker or stop string.
///
/// A marker that is not shown vanishes together with the white space behind it.
/// Where the marker never comes, all text leaves as [`Part::Thought`] and
/// [`Splitter::content_start`] stays `None`: what to make of that is the caller's
/// decision. No part is ever empty.
#[derive(Debug, Clone)]
pub struct Splitter {
    border: Border,
    stops: Vec<String>,
    place: Place,
    /// Text that has come and not gone out.
    held: String,
    /// Bytes of the whole text before `held`.
    base: usize,
    content_start: Option<usize>,
}

/// Where in a trajectory a [`Splitter`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before it is known whether there is a thought.
    Beginning,
    Thought,
    /// In the white space behind a hidden marker.
    Gap,
    Content,
    /// Behind a stop string: nothing counts any more.
    Over,
}

impl Splitter {
    /// Without a border all text is content. `stops` are cut off the content with all that follows.
    #[must_use]
    pub fn new(border: Option<Border>, mut stops: Vec<String>) -> Self {
        let border = border.unwrap_or_default();
        stops.retain(|stop| !stop.is_empty());
        let (place, content_start) =
            if border.marker.is_empty() { (Place::Content, Some(0)) } else { (Place::Beginning, None) };
        Self { border, stops, place, held: String::new(), base: 0, content_start }
    }

    /// More text; returns what can be given out.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        if self.place != Place::Over {
            self.held.push_str(text);
        }
        if self.place == Place::Beginning
            && let Some(has_thought) = self.border.has_thought(&self.held)
        {
            self.begin(has_thought);
        }
        if self.place == Place::Thought {
            self.think(&mut parts);
        }
        if self.place == Place::Gap {
            self.cross_gap();
        }
        if self.place == Place::Content {
            self.answer(&mut parts);
        }
        parts
    }

    /// The end: what was held back.
    #[must_use]
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let all = self.held.len();
        if self.place == Place::Beginning {
            // Less than the opening of a thought is none.
            self.begin(false);
        }
        match self.place {
            Place::Beginning | Place::Over => {}
            Place::Thought => self.give(all, Part::Thought, &mut parts),
            Place::Gap | Place::Content => self.give(all, Part::Content, &mut parts),
        }
        self.place = Place::Over;
        parts
    }

    /// Byte offset in the whole text at which the content begins, once the
    /// marker has come; 0 where there is no marker to wait for. Behind a marker
    /// that is not shown it still moves while only white space has come.
    #[must_use]
    pub fn content_start(&self) -> Option<usize> {
        self.content_start
    }

    fn begin(&mut self, has_thought: bool) {
        self.place = if has_thought { Place::Thought } else { Place::Content };
        if !has_thought {
            self.content_start = Some(0);
        }
    }

    fn think(&mut self, parts: &mut Vec<Part>) {
        let marker = self.border.marker.as_str();
        let len = marker.len();
        let Some(at) = self.held.find(marker) else {
            let keep = possible_beginning(std::slice::from_ref(&self.border.marker), &self.held);
            return self.give(self.held.len() - keep, Part::Thought, parts);
        };
        self.give(at, Part::Thought, parts);
        self.content_start = Some(self.base);
        if self.border.shown {
            self.give(len, Part::Content, parts);
            self.place = Place::Content;
        } else {
            self.drop(len);
            self.place = Place::Gap;
        }
    }

    fn cross_gap(&mut self) {
        self.drop(leading_space(&self.held));
        if !self.held.is_empty() {
            self.place = Place::Content;
        }
    }

    fn answer(&mut self, parts: &mut Vec<Part>) {
        if let Some((at, _)) = first_complete(&self.stops, &self.held) {
            self.give(at, Part::Content, parts);
            self.held.clear();
            self.place = Place::Over;
            return;
        }
        let keep = possible_beginning(&self.stops, &self.held);
        self.give(self.held.len() - keep, Part::Content, parts);
    }

    /// Gives the first `len` bytes out, joined to the last part of the same channel.
    fn give(&mut self, len: usize, channel: fn(String) -> Part, parts: &mut Vec<Part>) {
        if len == 0 {
            return;
        }
        let text: String = self.held.drain(..len).collect();
        self.base += len;
        match (parts.last_mut(), channel(text)) {
            (Some(Part::Thought(last)), Part::Thought(text))
            | (Some(Part::Content(last)), Part::Content(text)) => last.push_str(&text),
            (_, part) => parts.push(part),
        }
    }

    /// Takes `len` bytes away that nobody sees: the content begins after them.
    fn drop(&mut self, len: usize) {
        self.held.drain(..len);
        self.base += len;
        self.content_start = Some(self.base);
    }
}

/// Begin and end of the stop string that is complete first, the longest where
/// several end at one byte.
fn first_complete(stops: &[String], text: &str) -> Option<(usize, usize)> {
    let matches = stops.iter().filter(|stop| !stop.is_empty());
    matches
        .filter_map(|stop| text.find(stop.as_str()).map(|begin| (begin, begin + stop.len())))
        .min_by_key(|&(begin, end)| (end, begin))
}

/// Length of the longest end of `text` with which one of `strings` begins, but
/// is not complete.
fn possible_beginning(strings: &[String], text: &str) -> usize {
    let beginnings = strings.iter().flat_map(|s| s.char_indices().map(|(i, _)| &s[..i]));
    beginnings.filter(|beginning| text.ends_with(beginning)).map(str::len).max().unwrap_or(0)
}

fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn border((marker, shown): (&str, bool), opening: Option<&str>) -> Border {
        Border { marker: marker.to_owned(), shown, opening: opening.map(str::to_owned) }
    }

    fn rule(strings: &[&str], after: Option<&str>) -> StopRule {
        let strings = strings.iter().map(|s| (*s).to_owned()).collect();
        StopRule { strings, border: after.map(|marker| border((marker, false), None)) }
    }

    /// Where the marker of a text begins and ends that has a thought; `Err` where it
    /// is all answer.
    fn naive_marker(border: &Border, text: &str) -> Result<Option<(usize, usize)>, ()> {
        if let Some(opening) = &border.opening
            && !text.trim_start().starts_with(opening.as_str())
        {
            return Err(());
        }
        if border.marker.is_empty() {
            return Err(());
        }
        Ok(text.find(&border.marker).map(|at| (at, at + border.marker.len())))
    }

    /// What a matcher must find, looked for byte by byte in the whole text.
    fn naive_find(rule: &StopRule, text: &str) -> Option<usize> {
        let mut from = match &rule.border {
            None => 0,
            Some(border) if !border.marker.is_empty() && border.has_thought(text).is_none() => return None,
            Some(border) => match naive_marker(border, text) {
                Err(()) => 0,
                Ok(None) => return None,
                Ok(Some((_, from))) if border.shown => from,
                Ok(Some((_, from))) => from + leading_space(&text[from..]),
            },
        };
        let ends = text.char_indices().map(|(i, _)| i).chain([text.len()]);
        from = from.min(text.len());
        for end in ends.filter(|&end| end >= from) {
            let stops =
                rule.strings.iter().filter(|s| !s.is_empty() && text[from..end].ends_with(s.as_str()));
            if let Some(longest) = stops.map(String::len).max() {
                return Some(end - longest);
            }
        }
        None
    }

    /// What a splitter must give out: thought, content and its beginning.
    fn naive_split(border: Option<&Border>, stops: &[String], text: &str) -> (String, String, Option<usize>) {
        let rule = StopRule { strings: stops.to_vec(), border: border.cloned() };
        let end = naive_find(&rule, text).unwrap_or(text.len());
        let Some(Ok(marker)) = border.map(|border| naive_marker(border, text)) else {
            return (String::new(), text[..end].to_owned(), Some(0));
        };
        let Some((at, behind)) = marker else { return (text.to_owned(), String::new(), None) };
        let shown = border.is_some_and(|border| border.shown);
        let start = if shown { at } else { behind + leading_space(&text[behind..]) };
        (text[..at].to_owned(), text[start..end].to_owned(), Some(start))
    }

    fn split(splitter: &mut Splitter, chunks: &[&str]) -> (String, String) {
        let (mut thought, mut content) = (String::new(), String::new());
        let mut take = |parts: Vec<Part>| {
            for part in parts {
                match part {
                    Part::Thought(text) => thought.push_str(&text),
                    Part::Content(text) => content.push_str(&text),
                }
            }
        };
        for chunk in chunks {
            take(splitter.push(chunk));
        }
        take(splitter.finish());
        (thought, content)
    }

    #[test]
    fn a_stop_string_across_calls_is_found_where_it_begins() {
        let mut matcher = StopMatcher::default();
        let rule = rule(&["END"], None);
        assert_eq!(matcher.find(&rule, "one E"), None);
        assert_eq!(matcher.find(&rule, "one EN"), None);
        assert_eq!(matcher.find(&rule, "one ENDing"), Some(4));
        assert_eq!(matcher.find(&rule, "one ENDing END"), Some(4));
    }

    #[test]
    fn the_one_that_is_complete_first_counts() {
        assert_eq!(StopMatcher::default().find(&rule(&["abcd", "bc"], None), "abcd"), Some(1));
        assert_eq!(StopMatcher::default().find(&rule(&["bc", "abc"], None), "abcd"), Some(0));
    }

    #[test]
    fn stop_strings_wait_for_the_marker_and_the_space_behind_it() {
        let mut matcher = StopMatcher::default();
        let rule = rule(&["\n"], Some("</think>"));
        assert_eq!(matcher.find(&rule, "a\nb</thi"), None);
        assert_eq!(matcher.find(&rule, "a\nb</think>\n"), None);
        assert_eq!(matcher.find(&rule, "a\nb</think>\n\n"), None);
        assert_eq!(matcher.find(&rule, "a\nb</think>\n\nyes\n"), Some(16));
    }

    #[test]
    fn a_hidden_marker_vanishes_with_the_space_behind_it() {
        let mut splitter = Splitter::new(Some(border(("</think>", false), None)), vec!["STOP".to_owned()]);
        assert_eq!(splitter.push("so</th"), [Part::Thought("so".to_owned())]);
        assert_eq!(splitter.push("ink>\n"), []);
        assert_eq!(splitter.push("\nyes ST"), [Part::Content("yes ".to_owned())]);
        assert_eq!(splitter.content_start(), Some(12));
        assert_eq!(splitter.push("OP no"), []);
        assert_eq!(splitter.finish(), []);
    }

    #[test]
    fn a_shown_marker_begins_the_content() {
        let mut splitter = Splitter::new(Some(border(("The answer is", true), None)), Vec::new());
        let parts = splitter.push("1 + 1 = 2\n\nThe answer is \\boxed{2}.");
        let content = "The answer is \\boxed{2}.".to_owned();
        assert_eq!(parts, [Part::Thought("1 + 1 = 2\n\n".to_owned()), Part::Content(content)]);
        assert_eq!(splitter.content_start(), Some(11));
    }

    #[test]
    fn a_stop_string_may_begin_with_the_space_behind_a_shown_marker() {
        let shown = border(("The answer is", true), None);
        let rule = StopRule { strings: vec![" 4".to_owned()], border: Some(shown.clone()) };
        assert_eq!(StopMatcher::default().find(&rule, "so 4. The answer is 42"), Some(19));
        let mut splitter = Splitter::new(Some(shown), rule.strings);
        let parts = split(&mut splitter, &["so 4. The answer is", " 42"]);
        assert_eq!(parts, ("so 4. ".to_owned(), "The answer is".to_owned()));
    }

    #[test]
    fn a_text_that_does_not_open_a_thought_is_all_answer_from_its_first_word() {
        let thinking = border(("</think>", false), Some("<think>"));
        let mut splitter = Splitter::new(Some(thinking.clone()), vec!["END".to_owned()]);
        assert_eq!(splitter.push("\n<"), []);
        assert_eq!(splitter.push("b>yes"), [Part::Content("\n<b>yes".to_owned())]);
        assert_eq!(splitter.content_start(), Some(0));
        assert_eq!(split(&mut splitter, &[" it is END", "."]), (String::new(), " it is ".to_owned()));
        let rule = StopRule { strings: vec!["yes".to_owned()], border: Some(thinking.clone()) };
        let mut matcher = StopMatcher::default();
        assert_eq!(matcher.find(&rule, "\n<"), None);
        assert_eq!(matcher.find(&rule, "\n<b>yes"), Some(4));

        let mut splitter = Splitter::new(Some(thinking.clone()), Vec::new());
        let parts = split(&mut splitter, &["\n<th", "ink>yes</th", "ink>\n\nno"]);
        assert_eq!(parts, ("\n<think>yes".to_owned(), "no".to_owned()));
        assert_eq!(StopMatcher::default().find(&rule, "\n<think>yes</think>\nyes"), Some(20));
        let mut splitter = Splitter::new(Some(thinking), Vec::new());
        assert_eq!(split(&mut splitter, &["<thi"]), (String::new(), "<thi".to_owned()));
    }

    #[test]
    fn without_the_marker_all_is_thought_and_the_start_stays_open() {
        let mut splitter = Splitter::new(Some(border(("<x>", true), None)), Vec::new());
        assert_eq!(split(&mut splitter, &["an essay <", "x"]), ("an essay <x".to_owned(), String::new()));
        assert_eq!(splitter.content_start(), None);
    }

    fn chunks<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
        let mut bounds: Vec<usize> = cuts.iter().map(|&c| floor_boundary(text, c.min(text.len()))).collect();
        bounds.extend([0, text.len()]);
        bounds.sort_unstable();
        bounds.windows(2).map(|w| &text[w[0]..w[1]]).collect()
    }

    fn borders() -> impl Strategy<Value = Border> {
        let opening = prop::option::of("[abé]{1,3}");
        ("[abé]{0,3}", any::<bool>(), opening).prop_map(|(marker, shown, opening)| Border {
            marker,
            shown,
            opening,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn matching_does_not_depend_on_the_chunks(
            text in "[abé \n]{0,24}",
            cuts in prop::collection::vec(0usize..40, 0..12),
            strings in prop::collection::vec("[abé\n]{0,4}", 0..4),
            border in prop::option::of(borders()),
        ) {
            let rule = StopRule { strings, border };
            let mut matcher = StopMatcher::default();
            let mut grown = String::new();
            let mut found = None;
            for chunk in chunks(&text, &cuts) {
                grown.push_str(chunk);
                found = matcher.find(&rule, &grown);
                prop_assert_eq!(found, naive_find(&rule, &grown));
                if found.is_some() { break; }
            }
            prop_assert_eq!(found, naive_find(&rule, &text));
        }

        #[test]
        fn splitting_does_not_depend_on_the_chunks(
            text in "[abé \n]{0,24}",
            cuts in prop::collection::vec(0usize..40, 0..12),
            stops in prop::collection::vec("[abé\n]{0,4}", 0..4),
            border in prop::option::of(borders()),
        ) {
            let mut splitter = Splitter::new(border.clone(), stops.clone());
            let (thought, content) = split(&mut splitter, &chunks(&text, &cuts));
            let expected = naive_split(border.as_ref(), &stops, &text);
            prop_assert_eq!((thought, content, splitter.content_start()), expected);
        }

        #[test]
        fn what_goes_out_is_never_empty_and_nothing_is_held_needlessly(
            text in "[ab\n]{0,16}",
            marker in prop::option::of(("[ab]{1,3}", any::<bool>())),
        ) {
            let held = marker.as_ref().map_or(0, |(m, _)| m.len() - 1);
            let border = marker.map(|(marker, shown)| border((&marker, shown), None));
            let mut splitter = Splitter::new(border, Vec::new());
            for parts in [splitter.push(&text), splitter.finish()] {
                for part in parts {
                    let (Part::Thought(text) | Part::Content(text)) = part;
                    prop_assert!(!text.is_empty());
                }
            }
            prop_assert!(splitter.held.len() <= held);
        }
    }
}
