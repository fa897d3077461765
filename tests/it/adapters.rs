//! LoRA adapters against PEFT, on small random ones made by
//! `tests/fixtures/make_adapters.py`.

use crate::engine::{logits, path, read, relative_error, rig_over};
use crate::families::{Reference, reference_in};
use espalier::engine::tree::checkpoint::{AdapterConfig, Weights};
use espalier::engine::tree::config::ModelConfig;
use espalier::prompt::Tokenizer;

const ADAPTERS: &str = "tests/fixtures/adapters";

#[tokio::test]
async fn logits_are_those_of_the_model_that_peft_merges() {
    for case in ["plain", "patterns"] {
        let directory = format!("{ADAPTERS}/{case}");
        let Reference { tokens, positions, logits: theirs } = reference_in(&directory);
        let shape = read("tests/fixtures/families/llama-plain/config.json");
        let shape = ModelConfig::from_json(&shape).expect("reads");
        let config = AdapterConfig::from_json(&read(&format!("{directory}/adapter_config.json")));
        let weights = Weights::open(&path("tests/fixtures/families/weights/llama")).expect("opens");
        let weights = weights.adapted(&path(&directory), &config.expect("reads")).expect("fits");
        let model = weights.load(shape, &mut |_, _| {}).expect("loads");
        let tokenizer =
            Tokenizer::from_json(&read("tests/fixtures/llama-gqa/tokenizer.json")).expect("reads");
        let engine = rig_over(model, tokenizer, (512, 8 << 20));
        let branch = engine.open(&tokens, tokens.len(), 1).await;
        let ours = logits(&branch, 0..tokens.len()).await;
        let picked: Vec<Vec<f32>> = positions.iter().map(|&position| ours[position].clone()).collect();
        let error = relative_error(&picked, &theirs);
        assert!(error <= 1e-5, "{case}: {error}");
    }
}
