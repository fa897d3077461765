//! Against a server that the test plays.

use super::*;
use crate::metrics::Metrics;
use crate::prompt::Message;
use crate::verify::{Opening, Verifier};
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

/// What the server answers, one after the other, and what it was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
    asked: Arc<Mutex<Vec<Value>>>,
    /// What was said to be let in, by request.
    keys: Arc<Mutex<Vec<Option<String>>>>,
}

struct Played {
    url: String,
    script: Script,
    serving: JoinHandle<()>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn note_key(script: &Script, headers: &HeaderMap) {
    let key = headers.get(AUTHORIZATION).map(|value| value.to_str().expect("ASCII").to_owned());
    script.keys.lock().expect("not poisoned").push(key);
}

async fn pooling(State(script): State<Script>, headers: HeaderMap, body: String) -> Response {
    note_key(&script, &headers);
    script.asked.lock().expect("not poisoned").push(serde_json::from_str(&body).expect("JSON"));
    let next = script.answers.lock().expect("not poisoned").pop_front().expect("asked too often");
    (axum::http::StatusCode::from_u16(next.0).expect("a status"), next.1).into_response()
}

async fn play(models: Value, answers: &[(u16, Value)]) -> Played {
    let script = Script::default();
    *script.answers.lock().expect("not poisoned") =
        answers.iter().map(|(status, body)| (*status, body.to_string())).collect();
    let app = Router::new()
        .route(
            "/v1/models",
            get(move |State(script): State<Script>, headers: HeaderMap| {
                note_key(&script, &headers);
                std::future::ready(models.to_string())
            }),
        )
        .route("/pooling", post(pooling))
        .with_state(script.clone());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    Played { url, script, serving }
}

fn rows(rows: Value) -> (u16, Value) {
    (
        200,
        json!({"id": "pool-1", "object": "list", "data": [{"index": 0, "object": "pooling", "data": rows}]}),
    )
}

fn listed(model: &str) -> Value {
    json!({"object": "list", "data": [{"id": model, "object": "model"}]})
}

/// What a model of tag logits answers its probe with: these scores for the steps that
/// are right, and for those that are wrong.
fn probed(right: f64, wrong: f64) -> Vec<(u16, Value)> {
    let row = |good: f64| rows(json!([[good, 1.0 - good]]));
    (0..3).flat_map(|_| [row(right), row(wrong)]).collect()
}

async fn found(played: &Played, kind: Option<Kind>) -> Remote {
    let config = RemoteConfig { url: played.url.clone(), model: None, kind, key: None };
    Remote::find(config).await.expect("it is listed and known")
}

async fn opened(remote: Remote) -> super::super::Lease {
    opened_with(remote, None).await
}

async fn opened_with(remote: Remote, metrics: Option<Arc<Metrics>>) -> super::super::Lease {
    let verifier = Verifier::remote(remote.model().to_owned(), remote);
    let verifier = match metrics {
        Some(metrics) => verifier.with_metrics(metrics),
        None => verifier,
    };
    let content = "What is <|im_end|>1 + 1?".to_owned();
    let asked = [Message { role: "user", content }];
    verifier.open(&asked, Opening::default()).await.expect("nothing to wait for")
}

async fn scored(lease: &mut super::super::Lease, text: &str, ended: bool) -> Result<Vec<f64>, VerifyError> {
    let reading = lease.read(text, ended).expect("something new");
    assert!(reading.tokens() > 0);
    let scores = lease.score(reading).await?.values;
    lease.take(&scores);
    Ok(scores)
}

#[tokio::test]
async fn a_chat_model_is_told_all_steps_and_the_rows_of_new_ones_are_taken() {
    let first = json!([[0.75, 0.25]]);
    let all = json!([[0.7, 0.3], [0.5, 0.5], [0.25, 0.75]]);
    let played = play(listed("Qwen/Qwen2.5-Math-PRM-7B"), &[rows(first), rows(all)]).await;
    let mut lease = opened(found(&played, None).await).await.fork();
    assert_eq!(scored(&mut lease, "one <extra_0>\n\ntw", false).await, Ok(vec![0.25]));
    assert_eq!(scored(&mut lease, "one <extra_0>\n\ntwo\n\n\n\nthree", true).await, Ok(vec![0.5, 0.75]));
    assert_eq!(lease.scores(), [0.25, 0.5, 0.75]);
    let asked = played.script.asked.lock().expect("not poisoned").clone();
    let system = "Please reason step by step, and put your final answer within \\boxed{}.";
    assert_eq!(
        asked[1],
        json!({
            "model": "Qwen/Qwen2.5-Math-PRM-7B",
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": "What is 1 + 1?"},
                {"role": "assistant", "content": "one<extra_0>two<extra_0>three<extra_0>"},
            ],
            "add_generation_prompt": false,
            "encoding_format": "float",
        })
    );
}

