//! A GGUF file as the files of a checkpoint: what the engine reads comes from
//! its head as it is, tokenizer and template are put as Hugging Face has them, so
//! that one path loads both.

use crate::engine::tree::checkpoint::Weights;
use crate::engine::tree::config::{LoadError, ModelConfig as Shape};
use crate::engine::tree::gguf::{Gguf, List};
use crate::prompt::{PromptError, Vocabulary};
use serde_json::{Value, json};
use std::path::Path;

/// Control tokens that end a text or a turn by their names, whatever the file
/// says (llama.cpp, `llama-vocab.cpp`, `special_eog_ids`).
const ENDS: [&str; 10] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "[EOT]",
    "[EOS]",
];

/// A control token.
const CONTROL: i64 = 3;

/// A GGUF file.
#[derive(Debug)]
pub(super) struct GgufFile {
    head: Gguf,
}

impl GgufFile {
    /// Reads the head.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        Ok(Self { head: Gguf::open(path)? })
    }

    /// The model's shape and where its weights are.
    pub(super) fn body(&self) -> Result<(Shape, Weights), LoadError> {
        let shape = self.head.shape()?;
        let weights = Weights::gguf(&self.head, &shape)?;
        Ok((shape, weights))
    }

    /// What a file of a checkpoint would hold; none where it would not be there.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, PromptError> {
        let json = match name {
            "config.json" => json!({}),
            "generation_config.json" => json!({"eos_token_id": self.ends()}),
            "tokenizer.json" => self.vocabulary().to_json()?,
            "tokenizer_config.json" => self.tokenizer_config(),
            _ => return Ok(None),
        };
        Ok(Some(json.to_string().into_bytes()))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.head.get(key).and_then(Value::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.head.get(key).and_then(Value::as_bool)
    }

    fn texts(&self, key: &str) -> &[String] {
        match self.head.list(key) {
            Some(List::Texts(texts)) => texts,
            Some(List::Wholes(_) | List::Reals(_)) | None => &[],
        }
    }

    fn kinds(&self) -> &[i64] {
        match self.head.list("tokenizer.ggml.token_type") {
            Some(List::Wholes(kinds)) => kinds,
            Some(List::Texts(_) | List::Reals(_)) | None => &[],
        }
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        Vocabulary {
            model: self.text("tokenizer.ggml.model").unwrap_or("(absent)"),
            pre: self.text("tokenizer.ggml.pre"),
            tokens: self.texts("tokenizer.ggml.tokens"),
            kinds: self.kinds(),
            scores: match self.head.list("tokenizer.ggml.scores") {
                Some(List::Reals(scores)) => scores,
                Some(List::Texts(_) | List::Wholes(_)) | None => &[],
            },
            merges: self.texts("tokenizer.ggml.merges"),
            space_prefix: self.flag("tokenizer.ggml.add_space_prefix"),
        }
    }

    /// The id of a token that the file names, within the vocabulary.
    fn id(&self, name: &str) -> Option<usize> {
        let given = self.head.get(&format!("tokenizer.ggml.{name}_token_id"));
        let id = match (given, self.vocabulary().model, name) {
            (Some(id), _, _) => usize::try_from(id.as_u64()?).ok()?,
            // SentencePiece's own, which older files leave out.
            (None, "llama", "bos") => 1,
            (None, "llama", "eos") => 2,
            (None, _, _) => return None,
        };
        (id < self.texts("tokenizer.ggml.tokens").len()).then_some(id)
    }

    fn ends(&self) -> Vec<usize> {
        let named = ["eos", "eot", "eom"].into_iter().filter_map(|name| self.id(name));
        let tokens = self.texts("tokenizer.ggml.tokens").iter().zip(self.kinds()).enumerate();
        let known = tokens
            .filter(|(_, (token, kind))| **kind == CONTROL && ENDS.contains(&token.as_str()))
            .map(|(id, _)| id);
        named.chain(known).collect()
    }

    fn tokenizer_config(&self) -> Value {
        let token = |name: &str| self.id(name).map(|id| &self.texts("tokenizer.ggml.tokens")[id]);
        let begins = self.flag("tokenizer.ggml.add_bos_token");
        json!({
            "bos_token": token("bos"),
            "eos_token": token("eos"),
            "add_bos_token": begins.unwrap_or_else(|| self.vocabulary().begins()),
            "chat_template": self.text("tokenizer.chat_template"),
        })
    }
}
