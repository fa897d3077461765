//! A tokenizer out of GGUF metadata, written as the `tokenizer.json` that
//! [`Tokenizer`](super::Tokenizer) reads.
//!
//! GGUF holds a vocabulary but not how text is split before it is looked up:
//! that goes by a name (`tokenizer.ggml.pre`), whose rules are those of llama.cpp
//! (`llama-vocab.cpp`) in the words of the models' own `tokenizer.json`. A name
//! that is not known is refused: any other rules would give other tokens, and
//! nobody would notice. `SentencePiece` vocabularies become byte-pair encoding
//! with merges worked out from the scores, as in transformers
//! (`convert_slow_tokenizer.py`, `generate_merges`). Unigram and `WordPiece`
//! vocabularies are deliberately absent: no architecture that is served has one.

use super::PromptError;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The longest token, in bytes: real ones stay far below it.
const LONGEST: usize = 1024;

/// What a token is, as `tokenizer.ggml.token_type` numbers it.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// The splits of GPT-2 (openai/gpt-2, `encoder.py`).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way to split text, and what goes with it.
struct Splits {
    names: &'static [&'static str],
    /// Applied one after the other, each to what the last one left.
    patterns: &'static [&'static str],
    /// Whether a piece that is a token is taken as it is, merges or not.
    whole: bool,
    /// Whether a text begins with BOS where the file does not say.
    begins: bool,
    /// Whether text is composed (Unicode NFC) first.
    composed: bool,
}

const PLAIN: Splits = Splits { names: &[], patterns: &[], whole: false, begins: false, composed: false };

