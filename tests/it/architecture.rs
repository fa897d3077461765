//! The architecture as a test: which module may name which, where third-party
//! crates may be used, how long files may be, where `unsafe` may stand.
//!
//! A compiler checks none of this inside one crate, and a rule that nobody
//! checks is gone after the third hurried change. The checker is itself tested
//! below, by sources that break each rule.

mod scan;

use std::collections::BTreeSet;
use std::path::Path as FsPath;
use std::sync::OnceLock;

use serde_json::Value;

use scan::{Path, Word, blank, paths, production_lines, strings, words};

/// The most production lines that a file may have.
const LONGEST: usize = 600;
/// Above this, a file must say why with a line `//! Length: ...`.
const LONG: usize = 400;

/// Every module and what it may name. The longest place that holds a file
/// decides, so `search/run` is not bound by what binds `search`. `token` is open
/// to everyone that may name anything at all.
const EDGES: &[(&str, &[&str])] = &[
    ("token", &[]),
    ("answer", &[]),
    ("prompt", &["token"]),
    ("engine", &["token", "prompt", "metrics"]),
    ("verify", &["engine", "prompt", "token", "answer", "metrics"]),
    ("plan", &["prompt", "engine", "token", "verify::Aggregate"]),
    ("search", &["plan", "token", "answer", "verify::Aggregate"]),
    // The plain data of one decoded token is part of an event and of a node.
    ("search/event", &["plan", "token", "answer", "engine::Token"]),
    ("search/tree", &["plan", "token", "answer", "engine::Token"]),
    ("search/run", &["search", "plan", "prompt", "token", "engine", "verify", "metrics", "answer"]),
    ("record", &["search", "token"]),
    ("http", &["plan", "prompt", "search", "record", "engine", "metrics", "token"]),
    ("metrics", &[]),
    ("client", &[]),
    ("eval", &["client", "answer", "token"]),
    (
        "bench",
        &[
            "client", "answer", "engine", "metrics", "plan", "prompt", "search", "http", "config", "app",
            "token",
        ],
    ),
    (
        "config",
        &[
            "token", "answer", "prompt", "engine", "verify", "plan", "search", "record", "http", "metrics",
            "client", "eval", "bench",
        ],
    ),
    ("app", &["*"]),
    ("lib", &["*"]),
    ("main", &["*"]),
];

/// Third-party paths, and the only places that may name them.
const ONLY_IN: &[(&[&str], &[&str])] = &[
    (&["axum"], &["http", "app"]),
    (&["tower_http"], &["http", "app"]),
    (&["tower"], &["http", "app"]),
    (&["hyper"], &["http"]),
    (&["hyper_util"], &["http"]),
    (&["utoipa"], &["http", "app"]),
    (&["utoipa_axum"], &["http", "app"]),
    (&["utoipa_swagger_ui"], &["http"]),
    (&["prometheus"], &["metrics"]),
    (&["mistralrs"], &["engine/mistralrs"]),
    (&["mistralrs_quant"], &["engine"]),
    (&["candle_core"], &["engine"]),
    (&["candle_nn"], &["engine"]),
    (&["std", "env"], &["config", "main", "app"]),
    (&["reqwest"], &["client", "verify/remote"]),
    (&["clap"], &["main", "app", "config", "eval", "bench"]),
    (&["hf_hub"], &["app"]),
    (&["sysinfo"], &["app"]),
    (&["toml"], &["app", "config"]),
];

/// Places that stay synchronous, by the beginnings of their paths, and the one
/// file among them that does not.
const WITHOUT_TOKIO: &[&str] = &["plan", "prompt", "answer", "search", "engine/tree/kv"];
const WITH_TOKIO: &str = "search/run";

/// File names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager"];

/// Where `unsafe` is allowed.
const UNSAFE_PREFIX: &str = "engine/tree/kernel";

/// What Miri and the sanitizers run, which lists its files.
const SANITIZED: &str = include_str!("../../.ci/unsafe/lib.rs");

/// The bundled suite, and who is to know nothing of its kinds of problems.
const SUITE: &str = include_str!("../../models/seedling/eval/dev.jsonl");
const IGNORANT: &[&str] = &["plan", "search", "verify"];

