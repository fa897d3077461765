//! What becomes of trajectories by what the verifier says of them.

use super::*;
use crate::engine::{Priority, Sampling, Token};
use crate::metrics::Metrics;
use crate::plan::{Budget, Effort, Mode, Plan, Settings};
use crate::prompt::{Message, StopRule};
use crate::search::Outcome;
use crate::search::run::Delivery;
use crate::search::run::flight::Growth;
use crate::search::run::shared::{Limit, Shared};
use crate::verify::{Kind, Opening, Remote, RemoteConfig, RemoteError, Verifier};
use std::sync::atomic::AtomicBool;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A choice with the lease of a verifier on another server, which is never asked:
/// the tests say what it answers.
pub(in super::super) async fn choice() -> Choice {
    let budget = Budget {
        tokens: 900,
        reserve: 0,
        branches: 99,
        branch_tokens: 900,
        sample: 1,
        verifier_tokens: None,
    };
    let messages = vec![Message { role: "user", content: "3 + 4?".to_owned() }];
    let plan = Plan {
        prompt: vec![3; 20].into(),
        effort: Effort::Low,
        mode: Mode::vote(2),
        settings: Settings::default(),
        sampling: Sampling::default(),
        seed: 11,
        choices: vec![budget],
        live: 9,
        positions: 920,
        stop: Arc::new(StopRule { strings: Vec::new(), border: None }),
        marker: None,
        separator: "\n\n".into(),
        priority: Priority::Normal,
        cache_salt: None,
        logprobs: None,
        deadline: None,
        messages: messages.as_slice().into(),
        notes: Vec::new(),
    };
    let metrics = Arc::new(Metrics::new().expect("unique names"));
    let (tell, _) = mpsc::unbounded_channel();
    let (_, ending) = watch::channel(false);
    let shared = Shared {
        plan,
        delivery: Delivery::Whole,
        room: 9,
        tell,
        arrived: Instant::now(),
        generated: Arc::default(),
        spoke: AtomicBool::new(false),
        limit: Limit { deadline: None, seconds: 0.0, ending },
        verifier: None,
        counts: metrics.mode("self_consistency"),
        metrics,
        _held: Box::new(()),
    };
    let config = RemoteConfig {
        url: "http://127.0.0.1:9/".to_owned(),
        model: Some("prm".to_owned()),
        kind: Some(Kind::QwenPrm),
        key: None,
    };
    let remote = Remote::find(config).await.expect("nothing is asked where all is named");
    let verifier = Verifier::remote("prm".to_owned(), remote);
    let root = verifier.open(&messages, Opening::default()).await.expect("there is a problem");
    let mut choice = Choice::new(0, &Arc::new(shared));
    choice.judged_by(Ok(Some(Arc::new(root))));
    choice
}

/// A branch of one step lands and is sent to the verifier; its number is that of
/// its work.
fn lands(choice: &mut Choice, (node, parent): (u32, u32), (id, text): (TokenId, &str)) -> Scoring {
    let key = (0, WorkId::from(node));
    let node = NodeId(node);
    choice.tree.add(node, NodeId(parent));
    let token = Token { id, logprob: -0.5, top: Vec::new(), text: text.to_owned() };
    choice.tree.node_mut(node).push(token, true);
    let (grown, end) = (Growth::default(), Ok(End::Step));
    choice.landed.insert(key, Landing { node, grown, end, scoring: Scoring::Due });
    choice.send_to_verifier(key);
    choice.landed[&key].scoring
}

/// What the verifier says of a branch that said that token.
fn answers(choice: &mut Choice, node: u32, id: TokenId, result: Result<Scores, VerifyError>) {
    let passage = choice.judge.said.keys().find(|passage| passage.ids == [id]).cloned();
    assert!(passage.is_some(), "it was sent");
    choice.scored((node.into(), 0), passage, result);
}

/// What the strategy is told of its scores.
fn told(choice: &mut Choice, node: u32) -> (Option<Vec<f64>>, bool) {
    let landing = choice.landed.remove(&(0, node.into())).expect("it has landed");
    match choice.outcome(landing) {
        Outcome::Grown(grown) => (grown.scores, grown.unscored),
        Outcome::Abandoned => panic!("it has grown"),
    }
}

const ONE: (TokenId, &str) = (7, "3 + 4\n\n");
const TWO: (TokenId, &str) = (8, "4 + 3\n\n");

