//! Threads change no bit, whether workers run apart, meet in every layer, or
//! share matrices.

use super::super::checkpoint::Weights;
use super::super::config::ModelConfig;
use super::super::store::BLOCK;
use super::*;
use serde_json::{Value, json};

fn model(sizes: &Value) -> Model {
    let mut config = json!({
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "tie_word_embeddings": true
    });
    for (key, size) in sizes.as_object().expect("an object") {
        config[key] = size.clone();
    }
    let config = ModelConfig::from_json(config.to_string().as_bytes()).expect("a good configuration");
    Weights::random(&config, false).load(config, &mut |_, _| {}).expect("loads")
}

/// The logits of a prompt's last position and of one decode step of branches
/// that go on from the prompt, and how many workers each pass had.
fn run(model: &Model, threads: usize, sizes: (usize, usize)) -> (Vec<f32>, [usize; 2]) {
    run_grouped(model, threads, sizes, true)
}

fn run_grouped(
    model: &Model,
    threads: usize,
    (prompt, branches): (usize, usize),
    grouped: bool,
) -> (Vec<f32>, [usize; 2]) {
    let c = model.config();
    let threads = Threads::new(threads).expect("threads");
    let common = prompt / BLOCK;
    let trunk: Vec<BlockId> = (0..=common as u32).rev().collect();
    let mut store =
        Store::new(c.layers, c.kv_heads, c.head_dim, common + 1 + branches).expect("little memory");
    let mut scratch = Scratch::new(grouped);
    let mut logits = Vec::new();
    let mut workers = [0; 2];
    let token = |i: usize| (i * 37 % c.vocab) as TokenId;
    let rows: Vec<Row<'_>> = (0..prompt)
        .map(|i| Row { token: token(i), position: i, blocks: &trunk, logits: i + 1 == prompt })
        .collect();
    model.forward(&rows, &mut store, (&mut scratch, &threads)).expect("runs");
    logits.extend(scratch.logits(c.vocab).flatten());
    workers[0] = scratch.workers.len();
    let tables: Vec<Vec<BlockId>> = (0..branches as u32)
        .map(|i| trunk[..common].iter().copied().chain([common as u32 + 1 + i]).collect())
        .collect();
    let rows: Vec<Row<'_>> = (tables.iter().enumerate())
        .map(|(i, blocks)| Row { token: token(i), position: common * BLOCK, blocks, logits: true })
        .collect();
    model.forward(&rows, &mut store, (&mut scratch, &threads)).expect("runs");
    logits.extend(scratch.logits(c.vocab).flatten());
    workers[1] = scratch.workers.len();
    assert_eq!(logits.len(), (1 + branches) * c.vocab);
    (logits, workers)
}

#[test]
fn a_prefill_cut_between_workers_and_a_decode_step_have_the_same_bits_on_any_threads() {
    let model = model(&json!({}));
    let (alone, workers) = run(&model, 1, (600, 450));
    assert_eq!(workers, [1, 1]);
    assert!(alone.iter().all(|logit| logit.is_finite()));
    for threads in [2, 3] {
        let (logits, workers) = run(&model, threads, (600, 450));
        assert_eq!(workers, [threads; 2]);
        assert_eq!(logits, alone, "{threads} threads");
    }
}

#[test]
fn branches_that_attend_to_a_shared_prefix_together_have_the_bits_that_each_has_alone() {
    let model = model(&json!({}));
    let (together, _) = run_grouped(&model, 2, (600, 70), true);
    let (apart, _) = run_grouped(&model, 2, (600, 70), false);
    assert_eq!(together, apart);
}

#[test]
fn a_few_rows_of_a_large_model_share_its_matrices_among_threads_with_the_same_bits() {
    let model = model(&json!({"hidden_size": 256, "intermediate_size": 1100, "vocab_size": 60_000}));
    assert!(model.parameters() >= LARGE);
    let (alone, _) = run(&model, 1, (4, 3));
    let (shared, workers) = run(&model, 3, (4, 3));
    assert_eq!(workers, [1, 1]);
    assert_eq!(shared, alone);
}
