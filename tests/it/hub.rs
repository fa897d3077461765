//! Models of the Hugging Face hub: a small server plays the hub, the real client
//! downloads from it into a cache of the test's own, and the real binary serves.

use crate::binary::{Binary, Ended};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const MAIN: &str = "1111111111111111111111111111111111111111";
const TAGGED: &str = "2222222222222222222222222222222222222222";
const WEIGHTS: &str = "model.safetensors";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-gqa")
}

/// What the played hub does.
#[derive(Default)]
struct Script {
    files: BTreeMap<String, Vec<u8>>,
    /// Those of `org/base`.
    base: BTreeMap<String, Vec<u8>>,
    /// A status for every request.
    status: Option<u16>,
    /// Answers with weights that break off in the middle, before it is whole.
    cuts: usize,
    /// Bodies of API answers, where they are not a hub's.
    nonsense: bool,
}

/// A hub on a port of its own. Its threads end with the test process.
struct PlayedHub {
    url: String,
    script: Arc<Mutex<Script>>,
    /// Requests so far: path, range and token.
    seen: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Debug, Clone)]
struct Asked {
    path: String,
    range: Option<(usize, usize)>,
    token: Option<String>,
}

impl PlayedHub {
    /// A hub with one model, `org/tiny`, and files that nobody needs.
    fn new() -> Self {
        let mut files = BTreeMap::new();
        for file in
            ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", WEIGHTS]
        {
            files.insert(file.to_owned(), fs::read(fixture().join(file)).expect("a fixture"));
        }
        files.insert("README.md".to_owned(), b"# Tiny".to_vec());
        files.insert("pytorch_model.bin".to_owned(), vec![0; 1000]);
        Self::with(Script { files, ..Script::default() })
    }

    fn with(script: Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let hub = Self { url, script: Arc::new(Mutex::new(script)), seen: Arc::default() };
        let (script, seen) = (Arc::clone(&hub.script), Arc::clone(&hub.seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that leaves in the middle is what some tests want.
                drop(answer(stream, &script, &seen));
            }
        });
        hub
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().expect("no panic"));
    }

    fn seen(&self) -> Vec<Asked> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Files whose bytes were asked for, not only their sizes.
    fn fetched(&self) -> Vec<String> {
        let name = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
        self.places().into_iter().map(name).collect()
    }

    /// The same with model and folder: `tiny/folder/file` for one of `org/tiny`.
    fn places(&self) -> Vec<String> {
        let bytes = |asked: &Asked| asked.range.is_some_and(|(_, last)| last > 0);
        let place = |asked: Asked| {
            let (model, rest) = asked.path.strip_prefix("/org/")?.split_once("/resolve/")?;
            Some(format!("{model}/{}", rest.split_once('/')?.1))
        };
        self.seen().into_iter().filter(bytes).filter_map(place).collect()
    }
}

fn answer(stream: TcpStream, script: &Mutex<Script>, seen: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut asked = Asked { path: path.clone(), range: None, token: None };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "authorization" => asked.token = Some(value.to_owned()),
            "range" => {
                let (first, last) = value.trim_start_matches("bytes=").split_once('-').expect("a range");
                asked.range = Some((first.parse().expect("a number"), last.parse().expect("a number")));
            }
            _ => {}
        }
    }
    seen.lock().expect("no panic").push(asked.clone());
    let mut script = script.lock().expect("no panic");
    let mut out = stream;
    let mut plain = |status: &str, body: &str| {
        let length = body.len();
        write!(out, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    if let Some(status) = script.status {
        return plain(&format!("{status} No"), "{}");
    }
    let revision = |name: &str| match name {
        "main" | MAIN => Some(MAIN),
        "v2" | "refs%2Fpr%2F1" | TAGGED => Some(TAGGED),
        _ => None,
    };
    let of_base = path.contains("org/base/");
    let path = path.replace("org/base/", "org/tiny/");
    let files = if of_base { script.base.clone() } else { script.files.clone() };
    if let Some(name) = path.strip_prefix("/api/models/org/tiny/revision/") {
        let files: Vec<Value> = files.keys().map(|file| json!({"rfilename": file})).collect();
        return match revision(name) {
            Some(_) if script.nonsense => plain("200 OK", "<html>welcome</html>"),
            Some(sha) => plain("200 OK", &json!({"sha": sha, "siblings": files}).to_string()),
            None => plain("404 Not Found", "{}"),
        };
    }
    let file = path.strip_prefix("/org/tiny/resolve/").and_then(|rest| rest.split_once('/'));
    let Some((Some(sha), file)) = file.map(|(name, file)| (revision(name), file)) else {
        return plain("404 Not Found", "{}");
    };
    let Some(bytes) = files.get(file).cloned() else { return plain("404 Not Found", "{}") };
    let total = bytes.len();
    let (first, last) = asked.range.unwrap_or((0, total));
    let part = &bytes[first.min(total)..(last + 1).min(total)];
    let cut = file == WEIGHTS && last > 0 && script.cuts > 0;
    script.cuts -= usize::from(cut);
    // A cache names files by it, so it is one of no folder.
    let etag = file.replace('/', "-");
    write!(
        out,
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\nx-repo-commit: {sha}\r\netag: \"{sha}-{etag}\"\r\n\
         content-range: bytes {first}-{}/{total}\r\ncontent-length: {}\r\n\r\n",
        first + part.len().saturating_sub(1),
        part.len()
    )?;
    out.write_all(if cut { &part[..part.len() / 2] } else { part })
}

/// A user with a cache and a hub.
struct User<'a> {
    home: &'a Path,
    hub: &'a str,
    more: Vec<(&'a str, &'a str)>,
}

