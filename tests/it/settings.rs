//! What a person sets, through the real binary: good settings that take effect,
//! mistakes that are refused in one line, and the commands that explain.

use crate::binary::{Binary, Ended};
use crate::support::{engine, serve_with};
use espalier::config::{EngineArgs, Environment, Given, ModelArgs, SETTINGS, ServeArgs, Settings, general};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use tempfile::TempDir;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn written(text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("serve.toml");
    fs::write(&path, text).expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

/// A checkpoint whose weights would take four terabytes; the file is all holes.
fn giant() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = root().join("tests/fixtures/llama-gqa");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture.join(file), folder.path().join(file)).expect("copied");
    }
    let (wide, narrow) = (1u64 << 20, 64);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": wide, "vocab_size": wide,
        "intermediate_size": narrow, "head_dim": narrow, "num_attention_heads": 1, "num_key_value_heads": 1,
        "num_hidden_layers": 1, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 2,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let (down, up, flat) = (vec![narrow, wide], vec![wide, narrow], vec![wide]);
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![wide, wide]),
        ("model.norm.weight".to_owned(), flat.clone()),
        (layer("input_layernorm"), flat.clone()),
        (layer("post_attention_layernorm"), flat),
        (layer("self_attn.q_proj"), down.clone()),
        (layer("self_attn.k_proj"), down.clone()),
        (layer("self_attn.v_proj"), down.clone()),
        (layer("self_attn.o_proj"), up.clone()),
        (layer("mlp.gate_proj"), down.clone()),
        (layer("mlp.up_proj"), down),
        (layer("mlp.down_proj"), up),
    ];
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        header.insert(name, json!({"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}));
    }
    let header = Value::from(header).to_string();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).expect("written");
    let file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
    file.set_len(8 + header.len() as u64 + end).expect("a file of holes");
    folder
}

#[test]
fn mistakes_are_refused_in_one_line_that_says_what_to_do() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (_a, typo) = written("[server]\n\nprot = 1\n");
    let (_b, broken) = written("[server\n");
    let (_c, row) = written("[models.seedling.plan.efforts]\nlow = { mode = \"beem\" }\n");
    let (_d, number) = written("[engine]\nkv_mib = \"many\"\n");
    let giant = giant();
    let giant = giant.path().to_str().expect("UTF-8").to_owned();
    let (_e, page) = written("<html>");
    let gguf = page.replace("serve.toml", "page.gguf");
    fs::rename(&page, &gguf).expect("renamed");
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&["--port", "99999"], &[], 2, &["--port is `99999`", "0 to 65535"]),
        (&["--host", "here"], &[], 2, &["--host is `here`", "IP address"]),
        (&[], &[("ESPALIER_PORT", "http")], 1, &["ESPALIER_PORT is `http`", "0 to 65535"]),
        (&["--config", "/nonexistent.toml"], &[], 1, &["cannot read", "/nonexistent.toml", "--config"]),
        (&[], &[("ESPALIER_CONFIG", "/nonexistent.toml")], 1, &["cannot read", "/nonexistent.toml"]),
        (&["--config", &typo], &[], 1, &["serve.toml, line 3", "`server.prot`", "did you mean `port`?"]),
        (&["--config", &broken], &[], 1, &["serve.toml, line 1", "unclosed"]),
        (&["--config", &row], &[], 1, &["serve.toml, line 2", "low: mode", "beem", "self_consistency"]),
        (&["--config", &number], &[], 1, &["serve.toml, line 2", "engine.kv_mib", "a whole number"]),
        (&["--model", "seedlng"], &[], 1, &["no model at 'seedlng'", "did you mean 'seedling'?", "org/name"]),
        (&["--model", "no/such/model"], &[], 1, &["no model at 'no/such/model'", "a directory"]),
        (&["--model", &gguf], &[], 1, &["page.gguf", "is no GGUF file", "download it again"]),
        (&["--model", &giant], &[], 1, &["needs 2048", "of memory", "is free", "--kv-mib"]),
        (&["--kv-mib", "1073741824"], &[], 1, &["--kv-mib (or --kv-fraction) = 1073741824", "is free"]),
        (&["--prm-kv-mib", "1073741824"], &[], 1, &["--prm-kv-mib = 1073741824", "of weights", "is free"]),
        (&["--kv-fraction", "1"], &[], 1, &["--kv-mib (or --kv-fraction) = ", "of weights", "is free"]),
        (&["--model", "org/name"], &[], 1, &["no home directory", "HF_HOME"]),
        (&["--max-model-len", "4096"], &[], 1, &["--max-model-len is 4096", "context of 2048"]),
        (&["--prm", "seedling-pmr"], &[], 1, &["--prm", "did you mean 'seedling-prm'?", "--prm none"]),
        (&["--port", &port], &[], 1, &["cannot listen on", &port, "--port"]),
    ];
    for (arguments, variables, code, parts) in cases {
        let arguments: Vec<&str> = ["serve"].iter().chain(*arguments).copied().collect();
        let Ended { code: ended, out, err } = Binary::run(&arguments, variables);
        assert_eq!((ended, out.as_str()), (Some(*code), ""), "{arguments:?}: {err}");
        assert!(err.starts_with("espalier: ") && err.lines().count() == 1, "{arguments:?}: {err}");
        for part in *parts {
            assert!(err.contains(part), "{part:?} is not in: {err}");
        }
    }
    // What clap refuses it explains at more length.
    let ended = Binary::run(&["serve", "--prot", "1"], &[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("'--port'"), "{}", ended.err);
}