/// The rules, as far as a message needs to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Edge,
    UnlistedModule,
    Fence,
    Tokio,
    Length,
    ModuleDoc,
    Name,
    Unsafe,
    Safety,
    Unsanitized,
    Family,
    Panic,
    CodeAfterTests,
}

/// A broken rule, and where.
#[derive(Debug)]
struct Violation {
    rule: Rule,
    place: String,
    message: String,
}

/// A file prepared for the rules.
struct File<'a> {
    /// Below `src`, with `/`, without `.rs` and without a trailing `/mod`.
    place: String,
    source: &'a str,
    /// Words of the whole file.
    words: Vec<Word>,
    production_lines: usize,
    code_after_tests: bool,
}

impl<'a> File<'a> {
    fn new(path: &str, source: &'a str) -> Self {
        let place = path.strip_suffix(".rs").unwrap_or(path);
        let place = place.strip_suffix("/mod").unwrap_or(place).to_owned();
        let code = blank(source);
        let (lines, code_after_tests) = production_lines(&code);
        // A test module in a file of its own has no production code at all.
        let production_lines = if place.ends_with("/tests") { 0 } else { lines };
        Self { place, source, words: words(&code), production_lines, code_after_tests }
    }

    fn is_within(&self, place: &str) -> bool {
        self.place.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn production(&self) -> &[Word] {
        &self.words[..self.words.partition_point(|word| word.line <= self.production_lines)]
    }

    fn violation(&self, rule: Rule, line: usize, message: String) -> Violation {
        Violation { rule, place: format!("src/{}:{line}", self.place), message }
    }
}

fn check(path: &str, source: &str) -> Vec<Violation> {
    let file = File::new(path, source);
    let paths = paths(file.production());
    let mut found = Vec::new();
    check_edges(&file, &paths, &mut found);
    check_fences(&file, &paths, &mut found);
    check_shape(&file, &mut found);
    check_unsafe(&file, &mut found);
    check_families(&file, &mut found);
    check_panics(&file, &mut found);
    found
}

fn check_edges(file: &File<'_>, paths: &[Path], found: &mut Vec<Violation>) {
    let listed = EDGES.iter().filter(|(place, _)| file.is_within(place)).max_by_key(|(place, _)| place.len());
    let Some((_, allowed)) = listed else {
        let message = "a module that the table of edges does not list".to_owned();
        found.push(file.violation(Rule::UnlistedModule, 1, message));
        return;
    };
    let own = file.place.split('/').next().unwrap_or_default();
    for path in paths {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        let ["crate", module, ..] = segments[..] else {
            // A name for the whole crate would hide every edge that runs through it.
            if segments == ["crate"] {
                found.push(file.violation(Rule::Edge, path.line, "imports the crate as a whole".to_owned()));
            }
            continue;
        };
        let full = segments[1..].join("::");
        let may = |edge: &&str| {
            *edge == "*"
                || full.strip_prefix(*edge).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        if module != own && !allowed.iter().any(may) {
            found.push(file.violation(Rule::Edge, path.line, format!("names `crate::{full}`")));
        }
    }
}

fn check_fences(file: &File<'_>, paths: &[Path], found: &mut Vec<Violation>) {
    for path in paths {
        for (fenced, places) in ONLY_IN {
            let named =
                path.segments.len() >= fenced.len() && path.segments.iter().zip(*fenced).all(|(a, b)| a == b);
            if named && !places.iter().any(|place| file.is_within(place)) {
                let message =
                    format!("names `{}`, which belongs to {}", fenced.join("::"), places.join(", "));
                found.push(file.violation(Rule::Fence, path.line, message));
            }
        }
        let synchronous = WITHOUT_TOKIO
            .iter()
            .any(|prefix| file.is_within(prefix) || (prefix.contains('/') && file.place.starts_with(prefix)));
        if path.segments[0] == "tokio" && synchronous && !file.is_within(WITH_TOKIO) {
            found.push(file.violation(
                Rule::Tokio,
                path.line,
                "names `tokio` in a synchronous module".to_owned(),
            ));
        }
    }
}

fn check_shape(file: &File<'_>, found: &mut Vec<Violation>) {
    let lines = file.production_lines;
    let excused = file
        .source
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .any(|line| line.strip_prefix("//! Length:").is_some_and(|reason| !reason.trim().is_empty()));
    if lines > LONGEST {
        found.push(file.violation(Rule::Length, lines, format!("{lines} lines of production code")));
    } else if lines > LONG && !excused {
        let message = format!("{lines} lines of production code and no `//! Length:` line that says why");
        found.push(file.violation(Rule::Length, lines, message));
    }
    if !file.source.starts_with("//!") {
        found.push(file.violation(Rule::ModuleDoc, 1, "does not begin with `//!`".to_owned()));
    }
    for part in file.place.split('/') {
        let last = part.rsplit('_').next().unwrap_or(part);
        let version = part != last && last.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
        if version || EMPTY_NAMES.contains(&last) {
            found.push(file.violation(Rule::Name, 1, format!("`{part}` is no name for a file")));
        }
    }
    if file.code_after_tests {
        found.push(file.violation(Rule::CodeAfterTests, lines, "has code after its test module".to_owned()));
    }
}

fn check_unsafe(file: &File<'_>, found: &mut Vec<Violation>) {
    let lines: Vec<&str> = file.source.lines().collect();
    for word in file.words.iter().filter(|word| word.text == "unsafe") {
        let before = &lines[word.line.saturating_sub(5)..word.line - 1];
        if !file.place.starts_with(UNSAFE_PREFIX) {
            found.push(file.violation(Rule::Unsafe, word.line, "`unsafe` outside of the kernels".to_owned()));
        } else if !before.iter().any(|line| line.trim_start().starts_with("// SAFETY:")) {
            found.push(file.violation(Rule::Safety, word.line, "`unsafe` without `// SAFETY:`".to_owned()));
        } else if !SANITIZED.contains(&format!("#[path = \"../../src/{}.rs\"]", file.place)) {
            let message = "`unsafe` in a file that .ci/unsafe/lib.rs does not list".to_owned();
            found.push(file.violation(Rule::Unsanitized, word.line, message));
        }
    }
}

/// The families of the bundled suite, and the kinds of their checks.
fn families() -> &'static BTreeSet<String> {
    static FAMILIES: OnceLock<BTreeSet<String>> = OnceLock::new();
    FAMILIES.get_or_init(|| {
        let mut families = BTreeSet::new();
        for line in SUITE.lines() {
            let problem: Value = serde_json::from_str(line).expect("the suite is JSON Lines");
            for name in [&problem["family"], &problem["check"]["kind"]] {
                families.insert(name.as_str().expect("a problem has a family and a check").to_owned());
            }
        }
        // What every suite's answers are compared by is no family of this one.
        families.remove("answer");
        families
    })
}

fn check_families(file: &File<'_>, found: &mut Vec<Violation>) {
    if !IGNORANT.iter().any(|place| file.is_within(place)) || file.place.contains("/tests/") {
        return;
    }
    for string in strings(file.source).iter().filter(|string| string.line <= file.production_lines) {
        let mut named = string.text.split(|c: char| !c.is_alphanumeric());
        if let Some(family) = named.find(|word| families().contains(&word.to_lowercase())) {
            let message = format!("names `{family}`, a family of the bundled suite");
            found.push(file.violation(Rule::Family, string.line, message));
        }
    }
}

fn check_panics(file: &File<'_>, found: &mut Vec<Violation>) {
    for window in file.production().windows(3) {
        let [a, b, c] = window else { continue };
        let what = match [a.text.as_str(), b.text.as_str(), c.text.as_str()] {
            [".", "unwrap", "("] => "`.unwrap()`",
            ["todo", "!", _] => "`todo!`",
            ["unimplemented", "!", _] => "`unimplemented!`",
            // `panic != x` is a comparison.
            ["panic", "!", next] if next != "=" => "`panic!`",
            _ => continue,
        };
        found.push(file.violation(Rule::Panic, a.line, format!("{what} in production code")));
    }
}

/// All files below `src`, as paths relative to it and their text.
fn sources() -> Vec<(String, String)> {
    let root = FsPath::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut out = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of src is readable") {
            let path = entry.expect("an entry of src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("found below src");
                let name = below.to_string_lossy().replace('\\', "/");
                out.push((name, std::fs::read_to_string(&path).expect("a source file is UTF-8")));
            }
        }
    }
    out.sort();
    out
}

