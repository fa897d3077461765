//! The arithmetic of the figures, and a small run that prints every row.

use super::report::{Product, Report, Roofline, Row, Sharing};
use super::spread::Spread;
use super::workload::Workload;
use super::*;
use crate::config::{Bench, BenchCommand, Cli, Command, EngineArgs, Environment};
use crate::engine::tree::model::alone::Dealing;
use clap::Parser as _;
use clap::error::ErrorKind;
use serde_json::Value;
use std::time::Duration;

fn subject() -> Subject {
    let loaded = app::load(crate::config::BUNDLED).expect("loads");
    let mut config = app::tree_config(&EngineArgs::default());
    config.threads = 2;
    Subject {
        name: loaded.name,
        model: Arc::new(loaded.model),
        tokenizer: Arc::new(loaded.tokenizer),
        config,
    }
}

/// The workloads of the table, made small.
fn tiny() -> Plan {
    let small = |w: Workload| Workload {
        branches: w.branches.min(6 + w.own / 8),
        shared: 40,
        own: w.own.min(5),
        ..w
    };
    Plan {
        runs: 2,
        new: 3,
        stride: 2,
        enough: Duration::ZERO,
        numpy: false,
        fairness: true,
        llama: None,
        workloads: ALL.map(small).to_vec(),
    }
}

async fn report() -> Report {
    measure(&subject(), &tiny()).await.expect("measures")
}

