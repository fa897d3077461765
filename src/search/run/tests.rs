//! Whole requests through [`Runner`] on an engine that follows a script.

use super::*;
use crate::engine::scripted::{Script, ScriptedEngine};
use crate::engine::{Caps, EngineThread, Priority, Sampling, Token, rng};
use crate::plan::{
    Beam, Best, Border, Budget, Effort, Final, Marker, Mcts, Mode, Rank, Scoring, Select, Settings, Steps,
    Variant, VoteStop, Voting, Weight,
};
use crate::prompt::{ChatTemplate, Message, StopRule, TemplateTokens, Tokenizer};
use crate::search::conformance::{budget, modes};
use crate::search::event::{Finish, Finished, Progress, StopReason};
use crate::verify::{Aggregate, Judge};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

mod confidence; // how sure a vote's tokens are
mod grader; // an engine for a judge
mod scoring; // a verifier that is slow, or says nothing

/// An engine and what it reveals.
struct Fixture {
    runner: Runner,
    metrics: Arc<Metrics>,
    live: Arc<AtomicUsize>,
    _thread: EngineThread,
}

fn engine(
    says: impl Fn(u64) -> Vec<String> + Send + 'static,
    before_step: impl FnMut(u64) -> Result<(), EngineError> + Send + 'static,
) -> Fixture {
    let live = Arc::new(AtomicUsize::new(0));
    let caps = Caps { context: 4_096, vocab: 640, eos: vec![2], block: 16, pool_blocks: 4_096 };
    let (says, before_step) = (Box::new(says), Box::new(before_step));
    let script = Script { caps, says, before_step, live: Arc::clone(&live) };
    let (thread, handle) = EngineThread::spawn(ScriptedEngine::new(script)).expect("a thread");
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    Fixture { runner: Runner::new(handle, None, Arc::clone(&metrics)), metrics, live, _thread: thread }
}

fn saying(says: impl Fn(u64) -> Vec<String> + Send + 'static) -> Fixture {
    engine(says, |_| Ok(()))
}

/// A text as tokens: words with the space before them.
fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

fn marker(shown: bool) -> Marker {
    let text = if shown { "The answer is" } else { "</think>" }.to_owned();
    let separator = "\n\n".to_owned();
    let border = Border { marker: text, shown, opening: None };
    Marker { border, inject: vec![5, 6], inject_after_separator: vec![6], separator }
}

fn plan(mode: Mode, tokens: u32, n: usize) -> Plan {
    let marker = (mode != Mode::Direct).then(|| marker(true));
    let reserve = if marker.is_some() { tokens / 4 } else { 0 };
    let branches = mode.branches().unwrap_or(1_000);
    let budget = Budget { tokens, reserve, branches, branch_tokens: 2_000, sample: 1, verifier_tokens: None };
    Plan {
        prompt: vec![3; 20].into(),
        effort: Effort::Low,
        mode,
        settings: Settings::default(),
        sampling: Sampling::default(),
        priority: Priority::Normal,
        cache_salt: None,
        seed: 11,
        choices: vec![budget; n],
        live: n * mode.alive() as usize,
        positions: 20 + tokens.min(2_000) as usize,
        stop: Arc::new(StopRule {
            strings: Vec::new(),
            border: marker.as_ref().map(|marker| marker.border.clone()),
        }),
        marker,
        logprobs: None,
        deadline: None,
        separator: "\n\n".into(),
        messages: Vec::new().into(),
        notes: Vec::new(),
    }
}

fn stopping(mut plan: Plan, strings: &[&str]) -> Plan {
    let strings = strings.iter().map(|s| (*s).to_owned()).collect();
    plan.stop =
        Arc::new(StopRule { strings, border: plan.marker.as_ref().map(|marker| marker.border.clone()) });
    plan
}

type Seen = (u32, u32, Option<(String, u32)>);

/// What one choice gave out.
#[derive(Debug, Default, PartialEq)]
struct Said {
    thought: String,
    content: String,
    tokens: Vec<Token>,
    /// Branches made and ended, and the leading answer, after outcomes: all of it in
    /// logical time.
    progress: Vec<Seen>,
    done: Option<Finished>,
}

impl Said {
    fn done(&self) -> &Finished {
        self.done.as_ref().expect("a choice that is done")
    }
}

