//! The server under the official OpenAI clients, each in its own language.
//!
//! The suites lie in `tests/sdk` and know only a URL. This module brings up a
//! server, installs the clients at their pinned versions below the target
//! folder, and fails with a suite's own output. A missing interpreter is a
//! failure, not a skip: a skipped conformance suite looks just like a passed one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;

/// Where the suites lie.
fn suites() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk")
}

/// A folder below the target folder for what one suite installs.
pub(crate) fn workplace(name: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Runs a program to its end; its output either way, as an error if it failed.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("`{program}` is not installed, and this test needs it"),
        _ => format!("`{program}` did not start: {error}"),
    })?;
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if output.status.success() { Ok(said) } else { Err(format!("{command:?}: {}\n{said}", output.status)) }
}

/// Runs `install` unless it has succeeded before with the same `pins`.
pub(crate) fn install_once(
    folder: &Path,
    pins: &str,
    install: impl FnOnce() -> Result<String, String>,
) -> Result<(), String> {
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == pins) {
        return Ok(());
    }
    install()?;
    // Written last: an installation that was cut off is made again.
    fs::write(&stamp, pins).map_err(|error| format!("{}: {error}", stamp.display()))
}

pub(crate) fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn python(url: &str) -> Result<String, String> {
    let folder = workplace("sdk-python")?;
    let requirements = suites().join("requirements.txt");
    let interpreter = folder.join("venv/bin/python");
    install_once(&folder, &read(&requirements)?, || {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        run(Command::new(&interpreter).args(pip).arg(&requirements))
    })?;
    // Neither bytecode nor pytest's cache may appear among the sources.
    run(against(url, &mut Command::new(&interpreter))
        .args(["-B", "-m", "pytest", "-rs", "--color=no", "-p", "no:cacheprovider"])
        .arg(suites()))
}

fn node(url: &str) -> Result<String, String> {
    let folder = workplace("sdk-node")?;
    let manifest = read(&suites().join("package.json"))?;
    // Node looks for packages beside the script, so the script goes to them.
    let script = folder.join("openai_node.mjs");
    for (path, text) in [
        (folder.join("package.json"), &manifest),
        (script.clone(), &read(&suites().join("openai_node.mjs"))?),
    ] {
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    install_once(&folder, &manifest, || {
        let npm = ["install", "--no-package-lock", "--no-audit", "--no-fund", "--prefix"];
        run(Command::new("npm").args(npm).arg(&folder))
    })?;
    run(against(url, &mut Command::new("node")).arg("--test").arg(script))
}

/// Points a suite at the server, past any proxy that the environment names.
pub(crate) fn against<'a>(url: &str, command: &'a mut Command) -> &'a mut Command {
    command
        .env("ESPALIER_URL", url)
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("no_proxy", "127.0.0.1,localhost")
}

/// Runs a suite against a fresh server, away from the threads that serve it.
async fn suite(suite: fn(&str) -> Result<String, String>) -> Result<String, String> {
    let server = support::serve().await;
    let url = server.url.clone();
    let outcome = tokio::task::spawn_blocking(move || suite(&url)).await;
    // The server lives until its suite is over.
    drop(server);
    outcome.map_err(|error| error.to_string())?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_python_finds_an_openai_server() {
    match suite(python).await {
        // Shown with `--nocapture`: what was skipped, and how much was run.
        Ok(said) => println!("{said}"),
        Err(said) => panic!("{said}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_node_finds_an_openai_server() {
    match suite(node).await {
        Ok(said) => println!("{said}"),
        Err(said) => panic!("{said}"),
    }
}

#[test]
fn a_failing_program_fails_with_what_it_said() {
    let said = run(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]));
    assert!(said.is_err_and(|said| said.contains("one") && said.contains("two") && said.contains('3')));
    let missing = run(&mut Command::new("no-such-interpreter"));
    assert!(missing.is_err_and(|said| said.contains("`no-such-interpreter` is not installed")));
}

#[test]
fn an_installation_is_made_again_when_its_pins_change_or_it_was_cut_off() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut made = Vec::new();
    for (pins, works) in [("a", false), ("a", true), ("a", true), ("b", true)] {
        let outcome = install_once(folder.path(), pins, || {
            made.push(pins);
            if works { Ok(String::new()) } else { Err("cut off".to_owned()) }
        });
        assert_eq!(outcome.is_ok(), works);
    }
    assert_eq!(made, ["a", "a", "b"]);
}
