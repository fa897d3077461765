//! Servers on ports of their own, and plain ways to talk to them.
//!
//! The clients here know nothing of the server's types: what they assert is
//! what any other client would see.

use espalier::app::{self, Hub, Server};
use espalier::config::{EngineArgs, Environment, ModelConfig, ServeArgs};
use espalier::engine::scripted::{Script, ScriptedEngine};
use espalier::engine::{Caps, EngineError, EngineThread, Handle, Sampling};
use espalier::http::{self, AppState, ModelCard};
use espalier::metrics::Metrics;
use espalier::plan::{Planner, PlannerParts, Verifiers};
use espalier::prompt::{ChatTemplate, Tokenizer};
use espalier::search::run::Runner;
use espalier::verify::Verifier;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const JSON: &str = "application/json";

/// The longest body that servers of these tests read.
pub(crate) const BODY_LIMIT: usize = 1 << 20;

/// The example.
pub(crate) const PROBLEM: &str =
    "Mina has 14 apples. Tom gives Mina 35. Then the number doubles. How many apples does Mina have now?";

/// A problem that the bundled model solves in many different ways.
pub(crate) const PUZZLE: &str =
    "Use each of the numbers 20, 3, 7, 5 exactly once with +, -, * and / to make 19.";

/// How long tests wait for what should come at once. Only a failure waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs until it is dropped.
pub(crate) struct Served {
    /// Where it listens.
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    client: reqwest::Client,
    serving: JoinHandle<()>,
    // Last: threads are joined after the server has been told to go.
    _threads: Vec<EngineThread>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The bundled model, as `espalier serve` serves it.
pub(crate) async fn serve() -> Served {
    serve_model("seedling").await
}

/// A bundled model or a directory, as `espalier serve --model` serves it.
pub(crate) async fn serve_model(model: &str) -> Served {
    serve_with(ServeArgs { engine: engine(model), ..ServeArgs::default() }).await
}

/// A small engine for a bundled model or a directory.
pub(crate) fn engine(model: &str) -> EngineArgs {
    EngineArgs {
        model: model.into(),
        kv_mib: NonZeroUsize::new(256).expect("not zero"),
        threads: NonZeroUsize::new(2),
        ..EngineArgs::default()
    }
}

/// What `espalier serve` serves with these arguments, on a free port.
pub(crate) async fn serve_with(args: ServeArgs) -> Served {
    let args = ServeArgs { port: 0, body_limit: BODY_LIMIT, ..args };
    let hub = Hub::new(&Environment::default());
    let server = Server::bind(&args, &hub).await.expect("the model is served");
    let (url, metrics) = (server.url(), server.metrics());
    let serving = tokio::spawn(async move { server.serve(std::future::pending()).await.expect("serves") });
    served(url, metrics, serving, Vec::new())
}

/// The bundled model's prompts and efforts over an engine that follows a script.
pub(crate) async fn serve_scripted(script: Script) -> Served {
    serve_scripted_with(script, ServeArgs::default()).await
}

/// The same with limits of its own.
pub(crate) async fn serve_scripted_with(script: Script, args: ServeArgs) -> Served {
    let metrics = Arc::new(Metrics::new().expect("unique names"));
    let loaded = app::load("seedling").expect("bundled");
    let (thread, handle) = EngineThread::spawn(ScriptedEngine::new(script)).expect("a thread");
    let parts = (loaded.config, loaded.template, Arc::new(loaded.tokenizer));
    serve_limited((handle, None), parts, metrics, (vec![thread], args)).await
}

type Engines = (Handle, Option<Verifier>);
type Parts = (ModelConfig, ChatTemplate, Arc<Tokenizer>);

/// Engines behind the HTTP surface, with a model's settings, template and tokenizer.
pub(crate) async fn serve_engines(
    engines: Engines,
    parts: Parts,
    metrics: Arc<Metrics>,
    threads: Vec<EngineThread>,
) -> Served {
    serve_limited(engines, parts, metrics, (threads, ServeArgs::default())).await
}

async fn serve_limited(
    (handle, verifier): Engines,
    (config, template, tokenizer): Parts,
    metrics: Arc<Metrics>,
    (threads, args): (Vec<EngineThread>, ServeArgs),
) -> Served {
    let planner = Planner::new(PlannerParts {
        config: config.plan,
        prompt: config.prompt,
        template,
        tokenizer: Arc::clone(&tokenizer),
        caps: handle.caps().clone(),
        defaults: Sampling::default(),
        verifiers: Verifiers { prm: verifier.as_ref().map(Verifier::aggregate), judge: None },
    })
    .expect("the marker encodes");
    let context = handle.caps().context;
    let card = ModelCard {
        id: "seedling".to_owned(),
        aliases: Vec::new(),
        created: 0,
        owned_by: "tests".to_owned(),
        context,
    };
    let args = ServeArgs { body_limit: BODY_LIMIT, ..args };
    let state = AppState::new(app::http_config(&args), Arc::clone(&metrics));
    let runner = Runner::new(handle, verifier, Arc::clone(&metrics));
    state.install(http::Served { planner, runner, tokenizer, model: card });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(http::serve(listener, state));
    served(url, metrics, serving, threads)
}

fn served(url: String, metrics: Arc<Metrics>, serving: JoinHandle<()>, threads: Vec<EngineThread>) -> Served {
    // Whatever proxy the environment names, it cannot reach this machine.
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let address = url.trim_start_matches("http://").parse().expect("an address");
    Served { url, address, metrics, client, serving, _threads: threads }
}

/// What a script's engine is doing, seen from outside.
#[derive(Clone, Default)]
pub(crate) struct Pace {
    /// Branches alive, roots included.
    pub(crate) live: Arc<AtomicUsize>,
    /// Steps begun.
    pub(crate) steps: Arc<AtomicU64>,
}

impl Pace {
    /// A script that steps at this pace; `before_step` may be slow or fail.
    pub(crate) fn script(
        &self,
        says: impl Fn(u64) -> Vec<String> + Send + 'static,
        mut before_step: impl FnMut(u64) -> Result<(), EngineError> + Send + 'static,
    ) -> Script {
        let steps = Arc::clone(&self.steps);
        Script {
            caps: Caps { context: 1 << 16, vocab: 640, eos: vec![2], block: 16, pool_blocks: 1 << 20 },
            says: Box::new(says),
            before_step: Box::new(move |step| {
                steps.store(step, Ordering::SeqCst);
                before_step(step)
            }),
            live: Arc::clone(&self.live),
        }
    }
}

/// A whole answer and the way to it, in tokens of a word each.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// A text that does not come to its end in any test.
pub(crate) fn endless() -> Vec<String> {
    vec!["and ".to_owned(); 1 << 15]
}

/// A usage without what depends on who has asked before.
pub(crate) fn beside_cache(usage: &Value) -> Value {
    let mut usage = usage.clone();
    let details = usage["prompt_tokens_details"].as_object_mut().expect("details");
    assert!(details.shift_remove("cached_tokens").is_some_and(|cached| cached.is_u64()));
    usage
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The value of a header, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The error, once it was checked to be an envelope with all four keys and
    /// nothing else.
    pub(crate) fn error(&self) -> Map<String, Value> {
        assert!(self.header("content-type").is_some_and(|kind| kind.starts_with(JSON)), "{self:?}");
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no envelope: {}", self.text));
        assert_eq!(body.as_object().map(Map::len), Some(1), "{}", self.text);
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{}", self.text);
        assert!(error["type"].is_string(), "{}", self.text);
        assert!(error["param"].is_string() || error["param"].is_null(), "{}", self.text);
        assert!(error["code"].is_string() || error["code"].is_null(), "{}", self.text);
        error.clone()
    }
}

/// A request body: the example, with `fields` put over it.
pub(crate) fn body(fields: Value) -> Value {
    let mut body = json!({
        "model": "seedling",
        "messages": [{"role": "user", "content": PROBLEM}],
        "seed": 1,
    });
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    for (key, value) in fields {
        body[key] = value;
    }
    body
}

impl Served {
    /// One exchange.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Reply {
        let method = method.parse().expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        let request = match content_type {
            Some(kind) => request.header("content-type", kind),
            None => request,
        };
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Reply { status, headers, text: response.text().await.expect("a body") }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None, "").await
    }

    /// A chat request, whatever comes of it.
    pub(crate) async fn post(&self, fields: Value) -> Reply {
        self.send("POST", CHAT, Some(JSON), body(fields).to_string()).await
    }

    /// A chat request that is answered.
    pub(crate) async fn chat(&self, fields: Value) -> Value {
        let reply = self.post(fields).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    }

    /// The chunks of a streamed chat request. The frames are `data:` lines with
    /// an empty line after each, and the last is the terminator.
    pub(crate) async fn stream(&self, mut fields: Value) -> Vec<Value> {
        fields["stream"] = json!(true);
        let mut frames = frames(&self.post(fields).await);
        assert_eq!(frames.pop().as_deref(), Some("[DONE]"));
        frames.iter().map(|frame| serde_json::from_str(frame).expect("JSON")).collect()
    }

    /// A series of `/metrics`, summed over its labels.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        counter(&self.get("/metrics").await.text, name)
    }

    /// Waits until the engine holds nothing any more.
    pub(crate) async fn idle(&self) {
        let started = Instant::now();
        loop {
            let text = self.get("/metrics").await.text;
            let held = ["espalier_engine", "espalier_verifier_engine"].map(|engine| {
                ["branches", "kv_blocks_used"].map(|name| counter(&text, &format!("{engine}_{name}")))
            });
            if held == [[0, 0], [0, 0]] {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "branches and blocks left behind: {held:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A connection on which the whole request was sent and nothing was read.
    pub(crate) async fn raw(&self, request: &str) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let mut left = request.as_bytes();
        while !left.is_empty() {
            stream.writable().await.expect("writable");
            match stream.try_write(left) {
                Ok(n) => left = &left[n..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        stream
    }

    /// The bytes of a chat request.
    pub(crate) fn raw_chat(&self, fields: Value) -> String {
        let body = body(fields).to_string();
        let (address, length) = (self.address, body.len());
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {JSON}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }
}

/// The data of a stream's frames, once its shape was checked.
pub(crate) fn frames(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let text = reply.text.strip_suffix("\n\n").expect("the last frame is whole");
    let data = |frame: &str| {
        let data = frame.strip_prefix("data: ").unwrap_or_else(|| panic!("no data frame: {frame:?}"));
        assert!(!data.contains('\n'), "a frame is one line: {data:?}");
        data.to_owned()
    };
    text.split("\n\n").filter(|frame| !frame.starts_with(':')).map(data).collect()
}

/// A series in Prometheus' text format, summed over its labels.
pub(crate) fn counter(text: &str, name: &str) -> u64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let labelled = rest.starts_with('{') || rest.starts_with(' ');
        rest.rsplit_once(' ').filter(|_| labelled).map(|(_, value)| value.parse::<u64>().expect("a count"))
    };
    assert!(text.contains(&format!("# TYPE {name} ")) || !text.is_empty(), "no series {name}");
    text.lines().filter_map(value).sum()
}

/// What was streamed for one choice: (content, reasoning).
pub(crate) fn joined(chunks: &[Value], index: u64) -> (String, String) {
    let (mut content, mut reasoning) = (String::new(), String::new());
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices")) {
        if choice["index"] == index {
            let delta = &choice["delta"];
            assert_eq!(delta["reasoning"], delta["reasoning_content"], "both names say the same");
            content.push_str(delta["content"].as_str().unwrap_or_default());
            reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        }
    }
    (content, reasoning)
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Positions that an engine computes behind a prompt for a tree of branches: (its
/// number, its parent's, its own tokens). That is every token but the last of a
/// branch from which nothing goes on, since nobody asks for what comes behind it. A
/// branch is computed to its end before another is forked from it; where all such
/// forks were called off before they said anything, it may have been or not, so
/// there are two bounds, which are equal for any other tree.
pub(crate) fn positions(tree: &[(u64, u64, u64)]) -> RangeInclusive<u64> {
    let (mut least, mut open) = (0, 0);
    for &(id, _, tokens) in tree.iter().filter(|(_, _, tokens)| *tokens > 0) {
        let mut forks = tree.iter().filter(|(_, parent, _)| *parent == id).peekable();
        let any = forks.peek().is_some();
        let spoken = forks.any(|(_, _, tokens)| *tokens > 0);
        least += tokens - u64::from(!spoken);
        open += u64::from(any && !spoken);
    }
    least..=least + open
}

/// A report's tree as [`positions`] has it.
pub(crate) fn branches(tree: &Value) -> Vec<(u64, u64, u64)> {
    let number = |node: &Value, key: &str| node[key].as_u64().unwrap_or_else(|| panic!("{key} of {node}"));
    let tree = tree.as_array().expect("a tree");
    tree.iter().map(|node| (number(node, "id"), number(node, "parent"), number(node, "tokens"))).collect()
}
