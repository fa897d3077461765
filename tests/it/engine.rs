//! The tree engine against Hugging Face transformers, and its promises about
//! sharing, counting and reproducibility, on real weights.

use candle_core::{Device, safetensors};
use espalier::engine::tree::checkpoint::Weights;
use espalier::engine::tree::config::ModelConfig;
use espalier::engine::tree::model::Model;
use espalier::engine::tree::{self, TreeEngine};
use espalier::engine::{
    Branch, End, Engine, EngineThread, Handle, Open, Sampling, Segment, SegmentEvent, Token, channel,
};
use espalier::metrics::{EngineMetrics, Metrics};
use espalier::prompt::{StopRule, Tokenizer};
use std::path::PathBuf;
use std::sync::Arc;

/// A checkpoint on an engine thread.
pub(crate) struct Rig {
    handle: Handle,
    metrics: Arc<EngineMetrics>,
    pub(crate) vocab: usize,
    _thread: EngineThread,
}

const POLICY: &str = "models/seedling/policy";
const GQA: &str = "tests/fixtures/llama-gqa";

pub(crate) fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

pub(crate) fn read(relative: &str) -> Vec<u8> {
    std::fs::read(path(relative)).expect("a file of the repository")
}

/// The weights of one directory under the configuration of a file.
pub(crate) fn model(config: &str, weights: &str) -> Model {
    let config = ModelConfig::from_json(&read(config)).expect("reads");
    let weights = Weights::open(&path(weights)).expect("opens");
    weights.load(config, &mut |_, _| {}).expect("loads")
}

/// A checkpoint of the repository.
fn parts(directory: &str) -> (Model, Tokenizer) {
    let model = model(&format!("{directory}/config.json"), directory);
    let tokenizer = Tokenizer::from_json(&read(&format!("{directory}/tokenizer.json"))).expect("reads");
    (model, tokenizer)
}

fn rig_with(directory: &str, step_positions: usize, kv_bytes: usize) -> Rig {
    let (model, tokenizer) = parts(directory);
    rig_over(model, tokenizer, (step_positions, kv_bytes))
}

/// An engine over a model.
pub(crate) fn rig_over(
    model: Model,
    tokenizer: Tokenizer,
    (step_positions, kv_bytes): (usize, usize),
) -> Rig {
    let settings =
        tree::Config { kv_bytes, threads: 2, step_positions, queue: 64, grouped: true, twins: true };
    rig_under(model, tokenizer, settings)
}

/// The same with settings of any kind.
fn rig_under(model: Model, tokenizer: Tokenizer, settings: tree::Config) -> Rig {
    let metrics = Arc::clone(&Metrics::new().expect("unique names").engine);
    let engine = TreeEngine::new(model, vec![2, 0], Arc::new(tokenizer), Arc::clone(&metrics), &settings)
        .expect("builds");
    let vocab = engine.caps().vocab;
    let (_thread, handle) = EngineThread::spawn(engine).expect("starts");
    Rig { handle, metrics, vocab, _thread }
}

pub(crate) fn rig(directory: &str) -> Rig {
    rig_with(directory, 512, 64 << 20)
}

/// Tokens and reference logits, `[position][vocab]`, as transformers computed them.
fn reference(name: &str, vocab: usize) -> (Vec<u32>, Vec<Vec<f32>>) {
    let tensors = safetensors::load(path(&format!("tests/fixtures/logits-{name}.safetensors")), &Device::Cpu)
        .expect("the fixture reads");
    let tokens = tensors["tokens"].to_vec1::<i64>().expect("token ids");
    let logits = tensors["logits"].to_vec2::<f32>().expect("rows");
    assert!(logits.iter().all(|row| row.len() == vocab));
    (tokens.into_iter().map(|id| id as u32).collect(), logits)
}

