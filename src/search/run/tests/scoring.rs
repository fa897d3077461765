//! The verifier beside the engine: when it is asked, that nothing waits for it but
//! what needs its scores, and searches that end while it has not answered.

use super::grader::{Fate, Grades};
use super::*;
use crate::plan::Auto;
use crate::search::NodeId;
use futures_util::future::join_all;
use std::collections::HashMap;
use std::sync::mpsc;

/// How long is waited for what should come at once. Only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The number of a branch of the first choice of [`plan`], by its key.
fn numbers() -> impl Fn(u64) -> u64 + Send + 'static {
    let number = |node| (rng::derive(rng::derive(11, 0), node), node);
    let known: HashMap<u64, u64> = (1..=1_000).map(number).collect();
    move |key| known.get(&key).copied().unwrap_or(0)
}

/// An engine with a judge on another, which follows a rule.
fn scored(
    says: impl Fn(u64) -> Vec<String> + Send + 'static,
    before_step: impl FnMut(u64) -> Result<(), EngineError> + Send + 'static,
    rule: impl FnMut(usize) -> Fate + Send + 'static,
) -> (Fixture, Grades) {
    let Fixture { runner, metrics, live, _thread } = engine(says, before_step);
    let grades = grader::ruled(rule);
    let runner = Runner::new(runner.engine().clone(), Some(judge(&grades.handle)), Arc::clone(&metrics));
    (Fixture { runner, metrics, live, _thread }, grades)
}

fn asked(mode: Mode) -> Plan {
    let messages = vec![Message { role: "user", content: "3 + 4?".to_owned() }].into();
    Plan { messages, ..plan(mode, 4_000, 1) }
}

const STEPS: Steps = Steps { most: 9, tokens: 256, repeats: 0 };

fn beam(width: u32, expansion: u32, lookahead: u32) -> Beam {
    Beam {
        width,
        expansion,
        variant: Variant::Plain,
        lookahead,
        scoring: Scoring::Verifier(Aggregate::Prod),
        choice: Final::Vote,
        likelihood: (0.0, 0.0),
        steps: STEPS,
    }
}

#[tokio::test]
async fn a_branch_is_scored_while_its_siblings_are_decoded() {
    let best = Best { branches: 2, by: Rank::Score(Aggregate::Prod), weighted: true, likelihood: 0.0 };
    // The tokens of the first, long branch and of the second, short one; a chain
    // goes on from its step to its EOS.
    for (mode, long, short) in [(Mode::Beam(beam(1, 2, 0)), 21, 3), (Mode::BestOfN(best), 22, 4)] {
        let (go, gate) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let early = Arc::new(AtomicUsize::new(0));
        let number = numbers();
        let says = move |key| match number(key) {
            1 => {
                // What is said to the engine until then is all known before its
                // first step, so that both branches run from there on in step.
                gate.recv_timeout(PATIENCE).expect("the test says when");
                [vec!["and ".to_owned(); 20], vec!["on.\n\n".to_owned()]].concat()
            }
            2 => ["so ", "it ", "is.\n\n"].map(str::to_owned).to_vec(),
            _ => words("The answer is \\boxed{7}."),
        };
        let seen = Arc::clone(&early);
        let before_step = move |step| {
            // The short branch is at its end, and the long one, which comes before
            // it, not one token further: it cannot be told yet. Its score is asked for.
            if step == short + 1 && told.recv_timeout(PATIENCE / 2).is_ok() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        };
        let rule = move |question| {
            // Nobody listens once the step has been made.
            let _ = tell.send(());
            if question == 0 { Fate::Withheld } else { Fate::Answered }
        };
        let (fixture, grades) = scored(says, before_step, rule);
        let counts = fixture.metrics.mode(mode.name());
        let mut running = fixture.runner.start(asked(mode), Delivery::Whole).await.expect("admitted");
        until("both branches are begun", || counts.branches.get() == 2).await;
        go.send(()).expect("the engine waits");
        // All that the other says is taken while the score is still to come.
        until("the other is at its end", || counts.tokens.get() == long + short).await;
        assert_eq!(early.load(Ordering::SeqCst), 1, "{mode:?}: asked as soon as it had landed");
        assert_eq!(grades.kept(), 1, "{mode:?}");
        grades.release();
        let said = collect(&mut running).await.expect("an answer").remove(&0).expect("choice 0");
        let done = said.done();
        assert_eq!(done.report.stop_reason, StopReason::Completed, "{mode:?}");
        for node in [1, 2] {
            assert!(!done.tree.node(NodeId(node)).scores.is_empty(), "{mode:?}: branch {node}");
        }
        drop(running);
        nothing_is_left(&fixture).await;
    }
}