async fn collect(running: &mut Running) -> Result<BTreeMap<u32, Said>, RunError> {
    let mut choices: BTreeMap<u32, Said> = BTreeMap::new();
    while let Some(event) = running.next().await {
        let ChoiceEvent { index, event } = event?;
        let said = choices.entry(index).or_default();
        assert!(said.done.is_none(), "nothing follows the end");
        match event {
            Event::Thought(text) => said.thought.push_str(&text),
            Event::Content { text, tokens } => {
                said.content.push_str(&text);
                said.tokens.extend(tokens);
            }
            Event::Progress(progress) => {
                let Progress { branches_made, branches_ended, leading, outcome, .. } = progress;
                if outcome {
                    said.progress.push((branches_made, branches_ended, leading));
                }
            }
            Event::Done(done) => said.done = Some(*done),
        }
    }
    Ok(choices)
}

/// Runs a plan to its end, checks the four counts against each other, and that
/// nothing is left alive.
async fn run(fixture: &Fixture, plan: Plan, delivery: Delivery) -> Result<BTreeMap<u32, Said>, RunError> {
    let (mode, choices) = (plan.mode, plan.choices.clone());
    let counter = fixture.metrics.tokens.with_label_values(&[mode.name()]);
    let before = counter.get();
    let mut running = fixture.runner.start(plan, delivery).await?;
    let said = collect(&mut running).await;
    if let Ok(said) = &said {
        let mut sum = 0;
        for (index, said) in said {
            let done = said.done();
            let used = u64::from(done.usage.completion_tokens);
            assert!(used <= u64::from(choices[*index as usize].tokens), "over the budget");
            assert_eq!(used, done.tree.generated());
            assert_eq!(done.usage.completion_tokens, done.report.spent_tokens);
            assert!(done.report.branches_made <= choices[*index as usize].branches);
            sum += used;
        }
        assert_eq!(counter.get() - before, sum);
        if let Ok(counts) = running.counts().await {
            assert_eq!(counts.sampled + counts.injected, sum, "what the engine counted");
        }
    }
    drop(running);
    nothing_is_left(fixture).await;
    said
}

