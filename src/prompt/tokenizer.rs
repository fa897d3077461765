//! The tokenizer of `tokenizer.json`.
//!
//! Nothing is added to a text and nothing is cut from it: templates spell their
//! special tokens out, and truncation or padding that a file asks for is
//! switched off. The one exception is the beginning of a prompt
//! ([`Tokenizer::encode_prompt`]). The bytes of every token are laid out once, at loading, so that
//! detokenisation needs no library call per token where the vocabulary is
//! byte-level. Training and batches are deliberately absent.

use super::{Detokenizer, PromptError, TemplateTokens};
use crate::token::TokenId;
use std::fmt;
use std::sync::Arc;
use tokenizers::{DecoderWrapper, PostProcessorWrapper};

/// Ids below the largest that may be missing in a vocabulary. Every id takes its place
/// in memory, so that one stray number in a file would take all of it; models leave a
/// few thousand ids out.
const MOST_GAPS: usize = 1 << 20;

/// A Hugging Face tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    spelling: Spelling,
    /// Whether the library turns runs of `<0xNN>` tokens into characters.
    byte_fallback: bool,
    /// What the decoder makes of each id on its own, all ids in one buffer.
    bytes: Vec<u8>,
    /// Where each id's piece ends in `bytes`.
    ends: Vec<usize>,
    /// Bytes of the longest piece.
    longest: usize,
    /// What each id is to the decoder.
    kinds: Vec<Kind>,
    /// What a text begins with by the tokenizer's own rules: BOS, or nothing.
    beginning: Vec<TokenId>,
}

/// What a token is to the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It gives no text: a special token, or a gap in the vocabulary.
    Silent,
    /// `<0xNN>`: one byte of a run that the library decodes as a whole.
    Byte,
    /// Any other.
    Text,
}