/// All that are known.
const SPLITS: [Splits; 7] = [
    Splits {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"],
        patterns: &[LLAMA3],
        whole: true,
        begins: true,
        ..PLAIN
    },
    Splits { names: &["smaug-bpe", "dbrx"], patterns: &[LLAMA3], ..PLAIN },
    Splits { names: &["qwen2", "deepseek-r1-qwen"], patterns: &[QWEN2], composed: true, ..PLAIN },
    Splits { names: &["stablelm2", "megrez"], patterns: &[QWEN2], ..PLAIN },
    Splits {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"],
        patterns: &[GPT2],
        ..PLAIN
    },
    Splits {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    Splits { names: &["tekken"], patterns: &[TEKKEN], whole: true, begins: true, ..PLAIN },
];

/// What llama.cpp does where a file names no rules, or `default`.
const DEFAULT: Splits =
    Splits { patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"], ..PLAIN };

/// A tokenizer's metadata; lists are by token id.
#[derive(Debug, Clone, Copy, Default)]
pub struct Vocabulary<'a> {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: how text is split.
    pub pre: Option<&'a str>,
    /// `tokenizer.ggml.tokens`.
    pub tokens: &'a [String],
    /// `tokenizer.ggml.token_type`; empty where all tokens are ordinary.
    pub kinds: &'a [i64],
    /// `tokenizer.ggml.scores`, of `llama`.
    pub scores: &'a [f32],
    /// `tokenizer.ggml.merges`, of `gpt2`.
    pub merges: &'a [String],
    /// `tokenizer.ggml.add_space_prefix`, of `llama`.
    pub space_prefix: Option<bool>,
}

impl Vocabulary<'_> {
    /// Whether a text begins with BOS where the file does not say.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.model == "llama" || self.splits().is_ok_and(|splits| splits.begins)
    }

    /// The tokenizer, as `tokenizer.json` has it.
    ///
    /// # Errors
    /// When its model or its splits are not known, or its lists do not fit each
    /// other.
    pub fn to_json(&self) -> Result<Value, PromptError> {
        let pieces = match self.model {
            "gpt2" => false,
            "llama" => true,
            other => {
                return Err(wrong(&format!(
                    "tokenizer.ggml.model = {other} is not supported; supported: gpt2 or llama"
                )));
            }
        };
        let fits = |list: usize| list == 0 || list == self.tokens.len();
        if self.tokens.is_empty() || !fits(self.kinds.len()) || !fits(self.scores.len()) {
            return Err(wrong(
                "tokenizer.ggml.tokens, token_type and scores must be of equal length, and not empty",
            ));
        }
        if let Some(token) = self.tokens.iter().find(|token| token.len() > LONGEST) {
            return Err(wrong(&format!(
                "tokenizer.ggml.tokens: one of {} bytes; the longest that is read has {LONGEST}",
                token.len()
            )));
        }
        let mut json = if pieces { self.pieces()? } else { self.byte_level()? };
        json["version"] = Value::from("1.0");
        json["added_tokens"] = self.added();
        Ok(json)
    }

    fn kind(&self, id: usize) -> i64 {
        self.kinds.get(id).copied().unwrap_or(1)
    }

    fn splits(&self) -> Result<&'static Splits, PromptError> {
        let name = match self.pre {
            None | Some("default") => return Ok(&DEFAULT),
            Some(name) => name,
        };
        SPLITS.iter().find(|splits| splits.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = SPLITS.iter().flat_map(|splits| splits.names).copied().collect();
            wrong(&format!(
                "tokenizer.ggml.pre = {name} is not supported; supported: default, {}",
                known.join(", ")
            ))
        })
    }

    /// Tokens by name. A name that stands twice is the first of them; what is
    /// only there to fill the vocabulary up is no token.
    fn vocab(&self) -> Map<String, Value> {
        let mut vocab = Map::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| self.kind(*id) != UNUSED) {
            vocab.entry(token.as_str()).or_insert_with(|| Value::from(id));
        }
        vocab
    }

    /// Tokens that are recognised before text is split.
    fn added(&self) -> Value {
        let added = self.tokens.iter().enumerate().filter_map(|(id, token)| {
            let special = match self.kind(id) {
                CONTROL => true,
                UNKNOWN => self.model == "llama",
                USER_DEFINED => false,
                _ => return None,
            };
            (special || self.kind(id) == USER_DEFINED).then(|| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special
                })
            })
        });
        added.filter(|token| token["content"] != "").collect()
    }

    fn byte_level(&self) -> Result<Value, PromptError> {
        let splits = self.splits()?;
        if self.merges.is_empty() {
            return Err(wrong("tokenizer.ggml.merges is missing"));
        }
        let merges: Option<Vec<Value>> = self.merges.iter().map(|merge| pair(merge)).collect();
        let merges = merges.ok_or_else(|| wrong("tokenizer.ggml.merges: one is no pair of tokens"))?;
        let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let steps: Vec<Value> = splits.patterns.iter().map(split).chain([bytes.clone()]).collect();
        Ok(json!({
            "normalizer": if splits.composed { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": bytes,
            "model": {
                "type": "BPE", "fuse_unk": false, "byte_fallback": false, "ignore_merges": splits.whole,
                "vocab": self.vocab(), "merges": merges
            }
        }))
    }

    fn pieces(&self) -> Result<Value, PromptError> {
        if self.scores.is_empty() {
            return Err(wrong("tokenizer.ggml.scores is missing"));
        }
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let normalizer = match self.space_prefix {
            Some(false) => space,
            Some(true) | None => {
                decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]})
            }
        };
        let unknown = (0..self.tokens.len()).find(|id| self.kind(*id) == UNKNOWN);
        Ok(json!({
            "normalizer": normalizer,
            "pre_tokenizer": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "unk_token": unknown.map(|id| &self.tokens[id]),
                "vocab": self.vocab(), "merges": self.merged()
            }
        }))
    }

    /// Every way to put a piece together from two, the best piece first.
    fn merged(&self) -> Vec<Value> {
        let ordinary = |id: usize| !matches!(self.kind(id), UNKNOWN | CONTROL | UNUSED | BYTE);
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| ordinary(*id)) {
            ids.entry(token).or_insert(id);
        }
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| ordinary(*id)) {
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let known =
                cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)));
            merges.extend(known.map(|(a, b, left, right)| (self.scores[id], id, (a, b), left, right)));
        }
        merges.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)).then(x.2.cmp(&y.2)));
        merges.into_iter().map(|(_, _, _, left, right)| json!([left, right])).collect()
    }
}

/// The two tokens of a merge. The first character may be a space of its own.
fn pair(merge: &str) -> Option<Value> {
    let first = merge.chars().next()?.len_utf8();
    let at = first + merge[first..].find(' ')?;
    Some(json!([merge[..at], merge[at + 1..]]))
}

fn wrong(why: &str) -> PromptError {
    PromptError::Tokenizer(why.to_owned())
}

#[cfg(test)]
mod tests;
