//! The layers, the file's schema, the printed page: against the table of settings.

use super::file::{File, JUDGE, PLAN, PROMPT, known_keys, row};
use super::*;
use crate::plan::{self, Effort, Parameter};
use clap::CommandFactory;
use std::collections::BTreeSet;
use toml::Value;

const GENERAL: &str = include_str!("general.toml");
const SEEDLING: &str = include_str!("../../models/seedling/policy/espalier.toml");

/// A value that is not the default, as a flag and as a file spell it.
fn sample(setting: &Setting) -> (String, Value) {
    match setting.kind {
        Kind::Address => ("10.0.0.7".to_owned(), Value::from("10.0.0.7")),
        Kind::Number(..) => ("7".to_owned(), Value::from(7)),
        Kind::Fraction => ("0.5".to_owned(), Value::from(0.5)),
        Kind::Text => ("seven".to_owned(), Value::from("seven")),
        Kind::Names => ("a,b".to_owned(), Value::from(vec!["a", "b"])),
        Kind::Origins => {
            ("https://a.example, http://b:3".to_owned(), Value::from(vec!["https://a.example", "http://b:3"]))
        }
        Kind::Choice(words) => (words[1].to_owned(), Value::from(words[1])),
        Kind::Filter => ("warn,espalier=debug".to_owned(), Value::from("warn,espalier=debug")),
    }
}

fn given(arguments: &[&str]) -> Given {
    let arguments = ["espalier", "serve"].into_iter().chain(arguments.iter().copied());
    match Cli::try_parse_from(arguments).expect("flags").command {
        Command::Serve(flags) => flags.0,
        other => panic!("{other:?}"),
    }
}

fn resolved(given: &Given, environment: &Environment, file: &str) -> Result<Settings, ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("serve.toml");
    std::fs::write(&path, file).expect("written");
    Settings::resolve(&Given { config: Some(path), ..given.clone() }, environment)
}

fn refused(file: &str) -> String {
    let error = File::parse("serve.toml", file).expect_err(file).to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn every_command_is_consistent_and_says_what_it_does() {
    fn check(command: &clap::Command) {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            check(sub);
        }
    }
    let mut command = Cli::command();
    command.build();
    command.clone().debug_assert();
    check(&command);
}

#[test]
fn the_flags_of_a_setting_stand_under_its_section() {
    let mut command = Cli::command();
    for name in ["serve", "config", "eval", "healthcheck"] {
        let command = command.find_subcommand_mut(name).expect(name);
        let mut headings = BTreeSet::new();
        for argument in command.get_arguments() {
            let setting = SETTINGS.iter().find(|setting| setting.flag == argument.get_id().as_str());
            let heading = argument.get_help_heading().map(str::to_lowercase);
            assert_eq!(heading.as_deref(), setting.map(|setting| setting.section), "{}", argument.get_id());
            headings.extend(heading);
        }
        let page = command.render_help().to_string();
        assert!(!headings.is_empty() && page.contains("--config"), "{page}");
        for heading in headings {
            assert!(page.to_lowercase().contains(&format!("\n{heading}:\n")), "{heading} {page}");
        }
    }
}

#[test]
fn the_table_of_settings_is_consistent_and_its_defaults_are_within_bounds() {
    let mut names = BTreeSet::new();
    for setting in SETTINGS {
        assert!(names.insert(setting.flag.to_owned()), "{}", setting.flag);
        assert!(names.insert(format!("{}.{}", setting.section, setting.key)), "{}", setting.key);
        assert_eq!(setting.default.is_none(), !setting.absent.is_empty(), "{}", setting.flag);
        if let Some(default) = setting.default {
            assert!(setting.kind.read(&[default.to_owned()]).is_some(), "{}", setting.flag);
        }
    }
    let defaults = ServeArgs::default();
    assert_eq!((defaults.host.to_string().as_str(), defaults.port), ("127.0.0.1", 8080));
    assert_eq!((defaults.max_concurrency, defaults.max_queue, defaults.body_limit), (256, 256, 4 << 20));
    assert_eq!((defaults.request_timeout, defaults.header_timeout, defaults.idle_timeout), (600, 30, 120));
    assert_eq!((defaults.keep_alive, defaults.shutdown_timeout), (10, 30));
    assert_eq!(defaults.allow_origin, [""; 0], "no other site's pages");
    assert_eq!((defaults.log_format, defaults.log_level.as_str()), (LogFormat::Human, "info"));
    assert_eq!((defaults.engine.kv_mib.get(), defaults.engine.step_positions.get()), (1024, 512));
    assert_eq!((defaults.engine.threads, defaults.engine.model.prm), (None, None));
    assert_eq!(
        (defaults.engine.model.name.as_str(), defaults.engine.model.served_model_name),
        (BUNDLED, vec![])
    );
}