impl User<'_> {
    fn start(&self, arguments: &[&str]) -> Binary {
        self.start_in(Path::new("."), arguments)
    }

    fn start_in(&self, directory: &Path, arguments: &[&str]) -> Binary {
        let home = self.home.to_str().expect("UTF-8");
        let own = [("HF_HOME", home), ("HF_ENDPOINT", self.hub), ("NO_PROXY", "*")];
        let variables: Vec<(&str, &str)> = own.into_iter().chain(self.more.iter().copied()).collect();
        let serve = ["serve", "--port", "0", "--kv-mib", "16", "--model", "org/tiny"];
        let arguments: Vec<&str> = serve.iter().chain(arguments).copied().collect();
        Binary::start_in(directory, &arguments, &variables)
    }

    /// What it says on being refused: one line, behind log lines.
    fn refused(&self, arguments: &[&str]) -> String {
        let Ended { code, out, err } = self.start(arguments).end();
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("espalier: ") && !err.contains("panicked"), "{err}");
        last.to_owned()
    }

    fn snapshot(&self, sha: &str) -> PathBuf {
        self.model().join("snapshots").join(sha)
    }

    fn model(&self) -> PathBuf {
        self.home.join("hub/models--org--tiny")
    }
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn models(url: &str) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(format!("{url}/v1/models")).send().await.expect("answers");
    answer.json().await.expect("JSON")
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[tokio::test]
async fn a_model_is_downloaded_once_and_then_served_without_the_hub() {
    let (hub, home) = (PlayedHub::new(), home());
    let user = User { home: home.path(), hub: &hub.url, more: vec![("HF_TOKEN", "hf_x")] };
    let mut server = user.start(&[]);
    let url = server.url();
    assert_eq!(models(&url).await["data"][0]["id"], "org/tiny");
    let log = server.kill();
    says(&log, &["downloading", "org/tiny", WEIGHTS, "percent=100", "downloaded"]);
    assert!(!log.contains("hf_x"), "the token is in the log: {log}");

    let mut fetched = hub.fetched();
    fetched.sort();
    let needed =
        ["config.json", "generation_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(fetched, needed, "what nobody needs is not fetched");
    assert!(hub.seen().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_x")), "{:?}", hub.seen());
    assert_eq!(fs::read_to_string(user.model().join("refs/main")).expect("a reference"), MAIN);
    let weights = |directory: PathBuf| fs::read(directory.join(WEIGHTS)).expect("weights");
    assert_eq!(weights(user.snapshot(MAIN)), weights(fixture()));

    let asked = hub.seen().len();
    for offline in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "UNRELATED"] {
        let user = User { home: home.path(), hub: &hub.url, more: vec![(offline, "1")] };
        let mut server = user.start(&[]);
        assert_eq!(models(&server.url()).await["data"][0]["id"], "org/tiny");
    }
    assert_eq!(hub.seen().len(), asked, "what is in the cache needs no hub");
    // The cache may be named by itself, too.
    let cache = home.path().join("hub");
    let more = vec![("HF_HUB_CACHE", cache.to_str().expect("UTF-8")), ("HF_HUB_OFFLINE", "1")];
    let elsewhere = self::home();
    User { home: elsewhere.path(), hub: &hub.url, more }.start(&[]).url();
}

#[test]
fn refusals_of_the_hub_say_what_to_do() {
    let (hub, home) = (PlayedHub::new(), home());
    let with = |more: Vec<(&'static str, &'static str)>| User { home: home.path(), hub: &hub.url, more };
    let user = with(vec![]);
    says(
        &user.refused(&["--revision", "v9"]),
        &["no model 'org/tiny'", "revision 'v9'", "404", "--revision"],
    );
    hub.set(|script| script.status = Some(404));
    says(&user.refused(&[]), &[&hub.url, "no model 'org/tiny'", "404", "--model"]);
    hub.set(|script| script.status = Some(401));
    says(&user.refused(&[]), &["refuses 'org/tiny' (401)", "gated", "HF_TOKEN", "none was given"]);
    says(&with(vec![("HF_TOKEN", "hf_x")]).refused(&[]), &["HF_TOKEN", "the present one has no access"]);
    fs::write(home.path().join("token"), "hf_filed\n").expect("written");
    says(&user.refused(&[]), &["the present one has no access"]);
    assert_eq!(hub.seen().last().and_then(|asked| asked.token.clone()).as_deref(), Some("Bearer hf_filed"));
    hub.set(|script| script.status = Some(403));
    says(&user.refused(&[]), &["refuses 'org/tiny' (403)", "HF_TOKEN"]);
    hub.set(|script| script.status = Some(500));
    says(&user.refused(&[]), &["cannot download 'org/tiny'", "500", "try again"]);
    hub.set(|script| (script.status, script.nonsense) = (None, true));
    says(&user.refused(&[]), &["cannot download 'org/tiny'", &hub.url]);

    let seen = hub.seen().len();
    let offline = with(vec![("HF_HUB_OFFLINE", "TRUE")]);
    says(&offline.refused(&[]), &["'org/tiny' (revision main) is not in the cache", "HF_HUB_OFFLINE"]);
    says(&user.refused(&["--revision", "../../x"]), &["--revision is '../../x'"]);
    assert_eq!(hub.seen().len(), seen, "neither asks the hub");

    hub.set(|script| script.nonsense = false);
    let file = home.path().join("token");
    let user = User { home: &file, hub: &hub.url, more: vec![] };
    says(&user.refused(&[]), &["cannot write 'org/tiny' to the cache", "set HF_HOME"]);

    let gone = TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("an address");
    let url = format!("http://{gone}");
    let user = User { home: home.path(), hub: &url, more: vec![] };
    says(&user.refused(&[]), &["cannot download 'org/tiny'", &url, "refused", "try again"]);
}

#[test]
fn models_without_safetensors_are_refused_before_anything_is_fetched() {
    let (hub, home) = (PlayedHub::new(), home());
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    hub.set(|script| drop(script.files.remove(WEIGHTS)));
    says(&user.refused(&[]), &["'org/tiny' holds no weights in safetensors"]);
    hub.set(|script| drop(script.files.remove("tokenizer.json")));
    says(&user.refused(&[]), &["'org/tiny' holds no tokenizer.json"]);
    assert_eq!(hub.fetched(), Vec::<String>::new());
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_later() {
    let (hub, home) = (PlayedHub::new(), home());
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    hub.set(|script| script.cuts = usize::MAX);
    says(&user.refused(&[]), &["cannot download 'org/tiny'", "try again"]);
    assert!(!user.model().join("refs/main").exists(), "what is not whole has no reference");
    let before = hub.fetched();
    assert!(before.iter().filter(|file| *file == WEIGHTS).count() > 1, "it is tried more than once");
    // What has arrived is no model yet, offline or not.
    let offline = User { home: home.path(), hub: &hub.url, more: vec![("HF_HUB_OFFLINE", "1")] };
    says(&offline.refused(&[]), &["is not in the cache"]);

    hub.set(|script| script.cuts = 1);
    let mut server = user.start(&[]);
    assert_eq!(models(&server.url()).await["data"][0]["id"], "org/tiny");
    let after = hub.fetched().split_off(before.len());
    assert_eq!(after, [WEIGHTS, WEIGHTS], "only what was missing is fetched, once more after the cut");
    assert_eq!(
        fs::read(user.snapshot(MAIN).join(WEIGHTS)).expect("weights"),
        fs::read(fixture().join(WEIGHTS)).expect("weights")
    );
}

#[test]
fn a_revision_is_a_model_of_its_own() {
    let (hub, home) = (PlayedHub::new(), home());
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    for (revision, sha) in [("v2", TAGGED), ("refs/pr/1", TAGGED), (MAIN, MAIN)] {
        user.start(&["--revision", revision]).url();
        assert!(user.snapshot(sha).join(WEIGHTS).exists(), "{revision}");
        assert_eq!(fs::read_to_string(user.model().join("refs").join(revision)).expect("a reference"), sha);
    }
    // A commit needs no reference, and `main` was never asked for.
    fs::remove_dir_all(user.model().join("refs")).expect("removed");
    let offline = User { home: home.path(), hub: &hub.url, more: vec![("HF_HUB_OFFLINE", "1")] };
    offline.start(&["--revision", TAGGED]).url();
    says(&offline.refused(&[]), &["revision main"]);
}

#[test]
fn shards_come_with_their_index_and_count_only_together() {
    let (hub, home) = (PlayedHub::new(), home());
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    hub.set(|script| {
        let weights = script.files.remove(WEIGHTS).expect("there");
        script.files.insert(first.to_owned(), weights.clone());
        script.files.insert(second.to_owned(), weights);
        let index = json!({"weight_map": {"a": first, "b": second, "c": first}});
        script.files.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
    });
    // Whether it is served is the engine's affair; here it is whole or not.
    let downloaded = |binary: Binary| {
        drop(binary.end());
        user.model().join("refs/main").exists()
    };
    assert!(downloaded(user.start(&["--max-model-len", "999999"])));
    for file in [first, second, "model.safetensors.index.json"] {
        assert!(user.snapshot(MAIN).join(file).exists(), "{file}");
    }
    fs::remove_file(user.snapshot(MAIN).join(second)).expect("removed");
    let offline = User { home: home.path(), hub: &hub.url, more: vec![("HF_HUB_OFFLINE", "1")] };
    says(&offline.refused(&[]), &["is not in the cache"]);
    hub.set(|script| {
        let index = json!({"weight_map": {"a": "../../../evil.safetensors"}});
        script.files.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
    });
    let elsewhere = self::home();
    let user = User { home: elsewhere.path(), hub: &hub.url, more: vec![] };
    says(&user.refused(&[]), &["holds no weights in safetensors"]);
}

/// A safetensors file with tensors of zeros.
fn zeros(tensors: &[(&str, [usize; 2])]) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let from = end;
        end += 4 * shape[0] * shape[1];
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, end]});
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + end, 0);
    file
}