async fn nothing_is_left(fixture: &Fixture) {
    for _ in 0..500 {
        if fixture.live.load(Ordering::SeqCst) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{} branches are left", fixture.live.load(Ordering::SeqCst));
}

async fn one(fixture: &Fixture, plan: Plan, delivery: Delivery) -> Said {
    run(fixture, plan, delivery).await.expect("an answer").remove(&0).expect("choice 0")
}

/// The bundled model's way to judge, on that engine.
fn judge(engine: &Handle) -> Verifier {
    let file = |name: &str| {
        let path = format!("{}/models/seedling/policy/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("the bundled model is in the repository")
    };
    let tokenizer = Arc::new(Tokenizer::from_json(file("tokenizer.json").as_bytes()).expect("a tokenizer"));
    let config = serde_json::from_str(&file("tokenizer_config.json")).expect("JSON");
    let source = ChatTemplate::source(&config, None).expect("a template");
    let template = ChatTemplate::new(&source, TemplateTokens::from_config(&config)).expect("Jinja");
    let own: toml::Table = toml::from_str(&file("espalier.toml")).expect("TOML");
    let config = own["judge"].clone().try_into().expect("settings of a judge");
    let judge = Judge::new(config, tokenizer, template, None).expect("a judge");
    Verifier::judge("judge".to_owned(), engine.clone(), judge)
}

#[tokio::test]
async fn chains_without_their_scores_end_by_themselves_and_a_search_over_steps_does_not() {
    let Fixture { runner, metrics, live, _thread } = saying(|_| words(ANSWER));
    let verifier = judge(runner.engine());
    let runner = Runner::new(runner.engine().clone(), Some(verifier), Arc::clone(&metrics));
    let fixture = Fixture { runner, metrics, live, _thread };
    let vote = Mode::SelfConsistency(Voting {
        branches: 3,
        wave: 3,
        stop: VoteStop::Fixed,
        weight: Weight::Score(Aggregate::Prod),
        likelihood: 0.0,
    });
    let best = Mode::BestOfN(Best {
        branches: 3,
        by: Rank::Score(Aggregate::Prod),
        weighted: true,
        likelihood: 0.0,
    });
    let beam = Mode::Beam(Beam {
        width: 2,
        expansion: 2,
        variant: Variant::Plain,
        lookahead: 0,
        scoring: Scoring::Verifier(Aggregate::Prod),
        choice: Final::Vote,
        likelihood: (0.0, 0.0),
        steps: Steps { most: 9, tokens: 256, repeats: 0 },
    });
    let problem = vec![Message { role: "user", content: "3 + 4?".to_owned() }];
    // Without a problem the verifier fails; without tokens it is not asked.
    for (messages, tokens, searched, note) in [
        (Vec::new(), None, StopReason::VerifierFault, "the verifier failed"),
        (problem, Some(0), StopReason::VerifierTokens, "the verifier's part of the budget is spent"),
    ] {
        for (mode, reason) in [(vote, StopReason::Completed), (best, StopReason::Completed), (beam, searched)]
        {
            let mut plan = plan(mode, 400, 1);
            plan.messages = messages.as_slice().into();
            plan.choices[0].verifier_tokens = tokens;
            let said = one(&fixture, plan, Delivery::Whole).await;
            let report = &said.done().report;
            assert_eq!(report.stop_reason, reason, "{mode:?}");
            assert!(report.notes[0].starts_with(note), "{mode:?}: {:?}", report.notes);
        }
    }
}

const ANSWER: &str = "3 and 4 make 7.\n\n The answer is \\boxed{7}.";

#[tokio::test]
async fn a_direct_answer_is_all_content_and_has_no_reasoning_tokens() {
    let fixture = saying(|_| words("I am fine."));
    for delivery in [Delivery::Live, Delivery::Whole] {
        let said = one(&fixture, plan(Mode::Direct, 50, 1), delivery).await;
        assert_eq!((said.thought.as_str(), said.content.as_str()), ("", "I am fine."));
        let done = said.done();
        assert_eq!((done.usage.completion_tokens, done.usage.reasoning_tokens), (4, 0), "with the EOS");
        assert_eq!((done.finish, done.report.stop_reason), (Finish::Stop, StopReason::Completed));
    }
}

/// A tree search without a verifier.
fn tree(simulations: u32) -> Mcts {
    Mcts {
        simulations,
        tokens: 0,
        width: 1,
        select: Select::Uct(1.0),
        widening: None,
        scoring: Scoring::Rollouts(2),
        whole: false,
        choice: Final::Vote,
        likelihood: 0.0,
        in_flight: 1,
        enough: None,
        steps: Steps { most: 9, tokens: 256, repeats: 0 },
    }
}

#[tokio::test]
async fn a_budget_is_spent_to_the_token() {
    let fixture = saying(|_| vec!["a ".to_owned(); 5_000]);
    // Its one simulation goes on to its end in one step, so that it makes all of them.
    let whole = Mcts { steps: Steps { most: 1, ..tree(1).steps }, ..tree(1) };
    for mode in [Mode::Direct, Mode::ChainOfThought, Mode::vote(3), Mode::Mcts(whole)] {
        for tokens in [1, 2, 7, 50] {
            let said = one(&fixture, plan(mode, tokens, 1), Delivery::Whole).await;
            let done = said.done();
            assert_eq!(done.usage.completion_tokens, tokens, "{mode:?}");
            assert_eq!((done.finish, done.report.stop_reason), (Finish::Length, StopReason::Tokens));
            assert!(!said.content.is_empty(), "the partial text goes out");
        }
    }
}

#[tokio::test]
async fn the_context_is_named_where_it_was_what_bound() {
    let fixture = saying(|_| vec!["a ".to_owned(); 5_000]);
    let mut bounded = plan(Mode::ChainOfThought, 400, 1);
    bounded.choices[0].branch_tokens = 120;
    bounded.positions = 140;
    let said = one(&fixture, bounded, Delivery::Whole).await;
    assert_eq!(said.done().usage.completion_tokens, 120);
    assert_eq!(said.done().report.stop_reason, StopReason::Context);
    let mut bounded = plan(Mode::Mcts(tree(2)), 2_000, 1);
    (bounded.choices[0].branch_tokens, bounded.choices[0].reserve) = (120, 20);
    bounded.positions = 140;
    let said = one(&fixture, bounded, Delivery::Whole).await;
    assert_eq!(said.done().report.stop_reason, StopReason::Context);
}

#[tokio::test]
async fn a_chain_that_others_let_finish_was_not_stopped_by_the_budget() {
    // 30 each: the second needs 40, the first leaves 20.
    let first = Arc::new(AtomicUsize::new(0));
    let fixture = saying(move |key| {
        let long = key != 0 && first.fetch_add(1, Ordering::SeqCst) == 1;
        let mut text = vec!["a ".to_owned(); if long { 37 } else { 7 }];
        text.push("The answer is 7".to_owned());
        text
    });
    let said = one(&fixture, plan(Mode::vote(2), 80, 1), Delivery::Whole).await;
    let done = said.done();
    assert_eq!((done.finish, done.report.stop_reason), (Finish::Stop, StopReason::Completed));
    assert_eq!((done.usage.completion_tokens, done.report.branches_kept), (9 + 39, 2));
}

#[tokio::test]
async fn thought_and_answer_are_told_apart_and_counted() {
    let fixture = saying(|_| words(ANSWER));
    for delivery in [Delivery::Live, Delivery::Whole] {
        let mut asked = plan(Mode::ChainOfThought, 100, 1);
        asked.logprobs = Some(0);
        let said = one(&fixture, asked, delivery).await;
        assert_eq!(said.thought, "3 and 4 make 7.\n\n ");
        assert_eq!(said.content, "The answer is \\boxed{7}.");
        let spelled: String = said.tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(spelled, said.content);
        let usage = said.done().usage;
        assert_eq!((usage.completion_tokens, usage.reasoning_tokens), (10, 5), "EOS is visible");
    }
}

#[tokio::test]
async fn a_hidden_marker_and_the_space_behind_it_are_reasoning() {
    let said = ["so", " it", " is</th", "ink>", "\n\n", "Yes", ",", " 7"];
    let fixture = saying(move |_| said.iter().map(|s| (*s).to_owned()).collect());
    for delivery in [Delivery::Live, Delivery::Whole] {
        let mut asked = plan(Mode::ChainOfThought, 100, 1);
        asked.marker = Some(marker(false));
        asked.logprobs = Some(0);
        let said = one(&fixture, asked, delivery).await;
        assert_eq!((said.thought.as_str(), said.content.as_str()), ("so it is", "Yes, 7"));
        let spelled: Vec<&str> = said.tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(spelled, ["Yes", ",", " 7"]);
        assert_eq!(said.done().usage.reasoning_tokens, 5);
    }
}

#[tokio::test]
async fn without_the_marker_the_whole_text_is_content() {
    let fixture = saying(|_| words("an essay about 7 END of it"));
    for delivery in [Delivery::Live, Delivery::Whole] {
        let mut asked = plan(Mode::ChainOfThought, 100, 1);
        asked.logprobs = Some(0);
        let said = one(&fixture, asked, delivery).await;
        assert_eq!(said.content, "an essay about 7 END of it");
        let spelled: String = said.tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!((spelled, said.done().usage.reasoning_tokens), (said.content.clone(), 0));
        assert_eq!(said.thought.is_empty(), delivery == Delivery::Whole);
        let stopped = stopping(plan(Mode::ChainOfThought, 100, 1), &["7 END", "EN", "zz"]);
        assert_eq!(one(&fixture, stopped, delivery).await.content, "an essay about 7 ");
    }
}

#[tokio::test]
async fn a_text_without_the_marker_is_cut_at_a_stop_string_and_was_stopped_by_it() {
    let fixture = saying(|_| words("an essay about 7 END of it"));
    for delivery in [Delivery::Live, Delivery::Whole] {
        // Six words are the budget; the fifth is the stop string.
        let mut stopped = stopping(plan(Mode::ChainOfThought, 6, 1), &["END"]);
        stopped.choices[0].reserve = 0;
        let said = one(&fixture, stopped, delivery).await;
        assert_eq!((said.content.as_str(), said.done().finish), ("an essay about 7 ", Finish::Stop));
        let usage = said.done().usage;
        assert_eq!((usage.completion_tokens, usage.reasoning_tokens), (6, 1), "what came behind is not seen");
    }
}

#[tokio::test]
async fn a_model_that_does_not_open_a_thought_answers_from_its_first_word() {
    let fixture = saying(|key| words(if key % 2 == 0 { "yes it is" } else { "<t>so</t> it is" }));
    for delivery in [Delivery::Live, Delivery::Whole] {
        let mut thoughts = Vec::new();
        for seed in 0..16 {
            let text = "</t>".to_owned();
            let border = Border { marker: text, shown: false, opening: Some("<t>".to_owned()) };
            let stop = StopRule { strings: Vec::new(), border: Some(border.clone()) };
            let thinking = Marker { border, ..marker(false) };
            let asked = plan(Mode::ChainOfThought, 100, 1);
            let asked = Plan { marker: Some(thinking), stop: Arc::new(stop), seed, ..asked };
            let said = one(&fixture, asked, delivery).await;
            match said.thought.as_str() {
                "" => assert_eq!(said.content, "yes it is"),
                thought => assert_eq!((thought, said.content.as_str()), ("<t>so", "it is")),
            }
            thoughts.push(said.thought.is_empty());
        }
        assert!(thoughts.contains(&true) && thoughts.contains(&false));
    }
}

#[tokio::test]
async fn stop_strings_end_the_answer_and_not_the_thought() {
    let fixture = saying(|_| words("stop it. The answer is 7 stop now"));
    for delivery in [Delivery::Live, Delivery::Whole] {
        let stopped = stopping(plan(Mode::ChainOfThought, 100, 1), &["stop"]);
        let said = one(&fixture, stopped, delivery).await;
        assert_eq!((said.thought.as_str(), said.content.as_str()), ("stop it. ", "The answer is 7 "));
        let done = said.done();
        assert_eq!((done.finish, done.usage.completion_tokens), (Finish::Stop, 7));
        assert_eq!(done.usage.reasoning_tokens, 2);
        let direct = stopping(plan(Mode::Direct, 100, 1), &["stop"]);
        assert_eq!(one(&fixture, direct, delivery).await.content, "");
    }
}

/// A chain whose length and answer depend on its key.
fn varied(key: u64) -> Vec<String> {
    let mut text = vec!["a ".to_owned(); (key % 23) as usize];
    text.push(format!("The answer is \\boxed{{{}}}.", key % 3));
    text
}

/// All that does not depend on how fast the engine is, in a form that can be
/// compared (some numbers are NaN): where a search gives up what is in flight,
/// that is what it cost.
fn told(said: Said, exact: bool) -> (String, String, Finish, StopReason, String) {
    let done = said.done.expect("done");
    let cost = exact.then_some((done.usage, done.report.sharing_ratio, done.report.branches_pruned));
    let report = format!("{:?} {cost:?} {:?}", done.report.candidates, said.progress);
    (said.thought, said.content, done.finish, done.report.stop_reason, report)
}

/// Of what there was to tell, the first, every new leader, and beside these no more than
/// one in a second.
fn told_now_and_then(lines: &[Seen], all: &[Seen], took: Duration) {
    let leaders = |seen: &[Seen]| {
        let mut leaders: Vec<Option<String>> =
            seen.iter().map(|(.., leading)| leading.as_ref().map(|(answer, _)| answer.clone())).collect();
        leaders.dedup();
        leaders
    };
    let mut rest = all.iter();
    assert!(lines.iter().all(|line| rest.any(|seen| seen == line)), "{lines:?} of {all:?}");
    assert_eq!((lines.first(), leaders(lines)), (all.first(), leaders(all)));
    let most = leaders(all).len() + usize::try_from(took.as_secs()).expect("a test is short");
    assert!(lines.len() <= most, "{} lines: {lines:?}", lines.len());
}

#[tokio::test]
async fn a_search_gives_the_same_result_live_or_whole_at_any_pace_and_load() {
    // A vote that is decided gives up the rest; what is ranked needs all.
    let best = Mode::BestOfN(Best { branches: 8, by: Rank::Likelihood, weighted: false, likelihood: 0.0 });
    for (mode, exact) in [(Mode::vote(8), false), (best, true)] {
        for (tokens, room) in [(400, 8), (90, 8), (90, 3), (60, 1)] {
            let asked = |seed| {
                let mut plan = plan(mode, tokens, 1);
                (plan.seed, plan.live) = (seed, room);
                plan
            };
            let quick = saying(varied);
            let slow = engine(varied, |step| {
                std::thread::sleep(Duration::from_micros(step % 5 * 150));
                Ok(())
            });
            for seed in 0..4 {
                let expected = one(&quick, asked(seed), Delivery::Watched).await;
                assert!(expected.progress.len() >= 5);
                let told_on_the_way = expected.progress.clone();
                let expected = told(expected, exact);
                assert_eq!(told(one(&slow, asked(seed), Delivery::Watched).await, exact), expected);
                let begun = Instant::now();
                let mut live = one(&slow, asked(seed), Delivery::Live).await;
                let lines = std::mem::replace(&mut live.progress, told_on_the_way.clone());
                told_now_and_then(&lines, &told_on_the_way, begun.elapsed());
                assert_eq!(told(live, exact), expected);
                let mut whole = one(&quick, asked(seed), Delivery::Whole).await;
                assert!(whole.progress.is_empty(), "nobody reads it");
                whole.progress.clone_from(&told_on_the_way);
                assert_eq!(told(whole, exact), expected);
                // Beside others, on one engine.
                let (a, b) = tokio::join!(
                    slow.runner.start(asked(seed), Delivery::Watched),
                    slow.runner.start(asked(seed + 100), Delivery::Live)
                );
                let (mut a, mut b) = (a.expect("admitted"), b.expect("admitted"));
                let (a, _) = tokio::join!(collect(&mut a), collect(&mut b));
                let a = a.expect("an answer").remove(&0).expect("choice 0");
                assert_eq!(told(a, exact), expected);
            }
        }
    }
}

fn sleepy() -> Fixture {
    engine(
        |_| vec!["a ".to_owned(); 5_000],
        |_| {
            std::thread::sleep(Duration::from_millis(3));
            Ok(())
        },
    )
}

#[tokio::test]
async fn a_deadline_gives_the_best_answer_so_far() {
    let fixture = sleepy();
    for mode in [Mode::Direct, Mode::ChainOfThought, Mode::vote(4)] {
        let mut late = plan(mode, 4_000, 1);
        late.deadline = Some(Duration::from_millis(300));
        let begun = std::time::Instant::now();
        let said = one(&fixture, late, Delivery::Live).await;
        // All 4,000 tokens would take 12 s.
        assert!(begun.elapsed() < Duration::from_secs(6));
        assert_eq!(said.done().report.stop_reason, StopReason::Deadline);
        assert_eq!(said.done().finish, Finish::Length);
        assert!(!said.content.is_empty());
    }
}

#[tokio::test]
async fn a_deadline_before_any_text_is_an_error_and_no_empty_answer() {
    let fixture = engine(
        |_| vec![String::new(); 5_000],
        |_| {
            std::thread::sleep(Duration::from_millis(3));
            Ok(())
        },
    );
    for mode in [Mode::Direct, Mode::vote(2)] {
        let mut late = plan(mode, 4_000, 1);
        late.deadline = Some(Duration::from_millis(100));
        let end = run(&fixture, late, Delivery::Whole).await;
        assert_eq!(end, Err(RunError::Deadline { seconds: 0.1 }));
    }
}

#[tokio::test]
async fn the_end_of_the_server_gives_the_best_answer_so_far() {
    for mode in [Mode::Direct, Mode::ChainOfThought, Mode::vote(4)] {
        let fixture = sleepy();
        let mut running =
            fixture.runner.start(plan(mode, 4_000, 1), Delivery::Whole).await.expect("admitted");
        let counts = fixture.metrics.mode(mode.name());
        while counts.tokens.get() < 8 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fixture.runner.end_all();
        let said = collect(&mut running).await.expect("an answer").remove(&0).expect("choice 0");
        let done = said.done();
        assert_eq!((done.report.stop_reason, done.finish), (StopReason::Shutdown, Finish::Length));
        assert!(said.content.starts_with("a a "), "{}", said.content);
        assert_eq!(fixture.metrics.choices.with_label_values(&[mode.name(), "shutdown"]).get(), 1);
        drop(running);
        nothing_is_left(&fixture).await;
        // Whoever comes later has nothing to show.
        let late = fixture.runner.start(plan(mode, 4_000, 1), Delivery::Whole).await;
        let late = match late {
            Ok(mut running) => collect(&mut running).await.err(),
            Err(error) => Some(error),
        };
        assert_eq!(late, Some(RunError::Shutdown));
    }
}

#[tokio::test]
async fn a_choice_whose_turn_never_came_is_empty_beside_answered_ones() {
    for delivery in [Delivery::Live, Delivery::Whole] {
        let fixture = sleepy();
        let mut late = plan(Mode::ChainOfThought, 4_000, 3);
        late.live = 1;
        late.deadline = Some(Duration::from_millis(150));
        let choices = run(&fixture, late, delivery).await.expect("one of them has something to say");
        let empty =
            choices.values().filter(|said| said.content.is_empty() && said.thought.is_empty()).count();
        assert_eq!((choices.len(), empty), (3, 2));
        for said in choices.values() {
            let done = said.done();
            assert_eq!((done.finish, done.report.stop_reason), (Finish::Length, StopReason::Deadline));
            assert_eq!(done.usage.completion_tokens == 0, said.content.is_empty() && said.thought.is_empty());
        }
        let counted = fixture.metrics.choices.with_label_values(&["cot", "deadline"]).get();
        assert_eq!(counted, 3);
    }
}

#[tokio::test]
async fn latencies_count_from_the_arrival_and_branches_by_their_fate() {
    let fixture = saying(|_| words("The answer is 7"));
    let mode = Mode::BestOfN(Best { branches: 3, by: Rank::Likelihood, weighted: false, likelihood: 0.0 });
    let arrived = Instant::now() - Duration::from_secs(5);
    let mut running =
        fixture.runner.start_since(plan(mode, 90, 2), Delivery::Whole, arrived, ()).await.expect("admitted");
    collect(&mut running).await.expect("answers");
    let counts = fixture.metrics.mode(mode.name());
    assert_eq!(counts.first_token.get_sample_count(), 1, "one per request");
    assert!(
        counts.first_token.get_sample_sum() > 5.0 && fixture.metrics.queue_seconds.get_sample_sum() > 5.0
    );
    // Five tokens with the EOS on each of six branches.
    assert_eq!(counts.inter_token.get_sample_count(), 6 * 4);
    assert_eq!((counts.branches.get(), counts.kept.get(), counts.pruned.get()), (6, 6, 0));
    assert_eq!(fixture.metrics.prompt_tokens.with_label_values(&["best_of_n"]).get(), 20);
}

#[tokio::test]
async fn times_between_tokens_are_counted_however_the_tokens_are_read() {
    for delivery in [Delivery::Live, Delivery::Watched, Delivery::Whole] {
        let fixture = engine(
            |_| vec!["a ".to_owned(); 5_000],
            |_| {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            },
        );
        one(&fixture, plan(Mode::ChainOfThought, 40, 1), delivery).await;
        let counts = fixture.metrics.mode(Mode::ChainOfThought.name());
        assert_eq!(counts.first_token.get_sample_count(), 1);
        // A thought of thirty tokens, which is cut, and the answer's eight behind two
        // that were injected.
        assert_eq!(counts.inter_token.get_sample_count(), 29 + 7, "{delivery:?}");
        // The answer's tokens are heard of together, at least a millisecond each after it was
        // asked for; what is heard as it comes is heard when the runtime gets to it.
        if delivery == Delivery::Whole {
            assert!(counts.inter_token.get_sample_sum() > 0.006, "{}", counts.inter_token.get_sample_sum());
        }
    }
}

fn failing_at(at: u64) -> Fixture {
    engine(
        |_| vec!["a ".to_owned(); 5_000],
        move |step| if step >= at { Err(EngineError::Forward("no".to_owned())) } else { Ok(()) },
    )
}

#[tokio::test]
async fn after_a_fault_only_a_complete_answer_is_one() {
    let no = || Err(RunError::Engine(EngineError::Forward("no".to_owned())));
    for mode in [Mode::Direct, Mode::ChainOfThought, Mode::vote(3)] {
        for at in [1, 6] {
            assert_eq!(run(&failing_at(at), plan(mode, 90, 1), Delivery::Whole).await, no());
        }
    }
    let asked = plan(Mode::vote(3), 90, 1);
    let second = rng::derive(rng::derive(asked.seed, 0), 2);
    let fixture = engine(
        move |key| vec!["a ".to_owned(); if key == second { 3 } else { 5_000 }],
        |step| if step >= 6 { Err(EngineError::Forward("no".to_owned())) } else { Ok(()) },
    );
    let said = one(&fixture, asked, Delivery::Whole).await;
    assert_eq!((said.content.as_str(), said.done().finish), ("a a a ", Finish::Stop));
    assert_eq!(said.done().report.stop_reason, StopReason::EngineFault);
}

#[tokio::test]
async fn a_panic_of_the_engine_ends_the_request() {
    for at in [1, 4] {
        let fixture = engine(
            |_| vec!["a ".to_owned(); 5_000],
            move |step| {
                std::thread::sleep(Duration::from_millis(10));
                assert!(step < at, "as the test wants it");
                Ok(())
            },
        );
        let started = fixture.runner.start(plan(Mode::vote(2), 90, 3), Delivery::Live);
        let mut running = started.await.expect("admitted");
        let end = tokio::time::timeout(Duration::from_secs(5), collect(&mut running)).await;
        let end = end.expect("no choice may hang");
        assert_eq!(end, Err(RunError::Engine(EngineError::Closed)));
        assert!(running.next().await.is_none());
        let closed = fixture.runner.start(plan(Mode::Direct, 9, 1), Delivery::Live).await;
        assert_eq!(closed.err(), Some(RunError::Engine(EngineError::Closed)));
    }
}

#[tokio::test]
async fn dropping_a_run_frees_its_branches() {
    let fixture = sleepy();
    let asked = plan(Mode::vote(4), 4_000, 2);
    let running = fixture.runner.start(asked, Delivery::Whole).await.expect("admitted");
    while fixture.live.load(Ordering::SeqCst) < 9 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(running);
    nothing_is_left(&fixture).await;
}

#[tokio::test]
async fn choices_that_cannot_all_be_alive_take_turns() {
    let fixture = saying(varied);
    let most = Arc::new(AtomicUsize::new(0));
    let watched = {
        let (most, slot) = (Arc::clone(&most), Arc::new(std::sync::OnceLock::new()));
        let inner = Arc::clone(&slot);
        let fixture = engine(varied, move |_| {
            let live: Option<&Arc<AtomicUsize>> = inner.get();
            most.fetch_max(live.map_or(0, |live| live.load(Ordering::SeqCst)), Ordering::SeqCst);
            Ok(())
        });
        slot.set(Arc::clone(&fixture.live)).expect("set once");
        fixture
    };
    for (mode, live) in [(Mode::ChainOfThought, 1), (Mode::ChainOfThought, 2), (Mode::vote(4), 4)] {
        most.store(0, Ordering::SeqCst);
        let mut few = plan(mode, 200, 3);
        few.live = live;
        let choices = run(&watched, few, Delivery::Live).await.expect("answers");
        assert_eq!(choices.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(most.load(Ordering::SeqCst) <= live + 1, "with the root");
        let expected = run(&fixture, plan(mode, 200, 3), Delivery::Live).await.expect("answers");
        let texts = |choices: &BTreeMap<u32, Said>| -> Vec<String> {
            choices.values().map(|said| format!("{} {}", said.thought, said.content)).collect()
        };
        assert_eq!(texts(&choices), texts(&expected));
        assert!(texts(&choices).iter().any(|text| *text != texts(&choices)[0]), "each has its own seed");
    }
}

#[tokio::test]
async fn a_request_that_cannot_wait_for_its_admission_is_refused_in_time() {
    let (stepping, step) = tokio::sync::oneshot::channel();
    let mut stepping = Some(stepping);
    let fixture = engine(
        |_| words("a"),
        move |_| {
            stepping.take().into_iter().for_each(|stepping| stepping.send(()).expect("the test waits"));
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        },
    );
    let busy = fixture.runner.start(plan(Mode::Direct, 10, 1), Delivery::Live).await.expect("admitted");
    step.await.expect("a step begins");
    let mut late = plan(Mode::Direct, 10, 1);
    late.deadline = Some(Duration::from_millis(10));
    assert_eq!(
        fixture.runner.start(late, Delivery::Live).await.err(),
        Some(RunError::Deadline { seconds: 0.01 })
    );
    drop(busy);
    nothing_is_left(&fixture).await;
}

/// Steps, answers and endless talk, by chance.
fn chance(key: u64) -> Vec<String> {
    const SAYS: [&str; 8] =
        ["a ", "b ", "c ", "so\n\n", "d\n\n", "The answer is \\boxed{4}.", "The answer is \\boxed{5}.", "e "];
    let length = rng::derive(key, 0) % 60;
    (1..=length).map(|i| SAYS[(rng::derive(key, i) % 8) as usize].to_owned()).collect()
}

/// How many forks lie between the prompt and the deepest branch that has scores.
fn scored_depth(done: &Finished) -> usize {
    let scored = done.tree.iter().filter(|(_, node)| !node.scores.is_empty());
    scored.map(|(id, _)| done.tree.ancestors(id).count() + 1).max().unwrap_or(0)
}

#[test]
fn no_request_exceeds_a_budget_or_leaves_a_branch() {
    // PROPTEST_CASES sets how many; each case is a request in every mode.
    let config = ProptestConfig::with_source_file(file!());
    let cases = config.cases;
    let asks = (modes(), budget(), (1usize..40, 1usize..4, any::<u64>()), any::<bool>());
    let deepest = Cell::new(0);
    let whole = TestRunner::new(config).run(&asks, |(modes, budget, (live, n, salt), marked)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let grades = grader::start();
        let Fixture { runner, metrics, live: alive, _thread } =
            saying(move |key| chance(rng::derive(key, salt)));
        let runner = Runner::new(runner.engine().clone(), Some(judge(&grades.handle)), Arc::clone(&metrics));
        let fixture = Fixture { runner, metrics, live: alive, _thread };
        for mode in modes {
            let asked = Plan {
                choices: vec![budget; n],
                live,
                seed: salt,
                positions: 20 + budget.tokens.min(budget.branch_tokens) as usize,
                marker: marked.then(|| marker(true)),
                messages: vec![Message { role: "user", content: "3 + 4?".to_owned() }].into(),
                ..plan(mode, budget.tokens, n)
            };
            // The counts are compared, and nothing may be left.
            let said = runtime.block_on(run(&fixture, asked, Delivery::Whole));
            let said = said.map_err(|error| TestCaseError::fail(format!("{error} {mode:?}")))?;
            prop_assert_eq!(said.len(), n);
            for said in said.values() {
                let done = said.done();
                let complete = done.report.candidates.iter().any(|c| c.selected && c.complete);
                prop_assert_eq!(done.finish == Finish::Stop, complete);
                prop_assert_eq!(done.report.candidates.iter().filter(|c| c.selected).count(), 1);
                prop_assert_ne!(done.report.stop_reason, StopReason::VerifierFault, "{:?}", mode);
                deepest.set(deepest.get().max(scored_depth(done)));
            }
        }
        Ok(())
    });
    whole.unwrap_or_else(|error| panic!("{error}"));
    // A few cases may all be small ones.
    assert!(cases < 16 || deepest.get() >= 2, "no search went on from scored steps: {}", deepest.get());
}
