//! Tests of tokenizers out of GGUF metadata.

use super::super::Tokenizer;
use super::*;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The tokenizer of a byte-level vocabulary: single characters, merges and what
/// these make.
fn byte_level(pre: &str, merges: &[&str]) -> Result<Tokenizer, PromptError> {
    let singles = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'.,!?-ĠĊ";
    let mut tokens: Vec<String> = singles.chars().map(String::from).collect();
    tokens.extend(merges.iter().map(|merge| merge.replacen(' ', "", 1)));
    let merges = texts(merges);
    let vocabulary = Vocabulary {
        model: "gpt2",
        pre: Some(pre),
        tokens: &tokens,
        merges: &merges,
        ..Vocabulary::default()
    };
    Tokenizer::from_json(vocabulary.to_json()?.to_string().as_bytes())
}

fn pieces(pre: &str, merges: &[&str], text: &str) -> Vec<String> {
    let tokenizer = byte_level(pre, merges).expect("good");
    let ids = tokenizer.encode(text).expect("encodes");
    ids.iter().map(|id| String::from_utf8(tokenizer.token_bytes(*id)).expect("UTF-8")).collect()
}

#[test]
fn the_name_decides_how_text_is_split() {
    // Every digit may join its neighbour; the splits say which do.
    let digits = ["1 2", "3 4", "12 34", "2 3", "Ġ 1"];
    assert_eq!(pieces("gpt-2", &digits, "1234"), ["1234"]);
    assert_eq!(pieces("qwen2", &digits, "1234"), ["1", "2", "3", "4"]);
    assert_eq!(pieces("smollm", &digits, "1234"), ["1", "2", "3", "4"]);
    assert_eq!(pieces("llama-bpe", &digits, "1234"), ["12", "3", "4"], "three digits at most go together");
    assert_eq!(pieces("default", &digits, "1234"), ["12", "3", "4"]);
    assert_eq!(pieces("gpt-2", &digits, "a 1"), ["a", " 1"]);
    assert_eq!(pieces("llama-bpe", &digits, "a 1"), ["a", " ", "1"]);
    // Contractions of capitals, and punctuation before a letter.
    let letters = ["' S", "' s", "- a"];
    assert_eq!(pieces("gpt-2", &letters, "it'S"), ["i", "t", "'", "S"]);
    assert_eq!(pieces("qwen2", &letters, "it'S"), ["i", "t", "'S"]);
    assert_eq!(pieces("gpt-2", &letters, "-a"), ["-", "a"]);
    assert_eq!(pieces("qwen2", &letters, "-a"), ["-a"]);
    // A capital within a word is a border for tekken alone.
    assert_eq!(pieces("tekken", &["b C"], "abCd"), ["a", "b", "C", "d"]);
    assert_eq!(pieces("qwen2", &["b C"], "abCd"), ["a", "bC", "d"]);
}

#[test]
fn a_piece_that_is_a_token_is_taken_whole_where_the_name_says_so() {
    // No merge leads to `abc`; the token is the last one.
    let tokens = texts(&["a", "b", "c", "ab", "abc"]);
    let merges = texts(&["a b"]);
    let found = |pre| {
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre: Some(pre),
            tokens: &tokens,
            merges: &merges,
            ..Vocabulary::default()
        };
        assert_eq!(vocabulary.begins(), pre == "llama-bpe");
        let json = vocabulary.to_json().expect("good").to_string();
        Tokenizer::from_json(json.as_bytes()).expect("reads").encode("abc").expect("encodes")
    };
    assert_eq!(found("llama-bpe"), [4]);
    assert_eq!(found("qwen2"), [3, 2]);
}

#[test]
fn text_is_composed_for_the_models_that_were_trained_so() {
    let tokens = texts(&["a", "Ã", "©", "e", "Ì", "ģ", "Ã©"]);
    let merges = texts(&["Ã ©"]);
    let found = |pre| {
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre: Some(pre),
            tokens: &tokens,
            merges: &merges,
            ..Vocabulary::default()
        };
        let json = vocabulary.to_json().expect("good").to_string();
        Tokenizer::from_json(json.as_bytes()).expect("reads").encode("e\u{301}").expect("encodes")
    };
    assert_eq!(found("qwen2"), [6]);
    assert_eq!(found("gpt-2"), [3, 4, 5]);
}

