//! Broken files are told by name, and good ones are read piece by piece.

use super::super::model::{Row, Scratch};
use super::super::store::Store;
use super::super::threads::Threads;
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A safetensors file with these tensors: name, type, shape, bytes.
pub(super) fn file(tensors: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for (name, kind, shape, bytes) in tensors {
        let from = data.len();
        data.extend_from_slice(bytes);
        let entry = json!({"dtype": kind, "shape": shape, "data_offsets": [from, data.len()]});
        header.insert((*name).to_owned(), entry);
    }
    with_header(&Value::Object(header), &data)
}

fn with_header(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

fn open(bytes: Vec<u8>) -> Result<Weights, String> {
    Weights::embedded(Vec::leak(bytes)).map_err(|error| error.to_string())
}

#[test]
fn headers_that_lie_are_refused() {
    let place = |shape: Value, offsets: Value| {
        with_header(&json!({"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}), &[0; 16])
    };
    open(place(json!([2, 2]), json!([0, 16]))).expect("good");
    for (bytes, said) in [
        (place(json!([2, 3]), json!([0, 16])), "w does not fit its place"),
        (place(json!([2, 2]), json!([8, 16])), "w does not fit its place"),
        (place(json!([2, 2]), json!([16, 0])), "longer than it should be"),
        (place(json!([u64::MAX, 3]), json!([0, 16])), "w does not fit its place"),
        (place(json!([2, 2]), json!([0, u64::MAX])), "is cut off"),
        (place(json!([2, 2]), json!([0, -1])), "broken header"),
        (place(json!("x"), json!([0, 16])), "broken header"),
        (with_header(&json!([]), &[]), "broken header"),
        (file(&[("w", "F32", &[4], &[0; 16])])[..30].to_vec(), "its header alone takes"),
        (vec![1, 2, 3], "has 3 bytes and a header takes more"),
        (b"version https://git-lfs.github.com/spec/v1".to_vec(), "no safetensors file"),
    ] {
        let error = open(bytes).expect_err("refused");
        assert!(error.contains(said) && error.contains("model.safetensors"), "{error} lacks {said}");
    }
}

#[test]
fn sixteen_bit_floats_become_the_numbers_they_stand_for() {
    // One, minus two, the smallest subnormal and the largest number of f16;
    // one, minus two and a third of bf16.
    let half: Vec<u8> = [0x3C00u16, 0xC000, 0x0001, 0x7BFF].iter().flat_map(|h| h.to_le_bytes()).collect();
    let brain: Vec<u8> = [0x3F80u16, 0xC000, 0x3EAB].iter().flat_map(|b| b.to_le_bytes()).collect();
    let weights = open(file(&[("half", "F16", &[4], &half), ("brain", "BF16", &[3], &brain)])).expect("good");
    assert_eq!(weights.bytes(), 14);
    let mut seen = Vec::new();
    let mut note = |done, total| seen.push((done, total));
    let mut reader = Reader::new(weights, &mut note);
    assert_eq!(reader.floats("half").expect("reads"), [1.0, -2.0, 2f32.powi(-24), 65_504.0]);
    assert_eq!(reader.floats("brain").expect("reads"), [1.0, -2.0, 0.333_984_38]);
    assert!(reader.floats("none").is_err());
    assert_eq!(seen, [(8, 14), (14, 14)]);
}

#[test]
fn a_matrix_packed_in_pieces_is_the_matrix_packed_at_once() {
    // Rows so wide that a piece holds 64 of them; the last piece is no whole panel.
    let (n, k) = (150, PIECE / 4 / 64);
    let numbers: Vec<f32> = (0..n * k).map(|i| (i % 8_191) as f32).collect();
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let weights = open(file(&[("w", "F32", &[n, k], &bytes)])).expect("good");
    let mut pieces = 0;
    let mut count = |_, _| pieces += 1;
    let packed = Reader::new(weights, &mut count).matrix("w", (n, k)).expect("reads");
    assert_eq!(pieces, 3);
    for row in [0, 31, 63, 64, 127, 128, 149] {
        let mut out = Vec::new();
        packed.unpack(row, &mut out);
        assert_eq!(out, numbers[row * k..(row + 1) * k], "row {row}");
    }
}

proptest! {
    /// Whatever a damaged file says, it is read, or refused by the file's or the
    /// tensor's name, and nothing panics.
    #[test]
    fn damaged_files_are_refused_or_read(
        flips in prop::collection::vec((0usize..400, any::<u8>()), 1..6),
        keep in 0usize..400,
    ) {
        let tensors: &[(&str, &str, &[usize], &[u8])] =
            &[("a", "F32", &[2, 3], &[1; 24]), ("b", "BF16", &[4], &[2; 8]), ("c", "U8", &[], &[3])];
        let mut bytes = file(tensors);
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(keep.max(8));
        let weights = match open(bytes) {
            Ok(weights) => weights,
            Err(error) => {
                prop_assert!(error.contains("model.safetensors"), "{}", error);
                return Ok(());
            }
        };
        let tensors: Vec<(String, u64)> =
            weights.tensors.iter().map(|(name, (_, entry))| (name.clone(), entry.numbers())).collect();
        let mut ignore = |_, _| {};
        let mut reader = Reader::new(weights, &mut ignore);
        for (name, numbers) in tensors {
            match reader.floats(&name) {
                Ok(floats) => prop_assert_eq!(floats.len() as u64, numbers, "{}", name),
                Err(error) => prop_assert!(error.to_string().contains(&name), "{}: {}", name, error),
            }
        }
    }
}

#[test]
fn matrices_stay_in_their_sixteen_bits_and_say_what_their_floats_say() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 36, "intermediate_size": 60,
        "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 16, "vocab_size": 100,
        "tie_word_embeddings": true
    });
    let config = ModelConfig::from_json(config.to_string().as_bytes()).expect("a good configuration");
    let tensors: Vec<(String, Vec<usize>)> = Model::tensors(&config).collect();
    // Between 0.5 and 1 in every type that is written, of either sign.
    let bits = |i: usize| (i as u16).wrapping_mul(40_503) & 0x807F;
    let loaded = |kind: &str| {
        let number = |i: usize| match kind {
            "F16" => (bits(i) | 0x3800).to_le_bytes().to_vec(),
            "BF16" => (bits(i) | 0x3F00).to_le_bytes().to_vec(),
            // What the 16 bits of the type at hand stand for.
            "F32 of F16" => {
                let (sign, tail) = (u32::from(bits(i) & 0x8000), u32::from(bits(i) & 0x7F));
                (sign << 16 | 0x3F00_0000 | tail << 13).to_le_bytes().to_vec()
            }
            _ => (u32::from(bits(i) | 0x3F00) << 16).to_le_bytes().to_vec(),
        };
        let bytes: Vec<Vec<u8>> = (tensors.iter())
            .map(|(_, shape)| (0..shape.iter().product()).flat_map(number).collect())
            .collect();
        let whole: Vec<(&str, &str, &[usize], &[u8])> = (tensors.iter().zip(&bytes))
            .map(|((name, shape), bytes)| (&**name, &kind[..kind.len().min(4)], &**shape, &**bytes))
            .map(|(name, kind, shape, bytes)| (name, kind.trim_end(), shape, bytes))
            .collect();
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(SINGLE), file(&whole)).expect("writes");
        let weights = Weights::open(directory.path()).expect("opens");
        let resident = weights.resident(&config);
        let model = weights.load(config.clone(), &mut |_, _| {}).expect("loads");
        let mut store = Store::new(1, 4, 16, 1).expect("little memory");
        let mut scratch = Scratch::new(true);
        let row = |position| Row { token: 7 + position as u32, position, blocks: &[0], logits: true };
        let rows: Vec<Row<'_>> = (0..3).map(row).collect();
        let threads = Threads::new(2).expect("threads");
        model.forward(&rows, &mut store, (&mut scratch, &threads)).expect("runs");
        let logits: Vec<u32> = scratch.logits(100).flatten().map(|logit| logit.to_bits()).collect();
        assert!(logits.iter().any(|bits| *bits != logits[0]));
        (logits, model.formats().into_keys().collect::<Vec<_>>(), resident)
    };
    for (kind, floats) in [("F16", "F32 of F16"), ("BF16", "F32")] {
        let (small, formats, resident) = loaded(kind);
        let (large, widened, twice) = loaded(floats);
        assert!(small == large, "{kind} has other logits than its floats");
        assert_eq!((formats, widened), (vec![kind], vec!["F32"]));
        let norms = 3 * 36 * 4;
        assert_eq!(2 * (resident - norms), twice - norms, "matrices take half");
    }
}