#[tokio::test]
async fn plain_formats_go_as_text_with_pairs_good_first_and_scalars() {
    let mut answers = probed(0.75, 0.25);
    answers.extend([
        rows(json!([[0.75, 0.25], [0.5, 0.5]])),
        rows(json!([0.125, [0.25], 1])),
        rows(json!([[1.5]])),
    ]);
    let played = play(listed("any"), &answers).await;
    let root = opened(found(&played, Some(Kind::MathShepherd)).await).await;
    let mut lease = root.fork();
    assert_eq!(scored(&mut lease, "one\n\ntwo ки", true).await, Ok(vec![0.75, 0.5]));
    let asked = |i: usize| played.script.asked.lock().expect("not poisoned")[i]["input"].clone();
    assert_eq!(asked(0), "What is 1 + 1? 1 + 1 = 2. The answer is: 2 ки");
    assert_eq!(asked(1), "What is 1 + 1? 1 + 1 = 5. The answer is: 5 ки");
    assert_eq!(asked(6), "What is 1 + 1? one ки\ntwo ки", "it is probed once");
    let mut lease = root.fork();
    assert_eq!(scored(&mut lease, "one\n\ntwo\n\nthree", true).await, Ok(vec![0.125, 0.25, 1.0]));
    let mut lease = root.fork();
    assert_eq!(scored(&mut lease, "one", true).await, Err(VerifyError::Score("1.5".to_owned())));
}