#[tokio::test]
async fn an_adapter_comes_with_its_base() {
    let (hub, home) = (PlayedHub::new(), home());
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    let shape = fs::read(fixture().join("config.json")).expect("a fixture");
    let shape: Value = serde_json::from_slice(&shape).expect("an object");
    let hidden = shape["hidden_size"].as_u64().expect("a number") as usize;
    let module = "base_model.model.model.layers.0.self_attn.o_proj";
    let (a, b) = (format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight"));
    let heads = shape["num_attention_heads"].as_u64().expect("a number") as usize;
    let dim = shape["head_dim"].as_u64().map_or(hidden / heads, |dim| dim as usize);
    let tensors = zeros(&[(&a, [2, heads * dim]), (&b, [hidden, 2])]);
    let config = |base: &str| {
        let config = json!({"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "lora_alpha": 4});
        config.to_string().into_bytes()
    };
    // As openreasoner/Math-psa has it, in a folder. A slash behind an id is no
    // part of it.
    hub.set(|script| {
        script.base = std::mem::take(&mut script.files);
        let pair = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];
        let mut own: BTreeMap<String, Vec<u8>> =
            pair.into_iter().map(|file| (file.to_owned(), script.base[file].clone())).collect();
        let tokens: Value = serde_json::from_slice(&own["tokenizer_config.json"]).expect("an object");
        let template = tokens["chat_template"].as_str().expect("a template");
        let prm = json!({"kind": "math_shepherd"}).to_string();
        for (file, text) in
            [("chat_template.jinja", template), ("espalier.toml", "# Tuned\n"), ("prm.json", prm.as_str())]
        {
            own.insert(file.to_owned(), text.as_bytes().to_vec());
            script.base.insert(file.to_owned(), text.as_bytes().to_vec());
        }
        own.insert("adapter_config.json".to_owned(), config("org/base/"));
        own.insert("adapter_model.safetensors".to_owned(), tensors.clone());
        own.insert("optimizer.pt".to_owned(), vec![0; 10]);
        script.files = own.into_iter().map(|(file, bytes)| (format!("checkpoint-9/{file}"), bytes)).collect();
        script.files.insert("README.md".to_owned(), b"# Tuned".to_vec());
    });
    let mut server = user.start(&[]);
    says(&server.summary(), &["org/tiny (Hugging Face, revision main; merged into org/base)"]);
    let log = server.kill();
    assert!(!log.contains("ignored") && !log.contains("its path may mean"), "{log}");
    let mut fetched = hub.places();
    fetched.sort();
    let needed = [
        "base/chat_template.jinja",
        "base/config.json",
        "base/espalier.toml",
        "base/generation_config.json",
        "base/model.safetensors",
        "base/prm.json",
        "base/tokenizer.json",
        "base/tokenizer_config.json",
        "tiny/checkpoint-9/adapter_config.json",
        "tiny/checkpoint-9/adapter_model.safetensors",
        "tiny/checkpoint-9/chat_template.jinja",
        "tiny/checkpoint-9/espalier.toml",
        "tiny/checkpoint-9/generation_config.json",
        "tiny/checkpoint-9/prm.json",
        "tiny/checkpoint-9/tokenizer.json",
        "tiny/checkpoint-9/tokenizer_config.json",
    ];
    assert_eq!(fetched, needed);
    // Both are in the cache now.
    let seen = hub.seen().len();
    let offline = || User { home: home.path(), hub: &hub.url, more: vec![("HF_HUB_OFFLINE", "1")] };
    let mut server = offline().start(&[]);
    assert_eq!(models(&server.url()).await["data"][0]["id"], "org/tiny");
    assert_eq!(hub.seen().len(), seen);
    let (base, aside) = (home.path().join("hub/models--org--base"), home.path().join("aside"));
    fs::rename(&base, &aside).expect("moved");
    says(
        &offline().refused(&[]),
        &["'org/tiny' is an adapter of", "'org/base' (revision main) is not in the"],
    );
    fs::rename(&aside, &base).expect("moved back");

    // By a path of the machine that it was trained on, the base is had from the
    // cache and from nowhere else.
    let of_cache = format!("/gone/hub/models--org--base/snapshots/{TAGGED}");
    for path in [of_cache.as_str(), "../../models/org/base/"] {
        hub.set(|script| {
            drop(script.files.insert("checkpoint-9/adapter_config.json".to_owned(), config(path)));
        });
        fs::remove_dir_all(user.model()).expect("removed");
        let seen = hub.seen().len();
        let mut server = user.start(&[]);
        says(&server.summary(), &["org/tiny (Hugging Face, revision main; merged into org/base)"]);
        says(&server.kill(), &["the model in the cache that its path may mean is used", path]);
        let asked = hub.seen().split_off(seen);
        assert!(!asked.is_empty() && asked.iter().all(|asked| !asked.path.contains("base")), "{asked:?}");
    }
    fs::remove_dir_all(base).expect("removed");
    let seen = hub.seen().len();
    let parts = [
        "'org/tiny' is an adapter of '../../models/org/base/'",
        "no such directory is here, and 'org/base' (revision main), which the path may mean, is not in the \
         Hugging Face cache",
        "download 'org/base' first",
    ];
    says(&user.refused(&[]), &parts);
    assert_eq!(hub.seen().len(), seen, "a guess is not downloaded");

    // At the top, with the revision of its base; what lacks its tensors is none,
    // and half a tokenizer is not used.
    let home = self::home();
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    hub.set(|script| {
        let mut pinned: Value = serde_json::from_slice(&config("org/base")).expect("an object");
        pinned["revision"] = json!("v2");
        script.files.insert("adapter_config.json".to_owned(), pinned.to_string().into_bytes());
        script.files.insert("tokenizer_config.json".to_owned(), b"{}".to_vec());
    });
    says(&user.refused(&[]), &["'org/tiny' holds no adapter_model.safetensors"]);
    hub.set(|script| drop(script.files.insert("adapter_model.safetensors".to_owned(), tensors.clone())));
    let mut server = user.start(&[]);
    server.url();
    let ignored = "ignored=\"tokenizer_config.json\"";
    says(&server.kill(), &["an adapter's tokenizer is tokenizer.json and", ignored]);
    assert!(home.path().join("hub/models--org--base/refs/v2").exists());

    hub.set(|script| {
        script.files.remove("adapter_config.json");
        script.files.insert("checkpoint-10/adapter_config.json".to_owned(), config("org/base"));
    });
    let home = self::home();
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    says(&user.refused(&[]), &["'org/tiny' holds several adapters (checkpoint-10, checkpoint-9)"]);
}

#[tokio::test]
async fn a_directory_of_that_name_wins_over_the_hub() {
    let (hub, home) = (PlayedHub::new(), home());
    let user = User { home: home.path(), hub: &hub.url, more: vec![] };
    let here = self::home();
    let own = here.path().join("org/tiny");
    fs::create_dir_all(&own).expect("made");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS] {
        fs::copy(fixture().join(file), own.join(file)).expect("copied");
    }
    let mut server = user.start_in(here.path(), &[]);
    assert_eq!(models(&server.url()).await["data"][0]["id"], "tiny");
    assert!(hub.seen().is_empty());
}
