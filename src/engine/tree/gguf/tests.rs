//! Tests of heads of GGUF files, written byte by byte.

use super::*;
use proptest::prelude::*;

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A file with these pairs and tensors, and so many bytes behind them.
fn file(pairs: &[(&str, u32, Vec<u8>)], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    for (key, kind, value) in pairs {
        text(&mut bytes, key);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    for (name, sides, kind, offset) in tensors {
        text(&mut bytes, name);
        bytes.extend((sides.len() as u32).to_le_bytes());
        sides.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn opened(bytes: &[u8]) -> Result<Gguf, LoadError> {
    let length = bytes.len() as u64;
    Input { inner: bytes, length, left: length }.head(Path::new("x.gguf"))
}

fn says(bytes: &[u8], part: &str) {
    let error = opened(bytes).expect_err("must be refused").to_string();
    assert!(error.contains(part), "{error}");
}

fn list(kind: u32, count: u64, entries: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), entries].concat()
}

#[test]
fn values_of_every_type_are_read() {
    let mut word = Vec::new();
    text(&mut word, "ab");
    let pairs = [
        ("u8", 0, vec![200]),
        ("i8", 1, vec![200]),
        ("u16", 2, 60_000u16.to_le_bytes().to_vec()),
        ("i16", 3, (-2i16).to_le_bytes().to_vec()),
        ("u32", 4, u32::MAX.to_le_bytes().to_vec()),
        ("i32", 5, (-3i32).to_le_bytes().to_vec()),
        ("f32", 6, 0.5f32.to_le_bytes().to_vec()),
        ("flag", 7, vec![1]),
        ("text", 8, word.clone()),
        ("u64", 10, u64::MAX.to_le_bytes().to_vec()),
        ("i64", 11, (-4i64).to_le_bytes().to_vec()),
        ("f64", 12, 0.25f64.to_le_bytes().to_vec()),
        ("tokenizer.ggml.tokens", 9, list(8, 2, &word.repeat(2))),
        ("tokenizer.ggml.scores", 9, list(6, 1, &1.5f32.to_le_bytes())),
        ("tokenizer.ggml.token_type", 9, list(5, 1, &3i32.to_le_bytes())),
        ("other.list", 9, list(8, 1, &word)),
    ];
    let gguf = opened(&file(&pairs, &[], 0)).expect("good");
    let numbers: Vec<Value> =
        ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "flag", "text", "u64", "i64", "f64"]
            .iter()
            .map(|key| gguf.get(key).expect("is there").clone())
            .collect();
    let expected =
        serde_json::json!([200, -56, 60_000, -2, u32::MAX, -3, 0.5, true, "ab", u64::MAX, -4, 0.25]);
    assert_eq!(Value::from(numbers), expected);
    assert!(matches!(gguf.list("tokenizer.ggml.tokens"), Some(List::Texts(texts)) if *texts == ["ab", "ab"]));
    assert!(matches!(gguf.list("tokenizer.ggml.scores"), Some(List::Reals(reals)) if *reals == [1.5]));
    assert!(matches!(gguf.list("tokenizer.ggml.token_type"), Some(List::Wholes(wholes)) if *wholes == [3]));
    assert!(gguf.list("other.list").is_none(), "nothing reads it");
    assert_eq!(gguf.get("other.list"), Some(&Value::from("(a list)")));
}

#[test]
fn tensors_have_their_rows_first_and_their_places() {
    // 64 columns and three rows of Q8_0, then five floats.
    let tensors: [(&str, &[u64], u32, u64); 2] = [("w", &[64, 3], 8, 0), ("b", &[5], 0, 224)];
    let bytes = file(&[], &tensors, 224 + 20);
    let gguf = opened(&bytes).expect("good");
    assert_eq!((gguf.tensors[0].shape.as_slice(), gguf.tensors[0].kind), (&[3, 64][..], "Q8_0"));
    assert_eq!((gguf.tensors[0].place, gguf.tensors[1].place), ((0, 3 * 68), (224, 244)));
    assert_eq!(gguf.data % 32, 0);
    says(&bytes[..bytes.len() - 1], "is cut off: it has");
}

