//! The page in a real browser.
//!
//! The suite lies in `tests/browser`. It drives a Chromium that the machine
//! already has; none is downloaded. Where there is none, the test is skipped
//! with a note, and fails under `CI=true`: there, a skipped test looks just like
//! a passed one.

use crate::sdk::{against, install_once, read, run, workplace};
use crate::support;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names under which distributions install the browser.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The browser: what `CHROMIUM` names, else the first on the path.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || {
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        NAMES
            .iter()
            .find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file()))
    };
    named.or_else(found)
}

fn suite(url: &str, browser: &Path) -> Result<String, String> {
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let folder = workplace("browser")?;
    let manifest = read(&suites.join("package.json"))?;
    // Node looks for packages beside the script, so the script goes to them.
    let script = folder.join("page.mjs");
    for (path, text) in
        [(folder.join("package.json"), &manifest), (script.clone(), &read(&suites.join("page.mjs"))?)]
    {
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    install_once(&folder, &manifest, || {
        let npm = ["install", "--no-package-lock", "--no-audit", "--no-fund", "--prefix"];
        run(Command::new("npm").args(npm).arg(&folder))
    })?;
    let node = &mut Command::new("node");
    run(against(url, node).env("CHROMIUM", browser).arg("--test").arg(script))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_can_use_the_page() {
    let Some(browser) = chromium() else {
        let strict = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!strict, "no Chromium was found: install the package `chromium`, or name one by CHROMIUM");
        println!("NOT TESTED: the page, for no Chromium was found");
        return;
    };
    let server = support::serve().await;
    let url = server.url.clone();
    let outcome = tokio::task::spawn_blocking(move || suite(&url, &browser)).await;
    drop(server);
    match outcome.map_err(|error| error.to_string()).and_then(|outcome| outcome) {
        Ok(said) => println!("{said}"),
        Err(said) => panic!("{said}"),
    }
}