#[tokio::test]
async fn a_run_measures_every_workload_and_prints_every_row() {
    let report = report().await;
    let mut text = Vec::new();
    report.table(&mut text).expect("prints");
    let text = String::from_utf8(text).expect("text");
    for name in ["A", "B", "C", "D"] {
        let rows = text.lines().filter(|line| line.starts_with(&format!("{name}  "))).count();
        // One row alone shares nothing, so its attention is not compared.
        assert_eq!(rows, if name == "A" { 2 } else { 3 }, "{name} in\n{text}");
    }
    for part in
        ["C / B: ", "load average", "D as a whole: grouped", "C ungrouped", "GFLOP/s", "beside 256 branches"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    for row in &report.workloads {
        let Sharing { unique, expected, leaves, recomputed, .. } = row.sharing;
        assert_eq!((unique, recomputed), (expected, 0), "{:?}", row.name);
        assert!(leaves >= unique, "{:?}", row.name);
        assert!(row.steps.lowest >= 3.0, "{:?}: {:?} steps for 3 tokens", row.name, row.steps);
    }
}

#[tokio::test]
async fn the_document_has_the_figures_of_the_tables() {
    let json: Value = serde_json::to_value(report().await).expect("JSON");
    for key in ["model", "parameters", "threads", "instructions", "runs", "new_tokens", "c_over_b"] {
        assert!(!json[key].is_null(), "{key} in {json:#}");
    }
    let rows = json["workloads"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["A", "B", "C", "D"]);
    for row in rows {
        for figure in ["tokens_per_second", "step_ms", "share"] {
            let [low, median, high] =
                ["lowest", "median", "highest"].map(|key| row[figure][key].as_f64().expect("a number"));
            assert!(0.0 < low && low <= median && median <= high, "{figure} in {row:#}");
        }
        assert!(row["roofline"]["products_ms"]["median"].as_f64() > Some(0.0), "{row:#}");
        assert!(row["roofline"]["attention_ms"]["median"].as_f64() > Some(0.0), "{row:#}");
        assert!(row["sharing"]["ratio"].as_f64() <= Some(1.0), "{row:#}");
        assert!(row["share_of_fastest"].is_null(), "NumPy was not asked: {row:#}");
    }
    let attention = json["attention"].as_array().expect("kernels");
    assert_eq!(attention.iter().filter_map(|k| k["name"].as_str()).collect::<Vec<_>>(), ["B", "C", "D"]);
    assert!(json["grouping"]["ratio"].as_f64() > Some(0.0), "{json:#}");
    let fairness = &json["fairness"];
    for figure in ["beside_one", "beside_many", "many"] {
        assert!(fairness[figure]["lowest"].as_f64() > Some(0.0), "{figure} in {fairness:#}");
    }
    assert!(json["llama"].as_array().is_some_and(Vec::is_empty));
    assert!(json["products"].as_array().is_some_and(|products| products.len() > 3), "{json:#}");
}

#[tokio::test]
async fn workloads_compute_every_branch_and_the_engine_as_served_copies_twins() {
    let (subject, workload) = (subject(), Workload { name: Name::B, branches: 32, shared: 40, own: 1 });
    let blocks = workload.blocks(4, tree::TreeEngine::BLOCK);
    let rows = measure::Stage::of_rows(&subject, blocks, true).expect("an engine");
    let served = measure::Stage::as_served(&subject, blocks).expect("an engine");
    for stage in [&rows, &served] {
        workload::decode(&stage.handle, &stage.metrics, &workload, (4, 1)).await.expect("decodes");
    }
    let counted = |stage: &measure::Stage| (stage.metrics.computed.get(), stage.metrics.copied.get());
    let ((all, none), (computed, copied)) = (counted(&rows), counted(&served));
    assert_eq!((all, none), (40 + 32 * 4, 0));
    assert!(copied > 0, "some of 32 branches begin with the same token");
    assert_eq!(computed + copied, all);
}

#[test]
fn the_longest_prefill_is_of_the_whole_context_of_the_shape_but_one() {
    assert_eq!(context::held(&[512, context::LONG], 32_768), [512, 32_767]);
    assert_eq!(context::held(&[512, context::LONG], 2_048), [512]);
}

#[tokio::test]
async fn prefills_are_measured_up_to_what_the_context_holds() {
    let contexts = context::measure(&subject(), &[32, 96, 1 << 20]).await.expect("measures");
    let positions: Vec<usize> = contexts.lengths.iter().map(|length| length.positions).collect();
    assert_eq!(positions, [32, 96], "the model's context is 2,048");
    assert!(contexts.lengths.iter().all(|length| length.tokens_per_second > 0.0 && length.growth > 0.0));
    assert_eq!(contexts.beside.positions, 96);
    assert!(contexts.beside.gaps_during_ms.median > 0.0, "the branch went on during the prefill");
    let mut text = Vec::new();
    contexts.table(&mut text).expect("prints");
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("96") && !text.contains("NaN"), "{text}");
    let error = context::measure(&subject(), &[1 << 20]).await.expect_err("no length fits").to_string();
    assert!(error.contains("2048") && error.contains("--shape"), "{error}");
}

#[test]
fn the_command_takes_its_own_options_beside_the_engines() {
    let line = "espalier bench engine --json --workloads A,C --shape qwen2.5-0.5b --runs 3 --threads 2";
    let cli = Cli::try_parse_from(line.split(' ')).expect("a good line");
    let Command::Bench(BenchCommand { what: Bench::Engine { options, engine } }) = cli.command else {
        panic!("another command: {cli:?}");
    };
    assert!(options.json && !options.numpy);
    assert_eq!(options.workloads, [Name::A, Name::C]);
    assert_eq!(options.shape, Some(ShapeName::Qwen25Half));
    assert_eq!(options.runs.map(NonZeroUsize::get), Some(3));
    assert!(engine.0.values.contains_key("threads"));
    for wrong in ["--workloads E", "--shape 7b", "--runs 0", "--llama a", "--long"] {
        let line = format!("espalier bench engine {wrong}");
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
    }
}

/// What the command says to a line of its options.
fn refused(line: &str) -> clap::Error {
    let line = format!("espalier bench engine {line}");
    Cli::try_parse_from(line.split(' ')).expect_err(&line)
}