#[test]
fn variables_that_look_like_ours_are_warned_of_and_kubernetes_is_not() {
    let strays = [
        ("ESPALIER_KV_MB", "3"),
        ("ESPALIER_PORT", "tcp://10.0.0.1:80"),
        ("ESPALIER_SERVICE_HOST", "10.0.0.1"),
    ];
    let mut server = Binary::start(&["serve", "--port=0", "--kv-mib=16", "--log-level=warn"], &strays);
    server.url();
    let log = server.kill();
    assert!(log.contains("WARN") && log.contains("did you mean ESPALIER_KV_MIB?"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    let Ended { code, out, err } = Binary::run(&["config"], &strays[1..]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("port = 8080  # default") && !out.contains("# Warning"), "{out}");
    let Ended { code, out, .. } = Binary::run(&["config"], &strays);
    assert_eq!(code, Some(0));
    assert!(out.contains("# Warning: the environment variable ESPALIER_KV_MB is no setting"), "{out}");
}

#[test]
fn log_lines_have_the_shape_and_level_that_were_set() {
    let stray = ("ESPALIER_KV_MB", "3");
    let log = |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments: Vec<&str> =
            ["serve", "--port=0", "--kv-mib=16"].iter().chain(arguments).copied().collect();
        let mut server = Binary::start(&arguments, variables);
        server.url();
        server.kill()
    };
    // In this format everything is a log line, the ready one included.
    let mut server = Binary::start(&["serve", "--port=0", "--kv-mib=16", "--log-format", "json"], &[stray]);
    let lines = server.log_until("ready");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["level"], "WARN");
    let ready = lines.last().expect("lines");
    assert!(ready["url"].as_str().is_some_and(|url| url.starts_with("http://")), "{ready}");
    assert_eq!(log(&["--log-level", "error"], &[stray]), "");
    assert_eq!(log(&[], &[stray, ("RUST_LOG", "error")]), "", "RUST_LOG is understood");
    assert!(log(&["--log-level", "warn"], &[stray, ("RUST_LOG", "error")]).contains("WARN"));
}

