//! The same workloads by llama.cpp, in a child process.
//!
//! `llama-batched-bench` decodes branches of one prompt in lockstep, without
//! sampling. It knows no branches of unlike lengths, so our C is set beside its
//! B. Every workload runs with a KV copy for each branch and with one for all,
//! where it fits; the faster one counts.

use super::BenchError;
use super::spread::Spread;
use super::workload::{Name, Workload};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where llama.cpp is, and the model for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Llama<'a> {
    /// `llama-batched-bench`.
    pub program: &'a Path,
    /// The same weights as a GGUF file in f32.
    pub model: &'a Path,
    /// Threads.
    pub threads: usize,
    /// Runs of each variant.
    pub runs: usize,
}

/// One workload there and here.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    /// The workload of ours.
    pub name: Name,
    /// Branches that it decoded.
    pub branches: usize,
    /// How it kept the KV in the faster variant.
    pub kv: &'static str,
    /// Its tokens per second.
    pub tokens_per_second: Spread,
    /// Ours by its.
    pub ratio: f64,
}

/// How often a run is repeated that prints nothing: its log is written by a
/// thread that its end may overtake.
const TRIES: usize = 8;

/// One line of `--output-format jsonl`.
#[derive(Deserialize)]
struct Line {
    speed_tg: f64,
}

/// The variants, and the arguments that ask for them.
const VARIANTS: [(&str, &[&str]); 2] = [("own copies", &[]), ("one copy", &["-kvu"])];

/// Branches to fall back to where it refuses as many as we have.
const FEWER: usize = 200;

/// Its best figure for a workload of ours, which reached `ours` tokens a second.
///
/// # Errors
/// When it cannot be run in any variant.
pub(super) fn measure(
    llama: Llama<'_>,
    (workload, new): (&Workload, usize),
    ours: f64,
) -> Result<Peer, BenchError> {
    let mut best: Option<Peer> = None;
    let mut refusal = None;
    for (kv, extra) in VARIANTS {
        for branches in [workload.branches, workload.branches.min(FEWER)] {
            match rates(llama, (workload.shared, new, branches), extra) {
                Ok(rates) => {
                    let rate = Spread::of(rates);
                    if best.as_ref().is_none_or(|best| best.tokens_per_second.median < rate.median) {
                        let ratio = ours / rate.median;
                        let name = workload.name;
                        best = Some(Peer { name, branches, kv, tokens_per_second: rate, ratio });
                    }
                    break;
                }
                Err(error) => refusal = Some(error),
            }
        }
    }
    match (best, refusal) {
        (Some(best), _) => Ok(best),
        (None, Some(error)) => Err(error),
        (None, None) => Err(BenchError::Broken("--llama: nothing was run".to_owned())),
    }
}

fn rates(
    llama: Llama<'_>,
    (shared, new, branches): (usize, usize, usize),
    extra: &[&str],
) -> Result<Vec<f64>, BenchError> {
    // Own copies repeat the prompt for every branch.
    let copies = if extra.is_empty() { branches } else { 1 };
    let context = copies * shared + branches * new;
    (0..llama.runs)
        .map(|_| {
            let mut command = Command::new(llama.program);
            command.arg("-m").arg(llama.model).args(["-fa", "on", "-pps", "--output-format", "jsonl"]);
            for (flag, value) in [
                ("-t", llama.threads),
                ("-npp", shared),
                ("-ntg", new),
                ("-npl", branches),
                ("-c", context.next_multiple_of(1024)),
            ] {
                command.arg(flag).arg(value.to_string());
            }
            speed(command.args(extra))
        })
        .collect()
}

/// Whether there is such a program.
///
/// # Errors
/// When it cannot be started.
pub(super) fn try_start(program: &Path) -> Result<(), BenchError> {
    let mut command = Command::new(program);
    let quiet = command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().map_err(|error| failed(program.as_os_str(), &error))?;
    // That it was there is all; it may have ended by itself.
    drop(child.kill());
    child.wait()?;
    Ok(())
}

fn failed(program: &OsStr, why: &dyn std::fmt::Display) -> BenchError {
    let program = program.display();
    BenchError::Broken(format!("--llama: {program}: {why}; build llama-batched-bench of llama.cpp"))
}

fn speed(command: &mut Command) -> Result<f64, BenchError> {
    let program = command.get_program().to_owned();
    let failed = |why: &dyn std::fmt::Display| failed(&program, why);
    for _ in 0..TRIES {
        let output = command.stdin(Stdio::null()).output().map_err(|error| failed(&error))?;
        if !output.status.success() {
            return Err(failed(&output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().rev().find_map(|line| serde_json::from_str::<Line>(line.trim()).ok());
        if let Some(speed) = line.map(|line| line.speed_tg).filter(|speed| *speed > 0.0) {
            return Ok(speed);
        }
    }
    Err(failed(&"it printed no speed"))
}

#[cfg(test)]
mod tests {
    use super::super::workload::ALL;
    use super::*;

    #[test]
    fn a_program_that_fails_or_says_nothing_is_told_in_one_line() {
        for program in ["no-such-llama", "false", "true"] {
            let (program, model) = (Path::new(program), Path::new("model.gguf"));
            let llama = Llama { program, model, threads: 1, runs: 1 };
            let error = measure(llama, (&ALL[1], 24), 1.0).expect_err("no figures").to_string();
            assert!(error.starts_with("--llama: ") && error.lines().count() == 1, "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_faster_variant_counts_and_fewer_branches_stand_for_too_many() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("llama-batched-bench");
        // Refuses 256 branches, and is faster with one copy.
        let script = "#!/bin/sh\ncase \"$*\" in *'-npl 256'*) exit 1;; *-kvu*) s=20;; *) s=10;; esac\n\
                      echo noise\necho \"{\\\"pl\\\": 1, \\\"speed_tg\\\": $s.5}\"\n";
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let llama = Llama { program: &program, model: Path::new("model.gguf"), threads: 2, runs: 2 };
        let peer = measure(llama, (&ALL[3], 24), 41.0).expect("figures");
        assert_eq!((peer.name, peer.branches, peer.kv), (Name::D, 200, "one copy"));
        assert_eq!((peer.tokens_per_second.median, peer.ratio), (20.5, 2.0));
        let peer = measure(llama, (&ALL[1], 24), 41.0).expect("figures");
        assert_eq!(peer.branches, 64);
    }
}