#[test]
fn the_sources_keep_every_rule() {
    let sources = sources();
    for expected in ["lib.rs", "main.rs", "engine/mod.rs", "search/run.rs"] {
        assert!(
            sources.iter().any(|(path, _)| path == expected),
            "src/{expected} was not found to be checked"
        );
    }
    let found: Vec<String> = sources
        .iter()
        .flat_map(|(path, source)| check(path, source))
        .map(|v| format!("{}: {:?}: {}", v.place, v.rule, v.message))
        .collect();
    assert!(found.is_empty(), "{} broken rules:\n{}", found.len(), found.join("\n"));
}

/// The rules that `code`, below a module doc, breaks at `path`.
fn broken(path: &str, code: &str) -> Vec<Rule> {
    check(path, &format!("//! Doc.\n{code}\n")).into_iter().map(|v| v.rule).collect()
}

#[test]
fn an_edge_is_found_however_it_is_written() {
    for code in [
        "use crate::engine::Handle;",
        "use crate::{plan::Plan, engine::{self, Handle}};",
        "use crate::{\n    plan::Plan,\n    engine,\n};",
        "pub(crate) use crate::engine as e;",
        "fn f(x: &crate::engine::Handle) {}",
        "use {crate::engine::Handle, std::fmt};",
        "macro_rules! m { () => { $crate::engine::f() } }",
        "use crate as root;",
        "use crate::*;",
    ] {
        let rules = broken("search/beam.rs", code);
        assert!(!rules.is_empty() && rules.iter().all(|rule| *rule == Rule::Edge), "{code}: {rules:?}");
    }
}