#[test]
fn the_configuration_is_printed_with_origins_and_loads_again() {
    let (_folder, file) = written("[engine]\nkv_mib = 5\n[models.seedling]\nplan.efforts.low.budget = 77\n");
    let arguments = ["config", "--config", &file, "--port", "81"];
    let Ended { code, out, err } = Binary::run(&arguments, &[("ESPALIER_THREADS", "3")]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for line in [
        "port = 81  # flag".to_owned(),
        "threads = 3  # env ESPALIER_THREADS".to_owned(),
        format!("kv_mib = 5  # file {file}"),
        "step_positions = 512  # default".to_owned(),
        format!("budget = 77  # file {file}"),
        "budget = 32768  # model".to_owned(),
        "answer_marker = \"The answer is\"  # model".to_owned(),
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
    let (_again, printed) = written(&out);
    let again = Binary::run(&["config", "--config", &printed], &[]);
    assert_eq!((again.code, again.err.as_str()), (Some(0), ""));
    let values = |page: &str| {
        let value = |line: &str| line.split("  # ").next().unwrap_or_default().to_owned();
        page.lines().map(value).collect::<Vec<_>>()
    };
    assert_eq!(values(&again.out), values(&out));
    assert!(!again.out.contains("# flag") && !again.out.contains("# env") && !again.out.contains("# model"));

    // A model that would have to be downloaded is not.
    let cache = tempfile::tempdir().expect("a folder");
    let variables =
        [("HF_HOME", cache.path().to_str().expect("UTF-8")), ("HF_ENDPOINT", "http://127.0.0.1:1")];
    let absent = Binary::run(&["config", "--model", "org/name"], &variables);
    assert_eq!(absent.code, Some(0));
    assert!(absent.out.contains("# The model's own settings are not shown: 'org/name'"), "{}", absent.out);
}

#[test]
fn the_example_file_holds_every_setting_with_its_default() {
    let path = root().join("deploy/espalier.toml");
    let text = fs::read_to_string(&path).expect("the example");
    let settings = |file: PathBuf| {
        Settings::resolve(&Given { config: Some(file), ..Given::default() }, &Environment::default())
            .expect("valid")
    };
    let example = settings(path.clone());
    let defaults = Settings::resolve(&Given::default(), &Environment::default()).expect("valid");
    for setting in SETTINGS {
        let value = |settings: &Settings| settings.value(setting).map(|(value, _)| value.clone());
        assert_eq!(value(&example), value(&defaults), "{}", setting.flag);
        let starts = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{} = ", setting.key));
        assert!(text.lines().any(starts), "{} is not in the example", setting.key);
    }
    let own = fs::read_to_string(root().join("models/seedling/policy/espalier.toml")).expect("there");
    let own: toml::Value = toml::from_str(&own).expect("TOML");
    assert_eq!(example.models["seedling"], own, "the example shows what seedling really has");
    // What it shows behind a `#` is right as well: the rows of a model without a file,
    let (_, rows) = text.split_once("\n# [models.\"org/name\".plan.efforts]").expect("the general rows");
    let rows = rows.lines().skip(1).map_while(|line| line.strip_prefix("# ")).collect::<Vec<_>>();
    let rows: toml::Table = toml::from_str(&rows.join("\n")).expect("TOML");
    assert_eq!(toml::Value::from(rows), general("")["plan"]["efforts"]);
    // and every setting.
    let key = |line: &str| {
        let shown = line.strip_prefix("# ").unwrap_or(line);
        let takes_a_place = shown.starts_with("kv_fraction = ");
        let named = SETTINGS.iter().any(|setting| shown.starts_with(&format!("{} = ", setting.key)));
        let named = named && !takes_a_place;
        if named { shown.to_owned() } else { line.to_owned() }
    };
    let (_folder, shown) = written(&text.lines().map(key).collect::<Vec<_>>().join("\n"));
    let shown = settings(PathBuf::from(shown));
    let set = |shown: &Settings, but: &str| {
        SETTINGS.iter().filter(|setting| setting.flag != but).all(|setting| shown.value(setting).is_some())
    };
    assert!(set(&shown, "kv-fraction"));
    let (_folder, part) =
        written(&text.replace("\nkv_mib = ", "\n# kv_mib = ").replace("# kv_fraction", "kv_fraction"));
    assert_eq!(settings(PathBuf::from(part)).engine().kv_fraction, Some(0.3));
}

#[tokio::test]
async fn the_pool_takes_what_was_asked_for_to_the_block_or_a_part_of_what_is_free() {
    // A block of 16 positions: keys and values of 6 layers with 2 heads of 32 floats.
    let block = 16 * 2 * 6 * 2 * 32 * 4;
    for (kv_mib, blocks) in [(1, (1 << 20) / block), (3, (3 << 20) / block), (10, (10 << 20) / block)] {
        let kv_mib = NonZeroUsize::new(kv_mib).expect("not zero");
        let args = ServeArgs { engine: EngineArgs { kv_mib, ..engine("seedling") }, ..ServeArgs::default() };
        let server = serve_with(args).await;
        assert_eq!(server.counter("espalier_engine_kv_blocks").await, blocks);
        // More than fits: whatever the search asks for, no block more is used.
        let body = server.chat(json!({"reasoning_effort": "high", "max_completion_tokens": 200})).await;
        assert!(body["usage"]["completion_tokens"].as_u64() > Some(0));
        let held = server.counter("espalier_engine_kv_blocks_used").await
            + server.counter("espalier_engine_kv_blocks_idle").await;
        assert!(held <= blocks, "{held} of {blocks}");
    }
    let part = |kv_fraction| async move {
        let engine = EngineArgs { kv_fraction: Some(kv_fraction), ..engine("seedling") };
        let server = serve_with(ServeArgs { engine, ..ServeArgs::default() }).await;
        server.counter("espalier_engine_kv_blocks").await * block
    };
    let (small, large) = (part(0.01).await, part(0.1).await);
    // What is free changes meanwhile, but not tenfold.
    assert!(small >= 1 << 20 && large > 3 * small && large < 30 * small, "{small} and {large}");
}

#[test]
fn a_pool_of_two_sizes_is_refused() {
    let both = Binary::run(&["serve", "--kv-mib", "5", "--kv-fraction", "0.5"], &[]);
    assert_eq!(both.code, Some(2), "{}", both.err);
    assert!(both.err.contains("--kv-mib and --kv-fraction") && both.err.lines().count() == 1, "{}", both.err);
}

/// A budget is of all branches together, and need not fit in the pool: of an ordinary
/// model's, which holds a few thousand positions, no default budget does.
#[tokio::test]
async fn a_pool_smaller_than_a_budget_serves_every_effort_and_says_what_fits() {
    let engine = EngineArgs { kv_mib: NonZeroUsize::MIN, ..engine("seedling") };
    let server = serve_with(ServeArgs { engine, ..ServeArgs::default() }).await;
    let listed = server.get("/v1/models").await.json();
    let longest = listed["data"][0]["max_model_len"].as_u64().expect("a number");
    assert!((64..2_048).contains(&longest), "{longest}");
    for effort in ["low", "medium", "high", "max"] {
        let asked = json!([{"role": "user", "content": "Compute (3 + 4) * 5."}]);
        let body = server.chat(json!({"reasoning_effort": effort, "seed": 1, "messages": asked})).await;
        let notes = body["search"]["notes"].to_string();
        assert!(notes.contains("a branch has at most"), "{effort}: {notes}");
        assert!(!body["choices"][0]["message"]["content"].as_str().expect("text").is_empty());
    }
    server.idle().await;
}

#[tokio::test]
async fn a_model_answers_to_the_names_that_it_is_served_under() {
    let names = ["org/first", "second"].map(str::to_owned).to_vec();
    let engine = EngineArgs {
        model: ModelArgs {
            served_model_name: names,
            max_model_len: NonZeroUsize::new(64),
            .."seedling".into()
        },
        ..engine("seedling")
    };
    let server = serve_with(ServeArgs { engine, ..ServeArgs::default() }).await;
    let listed = server.get("/v1/models").await.json();
    let listed = listed["data"].as_array().expect("a list");
    assert_eq!(listed.len(), 2);
    for (card, name) in listed.iter().zip(["org/first", "second"]) {
        assert_eq!((&card["id"], &card["max_model_len"]), (&json!(name), &json!(64)));
        assert_eq!(&server.get(&format!("/v1/models/{name}")).await.json(), card);
    }
    let short = json!([{"role": "user", "content": "Compute (3 + 4) * 5."}]);
    for name in ["org/first", "second"] {
        let body = server.chat(json!({"model": name, "reasoning_effort": "none", "messages": short})).await;
        assert_eq!(body["model"], "org/first");
    }
    assert_eq!(server.post(json!({"model": "seedling"})).await.status, 404, "its own name is another");
    let long = json!([{"role": "user", "content": "Compute 1 + 1. ".repeat(20)}]);
    let refused = server.post(json!({"model": "second", "messages": long})).await;
    assert_eq!(refused.status, 400);
    assert!(refused.error()["message"].as_str().is_some_and(|text| text.contains("64")), "{refused:?}");
}

#[tokio::test]
async fn the_servers_file_rules_over_the_models_own() {
    let (_folder, file) = written(
        "[models.seedling.plan]\ndefault_effort = \"none\"\n[models.seedling.plan.efforts.none]\nbudget = 3\n",
    );
    let given = Given { config: Some(PathBuf::from(file)), ..Given::default() };
    let settings = Settings::resolve(&given, &Environment::default()).expect("valid");
    let engine = EngineArgs { model: settings.engine().model, ..engine("seedling") };
    let server = serve_with(ServeArgs { engine, ..ServeArgs::default() }).await;
    let body = server.chat(json!({})).await;
    assert_eq!(body["search"]["mode"], "direct", "{body}");
    assert_eq!(body["usage"]["completion_tokens"], 3, "{body}");
}

#[test]
fn the_process_reward_model_is_loaded_beside_the_model() {
    let summary = |arguments: &[&str]| {
        let arguments: Vec<&str> =
            ["serve", "--port=0", "--kv-mib=16", "--prm-kv-mib=8"].iter().chain(arguments).copied().collect();
        let mut server = Binary::start(&arguments, &[]);
        let seen = server.summary();
        seen.lines().find(|line| line.starts_with("prm ")).map(str::to_owned)
    };
    let line = summary(&[]).expect("the bundled model has one");
    assert!(line.contains("seedling-prm (bundled)") && line.ends_with("positions in 8 MiB"), "{line}");
    let directory = root().join("models/seedling/prm");
    let line = summary(&["--prm", directory.to_str().expect("UTF-8")]).expect("it was named");
    assert!(line.contains("prm (") && line.contains("1.85 M"), "{line}");
    assert_eq!(summary(&["--prm", "none"]), None);
    assert_eq!(summary(&["--model", "seedling-prm"]), None, "other models have none by default");
}

#[tokio::test]
async fn a_page_may_call_where_its_origin_is_set_by_any_layer() {
    let app = "https://app.example";
    let (_folder, file) =
        written(&format!("[server]\nallow_origins = [\"http://localhost:3000\", \"{app}\"]\n"));
    let both = ("ESPALIER_ALLOW_ORIGIN", "http://localhost:3000,https://app.example");
    let none: &[(&str, &str)] = &[];
    for (arguments, variables, allowed) in [
        (vec![], none, false),
        (vec!["--allow-origin", "http://localhost:3000", "--allow-origin", app], none, true),
        (vec![], &[both], true),
        (vec!["--config", &file], none, true),
        (vec!["--config", &file, "--allow-origin=https://other.example"], none, false),
    ] {
        let arguments = [&["serve", "--port=0", "--kv-mib=16"][..], &arguments].concat();
        let mut server = Binary::start(&arguments, variables);
        let url = format!("{}/v1/chat/completions", server.url());
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        // As a browser asks before it posts for a page, and as it posts.
        let ask = client.request("OPTIONS".parse().expect("a method"), &url);
        let ask = ask.header("access-control-request-method", "POST");
        let ask = ask.header("access-control-request-headers", "authorization,content-type");
        for request in [ask, client.post(&url).body("{}")] {
            let response = request.header("origin", app).send().await.expect("an answer");
            let named = response.headers().get("access-control-allow-origin");
            assert_eq!(named.map(|origin| origin == app), allowed.then_some(true), "{arguments:?}");
        }
    }
    let wrong = Binary::run(&["serve", "--allow-origin", "https://app.example/"], &[]);
    assert_eq!(wrong.code, Some(2));
    assert!(
        wrong.err.contains("--allow-origin is `https://app.example/` and must be one or more origins"),
        "{}",
        wrong.err
    );
}

#[test]
fn a_healthcheck_tells_a_server_from_none() {
    let mut server = Binary::start(&["serve", "--port=0", "--host=0.0.0.0", "--kv-mib=16"], &[]);
    let url = server.url();
    let port = url.rsplit(':').next().expect("a port").to_owned();
    let proxy = ("http_proxy", "http://127.0.0.1:1");
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let silent = silent.local_addr().expect("an address").port().to_string();
    let gone = TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("an address");
    let gone = gone.port().to_string();
    let local = format!("http://127.0.0.1:{port}/v1");
    for (arguments, variables, code) in [
        (vec!["--port", &port], vec![], 0),
        (vec!["--url", &local], vec![proxy], 0),
        (vec!["--host", "0.0.0.0"], vec![("ESPALIER_PORT", port.as_str()), proxy], 0),
        (vec!["--port", &gone], vec![], 1),
        (vec!["--port", &silent], vec![], 1),
        (vec!["--url", "https://x"], vec![], 2),
    ] {
        let arguments: Vec<&str> = ["healthcheck"].into_iter().chain(arguments).collect();
        let ended = Binary::run(&arguments, &variables);
        assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{arguments:?}: {}", ended.err);
        assert_eq!(ended.err.lines().count(), usize::from(code != 0), "{}", ended.err);
    }
}

#[test]
fn the_manual_and_the_completions_cover_every_command_and_flag() {
    let man = Binary::run(&["man"], &[]);
    assert_eq!(man.code, Some(0));
    for part in
        ["ESPALIER SERVE", "ESPALIER CONFIG", "ESPALIER BENCH HTTP", "ESPALIER HEALTHCHECK", ".TH espalier 1"]
    {
        assert!(man.out.contains(part), "{part}");
    }
    for setting in SETTINGS {
        let flag = format!("\\-\\-{}", setting.flag.replace('-', "\\-"));
        assert!(man.out.contains(&flag) && man.out.contains(&setting.variable()), "{flag}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Binary::run(&["completions", shell], &[]);
        assert_eq!(script.code, Some(0), "{}", script.err);
        assert!(script.out.contains("served-model-name") && script.out.contains("healthcheck"), "{shell}");
    }
    assert_eq!(Binary::run(&["completions", "tcsh"], &[]).code, Some(2));
}