#[test]
fn a_flag_comes_before_a_variable_before_the_file_before_the_default() {
    for setting in SETTINGS {
        let (text, value) = sample(setting);
        let flag = format!("--{}={text}", setting.flag);
        let variable = setting.variable();
        let key = setting.key;
        let file = format!("[{}]\n{key} = {value}\n", setting.section);
        let (by_flag, no_flag) = (given(&[&flag]), Given::default());
        let by_variable = Environment::from([(variable.as_str(), text.as_str())]);
        let empty = Environment::from([(variable.as_str(), "")]);
        let found = |given: &Given, environment: &Environment, file: &str| {
            let settings = resolved(given, environment, file).expect("valid");
            settings.value(setting).cloned()
        };
        assert_eq!(found(&by_flag, &by_variable, &file), Some((value.clone(), Origin::Flag)));
        let named = Origin::Variable(variable.clone());
        assert_eq!(found(&no_flag, &by_variable, &file), Some((value.clone(), named)));
        let (by_file, origin) = found(&no_flag, &empty, &file).expect("set");
        assert_eq!(by_file, value);
        assert!(matches!(origin, Origin::File(label) if label.ends_with("serve.toml")));
        let default = found(&no_flag, &empty, "");
        assert_eq!(default.is_some(), setting.default.is_some(), "{}", setting.flag);
        assert!(default.is_none_or(|(_, origin)| origin == Origin::Default));
    }
}

#[test]
fn what_every_program_logs_by_comes_after_all_that_is_said_to_this_one() {
    let level = |flags: &[&str], rust_log: &str, own: &str, file: &str| {
        let environment = Environment::from([("RUST_LOG", rust_log), ("ESPALIER_LOG_LEVEL", own)]);
        let settings = resolved(&given(flags), &environment, file).expect("it stops nothing");
        (settings.serve().log_level, settings.warnings)
    };
    let file = "[log]\nlevel = \"warn\"";
    assert_eq!(level(&[], "debug", "", ""), ("debug".to_owned(), vec![]));
    assert_eq!(level(&[], "debug", "", file), ("warn".to_owned(), vec![]));
    assert_eq!(level(&[], "debug", "error", file), ("error".to_owned(), vec![]));
    assert_eq!(level(&["--log-level=trace"], "sqlx", "error", file), ("trace".to_owned(), vec![]));
    assert_eq!(level(&[], "sqlx", "", file), ("warn".to_owned(), vec![]));
    let (level, warnings) = level(&[], "sqlx", "", "");
    assert_eq!((level.as_str(), warnings.len()), ("info", 1), "{warnings:?}");
    assert!(warnings[0].contains("RUST_LOG is `sqlx` and was ignored"), "{warnings:?}");
}

