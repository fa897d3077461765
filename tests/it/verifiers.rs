//! The bundled model as its own judge, and without anything that verifies: answers,
//! accounts, and what the report says of them.

use crate::modes::{Rig, accounted, finished, number, rig};
use crate::support::{PUZZLE, Served, engine, serve_with};
use espalier::config::ServeArgs;
use espalier::plan::{ModeName, Parameter, Setting, Settings};
use espalier::prompt::Message;
use espalier::search::event::Finished;
use espalier::search::tree::NodeId;
use espalier::verify::{Opening, Verifier};
use serde_json::{Value, json};

/// The bundled model, with `--prm` as given.
async fn serve(prm: &str) -> Served {
    let mut args = ServeArgs { engine: engine("seedling"), ..ServeArgs::default() };
    args.engine.model.prm = Some(prm.to_owned());
    serve_with(args).await
}

/// Small searches of the modes that ask a verifier where there is one.
fn searches() -> Vec<(&'static str, Value)> {
    let small = |mut reasoning: Value| {
        reasoning["budget"] = json!({"tokens": 2_500});
        reasoning
    };
    [
        ("vote", json!({"mode": "self_consistency", "branches": 5, "stop": "fixed", "vote": "verifier"})),
        ("best", json!({"mode": "best_of_n", "branches": 4, "rank": "verifier"})),
        ("beam", json!({"mode": "beam", "width": 2, "expansion": 3})),
        ("rebase", json!({"mode": "beam", "width": 2, "expansion": 2, "variant": "rebase"})),
        // To its end: one that has enough does not wait for what it has asked.
        ("mcts", json!({"mode": "mcts", "width": 2, "simulations": 8, "enough": 0.0})),
        ("auto", json!({"mode": "auto", "probe": 2, "width": 3, "simulations": 8})),
    ]
    .into_iter()
    .map(|(name, reasoning)| (name, small(reasoning)))
    .collect()
}

fn content(body: &Value) -> &str {
    body["choices"][0]["message"]["content"].as_str().expect("content")
}

#[tokio::test]
async fn a_model_that_judges_itself_guides_every_search_and_all_that_it_reads_is_counted() {
    let server = serve("judge").await;
    for (name, reasoning) in searches() {
        let body = accounted(&server, (name, &reasoning)).await;
        let search = &body["search"];
        assert_eq!(search["verifier"], "seedling as judge", "{name}: {search}");
        assert!(number(&search["spent"]["verified_steps"]) > 0, "{name}: {search}");
        assert!(number(&search["spent"]["verifier_tokens"]) > 0, "{name}: {search}");
        let notes = search["notes"].to_string();
        assert!(!notes.contains("verifier"), "{name}: {notes}");
        let tree = search["tree"].as_array().expect("a tree");
        assert!(tree.iter().any(|node| node["scores"] != json!([])), "{name}: {search}");
        assert!(!content(&body).is_empty(), "{name}");
    }
    assert_eq!(server.counter("espalier_verifier_engine_computed_positions_total").await, 0);
    assert_eq!(server.counter("espalier_verifier_errors_total").await, 0);
}

#[tokio::test]
async fn without_a_verifier_every_search_answers_by_other_means_and_says_so() {
    let server = serve("none").await;
    for (name, reasoning) in searches() {
        let body = accounted(&server, (name, &reasoning)).await;
        let search = &body["search"];
        let instead = match name {
            "vote" => "no verifier is configured, so every vote counts the same",
            "best" => "no verifier is configured, so chains are ranked by their likelihood",
            _ => "rollouts value each step",
        };
        let notes = search["notes"].to_string();
        assert!(notes.contains("no verifier is configured") && notes.contains(instead), "{name}: {notes}");
        assert!(search["verifier"].is_null(), "{name}: {search}");
        assert_eq!(number(&search["spent"]["verifier_tokens"]), 0, "{name}");
        assert_eq!(number(&search["spent"]["verified_steps"]), 0, "{name}");
        let tree = search["tree"].as_array().expect("a tree");
        assert!(tree.iter().all(|node| node["scores"] == json!([])), "{name}: {search}");
        assert_eq!(body["choices"][0]["finish_reason"], "stop", "{name}: {search}");
        assert!(!content(&body).is_empty(), "{name}");
    }
    assert_eq!(server.counter("espalier_verifier_tokens_total").await, 0);
}