#[tokio::test]
async fn a_trajectory_that_cannot_be_scored_has_no_score_and_others_have_theirs() {
    for error in [
        VerifyError::Context { needed: 9, context: 8 },
        VerifyError::Joined,
        VerifyError::Score("NaN".to_owned()),
        VerifyError::Remote(RemoteError::Refused {
            url: "there".to_owned(),
            status: 400,
            message: "too long".to_owned(),
        }),
    ] {
        let mut choice = choice().await;
        let none = (None, false);
        assert_eq!(lands(&mut choice, (1, 0), ONE), Scoring::Out);
        assert_eq!(lands(&mut choice, (2, 0), TWO), Scoring::Out);
        assert_eq!(lands(&mut choice, (3, 0), ONE), Scoring::Out);
        assert_eq!(choice.aside.len(), 2, "one waits for its equal");
        answers(&mut choice, 1, ONE.0, Err(error));
        assert_eq!([told(&mut choice, 1), told(&mut choice, 3)], [none.clone(), none.clone()]);
        // Neither the same again nor what goes on from it is asked about, so that
        // what it costs does not depend on when that lands.
        assert_eq!(lands(&mut choice, (4, 0), ONE), Scoring::Failed);
        assert_eq!(lands(&mut choice, (5, 3), TWO), Scoring::Failed);
        choice.release(NodeId(5));
        assert_eq!(lands(&mut choice, (6, 5), TWO), Scoring::Failed);
        assert_eq!(choice.aside.len(), 2);
        for node in 4..7 {
            assert_eq!(told(&mut choice, node), none, "{node}");
        }
        // Its sibling is scored all the same, and goes on.
        answers(&mut choice, 2, TWO.0, Ok(Scores { values: vec![0.5], tokens: 3 }));
        assert_eq!(told(&mut choice, 2), (Some(vec![0.5]), false));
        assert_eq!(lands(&mut choice, (7, 2), ONE), Scoring::Out);
        assert_eq!((choice.aside.len(), &choice.judge.missing), (3, &None));
    }
}

#[tokio::test]
async fn a_verifier_that_fails_is_not_asked_again() {
    for error in [
        VerifyError::Engine(crate::engine::EngineError::Closed),
        VerifyError::Remote(RemoteError::NoModel("there".to_owned())),
    ] {
        let mut choice = choice().await;
        assert_eq!(lands(&mut choice, (1, 0), ONE), Scoring::Out);
        answers(&mut choice, 1, ONE.0, Err(error.clone()));
        assert_eq!(lands(&mut choice, (2, 0), TWO), Scoring::Failed);
        assert_eq!([told(&mut choice, 1), told(&mut choice, 2)], [(None, true), (None, true)]);
        assert_eq!((choice.aside.len(), &choice.judge.missing), (1, &Some(Missing::Fault(error))));
    }
}

#[tokio::test]
async fn a_trajectory_with_nothing_new_to_read_keeps_its_scores() {
    let mut choice = choice().await;
    lands(&mut choice, (1, 0), ONE);
    answers(&mut choice, 1, ONE.0, Ok(Scores { values: vec![0.5], tokens: 3 }));
    assert_eq!(lands(&mut choice, (2, 1), (9, " \n\n")), Scoring::Done);
    assert_eq!(
        [told(&mut choice, 1), told(&mut choice, 2)],
        [(Some(vec![0.5]), false), (Some(vec![0.5]), false)]
    );
}

#[tokio::test]
async fn what_is_noted_of_branches_without_a_score_does_not_depend_on_which_was_answered_first() {
    const THREE: (TokenId, &str) = (9, "7\n\n");
    let errors = [
        (1, ONE.0, VerifyError::Joined),
        (2, TWO.0, VerifyError::Score("NaN".to_owned())),
        (3, THREE.0, VerifyError::Context { needed: 9, context: 8 }),
    ];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let mut choice = choice().await;
        for (node, says) in [(1, ONE), (2, TWO), (3, THREE)] {
            assert_eq!(lands(&mut choice, (node, 0), says), Scoring::Out);
        }
        for at in order {
            let (node, id, error) = errors[at].clone();
            answers(&mut choice, node, id, Err(error));
        }
        // The strategy is done before it hears of the third.
        for node in [1, 2] {
            assert_eq!(told(&mut choice, node), (None, false));
        }
        let notes: Vec<String> = choice.judge.notes(Mode::vote(2)).collect();
        let note = format!(
            "branches that could not be scored (2) weigh what the others do; the first: {}",
            VerifyError::Joined
        );
        assert_eq!(notes, [note], "answered in the order {order:?}");
    }
}