#[test]
fn what_is_set_reaches_the_field_of_its_name() {
    // One of the two that are in each other's place; the other has a test below.
    let flags: Vec<String> = SETTINGS
        .iter()
        .filter(|setting| setting.flag != "kv-fraction")
        .map(|setting| format!("--{}={}", setting.flag, sample(setting).0))
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let args = Settings::resolve(&given(&flags), &Environment::default()).expect("valid").serve();
    assert_eq!((args.host.to_string().as_str(), args.port, args.body_limit), ("10.0.0.7", 7, 7));
    assert_eq!((args.max_concurrency, args.max_queue), (7, 7));
    assert_eq!((args.request_timeout, args.header_timeout), (7, 7));
    assert_eq!((args.idle_timeout, args.keep_alive), (7, 7));
    assert_eq!((args.shutdown_timeout, args.log_format), (7, LogFormat::Json));
    assert_eq!(args.allow_origin, ["https://a.example", "http://b:3"]);
    let engine = args.engine;
    assert_eq!((engine.kv_mib.get(), engine.step_positions.get()), (7, 7));
    assert_eq!(engine.threads.map(NonZeroUsize::get), Some(7));
    let model = engine.model;
    assert_eq!((model.name.as_str(), model.revision.as_str()), ("seven", "seven"));
    assert_eq!(
        (model.served_model_name, model.prm.as_deref()),
        (vec!["a".to_owned(), "b".to_owned()], Some("seven"))
    );
    assert_eq!(model.max_model_len.map(NonZeroUsize::get), Some(7));
}

#[test]
fn origins_are_spelt_as_browsers_send_them_or_refused() {
    let read = |texts: &[&str]| {
        let flags: Vec<String> = texts.iter().map(|text| format!("--allow-origin={text}")).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Settings::resolve(&given(&flags), &Environment::default())
            .map(|settings| settings.serve().allow_origin)
    };
    let repeated = read(&["https://a.example, http://localhost:3000", "*"]).expect("valid");
    assert_eq!(repeated, ["https://a.example", "http://localhost:3000", "*"]);
    for good in [
        "http://127.0.0.1:8080",
        "http://[::1]",
        "http://[::1]:5173",
        "https://my_host.a-b.example:8443",
        "tauri://localhost",
        "chrome-extension://abcdefgh",
        "http://a:443",
    ] {
        assert_eq!(read(&[good]).expect(good), [good]);
    }
    for bad in [
        "https://a.example/",
        "https://a.example/app",
        "https://A.example",
        "HTTPS://a.example",
        "https://a.example:443",
        "http://a.example:80",
        "http://a:080",
        "http://a:99999",
        "http://a:",
        "http://a:b:1",
        "https://*.example",
        "https://user@a.example",
        "https://ä.example",
        "://a",
        "https://",
        "a.example",
        "null",
        "**",
        "https://a.example\nx",
    ] {
        assert!(matches!(read(&[bad]), Err(ConfigError::Flag { .. })), "{bad}");
    }
    let none = resolved(&Given::default(), &Environment::default(), "[server]\nallow_origins = []");
    assert_eq!(none.expect("a list of none").serve().allow_origin, [""; 0]);
}

#[test]
fn the_key_of_a_verifier_elsewhere_is_read_from_the_variable_that_is_named() {
    let remote = ["--prm=http://127.0.0.1:9/", "--prm-api-key-env=PRM_KEY"];
    let made = |flags: &[&str], key: &str| {
        let environment = Environment::from([("PRM_KEY", key)]);
        let settings = Settings::resolve(&given(flags), &environment).map_err(|error| error.to_string())?;
        Ok::<_, String>(settings.engine().model)
    };
    let model = made(&remote, "s3cret").expect("valid");
    assert_eq!(model.prm_api_key, crate::verify::ApiKey::new("s3cret"));
    assert!(model.prm_api_key.is_some());
    assert!(!format!("{model:?}").contains("s3cret"), "nothing shows it");
    assert_eq!(made(&remote[..1], "s3cret").expect("valid").prm_api_key, None);
    assert_eq!(made(&["--prm=none", remote[1]], "").expect("it is not read").prm_api_key, None);
    let place = "--prm-api-key-env names the environment variable `PRM_KEY`, ";
    assert_eq!(made(&remote, ""), Err(format!("{place}and there is no such variable")));
    assert_eq!(made(&remote, "a\nb"), Err(format!("{place}which holds characters that no key has")));
}