#[test]
fn options_that_another_one_would_leave_without_effect_are_refused() {
    for beside in ["--numpy", "--runs 3", "--workloads A", "--llama a --llama-model b"] {
        let error = refused(&format!("--contexts {beside}"));
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{beside}: {error}");
    }
    // Random weights are in no file.
    let error = refused("--shape qwen2.5-0.5b --llama a --llama-model b");
    assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{error}");
    #[cfg(feature = "mistralrs")]
    for beside in ["--contexts", "--shape qwen2.5-0.5b"] {
        let error = refused(&format!("--mistralrs a {beside}"));
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{beside}: {error}");
    }
}

/// What an option says before anything is measured.
async fn told(options: Options) -> String {
    let mut out = Vec::new();
    let outcome = run(&options, &EngineArgs::default(), &Hub::new(&Environment::default()), &mut out).await;
    assert!(out.is_empty(), "nothing was measured");
    outcome.expect_err("not what it needs").to_string()
}

#[tokio::test]
async fn what_a_peer_lacks_is_said_before_the_measurement() {
    let llama = |program: &str| Options {
        llama: Some(program.into()),
        llama_model: Some("no-such-model.gguf".into()),
        ..Options::default()
    };
    let error = told(llama("no-such-llama")).await;
    assert!(error.starts_with("--llama: no-such-llama: "), "{error}");
    let error = told(llama("true")).await;
    assert_eq!(error, "--llama-model: there is no file no-such-model.gguf");
    #[cfg(feature = "mistralrs")]
    {
        let stock = |directory: &str, workloads: &[Name]| Options {
            mistralrs: Some(directory.into()),
            workloads: workloads.to_vec(),
            ..Options::default()
        };
        let error = told(stock("models/seedling/policy", &[Name::A, Name::B])).await;
        assert!(error.starts_with("--mistralrs: ") && error.contains("workload C"), "{error}");
        let error = told(stock("no-such-model", &[Name::C])).await;
        assert_eq!(error, "--mistralrs: there is no no-such-model/config.json");
    }
}

#[test]
fn a_workload_knows_its_tokens_and_the_blocks_that_they_take() {
    let workload = Workload { name: Name::C, branches: 5, shared: 20, own: 3 };
    assert_eq!(workload.owns(), [0, 1, 2, 0, 1]);
    assert_eq!(workload.longest(4), 20 + 2 + 4 + 1);
    // One whole block of 16 is shared; 27 positions reach into one more.
    assert_eq!(workload.blocks(4, 16), 1 + 1 + 5);
    let [a, b, c, d] = ALL;
    assert_eq!([a, b, c, d].map(|w| (w.branches, w.shared)), [(1, 120), (64, 120), (64, 120), (256, 1500)]);
    assert_eq!(c.owns().iter().max(), Some(&39));
}

#[test]
fn the_fastest_product_lowers_our_share_by_what_it_would_save() {
    let one = Spread::of([1.0]);
    let mut row = Row {
        name: Name::B,
        branches: 64,
        shared: 0,
        own: [0, 0],
        tokens_per_second: one,
        step_ms: Spread::of([10.0]),
        steps: one,
        roofline: Roofline {
            dealing: Dealing::Rows,
            products_ms: Spread::of([6.0]),
            attention_ms: Spread::of([2.0]),
        },
        share: Spread::of([0.8]),
        share_of_fastest: None,
        sharing: Sharing { unique: 1, expected: 1, leaves: 1, recomputed: 0, ratio: 1.0 },
    };
    let product =
        |rows, n, gflops, openblas_gflops| Product { rows, k: 8, n, count: 1, gflops, openblas_gflops };
    row.judge(&[product(64, 16, 10.0, None)]);
    assert_eq!(row.share_of_fastest, None, "NumPy was not asked");
    // Equal work: one shape twice as fast there, the other slower.
    row.judge(&[
        product(64, 16, 10.0, Some(20.0)),
        product(64, 16, 10.0, Some(5.0)),
        product(1, 16, 10.0, Some(1e9)),
    ]);
    let share = row.share_of_fastest.expect("both are known");
    assert!((share - (6.0 * 0.75 + 2.0) / 10.0).abs() < 1e-12, "{share}");
}