/// What a judge says of the steps of a branch, read one branch after the other as
/// the search has grown them.
async fn verdicts(judge: &Verifier, done: &Finished, branch: NodeId) -> Vec<f64> {
    let problem = [Message { role: "user", content: PUZZLE.to_owned() }];
    let mut lease = judge.open(&problem, Opening { width: 4, ..Opening::default() }).await.expect("opens");
    let mut path: Vec<NodeId> = done.tree.ancestors(branch).collect();
    path.reverse();
    path.push(branch);
    for id in path {
        let (text, node) = (done.tree.visible_text(id), done.tree.node(id));
        // A step that was cut is read as far as it goes.
        let ended = node.complete || !node.text.contains("\n\n");
        if let Some(reading) = lease.read(&text, ended) {
            let scores = lease.score(reading).await.expect("scores");
            lease.take(&scores.values);
        }
    }
    lease.scores().to_vec()
}

async fn searched(rig: &Rig, mode: ModeName, rank: &'static str) -> Finished {
    let mut settings = Settings::default();
    settings.set(Parameter::Branches, Setting::Count(4));
    settings.set(Parameter::Rank, Setting::Choice(rank));
    settings.set(Parameter::Weighted, Setting::Flag(false));
    settings.set(Parameter::VoteLikelihood, Setting::Number(0.0));
    settings.set(Parameter::Width, Setting::Count(2));
    settings.set(Parameter::Expansion, Setting::Count(3));
    settings.set(Parameter::Simulations, Setting::Count(8));
    settings.set(Parameter::Enough, Setting::Number(0.0));
    finished(rig, mode, settings.of_mode(mode), PUZZLE).await
}

/// The scores of the branches that are complete.
fn scores(done: &Finished) -> Vec<&[f64]> {
    let complete = done.tree.branches().filter(|node| node.complete && !node.scores.is_empty());
    complete.map(|node| node.scores.as_slice()).collect()
}

#[tokio::test]
async fn the_scores_of_a_judge_are_its_own_verdicts_on_every_step() {
    let (beside, alone) = (rig(false).await, rig(true).await);
    for (rig, mode, rank) in [
        (&beside, ModeName::BestOfN, "judge"),
        (&alone, ModeName::BestOfN, "verifier"),
        (&alone, ModeName::Beam, "verifier"),
        (&alone, ModeName::Mcts, "verifier"),
    ] {
        let done = searched(rig, mode, rank).await;
        let report = &done.report;
        assert_eq!(report.verifier.as_deref(), Some("the judge"), "{mode:?}: {report:?}");
        assert!(report.verifier_tokens > 0 && report.verifier_steps > 0, "{mode:?}");
        let (mut compared, mut best) = (0, None::<(f64, NodeId)>);
        for candidate in report.candidates.iter().filter(|candidate| candidate.complete) {
            let own = &done.tree.node(candidate.branch).scores;
            let expected = verdicts(&rig.judge, &done, candidate.branch).await;
            assert_eq!(*own, expected, "{mode:?}: branch {:?}", candidate.branch);
            let worth = rig.judge.aggregate().of(own);
            assert_eq!(candidate.score, worth, "{mode:?}: {candidate:?}");
            let worth = worth.expect("it is scored");
            if best.is_none_or(|(most, _)| worth > most) {
                best = Some((worth, candidate.branch));
            }
            compared += 1;
        }
        assert!(compared > 1, "{mode:?}: {report:?}");
        if mode == ModeName::BestOfN {
            let selected = report.candidates.iter().find(|candidate| candidate.selected);
            assert_eq!(selected.map(|candidate| candidate.branch), best.map(|(_, branch)| branch));
        }
    }
    // The same chains have other scores from the process reward model beside it.
    let judged = searched(&beside, ModeName::BestOfN, "judge").await;
    let scored = searched(&beside, ModeName::BestOfN, "verifier").await;
    assert_eq!(scores(&judged).len(), scores(&scored).len());
    assert_ne!(scores(&judged), scores(&scored));
    assert_ne!(scored.report.verifier, judged.report.verifier);
}