#[test]
fn the_pool_has_one_size_that_of_the_stronger_layer() {
    let size = |given: &Given, environment: &Environment, file: &str| {
        let settings = resolved(given, environment, file).map_err(|error| error.to_string())?;
        let shown = |flag: &str| settings.origin(flag).is_some();
        assert!(shown("kv-mib") != shown("kv-fraction"), "one of them is set aside");
        let engine = settings.engine();
        let rules = engine.kv_fraction.is_some();
        assert_eq!(rules, shown("kv-fraction"));
        let mut page = Vec::new();
        print(&settings, &Err("nobody asks".to_owned()), &mut page).expect("written");
        let again =
            resolved(&Given::default(), &Environment::default(), std::str::from_utf8(&page).expect("text"))
                .expect("what is printed is a file");
        assert_eq!((again.engine().kv_fraction, again.engine().kv_mib), (engine.kv_fraction, engine.kv_mib));
        Ok::<_, String>(engine.kv_fraction.ok_or(engine.kv_mib.get()))
    };
    let (none, mib, part) = (Given::default(), given(&["--kv-mib=5"]), given(&["--kv-fraction=0.25"]));
    let unset = Environment::default();
    let variable = Environment::from([("ESPALIER_KV_FRACTION", "0.5")]);
    let (file_mib, file_part) = ("[engine]\nkv_mib = 7", "[engine]\nkv_fraction = 1");
    assert_eq!(size(&none, &unset, ""), Ok(Err(1024)));
    assert_eq!(size(&none, &unset, file_part), Ok(Ok(1.0)), "over the default of the other");
    assert_eq!(size(&mib, &variable, file_part), Ok(Err(5)));
    assert_eq!(size(&part, &unset, file_mib), Ok(Ok(0.25)));
    assert_eq!(size(&none, &variable, file_mib), Ok(Ok(0.5)));
    let chosen = |flags: &[&str]| {
        let engine = Settings::resolve(&given(flags), &unset).expect("valid").engine();
        (engine.kv_chosen, engine.prm_kv_chosen)
    };
    assert_eq!(chosen(&[]), (false, false));
    for size in ["--kv-mib=1024", "--kv-fraction=0.25"] {
        assert_eq!(chosen(&[size]), (true, false), "{size}");
    }
    assert_eq!(chosen(&["--prm-kv-mib=512"]), (false, true));
    let both = size(&given(&["--kv-mib=5", "--kv-fraction=0.25"]), &unset, "").expect_err("both");
    assert!(
        both.starts_with("--kv-mib and --kv-fraction say the same") && both.lines().count() == 1,
        "{both}"
    );
    let both = size(&none, &unset, "[engine]\nkv_mib = 7\nkv_fraction = 0.5").expect_err("both");
    assert!(
        both.contains("kv_mib in ") && both.contains("kv_fraction in ") && both.contains("serve.toml"),
        "{both}"
    );
}

