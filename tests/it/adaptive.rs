//! An adaptive vote gives the answers of the fixed one, and is right as often, for
//! much less.

use crate::support::{Served, serve};
use espalier::eval::{Problem, Response, is_right};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/eval/dev.jsonl");

/// The first problems of a family.
fn problems(family: &str, count: usize) -> Vec<Problem> {
    let suite = std::fs::read_to_string(SUITE).expect("the suite is in the repository");
    let cases = suite.lines().map(|line| serde_json::from_str::<Problem>(line).expect("a problem"));
    cases.filter(|case| case.family == family).take(count).collect()
}

/// What a vote of up to 32 says, whether that is right, and how many tokens it takes.
async fn voted(server: &Served, (seed, case): (usize, &Problem), stop: &str) -> (Value, bool, u64) {
    let problem = &case.problem;
    let body = server
        .chat(json!({
            "messages": [{"role": "user", "content": problem}], "seed": seed, "temperature": 0.8,
            "reasoning": {"mode": "self_consistency", "branches": 32, "stop": stop, "vote": "count",
                          "budget": {"tokens": 32_768}},
        }))
        .await;
    let search = &body["search"];
    let made = search["branches"]["made"].as_u64().expect("a count");
    assert!(made <= 32 && (made == 32 || stop == "posterior"), "{problem}: {search}");
    let candidates = search["candidates"].as_array().expect("candidates");
    let selected = candidates.iter().find(|candidate| candidate["selected"] == true);
    let answer = selected.expect("one is selected")["answer"].clone();
    assert!(answer.is_string(), "{problem}: {search}");
    let content = body["choices"][0]["message"]["content"].as_str().expect("content");
    let right = is_right(&case.check, &case.answer, Response { content, whole: content });
    (answer, right, body["usage"]["completion_tokens"].as_u64().expect("a count"))
}

#[tokio::test]
async fn a_vote_that_stops_when_it_is_sure_is_as_good_as_all_32_for_at_most_three_fifths() {
    let server = serve().await;
    let cases = [problems("story", 100), problems("expr", 100)].concat();
    let [fixed, adaptive] = ["fixed", "posterior"].map(|stop| {
        let asked = cases.iter().enumerate().map(|case| voted(&server, case, stop));
        futures_util::stream::iter(asked).buffered(32).collect::<Vec<_>>()
    });
    let (fixed, adaptive) = (fixed.await, adaptive.await);
    assert_eq!((fixed.len(), adaptive.len()), (200, 200));
    // It is sure at 0.95, so one in twenty may be told otherwise.
    let others = fixed.iter().zip(&adaptive).filter(|(all, some)| all.0 != some.0).count();
    assert!(others <= 10, "{others}");
    let right = |votes: &[(Value, bool, u64)]| votes.iter().filter(|vote| vote.1).count();
    let (all, some) = (right(&fixed), right(&adaptive));
    // Half a point of 200 problems is one of them.
    assert!(all > 100 && some + 1 >= all, "{some} right instead of {all}");
    let tokens = |votes: &[(Value, bool, u64)]| votes.iter().map(|vote| vote.2).sum::<u64>();
    let (all, some) = (tokens(&fixed), tokens(&adaptive));
    assert!(5 * some <= 3 * all, "{some} tokens instead of {all}");
}