#[test]
fn control_tokens_are_special_and_fillers_are_none() {
    let tokens = texts(&["a", "b", "ab", "<|end|>", "<think>", "[PAD5]"]);
    let vocabulary = Vocabulary {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: &tokens,
        kinds: &[1, 1, 1, CONTROL, USER_DEFINED, UNUSED],
        merges: &texts(&["a b"]),
        ..Vocabulary::default()
    };
    let json = vocabulary.to_json().expect("good").to_string();
    let tokenizer = Tokenizer::from_json(json.as_bytes()).expect("reads");
    assert_eq!(tokenizer.encode("ab<|end|><think>a").expect("encodes"), [2, 3, 4, 0]);
    assert_eq!(tokenizer.special_tokens(), ["<|end|>"]);
    assert_eq!(tokenizer.decode(&[2, 3, 4]).expect("decodes"), "ab<think>");
    assert_eq!(tokenizer.token_id("[PAD5]"), None);
    assert_eq!(tokenizer.vocab_size(), 5);
}

#[test]
fn pieces_join_by_their_scores_and_unknown_characters_become_bytes() {
    let tokens = texts(&["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", "bc", "ab", "▁a"]);
    let mut kinds = vec![1; tokens.len()];
    kinds[..5].copy_from_slice(&[UNKNOWN, CONTROL, CONTROL, BYTE, BYTE]);
    let scores = |bc: f32, ab: f32| {
        let mut scores = vec![-9.0; 12];
        (scores[9], scores[10], scores[11]) = (bc, ab, -8.0);
        scores
    };
    let found = |scores: &[f32], prefix, text: &str| {
        let vocabulary = Vocabulary {
            model: "llama",
            tokens: &tokens,
            kinds: &kinds,
            scores,
            space_prefix: prefix,
            ..Vocabulary::default()
        };
        assert!(vocabulary.begins());
        let json = vocabulary.to_json().expect("good").to_string();
        let tokenizer = Tokenizer::from_json(json.as_bytes()).expect("reads");
        let ids = tokenizer.encode(text).expect("encodes");
        assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
        ids
    };
    assert_eq!(found(&scores(-1.0, -2.0), Some(false), "abc"), [6, 9]);
    assert_eq!(found(&scores(-2.0, -1.0), Some(false), "abc"), [10, 8]);
    assert_eq!(found(&scores(-2.0, -9.0), None, "abc"), [11, 9], "a space comes first");
    assert_eq!(found(&scores(-1.0, -2.0), Some(false), "é"), [3, 4]);
}

#[test]
fn what_is_not_known_or_does_not_fit_is_refused() {
    let says = |vocabulary: Vocabulary<'_>, part: &str| {
        let error = vocabulary.to_json().expect_err("must be refused").to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    let (tokens, merges) = (texts(&["a", "b", "ab"]), texts(&["a b"]));
    let good = Vocabulary { model: "gpt2", tokens: &tokens, merges: &merges, ..Vocabulary::default() };
    assert!(good.to_json().is_ok(), "no name means the default");
    says(Vocabulary { model: "bert", ..good }, "tokenizer.ggml.model = bert");
    says(
        Vocabulary { pre: Some("odd"), ..good },
        "tokenizer.ggml.pre = odd is not supported; supported: default",
    );
    says(Vocabulary { kinds: &[1, 1], ..good }, "of equal length");
    says(Vocabulary { tokens: &[], ..good }, "not empty");
    says(Vocabulary { merges: &[], ..good }, "merges is missing");
    says(Vocabulary { merges: &texts(&["ab"]), ..good }, "no pair");
    says(Vocabulary { merges: &texts(&[""]), ..good }, "no pair");
    says(Vocabulary { model: "llama", ..good }, "scores is missing");
    let long = vec!["x".repeat(LONGEST + 1)];
    says(Vocabulary { tokens: &long, ..good }, "1025 bytes");
    // A merge of tokens that are not there is the library's to refuse.
    let merges = texts(&["a z"]);
    let json = Vocabulary { merges: &merges, ..good }.to_json().expect("a pair").to_string();
    assert!(Tokenizer::from_json(json.as_bytes()).is_err());
}