#[test]
fn values_out_of_bounds_are_refused_with_the_bound_wherever_they_stand() {
    for (flag, text, bound) in [
        ("port", "65536", "from 0 to 65535"),
        ("port", "-1", "from 0 to 65535"),
        ("port", "http", "from 0 to 65535"),
        ("threads", "0", "from 1 to 4096"),
        ("kv-mib", "1.5", "a whole number"),
        ("kv-fraction", "0", "above 0 and at most 1"),
        ("kv-fraction", "1.01", "above 0 and at most 1"),
        ("kv-fraction", "nan", "above 0 and at most 1"),
        ("kv-fraction", "half", "above 0 and at most 1"),
        ("host", "localhost", "an IP address"),
        ("log-format", "xml", "human or json"),
        ("log-level", "a=b=c", "a log level"),
        ("log-level", "verbose", "a log level"),
        ("model", " ", "a text that is not empty"),
        ("served-model-name", "a,,b", "one or more names"),
        ("allow-origin", "https://a.example,", "origins as browsers send them"),
        ("allow-origin", "localhost:3000", "origins as browsers send them"),
    ] {
        let setting = SETTINGS.iter().find(|setting| setting.flag == flag).expect(flag);
        let flagged = given(&[&format!("--{flag}={text}")]);
        let error = Settings::resolve(&flagged, &Environment::default()).expect_err(flag);
        assert!(matches!(error, ConfigError::Flag { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.starts_with(&format!("--{flag} is ")) && error.contains(bound), "{error}");
        if !text.trim().is_empty() {
            let variable = setting.variable();
            let environment = Environment::from([(variable.as_str(), text)]);
            let error = Settings::resolve(&Given::default(), &environment).expect_err(flag).to_string();
            assert!(error.contains(&format!("{variable} is `{text}`")) && error.contains(bound), "{error}");
        }
        let error = refused(&format!("[{}]\n\n{} = {text:?}\n", setting.section, setting.key));
        assert!(error.starts_with("serve.toml, line 3: ") && error.contains(bound), "{error}");
    }
    let error = refused("[server]\nport = true");
    assert!(error.contains("server.port is true"), "{error}");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one_and_their_line() {
    for (file, line, key, hint) in [
        ("\n[server]\nprot = 1", 3, "server.prot", "did you mean `port`?"),
        ("[servr]\nport = 1", 1, "servr", "did you mean `server`?"),
        ("port = 1", 1, "port", "did you mean `port` in [server]?"),
        ("[server]\nkv-mib = 1", 2, "server.kv-mib", "did you mean `kv_mib` in [engine]?"),
        (
            "[engine]\nhue = 1",
            2,
            "engine.hue",
            "known here: kv_mib, kv_fraction, prm_kv_mib, threads, step_positions",
        ),
        (
            "[models.m.plan]\ndefault_efort = 1",
            2,
            "models.m.plan.default_efort",
            "did you mean `default_effort`?",
        ),
        ("[models.\"a/b\".prompts]", 1, "models.\"a/b\".prompts", "did you mean `prompt`?"),
        (
            "[models.m.plan.efforts]\nlow = { brunches = 2 }",
            2,
            "models.m.plan.efforts.low.brunches",
            "`branches`?",
        ),
        ("[models.m.plan.efforts.hihg]\nbudget = 2", 1, "models.m.plan.efforts.hihg", "did you mean `high`?"),
        ("[models.m.plan.modes.mtcs]\nbudget = 2", 1, "models.m.plan.modes.mtcs", "did you mean `mcts`?"),
        ("[models.m.plan.modes]\npro.budget = 2", 2, "models.m.plan.modes.pro", "auto"),
        (
            "[models.m.plan.modes.auto]\nmode = \"auto\"",
            2,
            "models.m.plan.modes.auto.mode",
            "probe_confidence",
        ),
    ] {
        let error = refused(file);
        assert!(error.starts_with(&format!("serve.toml, line {line}: unknown key `{key}`; ")), "{error}");
        assert!(error.ends_with(hint), "{error}");
    }
}

#[test]
fn files_that_are_broken_name_the_line() {
    for (file, line, named) in [
        ("[server\nport = 1", 1, "unclosed"),
        ("[server]\nport = 1\nport = 2", 3, "duplicate"),
        ("server = 3", 1, "`server` is a section"),
        ("[models]\nm = 3", 2, "`models.m` is a section"),
        ("[models.m.prompt]\n\nchain_of_thought = 3", 3, "models.m.prompt.chain_of_thought: invalid type"),
        (
            "[models.m.plan.efforts]\nlow = { mode = \"beem\" }",
            2,
            "models.m.plan.efforts.low: mode is 'beem' and must be one of direct, cot",
        ),
        ("[models.m.plan.efforts.low]\nmode = \"cot\"\ntemperature = 2.5", 3, "low: temperature is 2.5"),
        (
            "[models.m.plan.efforts.low]\nbranches = 0",
            2,
            "low: branches is 0 and must be a whole number from 1 to 256",
        ),
        (
            "[models.m.plan.modes.auto]\nbudget = 9\nprobe = 0",
            3,
            "modes.auto: probe is 0 and must be a whole number from 1 to 64",
        ),
    ] {
        let error = refused(file);
        assert!(error.starts_with(&format!("serve.toml, line {line}: ")) && error.contains(named), "{error}");
    }
    let error = model_file("espalier.toml of 'm'", "[prompt]\nhue = 3").expect_err("unknown").to_string();
    assert!(error.starts_with("espalier.toml of 'm', line 2: unknown key `prompt.hue`"), "{error}");
}

/// What a type's deserializer says that it knows; asked by an unknown key.
fn fields_of<T: for<'a> Deserialize<'a>>() -> BTreeSet<String> {
    let error = toml::from_str::<T>("no_such_field = 1").err().expect("unknown").to_string();
    let (_, known) = error.split_once("expected").expect("a list");
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_files_schema_knows_every_key_of_a_models_settings() {
    let set = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(fields_of::<crate::prompt::Config>(), set(PROMPT));
    assert_eq!(fields_of::<crate::plan::Config>(), set(PLAN));
    // A row reads any key, and says itself which it does not know.
    let read = |key: &str, value: Value| {
        let mut line: Table = toml::from_str("mode = \"cot\"\nbudget = 9").expect("TOML");
        line.insert(key.to_owned(), value);
        line.try_into::<crate::plan::Row>().map(drop).map_err(|error| error.to_string())
    };
    for key in row() {
        let value = match crate::plan::Parameter::named(key).map(|spec| spec.kind) {
            Some(crate::plan::Kind::Count(_, most)) => Value::from(i64::from(most)),
            Some(crate::plan::Kind::Number(least, _)) => Value::from(least),
            Some(crate::plan::Kind::Choice(words)) => Value::from(words[0]),
            Some(crate::plan::Kind::Flag) => Value::from(false),
            None if key == "mode" => Value::from("direct"),
            None => Value::from(1),
        };
        assert_eq!(read(key, value), Ok(()), "{key}");
    }
    assert!(read("hue", Value::from(1)).is_err_and(|error| error.contains("hue is no parameter")));
    assert_eq!(fields_of::<crate::verify::JudgeConfig>(), set(JUDGE));
    assert_eq!(fields_of::<ModelConfig>(), set(&known_keys(&["models", "m"])));
}

#[test]
fn a_models_settings_are_layered_key_by_key() {
    let table = |text: &str| toml::from_str::<Table>(text).expect("TOML");
    let own = table("[prompt]\nanswer_marker = \"So:\"\n[plan.efforts]\nlow = { budget = 99 }");
    let over = table("[plan.efforts.low]\nmode = \"direct\"\n[prompt]\nstep_separator = \"|\"");
    let config = ModelConfig::layered(&[&general(""), &own, &over]).expect("valid");
    assert_eq!(config.prompt.answer_marker.as_deref(), Some("So:"));
    assert_eq!(config.prompt.step_separator, "|");
    let low = config.plan.row(crate::plan::Effort::Low);
    assert_eq!((low.mode.name(), low.terms.budget), ("direct", 99));
    let medium = config.plan.row(crate::plan::Effort::Medium);
    assert_eq!(medium.terms.settings.count(crate::plan::Parameter::Branches), 16, "general");

    let thinking = general("x </think> y");
    let config = ModelConfig::layered(&[&thinking]).expect("valid");
    assert_eq!(config.prompt.answer_marker.as_deref(), Some("</think>"));
    assert!(!config.prompt.answer_marker_shown);
    assert_eq!(config.prompt.thought_opening.as_deref(), Some("<think>"));
    let none = table("[prompt]\nanswer_marker = \"\"");
    let config = ModelConfig::layered(&[&thinking, &none]).expect("valid");
    assert_eq!(config.prompt.answer_marker, None, "an empty marker takes one away");
    assert_eq!(config.prompt.thought_opening, None, "and with it what thoughts begin with");
    let always = table("[prompt]\nthought_opening = \"\"");
    let config = ModelConfig::layered(&[&thinking, &always]).expect("valid");
    assert_eq!(
        (config.prompt.answer_marker.as_deref(), config.prompt.thought_opening),
        (Some("</think>"), None)
    );
}

#[test]
fn a_row_that_gets_another_mode_keeps_what_every_mode_has() {
    let own: Table = toml::from_str(SEEDLING).expect("TOML");
    let over = |text: &str| {
        let over: Table = toml::from_str(text).expect("TOML");
        ModelConfig::layered(&[&general(""), &own, &over]).expect("valid").plan.row(Effort::High).clone()
    };
    let tree = over("");
    assert_eq!(tree.terms.settings.get(Parameter::VoteLikelihood), Some(plan::Setting::Number(0.5)));
    assert_eq!(tree.terms.settings.get(Parameter::Wave), None, "the general row's is a vote's");
    let vote = over("[plan.efforts]\nhigh = { mode = \"self_consistency\", branches = 9 }");
    assert_eq!(
        (vote.mode.name(), vote.terms.budget, vote.terms.temperature),
        ("self_consistency", 65536, Some(0.8))
    );
    let set: Vec<_> = vote.terms.settings.iter().collect();
    assert_eq!(set, [(Parameter::Branches, plan::Setting::Count(9))], "nothing of the tree's");
    let wide = over("[plan.efforts]\nhigh = { mode = \"mcts\", width = 9 }");
    let (width, rest) = (wide.terms.settings.count(Parameter::Width), wide.terms.settings.iter().count());
    assert_eq!((width, rest), (9, tree.terms.settings.iter().count()), "the same mode, named again");
    assert_eq!(over("[plan.efforts.high]\nbudget = 9").terms.settings, tree.terms.settings);
}

#[test]
fn a_row_is_printed_with_what_its_mode_has() {
    let own: Table = toml::from_str(SEEDLING).expect("TOML");
    let settings = resolved(&Given::default(), &Environment::default(), "").expect("valid");
    let printed = |sections: Vec<Table>| {
        let layers =
            ModelLayers { name: "m".to_owned(), general: general(""), own: Some(own.clone()), sections };
        let mut page = Vec::new();
        print(&settings, &Ok(layers), &mut page).expect("written");
        let page: Table = toml::from_str(std::str::from_utf8(&page).expect("text")).expect("TOML");
        page["models"]["m"]["plan"]["efforts"].clone()
    };
    assert_eq!(printed(Vec::new()), own["plan"]["efforts"], "nothing of the general rows'");
    let over = toml::from_str("[plan.efforts]\nhigh = { mode = \"self_consistency\" }").expect("TOML");
    let high =
        toml::from_str("mode = \"self_consistency\"\ntemperature = 0.8\nbudget = 65536").expect("TOML");
    assert_eq!(printed(vec![over])["high"], Value::Table(high));
}

#[test]
fn the_answer_reserve_is_a_setting_of_the_model_over_a_general_one() {
    let general = general("");
    let reserve = |own: &str| {
        let own: Table = toml::from_str(own).expect("TOML");
        ModelConfig::layered(&[&general, &own]).expect("valid").plan.answer_reserve
    };
    assert_eq!([reserve(""), reserve("[plan]\nanswer_reserve = 0")], [512, 0]);
    // A table without it has the same default, which the example file shows.
    let mut plan = general["plan"].clone();
    plan.as_table_mut().expect("a section").remove("answer_reserve");
    assert_eq!(plan.try_into::<plan::Config>().expect("valid").answer_reserve, 512);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/espalier.toml");
    let example = std::fs::read_to_string(example).expect("the example");
    assert!(example.contains("\n# answer_reserve = 512\n"));
}

#[test]
fn mistakes_in_a_models_settings_are_named() {
    for (from, to, named) in [
        ("mode = \"cot\"", "mode = \"beem\"", "mode is 'beem'"),
        ("mode = \"cot\"", "mode = \"pro\"", "mode is 'pro'"),
        ("temperature = 0.8", "temperature = 2.5", "2.5"),
        ("branches = 16", "branches = 0", "medium"),
        ("default_effort = \"low\"", "default_effort = \"huge\"", "huge"),
        ("branch_tokens = 512", "branch_tokens = 0", "branch_tokens"),
        ("answer_reserve = 512", "answer_reserve = -1", "answer_reserve"),
        (
            "[plan.efforts]",
            "[plan.modes]\nstandard = { budget = 9 }\n[plan.efforts]",
            "plan.modes.standard chooses a row",
        ),
    ] {
        let table: Table = toml::from_str(&GENERAL.replacen(from, to, 1)).expect("TOML");
        let error = ModelConfig::layered(&[&table]).expect_err(named).to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    let file = "[server]\nport = 81\n\n[models.\"a b\"]\nplan.efforts.low.budget = 5\n\
                [models.other.prompt]\nstep_separator = \"\\n'\\\"\\u007f\\\\\"\n";
    let flags = ["--kv-mib=3", "--served-model-name", "x", "y z", "--model", "a b", "--allow-origin=*"];
    let flags = given(&flags);
    let environment = Environment::from([("ESPALIER_THREADS", "2")]);
    let settings = resolved(&flags, &environment, file).expect("valid");
    let own = toml::from_str("[prompt]\nchain_of_thought = \"\"\"One\nTwo\"\"\"").expect("TOML");
    let section = settings.models["a b"].as_table().cloned().expect("a section");
    let general = general("");
    let layers = ModelLayers {
        name: "a b".to_owned(),
        general: general.clone(),
        own: Some(own),
        sections: vec![section],
    };
    let page = |settings: &Settings, layers: &Result<ModelLayers, String>| {
        let mut page = Vec::new();
        print(settings, layers, &mut page).expect("written");
        String::from_utf8(page).expect("text")
    };
    let first = page(&settings, &Ok(layers));
    for line in [
        "port = 81  # file ",
        "kv_mib = 3  # flag",
        "served_model_name = [\"x\", \"y z\"]  # flag",
        "allow_origins = [\"*\"]  # flag",
        "threads = 2  # env ESPALIER_THREADS",
        "host = \"127.0.0.1\"  # default",
        "# max_model_len =  # default: the model's own context",
        "chain_of_thought = \"One\\nTwo\"  # model",
        "budget = 5  # file ",
        "step_separator = \"\\n\\n\"  # default",
        "answer_reserve = 512  # default",
        "[models.\"a b\".plan.efforts.low]",
        "[models.other.prompt]",
    ] {
        assert!(first.lines().any(|found| found.starts_with(line)), "{line}\n{first}");
    }
    let again = resolved(&Given::default(), &Environment::default(), &first).expect("loads");
    assert_eq!(again.serve().engine.model.served_model_name, ["x", "y z"]);
    assert_eq!(again.models["other"], settings.models["other"]);
    for setting in SETTINGS {
        let value = |settings: &Settings| settings.value(setting).map(|(value, _)| value.clone());
        assert_eq!(value(&again), value(&settings), "{}", setting.flag);
    }
    let section = again.models["a b"].as_table().cloned().expect("a section");
    let layers = ModelLayers { name: "a b".to_owned(), general, own: None, sections: vec![section] };
    let without_origins = |page: &str| {
        let value = |line: &str| line.split("  # ").next().unwrap_or_default().to_owned();
        page.lines().map(value).collect::<Vec<_>>()
    };
    assert_eq!(without_origins(&page(&again, &Ok(layers))), without_origins(&first));
    let unknown = page(&settings, &Err("it is not here".to_owned()));
    assert!(unknown.contains("# The model's own settings are not shown: it is not here"), "{unknown}");
    assert!(unknown.contains("[models.\"a b\".plan.efforts.low]"), "{unknown}");
}