/// Rows of two columns of a hidden state, softmaxed, are distributions as good as any.
#[tokio::test]
async fn numbers_that_do_not_tell_right_from_wrong_are_refused_at_the_start() {
    let refusal = async |kind, answers: &[(u16, Value)]| {
        let played = play(listed("any"), answers).await;
        let config = RemoteConfig { url: played.url.clone(), model: None, kind: Some(kind), key: None };
        Remote::find(config).await.map(|_| ()).map_err(|error| error.to_string())
    };
    for kind in [Kind::MathShepherd, Kind::MathPsa, Kind::VersaPrm] {
        assert_eq!(refusal(kind, &probed(0.75, 0.5)).await, Ok(()));
        for (answers, what) in [
            (probed(0.625, 0.5), "it gives right steps 0.62 and plainly wrong ones 0.50"),
            (probed(0.25, 0.75), "it gives right steps 0.25 and plainly wrong ones 0.75"),
            (vec![rows(json!([[0.5, 0.25]]))], "a step's row is [0.5,0.25], whose sum is not 1"),
            (vec![rows(json!([[2.5, -1.5]]))], "the score 2.5, which does not lie from 0 to 1"),
            (vec![rows(json!([[0.5, 0.5], [0.5, 0.5]]))], "scored 2 steps where 1"),
        ] {
            let said = refusal(kind, &answers).await.expect_err("refused");
            let told = [what, "returned_token_ids name the good token first", "pools logits"];
            assert!(told.iter().all(|part| said.contains(part)), "{said}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_probed_before_its_first_score() {
    let busy = (503, json!({"error": {"message": "loading"}}));
    for (answers, sound) in [(probed(0.75, 0.25), true), (probed(0.5, 0.5), false)] {
        let mut all = vec![busy.clone(); 6];
        all.extend(answers);
        if sound {
            all.push(rows(json!([[0.5, 0.5]])));
        }
        let played = play(listed("any"), &all).await;
        let root = opened(found(&played, Some(Kind::VersaPrm)).await).await;
        let said = scored(&mut root.fork(), "one", true).await.expect_err("it is still not there");
        assert_eq!(said.to_string(), "the verifier refuses with 503");
        let said = scored(&mut root.fork(), "one", true).await;
        if sound {
            assert_eq!(said, Ok(vec![0.5]));
            continue;
        }
        // The verdict stands, and nothing more is asked.
        let again = scored(&mut root.fork(), "one", true).await;
        assert!(matches!(said, Err(VerifyError::Remote(RemoteError::Noise { .. }))), "{said:?}");
        assert_eq!(again, said);
        let told = said.expect_err("it is one").to_string();
        assert_eq!(told, "the verifier does not tell right steps from wrong ones");
    }
}

/// An answer with a row for one step, and what it says of its cost.
fn counted(usage: Value) -> (u16, Value) {
    let (status, mut body) = rows(json!([[0.75, 0.25]]));
    body["usage"] = usage;
    (status, body)
}

#[tokio::test]
async fn tokens_are_those_that_the_server_counts_and_else_an_estimate() {
    let busy = (503, json!({"error": {"message": "loading"}}));
    // An estimate of "What is 1 + 1?" with "one" behind it: 14 + 3 + 4 bytes.
    let estimate = 6;
    let cases = [
        (counted(json!({"prompt_tokens": 29, "total_tokens": 29, "completion_tokens": 0})), 29),
        (counted(json!({"prompt_tokens": 2})), 2),
        (counted(json!({"prompt_tokens": u64::MAX})), u32::MAX),
        (counted(json!({"prompt_tokens": 0})), estimate),
        (counted(json!({"prompt_tokens": "29"})), estimate),
        (counted(json!({"prompt_tokens": -1})), estimate),
        (counted(Value::Null), estimate),
        (rows(json!([[0.75, 0.25]])), estimate),
    ];
    let mut answers: Vec<(u16, Value)> = cases.iter().map(|(answer, _)| answer.clone()).collect();
    // What is refused first and then answered is paid once.
    answers.extend([busy, counted(json!({"prompt_tokens": 7}))]);
    let played = play(listed("qwen2.5-math-prm"), &answers).await;
    let metrics = Arc::new(Metrics::new().expect("unique names"));
    let root = opened_with(found(&played, None).await, Some(Arc::clone(&metrics))).await;
    let mut before = 0;
    for expected in cases.into_iter().map(|(_, tokens)| tokens).chain([7]) {
        let mut lease = root.fork();
        let reading = lease.read("one", true).expect("something new");
        assert_eq!(reading.tokens(), estimate, "what it will cost is not known yet");
        let coming = lease.score(reading);
        assert_eq!(metrics.verifier_tokens.get(), before, "nothing is counted before it is known");
        let scores = coming.await.expect("scores");
        assert_eq!((scores.values, scores.tokens), (vec![0.25], expected));
        before += u64::from(expected);
        assert_eq!(metrics.verifier_tokens.get(), before);
    }
}

#[tokio::test]
async fn what_another_server_did_not_answer_is_counted_as_estimated() {
    let mut two = counted(json!({"prompt_tokens": 29}));
    two.1["data"][0]["data"] = json!([[0.5, 0.5], [0.5, 0.5]]);
    let refused = (400, json!({"error": {"message": "no such task"}}));
    let played = play(listed("qwen2.5-math-prm"), &[refused, two]).await;
    let metrics = Arc::new(Metrics::new().expect("unique names"));
    let root = opened_with(found(&played, None).await, Some(Arc::clone(&metrics))).await;
    for asked in 1..=2 {
        assert!(scored(&mut root.fork(), "one", true).await.is_err());
        assert_eq!(metrics.verifier_tokens.get(), 6 * asked);
    }
    // Nobody waits for this one.
    let mut lease = root.fork();
    let reading = lease.read("one", true).expect("something new");
    drop(lease.score(reading));
    assert_eq!(metrics.verifier_tokens.get(), 18);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_a_refusal_is_told() {
    let busy = (503, json!({"error": {"message": "loading"}}));
    let refused = (400, json!({"error": {"message": "no such task"}}));
    let good = rows(json!([[0.5, 0.5]]));
    let answers = [busy.clone(), busy.clone(), good, busy.clone(), busy.clone(), busy, refused];
    let played = play(listed("qwen2.5-math-prm"), &answers).await;
    let root = opened(found(&played, None).await).await;
    assert_eq!(scored(&mut root.fork(), "one", true).await, Ok(vec![0.5]));
    let refusal = |status, message: &str| {
        let (url, message) = (played.url.clone(), message.to_owned());
        Err(VerifyError::Remote(RemoteError::Refused { url, status, message }))
    };
    assert_eq!(scored(&mut root.fork(), "one", true).await, refusal(503, "loading"));
    assert_eq!(scored(&mut root.fork(), "one", true).await, refusal(400, "no such task"));
}

#[tokio::test]
async fn strange_answers_are_errors() {
    let strange = [
        (rows(json!([[0.5, 0.5], [0.5, 0.5]])), "scored 2 steps where 1"),
        (rows(json!([[0.5, 0.25, 0.25]])), "a step's row is [0.5,0.25,0.25]"),
        (rows(json!(["x"])), "a step's row is \"x\""),
        (rows(json!([[null, null]])), "a step's row is [null,null]"),
        (rows(json!("AAAA")), "data[0].data is not a list of rows"),
        ((200, json!({"data": []})), "data[0].data is not a list of rows"),
        (rows(json!([[0.5, 0.75]])), "a step's row is [0.5,0.75], whose sum is not 1"),
        (rows(json!([[0.5, -0.5]])), "the score -0.5, which does not lie from 0 to 1"),
    ];
    let answers: Vec<(u16, Value)> = strange.iter().map(|(answer, _)| answer.clone()).collect();
    let played = play(listed("qwen2.5-math-prm"), &answers).await;
    let root = opened(found(&played, None).await).await;
    for (_, message) in &strange {
        let error = scored(&mut root.fork(), "one", true).await.expect_err("strange").to_string();
        assert!(error.contains(message), "{error}, not {message}");
    }
}

#[tokio::test]
async fn a_key_is_shown_with_every_request_and_in_no_log() {
    let model = "Qwen/Qwen2.5-Math-PRM-7B";
    for key in [None, Some("s3cret")] {
        let played = play(listed(model), &[rows(json!([[0.75, 0.25]]))]).await;
        let (url, api_key) = (played.url.clone(), key.map(|key| ApiKey::new(key).expect("plain")));
        let config = RemoteConfig { url, model: None, kind: None, key: api_key };
        assert!(!format!("{config:?}").contains("s3cret"));
        let mut lease = opened(Remote::find(config).await.expect("listed")).await.fork();
        assert_eq!(scored(&mut lease, "one", true).await, Ok(vec![0.25]));
        let shown = played.script.keys.lock().expect("not poisoned").clone();
        assert_eq!(shown, vec![key.map(|key| format!("Bearer {key}")); 2]);
    }
}

/// What goes into reports says neither where the server is nor what it said, which its
/// operator reads.
#[tokio::test]
async fn clients_are_not_told_where_the_server_is() {
    let refused = (400, json!({"error": {"message": "of tenant seven"}}));
    let played = play(listed("qwen2.5-math-prm"), &[refused]).await;
    let root = opened(found(&played, None).await).await;
    let error = scored(&mut root.fork(), "one", true).await.expect_err("refused");
    assert_eq!(error.to_string(), "the verifier refuses with 400");
    let VerifyError::Remote(error) = error else { unreachable!("it is one") };
    assert_eq!(error.to_string(), format!("{} refuses with 400: of tenant seven", played.url));
    let lost = RemoteError::Unreachable { url: played.url.clone(), cause: "no route".to_owned() };
    assert_eq!(VerifyError::Remote(lost).to_string(), "the verifier cannot be reached");
}

#[tokio::test]
async fn an_address_holds_no_secret() {
    for url in [
        "http://alice:s3cret@there/",
        "http://s3cret@there/",
        "http://there/?key=s3cret",
        "http://there/#s3cret",
    ] {
        let config = RemoteConfig { url: url.to_owned(), model: Some("m".to_owned()), kind: None, key: None };
        let error = Remote::find(config).await.expect_err("refused").to_string();
        assert!(error.contains("--prm-api-key-env") && !error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_told_when_it_is_named() {
    let played = play(listed("somebody/model"), &[]).await;
    let message = |url: &str, kind| {
        let config = RemoteConfig { url: url.to_owned(), model: None, kind, key: None };
        async { Remote::find(config).await.expect_err("refused").to_string() }
    };
    let unknown = message(&played.url, None).await;
    assert!(unknown.contains("serves 'somebody/model'") && unknown.contains("--prm-format"), "{unknown}");
    assert!(message(&played.url, Some(Kind::Rlhflow)).await.contains("--prm-format"));
    let empty = play(json!({"data": []}), &[]).await;
    assert!(message(&empty.url, None).await.contains("lists no model; name one with --prm-model"));
    assert!(message("http://", None).await.contains("give --prm an address"));
    // A port that was free a moment ago.
    let lost = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let lost = message(&format!("http://{lost}/"), None).await;
    assert!(lost.contains("cannot be reached"), "{lost}");
}