#[test]
fn heads_that_lie_are_refused_before_anything_is_allocated() {
    says(b"GGU", "is no GGUF file");
    says(b"<html>....", "is no GGUF file");
    for (version, part) in [(1u32, "version 1"), (4, "version 4"), (3u32.swap_bytes(), "big-endian")] {
        let mut bytes = file(&[], &[], 0);
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        says(&bytes, part);
    }
    let huge = u64::MAX / 2;
    for place in [8, 16] {
        let mut bytes = file(&[], &[], 64);
        bytes[place..place + 8].copy_from_slice(&huge.to_le_bytes());
        says(&bytes, "at most");
        bytes[place..place + 8].copy_from_slice(&60_000u64.to_le_bytes());
        says(&bytes, "");
    }
    says(&file(&[("t", 8, huge.to_le_bytes().to_vec())], &[], 0), "bytes of text");
    says(&file(&[("t", 8, 9_999u64.to_le_bytes().to_vec())], &[], 0), "cut off within its head");
    for key in ["tokenizer.ggml.tokens", "other"] {
        says(&file(&[(key, 9, list(8, huge, &[]))], &[], 0), "entries of a list");
        says(&file(&[(key, 9, list(4, 1 << 24, &[]))], &[], 0), "cut off within its head");
        says(&file(&[(key, 9, list(9, 1, &[0; 32]))], &[], 0), "of type 9");
    }
    says(&file(&[("k", 13, vec![])], &[], 0), "k is of type 13");
    says(&file(&[], &[("w", &[], 0, 0)], 0), "w has 0 dimensions");
    says(&file(&[], &[("w", &[1; 5], 0, 0)], 0), "w has 5 dimensions");
    says(&file(&[], &[("w", &[0], 0, 0)], 0), "no length");
    says(&file(&[], &[("w", &[1 << 40, 1 << 40], 0, 0)], 0), "cannot have the shape");
    says(&file(&[], &[("w", &[33, 2], 8, 0)], 400), "cannot have the shape");
    says(&file(&[], &[("w", &[32], 99, 0)], 400), "type that is not known");
    says(&file(&[], &[("w", &[32], 0, u64::MAX - 8)], 400), "cannot have the shape");
    says(&file(&[], &[("w", &[32], 0, 1 << 40)], 400), "is cut off");
}

proptest! {
    /// Whatever a damaged head says, it is refused in words about the file, or all
    /// of its tensors are there; a shape that it lacks is refused by key or tensor.
    #[test]
    fn damaged_heads_are_refused_or_read(
        flips in prop::collection::vec((0usize..300, any::<u8>()), 1..6),
        keep in 0usize..400,
    ) {
        let mut word = Vec::new();
        text(&mut word, "llama");
        let pairs = [
            ("general.architecture", 8, word.clone()),
            ("llama.block_count", 4, vec![1, 0, 0, 0]),
            ("tokenizer.ggml.tokens", 9, list(8, 2, &word.repeat(2))),
        ];
        let mut bytes = file(&pairs, &[("token_embd.weight", &[32, 2], 8, 0)], 68);
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(keep);
        match opened(&bytes) {
            Ok(gguf) => {
                let length = bytes.len() as u64;
                prop_assert!(gguf.tensors.iter().all(|tensor| tensor.place.1 + gguf.data <= length));
                let error = gguf.shape().expect_err("most keys are missing").to_string();
                let named = ["general.architecture", "llama.", "token_embd.weight"];
                prop_assert!(named.iter().any(|name| error.contains(name)), "{}", error);
            }
            Err(error) => {
                let what = ["GGUF", "version", "endian", "head", "alignment", "parts", "cut off"];
                let error = error.to_string();
                prop_assert!(error.starts_with("the file ") && what.iter().any(|what| error.contains(what)), "{}", error);
            }
        }
    }
}