/// Largest difference over the largest logit.
pub(crate) fn relative_error(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().flatten().fold(0f32, |m, v| m.max(v.abs()));
    let pairs = ours.iter().flatten().zip(theirs.iter().flatten());
    pairs.fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

impl Rig {
    pub(crate) async fn open(&self, prompt: &[u32], positions: usize, width: usize) -> Branch {
        let open = Open::new(prompt.into(), positions, width);
        self.handle.open(open).await.expect("admitted")
    }
}

pub(crate) async fn logits(branch: &Branch, positions: std::ops::Range<usize>) -> Vec<Vec<f32>> {
    branch.logits(positions.collect(), Vec::new()).await.expect("logits")
}

#[tokio::test]
async fn logits_agree_with_transformers_whole_chunked_token_by_token_and_forked() {
    for (directory, name) in [(POLICY, "policy"), (GQA, "gqa")] {
        // 512 rows a step: one chunk. 7: chunks that never meet a block border.
        for step_positions in [512, 7] {
            let rig = rig_with(directory, step_positions, 64 << 20);
            let (tokens, theirs) = reference(name, rig.vocab);
            let n = tokens.len();

            let whole = rig.open(&tokens, n, 1).await;
            let ours = logits(&whole, 0..n).await;
            let error = relative_error(&ours, &theirs);
            assert!(error <= 1e-4, "{name}, prefill in chunks of {step_positions}: {error}");

            let stepwise = rig.open(&tokens[..1], n, 1).await;
            let mut rows = logits(&stepwise, 0..1).await;
            for (i, &token) in tokens.iter().enumerate().skip(1) {
                stepwise.append(vec![token]);
                rows.extend(logits(&stepwise, i..i + 1).await);
            }
            assert_eq!(rows, ours, "{name}: token by token gives the very bits of the prefill");

            // Forks at a block border, beside it and inside a block.
            for at in [16, 17, 33, n - 1] {
                let trunk = rig.open(&tokens[..at], n, 2).await;
                trunk.settle().await.expect("settles");
                let (fork, other) = (trunk.fork(1), trunk.fork(2));
                other.append(tokens[..n - at].to_vec());
                fork.append(tokens[at..].to_vec());
                let (forked, _) = tokio::join!(logits(&fork, at..n), logits(&other, at..n));
                let error = relative_error(&forked, &theirs[at..]);
                assert!(error <= 1e-4, "{name}, forked at {at}: {error}");
                assert_eq!(forked, ours[at..], "{name}: a fork gives the very bits of the sequence alone");
            }

            // Truncation and regrowth over what another branch still shares.
            let trunk = rig.open(&tokens, n, 1).await;
            trunk.settle().await.expect("settles");
            let fork = trunk.fork(3);
            fork.truncate(n - 20);
            fork.append(vec![5; 3]);
            logits(&fork, n - 20..n - 17).await;
            fork.truncate(n - 20);
            fork.append(tokens[n - 20..].to_vec());
            assert_eq!(logits(&fork, n - 20..n).await, ours[n - 20..]);
        }
    }
}

#[tokio::test]
async fn chosen_ids_are_the_columns_of_the_whole_rows() {
    let rig = rig(POLICY);
    let (tokens, _) = reference("policy", rig.vocab);
    let whole = rig.open(&tokens, tokens.len(), 1).await;
    let rows = logits(&whole, 0..tokens.len()).await;
    let some = rig.open(&tokens, tokens.len(), 1).await;
    let picked = some.logits(vec![3, 40], vec![5, 4]).await.expect("logits");
    assert_eq!(picked, [vec![rows[3][5], rows[3][4]], vec![rows[40][5], rows[40][4]]]);
    let error = some.logits(vec![3], Vec::new()).await.expect_err("3 is computed already");
    assert!(error.to_string().contains("pending"), "{error}");
}

/// A problem that the bundled model solves in many different ways.
fn hard_prompt() -> Vec<u32> {
    let tokenizer = Tokenizer::from_json(&read("models/seedling/policy/tokenizer.json")).expect("reads");
    let problem = "Use each of the numbers 20, 3, 7, 5 exactly once with +, -, * and / to make 19.";
    let system = "Think step by step, one step per paragraph, and put the final answer in \\boxed{}.";
    let text = format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
    );
    tokenizer.encode(&text).expect("encodes")
}

pub(crate) fn segment(max_tokens: u32, temperature: f32) -> Segment {
    Segment {
        inject: Vec::new(),
        max_tokens,
        sampling: Sampling { temperature, ..Sampling::default() },
        stop: Arc::new(StopRule::default()),
        top_logprobs: 0,
        step: None,
        live: true,
    }
}

pub(crate) async fn decode(branch: &Branch, segment: Segment) -> (Vec<Token>, End) {
    let (events, mut inbox) = channel();
    branch.decode(segment, 9, &events);
    let mut tokens = Vec::new();
    loop {
        match inbox.recv().await.expect("the engine lives") {
            (9, SegmentEvent::Token(token)) => tokens.push(token),
            (9, SegmentEvent::End { end, .. }) => return (tokens, end),
            other => panic!("unexpected {other:?}"),
        }
    }
}

pub(crate) fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

#[tokio::test]
async fn a_seeded_branch_says_the_same_alone_and_among_sixty_three_strangers() {
    let rig = rig(POLICY);
    let prompt = hard_prompt();
    let prompt = prompt.as_slice();
    let alone = {
        let root = rig.open(prompt, 200, 1).await;
        root.settle().await.expect("settles");
        decode(&root.fork(77), segment(60, 1.0)).await
    };
    let root = rig.open(prompt, 200, 64).await;
    root.settle().await.expect("settles");
    let strangers: Vec<Branch> = (1000..1063).map(|key| root.fork(key)).collect();
    let chosen = root.fork(77);
    let all = strangers.iter().enumerate().map(|(i, b)| decode(b, segment(20 + i as u32, 1.0)));
    let (crowded, others) =
        tokio::join!(decode(&chosen, segment(60, 1.0)), futures_util::future::join_all(all));
    assert_eq!(alone, crowded);
    let distinct: std::collections::HashSet<Vec<u32>> = others.iter().map(|(t, _)| ids(t)).collect();
    assert!(distinct.len() > 10, "different keys say different things: {}", distinct.len());
    let counts = root.counts().await.expect("counts");
    assert!(counts.copied > 0, "64 branches agree for a while");
}

