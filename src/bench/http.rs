//! `espalier bench http`: the processor time that a request costs outside the
//! model.
//!
//! The real server (sockets, JSON, template, tokenizer, plan, run, rendering)
//! runs on one thread over an engine that says one token and ends; that
//! thread's own processor time over the requests is the figure. The client and
//! the engine run on other threads and are not in it.

use super::BenchError;
use crate::app;
use crate::client::Client;
use crate::config::BUNDLED;
use crate::engine::scripted::{Script, ScriptedEngine};
use crate::engine::{Caps, EngineThread};
use crate::http::{self, ModelCard};
use crate::metrics::Metrics;
use crate::plan::{Planner, PlannerParts, Verifiers};
use cpu_time::ThreadTime;
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Requests before the measured ones.
const WARM_UP: usize = 200;

/// Measures and prints.
///
/// # Errors
/// When the server does not answer.
pub async fn run(requests: usize, out: &mut dyn Write) -> Result<(), BenchError> {
    let loaded = app::load(BUNDLED)?;
    let broken = |error: &dyn std::fmt::Display| BenchError::Broken(error.to_string());
    let metrics = Arc::new(Metrics::new().map_err(|error| broken(&error))?);
    let eos = loaded.eos.clone();
    let shape = loaded.model.config();
    let caps = Caps { context: shape.context, vocab: shape.vocab, eos, block: 16, pool_blocks: 1 << 16 };
    let script = Script {
        caps: caps.clone(),
        says: Box::new(|_| vec!["The answer is 4.".to_owned()]),
        before_step: Box::new(|_| Ok(())),
        live: Arc::new(AtomicUsize::new(0)),
    };
    let (_thread, engine) = EngineThread::spawn(ScriptedEngine::new(script))?;
    let tokenizer = Arc::new(loaded.tokenizer);
    let planner = Planner::new(PlannerParts {
        config: loaded.config.plan,
        prompt: loaded.config.prompt,
        template: loaded.template,
        tokenizer: Arc::clone(&tokenizer),
        caps,
        defaults: loaded.sampling,
        verifiers: Verifiers::default(),
    })?;
    let context = shape.context;
    let card = ModelCard {
        id: loaded.name,
        aliases: Vec::new(),
        created: 0,
        owned_by: "espalier".to_owned(),
        context,
    };
    let state = app::assemble(engine, planner, tokenizer, metrics, (card, 4 << 20));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;

    let (begin, begins) = oneshot::channel::<()>();
    let (end, ends) = oneshot::channel::<()>();
    let server = std::thread::Builder::new().name("espalier-http".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let serving = tokio::spawn(http::serve(listener, state));
            let _ = begins.await;
            let clock = ThreadTime::now();
            let _ = ends.await;
            let spent = clock.elapsed();
            serving.abort();
            Ok::<Duration, std::io::Error>(spent)
        })
    })?;

    let client = Client::new(&format!("http://{address}"))?;
    let body = json!({
        "model": BUNDLED,
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": "Mina has 14 apples. Tom gives Mina 35. Then the number doubles. How many apples does Mina have now?"}]
    });
    let mut prompt_tokens = 0;
    for _ in 0..WARM_UP {
        let answer = client.chat(&body).await?;
        prompt_tokens = answer["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
    }
    let _ = begin.send(());
    let begun = Instant::now();
    for _ in 0..requests {
        client.chat(&body).await?;
    }
    let wall = begun.elapsed();
    let _ = end.send(());
    let spent = server.join().map_err(|_| BenchError::Broken("the server thread panicked".to_owned()))??;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / requests as f64;
    writeln!(
        out,
        "{requests} chat requests of {prompt_tokens} prompt tokens, one after the other on one connection"
    )?;
    writeln!(out, "processor time of the server's thread     {:>8.1} us a request", each(spent))?;
    writeln!(out, "wall-clock with the client and the engine {:>8.1} us a request", each(wall))?;
    Ok(())
}