#[tokio::test]
async fn once_a_vote_is_decided_the_verifier_is_asked_about_no_chain_that_ends_meanwhile() {
    let vote = Mode::SelfConsistency(Voting {
        branches: 3,
        wave: 3,
        stop: VoteStop::Fixed,
        weight: Weight::Score(Aggregate::Prod),
        likelihood: 0.0,
    });
    let (go, gate) = mpsc::channel();
    let (resume, paused) = mpsc::channel();
    let number = numbers();
    let says = move |key| match number(key) {
        1 => {
            // All three are begun before the first step.
            gate.recv_timeout(PATIENCE).expect("the test says when");
            words(SEVEN)
        }
        3 => words("so so so so so The answer is \\boxed{8}."),
        _ => words(SEVEN),
    };
    let before_step = move |step| {
        // The next token of the third is its last, and of the others all is known.
        if step == 10 {
            paused.recv_timeout(PATIENCE).expect("the test says when");
        }
        Ok(())
    };
    let asked_about = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked_about);
    let rule = move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Fate::Praised
    };
    let (fixture, _grades) = scored(says, before_step, rule);
    let counts = fixture.metrics.mode(vote.name());
    let mut running = fixture.runner.start(asked(vote), Delivery::Watched).await.expect("admitted");
    until("all are begun", || counts.branches.get() == 3).await;
    go.send(()).expect("the engine waits");
    // What two good chains say the third cannot overrule.
    let decided = async {
        while let Some(event) = running.next().await {
            if let Event::Progress(Progress { leading: Some((answer, 2)), .. }) =
                event.expect("no fault").event
            {
                return Some(answer);
            }
        }
        None
    };
    let decided = tokio::time::timeout(PATIENCE, decided).await.expect("the third is not waited for");
    assert_eq!(decided.as_deref(), Some("7"), "two chains agree");
    resume.send(()).expect("the engine waits");
    let said = collect(&mut running).await.expect("an answer").remove(&0).expect("choice 0");
    let report = &said.done().report;
    assert_eq!((said.content.as_str(), report.stop_reason), (SEVEN, StopReason::Completed));
    assert_eq!(report.spent_tokens, 5 + 5 + 10, "the third came to its end all the same");
    assert_eq!((report.verifier_steps, asked_about.load(Ordering::SeqCst)), (1, 1), "both say the same");
    drop(running);
    nothing_is_left(&fixture).await;
}

/// A search over steps of every kind; none that an answer in the probe would end.
fn searches() -> [Mode; 4] {
    let mcts = Mcts {
        simulations: 60,
        tokens: 0,
        width: 4,
        select: Select::Uct(1.0),
        widening: None,
        scoring: Scoring::Verifier(Aggregate::Prod),
        whole: true,
        choice: Final::Vote,
        likelihood: 0.0,
        in_flight: 4,
        enough: None,
        steps: STEPS,
    };
    let auto = Auto { probe: 3, confidence: 2.0, tree: mcts };
    [Mode::Beam(beam(2, 2, 0)), Mode::Beam(beam(2, 2, 2)), Mode::Mcts(mcts), Mode::Auto(auto)]
}

const SEVEN: &str = "The answer is \\boxed{7}.";

/// Steps of as many tokens as the branch's number and six more, so that no two say
/// the same; where `answers`, the first branch comes to its end in five tokens.
fn speech(answers: bool) -> impl Fn(u64) -> Vec<String> + Send + 'static {
    let number = numbers();
    move |key| match number(key) {
        1 if answers => words(SEVEN),
        node => {
            let said = 5 + usize::try_from(node % 40).expect("small");
            [vec!["so ".to_owned(); said], vec!["on.\n\n".to_owned()]].concat()
        }
    }
}

/// Every search, with and without an answer on its first branch, with a verifier
/// that answers no question or two before it changes its ways.
fn cases() -> impl Iterator<Item = (Mode, bool, usize)> {
    let ways = [(true, 0), (true, 2), (false, 0), (false, 2)];
    searches().into_iter().flat_map(move |mode| ways.map(|(answers, pass)| (mode, answers, pass)))
}

/// What holds of an answer however the search was ended.
fn is_best(said: &Said, (mode, answers): (Mode, bool), reason: StopReason) {
    let done = said.done();
    assert_eq!(done.report.stop_reason, reason, "{mode:?}");
    let selected: Vec<_> = done.report.candidates.iter().filter(|c| c.selected).collect();
    assert_eq!(selected.len(), 1, "{mode:?}");
    assert_eq!(done.finish == Finish::Stop, selected[0].complete, "{mode:?}");
    if answers {
        // Complete, and the only one that has an answer.
        assert_eq!((said.content.as_str(), done.finish), (SEVEN, Finish::Stop), "{mode:?}");
    }
    assert!(said.content.contains("so ") || answers, "{mode:?}: {}", said.content);
}

