//! What is cut out of text before a verifier reads it: whatever it could take
//! for a marker of its own.

use std::borrow::Cow;

/// Cuts markers out of text.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    /// Cut wherever they stand; none of them is empty.
    anywhere: Vec<String>,
    /// Cut where it stands as a word.
    word: Option<String>,
    /// Whether everything of the form `<|name|>` is cut.
    names: bool,
}

impl Cleaner {
    pub(super) fn new(anywhere: Vec<String>, word: Option<String>) -> Self {
        let anywhere = anywhere.into_iter().filter(|marker| !marker.is_empty()).collect();
        Self { anywhere, word: word.filter(|word| !word.is_empty()), names: false }
    }

    /// One for a model whose special tokens are not known: what they look like
    /// nowadays is cut as well.
    pub(super) fn guessing(self) -> Self {
        Self { names: true, ..self }
    }

    /// The text without markers. What is left of one may be a marker again, so
    /// this is repeated.
    pub(super) fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        loop {
            let marker = self.anywhere.iter().find_map(|marker| {
                let at = text.find(marker.as_str())?;
                Some(at..at + marker.len())
            });
            let word = || Some((word(&text, self.word.as_ref()?)?, self.word.as_ref()?.len()));
            let word = || word().map(|(at, len)| at..at + len);
            let name = || if self.names { name(&text) } else { None };
            match marker.or_else(word).or_else(name) {
                Some(range) => text.to_mut().replace_range(range, ""),
                None => return text,
            }
        }
    }
}

/// Where `word` stands in `text` with no letter or digit at either side.
fn word(text: &str, word: &str) -> Option<usize> {
    let alone = |&(at, _): &(usize, &str)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    };
    text.match_indices(word).find(alone).map(|(at, _)| at)
}

/// Where something like `<|im_end|>` stands.
fn name(text: &str) -> Option<std::ops::Range<usize>> {
    text.match_indices("<|").find_map(|(at, _)| {
        let inner = &text[at + 2..];
        let len = inner.find("|>")?;
        let plain = inner[..len].chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
        (plain && len > 0).then_some(at..at + 2 + len + 2)
    })
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
}
