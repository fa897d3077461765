//! What is cut out of text before a verifier reads it: whatever it could take
//! for a marker of its own.
//!
//! What is left of one marker may be another, so text is cut as it is put together
//! again: the end of what stands so far is looked at behind every character, and
//! the work grows with the text alone, whatever it nests.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Cuts markers out of text.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    /// Cut wherever they stand: by their last characters, the longest first.
    anywhere: HashMap<char, Vec<String>>,
    /// Cut where it stands as a word.
    word: Option<String>,
    /// Whether everything of the form `<|name|>` is cut.
    names: bool,
}

impl Cleaner {
    pub(super) fn new(anywhere: Vec<String>, word: Option<String>) -> Self {
        let mut by_end: HashMap<char, Vec<String>> = HashMap::new();
        for marker in anywhere {
            // An empty one ends in nothing.
            let Some(last) = marker.chars().next_back() else { continue };
            by_end.entry(last).or_default().push(marker);
        }
        for markers in by_end.values_mut() {
            markers.sort_by_key(|marker| Reverse(marker.len()));
        }
        Self { anywhere: by_end, word: word.filter(|word| !word.is_empty()), names: false }
    }

    /// One for a model whose special tokens are not known: what they look like
    /// nowadays is cut as well.
    pub(super) fn guessing(self) -> Self {
        Self { names: true, ..self }
    }

    /// The text without markers.
    pub(super) fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut kept = String::with_capacity(text.len());
        for next in text.chars() {
            if !next.is_alphanumeric() {
                self.cut_words(&mut kept);
            }
            kept.push(next);
            let markers = self.anywhere.get(&next).map_or(&[][..], Vec::as_slice);
            let marker = markers.iter().find(|marker| kept.ends_with(marker.as_str()));
            let name = || if self.names { name(&kept) } else { None };
            if let Some(len) = marker.map(String::len).or_else(name) {
                kept.truncate(kept.len() - len);
            }
        }
        self.cut_words(&mut kept);
        if kept.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(kept) }
    }

    /// Cuts the word off the end, where nothing that could go on with it follows.
    fn cut_words(&self, kept: &mut String) {
        let Some(word) = &self.word else { return };
        while let Some(before) = kept.strip_suffix(word.as_str()) {
            if before.chars().next_back().is_some_and(char::is_alphanumeric) {
                return;
            }
            kept.truncate(before.len());
        }
    }
}

/// The bytes of something like `<|im_end|>` at the end of a text.
fn name(text: &str) -> Option<usize> {
    let inner = text.strip_suffix("|>")?;
    let before = inner.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
    (before.len() < inner.len() && before.ends_with("<|")).then_some(text.len() - before.len() + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_go_wherever_they_are_nested_and_other_text_stays() {
        let cleaner = Cleaner::new(vec!["<tag>".to_owned(), String::new()], Some("ки".to_owned()));
        let clean = |text| cleaner.clean(text).into_owned();
        assert_eq!(clean("a<tag>b <t<tag>ag>c"), "ab c");
        assert_eq!(clean("5 ки, ки\nкино руки <|im_end|>"), "5 , \nкино руки <|im_end|>");
        assert!(matches!(cleaner.clean("nothing < here >"), Cow::Borrowed(_)));
        let guessing = Cleaner::default().guessing();
        let clean = |text| guessing.clean(text).into_owned();
        assert_eq!(clean("a<|im_end|>b<|x<|eot_id|>y|>c"), "abc");
        assert_eq!(clean("|x| <| 3 |> <|a b|> <||> <|"), "|x| <| 3 |> <|a b|> <||> <|");
    }

    /// Two megabytes of markers of which each is another's inside, where a search from
    /// the beginning behind every cut would not end.
    #[test]
    fn a_hostile_text_is_read_once() {
        let cleaner = Cleaner::new((0..256).map(|i| format!("<|m{i}|>")).collect(), Some("ки".to_owned()));
        let cleaner = cleaner.guessing();
        let depth = 100_000;
        let nested = format!("a{}{}b", "<|m".repeat(depth), "7|>".repeat(depth));
        for hostile in [nested, "<|m7|>".repeat(depth), " ки".repeat(depth), "<|".repeat(depth)] {
            let cleaned = cleaner.clean(&hostile);
            assert!(!cleaned.contains("<|m7|>") && !cleaned.contains("ки"), "{}", cleaned.len());
        }
    }

    /// What is cut leaves no marker, in whatever order they overlap.
    #[test]
    fn nothing_that_is_left_is_a_marker() {
        let markers = ["ab", "b", "aab", "<c>"].map(str::to_owned).to_vec();
        let cleaner = Cleaner::new(markers.clone(), Some("c".to_owned()));
        let letters = ['a', 'b', 'c', '<', '>', ' '];
        for number in 0..letters.len().pow(6) {
            let digit = |place: u32| letters[number / letters.len().pow(place) % letters.len()];
            let text: String = (0..6).map(digit).collect();
            let cleaned = cleaner.clean(&text);
            assert!(!markers.iter().any(|marker| cleaned.contains(marker.as_str())), "{text} to {cleaned}");
            let words = cleaned.split(|c: char| !c.is_alphanumeric());
            assert!(!words.into_iter().any(|word| word == "c"), "{text} to {cleaned}");
            assert_eq!(cleaner.clean(&cleaned), cleaned, "{text}");
        }
    }
}