#[test]
fn the_whole_crate_under_another_name_is_refused_even_where_every_edge_is_allowed() {
    assert_eq!(broken("app.rs", "use crate::engine::Handle;\nuse crate::config;"), []);
    assert_eq!(broken("app.rs", "use crate as root;"), [Rule::Edge]);
}

#[test]
fn an_edge_of_the_table_is_allowed_and_so_is_a_modules_own_name() {
    let clean = "use crate::plan::Plan;\nuse crate::search::Tree;\nuse crate::{answer, token::TokenId};";
    assert_eq!(broken("search/beam.rs", clean), []);
    assert_eq!(broken("search/run.rs", "use crate::engine::Handle;\nuse crate::metrics::Metrics;"), []);
    assert_eq!(broken("http/params.rs", "use crate::client::Client;"), [Rule::Edge]);
    assert_eq!(broken("config.rs", "use crate::app::App;"), [Rule::Edge]);
    assert_eq!(broken("answer/equiv.rs", "use crate::token::TokenId;"), [Rule::Edge]);
}

#[test]
fn an_event_may_name_the_engines_token_and_nothing_else_of_it() {
    assert_eq!(broken("search/event.rs", "use crate::engine::Token;"), []);
    assert_eq!(broken("search/event.rs", "use crate::engine::{Token, Handle};"), [Rule::Edge]);
    assert_eq!(broken("search/event.rs", "use crate::engine::TokenStream;"), [Rule::Edge]);
    assert_eq!(broken("search/mod.rs", "use crate::engine::Token;"), [Rule::Edge]);
}

#[test]
fn a_module_that_is_not_listed_is_refused() {
    assert_eq!(broken("cache.rs", ""), [Rule::UnlistedModule]);
    assert_eq!(broken("cache/lru.rs", ""), [Rule::UnlistedModule]);
    assert_eq!(broken("searching/mod.rs", ""), [Rule::UnlistedModule]);
}