#[tokio::test]
async fn a_deadline_ends_a_search_that_waits_for_scores_with_the_best_so_far() {
    let ended = cases().map(async |(mode, answers, pass)| {
        let rule = move |question| if question < pass { Fate::Answered } else { Fate::Withheld };
        let (fixture, grades) = scored(speech(answers), |_| Ok(()), rule);
        let late = Plan { deadline: Some(Duration::from_millis(1_500)), ..asked(mode) };
        let said = one(&fixture, late, Delivery::Whole).await;
        is_best(&said, (mode, answers), StopReason::Deadline);
        assert_eq!(said.done().finish == Finish::Stop, answers, "{mode:?}");
        assert!(grades.kept() > 0 && said.done().report.verifier_tokens > 0, "{mode:?}");
        until("the verifier has nothing left", || grades.live.load(Ordering::SeqCst) == 0).await;
    });
    // At once, for each takes as long as its deadline.
    join_all(ended).await;
}

#[tokio::test]
async fn the_end_of_the_server_ends_a_search_that_waits_for_scores_with_the_best_so_far() {
    for (mode, answers, pass) in cases() {
        let rule = move |question| if question < pass { Fate::Answered } else { Fate::Withheld };
        let (fixture, grades) = scored(speech(answers), |_| Ok(()), rule);
        let end = async {
            until("a score is outstanding", || grades.kept() > 0).await;
            fixture.runner.end_all();
        };
        let (said, ()) = tokio::join!(one(&fixture, asked(mode), Delivery::Whole), end);
        is_best(&said, (mode, answers), StopReason::Shutdown);
        let counted = fixture.metrics.choices.with_label_values(&[mode.name(), "shutdown"]).get();
        assert_eq!(counted, 1, "{mode:?}");
        until("the verifier has nothing left", || grades.live.load(Ordering::SeqCst) == 0).await;
        // Whoever gets an answer after that hears nothing, and is none the worse.
        grades.release();
    }
}

#[tokio::test]
async fn a_search_whose_verifier_fails_in_the_middle_ends_with_the_best_so_far() {
    for (mode, answers, pass) in cases() {
        let rule = move |question| if question < pass { Fate::Answered } else { Fate::Failed };
        let (fixture, grades) = scored(speech(answers), |_| Ok(()), rule);
        let said = one(&fixture, asked(mode), Delivery::Whole).await;
        is_best(&said, (mode, answers), StopReason::VerifierFault);
        let notes = &said.done().report.notes;
        let note = "the verifier failed, so the search ended with what it had";
        assert!(notes.iter().any(|said| said.starts_with(note)), "{mode:?}: {notes:?}");
        let steps = said.done().report.verifier_steps as usize;
        assert!(steps <= pass, "{mode:?}: {steps} steps by {pass} answers");
        until("the verifier has nothing left", || grades.live.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn a_search_goes_on_beside_branches_that_cannot_be_scored_and_says_so() {
    let best = Best { branches: 4, by: Rank::Score(Aggregate::Prod), weighted: true, likelihood: 0.0 };
    for mode in searches().into_iter().chain([Mode::BestOfN(best)]) {
        let rule = |question| if question == 1 { Fate::Unclear } else { Fate::Answered };
        let (fixture, _grades) = scored(speech(true), |_| Ok(()), rule);
        let said = one(&fixture, asked(mode), Delivery::Whole).await;
        is_best(&said, (mode, true), StopReason::Completed);
        let notes = &said.done().report.notes;
        let weigh =
            if matches!(mode, Mode::BestOfN(_)) { "weigh what the others do" } else { "are worth nothing" };
        let refused = |note: &String| {
            note.starts_with("branches that could not be scored (")
                && note.contains(&format!(") {weigh}; the first: the verifier gave the score NaN"))
        };
        assert_eq!(notes.iter().filter(|note| refused(note)).count(), 1, "{mode:?}: {notes:?}");
    }
}

#[tokio::test]
async fn a_search_whose_engine_fails_in_the_middle_has_only_complete_answers() {
    let fault = || EngineError::Forward("no".to_owned());
    for mode in searches() {
        for answers in [true, false] {
            // The first branch is at its end by then, and the third is not.
            let before_step = move |step| if step >= 9 { Err(fault()) } else { Ok(()) };
            let (fixture, grades) = scored(speech(answers), before_step, |_| Fate::Answered);
            let said = run(&fixture, asked(mode), Delivery::Whole).await;
            if answers {
                let said = said.expect("a complete answer").remove(&0).expect("choice 0");
                is_best(&said, (mode, answers), StopReason::EngineFault);
                assert_eq!(said.done().finish, Finish::Stop, "{mode:?}");
            } else {
                // What is begun after the fault fails as well, until the engine is given up.
                let whose =
                    matches!(said, Err(RunError::Engine(EngineError::Forward(_) | EngineError::Closed)));
                assert!(whose, "{mode:?}: {said:?}");
            }
            until("the verifier has nothing left", || grades.live.load(Ordering::SeqCst) == 0).await;
        }
    }
}
