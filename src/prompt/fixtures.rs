//! Tokenizers that tests share.

use super::Tokenizer;
use std::sync::{Arc, LazyLock};

/// The bundled policy's byte-level vocabulary.
pub(crate) fn bundled() -> Arc<Tokenizer> {
    static BUNDLED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/policy/tokenizer.json");
        let bytes = std::fs::read(path).expect("the bundled model is in the repository");
        Arc::new(Tokenizer::from_json(&bytes).expect("the bundled tokenizer is valid"))
    });
    Arc::clone(&BUNDLED)
}

/// A small vocabulary in Llama 2's manner: `▁` for spaces, byte fallback, one
/// leading space stripped.
pub(super) fn pieces() -> Arc<Tokenizer> {
    static PIECES: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        small(serde_json::json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}))
    });
    Arc::clone(&PIECES)
}

/// The same vocabulary under other decoders: Metaspace alone, Metaspace with byte
/// fallback, `WordPiece`, and none.
pub(super) fn others() -> Vec<Arc<Tokenizer>> {
    static OTHERS: LazyLock<Vec<Arc<Tokenizer>>> = LazyLock::new(|| {
        let metaspace = serde_json::json!(
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let both = serde_json::json!(
            {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]});
        let wordpiece = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        [metaspace, both, wordpiece, serde_json::Value::Null].map(small).into()
    });
    OTHERS.clone()
}

fn small(decoder: serde_json::Value) -> Arc<Tokenizer> {
    Arc::new(small_with(decoder, serde_json::Value::Null))
}

/// The vocabulary under a decoder and a post-processor.
pub(super) fn small_with(decoder: serde_json::Value, processor: serde_json::Value) -> Tokenizer {
    let names = [
        "<unk>", "<s>", "</s>", "<0xE2>", "<0x82>", "<0xAC>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>",
        "<0x41>", "<0xFF>", "▁", "a", "b", "▁a", "▁▁b", "é", "€", "\u{FFFD}", "<tool>",
    ];
    let vocab: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), i.into())).collect();
    let added = |id: usize, special: bool| {
        serde_json::json!({"id": id, "content": names[id], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special})
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, true), added(1, true), added(2, true), added(20, false)],
        "normalizer": null, "pre_tokenizer": null, "post_processor": processor,
        "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    });
    let bytes = serde_json::to_vec(&json).expect("a JSON value can be written");
    Tokenizer::from_json(&bytes).expect("the tokenizer above is valid")
}