/// How a vocabulary spells its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Every character stands for one byte (GPT-2's alphabet): decoding is
    /// concatenation of bytes, whatever the neighbours.
    ByteLevel,
    /// `▁` stands for a space (`SentencePiece`); decoding may look at neighbours.
    Pieces,
    /// Any other decoder, known only through the library.
    Opaque,
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// When they are not one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PromptError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| refused(&e))?;
        inner.with_truncation(None).map_err(|e| refused(&e))?;
        inner.with_padding(None);
        let chain: Vec<&DecoderWrapper> = match inner.get_decoder() {
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders().iter().collect(),
            Some(decoder) => vec![decoder],
            None => Vec::new(),
        };
        let byte_fallback = chain.iter().any(|d| matches!(d, DecoderWrapper::ByteFallback(_)));
        let spelling = Spelling::of(&chain);
        // A tokenizer that refuses the probe has no rule that it could show.
        let beginning = beginning(&inner).unwrap_or_default();
        // All else that a post-processor does is to take white space out of offsets.
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let (bytes, ends, kinds) = (Vec::new(), Vec::new(), Vec::new());
        let mut tokenizer =
            Self { inner, spelling, byte_fallback, bytes, ends, longest: 1, kinds, beginning };
        tokenizer.lay_out()?;
        Ok(tokenizer)
    }

    /// Takes note of `add_bos_token` in a parsed `tokenizer_config.json`, which
    /// rules over the post-processor of `tokenizer.json`.
    pub fn configure(&mut self, tokenizer_config: &serde_json::Value) {
        let bos = TemplateTokens::from_config(tokenizer_config).bos;
        match tokenizer_config.get("add_bos_token").and_then(serde_json::Value::as_bool) {
            Some(false) => self.beginning.clear(),
            Some(true) if self.beginning.is_empty() => {
                self.beginning.extend(bos.and_then(|name| self.token_id(&name)));
            }
            Some(true) | None => {}
        }
    }

    /// Encodes a rendered conversation. Where the tokenizer's own rules begin a
    /// text with BOS and the template has not written it, it is added; it is
    /// never doubled.
    ///
    /// # Errors
    /// When the tokenizer refuses it.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>, PromptError> {
        let mut ids = self.encode(text)?;
        self.begin(&mut ids);
        Ok(ids)
    }

    /// Encodes a rendered conversation as [`Tokenizer::encode_prompt`] does, and says of
    /// each of the ascending bytes `ends` which token ends there: the index of the last
    /// one, or `None` where a token reaches across.
    ///
    /// # Errors
    /// When the tokenizer refuses it.
    pub fn encode_prompt_to(
        &self,
        text: &str,
        ends: &[usize],
    ) -> Result<(Vec<TokenId>, Vec<Option<usize>>), PromptError> {
        let encoding = self.inner.encode(text, false).map_err(|e| refused(&e))?;
        let offsets = encoding.get_offsets();
        let mut ids = encoding.get_ids().to_vec();
        let added = self.begin(&mut ids);
        let last = |&end: &usize| {
            let next = offsets.partition_point(|&(_, token)| token <= end);
            let (_, token) = offsets[next.checked_sub(1)?];
            let apart = offsets.get(next).is_none_or(|&(start, _)| start >= end);
            (token == end && apart).then_some(added + next - 1)
        };
        let ends = ends.iter().map(last).collect();
        Ok((ids, ends))
    }

    /// Puts the tokenizer's own beginning before a prompt that has it not; returns how
    /// many tokens that were.
    fn begin(&self, ids: &mut Vec<TokenId>) -> usize {
        if ids.first().is_some_and(|first| self.beginning.contains(first)) {
            return 0;
        }
        ids.splice(..0, self.beginning.iter().copied());
        self.beginning.len()
    }

    /// Encodes text whose special tokens are spelled out, as rendered templates are: nothing is added.
    ///
    /// # Errors
    /// When the tokenizer refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, PromptError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| refused(&e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The bytes that a token stands for on its own; of a special token, its
    /// name; of an id outside the vocabulary, nothing.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        match self.inner.get_added_vocabulary().simple_id_to_token(id) {
            Some(name) => name.into_bytes(),
            None => self.piece(id).to_vec(),
        }
    }

    /// The id of a token by its exact name, special ones included.
    #[must_use]
    pub fn token_id(&self, name: &str) -> Option<TokenId> {
        self.inner.token_to_id(name)
    }

    /// The names of all special tokens, which text that is not ours must not hold.
    #[must_use]
    pub fn special_tokens(&self) -> Vec<String> {
        let added = self.inner.get_added_vocabulary().get_vocab();
        let special =
            |name: &&String| !name.is_empty() && self.inner.get_added_vocabulary().is_special_token(name);
        let mut names: Vec<String> = added.keys().filter(special).cloned().collect();
        // The order of a hash map is not the same twice.
        names.sort_unstable();
        names
    }

    /// Size of the vocabulary, added tokens included: every id is below it.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.ends.len()
    }

    /// A fresh incremental decoder.
    #[must_use]
    pub fn detokenizer(self: &Arc<Self>) -> Detokenizer {
        Detokenizer::new(Arc::clone(self))
    }

    /// The library's own decoding, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses the ids.
    pub fn decode(&self, ids: &[TokenId]) -> Result<String, PromptError> {
        // Some of the library's decoders underflow on an empty list.
        if ids.iter().all(|&id| self.kind(id) == Kind::Silent) {
            return Ok(String::new());
        }
        self.inner.decode(ids, true).map_err(|e| refused(&e))
    }

    pub(super) fn spelling(&self) -> Spelling {
        self.spelling
    }

    /// What the decoder makes of a token on its own, as bytes.
    pub(super) fn piece(&self, id: TokenId) -> &[u8] {
        let index = id as usize;
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..end]
    }

    /// Bytes of the token that has most, at least 1.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// What a token is to the decoder; an id that does not exist is silent.
    pub(super) fn kind(&self, id: TokenId) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Silent)
    }

    fn lay_out(&mut self) -> Result<(), PromptError> {
        let vocab = self.inner.get_vocab(true);
        let size = match vocab.iter().max_by_key(|(_, id)| **id) {
            Some((name, &id)) => {
                let most = vocab.len().saturating_add(MOST_GAPS);
                if id as usize >= most {
                    return Err(PromptError::Tokenizer(format!(
                        "the token {name:?} has the id {id}; of a vocabulary of {} tokens ids below {most} are read",
                        vocab.len()
                    )));
                }
                id as usize + 1
            }
            None => 0,
        };
        let added = self.inner.get_added_vocabulary();
        for id in (0..).take(size) {
            let name = self.inner.id_to_token(id);
            self.kinds.push(match name.as_deref() {
                None => Kind::Silent,
                Some(name) if added.is_special_token(name) => Kind::Silent,
                Some(name) if self.byte_fallback && hex_byte(name).is_some() => Kind::Byte,
                Some(_) => Kind::Text,
            });
            let piece = name.map(|name| self.spelled(id, &name)).unwrap_or_default();
            self.bytes.extend_from_slice(&piece);
            self.longest = self.longest.max(piece.len());
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    fn spelled(&self, id: TokenId, name: &str) -> Vec<u8> {
        match self.spelling {
            Spelling::ByteLevel => {
                // The library's rule: a name with one foreign character is taken as it is.
                let bytes: Option<Vec<u8>> = name.chars().map(alphabet_byte).collect();
                bytes.unwrap_or_else(|| name.as_bytes().to_vec())
            }
            Spelling::Pieces => match hex_byte(name) {
                Some(byte) if self.byte_fallback => vec![byte],
                Some(_) | None => name.replace('▁', " ").into_bytes(),
            },
            Spelling::Opaque => {
                self.inner.decode(&[id], false).unwrap_or_else(|_| name.to_owned()).into_bytes()
            }
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("spelling", &self.spelling)
            .finish_non_exhaustive()
    }
}

impl Spelling {
    fn of(chain: &[&DecoderWrapper]) -> Self {
        let mut byte_level = false;
        let mut pure = true;
        let mut pieces = false;
        for decoder in chain {
            match decoder {
                DecoderWrapper::ByteLevel(_) => byte_level = true,
                // Joining pieces changes nothing once they are concatenated.
                DecoderWrapper::Fuse(_) => {}
                DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_) => {
                    pure = false;
                    pieces = true;
                }
                DecoderWrapper::BPE(_)
                | DecoderWrapper::WordPiece(_)
                | DecoderWrapper::CTC(_)
                | DecoderWrapper::Sequence(_)
                | DecoderWrapper::Replace(_)
                | DecoderWrapper::Strip(_) => pure = false,
            }
        }
        match (byte_level, pure, pieces) {
            (true, true, _) => Spelling::ByteLevel,
            (false, _, true) => Spelling::Pieces,
            _ => Spelling::Opaque,
        }
    }
}

/// What the post-processor puts before a text. What it puts behind one, EOS as a
/// rule, would end the prompt before its answer and is left out.
fn beginning(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Vec<TokenId>> {
    let plain = inner.encode_fast("a", false)?;
    let whole = inner.encode_fast("a", true)?;
    let (plain, whole) = (plain.get_ids(), whole.get_ids());
    if plain.is_empty() {
        return Ok(Vec::new());
    }
    let at = whole.windows(plain.len()).position(|window| window == plain);
    Ok(whole[..at.unwrap_or(0)].to_vec())
}

/// The byte that a character of GPT-2's byte alphabet stands for: printable
/// Latin-1 characters are themselves, the other 68 bytes are U+0100 onwards
/// (openai/gpt-2, `src/encoder.py`, `bytes_to_unicode`).
fn alphabet_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The byte of a `<0xNN>` token.
fn hex_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn refused(error: &tokenizers::Error) -> PromptError {
    PromptError::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{bundled, pieces, small_with};
    use super::*;

    #[test]
    fn nothing_is_added_and_special_tokens_in_text_are_recognised() {
        let tokenizer = bundled();
        let text = "<|im_start|>user\nCompute 2 + 3.<|im_end|>\n";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids[0], 1);
        assert_eq!(ids[ids.len() - 2], 2);
        let spelled: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).collect();
        assert_eq!(spelled, text.as_bytes());
    }

    #[test]
    fn every_byte_has_a_place_in_the_byte_alphabet() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(alphabet_byte).collect();
        assert_eq!(seen.len(), 256);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 256);
        assert_eq!(alphabet_byte('Ġ'), Some(b' '));
        assert_eq!(alphabet_byte('Ċ'), Some(b'\n'));
    }

    #[test]
    fn the_bundled_vocabulary_has_its_size_and_names() {
        let tokenizer = bundled();
        assert_eq!(tokenizer.vocab_size(), 627);
        assert_eq!(tokenizer.token_id("<|step|>"), Some(3));
        assert_eq!(tokenizer.token_id("no such token"), None);
        assert_eq!(tokenizer.token_bytes(3), b"<|step|>");
        assert_eq!(tokenizer.token_bytes(9_999), b"");
    }

    #[test]
    fn pieces_are_spelled_with_spaces_and_single_bytes() {
        let tokenizer = pieces();
        let bytes = |name: &str| tokenizer.token_bytes(tokenizer.token_id(name).unwrap());
        assert_eq!(bytes("▁a"), b" a");
        assert_eq!(bytes("<0xE2>"), [0xE2]);
        assert_eq!(bytes("<s>"), b"<s>");
    }

    /// The vocabulary of `pieces` under a post-processor that frames a text.
    fn framed() -> Tokenizer {
        let special = |name: &str, id: u32| serde_json::json!({"id": name, "ids": [id], "tokens": [name]});
        let token = |name: &str| serde_json::json!({"SpecialToken": {"id": name, "type_id": 0}});
        let text = |id: &str| serde_json::json!({"Sequence": {"id": id, "type_id": 0}});
        small_with(
            serde_json::Value::Null,
            serde_json::json!({"type": "Sequence", "processors": [{
                "type": "TemplateProcessing", "single": [token("<s>"), text("A"), token("</s>")],
                "pair": [text("A"), text("B")],
                "special_tokens": {"<s>": special("<s>", 1), "</s>": special("</s>", 2)}
            }]}),
        )
    }

    #[test]
    fn the_beginning_of_a_text_is_added_to_a_prompt_once_and_its_end_never() {
        let tokenizer = framed();
        assert_eq!(tokenizer.encode("ab").unwrap(), [13, 14], "nothing but a prompt gets it");
        assert_eq!(tokenizer.encode_prompt("ab").unwrap(), [1, 13, 14]);
        assert_eq!(tokenizer.encode_prompt("<s>ab").unwrap(), [1, 13, 14]);
        assert_eq!(tokenizer.encode_prompt("").unwrap(), [1]);
        assert_eq!(bundled().encode_prompt("1").unwrap(), bundled().encode("1").unwrap());
    }

    #[test]
    fn it_is_told_which_token_ends_at_a_byte_and_where_none_does() {
        let framed = framed();
        assert_eq!(
            framed.encode_prompt_to("ab", &[1, 2]).unwrap(),
            (vec![1, 13, 14], vec![Some(1), Some(2)])
        );
        assert_eq!(framed.encode_prompt_to("<s>ab", &[3, 5]).unwrap().1, [Some(0), Some(2)]);
        // Llama 3's post-processor takes the white space out of what a token stands for.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/policy/tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        json["post_processor"] = serde_json::json!(
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}
        );
        let trims = Tokenizer::from_json(&serde_json::to_vec(&json).unwrap()).unwrap();
        for tokenizer in [Arc::new(trims), bundled()] {
            let (ids, ends) = tokenizer.encode_prompt_to("1\n\n2", &[1, 2, 3, 4]).unwrap();
            assert_eq!(
                (ids, ends),
                (tokenizer.encode("1\n\n2").unwrap(), vec![Some(0), None, Some(1), Some(2)])
            );
        }
    }

    #[test]
    fn the_configuration_rules_over_the_post_processor() {
        let mut without = framed();
        without.configure(&serde_json::json!({"bos_token": "<s>", "add_bos_token": false}));
        assert_eq!(without.encode_prompt("ab").unwrap(), [13, 14]);
        let mut with = small_with(serde_json::Value::Null, serde_json::Value::Null);
        assert_eq!(with.encode_prompt("ab").unwrap(), [13, 14]);
        with.configure(&serde_json::json!({"bos_token": {"content": "<s>"}, "add_bos_token": true}));
        assert_eq!(with.encode_prompt("ab").unwrap(), [1, 13, 14]);
        assert_eq!(with.encode_prompt("<s>ab").unwrap(), [1, 13, 14]);
        let mut same = framed();
        same.configure(&serde_json::json!({"bos_token": "<s>", "add_bos_token": true}));
        same.configure(&serde_json::json!({"bos_token": "<s>"}));
        assert_eq!(same.encode_prompt("ab").unwrap(), [1, 13, 14]);
    }

    #[test]
    fn ids_may_have_gaps_and_none_may_be_far_beyond_the_vocabulary() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/policy/tokenizer.json");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let with = |id: u32| {
            let mut json = json.clone();
            json["model"]["vocab"]["far"] = id.into();
            Tokenizer::from_json(&serde_json::to_vec(&json).unwrap())
        };
        let size = bundled().vocab_size() + 1;
        let last = (size + MOST_GAPS - 1) as u32;
        for id in [u32::MAX, last + 1] {
            let error = with(id).unwrap_err().to_string();
            for part in ["\"far\"", &format!("the id {id}"), &format!("{size} tokens"), "are read"] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        let gaps = with(last).unwrap();
        assert_eq!((gaps.vocab_size(), gaps.token_id("far")), (last as usize + 1, Some(last)));
        assert_eq!(gaps.token_bytes(last), b"far");
        assert_eq!(gaps.token_bytes(last - 1), b"");
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused() {
        assert!(matches!(Tokenizer::from_json(b"{}"), Err(PromptError::Tokenizer(_))));
    }
}
