//! The same products by NumPy's OpenBLAS, in a child process.
//!
//! A process of its own, because OpenBLAS takes its number of threads from its
//! environment when it is loaded, and so that nothing here links to it.

use super::BenchError;
use super::report::Product;
use serde::Deserialize;
use serde_json::json;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Reads a job from standard input and prints seconds per product. Weights are
/// tried in both layouts; the faster one counts.
const SCRIPT: &str = r#"
import json, sys, time
try:
    import numpy as np
except ImportError:
    sys.exit("NumPy is not installed for python3")
job = json.load(sys.stdin)
noise = np.random.default_rng(0).random(4099, dtype=np.float32) - np.float32(0.5)
seconds = []
for shape in job:
    k, n, rows = shape["k"], shape["n"], shape["rows"]
    x = np.resize(noise, (rows, k))
    out = np.empty((rows, n), dtype=np.float32)
    best = float("inf")
    for transposed in (True, False):
        size = (n, k) if transposed else (k, n)
        weights = [np.resize(noise, size) for _ in range(shape["count"])]
        weights = [w.T for w in weights] if transposed else weights
        times, begun = [], None
        while begun is None or len(times) < 3 or time.perf_counter() - begun < 0.1:
            start = time.perf_counter()
            for w in weights:
                np.matmul(x, w, out=out)
            if begun is None:
                begun = time.perf_counter()
            else:
                times.append(time.perf_counter() - start)
        best = min(best, sorted(times)[len(times) // 2])
    seconds.append(best)
try:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
except Exception:
    blas = "unknown BLAS"
json.dump({"name": f"NumPy {np.__version__} ({blas})", "seconds": seconds}, sys.stdout)
"#;

#[derive(Deserialize)]
struct Answer {
    name: String,
    seconds: Vec<f64>,
}

/// Fills in NumPy's rate for every product; returns what it calls itself.
///
/// # Errors
/// When there is no `python3` on the PATH, or it has no NumPy.
pub(super) fn multiply(products: &mut [Product], threads: usize) -> Result<String, BenchError> {
    multiply_by("python3", products, threads)
}

fn multiply_by(python: &str, products: &mut [Product], threads: usize) -> Result<String, BenchError> {
    let failed = |why: &dyn std::fmt::Display| {
        BenchError::Broken(format!(
            "--numpy: {why}; install NumPy for the {python} on the PATH, or leave --numpy away"
        ))
    };
    let mut child = Command::new(python);
    for variable in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        child.env(variable, threads.to_string());
    }
    let pipes =
        child.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = pipes.spawn().map_err(|error| failed(&format!("{python} cannot be run: {error}")))?;
    let job: Vec<_> =
        products.iter().map(|p| json!({"rows": p.rows, "k": p.k, "n": p.n, "count": p.count})).collect();
    if let Some(mut input) = running.stdin.take() {
        // A child that ends at once leaves a closed pipe; what it said tells why.
        let _ = input.write_all(serde_json::Value::from(job).to_string().as_bytes());
    }
    let output = running.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&said.trim().lines().last().unwrap_or("python3 failed")));
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|error| failed(&format!("no answer: {error}")))?;
    if answer.seconds.len() != products.len() {
        return Err(failed(&"an answer of another length"));
    }
    for (product, seconds) in products.iter_mut().zip(answer.seconds) {
        product.openblas_gflops = Some(product.flops() / seconds / 1e9);
    }
    Ok(answer.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_that_is_not_there_is_told_in_one_line() {
        let error = multiply_by("no-such-python", &mut [], 1).expect_err("not there").to_string();
        assert!(error.contains("no-such-python cannot be run") && error.lines().count() == 1, "{error}");
        let error = multiply_by("false", &mut [], 1).expect_err("fails").to_string();
        assert!(error.starts_with("--numpy: ") && error.lines().count() == 1, "{error}");
    }
}