#[test]
fn third_party_crates_stay_behind_their_fences() {
    for (inside, outside, code) in [
        ("http/chat.rs", "engine/mod.rs", "use axum::Router;"),
        ("app.rs", "search/run.rs", "#[axum::debug_handler]\nfn f() {}"),
        ("http/mod.rs", "metrics.rs", "use tower_http::trace;"),
        ("http/mod.rs", "client.rs", "use tower::Service;"),
        ("http/openapi.rs", "plan/mod.rs", "#[derive(utoipa::ToSchema)]\nstruct S;"),
        ("app/mod.rs", "record.rs", "use utoipa_axum::router;"),
        ("metrics.rs", "engine/thread.rs", "use prometheus::Registry;"),
        ("engine/mistralrs.rs", "engine/tree/mod.rs", "use mistralrs::Model;"),
        ("engine/tree/mod.rs", "verify/prm.rs", "use mistralrs_quant::Linear;"),
        ("engine/tree/mod.rs", "verify/prm.rs", "use {std::fmt, candle_core::Tensor};"),
        ("engine/tree/mod.rs", "app.rs", "fn f() -> ::candle_nn::VarBuilder {}"),
        ("config.rs", "engine/mod.rs", "fn f() { std::env::var(\"A\"); }"),
        ("main.rs", "http/mod.rs", "use std::{env, fmt};"),
        ("client/mod.rs", "eval.rs", "use reqwest;"),
        ("eval.rs", "http/mod.rs", "extern crate clap;"),
    ] {
        assert_eq!(broken(outside, code), [Rule::Fence], "{code} in {outside}");
        assert_eq!(broken(inside, code), [], "{code} in {inside}");
    }
    let innocent = "fn f(tower: u8) { x.clap(); metrics::prometheus::g(); env!(\"A\"); }";
    assert_eq!(broken("plan/mod.rs", innocent), []);
}

#[test]
fn synchronous_modules_do_not_name_tokio() {
    let code = "#[tokio::main]\nfn f() {}";
    for path in ["plan/mod.rs", "prompt/stop.rs", "answer.rs", "search/beam.rs", "search/runner.rs"] {
        assert_eq!(broken(path, code), [Rule::Tokio], "{path}");
    }
    for path in ["engine/tree/kv.rs", "engine/tree/kv_pool.rs", "engine/tree/kv/radix.rs"] {
        assert_eq!(broken(path, code), [Rule::Tokio], "{path}");
    }
    for path in ["search/run.rs", "search/run/lease.rs", "engine/thread.rs", "http/mod.rs"] {
        assert_eq!(broken(path, code), [], "{path}");
    }
}

#[test]
fn comments_literals_and_tests_are_no_production_code() {
    let code = r##"
//! use crate::engine::A;
/// use axum::B;
/* use tokio::C; /* nested */ x.unwrap() */
const A: &str = "crate::http::X \" panic!()";
const B: &str = r#"tokio::spawn " todo!()"#;
const C: &[u8] = br"crate::http::X \";
const D: [char; 3] = ['"', '\'', '\\'];
fn f<'a>(x: &'a str) -> &'a str { x }

#[cfg(test)]
#[expect(clippy::float_cmp)]
mod tests {
    use crate::engine::Handle;
    #[tokio::test]
    async fn g() { Some(1).unwrap(); panic!("{}", '}'); }
}
"##;
    assert_eq!(broken("search/beam.rs", code), []);
    assert_eq!(broken("search/tests.rs", "use crate::http::A;\nfn f() { a.unwrap(); }"), []);
}

#[test]
fn nothing_hides_behind_or_beside_a_test_module() {
    let tests = "#[cfg(test)]\nmod tests {\n    mod inner {}\n}\n";
    assert_eq!(broken("plan/mod.rs", tests), []);
    assert_eq!(broken("plan/mod.rs", &format!("{tests}fn late() {{}}")), [Rule::CodeAfterTests]);
    assert_eq!(broken("plan/mod.rs", "#[cfg(test)]\nmod tests;\nfn late() {}"), [Rule::CodeAfterTests]);
    let other = "#[cfg(test)]\nmod tests_and_more { fn f() { a.unwrap(); } }";
    assert_eq!(broken("plan/mod.rs", other), [Rule::Panic]);
}