/// Everything that some requests say, down to the bits of every log-probability,
/// and the positions that were computed and copied for them.
async fn told(twins: bool) -> (Vec<(Vec<Token>, End)>, u64, u64) {
    let (model, tokenizer) = parts(POLICY);
    let settings =
        tree::Config { kv_bytes: 64 << 20, threads: 2, step_positions: 512, queue: 64, grouped: true, twins };
    let rig = rig_under(model, tokenizer, settings);
    let prompt = hard_prompt();
    let mut said = Vec::new();
    for key in [1, 100] {
        let root = rig.open(&prompt, 200, 32).await;
        root.settle().await.expect("settles");
        let forks: Vec<Branch> = (key..key + 16).map(|key| root.fork(key)).collect();
        let asked = || Segment { top_logprobs: 5, ..segment(40, 0.8) };
        said.extend(futures_util::future::join_all(forks.iter().map(|fork| decode(fork, asked()))).await);
        // Two of one key, further down, and the others beside them.
        forks[3].settle().await.expect("settles");
        let inner = [forks[3].fork(7), forks[3].fork(7)];
        let second = forks.iter().chain(&inner).map(|branch| decode(branch, asked()));
        said.extend(futures_util::future::join_all(second).await);
    }
    (said, rig.metrics.computed.get(), rig.metrics.copied.get())
}

#[tokio::test]
async fn branches_say_the_same_bit_for_bit_whether_twins_are_computed_or_copied() {
    let ((on, computed_on, copied_on), (off, computed_off, copied_off)) =
        (told(true).await, told(false).await);
    let bits = |said: &[(Vec<Token>, End)]| -> Vec<u32> {
        let tokens = said.iter().flat_map(|(tokens, _)| tokens);
        tokens
            .flat_map(|t| [t.logprob.to_bits()].into_iter().chain(t.top.iter().map(|l| l.1.to_bits())))
            .collect()
    };
    assert_eq!(on, off);
    assert_eq!(bits(&on), bits(&off), "0.0 and -0.0 are equal, but not the same");
    assert_eq!(on.len(), 2 * (16 + 18));
    assert!(copied_on > 0, "16 samples of one prompt agree for a while");
    assert_eq!((computed_on + copied_on, copied_off), (computed_off, 0));
}

#[tokio::test]
async fn every_position_is_computed_once_and_counted_and_nothing_stays() {
    for at in [31, 32, 33] {
        // A fresh engine: nothing is known of the prompt yet.
        let rig = rig(POLICY);
        let (tokens, _) = reference("policy", rig.vocab);
        let (computed, recomputed, sampled) =
            (rig.metrics.computed.get(), rig.metrics.recomputed.get(), rig.metrics.sampled.get());
        let root = rig.open(&tokens[..at], 100, 8).await;
        root.settle().await.expect("settles");
        let forks: Vec<Branch> = (0..3).map(|key| root.fork(key)).collect();
        let grown = futures_util::future::join_all(forks.iter().map(|b| decode(b, segment(10, 1.0)))).await;
        let n: usize = grown.iter().map(|(tokens, _)| tokens.len()).sum();
        // The last token of each segment is known but not computed.
        let unique = at + n - 3;
        let counts = root.counts().await.expect("counts");
        assert_eq!((counts.computed + counts.copied) as usize, unique);
        assert_eq!((counts.recomputed, counts.sampled as usize, counts.branches), (0, n, 3));
        // A fork of an inner node: its settle computes the one token that is
        // pending, its own later segments nothing twice.
        forks[0].settle().await.expect("settles");
        let inner = forks[0].fork(9);
        let (more, _) = decode(&inner, segment(5, 1.0)).await;
        let counts = root.counts().await.expect("counts");
        assert_eq!((counts.computed + counts.copied) as usize, unique + 1 + more.len() - 1);
        assert_eq!(counts.recomputed, 0);
        // Cutting back to a computed position needs its logits once more.
        let back = forks[0].fork(10);
        back.truncate(at + 1);
        let (again, _) = decode(&back, segment(2, 1.0)).await;
        let counts = root.counts().await.expect("counts");
        assert_eq!(counts.recomputed, 1);
        assert_eq!(rig.metrics.computed.get() - computed, counts.computed);
        assert_eq!(rig.metrics.recomputed.get() - recomputed, 1);
        assert_eq!(
            rig.metrics.sampled.get() - sampled,
            (n + more.len() + again.len()) as u64,
            "the metric counts every sampled token"
        );
        drop((root, forks, inner, back));
        settled_to_nothing(&rig).await;
    }
}

/// Checks that the engine holds nothing, once it has taken note of the frees
/// sent so far: a refused open is answered in order.
async fn settled_to_nothing(rig: &Rig) {
    let impossible = Open::new([7].into(), 0, 1);
    rig.handle.open(impossible).await.expect_err("no room for the prompt");
    assert_eq!(rig.metrics.blocks_used.get(), 0, "blocks left behind");
    assert_eq!(rig.metrics.branches.get(), 0, "branches left behind");
}
