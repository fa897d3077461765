//! Incremental detokenisation.
//!
//! The invariant: whatever the ids, the concatenation of all that `push` and
//! `finish` return equals the library's own decoding of all ids at once, without
//! special tokens. No half character ever leaves.
//!
//! Byte-level vocabularies need only a buffer of at most three bytes. Other
//! decoders look at neighbours, so a window of the last emitted tokens is decoded
//! with and without the new ones and the difference is the new text (the method
//! of vLLM's `detokenize_incrementally` and of TGI). A run of `<0xNN>` tokens is
//! one character sequence to the library, right or wrong as a whole, so it is
//! held until it ends.

use super::Tokenizer;
use super::tokenizer::{Kind, Spelling};
use crate::token::TokenId;
use std::sync::Arc;

/// Tokens whose text may stay held back because it ends in U+FFFD, outside runs
/// of byte tokens: no character takes more than four bytes.
const HELD_AT_MOST: usize = 4;

/// Turns a stream of tokens into a stream of whole characters. `Clone`, because a fork of a branch decodes on from the same state.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Byte-level vocabularies: the beginning of an incomplete character.
    pending: Vec<u8>,
    /// Other vocabularies: tokens whose text is out, kept as context, then
    /// tokens whose text is not.
    window: Vec<TokenId>,
    /// How many tokens of `window` are context.
    read: usize,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, pending: Vec::new(), window: Vec::new(), read: 0 }
    }

    /// The text that became complete with this token.
    #[must_use]
    pub fn push(&mut self, id: TokenId) -> String {
        let kind = self.tokenizer.kind(id);
        if kind == Kind::Silent {
            return String::new();
        }
        if self.tokenizer.spelling() == Spelling::ByteLevel {
            self.pending.extend_from_slice(self.tokenizer.piece(id));
            return self.whole_characters();
        }
        self.window.push(id);
        // The character of a byte token is known only when its run has ended.
        if kind == Kind::Byte {
            return String::new();
        }
        let text = self.unread();
        if text.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() - self.read < HELD_AT_MOST {
            return String::new();
        }
        self.slide();
        text
    }

    /// What is left: an incomplete character, as U+FFFD.
    #[must_use]
    pub fn finish(&mut self) -> String {
        if self.window.len() > self.read {
            let text = self.unread();
            self.slide();
            return text;
        }
        if self.pending.is_empty() {
            return String::new();
        }
        self.pending.clear();
        char::REPLACEMENT_CHARACTER.to_string()
    }

    /// Takes the whole characters out of `pending`, replacing what can never
    /// become one just as `String::from_utf8_lossy` does on the whole text.
    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        let used = self.pending.len() - rest.len();
        self.pending.drain(..used);
        text
    }

    /// The text that the unread tokens add to the context's.
    fn unread(&self) -> String {
        // A decoder that refuses ids of its own vocabulary has no text for them.
        let before = self.tokenizer.decode(&self.window[..self.read]).unwrap_or_default();
        let mut all = self.tokenizer.decode(&self.window).unwrap_or_default();
        // A decoder may rewrite the context's end; then the lengths still tell what is new.
        let cut = (0..=before.len().min(all.len())).rev().find(|&i| all.is_char_boundary(i)).unwrap_or(0);
        all.split_off(cut)
    }

    /// Makes the unread tokens the context of the next ones.
    fn slide(&mut self) {
        self.window.drain(..self.read);
        self.read = self.window.len();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{bundled, others, pieces};
    use super::*;
    use proptest::prelude::*;

    fn run(tokenizer: &Arc<Tokenizer>, ids: &[TokenId], fork_at: usize) -> String {
        let mut decoder = tokenizer.detokenizer();
        let mut text = String::new();
        for (i, &id) in ids.iter().enumerate() {
            if i == fork_at {
                decoder = decoder.clone();
            }
            text.push_str(&decoder.push(id));
        }
        text.push_str(&decoder.finish());
        text
    }

    #[test]
    fn a_character_of_three_tokens_comes_out_whole() {
        let tokenizer = bundled();
        let ids = tokenizer.encode("→").unwrap();
        assert_eq!(ids.len(), 3);
        let mut decoder = tokenizer.detokenizer();
        assert_eq!(decoder.push(ids[0]), "");
        assert_eq!(decoder.push(ids[1]), "");
        let mut fork = decoder.clone();
        assert_eq!(decoder.push(ids[2]), "→");
        assert_eq!(decoder.finish(), "");
        assert_eq!(fork.finish(), "\u{FFFD}");
    }

    #[test]
    fn special_tokens_give_no_text() {
        let mut decoder = bundled().detokenizer();
        assert_eq!(decoder.push(2), "");
        assert_eq!(decoder.finish(), "");
    }

    #[test]
    fn a_run_of_byte_tokens_is_read_as_a_whole() {
        let tokenizer = pieces();
        let id = |name: &str| tokenizer.token_id(name).unwrap();
        let mut decoder = tokenizer.detokenizer();
        let mut out = Vec::new();
        for name in ["▁a", "<0xE2>", "<0x82>", "<0xAC>", "▁a", "<0xE2>"] {
            out.push(decoder.push(id(name)));
        }
        assert_eq!(out, ["a", "", "", "", "€ a", ""]);
        assert_eq!(decoder.finish(), "\u{FFFD}");
    }

    proptest! {
        #[test]
        fn byte_level_equals_the_library(ids in prop::collection::vec(0u32..630, 0..60), fork in 0usize..60) {
            let tokenizer = bundled();
            prop_assert_eq!(run(&tokenizer, &ids, fork), tokenizer.decode(&ids).unwrap());
        }

        #[test]
        fn other_decoders_equal_the_library(ids in prop::collection::vec(0u32..22, 0..40)) {
            for tokenizer in others() {
                let whole = tokenizer.decode(&ids).unwrap();
                prop_assert_eq!(run(&tokenizer, &ids, 0), whole, "{:?}", tokenizer);
            }
        }

        #[test]
        fn pieces_equal_the_library(ids in prop::collection::vec(0u32..22, 0..40), fork in 0usize..40) {
            let tokenizer = pieces();
            prop_assert_eq!(run(&tokenizer, &ids, fork), tokenizer.decode(&ids).unwrap());
        }
    }
}