#[test]
fn long_files_give_a_reason_and_end_somewhere() {
    let code = |lines: usize| "const A: u8 = 0;\n".repeat(lines);
    let rules =
        |source: String| check("plan/mod.rs", &source).into_iter().map(|v| v.rule).collect::<Vec<_>>();
    assert_eq!(rules(format!("//! Doc.\n{}", code(LONG - 1))), []);
    assert_eq!(rules(format!("//! Doc.\n{}", code(LONG))), [Rule::Length]);
    assert_eq!(rules(format!("//! Length:\n{}", code(LONG))), [Rule::Length]);
    assert_eq!(rules(format!("//! Doc.\n//! Length: one table.\n{}", code(LONG))), []);
    assert_eq!(rules(format!("//! Length: one table.\n{}", code(LONGEST - 1))), []);
    assert_eq!(rules(format!("//! Length: one table.\n{}", code(LONGEST))), [Rule::Length]);
    let tested = format!("//! Doc.\n{}#[cfg(test)]\nmod tests {{\n{}}}\n", code(LONG - 1), code(LONGEST));
    assert_eq!(rules(tested), []);
}

#[test]
fn files_say_what_they_are_and_have_names_that_do_too() {
    let rules = check("plan/mod.rs", "use std::fmt;\n//! Late.\n");
    assert_eq!(rules.into_iter().map(|v| v.rule).collect::<Vec<_>>(), [Rule::ModuleDoc]);
    for path in ["plan/utils.rs", "plan/helpers/mod.rs", "plan/plan_manager.rs", "plan/budget_v2.rs"] {
        assert_eq!(broken(path, ""), [Rule::Name], "{path}");
    }
    for path in ["plan/budget.rs", "engine/kv.rs", "http/v1.rs"] {
        assert_eq!(broken(path, ""), [], "{path}");
    }
}

#[test]
fn unsafe_stands_only_in_kernels_and_is_justified() {
    let justified = "// SAFETY: the length was checked.\nunsafe { f() }";
    assert_eq!(broken("engine/tree/kernel.rs", justified), []);
    assert_eq!(broken("engine/tree/kernel_tiles.rs", justified), []);
    assert_eq!(broken("engine/tree/kernel_avx2.rs", justified), [Rule::Unsanitized]);
    assert_eq!(broken("engine/tree/mod.rs", justified), [Rule::Unsafe]);
    assert_eq!(broken("engine/kernel.rs", justified), [Rule::Unsafe]);
    assert_eq!(broken("engine/tree/kernel.rs", "unsafe fn f() {}"), [Rule::Safety]);
    let far = format!("// SAFETY: too far away.{}unsafe {{}}", "\n".repeat(5));
    assert_eq!(broken("engine/tree/kernel.rs", &far), [Rule::Safety]);
    let hidden = format!("#[cfg(test)]\nmod tests {{ fn f() {{ {justified} }} }}");
    assert_eq!(broken("plan/mod.rs", &hidden), [Rule::Unsafe]);
}

#[test]
fn no_verifier_and_no_strategy_knows_the_families_of_the_bundled_suite() {
    for place in ["search/beam.rs", "verify/format.rs", "plan/mode/effort.rs"] {
        for code in [
            "fn f(s: &str) -> bool { s == \"story\" }",
            "const A: &str = r#\"kind: \"Countdown\"\"#;",
            "const A: &[u8] = b\"a target\";",
            "const A: &str = concat!(\"\\\"\", \"expr-0001\");",
        ] {
            assert_eq!(broken(place, code), [Rule::Family], "{code}");
        }
        for code in [
            "const A: &str = \"the history of an answer\";",
            "/// A story.\nfn target(expr: char) -> bool { expr == '\"' } // \"story\"",
            "#[cfg(test)]\nmod tests { const A: &str = \"story\"; }",
        ] {
            assert_eq!(broken(place, code), [], "{code}");
        }
    }
    let code = "const A: &str = \"story\";";
    for place in ["eval/suite.rs", "search/run/tests.rs", "search/run/tests/prm.rs"] {
        assert_eq!(broken(place, code), [], "{place}");
    }
}

#[test]
fn production_code_does_not_panic_by_name() {
    for code in [
        "fn f() { a.unwrap(); }",
        "fn f() { todo!() }",
        "fn f() { panic!(\"x\") }",
        "fn f() { a\n.unwrap() }",
    ] {
        assert_eq!(broken("plan/mod.rs", code), [Rule::Panic], "{code}");
    }
    for code in [
        "fn f() { a.unwrap_or(1); }",
        "fn f() { std::panic::catch_unwind(g); }",
        "fn f() { if panic != x {} }",
    ] {
        assert_eq!(broken("plan/mod.rs", code), [], "{code}");
    }
}
