//! An adaptive vote gives the answers of the fixed one, for much less.

use crate::support::serve;
use serde_json::{Value, json};

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/eval/dev.jsonl");

/// The first problems of a family.
fn problems(family: &str, count: usize) -> Vec<String> {
    let suite = std::fs::read_to_string(SUITE).expect("the suite is in the repository");
    let cases = suite.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let own = cases.filter(|case| case["family"] == family).take(count);
    own.map(|case| case["problem"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn a_vote_that_stops_when_it_is_sure_answers_as_all_32_do_for_at_most_three_fifths() {
    let server = serve().await;
    let (mut spent, mut others) = ([0, 0], Vec::new());
    for problem in [problems("story", 6), problems("expr", 6)].concat() {
        let mut answers = Vec::new();
        for (sum, stop) in spent.iter_mut().zip(["fixed", "posterior"]) {
            let body = server
                .chat(json!({
                    "messages": [{"role": "user", "content": problem}], "seed": 7, "temperature": 0.8,
                    "reasoning": {"mode": "self_consistency", "branches": 32, "stop": stop, "vote": "count",
                                  "budget": {"tokens": 32_768}},
                }))
                .await;
            let search = &body["search"];
            let made = search["branches"]["made"].as_u64().expect("a count");
            assert!(made <= 32 && (made == 32 || stop == "posterior"), "{problem}: {search}");
            *sum += body["usage"]["completion_tokens"].as_u64().expect("a count");
            let candidates = search["candidates"].as_array().expect("candidates");
            let selected = candidates.iter().find(|candidate| candidate["selected"] == true);
            let answer = selected.expect("one is selected")["answer"].clone();
            assert!(answer.is_string(), "{problem}: {search}");
            answers.push(answer);
        }
        if answers[0] != answers[1] {
            others.push(problem);
        }
    }
    // It is sure at 0.95, so one in twelve may be told otherwise.
    assert!(others.len() <= 1, "{others:?}");
    let [fixed, adaptive] = spent;
    assert!(5 * adaptive <= 3 * fixed, "{adaptive} tokens instead of {fixed}");
}
